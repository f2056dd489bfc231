"""Fields of frozen dataclasses that say which values they take: their type, their range.

A field is declared once, with its default; `build` reads values from a stranger or a flag, and
`check` holds what was built against the declarations. Numbers are always finite.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable
from typing import Any


def one_of(*choices: str) -> Any:
    """A field that has one of these values, the first one by default."""
    return dataclasses.field(default=choices[0], metadata={'choices': choices})


def within(low: float, high: float, default: Any, above: bool = False) -> Any:
    """A number from `low` (above it, if so said) to `high`; of a tuple, each one; None passes."""
    rule = {'low': low, 'high': high, 'above': above}
    return dataclasses.field(default=default, metadata=rule)


def at_least(least: float, default: float) -> Any:
    """A number with a least value."""
    return within(least, math.inf, default)


def positive(default: float) -> Any:
    """A number above 0."""
    return within(0, math.inf, default, above=True)


def fraction() -> Any:
    """A field between 0 and 1, by default 0."""
    return within(0, 1, 0.0)


def unknown(place: str, value: Any, allowed: Iterable[str]) -> ValueError:
    """What is said of a field's value that is none of those allowed."""
    return ValueError(f'{place}={value!r} is not known: choose one of {", ".join(allowed)}.')


def build(cls: type, values: Any, place: str) -> Any:
    """A dataclass from a dict, field by field, with one sentence for each kind of mistake.

    Args:
        cls: Its fields may be numbers, texts, tuples of them, None, or dataclasses of the kind.
        values: Those that are missing have their defaults.
        place: Stands before a field's name in messages: '--config.', 'runs/sft/config.json: '.
    Raises:
        ValueError: a field is unknown or of another type.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict):
        raise ValueError(f'{place.rstrip(".: ")}={values!r:.80} must be a section of fields.')
    for name in values:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            section = place.removeprefix('--config.').rpartition(': ')[2]
            meant = f'; did you mean {section}{close[0]}?' if close else '.'
            raise ValueError(
                f'{place}{name:.80} is not a field{meant} The fields there are {", ".join(hints)}.'
            )
    return cls(**{n: _value(v, hints[n], f'{place}{n}') for n, v in values.items()})


def _value(value: Any, hint: Any, place: str) -> Any:
    if isinstance(hint, types.UnionType):  # always of one type and None
        return None if value is None else _value(value, typing.get_args(hint)[0], place)
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_value(one, typing.get_args(hint)[0], place) for one in value)
    if dataclasses.is_dataclass(hint):
        return value if type(value) is hint else build(typing.cast(type, hint), value, f'{place}.')
    if hint is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is not hint:
        raise ValueError(
            f'{place}={value!r:.80} must be of type {getattr(hint, "__name__", hint)}.'
        )
    return value


def check(section: Any, place: str) -> None:
    """Holds a dataclass's values against the rules that its fields were declared with.

    Raises:
        ValueError: a value is out of its range, not finite, or none of its choices.
    """
    for field in dataclasses.fields(section):
        value, rule, name = getattr(section, field.name), field.metadata, f'{place}{field.name}'
        if 'choices' in rule and value not in rule['choices']:
            raise unknown(name, value, rule['choices'])
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) is float and not math.isfinite(number):
                raise ValueError(f'{name}={number} must be a finite number.')
            if 'low' in rule and number is not None and not _fits(number, **rule):
                raise ValueError(f'{name}={number} {_range(**rule)}.')
        if dataclasses.is_dataclass(value):
            check(value, f'{name}.')


def _fits(number: float, low: float, high: float, above: bool) -> bool:
    return low <= number <= high and not (above and number == low)


def _range(low: float, high: float, above: bool) -> str:
    if (low, high) == (0, 1):
        return 'is a fraction: between 0 and 1'
    if high < math.inf:
        return f'must be between {low:,} and {high:,}'
    return f'must be {"above" if above else "at least"} {low}'
