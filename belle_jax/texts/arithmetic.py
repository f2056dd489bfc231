"""Checks the arithmetic that is written out in an answer: `8+7=15`, `3元×4=12元`, `25÷4≈6.3`.

What is judged is judged exactly, with fractions. What is not surely arithmetic (a variable, a unit
that changes, a ratio) is not judged: an equation is wrong only if no reading of it is right.
"""

import itertools
import re
from collections.abc import Iterator
from fractions import Fraction

from belle_jax.texts.expression import Expression, Reading, evaluate, expressions

SPELLED = {
    '.': '．', '+': '＋', '-': '－−–—', '*': '＊✕✖⋅∗×・', '/': '／', '=': '＝', '≈': '≒', '%': '％',
    '^': '＾', '(': '（［｛[{', ')': '）］｝]}', **dict(zip('0123456789', '０１２３４５６７８９')),
}  # fmt: skip
WIDTH = str.maketrans({other: one for one, others in SPELLED.items() for other in others})
LATEX = (
    (re.compile(r'(?<=\d)\s*\\d?frac\s*\{(\d+)\}\s*\{(\d+)\}'), r'又\1/\2'),
    (re.compile(r'\\d?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}'), r'(\1)/(\2)'),
    (re.compile(r'\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}'), r'\1'),
    (re.compile(r'\\times|\\cdot'), '×'),
    (re.compile(r'\\div'), '÷'),
    (re.compile(r'\\approx'), '≈'),
    (re.compile(r'\\(?:left|right|[,;!:()\[\]]|quad)'), ' '),
    (re.compile(r'\\%'), '%'),
)
SPELLING = (
    (re.compile('[$￥¥]'), ' '),
    (re.compile(r'(?<=\d)\*\*(?=\d)'), '^'),
    (re.compile(r'\*\*|__|`'), ''),  # bold
    (re.compile('²'), '^2'),
    (re.compile('³'), '^3'),
    (re.compile(r'(?<=\d),(?=\d{3}(?!\d))'), ''),  # thousands
    (re.compile(r'(?<=[\d)%])[ \t]*[xX][ \t]*(?=[\d(])'), '*'),
    (re.compile(r'(?<=[\u4e00-\u9fff])[ \t]+[xX][ \t]+(?=[\d(])'), '*'),
    (re.compile(r'(?<=[\d\u4e00-\u9fff)])[ \t]*(?:\.{3,}|…+|⋯+)[ \t]*(?=\d)'), '余'),
    # 36(个): a unit in brackets.
    (re.compile(r'\(([\u4e00-\u9fff]+(?:/[\u4e00-\u9fff]+)?)(?:\^[23])?\)'), r'\1'),
    (re.compile(r'(=[ \t]*[\d.,]+%?)[ \t]*\([A-Za-z][A-Za-z -]+\)'), r'\1'),  # =17 (books)
    (re.compile(r'([米])\^[23]'), r'\1'),
    (re.compile(r'\b([ckd]?m)\^[23]'), r'\1'),
    (re.compile(r'[ \t]*\n[ \t]*(?=[=≈])'), ''),  # a chain that goes on in the next line
)
# A list's numbers: "1. 3×4=12", "(1)3×4=12"; "1.3×4" may be one or a decimal.
LISTED = re.compile(r'^[ \t]*(?:\d{1,2}[.)][ \t]+|\(\d{1,2}\)[ \t]*)(?=[\d(])', re.M)
GLUED = re.compile(r'[ \t]*\d{1,2}\.(?=\d)')
CLAUSE = re.compile(r'[^\n，。；;：:、？！?!“”"\'「」『』<>≤≥≠→⇒|~～∴∵…,]+')
REMAINDER = re.compile(
    r'[ \t]*(\d+)[ \t]*[\u4e00-\u9fff]{0,3}?[ \t]*(?:余(?:数?[是为]?)|,?[ \t]*(?:with[ \t]+)?'
    r'(?:a[ \t]+)?(?:remainder|rem\.?|r)(?:[ \t]+of)?)[ \t]*(\d+)',
    re.I,
)
# "25÷4=6（组），余1组": said beside the equation, that it is not exact.
INEXACT = re.compile(
    '余|剩|多|取整|整数|约|大约|进一|去尾|四舍五入|左右|保留|至少|最多|不足|不够|估|remain|left|round|'
    'about|approx|roughly|nearly|almost|estimat|decimal|at least|at most|whole|full|complete',
    re.I,
)
UNITS = [
    sort.split()
    for sort in (
        '千米 公里 米 分米 厘米 毫米 里 km m dm cm mm',
        '元 角 分 块 毛 万元',
        '吨 千克 公斤 斤 克 两 kg g mg',
        '小时 分钟 秒 秒钟 天 周 星期 个月 月 年 时 分 h min s',
        '升 毫升 L ml mL',
        '平方千米 公顷 亩 平方米 平方分米 平方厘米',
        '立方米 立方分米 立方厘米 升 毫升',
    )
]
CONVERSIONS = (10, 60, 100, 500, 1000, 3600, 10**4, 10**6)


def wrong_equations(text: str) -> list[str]:
    """The equations of a worked answer that are wrong, each as it was read, such as '3*4=13'."""
    return [equation for equation, right in equations(text) if not right]


