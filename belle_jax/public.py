"""What Python programs call: train a run, load what came of it, let it answer, score texts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from belle_jax import config
from belle_jax.runs.load import load_model

if TYPE_CHECKING:
    import numpy as np

    from belle_jax.decoding import Completion, Engine
    from belle_jax.decoding.assistant import Voice

__all__ = ['Assistant', 'generate', 'load', 'load_model', 'score', 'train_run']

Prompt = str | Sequence[dict[str, Any]]
"""A user's message, or a conversation: [{'role': 'user', 'content': '…'}, …]."""


@dataclasses.dataclass(frozen=True)
class Assistant:
    """A model that one can talk to. Make one with `load`.

    Attributes:
        engine: Weights that answer tokens.
        voice: Tokenizer, chat template and system message.
    """

    engine: 'Engine'
    voice: 'Voice'

    def conversation(self, prompt: Prompt) -> list[dict[str, Any]]:
        """A prompt's turns, with the run's system message where it has none."""
        if isinstance(prompt, str):
            prompt = [{'role': 'user', 'content': prompt}]
        return self.voice.conversation(prompt)


def train_run(run: 'config.Run | ConfigDict', workdir: str | Path) -> Path:
    """Trains to the end, or goes on with what the directory holds, as `belle-jax train` does.

    Args:
        run: From `belle_jax.config.resolve`, or a recipe, which is resolved.
        workdir: The run directory, or gs://… or s3://….
    Returns:
        The run directory here, for `load`.
    Raises:
        ValueError: a field, a file or the devices do not fit, or the loss is not finite.
        OSError: a checkpoint could not be saved.
    """
    from belle_jax.training.loop import Trainer

    if isinstance(run, ConfigDict):
        run = config.resolve(run)
    return Trainer(run, workdir).train()


def load(
    path: str | Path,
    *,
    dtype: str = 'float32',
    template: str = '',
    system: str | None = None,
    batch_size: int = 8,
    devices: int = 1,
    weights: str | Path = '',
    adapter: str | Path = '',
) -> Assistant:
    """Loads a model that one can talk to.

    Args:
        path: A run directory, one of its checkpoints, a Hugging Face directory, also of a quantised
            model, or a hub name.
        dtype: Of weights and activations, 'float32' or 'bfloat16'.
        template: A chat template's name; '' takes what the model was trained with.
        system: A system message; None takes the run's.
        batch_size: Prompts answered at a time.
        devices: How many each weight is split over.
        weights: A bare file of quantised weights; `path` is then the directory of its base.
        adapter: A directory of PEFT's, or a run that trained one, that goes beside the weights.
    Returns:
        What `generate` and `score` take.
    Raises:
        ValueError: the source is incomplete, damaged or of a model that is not supported.
    """
    from belle_jax.decoding import assistant

    voice = assistant.voice(path, template, system)
    files = {'weights': weights, 'adapter': adapter}
    engine = assistant.engine(
        path, voice, dtype=dtype, batch_size=batch_size, devices=devices, **files
    )
    return Assistant(engine, voice)


def generate(
    assistant: Assistant, prompts: Sequence[Prompt], **settings: Any
) -> 'list[Completion]':
    """Answers prompts; what one gets does not depend on the others.

    Args:
        assistant: From `load`.
        prompts: Messages or conversations.
        settings: Fields of `belle_jax.decoding.Sampling`: max_new_tokens, temperature (0: greedy),
            top_k, top_p, min_p, repetition_penalty, stop, seed, num_beams.
    Returns:
        A completion for each, with `text`, `tokens` and `finish_reason`.
    Raises:
        ValueError: a setting is out of range, or a prompt fills the model's context.
    """
    from belle_jax.decoding import Sampling

    tokens = [assistant.voice.prompt(assistant.conversation(prompt)) for prompt in prompts]
    answers = assistant.engine.generate(tokens, Sampling(**settings))
    return [dataclasses.replace(a, text=assistant.voice.answer(a.text)) for a in answers]


def score(
    assistant: Assistant, prompts: Sequence[Prompt], answers: Sequence[str]
) -> 'list[np.ndarray]':
    """How likely the model finds given answers.

    Args:
        assistant: From `load`.
        prompts: Messages or conversations.
        answers: One for each.
    Returns:
        For each answer the log-probability of its tokens and of its end, float32 [tokens], in nats;
        the sum is that of the whole answer.
    Raises:
        ValueError: prompts and answers are not equally many.
    """
    from flax import nnx

    from belle_jax import decoding

    template = assistant.voice.template
    sequences, starts = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        turns = assistant.conversation(prompt)
        starts.append(len(template.prompt(turns)))
        sequences.append(template.encode([*turns, {'role': 'assistant', 'content': answer}])[0])
    engine = assistant.engine
    model = nnx.merge(engine.graphdef, engine.params)
    scores = decoding.score(model, sequences, batch_size=engine.batch_size)
    return [row[start - 1 :] for row, start in zip(scores, starts, strict=True)]
