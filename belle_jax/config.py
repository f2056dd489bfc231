"""What a run is: the fields with their defaults, and the step from a recipe to frozen values.

A recipe's `get_config(variant)` starts from `default()`, sets what it is about and returns a
ConfigDict; flags override single fields; `resolve` checks everything and returns a `Run`. Behind
`resolve` no ConfigDict exists.
"""

import dataclasses
import difflib
import pathlib
import types
import typing
from typing import Any

from ml_collections import ConfigDict

from belle_jax.families import PRESETS, Architecture, Rope
from belle_jax.files import read_json, write_json

__all__ = ['PRESETS', 'Architecture', 'Rope', 'Run', 'default', 'load', 'resolve', 'save']

MAX_SEGMENTS = 64
"""Texts that share a packed row at most; cuDNN's attention wants a bound when it is compiled."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model, and how its arithmetic is run."""

    source: str = ''  # Hugging Face directory, hub name or run directory; '' trains from nothing
    preset: str = ''  # a name of PRESETS: the shape of a published model, random weights
    architecture: Architecture | None = None  # a shape of one's own; filled in when source is set
    dtype: str = 'float32'  # of activations; parameters that are trained are always float32
    attention: str = 'auto'  # auto, xla, cudnn (GPU), splash (TPU)
    remat: str = 'block'  # none, block (keep each block's input), dots (keep products as well)
    scan: bool = True  # one compiled block for all layers; False unrolls them
    hidden_dropout: float = 0.0  # fraction, after attention and after the MLP
    attention_dropout: float = 0.0  # fraction, of attention weights


@dataclasses.dataclass(frozen=True)
class Source:
    """Training rows from one place, passed `weight` times an epoch."""

    path: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Validation:
    """Rows to evaluate on, never trained on: a file, a fraction or a count; the first set wins."""

    path: str = ''
    fraction: float = 0.0
    count: int = 0


@dataclasses.dataclass(frozen=True)
class Data:
    """Which rows, and how they become batches."""

    path: str = ''  # 'a.jsonl' or 'a.jsonl=2,b.json=0.5': files or hub names with weights
    tokenizer: str = ''  # directory or hub name; '' takes model.source's
    template: str = 'belle'
    system: str = ''  # a system message for rows that have none
    train_on: str = 'assistant'  # or all: every token, as continued pretraining does
    seq_len: int = 1024  # tokens a row of a batch
    packing: bool = True
    validation: Validation = Validation()
    on_bad_row: str = 'error'  # or skip: count it and go on
    cache_dir: str = ''  # '' is ~/.cache/belle_jax/tokens

    @property
    def sources(self) -> tuple[Source, ...]:
        """`path`, taken apart."""
        return parse_sources(self.path, 'data.path')


@dataclasses.dataclass(frozen=True)
class Batch:
    """How much goes into one optimiser step, over all devices."""

    size: int = 8  # rows of data.seq_len tokens
    accumulation: int = 1  # micro-batches that a step is split into


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser and its schedule."""

    name: str = 'adamw'  # adamw, adafactor, lion, muon
    learning_rate: float = 1e-5  # peak
    schedule: str = 'cosine'  # cosine, linear, constant
    warmup_ratio: float = 0.0  # of all steps
    warmup_steps: int = 0  # wins over warmup_ratio when set
    final_ratio: float = 0.0  # of the peak, at the last step
    weight_decay: float = 0.0  # decoupled; not on biases and norms
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0  # of the gradient over all parameters; 0 is off
    moment_dtype: str = 'float32'  # of the first moment; the second stays float32


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 once: the remaining ones."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Train:
    """What is trained, how long, and what happens along the way. Counts are optimiser steps."""

    objective: str = 'next_token'  # what is minimised: see training/objectives.py
    only: str = ''  # patterns of parameters to train, 'layers.-1,final_norm'; '' trains all
    freeze: str = ''  # patterns of parameters to leave as they are, such as 'embed'
    epochs: float = 1.0
    steps: int = 0  # wins over epochs when set
    max_steps: int = 0  # stop here although schedule and plan go on; 0 is off
    log_every: int = 10
    eval_every: int = 0  # 0: four times an epoch, at least 5 steps apart; -1: never
    checkpoint_every: int = 0  # 0: as eval_every; -1: only at the end
    keep_last: int = 2
    keep_best: int = 1
    profile_from: int = 0  # a trace of steps profile_from up to profile_to; 0 is off
    profile_to: int = 0
    wandb: str = ''  # a project's name; '' is off
    deterministic: bool = False  # on GPUs: bit-identical repeats, slower


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole run, checked."""

    seed: int = 0
    model: Model = Model()
    data: Data = Data()
    batch: Batch = Batch()
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    train: Train = Train()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `config.json` of a run directory holds them."""
        return dataclasses.asdict(self)


CHOICES = {
    'model.preset': ('', *PRESETS),
    'model.dtype': ('float32', 'bfloat16'),
    'model.attention': ('auto', 'xla', 'cudnn', 'splash'),
    'model.remat': ('none', 'block', 'dots'),
    'data.train_on': ('assistant', 'all'),
    'data.on_bad_row': ('error', 'skip'),
    'optim.name': ('adamw', 'adafactor', 'lion', 'muon'),
    'optim.schedule': ('cosine', 'linear', 'constant'),
    'optim.moment_dtype': ('float32', 'bfloat16'),
}
AT_LEAST = {
    'data.seq_len': 2,
    'batch.size': 1,
    'batch.accumulation': 1,
    'train.log_every': 1,
    'train.keep_last': 1,
    'train.keep_best': 0,
    'train.steps': 0,
    'train.max_steps': 0,
    'train.epochs': 0,
    'optim.learning_rate': 0,
    'optim.weight_decay': 0,
    'optim.clip_norm': 0,
    'optim.warmup_steps': 0,
    'data.validation.count': 0,
}
FRACTIONS = (
    'model.hidden_dropout',
    'model.attention_dropout',
    'optim.warmup_ratio',
    'optim.final_ratio',
    'data.validation.fraction',
)


def default() -> ConfigDict:
    """Every field with its default; a recipe sets what it is about.

    Returns:
        A ConfigDict that refuses unknown fields. `model.architecture` is empty and open: a recipe
        for a model of its own puts the fields of `Architecture` there.
    """
    config = ConfigDict(Run().to_dict())
    model: Any = config.model
    model.architecture = ConfigDict()
    config.lock()
    model.architecture.unlock()
    return config


def resolve(config: ConfigDict) -> Run:
    """Checks a recipe's values and freezes them.

    Args:
        config: What a recipe's `get_config` returned, with the flags' overrides.
    Returns:
        The run.
    Raises:
        ValueError: an unknown field, a value of the wrong type or outside its range.
    """
    values = config.to_dict()
    if not values.get('model', {}).get('architecture'):
        values.get('model', {}).pop('architecture', None)
    run = from_dict(values)
    _check(run)
    return run


def from_dict(values: dict[str, Any]) -> Run:
    """A `Run` from plain values, such as a run directory's `config.json`."""
    return _build(Run, values, '')


