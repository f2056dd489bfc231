"""From any kind of source to an architecture, to parameters, to a model that runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from belle_jax import storage
from belle_jax.families import Architecture
from belle_jax.formats import gptq, huggingface, peft
from belle_jax.json_files import read_json
from belle_jax.runs import run_directory
from belle_jax.runs.adapted import Adapted, Merged
from belle_jax.runs.parameters import Parameters, Saved, held_dtype, identity, place
from belle_jax.runs.rounded import PACKINGS, Rounded

if TYPE_CHECKING:
    import jax

    from belle_jax.models import Decoder


def read_architecture(source: str | Path) -> Architecture:
    """Which model a source holds.

    Args:
        source: A Hugging Face directory, a hub name, a run directory or one of its checkpoints.
    Raises:
        ValueError: it is none of them, or its model is not supported.
    """
    path = huggingface.resolve(source)
    if is_quantised(path):
        return gptq.open(path).architecture
    layout = run_directory if run_directory.is_run_directory(path) else huggingface
    return layout.read_architecture(path)


def is_quantised(source: str | Path) -> bool:
    """Whether a source, as in `read_architecture`, holds a quantised model."""
    path = huggingface.resolve(source)
    return not run_directory.is_run_directory(path) and gptq.is_quantised(path)


def open_parameters(
    source: str | Path | run_directory.Checkpoint,
    architecture: Architecture | None = None,
    weights: str | Path = '',
    adapter: str | Path = '',
) -> Parameters:
    """Opens a source without reading a number; newer checkpoints passed over are warned of.

    Args:
        source: As in `read_architecture`, or what `open_checkpoint` gave; or the directory of a
            quantised model.
        architecture: The model; by default what the source says.
        weights: A bare file of quantised weights; the source is then the directory of its base.
        adapter: A directory of PEFT's, or a run that trained an adapter: read beside the source.
    Raises:
        ValueError: as `huggingface.open`, `gptq.open`, `Saved` and `open_checkpoint` do.
    """
    if adapter:
        base = open_parameters(source, architecture, weights)
        if base.adapter:
            raise ValueError(
                f'{source} has an adapter of its own: merge it first (convert to_hf --merge), or '
                'combine the two (convert adapter to_peft --source=A,B).'
            )
        return Adapted(base, open_adapter(storage.local(adapter), base.architecture), adapter)
    is_open = isinstance(source, run_directory.Checkpoint)
    path = source.directory if is_open else huggingface.resolve(source)
    if weights:
        return gptq.open(path, storage.local(weights))
    if is_open or run_directory.is_run_directory(path):
        checkpoint = source if is_open else run_directory.open_checkpoint(path)
        saved = _saved(checkpoint)
        if not checkpoint.base:
            return saved
        frozen = checkpoint.config['model']['frozen']
        return Adapted(base_of(checkpoint, frozen), saved, checkpoint.run)
    refuse_adapter(path)
    if gptq.is_quantised(path):
        return gptq.open(path)
    return huggingface.open(path, architecture)


def _saved(checkpoint: run_directory.Checkpoint) -> Saved:
    """What a checkpoint holds; newer ones that were passed over are warned of."""
    for reason in checkpoint.rejected:
        logging.warning('A newer checkpoint is passed over: %s', reason)
    return Saved(checkpoint)


def refuse_adapter(path: Path) -> None:
    """A ValueError where a directory has an adapter and no model."""
    if peft.is_adapter(path):
        raise ValueError(
            f'{path} is an adapter of {peft.base_of(path) or "a model"}: give that as the model, '
            'and this directory as its adapter (sample --model=BASE --adapter=DIR).'
        )


def open_whole(
    source: str | Path | run_directory.Checkpoint, architecture: Architecture | None = None
) -> Parameters:
    """As `open_parameters`, with an adapter merged into what it was trained beside.

    Weights that were rounded for that are taken as they were before, which is said.
    """
    if not isinstance(source, run_directory.Checkpoint):
        path = huggingface.resolve(source)
        if not run_directory.is_run_directory(path):
            return open_parameters(source, architecture)
        source = run_directory.open_checkpoint(path)
    if not source.config['adapter']['rank']:
        return open_parameters(source, architecture)
    saved = _saved(source)
    if (frozen := source.config['model']['frozen']) in PACKINGS:
        print(
            f'The adapter was trained beside weights in {frozen}, and is merged into those that '
            'they were rounded from: the model is not quite the one that was trained.'
        )
    return Merged(Adapted(base_of(source), saved, source.run) if source.base else saved)


def open_base(
    source: str | Path, frozen: str = 'source', architecture: Architecture | None = None
) -> tuple[Parameters, str]:
    """What is frozen beside an adapter, as it is held, and the `identity` of its numbers.

    Args:
        source: As in `read_architecture`.
        frozen: As `config.Model.frozen`.
        architecture: As in `open_parameters`.
    """
    opened = open_whole(source, architecture)
    held = Rounded(opened, PACKINGS[frozen]) if frozen in PACKINGS else opened
    return held, identity(opened)


def base_of(checkpoint: run_directory.Checkpoint, frozen: str = 'source') -> Parameters:
    """The model that a run trained an adapter beside; a ValueError where it is not that any more.

    It may have moved: the run's own config.json says where it is.

    Args:
        checkpoint: Of the run.
        frozen: How it is held, as `config.Model.frozen`.
    """
    place = f'{checkpoint.run / run_directory.CONFIG}: model.source={checkpoint.base!r}'
    try:
        base, numbers = open_base(checkpoint.base, frozen, checkpoint.architecture)
    except (ValueError, OSError) as error:
        raise ValueError(
            f'{place} is what the adapter was trained beside, and cannot be read ({error}) Put it '
            'back, or write there where it is now.'
        ) from error
    meta = read_json(checkpoint.directory / 'meta' / 'metadata')
    if meta.get('source') not in (None, numbers):
        raise ValueError(
            f'{place} has other numbers than the model that the adapter was trained beside: put '
            'that one back, or write there where it is now.'
        )
    return base


def open_adapter(path: Path, architecture: Architecture) -> Any:
    """An adapter alone, for `Adapted`: a directory of PEFT's, or a run that trained one.

    Raises:
        ValueError: it is neither, or of another model.
    """
    if run_directory.is_run_directory(path):
        saved = _saved(run_directory.open_checkpoint(path))
        if saved.adapter and saved.architecture == architecture:
            return saved
        raise ValueError(f'{path} is a run that trained no adapter of this model.')
    if not peft.is_adapter(path):
        raise ValueError(
            f'{path} is no adapter: it has no {peft.CONFIG}, and is no run directory. Give one of '
            'PEFT or of a run with --config.adapter.rank.'
        )
    return peft.open(path, architecture)


def load_model(
    path: str | Path | run_directory.Checkpoint,
    dtype: str = 'float32',
    mesh: 'jax.sharding.Mesh | None' = None,
    weights: str | Path = '',
    adapter: str | Path = '',
) -> 'Decoder':
    """Loads a model: `model(tokens)` [B, T] gives logits [B, T, V] in float32.

    Args:
        path: As in `open_parameters`.
        dtype: Of the parameters and activations: 'float32' or 'bfloat16'; of a quantised model's
            parameters as in `held_dtype`.
        mesh: Devices to spread the parameters over, with the axes of `belle_jax.sharding`; use the
            model under `jax.set_mesh(mesh)`. None: the default device.
        weights: As in `open_parameters`.
        adapter: As in `open_parameters`.
    Raises:
        ValueError: the source is incomplete, damaged or of a model that is not supported.
    """
    import jax.numpy as jnp

    from belle_jax import models, sharding

    if dtype not in ('float32', 'bfloat16'):
        raise ValueError(f'dtype={dtype!r}: a model runs in float32 or bfloat16.')
    source = open_parameters(path, weights=weights, adapter=adapter)
    blueprint = models.Blueprint(source.architecture, (), source.packing, source.adapter)
    if mesh is None:
        everything = {name: tuple(slice(0, n) for n in s) for name, s in source.shapes.items()}
        arrays = {
            name: jnp.asarray(source.read(name, index, held_dtype(source, name, dtype)))
            for name, index in everything.items()
        }
    else:
        sharding.check_divides(blueprint.architecture, mesh)
        shardings = sharding.of_parameters(mesh, models.specs(blueprint))
        arrays = place(source, shardings, dtype)
    return models.build(blueprint, arrays, dtype=dtype)
