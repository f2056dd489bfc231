"""What a model in training answers to the same few prompts, evaluation after evaluation.

Answers are greedy, and draw on nothing that training draws on, so training does not notice them.
While they are made, a copy of the parameters laid out for decoding is on the devices, split over
the mesh as they are: 4 bytes each where activations are float32, 2 where they are bfloat16.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from belle_jax import models, storage
from belle_jax.config import Architecture, Run
from belle_jax.data import Template, Tokenizer
from belle_jax.decoding.assistant import Voice
from belle_jax.decoding.engine import Engine, check_prompt
from belle_jax.decoding.prompt_file import PromptRow, read_prompts
from belle_jax.decoding.sampling import Sampling
from belle_jax.files import write_text
from belle_jax.pages import page
from belle_jax.runs import run_directory
from belle_jax.training.metrics import records_until, write_records
from belle_jax.training.step import State

COLUMNS, POINTS = 16, 300
"""What the page shows at most: steps, and points of a curve. The files have them all."""


class Samples:
    """Asks the prompts of `train.sample_prompts`, and shows the answers on `page`."""

    def __init__(self, run: Run, words: Tokenizer, workdir: Path):
        """Reads the prompts.

        Args:
            run: With its architecture.
            words: The run's tokenizer.
            workdir: The run directory.
        Raises:
            ValueError: the file is missing or damaged, or a prompt cannot be answered.
        """
        self._run, self._workdir = run, workdir
        self._path = workdir / run_directory.SAMPLES
        self.page = self._path.with_suffix('.html')
        self._voice = Voice(words, Template(run.data.template, words), run.data.system, None)
        self._rows = _read(run.train.sample_prompts)
        self._prompts = [_tokens(row, self._voice, run.model.architecture) for row in self._rows]
        self._records: list[dict[str, Any]] = []

    @property
    def fingerprint(self) -> str:
        """Of the prompts."""
        return hashlib.sha256(json.dumps(self._prompts).encode()).hexdigest()

    def go_on(self, step: int, say: Callable[[str], None]) -> None:
        """Takes up the answers that were given up to a step; process 0 alone has them."""
        if jax.process_index() == 0:
            self._records = records_until(step, self._path, say, _read_answers)

    def answer(self, step: int, blueprint: models.Blueprint, state: State) -> None:
        """Asks what a step has come to; all processes do, under the mesh, and process 0 writes."""
        template, words = self._voice.template, self._voice.tokenizer
        model = _decoder(blueprint, state, self._run.model.dtype)
        engine = Engine(
            model,
            words,
            eos_ids=(*model.architecture.eos_ids, *template.stop_ids),
            batch_size=max(8, self._run.batch.size // self._run.batch.accumulation),
        )
        del model  # the engine has its own
        completions = engine.generate(self._prompts, Sampling(self._run.train.sample_tokens))
        if jax.process_index():
            return
        for row, completion in zip(self._rows, completions, strict=True):
            given = {'step': step, 'id': row.id, 'input': row.input}
            output = self._voice.answer(completion.text)
            self._records.append(
                given | {'output': output, 'finish_reason': completion.finish_reason}
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_records(self._path, self._records)
        losses = run_directory.read_metrics(self._workdir / run_directory.METRICS)[0]
        write_text(self.page, render(self._workdir.name, self._records, losses))


def render(title: str, answers: Sequence[Mapping[str, Any]], metrics: Sequence[Any]) -> str:
    """A page with the loss over steps, and a row of answers for each prompt, the newest first.

    Args:
        title: Of the run.
        answers: Lines of samples.jsonl.
        metrics: Lines of metrics.jsonl.
    """
    curves = []
    for name, colour in (('loss', 'a'), ('evaluation_loss', 'b')):
        points = [(r['step'], r[name]) for r in metrics if r.get(name) is not None]
        if points:
            label = 'evaluation' if name == 'evaluation_loss' else 'training'
            curves.append((label, colour, _spread(points, POINTS)))
    steps = sorted({record['step'] for record in answers}, reverse=True)
    rows: dict[str, dict[str, Any]] = {}
    for record in answers:
        key = json.dumps([record['id'], record['input']])
        row = rows.setdefault(key, {'id': record['id'], 'input': record['input'], 'by_step': {}})
        row['by_step'][record['step']] = record
    return page.render(
        'samples.jinja',
        title=title,
        chart=page.lines(curves, 'step', '{:.3g}'.format),
        steps=_spread(steps, COLUMNS),
        left_out=max(len(steps) - COLUMNS, 0),
        rows=list(rows.values()),
    )


def _read(path: str) -> list[PromptRow]:
    file = storage.local(path)
    try:
        return read_prompts(file)
    except OSError as error:
        raise ValueError(
            f'--config.train.sample_prompts={path} cannot be read ({error.strerror}): give a file '
            "of prompts, or '' for none."
        ) from error


def _tokens(row: PromptRow, voice: Voice, architecture: Architecture | None) -> list[int]:
    assert architecture is not None, 'a run that has begun has one'
    try:
        json.dumps([row.id, row.input], ensure_ascii=False).encode()  # half a character may be read
        tokens = voice.prompt(row.messages)
        check_prompt(architecture, tokens)
    except ValueError as error:
        raise ValueError(f'{row.place}: {error}') from error
    return tokens


def _decoder(blueprint: models.Blueprint, state: State, dtype: str) -> models.Decoder:
    """The model as `sample` would load it with a dtype; what takes less stays as it is."""
    width = jnp.dtype(dtype).itemsize

    def held(array: jax.Array) -> jax.Array:
        wide = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize > width
        return array.astype(dtype) if wide else array

    params = {name: held(array) for name, array in (state.trainable | state.frozen).items()}
    return models.build(blueprint, params, dtype=dtype)


_read_answers = functools.partial(
    run_directory.read_records,
    whole=lambda record: {'id', 'input', 'output', 'finish_reason'} <= record.keys(),
)


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most that many, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
