"""What a model makes of prompts: answers."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from flax import nnx

from belle_jax import families, models
from belle_jax.decoding import beams, loop
from belle_jax.decoding.batch import (
    AnswerBatch,
    group_by_length,
    mesh_of,
)
from belle_jax.decoding.sampling import Sampling
from belle_jax.decoding.text import TextStream

STREAM_STEPS = 8
"""Tokens between two pieces of streamed text."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        text: Without end-of-sequence token and stop string.
        tokens: All that were made, the end-of-sequence token included.
        finish_reason: 'stop' (end of sequence or stop string) or 'length'.
        prompt_tokens: Tokens of the prompt.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int

    @property
    def completion_tokens(self) -> int:
        """Tokens that were made."""
        return len(self.tokens)


class Engine:
    """A model that answers prompts, any number of times."""

    def __init__(
        self,
        model: models.Decoder,
        tokenizer: Any = None,
        *,
        eos_ids: Sequence[int] | None = None,
        batch_size: int = 8,
    ):
        """
        Args:
            model: Any decoder; on a mesh where its parameters are.
            tokenizer: With transformers' `decode`; without one answers have tokens but no text.
            eos_ids: Tokens that end an answer, by default the architecture's.
            batch_size: Prompts answered at a time.
        """
        self.architecture = model.architecture
        self.tokenizer, self.batch_size = tokenizer, batch_size
        ids = self.architecture.eos_ids if eos_ids is None else eos_ids
        self.eos_ids = tuple(sorted(set(ids)))
        with mesh_of(models.parameters(model)):
            laid_out = models.for_decoding(model)  # and nothing here keeps what it is made of
        self.on_mesh = functools.partial(mesh_of, models.parameters(laid_out))
        self.graphdef, self.params = nnx.split(laid_out)

    def room(self, prompt_tokens: int) -> int | None:
        """Tokens that an answer may have until the model's context is full; None: any number.

        Only fixed rotary positions have an end; ALiBi and `dynamic` RoPE read on.
        """
        return room(self.architecture, prompt_tokens)

    def check_prompt(self, tokens: Sequence[int]) -> None:
        """Validates one prompt, as the function of that name."""
        check_prompt(self.architecture, tokens)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Sampling | Sequence[Sampling] | None = None,
        *,
        rows: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Answers prompts, in batches of similar length.

        Args:
            prompts: Token ids.
            settings: For all of them, or one for each; greedy by default.
            rows: Numbers that with the seed decide the draws; by default 0, 1, 2, ...
        Returns:
            One completion for each prompt, in their order.
        Raises:
            ValueError: a prompt is empty or fills the model's context.
        """
        if settings is None or isinstance(settings, Sampling):
            settings = [settings or Sampling()] * len(prompts)
        if (count := len(settings)) != len(prompts):
            raise ValueError(f'{len(prompts)} prompts have {count} settings: give one for each.')
        rows = range(len(prompts)) if rows is None else rows
        for prompt in prompts:
            self.check_prompt(prompt)
        completions: list[Any] = [None] * len(prompts)
        for indices in group_by_length([len(p) for p in prompts], self.batch_size):
            answers = self._answers([prompts[i] for i in indices], [settings[i] for i in indices])
            for _ in self._run(answers, [rows[i] for i in indices], loop.CHUNK):
                pass
            for i, answer in zip(indices, answers):
                completions[i] = answer.completion()
        return completions

    def stream(
        self, prompt: Sequence[int], settings: Sampling | None = None, *, row: int = 0
    ) -> Iterator[str | Completion]:
        """Answers one prompt piece by piece.

        Args:
            prompt: Token ids.
            settings: Greedy by default.
            row: Decides the draws with the seed.
        Yields:
            Text as it becomes certain (str), then the Completion.
        Raises:
            ValueError: as `generate`.
        """
        self.check_prompt(prompt)
        answers = self._answers([prompt], [settings or Sampling()])
        shown = 0
        for _ in self._run(answers, [row], STREAM_STEPS):
            text = answers[0].text
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
        yield answers[0].completion()

    def _answers(self, prompts, settings) -> list['PendingAnswer']:
        answers = []
        for prompt, one in zip(prompts, settings):
            room = self.room(len(prompt))
            most = one.max_new_tokens if room is None else min(one.max_new_tokens, room)
            answers.append(PendingAnswer(prompt, one, most, self.eos_ids, self.tokenizer))
        return answers

    def _run(
        self, answers: list['PendingAnswer'], rows: Sequence[int], steps: int
    ) -> Iterator[None]:
        """Completes answers, yielding whenever some of them have grown."""
        if any(a.settings.num_beams > 1 for a in answers):
            with self.on_mesh():
                for answer, tokens in zip(answers, beams.search(AnswerBatch(self, answers, rows))):
                    answer.take(tokens)
            yield
            return
        batch = AnswerBatch(self, answers, rows)
        new = batch.first()
        while True:
            for answer, tokens in zip(answers, new):
                answer.take(tokens)
            yield
            if all(answer.finish_reason for answer in answers):
                return
            new = batch.advance([bool(a.finish_reason) for a in answers], steps)


def room(architecture: families.Architecture, prompt_tokens: int) -> int | None:
    """As `Engine.room`, of a model that need not be there yet."""
    limit = families.of(architecture).context_limit(architecture)
    return None if limit is None else max(limit - prompt_tokens, 0)


def check_prompt(architecture: families.Architecture, tokens: Sequence[int]) -> None:
    """Validates one prompt.

    Raises:
        ValueError: it is empty, fills the model's context, or has a token that is none.
    """
    if not len(tokens):
        raise ValueError('the prompt has no tokens: begin it with text or a bos token.')
    if not 0 <= min(tokens) <= max(tokens) < architecture.vocab_size:
        raise ValueError(
            f'the prompt has token {max(tokens)} and the model knows '
            f"{architecture.vocab_size}: the tokenizer is another model's."
        )
    if room(architecture, len(tokens)) == 0:
        raise ValueError(
            f'the prompt has {len(tokens)} tokens and the model reads at most '
            f'{architecture.max_position}: shorten it so that an answer fits behind it.'
        )


class PendingAnswer:
    """An answer in the making: the host's side of one row."""

    def __init__(self, prompt, settings: Sampling, most: int, eos_ids, tokenizer):
        """Begins with nothing; `most` tokens may come, text only where there is a tokenizer."""
        self.prompt, self.settings, self.most = list(prompt), settings, most
        self.tokens: list[int] = []
        self.finish_reason = ''
        self._eos_ids = eos_ids
        if tokenizer is None and settings.stop:
            raise ValueError(f'stop={settings.stop!r} is text: give the engine a tokenizer.')
        self._stream = TextStream(tokenizer, self.prompt, settings.stop) if tokenizer else None

    @property
    def text(self) -> str:
        """What is certain so far."""
        return self._stream.text if self._stream else ''

    def take(self, tokens: Sequence[int]) -> None:
        """Adds new tokens, and notices the end."""
        if self.finish_reason or not tokens:
            return
        self.tokens += tokens
        ended = tokens[-1] in self._eos_ids
        if ended or len(self.tokens) >= self.most:
            self.finish_reason = 'stop' if ended else 'length'
        if self._stream:
            self._stream.feed(tokens[:-1] if ended else tokens, last=bool(self.finish_reason))
            if self._stream.stopped:
                self.tokens, self.finish_reason = list(self._stream.tokens), 'stop'

    def completion(self) -> Completion:
        """The answer as it is."""
        return Completion(self.text, self.tokens, self.finish_reason, len(self.prompt))