def save(run: Run, path: pathlib.Path) -> None:
    """Writes a run's values as JSON; a kill leaves the old file or the new one."""
    write_json(path, run.to_dict())


def load(path: pathlib.Path) -> Run:
    """Reads what `save` wrote.

    Raises:
        ValueError: the file is missing or is not such JSON; it is named.
    """
    return from_dict(read_json(path, 'restore it'))


def parse_sources(text: str, field: str) -> tuple[Source, ...]:
    """'a.jsonl=2,b.json' -> (Source('a.jsonl', 2.0), Source('b.json', 1.0)).

    What follows the last '=' is a weight if it is a number, otherwise it belongs to the path.

    Raises:
        ValueError: naming the field, when a weight is not a positive number.
    """
    sources = []
    for part in filter(None, (p.strip() for p in text.split(','))):
        path, _, weight = part.rpartition('=')
        try:
            source = Source(path, float(weight))
        except ValueError:
            source = Source(part)
        if not 0 < source.weight < float('inf'):
            raise ValueError(
                f'{field}={text!r} gives {path!r} the weight {weight!r}: a weight is a number '
                'above 0, the passes over that source in an epoch. Write path=weight.'
            )
        sources.append(source)
    return tuple(sources)


def _build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a dict, field by field, with one sentence for each kind of mistake."""
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            raise ValueError(
                f'--config.{prefix}{name} is not a field'
                + (f'; did you mean {prefix}{close[0]}?' if close else '.')
                + f' The fields there are {", ".join(hints)}.'
            )
    built = {n: _value(v, hints[n], f'{prefix}{n}') for n, v in values.items()}
    return cls(**built)


def _value(value: Any, hint: Any, place: str) -> Any:
    if hint == Architecture | None:
        return None if value is None else Architecture.from_dict(value)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(
                f'--config.{place}={value!r} must be a section with fields of its own.'
            )
        return _build(typing.cast(type, hint), value, f'{place}.')
    if isinstance(hint, types.UnionType):
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f'--config.{place}={value!r} must be of type {hint.__name__}.')
    return value


def _check(run: Run) -> None:
    def get(field: str) -> Any:
        value: Any = run
        for name in field.split('.'):
            value = getattr(value, name)
        return value

    for field, allowed in CHOICES.items():
        if get(field) not in allowed:
            raise ValueError(
                f'--config.{field}={get(field)!r} is not known: choose one of '
                f'{", ".join(filter(None, allowed))}.'
            )
    for field, least in AT_LEAST.items():
        if not get(field) >= least:
            raise ValueError(f'--config.{field}={get(field)} must be at least {least}.')
    for field in FRACTIONS:
        if not 0 <= get(field) <= 1:
            raise ValueError(f'--config.{field}={get(field)} is a fraction: between 0 and 1.')
    if run.batch.size % run.batch.accumulation:
        raise ValueError(
            f'--config.batch.accumulation={run.batch.accumulation} does not divide batch.size='
            f'{run.batch.size}: every micro-batch has the same number of rows.'
        )
    given = [
        name
        for name, value in (
            ('model.source', run.model.source),
            ('model.preset', run.model.preset),
            ('model.architecture', run.model.architecture),
        )
        if value
    ]
    if len(given) != 1:
        raise ValueError(
            f'{" and ".join(given) or "no model"} is set: set exactly one of --config.model.source '
            '(published weights), model.preset or model.architecture (random weights).'
        )
    run.data.sources  # noqa: B018 - raises on a malformed weight
