"""How likely a model finds given texts: the log-probability of each token after those before it.

What goes on from the same context, as the choices of a question do, reads it once: it fills a cache
that each of them starts from; where they have one token each, the context is all that is read.
Every other text is read whole, without a cache. Logits are made where a token is asked after, and
nowhere else.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from belle_jax import models, sharding
from belle_jax.decoding import loop
from belle_jax.decoding.batch import (
    batch_rows,
    few_shapes,
    group_by_length,
    mesh_of,
    prompt_length,
)
from belle_jax.decoding.sampling import FilterPlan
from belle_jax.progress import Progress

Tokens = Sequence[int]
Found = tuple[int, int, slice]  # a continuation's number, and where in its batch's results it is
UNFILTERED = FilterPlan(penalty=False, minimum=False, draw=False, sort=0, min_p=False)


class Likelihood(NamedTuple):
    """What a model makes of a continuation.

    Attributes:
        total: The log-probability of all its tokens, nats.
        greedy: Whether no token was likelier anywhere: greedy decoding would write it.
    """

    total: float
    greedy: bool


class Text(NamedTuple):
    """A text that is read, and the tokens that are asked after.

    Attributes:
        tokens: That are read.
        places: After which each of the targets is asked for.
        targets: Those tokens.
        numbers: Of the continuations that the targets are, in equal parts.
    """

    tokens: Tokens
    places: Tokens
    targets: Tokens
    numbers: Sequence[int]

    @property
    def extent(self) -> tuple[int, int]:
        """Tokens that are read, and columns of targets."""
        return len(self.tokens), len(self.targets)


class Group(NamedTuple):
    """A context, and what goes on from it by number."""

    context: Tokens
    continuations: dict[int, Tokens]

    @property
    def longest(self) -> int:
        """Tokens of the longest continuation."""
        return max(map(len, self.continuations.values()))

    @property
    def extent(self) -> tuple[int, int]:
        """Tokens that are read once, and that are read of each continuation."""
        return len(self.context), self.longest - 1

    def texts(self) -> Iterator[Text]:
        """The continuations as texts of their own; of one token each, they are one text."""
        last = len(self.context) - 1
        if self.longest == 1:
            targets = [tokens[0] for tokens in self.continuations.values()]
            yield Text(self.context, [last] * len(targets), targets, [*self.continuations])
            return
        for number, tokens in self.continuations.items():
            places = range(last, last + len(tokens))
            yield Text([*self.context, *tokens[:-1]], places, tokens, [number])


def score(
    model: models.Decoder, sequences: Sequence[Tokens], *, batch_size: int = 8
) -> list[np.ndarray]:
    """The log-probability of each token after those before it.

    Args:
        model: Any decoder; on a mesh where its parameters are.
        sequences: Token ids, each with at least two (the first is only read).
        batch_size: Sequences at a time.
    Returns:
        For each sequence float32 [len - 1], in nats, in the order of `sequences`.
    Raises:
        ValueError: a sequence has fewer than two tokens.
    """
    for number, sequence in enumerate(sequences):
        if len(sequence) < 2:
            raise ValueError(
                f'sequence {number} has {len(sequence)} tokens: the first is only read, so at '
                'least two are needed.'
            )
    texts = [Text(s[:-1], range(len(s) - 1), s[1:], [i]) for i, s in enumerate(sequences)]
    results = [np.empty(0, np.float32)] * len(sequences)
    with mesh_of(models.parameters(model)):
        for number, logs, _ in _results(_read_texts(nnx.split(model), texts, batch_size)):
            results[number] = logs
    return results


def likelihoods(
    model: models.Decoder, pairs: Sequence[tuple[Tokens, Tokens]], *, batch_size: int = 8
) -> list[Likelihood]:
    """How likely a model finds continuations of contexts.

    Args:
        model: Any decoder; on a mesh where its parameters are.
        pairs: Contexts and what follows them, token ids, neither of them empty.
        batch_size: Texts at a time.
    Returns:
        One for each pair, in their order.
    Raises:
        ValueError: a context or a continuation is empty, a token is none of the model's, or a
            log-probability is not finite.
    """
    _check(pairs, model.architecture.vocab_size)
    shared, texts = [], []
    for group in _groups(pairs, batch_size):
        if _worth_sharing(group, model.architecture.max_position):
            shared.append(group)
        else:
            texts += group.texts()
    results: list[Any] = [None] * len(pairs)
    progress, split = Progress('scoring', 'texts', len(pairs)), nnx.split(model)
    with mesh_of(models.parameters(model)):
        batches = itertools.chain(
            _read_texts(split, texts, batch_size), _read_groups(split, shared, batch_size)
        )
        for done, (number, logs, likeliest) in enumerate(_results(batches), 1):
            results[number] = Likelihood(float(logs.sum(dtype=np.float64)), bool(likeliest.all()))
            if not np.isfinite(results[number].total):
                raise ValueError(
                    f'the log-probability of text {number} is not finite: the '
                    "model's weights are damaged, or --dtype is too narrow for them."
                )
            progress.show(done)
    progress.end(len(pairs))
    return results


def _check(pairs: Sequence[tuple[Tokens, Tokens]], known: int) -> None:
    """Refuses what cannot be scored."""
    for number, (context, continuation) in enumerate(pairs):
        if not len(context) or not len(continuation):
            empty = 'continuation' if len(context) else 'context'
            raise ValueError(f'the {empty} of text {number} has no tokens: give it at least one.')
        tokens = [*context, *continuation]
        if not 0 <= min(tokens) <= max(tokens) < known:
            raise ValueError(
                f'text {number} has token {max(tokens)} and the model knows {known:,}: the '
                "tokenizer is another model's."
            )


def _groups(pairs: Sequence[tuple[Tokens, Tokens]], most: int) -> Iterator[Group]:
    """The pairs by their contexts, at most so many in a group."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, (context, _) in enumerate(pairs):
        found.setdefault(tuple(context), []).append(number)
    for context, numbers in found.items():
        for at in range(0, len(numbers), most):
            yield Group(context, {i: pairs[i][1] for i in numbers[at : at + most]})


