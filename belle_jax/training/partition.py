"""Which parameters are trained, by name pattern; the others are frozen.

Patterns speak of single layers, `layers.0` to `layers.31`, or counted from the end, `layers.-1`.
Layers that are trained alike stay together in a group, so that they are still scanned.
"""

import dataclasses
import difflib
import fnmatch
import itertools

from belle_jax import models
from belle_jax.models import Blueprint


def partition(
    whole: Blueprint, only: str = '', freeze: str = '', also: str = ''
) -> tuple[Blueprint, frozenset[str]]:
    """The groups of layers that a choice asks for, and the names of what is trained.

    Args:
        whole: The model, its layers in one group.
        only: Patterns with commas between them, such as 'layers.-1.*,final_norm'; what matches one
            is trained. '' trains everything, or, of an adapted model, the adapter.
        freeze: Patterns; what matches one is not trained.
        also: Patterns of what is trained beside an adapter.
    Returns:
        The blueprint, and names of its parameters.
    Raises:
        ValueError: a pattern matches nothing, nothing is left to train, or it has no gradient.
    """
    layers = whole.architecture.layers
    declared = {
        _spellings(name, layers): spec for name, spec in models.specs(whole.separated()).items()
    }

    def chosen_by_default(names, spec):
        if whole.adapter:
            return spec.part == 'adapter' or _matches(names, also)
        return not only or _matches(names, only)

    chosen = {
        names[0]: spec
        for names, spec in declared.items()
        if chosen_by_default(names, spec) and not _matches(names, freeze)
    }
    for field, patterns in (('train.only', only), ('train.freeze', freeze), ('adapter.also', also)):
        for pattern in _split(patterns):
            if not any(_matches(names, pattern) for names in declared):
                raise ValueError(_unmatched(field, pattern, [names[0] for names in declared]))
    if packed := [name for name, spec in chosen.items() if spec.dtype != 'float32']:
        raise ValueError(
            f'{packed[0].rpartition(".")[0]} is quantised: its codes cannot be trained. Train '
            'adapters beside it (--config.adapter.rank), or give the model that it was made from.'
        )
    if not chosen:
        raise ValueError(
            f'--config.train.only={only!r} and --config.train.freeze={freeze!r} leave nothing to '
            'train: freeze less.'
        )
    kinds = [
        frozenset(name.split('.', 2)[2] for name in chosen if name.startswith(f'layers.{number}.'))
        for number in range(layers)
    ]
    if whole.adapter and len(set(kinds)) > 1:
        raise ValueError(
            f'--config.adapter.also={also!r} names a part of some layers alone: beside adapters it '
            'is trained in all of them, layers.*, or in none.'
        )
    runs = [(kind, len(list(run))) for kind, run in itertools.groupby(kinds)]
    trained = {name for name in chosen if not name.startswith('layers.')}
    for group, (kind, _) in enumerate(runs):
        trained |= {f'blocks.{group}.{rest}' for rest in kind}
    groups = tuple(count for _, count in runs)
    return dataclasses.replace(whole, groups=groups), frozenset(trained)


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
        f'--config.{field}: {pattern!r} matches no parameter. They are called embed.table, '
        f'layers.0.mlp.up.kernel, layers.-1.mlp.up.kernel, final_norm.scale and the like; nearest '
        f'is {close}. A pattern may be the beginning of a name, up to a dot, and * stands for '
        'anything.'
    )
