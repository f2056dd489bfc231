"""What a run is: the fields with their defaults, and the step from a recipe to frozen values.

A recipe's `get_config(variant)` starts from `default()`, sets what it is about and returns a
ConfigDict; flags override single fields; `resolve` checks everything and returns a `Run`. Behind
`resolve` no ConfigDict exists.
"""

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from belle_jax import declaration
from belle_jax.declaration import at_least, fraction, one_of, positive, unknown, within
from belle_jax.families import PRESETS, Architecture, LowRank, Rope
from belle_jax.families.low_rank import targets
from belle_jax.json_files import read_json, write_json

__all__ = ['PRESETS', 'Architecture', 'Rope', 'Run', 'default', 'load', 'resolve', 'save']

MAX_SEGMENTS = 64  # texts that share a packed row at most: cuDNN's attention wants a bound


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model, and how its arithmetic is run."""

    source: str = ''  # Hugging Face directory, hub name or run directory; '' trains from nothing
    preset: str = ''  # a name of PRESETS: the shape of a published model, random weights
    architecture: Architecture | None = None  # a shape of one's own; filled in when source is set
    dtype: str = one_of('float32', 'bfloat16')  # of activations; what is trained is float32
    # How what is not trained is held: as it came, or a layer's products in 8 or 4 bits
    frozen: str = one_of('source', 'float32', 'bfloat16', 'int8', 'nf4')
    attention: str = one_of('auto', 'xla', 'cudnn', 'splash')  # cudnn: GPU, splash: TPU
    remat: str = one_of('block', 'dots', 'none')  # keep a block's input, products too, everything
    scan: bool = True  # one compiled block for all layers; False unrolls them
    hidden_dropout: float = fraction()  # after attention and after the MLP
    attention_dropout: float = fraction()  # of attention weights


@dataclasses.dataclass(frozen=True)
class Source:
    """Training rows from one place, passed `weight` times an epoch."""

    path: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Validation:
    """Rows to evaluate on, never trained on: a file, a fraction or a count; the first set wins."""

    path: str = ''
    fraction: float = fraction()
    count: int = at_least(0, 0)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which rows, and how they become batches."""

    path: str = ''  # 'a.jsonl' or 'a.jsonl=2,b.json=0.5': files or hub names; see parse_sources
    tokenizer: str = ''  # directory or hub name; '' takes model.source's
    template: str = 'belle'
    system: str = ''  # a system message for rows that have none
    train_on: str = one_of('assistant', 'all')  # all: every token, as continued pretraining does
    seq_len: int = at_least(2, 1024)  # tokens a row of a batch
    packing: bool = True
    validation: Validation = Validation()
    on_bad_row: str = one_of('error', 'skip')  # skip: count it and go on
    cache_dir: str = ''  # '' is ~/.cache/belle_jax/tokens

    @property
    def sources(self) -> tuple[Source, ...]:
        """`path`, taken apart."""
        return parse_sources(self.path, 'data.path')