def _worth_sharing(group: Group, max_position: int) -> bool:
    """Whether a cache of the context saves more than it costs.

    Beyond `max_position` the keys of `dynamic` RoPE depend on how long the text will be, so that
    they are not the same in all continuations.
    """
    context, longest = len(group.context), group.longest
    fits = context + longest <= max_position
    return fits and len(group.continuations) > 1 and 1 < longest <= context


def _read_texts(
    split: tuple[Any, Any], texts: Sequence[Text], batch_size: int
) -> Iterator[tuple[list[Found], Any]]:
    """Begins to read texts."""
    for batch, (rows, length, width) in _batches(texts, batch_size):
        found, tokens = [], np.zeros((rows, length), np.int32)
        places, targets = np.zeros((2, rows, width), np.int32)
        lengths = np.ones(rows, np.int32)
        for row, text in enumerate(batch):
            count = len(text.targets)
            tokens[row, : len(text.tokens)] = text.tokens
            places[row, :count], targets[row, :count] = text.places, text.targets
            lengths[row] = len(text.tokens) + 1  # the last target belongs to the text
            part = count // len(text.numbers)
            for at, number in enumerate(text.numbers):
                found.append((number, row, slice(at * part, (at + 1) * part)))
        yield found, _of_texts(*split, tokens, lengths, places, targets)


def _read_groups(
    split: tuple[Any, Any], groups: Sequence[Group], batch_size: int
) -> Iterator[tuple[list[Found], Any]]:
    """Begins to read groups, those of about as many continuations together."""
    by_choices: dict[int, list[Group]] = {}
    for group in groups:
        by_choices.setdefault(batch_rows(len(group.continuations)), []).append(group)
    for choices, alike in by_choices.items():
        for batch, (rows, length, width) in _batches(alike, max(1, batch_size // choices), choices):
            found, tokens = [], np.zeros((rows, length), np.int32)
            read, targets = np.zeros((2, rows * choices, width + 1), np.int32)
            lengths = np.ones(rows, np.int32)
            for row, group in enumerate(batch):
                tokens[row, : len(group.context)] = group.context
                lengths[row] = len(group.context)
                for at, (number, one) in enumerate(group.continuations.items(), row * choices):
                    read[at, : len(one)] = targets[at, : len(one)] = one
                    found.append((number, at, slice(len(one))))
            yield found, _of_groups(*split, tokens, lengths, read[:, :-1], targets)


def _batches(
    items: Sequence[Any], size: int, choices: int = 0
) -> Iterator[tuple[list[Any], tuple[int, ...]]]:
    """Texts, or groups of so many choices, by length, with the rows, tokens and columns that a
    batch is padded to."""
    batches, shapes = [], []
    for indices in group_by_length([item.extent[0] for item in items], size):
        batch = [items[i] for i in indices]
        longest, most = map(max, zip(*(item.extent for item in batch)))
        length = prompt_length(longest)
        width = max(most, min(4 if most <= 4 else max(16, batch_rows(most)), length))
        batches.append(batch)
        shapes.append((batch_rows(len(batch), sharding.shards('batch')), length, width))
    given = few_shapes(shapes, lambda shape: shape[0] * (shape[1] + choices * shape[2]))
    return zip(batches, (given[shape] for shape in shapes))


def _results(
    batches: Iterable[tuple[list[Found], Any]],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Log-probabilities by number, and what was likeliest; one batch is computed while another
    is laid out and read."""
    waiting = None
    for begun in itertools.chain(batches, [None]):
        if waiting:
            logs, likeliest = map(np.asarray, waiting[1])
            for number, row, columns in waiting[0]:
                yield number, logs[row, columns], likeliest[row, columns]
        waiting = begun


@functools.partial(jax.jit, static_argnames='graphdef')
def _of_texts(graphdef, params, tokens_bt, lengths_b, places_bc, targets_bc):
    """float32 and bool [B, C]; what stands behind a row's end is never read."""
    model = nnx.merge(graphdef, params)
    h_btd = model.hidden(tokens_bt, rope_lengths=lengths_b)
    h_bcd = jnp.take_along_axis(h_btd, places_bc[..., None], axis=1)
    return model.token_scores(h_bcd, targets_bc)


@functools.partial(jax.jit, static_argnames='graphdef')
def _of_groups(graphdef, params, tokens_bt, lengths_b, read_rk, targets_rc):
    """float32 and bool [R, C]: R / B rows in turn go on from a context, and C is K + 1."""
    model = nnx.merge(graphdef, params)
    (batch, length), (rows, width) = tokens_bt.shape, read_rk.shape
    unread: Any = None
    settings = loop.RowSettings(filters=unread, most=unread, total=lengths_b + width)
    cache, last_b1d, _ = loop.fill_cache(
        model, UNFILTERED, tokens_bt, lengths_b, settings, length + width
    )
    cache, last_r1d, starts_r = jax.tree.map(
        lambda a: jnp.repeat(a, rows // batch, axis=0), (cache, last_b1d, lengths_b)
    )
    positions_rk = starts_r[:, None] + jnp.arange(width)
    h_rkd, _ = model.hidden(
        read_rk, positions=positions_rk, cache=cache, rope_lengths=starts_r + width
    )
    return model.token_scores(jnp.concatenate([last_r1d, h_rkd], axis=1), targets_rc)
