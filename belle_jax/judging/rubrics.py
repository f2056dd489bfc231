"""What a judge is asked: one prompt for each class of questions, from a file.

A prompt with `{question}` and `{answer}` in it is a template, which may have `{reference}` too:
ours are. One without is BELLE's, and is sent in the form in which BELLE's page sends it.

Source of that form: LianjiaTech/BELLE, eval/.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from belle_jax.data.fields import BadRow, text
from belle_jax.data.row_file import RowFile
from belle_jax.judging.questions import SETS, Question, kind_of

OWN = {language: SETS / f'rubrics_{language}.jsonl' for language in ('zh', 'en')}
PAIR = 'pair'  # the class of the prompt that compares two answers
# BELLE shows a judge no reference for these, and for all others what there is, be it nothing.
WITHOUT_REFERENCE = ('generation', 'brainstorming', 'rewrite')
HOLES = re.compile(r'\{(question|reference|answer|answer_a|answer_b)\}')
CHINESE = re.compile('[\u4e00-\u9fff]')
AGAIN = {
    'zh': '从你上一条回复中读不出唯一的得分。请只回复一行，形如“得分: 0.5”，'
    '其中的数在 0 到 1 之间。',
    'en': 'No single score can be read from your last reply. Reply with one line alone, such as '
    '"Score: 0.5", with a number from 0 to 1.',
}
PAIR_AGAIN = {
    'zh': '从你上一条回复中读不出结论。请只回复一行 JSON：{"winner": "A"}、{"winner": "B"} 或 '
    '{"winner": "tie"}。',
    'en': 'No verdict can be read from your last reply. Reply with one line of JSON alone: '
    '{"winner": "A"}, {"winner": "B"} or {"winner": "tie"}.',
}


@dataclass(frozen=True)
class Rubrics:
    """The prompts of a file, by class."""

    path: Path
    prompts: Mapping[str, str]

    def require(self, kinds: Iterable[str]) -> None:
        """Checks that every class has a prompt.

        Raises:
            ValueError: one has none; all that lack one are named.
        """
        if missing := sorted(set(kinds) - set(self.prompts)):
            named = ', '.join(repr(kind) for kind in missing)
            raise ValueError(
                f'{self.path} has no prompt for the class{"es" * (len(missing) > 1)} {named}: add '
                'a row {"class": …, "prompt": …} for each, or mend the classes of the questions.'
            )

    def single(self, question: Question, answer: str) -> str:
        """What asks for the score of one answer."""
        prompt, asked, reference = self.prompts[question.kind], question.text, question.reference
        if _is_template(prompt):
            return _filled(prompt, question=asked, reference=reference, answer=answer)
        if question.kind in WITHOUT_REFERENCE:
            middle = f" 模型回答： '{answer}'。"
        else:
            middle = f"标准回答:{reference}  模型回答：' {answer}'。"
        return f'{prompt} {asked} {middle}请针对模型回答给出得分，顺便给出理由：'

    def pair(self, question: Question, first: str, second: str) -> str:
        """What asks which of two answers is better."""
        return _filled(
            self.prompts[PAIR],
            question=question.text,
            reference=question.reference,
            answer_a=first,
            answer_b=second,
        )

    def again(self, kind: str) -> str:
        """What asks once more, behind a reply that could not be read.

        Args:
            kind: Of the question, or `PAIR`.
        """
        language = 'zh' if CHINESE.search(self.prompts[kind]) else 'en'
        return (PAIR_AGAIN if kind == PAIR else AGAIN)[language]


def read(path: str | Path) -> Rubrics:
    """The prompts of a file of {"class", "prompt"}: ours, or BELLE's eval_prompt.json.

    Raises:
        ValueError: the file cannot be read, or a row of it is broken or of a class before it.
    """
    prompts: dict[str, str] = {}
    for where, row in RowFile(path):
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow('no object', 'a prompt is an object with "class" and "prompt".')
            kind, prompt = kind_of(text(row, 'class')), text(row, 'prompt')
            if not prompt.strip():
                raise BadRow('empty prompt', 'the prompt is empty.')
            if kind in prompts:
                raise BadRow('second prompt', f'the class {kind!r} has a prompt already.')
        except BadRow as bad:
            raise ValueError(f'{where}: {bad}') from bad
        prompts[kind] = prompt
    if not prompts:
        raise ValueError(f'{path} holds no prompt: give one for each class of the questions.')
    return Rubrics(Path(path), prompts)


def _is_template(prompt: str) -> bool:
    return '{question}' in prompt and '{answer}' in prompt


def _filled(template: str, **values: str) -> str:
    """A template with its holes filled, in one pass: what fills them may have braces of its own."""
    return HOLES.sub(lambda hole: values.get(hole[1], hole[0]), template)
