"""A model that one can talk to: weights, tokenizer and chat template from one directory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from belle_jax import config, families, models, sharding
from belle_jax.data import templates, tokenizer
from belle_jax.data.records import Message
from belle_jax.decoding.engine import Engine
from belle_jax.formats import huggingface
from belle_jax.runs import run_directory
from belle_jax.runs.load import load_model, refuse_adapter


@dataclasses.dataclass(frozen=True)
class Voice:
    """What a directory says about how its model is spoken to."""

    tokenizer: tokenizer.Tokenizer
    template: templates.Template
    system: str  # the system message of conversations without one
    checkpoint: run_directory.Checkpoint | None  # the newest good one, or the one named, of a run

    @property
    def step(self) -> int | None:
        """Of the checkpoint that is spoken with."""
        return self.checkpoint.step if self.checkpoint else None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """What the answer to turns follows; what the template cannot write is a ValueError."""
        return self.template.prompt(self.conversation(messages))

    def conversation(self, messages: Sequence[Message]) -> list[Message]:
        """Turns, with the system message where they have none."""
        if self.system and all(m['role'] != 'system' for m in messages):
            return [{'role': 'system', 'content': self.system}, *messages]
        return list(messages)

    def answer(self, text: str) -> str:
        """An answer as a person reads it: without the space that some templates leave to it.

        Text that is continued without a template stays as it is.
        """
        return text if self.template.name == 'none' else text.lstrip()


def voice(path: str | Path, template: str = '', system: str | None = None) -> Voice:
    """Reads everything but the weights; arguments as in `belle_jax.load`.

    Without a template it is what the run was trained with, else the tokenizer's own, else `belle`.

    Raises:
        ValueError: there is no tokenizer or no good checkpoint, or the template does not exist.
    """
    directory = huggingface.resolve(path)
    refuse_adapter(directory)
    run, checkpoint = {}, None
    if run_directory.is_run_directory(directory):
        checkpoint = run_directory.open_checkpoint(directory)
        directory, run = checkpoint.run, checkpoint.config.get('data', {})
    words = tokenizer.load(directory)
    own = 'tokenizer' if words.chat_template else 'belle'
    style = templates.Template(template or run.get('template') or own, words)
    return Voice(words, style, run.get('system', '') if system is None else system, checkpoint)


def decoder(
    path: str | Path,
    spoken: Voice,
    *,
    dtype: str = 'float32',
    devices: int = 1,
    weights: str | Path = '',
    adapter: str | Path = '',
) -> models.Decoder:
    """Loads the weights of what `voice` read; the other arguments are as in `belle_jax.load`.

    Raises:
        ValueError: the weights are incomplete, or do not fit the devices.
    """
    mesh = None
    if devices != 1:
        available = jax.devices()
        if not 1 <= devices <= len(available):
            raise ValueError(f'devices={devices}: this machine has {len(available)}.')
        mesh = sharding.make_mesh(config.Mesh(1, 1, devices), available[:devices])
    # What `voice` opened: a run may save a newer checkpoint meanwhile, and checking takes time.
    return load_model(
        spoken.checkpoint or path, dtype=dtype, mesh=mesh, weights=weights, adapter=adapter
    )


def engine(
    path: str | Path,
    spoken: Voice,
    *,
    dtype: str = 'float32',
    batch_size: int = 8,
    devices: int = 1,
    weights: str | Path = '',
    adapter: str | Path = '',
) -> Engine:
    """What answers with the weights of `decoder`, whose errors it has."""
    files = {'weights': weights, 'adapter': adapter}
    model = decoder(path, spoken, dtype=dtype, devices=devices, **files)
    ends = {*model.architecture.eos_ids, *spoken.template.stop_ids}
    return Engine(model, spoken.tokenizer, eos_ids=sorted(ends), batch_size=batch_size)


def title(path: str | Path, engine: Engine, spoken: Voice) -> str:
    """One line that says which model this is: where from, which step, family, size, context."""
    architecture, context = engine.architecture, engine.room(0)
    count = models.count_parameters(models.Blueprint(architecture))
    parts = (
        f'{path}' + (f', step {spoken.step:,}' if spoken.step is not None else ''),
        f'{families.of(architecture).title}, {count:,} parameters',
        f'context {context:,} tokens' if context else 'any context',
    )
    return ' · '.join(parts)
