"""Filters of rows: rules with names, so that what is thrown away is counted by reason.

Here are the rules of BELLE's generator, in its order, its bugs mended:

- its list of phrases removed `GPT应` before `GPT应该` and left 该: the longest goes first;
- it looked at the instruction's length before it removed phrases: the length is looked at after;
- it compared `chatgpt` and `gpt-4` with their case, so that ChatGPT and GPT-4 passed.

`cleaning` has the rules of the 1M set and more. Labels, cut replies and `<无输入>` are parsing's.
Source: LianjiaTech/BELLE, data/1.5M.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]

MEDIUM = re.compile(
    '图像|图片|照片|文件|图表|图层|曲线图|折线图|直线图|柱形图|饼状图|链接|http', re.I
)
MODEL = re.compile('openai|chatgpt|gpt-[34]', re.I)
# BELLE's 36 phrases are of this form: something before or after the name, or both.
_BEFORE = '请让|请向|请求|要求|希望|以便|使得|使用|需要|训练|请|让|使|由'
_AFTER = '应该|应|需要|能够|回答'
_NAME = r'GPT(?:[\s-]*\d(?:\.\d)?)?\s*(?:语言)?(?:模型)?\s*'
PHRASE = re.compile(rf'(?:{_BEFORE})\s*{_NAME}(?:{_AFTER})?|{_NAME}(?:{_AFTER})', re.I)
# Where a question may stand, and its answer: BELLE's early files have input and target, its
# evaluation set question and std_answer.
ANSWERS = {
    'instruction': ('output', 'target'),
    'question': ('answer', 'std_answer'),
    'prompt': ('completion',),
    'input': ('target', 'output'),
}
SHORTEST = 4  # characters of an instruction
LONGEST, LONGEST_WITH_EXAMPLE = 100, 150  # below which one with an input must be


class Rule(NamedTuple):
    """One filter.

    Attributes:
        name: In a few words, for counting and for switching it off.
        why: For people, a sentence.
        apply: Takes a row, returns it (changed or not), or None to reject it. It changes no row
            in place.
    """

    name: str
    why: str
    apply: Callable[[Row], Row | None]


class Said(NamedTuple):
    """A row of any layout as what is asked, what is given with it, and what is answered."""

    questions: tuple[str, ...]
    given: str
    answers: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.questions, self.given, *self.answers)


def said(row: Row) -> Said:
    """The texts of a row.

    Args:
        row: With instruction and output, with a question and an answer under other names, with
            conversations, or with messages.
    Returns:
        Its questions and answers, in order; missing ones are empty.
    """
    for field, role, text in (('conversations', 'from', 'value'), ('messages', 'role', 'content')):
        if field in row:
            turns = [turn for turn in row[field] if turn.get(role) != 'system']
            asked = tuple(t.get(text) or '' for t in turns if t.get(role) in ('human', 'user'))
            told = tuple(t.get(text) or '' for t in turns if t.get(role) not in ('human', 'user'))
            return Said(asked, '', told)
    for question, answers in ANSWERS.items():
        if row.get(question) is not None:
            given = row.get('input') or '' if question == 'instruction' else ''
            return Said((row[question],), given, (next(filter(None, map(row.get, answers)), ''),))
    return Said(('',), '', (row.get('output') or '',))


def apply_rules(row: Row, rules: Iterable[Rule]) -> tuple[Row | None, str]:
    """Passes a row, which is not changed in place, through rules, in order.

    Returns:
        The row as the rules left it and '', or None and the name of the rule that rejected it.
    """
    for rule in rules:
        changed = rule.apply(row)
        if changed is None:
            return None, rule.name
        row = changed
    return row, ''


def without(rules: Sequence[Rule], names: Iterable[str]) -> tuple[Rule, ...]:
    """The rules, in order, without those whose names are given.

    Raises:
        ValueError: a name is not that of a rule.
    """
    names = set(names)
    if unknown := names - {rule.name for rule in rules}:
        raise ValueError(
            f'there is no filter {", ".join(map(repr, sorted(unknown)))} to switch off: this kind '
            f'has {", ".join(rule.name for rule in rules) or "none"}.'
        )
    return tuple(rule for rule in rules if rule.name not in names)


def reject_if(name: str, why: str, test: Callable[[Said], object]) -> Rule:
    """A rule that rejects the rows of which the test is true, and changes none."""
    return Rule(name, why, lambda row: None if test(said(row)) else row)


def _without_phrases(row: Row) -> Row:
    instruction = row.get('instruction')
    if not instruction or 'gpt' not in instruction.lower():
        return row
    return row | {'instruction': PHRASE.sub('', instruction).strip()}


def _too_long(texts: Said) -> bool:
    if not texts.given:
        return False
    instruction = texts.questions[0]
    example = '示例' in instruction or '例子' in instruction
    letters = 3 if instruction.isascii() else 1  # English takes three where Chinese takes one
    return len(instruction) >= letters * (LONGEST_WITH_EXAMPLE if example else LONGEST)


def _any(pattern: re.Pattern[str]) -> Callable[[Said], bool]:
    return lambda texts: any(pattern.search(text) for text in texts.all)


UNAVAILABLE_MEDIUM = reject_if(
    'needs a medium', 'pictures, files and links are out of reach of a language model', _any(MEDIUM)
)
NAMES_A_MODEL = reject_if('names a model', 'it talks about the model that wrote it', _any(MODEL))
INSTRUCTION_LENGTH = (
    reject_if(
        'instruction too short',
        'three characters or fewer are not an instruction',
        lambda texts: not texts.questions or len(texts.questions[0].strip()) < SHORTEST,
    ),
    reject_if(
        'instruction too long',
        'with an input beside it, a long instruction holds the input a second time',
        _too_long,
    ),
)
GPT_PHRASES = (
    Rule('GPT phrases', 'phrases such as 要求GPT模型 are deleted', _without_phrases),
    reject_if(
        'GPT remains',
        'the task is addressed to a GPT model',
        lambda texts: any('gpt' in text.lower() for text in (*texts.questions, texts.given)),
    ),
)
BELLE = (UNAVAILABLE_MEDIUM, NAMES_A_MODEL, *GPT_PHRASES, *INSTRUCTION_LENGTH)
