"""What a reply claims about two answers, A and B, and how much each claim weighs."""

import re
from collections.abc import Iterator

from belle_jax.judging.claims import CONCLUDED, FINAL, PART, STATED, Claim, sentence_before

NAME = (
    r'(?:(?:回答|答案|模型|助手|选项|assistant|answer|response|model)\s*)?["\'“「【(\[]{0,4}'
    r'(?<![a-z])[AB](?![a-z])["\'”」】)\]]{0,4}'
)
TIE = (
    r'(?:平[局手]|打平|[一同]样[好优棒]|不相上下|不分[上高伯胜]|难分|旗鼓相当|(?:质量|水平)相当|\btied?\b|'
    r'\bdraw\b|\bequally\b|\bequal\b|\bno (?:clear )?winner\b|\bneither\b)'
)
KEY = re.compile(
    r'winner|better(?:[ _](?:answer|response))?|preferred|preference|verdict|choice|胜者|获胜者|'
    '更好的?(?:回答)?|结论',
    re.I,
)
# After these the better one's name stands alone. Judges of MT-bench write [[A]]; [[C]] is a tie.
NAMED = re.compile(
    r'(?:\[\[|(?:\bwinner|胜者|[更较][好优佳]的?(?:回答|答案)?|选择?|\bprefer(?:red)?|\bverdict|'
    r'(?:结论|判断|判定|选择|答案)(?=\s*[:是为])|\bbetter (?:answer|response|one))'
    rf'(?:[\s:="\'“是为应]|\b(?:is|the)\b){{0,12}})'
    rf'(?P<side>{NAME}(?!\s*[和与、比]|\s+and\b)|{TIE}|C(?=\]\]))',
    re.I,
)
COMPARED = re.compile(
    rf'(?P<side>{NAME})(?P<between>(?:(?!{NAME})[^。，,;；!！?？\n:：]){{0,16}}?)(?:'
    r'(?P<better>[更略]胜一筹|[更略稍][好优佳强]|[较最][好优佳]|优于|好于|强于|胜|\bbetter\b|\bsuperior\b|'
    r'\bwins?\b|\bbest\b|\bstronger\b|\boutperforms\b)'
    r'|(?P<worse>不如|不及|逊[于色]|劣于|差于|更[差弱糟]|较差|\bworse\b|\binferior\b|\bloses\b)'
    rf'|比\s*{NAME}[^。，,\n]{{0,8}}?(?:(?P<less>差|弱|糟)|更|要|好)'
    rf'|(?P<short>没有?\s*{NAME}[^。，,\n]{{0,8}}?[好优佳强])|>\s*{NAME}|(?P<under><)\s*{NAME})',
    re.I,
)
EQUAL = re.compile(TIE, re.I)
LETTER = re.compile(r'(?<![a-z])[ABC](?![a-z])', re.I)
DENIED = re.compile(r"[不没未]|\bnot\b|\bno\b|n't|难以|无法|\bhardly\b", re.I)
OPEN = re.compile(r'哪|是否|\bwhich\b|\bwhether\b|\bif\b|如果', re.I)
# What is said of one side of the answers, as in 准确性方面 and 'in terms of style'.
ASPECT = re.compile(
    r'方面|性|度|[在从].*[上看][,，]?|\b(?:in terms of|regarding|for|on|in)\b', re.I
)


def side(text: str) -> str | None:
    """'A', 'B' or 'tie' for a text that says this alone, such as 'Answer A' or 平局."""
    if re.fullmatch(rf'\W*{NAME}\W*(?:更好\W*|胜\W*|is better\W*|wins\W*)?', text, re.I):
        return _letter(text)
    return 'tie' if EQUAL.search(text) or text.strip().lower() in ('both', 'c') else None


def written(text: str) -> Iterator[Claim]:
    """The claims about two answers in a text that is no JSON.

    Args:
        text: A plain text, without emphasis.
    Yields:
        Claims with the values 'A', 'B' and 'tie'.
    """
    if len(text.strip()) < 16 and (value := side(text)):
        yield Claim(FINAL, value, text.strip())
        return
    for match in NAMED.finditer(text):
        value = _letter(match['side']) if LETTER.search(match['side']) else 'tie'
        yield Claim(FINAL, 'tie' if value == 'C' else value, match['side'])
    for match in COMPARED.finditer(text):
        before = sentence_before(text, match.start())
        if DENIED.search(match['between']) or OPEN.search(before):
            continue
        value = _letter(match['side'])
        if any(match[group] for group in ('worse', 'less', 'short', 'under')):
            value = 'B' if value == 'A' else 'A'
        yield Claim(_weight(before, text[match.end() :]), value, match[0])
    for match in EQUAL.finditer(text):
        before = sentence_before(text, match.start())
        yield Claim(_weight(before, text[match.end() :]), 'tie', match[0])


def _letter(text: str) -> str:
    """The name of the answer: the last letter that stands alone."""
    return LETTER.findall(text)[-1].upper()


def _weight(before: str, after: str) -> int:
    """Of a claim, by its sentence before it and its clause after it."""
    if CONCLUDED.search(before):
        return STATED
    return PART if ASPECT.search(before) or ASPECT.match(after.lstrip()) else STATED
