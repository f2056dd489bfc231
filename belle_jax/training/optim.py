"""The optimiser: optax's, with rules that go by parameter name and per layer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
import optax.contrib
from absl import logging

from belle_jax import config, sharding
from belle_jax.models import ParamSpec
from belle_jax.training import layerwise, small_state
from belle_jax.training.layerwise import LayerByLayer

Params = Mapping[str, jax.Array]


def schedule(optim: config.Optim, steps: int) -> Callable[[Any], Any]:
    """The learning rate by step.

    Linear warm-up from 0 to the peak, then linear, cosine or constant to the end.

    Args:
        optim: Peak, warm-up and shape.
        steps: Of the whole run.
    Returns:
        A function from the step's number, from 0, to the rate.
    Source: transformers' get_linear_ and get_cosine_schedule_with_warmup, whose first step has rate
        0; optax's schedules say the same.
    """
    warmup = optim.warmup_steps or -int(-optim.warmup_ratio * steps // 1)
    decay = max(steps - warmup, 1)
    peak, final = optim.learning_rate, optim.learning_rate * optim.final_ratio
    after = {
        'constant': optax.constant_schedule(peak),
        'linear': optax.linear_schedule(peak, final, decay),
        'cosine': optax.cosine_decay_schedule(peak, decay, alpha=optim.final_ratio),
    }[optim.schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def check_warmup(optim: config.Optim, steps: int) -> None:
    """Warns of a warm-up that is longer than the run, whose peak is never reached."""
    if optim.warmup_steps > steps:
        logging.warning(
            f'--config.optim.warmup_steps={optim.warmup_steps} is longer than the run of {steps} '
            f'steps: the learning rate ends at {100 * steps / optim.warmup_steps:.0f} % of its '
            'peak. Set it lower, or set warmup_ratio instead.'
        )


def decays(name: str) -> bool:
    """Whether weight decay applies: to kernels, adapters and tables, not to biases and norms."""
    return name.endswith(('.kernel', '.table', '.adapter.a', '.adapter.b'))


def make(
    optim: config.Optim,
    steps: int,
    specs: Mapping[str, ParamSpec],
    ratio: float = 1.0,
    rows_from: int = 0,
) -> optax.GradientTransformation | LayerByLayer:
    """The update rule of a run, for `moved`.

    Args:
        optim: Which one, and its numbers.
        steps: Of the whole run, for the schedule.
        specs: Declarations of the trained parameters.
        ratio: Of the learning rates of the B and the A of adapters.
        rows_from: Of tables the rows from this one on are moved, those before it stay.
    Returns:
        Clipping by the norm over all parameters, then the optimiser.
    """
    rows = optax.stateless(lambda tree, _: _of_rows(tree, rows_from))
    rows = rows if rows_from else optax.identity()

    def of_group(specs: Mapping[str, ParamSpec]) -> optax.GradientTransformation:
        rule = _rule(optim, schedule(optim, steps), specs)
        if optim.moment_dtype == '8bit':
            rule = small_state.in_eight_bits(rule)
        return rule if ratio == 1.0 else optax.chain(rule, optax.masked(optax.scale(ratio), _is_b))

    if optim.offload or optim.moment_dtype == '8bit':
        layers = layerwise.layers_of(specs)
        one = {
            n: spec._replace(shape=spec.shape[1:], axes=spec.axes[1:]) if layers[n] else spec
            for n, spec in specs.items()
        }
        rules = {
            count: optax.chain(of_group({name: one[name] for name in names}), rows)
            for count, names in layerwise.groups(layers).items()
        }
        return LayerByLayer(rules, layers, optim.clip_norm, rows, masters=optim.offload)
    rule = of_group(specs)
    if optim.clip_norm:
        rule = optax.chain(optax.clip_by_global_norm(optim.clip_norm), rule)
    return optax.chain(rows, rule, rows) if rows_from else rule


def moved(
    rule: optax.GradientTransformation | LayerByLayer,
    sums: Params,
    weight: jax.Array,
    state: Any,
    params: Params,
) -> tuple[dict[str, jax.Array], Any, jax.Array]:
    """A step of a rule from `make`.

    Args:
        rule: The rule.
        sums: Gradients, times the weight.
        weight: Of what they were summed over.
        state: The rule's.
        params: What is moved.
    Returns:
        The parameters after it, the state, and the norm of the gradient.
    """
    if isinstance(rule, LayerByLayer):
        return rule.move(sums, weight, state, params)
    grads = {name: g / weight for name, g in sums.items()}
    updates, state = rule.update(grads, state, dict(params))
    new: Any = optax.apply_updates(dict(params), updates)
    return new, state, optax.tree.norm(grads)


def _rule(
    optim: config.Optim, rate: Callable[[Any], Any], specs: Mapping[str, ParamSpec]
) -> optax.GradientTransformation:
    """The optimiser alone, as optax has it."""

    def mask(params):
        return {name: decays(name) for name in params}

    moment_dtype = 'float32' if optim.moment_dtype == '8bit' else optim.moment_dtype
    adam = {'b1': optim.beta1, 'b2': optim.beta2, 'mu_dtype': moment_dtype}
    decay: dict[str, Any] = {'weight_decay': optim.weight_decay, 'mask': mask}
    if optim.name == 'adamw':
        return optax.adamw(rate, eps=optim.eps, **adam, **decay)
    if optim.name == 'lion':
        return optax.lion(rate, **adam, **decay)
    if optim.name == 'muon':
        return optax.contrib.muon(
            rate,
            beta=optim.beta1,
            weight_decay=optim.weight_decay,
            weight_decay_mask=mask,
            mu_dtype=moment_dtype,
            adam_b1=optim.beta1,
            adam_b2=optim.beta2,
            muon_weight_dimension_numbers={n: _muon_axes(n, s.axes) for n, s in specs.items()},
            consistent_rms=0.2,  # the size of AdamW's steps: one learning rate suits both
        )
    if optim.name == 'galore':
        projected = optax.contrib.galore(
            rate,
            rank=optim.rank,
            scale=0.25,  # of the paper's recipes, as the gap of 200 steps is
            base_optimizer=optax.scale_by_adam(eps=optim.eps, **adam),
            **decay,
        )
        # Products alone: gradients of tables are sparse.
        kinds = {name: name.endswith('.kernel') for name in specs}
        kernels = {name: spec for name, spec in specs.items() if kinds[name]}
        return optax.partition(
            {
                True: _per_layer_matrices(projected, kernels),
                False: optax.adamw(rate, eps=optim.eps, **adam, **decay),
            },
            kinds,
        )
    rule = optax.adafactor(
        rate,
        multiply_by_parameter_scale=False,
        weight_decay_rate=optim.weight_decay or None,
        weight_decay_mask=mask,
    )
    return _per_layer_matrices(rule, specs)


def state_shapes(
    optimiser: optax.GradientTransformation | LayerByLayer,
    params: Mapping[str, Any],
    replicated: Any,
    offload: bool = False,
) -> Any:
    """Where the optimiser's state lives: a moment with its parameter, and what has lost a
    dimension's size (the scales of blocks) whole along that; counters and factors everywhere.

    Args:
        optimiser: From `make`.
        params: jax.ShapeDtypeStruct by name, with shardings.
        replicated: The sharding of everything else.
        offload: Whether what is as large as its parameter lies in the host's memory.
    Returns:
        A tree like the optimiser's state, of jax.ShapeDtypeStruct with shardings.
    """

    def of_leaf(path: Any, leaf: Any) -> Any:
        names: list[str] = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        own = params.get(next((n for n in reversed(names) if n in params), ''))
        where = replicated
        if own is not None and len(own.shape) == len(leaf.shape):
            where = sharding.whole_where(own.sharding, own.shape, leaf.shape)
            if offload and leaf.shape == own.shape:
                where = where.with_memory_kind('pinned_host')
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(of_leaf, jax.eval_shape(optimiser.init, dict(params)))


def _of_rows(updates: Any, first: int) -> dict[str, jax.Array]:
    """Zeros for the rows of tables that stay."""
    return {
        name: u.at[:first].set(0) if name.endswith('.table') else u for name, u in updates.items()
    }


def _is_b(params: Params) -> dict[str, bool]:
    """Which parameters are the B of an adapter. Source: Hayou et al., 2024 (LoRA+)."""
    return {name: name.endswith('.adapter.b') for name in params}


def _muon_axes(name: str, axes: tuple[str | None, ...]) -> Any:
    """Which dimensions of a kernel go in and which come out; None leaves a parameter to Adam.

    A stack's first dimension is neither: each layer is orthogonalised alone.
    """
    if not name.endswith('.kernel'):
        return None
    first = int(axes[0] == 'layers')
    rest = tuple(range(first, len(axes)))
    split = 1 if axes[first] == 'embed' else len(rest) - 1  # [D, heads…] or [heads…, D]
    return optax.contrib.MuonDimensionNumbers(rest[:split], rest[split:])


def _per_layer_matrices(
    rule: optax.GradientTransformation, specs: Mapping[str, ParamSpec]
) -> optax.GradientTransformation:
    """Runs a rule that looks at shapes on each layer of a stack, every weight seen as a matrix.

    Adafactor factors the two largest dimensions and clips by the mean over an array: on a stack
    [L, D, N, H] both would mix layers and split heads.
    """
    counts = layerwise.layers_of(specs)
    groups = layerwise.groups(counts)

    def matrix(name: str, array: jax.Array) -> jax.Array:
        spec, stacked = specs[name], counts[name] > 0
        lead, shape = ((array.shape[0],), array.shape[1:]) if stacked else ((), array.shape)
        if len(shape) < 3:
            return array
        first = spec.axes[1 if stacked else 0] == 'embed'  # [D, heads…] or [heads…, D]
        return array.reshape(*lead, *((shape[0], -1) if first else (-1, shape[-1])))

    def taken(tree: Params, layers: int) -> dict[str, jax.Array]:
        return {name: matrix(name, tree[name]) for name in groups[layers] if name in tree}

    def init(params):
        made = {}
        for layers in groups:
            run, own = rule.init, taken(params, layers)
            if layers:
                run = jax.vmap(run, out_axes=layerwise.state_axes(run, own))
            made[str(layers)] = run(own)
        return made

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        out, new_state = dict(updates), {}
        for layers in groups:
            run = rule.update
            if layers:
                axes = layerwise.state_axes(rule.init, taken(params, layers))
                run = jax.vmap(run, in_axes=(0, axes, 0), out_axes=(0, axes))
            changed: Any
            changed, new_state[str(layers)] = run(
                taken(updates, layers), state[str(layers)], taken(params, layers)
            )
            out |= {name: u.reshape(updates[name].shape) for name, u in changed.items()}
        return out, new_state

    return optax.GradientTransformation(init, update)
