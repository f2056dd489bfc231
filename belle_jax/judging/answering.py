"""The first stage: what a model answers to the questions, from one of three sources.

Whatever the source, the answers come to lie in one file, as `sample --prompts` writes it: JSON
lines of id, input, output and finish_reason, in the order of the questions.
"""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from belle_jax.api import Budget, Client, Journal, Reply, Request, session
from belle_jax.api.session import Standing
from belle_jax.data.fields import BadRow
from belle_jax.data.row_file import RowFile
from belle_jax.files import WholeText
from belle_jax.judging.questions import Question

ASKED = ('input', 'question', 'prompt', 'instruction')
ANSWERED = ('output', 'answer', 'response', 'prediction', 'model_answer')
TOO_LONG = 'too long'  # the finish reason of a question that the model's context has no room for
FAILED = 'error'  # of one that a server gave up


class Response(NamedTuple):
    """A model's answer: its text, and why it ended, so far as that is known."""

    text: str
    finish_reason: str = ''

    @property
    def failed(self) -> bool:
        """Whether there is none, as the server gave none: it is not to be judged."""
        return self.finish_reason == FAILED


def from_model(
    questions: Sequence[Question],
    output: Path,
    *,
    model: str,
    template: str = '',
    system: str | None = None,
    dtype: str = 'float32',
    batch_size: int = 8,
    devices: int = 1,
    adapter: str = '',
    options: Mapping[str, Any],
    writes: bool = True,
) -> None:
    """Answers with a model of ours, in batches; stopped work goes on behind the last answer.

    Args:
        questions: To answer.
        output: The file of answers.
        model: Run directory, checkpoint, Hugging Face directory or hub name.
        template: Of the conversation; '': the model's own.
        system: Message of that role; None: the run's.
        dtype: Of weights and activations.
        batch_size: Questions at a time.
        devices: That share each weight; of several processes all, and all call this.
        adapter: Of the model, as in `belle_jax.load`.
        options: Fields of `Sampling`.
        writes: Whether this process writes the file, which one does.
    Raises:
        ValueError: the model cannot be used, or the file has answers of another model.
    """
    from belle_jax.decoding import Sampling, assistant, prompt_file

    rows = [
        prompt_file.PromptRow(
            f'question {q.number}', q.number, q.text, [{'role': 'user', 'content': q.text}]
        )
        for q in questions
    ]
    voice = assistant.voice(model, template, system)
    run = {
        'model': model,
        'step': voice.step,
        'template': voice.template.name,
        'system': voice.system,
        'dtype': dtype,
        'batch_size': batch_size,
        'settings': dict(options),
    }
    if adapter:
        run['adapter'] = adapter
    with prompt_file.Output(output, rows, run, writes) as answers:
        answers.agree()
        if answers.done < len(rows):
            placed: Any = {'dtype': dtype, 'devices': devices, 'adapter': adapter}
            engine = assistant.engine(model, voice, batch_size=batch_size, **placed)
            settings = Sampling(**options)
            prompt_file.answer(
                engine, voice, rows, answers, lambda tokens: settings, too_long=TOO_LONG
            )


def speaker(
    *,
    model: str,
    template: str = '',
    system: str | None = None,
    dtype: str = 'float32',
    batch_size: int = 1,
    devices: int = 1,
    adapter: str = '',
    options: Mapping[str, Any],
) -> Callable[[str], str]:
    """What has a model of ours answer one question; arguments and errors as in `from_model`."""
    from belle_jax.decoding import Sampling, assistant

    voice = assistant.voice(model, template, system)
    placed: Any = {'dtype': dtype, 'devices': devices, 'adapter': adapter}
    engine = assistant.engine(model, voice, batch_size=batch_size, **placed)

    def answer(text: str) -> str:
        prompt = voice.prompt([{'role': 'user', 'content': text}])
        engine.check_prompt(prompt)
        (completion,) = engine.generate([prompt], Sampling(**options))
        return voice.answer(completion.text)

    return answer


@dataclasses.dataclass(frozen=True)
class Asked:
    """How a server's model is asked.

    Attributes:
        model: As the server knows it.
        options: Fields of the requests beside model and messages.
        concurrency: Requests in flight.
        budget: Of the journal.
    """

    model: str
    options: Mapping[str, Any]
    concurrency: int = 16
    budget: Budget | None = None

    def body(self, *said: str) -> dict[str, Any]:
        """The request that carries a conversation: the user's and the model's turns."""
        roles = ('user', 'assistant')
        messages = [{'role': roles[i % 2], 'content': text} for i, text in enumerate(said)]
        return {'model': self.model, 'messages': messages, **self.options}


