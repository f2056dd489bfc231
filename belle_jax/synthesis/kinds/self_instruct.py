"""BELLE's self-instruct: seed tasks are shown as the beginning of a list, and the model goes on."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from belle_jax.api import Reply
from belle_jax.synthesis.kinds.base import Kind, fill
from belle_jax.synthesis.parsing import TASK, Candidate
from belle_jax.synthesis.settings import LIST_STOP, Settings
from belle_jax.synthesis.sources import read_categories
from belle_jax.texts.filters import BELLE

TYPES, TOPICS = 4, 5  # drawn for each request


class Shot(NamedTuple):
    """A seed task as it is shown."""

    instruction: str
    input: str
    output: str


def shot(seed: Mapping[str, Any]) -> Shot:
    """A seed task in BELLE's layout (instances) or in a row's.

    White space in the instruction becomes single blanks, and a colon at its end goes: a list shows
    each instruction on one line.
    """
    instance = (seed.get('instances') or [seed])[0]
    instruction = re.sub(r'\s+', ' ', seed['instruction']).strip().rstrip(':：').rstrip()
    return Shot(instruction, (instance.get('input') or '').strip(), instance['output'].strip())


class SelfInstruct(Kind):
    """New tasks after the pattern of seed tasks."""

    name = 'self_instruct'
    stop = LIST_STOP
    first = BELLE

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        shown = settings.num_prompt_instructions
        if len(settings.seeds) < shown:
            raise ValueError(
                f'num_prompt_instructions={shown}: each prompt shows that many different seed '
                f'tasks, and --seeds holds {len(settings.seeds)}. Add seeds, or set '
                '--num_prompt_instructions lower.'
            )
        spelling = self.say('zh', 'name')
        self._types = [each[spelling] for each in settings.categories or read_categories()]
        self._shots = [shot(seed) for seed in settings.seeds]
        self._first = shown + 1

    @property
    def most_rows(self) -> int:
        return self.settings.tasks_per_request

    def prompt(self, index: int) -> str:
        draw, comma = self.draw(index), self.say('、', ', ')
        text = fill(
            self.text,
            tasks=self.settings.tasks_per_request,
            first=self._first,
            last=self._first + self.settings.tasks_per_request - 1,
            types=comma.join(draw.some(self._types, TYPES)),
            topics=comma.join(draw.some(self.lines('topics'), TOPICS)),
        )
        shots = [
            f'###\n{number}. {self.say("指令", "Instruction")}: {each.instruction}\n'
            f'{number}. {self.say("输入", "Input")}:\n'
            f'{each.input or self.say("<无输入>", "<noinput>")}\n'
            f'{number}. {self.say("输出", "Output")}:\n{each.output}\n'
            for number, each in enumerate(draw.some(self._shots, self._first - 1), 1)
        ]
        return ''.join([text.rstrip() + '\n', *shots, f'###\n{self._opening}'])

    @property
    def _opening(self) -> str:
        return f'{self._first}. {self.say("指令", "Instruction")}:'

    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        return TASK.read(text, cut, self._opening)
