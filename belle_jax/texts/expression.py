"""Arithmetic in running text: tokens, the expressions among them, and their exact values."""

import collections
import operator
import re
from fractions import Fraction
from typing import NamedTuple

TOKEN = re.compile(
    r'(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:又\d+/\d+)?)(?P<large>[万亿])?[ \t]*(?P<percent>%)?|'
    r'(?P<operator>[-+*÷/^()])|'
    # A unit may hold a slash: 千米/小时, 元/kg.
    r'(?P<word>(?:[\u4e00-\u9fff]+|(?:km|cm|dm|mm|kg|mg|ml|mL|min)(?![A-Za-z]))'
    r'(?:/(?:[\u4e00-\u9fff]+|[A-Za-z]{1,4}))*[²³]?)|'
    r'(?P<space>[ \t\u3000]+)|(?P<other>.)',
    re.S,
)
LARGE = {'万': 10**4, '亿': 10**8}
DIGITS = 15  # longer numbers are identifiers
POWER = 12


class Token(NamedTuple):
    """A piece of a text: kind is number, operator, word or other."""

    kind: str
    text: str
    large: str = ''
    percent: bool = False


class Reading(NamedTuple):
    """How what is ambiguous is read: 25% as 1/4 or 25, 3万 as 30,000 or 3 (of 10,000)."""

    percent: bool
    large: bool


class Expression(NamedTuple):
    """An expression in a text.

    Attributes:
        tokens: Numbers and operators.
        units: The words behind its numbers.
        begins: Whether nothing stands before it.
        ends: Whether nothing but units stands behind it.
        sure: Whether it is surely an expression of its own: no variable, no second number beside
            it, no operator that waits for a word.
    """

    tokens: tuple[Token, ...]
    units: tuple[str, ...]
    begins: bool
    ends: bool
    sure: bool


def tokens(text: str) -> list[Token]:
    """The tokens of a text, blanks left out."""
    return [
        Token('number', match['number'], match['large'] or '', bool(match['percent']))
        if match['number']
        else Token(match.lastgroup or '', match[0])
        for match in TOKEN.finditer(text)
        if not match['space']
    ]


def expressions(text: str) -> list[Expression]:
    """The expressions of a text that holds no equals sign, in order.

    Args:
        text: Such as `小明的钱数 3元×4`.
    Returns:
        Each as long as it can be.
    """
    found: list[Expression] = []
    current: list[Token] = []
    units: list[str] = []
    begins, sure, depth = True, True, 0

    def close(ends: bool = False, certain: bool = False, next_sure: bool = False) -> None:
        nonlocal current, units, begins, sure, depth
        if current:
            whole = sure and certain and depth == 0 and not _waits(current)
            found.append(Expression(tuple(current), tuple(units), begins, ends, whole))
        current, units, begins, sure, depth = [], [], False, next_sure, 0

    for token in tokens(text):
        operand = not current or _waits(current)  # whether a number is expected
        if token.kind == 'number':
            if not operand:  # 2小时15分, 第2步 3×4: where one ends nobody can say
                close()
            current.append(token)
        elif token.kind == 'operator':
            stray = token.text == ')' and depth == 0
            if not stray and (token.text in '(-' or not operand):
                depth += {'(': 1, ')': -1}.get(token.text, 0)
                current.append(token)
            else:
                close()
        elif token.kind == 'word' and not operand:
            units.append(token.text)
        else:  # a word where a number belongs (3×单价), a variable, anything else
            word = token.kind == 'word'
            certain = word and not current
            close(certain=certain, next_sure=certain or (word and sure))
    close(ends=True, certain=True)
    return found


def _waits(current: list[Token]) -> bool:
    return current[-1].kind == 'operator' and current[-1].text != ')'


def evaluate(expression: tuple[Token, ...], reading: Reading) -> Fraction | None:
    """The value of an expression.

    `/` binds more tightly than `÷`, as a fraction's line does: 3÷1/2 is 6.

    Args:
        expression: Numbers and operators.
        reading: How percents and large units count.
    Returns:
        The exact value; None if it has none, or is not an expression.
    """
    left = collections.deque(expression)
    try:
        value = _value(left, reading)
    except (IndexError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return None if left else value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > POWER:
        raise ValueError('a power out of bounds')
    return base ** int(exponent)


SIGNS = {  # how tightly each binds, and what it does
    '+': (1, operator.add),
    '-': (1, operator.sub),
    '*': (2, operator.mul),
    '(': (2, operator.mul),  # 2(3+4)
    '÷': (2, operator.truediv),
    '/': (3, operator.truediv),
    '^': (4, _power),
}


def _value(left: collections.deque[Token], reading: Reading, least: int = 1) -> Fraction:
    """Takes an operand, and what follows as long as its signs bind as tightly as `least`."""
    value = _operand(left, reading)
    while left and left[0].text in SIGNS:
        sign = left[0].text
        tightness, combined = SIGNS[sign]
        if tightness < least:
            break
        if sign != '(':
            left.popleft()
        # Powers are taken from the right.
        value = combined(value, _value(left, reading, tightness + (sign != '^')))
    return value


def _operand(left: collections.deque[Token], reading: Reading) -> Fraction:
    token = left.popleft()
    if token.text == '-':
        return -_value(left, reading, SIGNS['^'][0])
    if token.text == '(':
        value = _value(left, reading)
        if left.popleft().text != ')':
            raise ValueError('an open bracket')
        return value
    if token.kind != 'number' or len(token.text) > DIGITS:
        raise ValueError('no number')
    whole, _, part = token.text.partition('又')
    value = Fraction(whole) + (Fraction(part) if part else 0)
    if token.large and reading.large:
        value *= LARGE[token.large]
    return value / 100 if token.percent and reading.percent else value
