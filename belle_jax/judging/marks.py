"""Marks as judges write them: 0.8, 八分, 9/10, 80%, 0.7～0.8, and the scale that they are meant on.

A mark is a share of its scale. The scale is, in this order: what the mark itself names (9/10, 80%,
8 out of ten, 五分之四), what the same line states (满分十分), what the reply states elsewhere, and
otherwise 0 to 1, as judges are asked for. So 八分 alone is no mark: of what, nobody said.
"""

import re
import unicodedata
from typing import NamedTuple

NUMERALS, TENS = '零一二三四五六七八九', '两十百'
WORDS = [*'zero one two three four five six seven eight nine ten'.split()]
# Whole (?>), so that 0.85 is never read as 0.8.
NUMBER = (
    rf'(?>\d{{1,9}}(?:\.\d{{1,18}})?|\.\d{{1,18}}|[{NUMERALS}{TENS}]{{1,9}}(?:点[{NUMERALS}]{{1,9}})?'
    rf'|\b(?:{"|".join(WORDS)})\b)'
)
UNIT = r'\s*(?:%|分(?![钟秒之析别类布配解辨享数])|(?:points?|pts|marks?)\b)'
MARK = re.compile(
    rf"""
    (?P<mark> (?P<sign>(?<![^\s:=(是为])-)?
    (?: (?P<full>满分|(?:full|perfect)\s(?:marks?|scores?))
      | (?P<parts>{NUMBER})分之(?P<share>{NUMBER})
      | (?P<between>(?:between|介于|在)\s*)?(?P<low>{NUMBER})(?P<unit>{UNIT})?
        (?: \s*(?(between)(?:and|和|与|-|~|到|至)|(?:-+|~+|到|至|to\b|或|or\b))\s*
            (?P<high>{NUMBER})(?P<units>{UNIT})? )?
        (?: \s*\(?(?:/|(?:out\s)?of\b)\s*(?P<scale>{NUMBER})(?:{UNIT})? )?
    ) )""",
    re.X | re.I,
)
# What is said of the scale; the group is its upper end. 总分 is the sum of the parts more often: it
# names a scale as a round number of 分 alone.
SCALE = re.compile(
    rf"""
    (?: (?<![给得到予打])(?:满分|最高分?) | (?:maximum|highest)(?:\spossible)?(?:\sscore)? )
        (?:值?[为是]|[:=]|\s(?:is|of))?\s*({NUMBER})(?:\s*分)?
  | (?: 最低分? | (?:minimum|lowest)(?:\spossible)?(?:\sscore)? )
        (?:[为是]|[:=]|\s(?:is|of))?\s*{NUMBER}(?:\s*分)?
  | 总分[为是:]?\s*(5|10|100)\s*分
  | ({NUMBER})\s*(?:分制|分为?满分|-point\b)
  | (?:\A|[\n(,;]|\.\s)\s*out\sof\s({NUMBER})
  | (?<![\d.:/-])[01](?:\.0+)?\s*分?\s*(?:[-~,到至和]|to\b|and\b)\s*
        (1(?:\.0+)?|5|10|100)(?![\d.%])(?!\s*/)\s*分?
    """,
    re.X | re.I,
)
ARITHMETIC = re.compile(r'[\d.(][\d.() \t+*×x/÷%分-]{0,80}[=≈]\s*(?=[\d.])')  # 0.3 + 0.4 = 0.7
EMPHASIS = re.compile(r'[*_`#$]|\\[a-z]+', re.I)
ALIKE = str.maketrans(
    '∶–—−‐‑∼〜⁄〇評總綜滿點給體終數為應該優勝選擇輸',
    ':-----~~/零评总综满点给体终数为应该优胜选择输',
)
# Signs without a word: emoji, what has no width, and ① and ❶, which NFKC would make numbers.
SIGNS = re.compile('[\u200b-\u200f\u2460-\u24ff\u2600-\u27bf\ufe0f\ufeff\U0001f000-\U0001faff]')
THINKING = re.compile(r'(?s)\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z')
# What a mark is not followed by: things that are counted, the other side of a calculation, of a
# ratio or of a list, words that make it a bound, or what the number stands for.
COUNTED = re.compile(
    r' ?[个年月日号天条项名次人元万亿倍处段句字种位步]|点(?!\d)|小时|'
    r'\s*(?!(?:because|for|since|as|due|on|in|with|and|but|which|is|would|if|when|to)\b)[a-z]'
)
CALCULATED = re.compile(
    r'\s*[+*×÷^/]\s*[\d(]|:\d|\d|%|[ \t、]+\d*\.\d|\. ?\d|,\d{1,2}\s*(?:分|\n|\Z)|,[\d., ]+[\])]'
)
BOUND = re.compile('以[上下内]|起')
MEANING = re.compile(r'\s*(?:表示|代表|意味|是?指|对应|means?|indicat|represent|denot|stands?\b)')
ITEM = re.compile(r'([.、)])\s*(?=[^\s\d])')


