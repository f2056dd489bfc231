"""Answering a file of prompts: in batches of similar length, written in order, resumable."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from belle_jax.data.records import Message
from belle_jax.decoding.assistant import Voice
from belle_jax.decoding.batch import group_by_length
from belle_jax.decoding.engine import Completion, Engine
from belle_jax.decoding.sampling import Sampling
from belle_jax.files import write_text
from belle_jax.json_files import read_json
from belle_jax.progress import Progress

WINDOW = 16
"""Batches that are sorted by length together: answers wait for at most that many to be written."""

SETTINGS = '.settings.json'
"""Ending of the file beside an output that says whose answers they are."""

ROLES = ('system', 'user', 'assistant')


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """One line of a prompts file."""

    place: str  # 'FILE:LINE', for errors
    id: Any  # the row's own, or the number of its line
    input: Any  # the value of its field, as it was given
    messages: list[Message]  # the conversation to answer


def read_prompts(path: str | Path) -> list[PromptRow]:
    """JSON lines with `prompt`, `messages`, or BELLE's `text`; a ValueError names file and line."""
    rows = []
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(_row(line, f'{path}:{number}', number))
    if not rows:
        raise ValueError(f'{path} has no rows: put one JSON object with "prompt" on each line.')
    return rows


def _row(line: bytes, place: str, number: int) -> PromptRow:
    try:
        values = json.loads(line.decode('utf-8-sig' if number == 1 else 'utf-8'))
    except UnicodeDecodeError as error:
        raise ValueError(f'{place}: not UTF-8 ({error.reason}): save the file as UTF-8.') from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'{place}: not JSON ({error}): put one object on each line.') from error
    fields = [f for f in ('prompt', 'messages', 'text') if isinstance(values, dict) and f in values]
    if len(fields) != 1:
        found = ' and '.join(fields) or 'none of them'
        raise ValueError(
            f'{place}: a row has one of "prompt", "messages" and "text"; found {found}.'
        )
    given = values[fields[0]]
    if fields[0] == 'messages':
        messages = _messages(given, place)
    elif isinstance(given, str):
        messages = [{'role': 'user', 'content': given}]
    else:
        raise ValueError(f'{place}: "{fields[0]}" must be text, not {type(given).__name__}.')
    return PromptRow(place, values.get('id', number), given, messages)


def _messages(given: Any, place: str) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise ValueError(f'{place}: "messages" must be a list of turns, the last one of the user.')
    for turn in given:
        if not isinstance(turn, dict) or not isinstance(turn.get('content'), str):
            raise ValueError(f'{place}: each of "messages" is an object with "role" and "content".')
        if turn.get('role') not in ROLES:
            raise ValueError(
                f'{place}: the role {turn.get("role")!r} is not one of {", ".join(ROLES)}.'
            )
    return given


class Output:
    """The answers written so far, and whose they are.

    Beside the file stands FILE.settings.json: input, model and settings. The same command goes on
    behind the last whole row; any other is refused. Of several processes one writes, and tells the
    others how far it was.
    """

    def __init__(
        self, path: str | Path, rows: Sequence[PromptRow], run: dict[str, Any], writes: bool = True
    ):
        """Opens or resumes an output for rows; `run` are JSON values that decide the answers.

        A file that holds answers of another run is a ValueError. If this process is not the one
        that `writes`, it only counts.
        """
        self.path, self._rows, self._writes = Path(path), rows, writes
        self.done = 0
        if not writes:
            return
        text = json.dumps([[r.id, r.input] for r in rows], ensure_ascii=False)
        run = run | {'input': hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}
        self._settings = settings = self.path.with_name(self.path.name + SETTINGS)
        if self.path.exists() and self.path.stat().st_size:
            self._check(settings, json.loads(json.dumps(run)))
            self._resume()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(settings, json.dumps(run, ensure_ascii=False, indent=1) + '\n')
        self._file = open(self.path, 'a', encoding='utf-8')  # noqa: SIM115 - until close()

    def write(self, completion: Completion, output: str) -> None:
        """Adds the next row's answer."""
        self.done += 1
        if not self._writes:
            return
        row = self._rows[self.done - 1]
        values = {
            'id': row.id,
            'input': row.input,
            'output': output,
            'finish_reason': completion.finish_reason,
            'prompt_tokens': completion.prompt_tokens,
            'completion_tokens': completion.completion_tokens,
        }
        self._file.write(json.dumps(values, ensure_ascii=False) + '\n')
        self._file.flush()

    def __enter__(self) -> Self:
        """Itself; leaving closes the file."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the file; where an error left it empty, it goes with its settings."""
        if not self._writes:
            return
        self._file.close()
        if any(error) and not self.path.stat().st_size:
            self.path.unlink()
            self._settings.unlink(missing_ok=True)

    def agree(self) -> None:
        """Takes over from process 0 how many rows are done."""
        if jax.process_count() > 1:
            self.done = int(multihost_utils.broadcast_one_to_all(np.int32(self.done)))

    def _check(self, settings: Path, run: dict[str, Any]) -> None:
        if not settings.is_file():
            raise ValueError(
                f'{self.path} exists and {settings.name} does not say what made it: give another '
                '--output, or delete it.'
            )
        before = read_json(settings, 'give another --output, or delete both')
        other = [k for k in {**before, **run} if before.get(k) != run.get(k)]
        if other:
            raise ValueError(
                f'{self.path} belongs to a run with other {", ".join(other)}: give another '
                '--output, or delete it to begin anew.'
            )

    def _resume(self) -> None:
        """Counts whole rows; a last line that a kill tore is cut off."""
        whole = 0
        with open(self.path, 'rb+') as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b'\n'):
                    break
                if self.done == len(self._rows) or _id(line) != self._rows[self.done].id:
                    raise ValueError(
                        f'{self.path}:{number} is not the answer to the row in its place of the '
                        'input: give another --output, or delete it to begin anew.'
                    )
                self.done += 1
                whole += len(line)
            file.truncate(whole)