def from_server(
    questions: Sequence[Question], output: Path, asked: Asked, client: Client, journal: Journal
) -> str:
    """Answers with a server's model; what the journal has is not asked again.

    Returns:
        '' or a sentence that says why answers are missing.
    Raises:
        ValueError, OSError: as `ask_all`. What was answered stays in the journal.
    """
    replies: list[Reply] = []

    def use(reply: Reply) -> bool:
        replies.append(reply)
        return False

    requests = (Request(place, asked.body(q.text)) for place, q in enumerate(questions))
    asking = ask(requests, client, journal, asked, use, 'answered', len(questions))
    ended = ended_by(asking)
    if len(replies) < len(questions):
        return unfinished(ended, f'{len(replies):,} of {len(questions):,} questions are answered')
    with WholeText(output) as file:
        for question, reply in zip(questions, replies):
            reason = FAILED if reply.error else reply.finish_reason
            row = {'id': question.number, 'input': question.text, 'output': reply.text}
            row |= {'finish_reason': reason} | ({'error': reply.error} if reply.error else {})
            file.write(json.dumps(row, ensure_ascii=False) + '\n')
    return given_up([reply.error for reply in replies], 'questions')


async def ask(
    requests: Iterator[Request],
    client: Client,
    journal: Journal,
    asked: Asked,
    use: Callable[[Reply], bool],
    done: str,
    total: int,
) -> str:
    """As `ask_all`, for a known number of requests, with a live line."""
    counters = client.counters
    begun = counters.used

    def standing() -> Standing:
        used = counters.used - begun
        return Standing(f'{done} {used:,}/{total:,}', used / total if total else None)

    return await session.ask(
        requests,
        client,
        journal,
        standing,
        concurrency=asked.concurrency,
        use=use,
        budget=asked.budget,
    )


def ended_by(asking: Coroutine[Any, Any, str]) -> str:
    """How it ended, as `ask_all` has it, or 'interrupted'."""
    try:
        return asyncio.run(asking)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 'interrupted'


def unfinished(ended: str, so_far: str) -> str:
    """The sentence about a stage that did not come to its end."""
    why = {
        'budget': 'the budget is reached: raise it and run the same command to go on',
        'interrupted': 'interrupted: run the same command to go on',
    }.get(ended, 'run the same command to go on')
    return f'{so_far}; {why}.'


def given_up(errors: Sequence[str], what: str) -> str:
    """The sentence about requests that a server did not answer; '' where there are none."""
    if not (failures := [error for error in errors if error]):
        return ''
    return (
        f'{len(failures):,} {what} were given up (the last one: {failures[-1]}): the same command '
        'asks for them again.'
    )


def read(path: str | Path, questions: Sequence[Question]) -> list[Response]:
    """The answers of a file to questions: ours, or another program's predictions.

    Rows are matched by the text of their question; where they have none by their `id`, a question's
    number, and else by their order.

    Args:
        path: JSON lines or a JSON array. The answer is `output`, `answer`, `response`,
            `prediction` or `model_answer`, the question `input`, `question`, `prompt` or
            `instruction`.
        questions: All that are to be answered.
    Raises:
        ValueError: the file cannot be read, or lacks an answer to one of them.
    """
    found: list[tuple[str, Any, Response]] = []
    for where, row in RowFile(path):
        if isinstance(row, BadRow):
            raise ValueError(f'{where}: {row}') from row
        if not isinstance(row, dict):
            raise ValueError(f'{where}: an answer is an object with "input" and "output".')
        text = next((row[name] for name in ANSWERED if row.get(name) is not None), None)
        if not isinstance(text, str):
            raise ValueError(f'{where} has no answer: it belongs into a field "output".')
        text = text.encode('utf-8', 'replace').decode()  # half a character cannot be written
        asked = next((row[n] for n in ASKED if isinstance(row.get(n), str)), '')
        answer = Response(text, str(row.get('finish_reason') or ''))
        found.append((asked.strip(), row.get('id'), answer))
    texts = [question.text.strip() for question in questions]
    if [asked for asked, _, _ in found] == texts:  # a set may ask one question twice
        return [answer for _, _, answer in found]
    if any(asked for asked, _, _ in found):
        by_text = {asked: answer for asked, _, answer in found}
        answers = [by_text.get(text) for text in texts]
    elif all(number is not None for _, number, _ in found):
        by_number = {number: answer for _, number, answer in found}
        answers = [by_number.get(question.number) for question in questions]
    else:
        answers = [answer for _, _, answer in found] if len(found) == len(texts) else []
    missing = [q for q, answer in zip(questions, answers or [None] * len(texts)) if answer is None]
    if missing:
        raise ValueError(
            f'{path} has no answer to {len(missing):,} of {len(questions):,} questions, the first '
            f'of them {missing[0].number} ({missing[0].text[:40]!r}): give the questions that it '
            'answers with --questions, or answer the rest.'
        )
    return [answer for answer in answers if answer is not None]


def write(path: Path, questions: Sequence[Question], answers: Sequence[Response]) -> None:
    """Writes answers that came from elsewhere in the layout of all others."""
    with WholeText(path) as file:
        for question, answer in zip(questions, answers):
            row = {'id': question.number, 'input': question.text, 'output': answer.text}
            row |= {'finish_reason': answer.finish_reason or None}
            file.write(json.dumps(row, ensure_ascii=False) + '\n')
