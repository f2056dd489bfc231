"""What a reply claims about a score, and how much each claim weighs by where it stands."""

import re
from typing import Any, NamedTuple

from belle_jax.judging.marks import MARK, Scales, is_mark, score

# A number in passing; the score of a part, or one in a sentence; what the label or a conclusion
# says; what is called final; what takes back something earlier.
PASSING, PART, STATED, FINAL, CORRECTED = range(5)

LAST = '综合|最终|最后|总体|整体|总|平均|加权'
LABEL = (
    r'得\s?分|评分|打分|给分|分数|分值|评[价估定]|\bscore[ds]?\b|\brating\b|\bgrade\b|\bverdict\b|'
    r'\b(?:marks?|points?)(?=\s*:)'
)
# What may stand between a label and its mark. Words that deny it or make it a bound (不, 低于) are
# not among it, nor is > unless it ends a tag or an arrow.
GLUE = (
    r"""(?:\s+|[:="'“”‘’「」『』()\[\]{}【】|→~≈]|-(?=[\s>-])|(?<=[^\s:=])-(?=\d)|(?<=[\w=-])>"""
    r'|<(?=[\d.]+>)|区间|范围|结果|优秀|良好|中等|较[好差]|一般'
    '|[我会应该可以给出予为是约大概致定评打得到达的在于此本这个回答模型认判记计率调整改值]'
    r'|\b(?:i|it|this|that|the|an?|is|was|of|for|be|would|should|will|to|as|at|about|around|give|'
    r'gets?|approximately|roughly|answer|response|put|set)\b){0,24}?'
)
WORD = r"\s+(?!(?:not?|never|less|more|below|above|under|over|least|most|than)\b)[a-z'-]+"
LABELLED = re.compile(
    rf'(?:(?P<final>{LAST}|\b(?:final|overall|total|average)\s+)?(?:{LABEL})'
    rf'|(?P<whole>(?:总|平均|最终|综合)分|(?:总评|综合|总体|平均|最终)(?=\s*[:|\d.])'
    rf'|\b(?:overall|final|total|average)(?=\s*[:|]))){GLUE}{MARK.pattern}',
    re.X | re.I,
)
# Behind a verb a number needs a unit, a scale or decimals: 给3个例子 and give 2 reasons have none.
GIVEN = re.compile(
    rf'(?:[给打得获评拿值判记计]{GLUE}'
    r'|\b(?:give|rated?|award|assign|deserves?|merits?|earns?|gets|receives?)\b'
    rf'(?:{WORD}){{0,8}}?\s+){MARK.pattern}',
    re.X | re.I,
)
# A mark that is the first or the last line, or begins the reply.
ALONE = re.compile(
    rf'(?:\A|\n(?=[^\n]*\Z))[\s\[(]*{MARK.pattern}(?=[\])\s]*(?:左右)?(?:[。,;!\n(]|[.:]\s|\s-\s|\.?\s*\Z))',
    re.X | re.I,
)
MENTIONED = re.compile(rf'(?<![扣减加差每占少足过近\d.]){MARK.pattern}', re.X | re.I)

SENTENCE = re.compile(r'[。！？!?；;\n]|\.\s')
NEGATED = re.compile(
    r"(?:[不没未]|无法|难以)[^,，]{0,4}$|(?:\bnot|n't|\bcannot|\bwithout|\bnever)\b[^.,]{0,24}$",
    re.I,
)
SUPPOSED = re.compile(
    r'如果(?!要|让|我|必须)|假如|若(?!要|让|我|必须)|要是|倘若|本可|本来|原本|才[能可]|'
    r'\bif\b(?! i\b)|\b(?:would|could|might) have\b|\bcould\b',
    re.I,
)
CONCLUDED = re.compile(
    rf'因此|所以|故|{LAST}|\b(?:therefore|thus|hence|overall|finally|in (?:conclusion|summary))\b',
    re.I,
)
TAKEN_BACK = re.compile(
    r'^\W*(?:更正|修正|纠正|重新[评打考检]|(?:修改|调整)后|correction|corrected|revised|'
    'on reflection)|(?:改|调整)为$',
    re.I,
)
# A word right before a label makes it the score of a part (准确性得分), but for these.
BEFORE = re.compile(r'([^\W\d_]+)[ \t]*$')
WHOSE = re.compile(
    r'(?:回答|模型|因此|所以|故|则|的|给出|予|其|该|本|我|为)$|'
    r'\b(?:a|the|my|this|its|answer|response|model|of|so|thus|therefore|hence|and)$',
    re.I,
)


class Claim(NamedTuple):
    """What a place of a reply says; a value that is out of range or of no known scale is None."""

    weight: int
    value: Any
    shown: str


def written(text: str, scales: Scales) -> list[Claim]:
    """The claims about a score in a text that is no JSON.

    Args:
        text: Of `without_scales`.
        scales: What it says of its scale.
    Returns:
        Claims; marks in passing only where there is nothing else.
    """
    found: list[tuple[int, Claim]] = []
    for pattern in (LABELLED, GIVEN, ALONE):
        for match in filter(lambda match: is_mark(text, match), pattern.finditer(text)):
            sentence = sentence_before(text, match.start())
            if NEGATED.search(sentence) or SUPPOSED.search(sentence):
                continue
            if pattern is not GIVEN or _is_given(match, scales):
                claim = _claim(text, match, scales, _weight(match, sentence, pattern))
                found.append((match.start() - len(sentence), claim))
    # A sentence that gives both ends of the scale says what marks mean: 正确得1分，错误得0分.
    parts = {(begin, claim.value) for begin, claim in found if claim.weight == PART}
    rubrics = {begin for begin, value in parts if value == 0 and (begin, 1) in parts}
    kept = [claim for begin, claim in found if claim.weight != PART or begin not in rubrics]
    return kept or [
        _claim(text, match, scales, PASSING)
        for match in MENTIONED.finditer(text)
        if '分' in (match['unit'] or '') and is_mark(text, match)
    ]


def sentence_before(text: str, at: int) -> str:
    """What stands before a position in its sentence."""
    text = text[max(0, at - 200) : at]
    return text[max((match.end() for match in SENTENCE.finditer(text)), default=0) :]


def _is_given(match: re.Match[str], scales: Scales) -> bool:
    plainly = match['full'] or match['unit'] or match['scale'] or '.' in (match['low'] or '')
    return bool(plainly or scales.stated)


def _weight(match: re.Match[str], sentence: str, pattern: re.Pattern[str]) -> int:
    lead = match[0][: match.start('mark') - match.start()]
    if TAKEN_BACK.search(sentence + lead):
        return CORRECTED
    if pattern is LABELLED and (match['final'] or match['whole']):
        return FINAL
    if pattern is ALONE or CONCLUDED.search(sentence):
        return STATED
    before = BEFORE.search(sentence)
    return PART if pattern is GIVEN or (before and not WHOSE.search(before[1])) else STATED


def _claim(text: str, match: re.Match[str], scales: Scales, weight: int) -> Claim:
    value = score(match, scales.beside(text, match), scales.only)
    return Claim(weight, value if value is None else round(value, 6), match['mark'].strip())
