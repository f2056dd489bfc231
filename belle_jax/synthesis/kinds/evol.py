"""Existing instructions made deeper or wider, after Evol-Instruct, with prompts of our own.

Source: Xu et al., 2023 (WizardLM), section 3; the operators are ours.
"""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from belle_jax.api import Reply
from belle_jax.synthesis.kinds.base import Kind, fill, lines
from belle_jax.synthesis.parsing import TASK, Candidate, refused
from belle_jax.synthesis.settings import Settings
from belle_jax.texts.filters import GPT_PHRASES, NAMES_A_MODEL, UNAVAILABLE_MEDIUM, said

# Words of the prompt, which a model that did not understand repeats as the instruction.
PROMPT_WORDS = re.compile(
    '原指令|原来的指令|新指令|新的指令|已有的指令|改写后的指令|改写方式|given prompt|'
    '(?:given|original|new|rewritten|existing) instruction|way of changing',
    re.I,
)


class Operator(NamedTuple):
    """One way of changing an instruction: deepen keeps its matter, widen leaves it."""

    name: str
    sort: str
    text: str


@functools.cache
def operators(language: str = 'zh') -> tuple[Operator, ...]:
    """All ways of prompts/evol_operators.txt."""
    return tuple(Operator(*line.split('\t')) for line in lines('evol_operators', language))


class Evol(Kind):
    """Request n evolves row n; after the last row each row's next operator is used."""

    name = 'evol'
    needed = ('operator', 'instruction')
    # Not BELLE's bound on the instruction's length: a deeper instruction is a longer one.
    first = (UNAVAILABLE_MEDIUM, NAMES_A_MODEL, *GPT_PHRASES)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if not settings.rows:
            raise ValueError('kind=evol changes existing instructions: name their file in --rows.')
        ways = operators(settings.language)
        self._operators = [each for each in ways if settings.evolve in ('both', each.sort)]

    def _chosen(self, index: int) -> tuple[int, Operator]:
        """A request's row number and operator; a row meets all operators before one comes again."""
        turn, number = divmod(index, len(self.settings.rows))
        order = self.draw(number).some(self._operators, len(self._operators))
        return number, order[turn % len(order)]

    def prompt(self, index: int) -> str:
        number, operator = self._chosen(index)
        row = said(dict(self.settings.rows[number]))
        return fill(
            self.text,
            operator=operator.text,
            instruction=row.questions[0].strip(),
            input=row.given.strip() or self.say('<无输入>', '<noinput>'),
        )

    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        number, operator = self._chosen(reply.index)
        row = dict(self.settings.rows[number])
        before = said(row)
        for candidate in TASK.read(text, cut, self.say('指令:', 'Instruction:')):
            if candidate.row is None:
                yield candidate
                continue
            instruction = candidate.row['instruction']
            if PROMPT_WORDS.search(instruction):
                yield refused('talks about the prompt', instruction)
            elif _bare(instruction) == _bare(before.questions[0]) and (
                _bare(candidate.row['input']) == _bare(before.given)
            ):
                yield refused('unchanged', instruction)
            else:
                origin = {'evolved_from': row.get('id', number), 'operator': operator.name}
                yield Candidate(candidate.row | origin)


def _bare(text: str) -> str:
    return re.sub(r'\W', '', text)