def _id(line: bytes) -> Any:
    try:
        return json.loads(line)['id']
    except (ValueError, KeyError, TypeError, RecursionError):
        return ValueError


def answer(
    engine: Engine,
    voice: Voice,
    rows: Sequence[PromptRow],
    output: Output,
    settings: Callable[[int], Sampling],
    too_long: str = '',
) -> None:
    """Answers all rows that `output` does not have yet; a ValueError names one that cannot be.

    Batches are the same whether the run was interrupted or not, and so are the answers. Several
    processes that hold one model call it together.

    Args:
        engine: Answers.
        voice: Writes prompts.
        rows: All of the file.
        output: Has the answers of earlier runs.
        settings: Of an answer, by the tokens of its prompt.
        too_long: The finish reason of an empty answer to a prompt that fills the model's context;
            '': such a prompt is an error.
    """
    output.agree()
    prompts, waiting = _prompts(engine, voice, rows, too_long)
    waiting = {place: empty for place, empty in waiting.items() if place >= output.done}
    progress = Progress('answering', 'rows', len(rows), output.done)
    made = output.done
    tokens = 0
    size = WINDOW * engine.batch_size
    for start in range(output.done - output.done % size, len(rows), size):
        window = [i for i in range(start, min(start + size, len(rows))) if prompts[i]]
        for batch in group_by_length([len(prompts[i]) for i in window], engine.batch_size):
            numbers = [window[i] for i in batch]
            if max(numbers) < output.done:
                continue
            group = [prompts[i] for i in numbers]
            completions = engine.generate(group, [settings(len(p)) for p in group], rows=numbers)
            waiting |= {i: c for i, c in zip(numbers, completions) if i >= output.done}
            _write(output, waiting, voice)
            made = min(made + len(completions), len(rows))
            tokens += sum(c.completion_tokens for c in completions)
            progress.show(made, tokens=tokens)
    _write(output, waiting, voice)
    progress.end(made)


def _prompts(
    engine: Engine, voice: Voice, rows: Sequence[PromptRow], too_long: str
) -> tuple[list[list[int]], dict[int, Completion]]:
    """The prompts of rows, and the answers to those that are too long, whose prompts are empty."""
    prompts, unanswered = [], {}
    for place, row in enumerate(rows):
        try:
            prompt = voice.prompt(row.messages)
            if too_long and engine.room(len(prompt)) == 0:
                unanswered[place] = Completion('', [], too_long, len(prompt))
                prompt = []
            else:
                engine.check_prompt(prompt)
        except ValueError as error:
            raise ValueError(f'{row.place}: {error}') from error
        prompts.append(prompt)
    return prompts, unanswered


def _write(output: Output, waiting: dict[int, Completion], voice: Voice) -> None:
    """Writes what is next in order, so far as it is there."""
    while output.done in waiting:
        completion = waiting.pop(output.done)
        output.write(completion, voice.answer(completion.text))
