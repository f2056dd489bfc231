"""Several adapters of one model as one.

`cat` puts them side by side, which is the weighted sum of what they say, exactly. The others keep
the rank and mix the factors themselves, as peft does: A and B each with the root of a weight.

Source: peft 0.21, `add_weighted_adapter`; Yadav et al., 2023 (TIES); Yu et al., 2023 (DARE).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.families import Architecture, LowRank, TensorMap
from belle_jax.formats.peft import PeftAdapter

WAYS = ('cat', 'linear', 'ties', 'dare_linear', 'dare_ties')


def combine(
    adapters: Sequence[Any],
    weights: Sequence[float],
    architecture: Architecture,
    way: str = 'cat',
    density: float = 0.5,
    seed: int = 0,
) -> PeftAdapter:
    """One adapter that says what several do.

    Args:
        adapters: With `adapter`, `shapes` and `read`, as `PeftAdapter`.
        weights: Of each; negative ones take away.
        architecture: Of their base.
        way: One of WAYS.
        density: Of entries that ties keeps, the largest, and dare, any; dare makes up for the rest.
        seed: Of dare's draws.
    Raises:
        ValueError: they have DoRA, or parameters trained as a whole, or ranks that differ where
            that matters; or the sum is too large for float32.
    """
    settings = [one.adapter for one in adapters]
    whole = [name for one in adapters for name in one.shapes if '.adapter.' not in name]
    if whole or any(one.dora for one in settings):
        what = whole[0] if whole else 'magnitudes (DoRA)'
        raise ValueError(f'an adapter has {what} beside its products, which cannot be combined.')
    ranks = [one.rank for one in settings]
    if way != 'cat' and len(set(ranks)) > 1:
        raise ValueError(f'adapters of ranks {ranks} can be combined by cat alone.')
    uneven = {what for one in adapters for what in getattr(one, 'uneven', ())}
    if not way.endswith('ties'):  # which elects signs before any scale
        uneven.discard('scales')
    if uneven and way != 'cat':
        raise ValueError(
            f'an adapter whose {min(uneven)} differ from product to product cannot be combined by '
            f'{way}: use --combine=cat.'
        )
    targets = [name for one in settings for name in one.targets]
    rank = sum(ranks) if way == 'cat' else ranks[0]
    combined = LowRank(rank, float(rank), tuple(dict.fromkeys(targets)))
    scales = [w * one.scale for w, one in zip(weights, settings, strict=True)]
    rng, arrays = np.random.default_rng(seed), {}
    for entry in families.adapter_maps(architecture, combined):
        having = [
            (scale, _array(one, entry.ours))
            for scale, one in zip(scales, adapters, strict=True)
            if entry.ours in one.shapes
        ]
        with np.errstate(over='ignore', invalid='ignore'):  # which the next lines tell
            if way == 'cat':
                mixed = _side_by_side(entry, having)
            else:
                mixed = _mixed(entry, having, way, density, rng)
            arrays[entry.ours] = mixed.astype(np.float32)
        if not np.isfinite(arrays[entry.ours]).all():
            raise ValueError(
                f'with the weights {list(weights)} {entry.ours} overflows: lower them.'
            )
    return PeftAdapter(combined, arrays)


def _array(one: Any, name: str) -> np.ndarray:
    whole = tuple(slice(0, n) for n in one.shapes[name])
    return one.read(name, whole, np.dtype(np.float32))


def _side_by_side(entry: TensorMap, having: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """Ranks one after the other, A times the weight; zeros for adapters that lack the product."""
    is_a = entry.ours.endswith('.a')
    axis = -1 if is_a else 1
    joined = np.concatenate([a * scale if is_a else a for scale, a in having], axis)
    missing = [(0, 0)] * joined.ndim
    missing[axis] = (0, entry.our_shape[axis] - joined.shape[axis])
    return np.pad(joined, missing)


def _mixed(entry, having, way: str, density: float, rng: np.random.Generator) -> np.ndarray:
    """Layer by layer, as peft has a tensor for each."""
    roots = [abs(scale) ** 0.5 for scale, _ in having]
    if entry.ours.endswith('.a'):  # the sign goes with one of the two
        roots = [root * np.sign(scale) for root, (scale, _) in zip(roots, having, strict=True)]
    weights = np.asarray(roots).reshape(-1, *[1] * (len(entry.our_shape) - 1))

    def of_layer(arrays: Sequence[np.ndarray]) -> np.ndarray:
        keep = PRUNING.get(way.removesuffix('_linear').removesuffix('_ties'))
        stack = np.stack([keep(a, density, rng) if keep else a for a in arrays])
        if not way.endswith('ties'):
            return (stack * weights).sum(0)
        agrees = np.sign(stack) == np.where(stack.sum(0) >= 0, 1, -1)
        return (stack * weights * agrees).sum(0) / np.maximum(agrees.sum(0), 1)

    return np.stack([of_layer(layers) for layers in zip(*(a for _, a in having), strict=True)])


def _largest(array: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    flat, count = np.abs(array).ravel(), int(density * array.size)
    kept = np.zeros(array.size, bool)
    kept[np.argsort(-flat, kind='stable')[:count]] = True
    return np.where(kept.reshape(array.shape), array, 0)


def _drawn(array: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(array.shape) < density, array / density, 0)


PRUNING: dict[str, Callable[..., np.ndarray]] = {'ties': _largest, 'dare': _drawn}