class Scales(NamedTuple):
    """Where a text states its scale: (position, upper end)."""

    stated: tuple[tuple[int, float], ...]

    def beside(self, text: str, match: re.Match[str]) -> float | None:
        """The scale that is stated right behind a mark, or else before it in its line."""
        begin, end = text.rfind('\n', 0, match.start('mark')) + 1, match.end()
        end += len(text[end : end + 3]) - len(text[end : end + 3].lstrip(' ('))
        line = [top for place, top in self.stated if begin <= place <= end]
        return line[-1] if line else None

    @property
    def only(self) -> float | None:
        """The scale, if the text states one and no other."""
        tops = {top for _, top in self.stated}
        return tops.pop() if len(tops) == 1 else None


def spoken(text: str) -> str:
    """A reply without what was thought before it."""
    return THINKING.sub('', text)


def plain(text: str) -> str:
    """A text in half-width signs and simplified characters, without runs of white space."""
    text = unicodedata.normalize('NFKC', SIGNS.sub(' ', text)).translate(ALIKE)
    return re.sub(r'\n\s*\n', '\n\n', re.sub(r'[^\S\n]+', ' ', text)).strip()


def without_scales(text: str) -> tuple[str, Scales]:
    """A plain text without emphasis, calculations and what it says of the scale; and the scales."""
    text = EMPHASIS.sub(' ', ARITHMETIC.sub('', text))
    found = []

    def blank(match: re.Match[str]) -> str:
        if match.lastindex:
            found.append((match.start(), number(match[match.lastindex])))
        return re.sub(r'[^\n]', ' ', match[0])

    return SCALE.sub(blank, text), Scales(tuple(found))


def number(text: str) -> float:
    """A number in digits, in Chinese numerals below a thousand, or an English word up to ten."""
    if text[0] == '.' or text[0].isdigit():
        return float(text)
    if text.lower() in WORDS:
        return float(WORDS.index(text.lower()))
    whole, _, places = text.replace('两', '二').partition('点')
    total = digit = 0
    for sign in whole:
        if sign in TENS:
            total, digit = total + (digit or 1) * (10 if sign == '十' else 100), 0
        else:
            digit = 10 * digit + _digit(sign)
    return float(f'{total + digit}.{"".join(str(_digit(sign)) for sign in places) or 0}')


def _digit(numeral: str) -> int:
    return NUMERALS.find(numeral)


def is_mark(text: str, match: re.Match[str]) -> bool:
    """Whether what MARK found is meant as a mark, by what follows it."""
    rest, low = text[match.end() : match.end() + 40], match['low'] or ''
    whole = low.isdigit() and not match['unit'] and not match['scale']
    if whole and not match['high']:
        if len(low) < 3 and int(low) and (item := ITEM.match(rest)):
            # A list's first number: of its line, or behind a label if a second one follows.
            at = match.start('mark')
            following = rf'(?<![\d.]){int(low) + 1}{re.escape(item[1])}(?!\d)'
            if not text[text.rfind('\n', 0, at) + 1 : at].strip(' \t>-('):
                return False
            if re.search(following, text[match.end() :]):
                return False
        colon = text[: match.start('mark')].rstrip().endswith(':')
        if not float(low) and colon and text[match.end() :].strip() == '.':
            return False  # cut within 0.8
    if low and low[0] in NUMERALS + TENS and not match['unit'] and re.match('[一-鿿]', rest):
        return False  # 一般
    refused = (COUNTED, CALCULATED, BOUND, MEANING) if whole else (CALCULATED, BOUND, MEANING)
    return not any(pattern.match(rest) for pattern in refused)


def score(match: re.Match[str], beside: float | None, elsewhere: float | None) -> float | None:
    """What a mark is worth.

    Args:
        match: Of MARK.
        beside: The scale that its line states.
        elsewhere: The scale that the rest of the reply states.
    Returns:
        A share, 0 to 1; None if it is none of that scale, or could be of two.
    """
    if match['full']:
        return 1.0
    if match['sign']:
        return None
    if match['parts']:
        top, value = number(match['parts']), number(match['share'])
    else:
        value = number(match['low'])
        if match['high']:
            high = number(match['high'])
            if high <= value:
                return None  # a subtraction, if anything
            value = (value + high) / 2
        if match['scale']:
            top = number(match['scale'])
        elif '%' in f'{match["unit"]}{match["units"]}':
            top = 100.0
        elif beside:
            top = beside
            if value < 1 < top and '.' in match['low']:
                return None  # 满分十分，得分0.8: of ten, or of what was asked for
        elif value > 1:
            top = elsewhere or 1.0
        elif value == 1 and '.' not in match['low'] and elsewhere not in (None, 1.0):
            return None  # all, or a tenth
        else:
            top = 1.0
    return value / top if top and value <= top else None