@dataclasses.dataclass(frozen=True)
class Batch:
    """How much goes into one optimiser step, over all devices."""

    size: int = at_least(1, 8)  # rows of data.seq_len tokens
    accumulation: int = at_least(1, 1)  # micro-batches that a step is split into


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser and its schedule."""

    name: str = one_of('adamw', 'adafactor', 'lion', 'muon', 'galore')
    learning_rate: float = at_least(0, 1e-5)  # peak
    schedule: str = one_of('cosine', 'linear', 'constant')
    warmup_ratio: float = fraction()  # of all steps
    warmup_steps: int = at_least(0, 0)  # wins over warmup_ratio when set
    final_ratio: float = fraction()  # of the peak, at the last step
    weight_decay: float = at_least(0, 0.0)  # decoupled; not on biases and norms
    beta1: float = within(0, 1, 0.9)
    beta2: float = within(0, 1, 0.999)
    eps: float = positive(1e-8)
    rank: int = at_least(1, 128)  # galore: of the space that gradients are projected into
    clip_norm: float = at_least(0, 1.0)  # of the gradient over all parameters; 0 is off
    # Of the first moment, beside a float32 second one; or of both, in blocks with a scale each
    moment_dtype: str = one_of('float32', 'bfloat16', '8bit')
    offload: bool = False  # moments and float32 masters of bfloat16 weights in the host's memory


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Low-rank adapters (LoRA), beside which all else is frozen; with rank 0 there are none."""

    rank: int = at_least(0, 0)
    alpha: float = positive(16.0)  # an adapter is multiplied by alpha / rank
    dropout: float = within(0, 0.99, 0.0)  # of what an adapter reads
    targets: str = ''  # products, 'query,value' or 'q_proj,v_proj'; '' is all of every layer
    rslora: bool = False  # alpha over the root of the rank
    dora: bool = False  # a magnitude for each output beside
    also: str = ''  # patterns of parameters trained beside, whole: 'embed,head'
    ratio: float = positive(1.0)  # LoRA+: the learning rate of B over that of A

    def low_rank(self, architecture: Architecture) -> LowRank | None:
        """What it is beside a model; None: there is none. A target that is none is a ValueError."""
        if not self.rank:
            return None
        try:
            names = targets(architecture, self.targets)
        except ValueError as error:
            raise ValueError(f'--config.adapter.targets: {error}') from error
        return LowRank(self.rank, self.alpha, names, self.rslora, self.dora)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis of a slice; -1 once: the remaining ones.

    A slice is what fast links join: a TPU slice, a machine of GPUs.
    """

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    dcn_data: int = at_least(1, 1)  # slices along data, whose links (data-centre network) are slow
    dcn_fsdp: int = at_least(1, 1)  # and along fsdp: 1 and 1 lay the axes over all as they come


@dataclasses.dataclass(frozen=True)
class Train:
    """What is trained, how long, and what happens along the way. Counts are optimiser steps."""

    objective: str = 'next_token'  # what is minimised: see training/objectives.py
    only: str = ''  # patterns of parameters to train, 'layers.-1,final_norm'; '' trains all
    freeze: str = ''  # patterns of parameters to leave as they are, such as 'embed'
    rows_from: int = at_least(0, 0)  # of tables that are trained, the rows from this one on alone
    epochs: float = at_least(0, 1.0)
    steps: int = at_least(0, 0)  # wins over epochs when set
    max_steps: int = at_least(0, 0)  # stop here although schedule and plan go on; 0 is off
    log_every: int = at_least(1, 10)
    eval_every: int = at_least(-1, 0)  # 0: four times an epoch, at least 5 steps apart; -1: never
    checkpoint_every: int = at_least(-1, 0)  # 0: as eval_every; -1: only at the end
    keep_last: int = at_least(1, 2)
    keep_best: int = at_least(0, 1)
    sample_prompts: str = ''  # JSON lines, answered at each evaluation and at the end; '' is off
    sample_tokens: int = at_least(1, 128)  # of each of these answers, at most
    profile_from: int = at_least(0, 0)  # a trace of steps profile_from up to profile_to; 0 is off
    profile_to: int = at_least(0, 0)
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
    adapter: Adapter = Adapter()
    mesh: Mesh = Mesh()
    train: Train = Train()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `config.json` of a run directory holds them."""
        return dataclasses.asdict(self)


def default() -> ConfigDict:
    """Every field with its default; a recipe sets what it is about. Unknown fields are refused.

    `model.architecture` is empty and open: a model of one's own has its fields put there.
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


def save(run: Run, path: pathlib.Path) -> None:
    """Writes a run's values as JSON; a kill leaves the old file or the new one."""
    write_json(path, run.to_dict())


def load(path: pathlib.Path) -> Run:
    """Reads what `save` wrote; a file that is missing or damaged is a ValueError that names it."""
    values = read_json(path, 'restore it from where the run was made')
    try:
        run = from_dict(values, f'{path}: ')
        declaration.check(run, f'{path}: ')
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f'{path}: {error}') from error  # an architecture names its field alone
    return run


def parse_sources(text: str, field: str) -> tuple[Source, ...]:
    r"""'a.jsonl=2,b\,c.json' -> (Source('a.jsonl', 2.0), Source('b,c.json', 1.0)).

    What follows the last '=' is a weight if it is a number, else it belongs to the path; a weight
    that is not positive is a ValueError that names the field.
    """
    sources = []
    for part in filter(None, (p.strip() for p in text.replace('\\,', '\0').split(','))):
        part = part.replace('\0', ',')
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


def from_dict(values: dict[str, Any], place: str = '--config.') -> Run:
    """A `Run` from plain values, such as a run directory's `config.json`, which `place` names."""
    return declaration.build(Run, values, place)


def _check(run: Run) -> None:
    declaration.check(run, '--config.')
    if run.model.preset not in ('', *PRESETS):
        raise unknown('--config.model.preset', run.model.preset, PRESETS)
    if run.batch.size % run.batch.accumulation:
        raise ValueError(
            f'--config.batch.accumulation={run.batch.accumulation} does not divide batch.size='
            f'{run.batch.size}: every micro-batch has the same number of rows.'
        )
    given = [f'model.{n}' for n in ('source', 'preset', 'architecture') if getattr(run.model, n)]
    if len(given) != 1:
        raise ValueError(
            f'{" and ".join(given) or "no model"} is set: set exactly one of --config.model.source '
            '(published weights), model.preset or model.architecture (random weights).'
        )
    for field in dataclasses.fields(run.adapter):
        if not run.adapter.rank and getattr(run.adapter, field.name) != field.default:
            raise ValueError(
                f'--config.adapter.{field.name}={getattr(run.adapter, field.name)} is set and '
                'adapter.rank is 0: there is no adapter. Set --config.adapter.rank, 8 or 16 say.'
            )
    for field in ('only', 'freeze'):
        if run.adapter.rank and (patterns := getattr(run.train, field)):
            raise ValueError(
                f'--config.train.{field}={patterns!r} is set beside an adapter, beside which all '
                'is frozen: what is trained there as well is named by --config.adapter.also.'
            )
    _ = run.data.sources  # raises on a malformed weight
