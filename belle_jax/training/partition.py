"""Which parameters are trained, by name pattern; the others are frozen.

Patterns speak of single layers, `layers.0` to `layers.31`, or counted from the end, `layers.-1`.
Layers that are trained alike stay together in a group, so that they are still scanned.
"""

import difflib
import fnmatch
import itertools

from belle_jax import models
from belle_jax.config import Architecture
from belle_jax.models import Blueprint


def partition(
    architecture: Architecture, only: str = '', freeze: str = ''
) -> tuple[Blueprint, frozenset[str]]:
    """The groups of layers that a choice asks for, and the names of what is trained.

    Args:
        architecture: The model.
        only: Patterns with commas between them, such as 'layers.-1.*,final_norm'; what matches one
            is trained. '' trains everything.
        freeze: Patterns; what matches one is not trained.
    Returns:
        The blueprint, and names of its parameters.
    Raises:
        ValueError: a pattern matches nothing, or nothing is left to train.
    """
    whole = Blueprint(architecture)
    if not only and not freeze:
        return whole, frozenset(models.specs(whole))
    layers = architecture.layers
    declared = [_spellings(name, layers) for name in models.specs(whole.separated())]
    chosen = {
        names[0]
        for names in declared
        if (not only or _matches(names, only)) and not _matches(names, freeze)
    }
    for field, patterns in (('only', only), ('freeze', freeze)):
        for pattern in _split(patterns):
            if not any(_matches(names, pattern) for names in declared):
                raise ValueError(_unmatched(field, pattern, [names[0] for names in declared]))
    if not chosen:
        raise ValueError(
            f'--config.train.only={only!r} and --config.train.freeze={freeze!r} leave nothing to '
            'train: freeze less.'
        )
    kinds = [
        frozenset(name.split('.', 2)[2] for name in chosen if name.startswith(f'layers.{number}.'))
        for number in range(layers)
    ]
    runs = [(kind, len(list(run))) for kind, run in itertools.groupby(kinds)]
    trained = {name for name in chosen if not name.startswith('layers.')}
    for group, (kind, _) in enumerate(runs):
        trained |= {f'blocks.{group}.{rest}' for rest in kind}
    return Blueprint(architecture, tuple(count for _, count in runs)), frozenset(trained)


def _spellings(name: str, layers: int) -> tuple[str, ...]:
    """How a parameter may be called: blocks.3.mlp.up.kernel is layers.3… and, of 4, layers.-1…"""
    if not name.startswith('blocks.'):
        return (name,)
    _, number, rest = name.split('.', 2)
    return f'layers.{number}.{rest}', f'layers.{int(number) - layers}.{rest}'


def _matches(names: tuple[str, ...], patterns: str) -> bool:
    """A pattern matches a whole name, or all that stands below it."""
    return any(
        fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f'{pattern}.*')
        for name in names
        for pattern in _split(patterns)
    )


def _split(patterns: str) -> list[str]:
    return [pattern for pattern in (p.strip() for p in patterns.split(',')) if pattern]


def _unmatched(field: str, pattern: str, names: list[str]) -> str:
    close = (difflib.get_close_matches(pattern, names, 1, 0.3) or names)[0]
    return (
        f'--config.train.{field}: {pattern!r} matches no parameter. They are called embed.table, '
        f'layers.0.mlp.up.kernel, layers.-1.mlp.up.kernel, final_norm.scale and the like; nearest '
        f'is {close}. A pattern may be the beginning of a name, up to a dot, and * stands for '
        'anything.'
    )
