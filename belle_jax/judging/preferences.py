"""What a reply claims about two answers, A and B, and how much each claim weighs."""

import re
from collections.abc import Iterator

from belle_jax.judging.claims import CONCLUDED, FINAL, PART, SENTENCE, STATED, Claim

NAME = (
    r'(?:(?:回答|答案|模型|助手|选项|assistant|answer|response|model)\s*)?["\'“「(\[]*'
    r'(?<![a-z])[AB](?![a-z])["\'”」)\]]*'
)
TIE = (
    r'(?:平[局手]|打平|[一同]样[好优棒]|不相上下|不分[上高伯胜]|难分|旗鼓相当|(?:质量|水平)相当|\btied?\b|'
    r'\bdraw\b|\bequally\b|\bequal\b|\bno (?:clear )?winner\b|\bneither\b)'
)
# After these the name of the better one stands alone; MT-bench's judges write [[A]], and [[C]] for a tie.
NAMED = re.compile(
    r'(?:\[\[|(?:\bwinner|胜者|[更较][好优佳]的?(?:回答|答案)?|选择?|\bprefer(?:red)?|\bverdict|'
    r'(?:结论|判断|判定|选择|答案)(?=\s*[:是为])|\bbetter (?:answer|response|one))'
    rf'(?:[\s:=*"\'“是为应]|\b(?:is|the)\b)*)(?P<side>{NAME}(?!\s*[和与、]|\s+and\b)|{TIE}|C(?=\]\]))',
    re.I,
)
COMPARED = re.compile(
    rf'(?P<side>{NAME})(?P<between>(?:(?!{NAME})[^。，,;；!！?？\n:：]){{0,16}}?)(?:'
    r'(?P<better>更胜一筹|更[好优佳强]|[较最][好优佳]|优于|好于|强于|胜|\bbetter\b|\bsuperior\b|\bwins?\b|'
    r'\bbest\b|\bstronger\b)'
    r'|(?P<worse>不如|不及|逊[于色]|劣于|差于|更[差弱糟]|较差|\bworse\b|\binferior\b)'
    rf'|比\s*{NAME}[^。，,\n]{{0,8}}?(?:(?P<less>差|弱|糟)|更|要|好))',
    re.I,
)
KEY = re.compile(
    r'winner|better(?:[ _](?:answer|response))?|preferred|preference|verdict|choice|胜者|获胜者|'
    '更好的?(?:回答)?|结论',
    re.I,
)
EQUAL = re.compile(TIE, re.I)
LETTER = re.compile(r'(?<![a-z])[ABC](?![a-z])', re.I)
DENIED = re.compile(r"[不没未]|\bnot\b|\bno\b|n't|难以|无法|\bhardly\b", re.I)
# A claim about one side of the answers, 准确性方面.
ASPECT = re.compile(r'方面|性|度|[在从].*[上看][,，]?|\b(?:in terms of|regarding|for|on)\b', re.I)


def side(text: str) -> str | None:
    """'A', 'B' or 'tie' for a text that says this alone, such as 'Answer A' or 平局."""
    if re.fullmatch(rf'\W*{NAME}\W*(?:更好|胜|is better|wins)?\W*', text, re.I):
        return _letter(text)
    return 'tie' if EQUAL.search(text) or text.strip().lower() in ('both', 'c') else None


def written(text: str) -> Iterator[Claim]:
    """The claims about two answers in a text that is no JSON.

    Args:
        text: A plain text, without emphasis.
    Yields:
        Claims with the values 'A', 'B' and 'tie'.
    """
    if value := side(text) if len(text.strip()) < 16 else None:
        yield Claim(FINAL, value, text.strip())
        return
    for match in NAMED.finditer(text):
        value = _letter(match['side']) if LETTER.search(match['side']) else 'tie'
        yield Claim(FINAL, 'tie' if value == 'C' else value, match['side'])
    for match in COMPARED.finditer(text):
        clause = _before(text, match.start())
        if DENIED.search(match['between']) or re.search(r'哪|which|if\b|是否', clause, re.I):
            continue
        value = _letter(match['side'])
        if match['worse'] or match['less']:
            value = 'B' if value == 'A' else 'A'
        yield Claim(_weight(clause), value, match[0])
    for match in EQUAL.finditer(text):
        yield Claim(_weight(_before(text, match.start())), 'tie', match[0])


def _letter(text: str) -> str:
    """The name of the answer, which is the last letter that stands alone."""
    return LETTER.findall(text)[-1].upper()


def _before(text: str, at: int) -> str:
    """What stands before a position in its sentence."""
    begin = max(0, at - 200)
    return text[
        max((begin + m.end() for m in SENTENCE.finditer(text[begin:at])), default=begin) : at
    ]


def _weight(before: str) -> int:
    if CONCLUDED.search(before):
        return STATED
    return PART if ASPECT.search(before) else STATED