def equations(text: str) -> Iterator[tuple[str, bool]]:
    """The equations of a worked answer that can be judged: as they were read, and if right."""
    if '=' not in text and '≈' not in text and '＝' not in text and 'approx' not in text:
        return
    for pattern, replacement in LATEX:
        if '\\' in text:
            text = pattern.sub(replacement, text)
    text = text.translate(WIDTH)
    for pattern, replacement in SPELLING:
        text = pattern.sub(replacement, text)
    text = LISTED.sub('', text)
    for clause in CLAUSE.finditer(text):
        before = text[max(0, clause.start() - 2) : clause.start()]
        clock = before.endswith(':') and before[0].isdigit()  # 9:25+0:40, 2:3=4:6
        if ('=' in clause[0] or '≈' in clause[0]) and not clock:
            following = text[clause.end() : clause.end() + 24]
            found = list(_chain(clause[0], following))
            starts = clause.start() == 0 or text[clause.start() - 1] == '\n'
            glued = GLUED.match(clause[0]) if starts else None
            if glued and not all(right for _, right in found):
                found = list(_chain(clause[0][glued.end() :], following))
            yield from found


def _chain(clause: str, following: str) -> Iterator[tuple[str, bool]]:
    """The equations of a chain such as `2×3+1=6+1=7`."""
    parts = re.split('([=≈])', clause)
    sides, signs = parts[::2], parts[1::2]
    found = [expressions(side) for side in sides]
    last = len(sides) - 1
    for at, sign in enumerate(signs):
        left, right = found[at], found[at + 1]
        if not left or not right:
            continue
        # Before the chain and after it there may be words; in its middle there is one expression.
        a, b = left[-1], right[0]
        whole = (at == 0 or (len(left) == 1 and a.begins)) and (
            at + 1 == last or (len(right) == 1 and b.ends)
        )
        calculates = max(len(a.tokens), len(b.tokens)) > 2  # 1小时=60分钟 says how units are
        division = _division(a)
        remainder = REMAINDER.match(sides[at + 1])
        shown = f'{sides[at].strip()}{sign}{sides[at + 1].strip()}'
        if division and remainder and a.ends and a.sure and (at == 0 or a.begins):
            quotient, rest = int(remainder[1]), int(remainder[2])
            yield shown, division[0] == division[1] * quotient + rest and rest < division[1]
        elif whole and a.ends and b.begins and a.sure and b.sure and calculates:
            right_one = _equal(a, b, sign == '≈')
            if right_one is None:
                continue
            if not right_one and (
                (at == 0 and len(a.tokens) <= 2)  # 2瓶牛奶的价格=2×3 gives a name a value
                or _units_change(a, b)
                or _inexact(a, b, sides[at + 1] + following)
                or _nested(a)
            ):
                continue
            yield shown, right_one


def _division(run: Expression) -> tuple[int, int] | None:
    """The numbers of an expression that is one whole number divided by another."""
    texts = [token.text for token in run.tokens]
    if len(texts) != 3 or texts[1] not in '÷/' or not (texts[0] + texts[2]).isdigit():
        return None
    return int(texts[0]), int(texts[2])


def _equal(left: Expression, right: Expression, about: bool) -> bool | None:
    """Whether some reading of both sides is equal; None if they have no value."""
    symbols = [token for side in (left, right) for token in side.tokens]
    percents = (True, False) if any(token.percent for token in symbols) else (True,)
    larges = (True, False) if any(token.large for token in symbols) else (True,)
    readings = [Reading(*each) for each in itertools.product(percents, larges)]
    judged = None
    for one, other in itertools.product(readings, readings):
        a, b = evaluate(left.tokens, one), evaluate(right.tokens, other)
        if a is None or b is None:
            return None
        judged = judged or a == b or _close(a, b, left, right, about)
    return bool(judged)


def _close(a: Fraction, b: Fraction, left: Expression, right: Expression, about: bool) -> bool:
    """Whether two values differ by no more than rounding."""
    difference = abs(a - b)
    # Rounded as written: 10÷3=3.33; so are the steps behind: 3.33×3=10.
    for run, other in ((right, a), (left, b)):
        places = _places(run)
        rounded = len(run.tokens) <= 2 and places and (other * 10**places).denominator != 1
        if rounded and difference < Fraction(1, 10**places):
            return True
    if max(_places(left), _places(right)) >= 2 and difference <= abs(a) / 200:
        return True
    return about and (difference < 1 or difference <= abs(a) / 20)


def _places(run: Expression) -> int:
    """The most decimal places of an expression's numbers; a percentage has two more."""
    numbers = [token for token in run.tokens if token.kind == 'number']
    places = (len(token.text.partition('.')[2]) + 2 * token.percent for token in numbers)
    return max(places, default=0)


def _nested(run: Expression) -> bool:
    """Whether a fraction is divided with one sign for both: 2000 / 2/3."""
    texts = [token.text for token in run.tokens]
    return any(one == two == '/' for one, two in zip(texts, texts[2:]))


def _units_change(left: Expression, right: Expression) -> bool:
    """Whether units explain a difference: 3米+20厘米=320厘米, 4×750=3升, 3苹果+5橘子=6元."""
    units = {unit for run in (left, right) for unit in run.units}
    if any(len({unit for unit in units if unit in sort}) > 1 for sort in UNITS):
        return True
    sums = any(token.text in '+-' for token in left.tokens)
    if sums and len(set(left.units)) > 1:
        return True
    a, b = (evaluate(run.tokens, Reading(True, True)) for run in (left, right))
    measured = any(unit.startswith(name) for unit in units for sort in UNITS for name in sort)
    return bool(measured and a and b and max(a / b, b / a) in CONVERSIONS)


def _inexact(left: Expression, right: Expression, following: str) -> bool:
    """Whether a quotient is a whole number beside which stands that it was rounded."""
    whole = len(right.tokens) == 1 and right.tokens[0].text.isdigit()
    divides = any(token.text in '÷/' for token in left.tokens)
    return whole and divides and INEXACT.search(following) is not None
