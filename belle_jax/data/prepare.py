"""From a run's data section to its plans: read, split, fit, pack, and account for every row."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from belle_jax import config
from belle_jax.data import plan, token_cache
from belle_jax.data.packing import cut, permutation
from belle_jax.data.templates import Template
from belle_jax.data.token_cache import Tokens
from belle_jax.data.tokenizer import Tokenizer

REASONS = {
    'nothing_to_learn': 'dropped, nothing to learn from',
    'later_turns_left_out': 'truncated, later turns left out',
    'prompt_shortened': 'truncated, middle of the prompt left out',
    'answer_shortened': 'truncated, middle of an answer left out',
    'texts_split': 'texts split into segments',
}


class DataAccount(dict):
    """Plain values, for data.json and model cards; as text, lines for people.

    seq_len, template, rows_per_epoch, fingerprint, and for each entry of `sources` and
    `validation`: what the reader found (describe, rows, skipped by reason, unanswered,
    unread_fields by name), what became of the examples (kept, `REASONS`, validation,
    copies_of_validation), tokens and trained_tokens, bins and packing_efficiency.
    """

    def to_dict(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self)

    def __str__(self) -> str:
        return _report(self)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What of a source is evaluated on."""

    name: str  # a file's, or the source's path where two files are called the same
    plan: plan.Plan  # one pass, in micro-batches
    tokenizer: Tokenizer

    @functools.cached_property
    def characters(self) -> int:
        """Of the tokens that count, as they decode: a measure that all tokenizers share."""
        return sum(map(self._characters, range(self.plan.steps())))

    def _characters(self, step: int) -> int:
        batch = self.plan.batch(step)
        counted = batch['weights'] > 0
        row, column = np.nonzero(counted)
        if not len(row):
            return 0
        segment = np.stack([row, batch['segment_ids'][row, column]])
        borders = np.flatnonzero(np.diff(segment).any(0)) + 1
        texts = np.split(batch['targets'][counted], borders)
        return sum(len(self.tokenizer.decode(ids.tolist())) for ids in texts)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run trains and evaluates on."""

    train: plan.Plan
    validation: tuple[HeldOut, ...]  # by source
    template: Template
    account: DataAccount


def prepare(run: config.Run, tokenizer: Tokenizer) -> Prepared:
    """Reads the sources and plans every batch.

    Args:
        run: Its `data` says what to read and how, `batch` the rows of a step, `seed` decides the
            validation split, the packing and the epochs' order, `train` where the plan ends.
        tokenizer: The model's.
    Returns:
        The plan of training, which ends after `train.epochs` (with `train.steps` it goes on), and
        those of validation.
    Raises:
        ValueError: a source cannot be read, or nothing is left to train or validate on.
    """
    data, seed = run.data, run.seed
    if not data.sources:
        raise ValueError('--config.data.path is empty: give a file of rows or a hub data set.')
    writer = Template(data.template, tokenizer)

    def opened(path: str) -> Tokens:
        return token_cache.open_source(path, writer, data.system, data.on_bad_row, data.cache_dir)

    sources = [opened(source.path) for source in data.sources]
    checks, picked = _split(sources, data.validation, seed, opened)
    nothing = [np.zeros(len(s.record_hash), bool) for s in sources]
    held = picked if checks is sources else nothing
    # A conversation that is evaluated on is not trained on, wherever else its copies stand.
    secret = [s.record_hash[mask] for s, mask in zip(checks, picked)]
    hashes = np.unique(np.concatenate(secret)) if secret else np.zeros(0, np.uint64)

    account = DataAccount(seq_len=data.seq_len, template=data.template, sources=[])
    training = []
    for source, where, held_here in zip(sources, data.sources, held):
        copies = np.isin(source.record_hash, hashes) & ~held_here
        usable = ~(held_here | copies)
        bins, entry = _planned(source, usable, data, where.weight, seed)
        entry |= {'validation': int(held_here.sum()), 'copies_of_validation': int(copies.sum())}
        training.append(bins)
        account['sources'].append({'path': where.path, 'weight': where.weight} | entry)
    made_of = [(b.source.key, b.weight) for b in training]
    settings = _settings(run, run.batch.size)
    split = (data.validation.fraction, data.validation.count, [c.key for c in checks])
    train = _plan(training, run, run.batch.size, (made_of, settings, split), shuffled=True)
    if not train.rows_per_epoch:
        raise ValueError(
            f'{data.path} leaves nothing to train on: no conversation has an answer outside '
            'validation. Give more rows, or hold out fewer.'
        )
    if not run.train.steps:
        train = train.until(run.train.epochs)
    validation: tuple[HeldOut, ...] = ()
    if checks:
        plans = _validation(checks, picked, run, account)
        validation = tuple(HeldOut(name, p, tokenizer) for name, p in plans.items())
    account['fingerprint'] = train.fingerprint
    account['rows_per_epoch'] = train.rows_per_epoch
    return Prepared(train, validation, writer, account)


def _split(
    sources: list[Tokens], split: config.Validation, seed: int, opened: Callable[[str], Tokens]
) -> tuple[list[Tokens], list[np.ndarray]]:
    """The sources of validation, and which records of each are evaluated on."""
    if split.path:
        given = config.parse_sources(split.path, 'data.validation.path')
        if weighted := next((s for s in given if s.weight != 1), None):
            raise ValueError(
                f'--config.data.validation.path gives {weighted.path} the weight '
                f'{weighted.weight:g}: what is evaluated on is read once. Leave the weight out.'
            )
        checks = [opened(source.path) for source in given]
        return checks, [np.ones(len(s.record_hash), bool) for s in checks]
    if split.fraction or split.count:
        return sources, _held_out(sources, split, seed)
    return [], []


def _held_out(sources: list[Tokens], split: config.Validation, seed: int) -> list[np.ndarray]:
    """Which records are for validation: the first of a seeded order over all different ones."""
    hashes = np.concatenate([s.record_hash for s in sources])
    _, first = np.unique(hashes, return_index=True)
    first.sort()
    count = round(split.fraction * len(first)) if split.fraction else split.count
    if not 0 < count < len(first):
        raise ValueError(
            f'validation takes {count} of {len(first)} different conversations: at least one each '
            'must remain for training and validation. Set --config.data.validation.count or '
            '.fraction.'
        )
    chosen = np.zeros(len(hashes), bool)
    chosen[first[permutation(len(first), seed, 'validation')[:count]]] = True
    return np.split(chosen, np.cumsum([len(s.record_hash) for s in sources])[:-1])


def _planned(
    source: Tokens, usable: np.ndarray, data: config.Data, weight: float, seed: int
) -> tuple[plan.Bins, dict[str, Any]]:
    """Bins of a source's usable records, and their account."""
    examples = np.flatnonzero(usable[source.record])
    segments = cut(source, examples, data.seq_len, data.train_on)
    bins = plan.plan_bins(
        source, segments, weight=weight, seq_len=data.seq_len, packing=data.packing, seed=seed
    )
    tokens = int(segments.size.sum())
    return bins, source.account | {
        **dict.fromkeys(REASONS, 0),
        **segments.counts,
        'segments': len(segments.size),
        'tokens': tokens,
        'trained_tokens': segments.trained,
        'bins': len(bins),
        'packing_efficiency': round(tokens / max(1, len(bins) * data.seq_len), 4),
    }


def _validation(
    checks: list[Tokens], picked: list[np.ndarray], run: config.Run, account: DataAccount
) -> dict[str, plan.Plan]:
    """The plan of each source that has something, by its name."""
    data, rows = run.data, run.batch.size // run.batch.accumulation
    planned = [_planned(s, mask, data, 1.0, run.seed) for s, mask in zip(checks, picked)]
    if not any(len(bins) for bins, _ in planned):
        raise ValueError(
            'validation has no conversation with an answer: give other rows in '
            '--config.data.validation.'
        )
    # What the reader met is told once: with the training rows, if these are some of them.
    told = {} if data.validation.path else {'skipped': {}, 'unanswered': 0, 'unread_fields': {}}
    account['validation'] = [
        entry | told | {'records': int(mask.sum())} for (_, entry), mask in zip(planned, picked)
    ]
    paths = [entry['path'] for _, entry in planned]
    plans = {}
    for name, (bins, _) in zip(_names(paths), planned):
        if len(bins):
            made_of = ('validation', bins.source.key, _settings(run, rows))
            plans[name] = _plan([bins], run, rows, made_of, shuffled=False).until(1)
    return plans


def _names(paths: list[str]) -> list[str]:
    """Short ones where all differ."""
    short = [pathlib.Path(path).name for path in paths]
    return short if len(set(short)) == len(short) else paths


def _settings(run: config.Run, rows: int) -> tuple[Any, ...]:
    return run.data.seq_len, run.data.packing, run.data.train_on, run.seed, rows


def _plan(
    bins: Sequence[plan.Bins], run: config.Run, rows: int, made_of: tuple[Any, ...], shuffled: bool
) -> plan.Plan:
    return plan.Plan(
        sources=tuple(bins),
        seq_len=run.data.seq_len,
        batch_size=rows,
        seed=run.seed,
        train_on=run.data.train_on,
        shuffled=shuffled,
        fingerprint=hashlib.sha256(repr(made_of).encode()).hexdigest()[:32],
    )


def _report(account: dict[str, Any]) -> str:
    lines = []
    for entry in account['sources']:
        lines.append(f'{entry["describe"]}, weight {entry["weight"]:g}')
        lines += _rows(entry)
    for entry in account.get('validation', []):
        name = pathlib.Path(entry['path']).name
        lines.append(f'validation: {entry["records"]:,} conversations of {name}')
        lines += _rows(entry)
    total = {k: sum(e[k] * e['weight'] for e in account['sources']) for k in ('tokens', 'bins')}
    lines.append(
        f'an epoch: {account["rows_per_epoch"]:,} rows of {account["seq_len"]:,}, '
        f'{round(total["tokens"]):,} tokens, packing efficiency '
        f'{total["tokens"] / max(1, total["bins"] * account["seq_len"]):.1%}'
    )
    return '\n'.join(lines)


def _rows(entry: dict[str, Any]) -> list[str]:
    skipped = [f'skipped, {reason}: {n:,}' for reason, n in entry['skipped'].items()]
    unread = ', '.join(f'{field} ({n:,})' for field, n in entry['unread_fields'].items())
    skipped += [f'fields that are not read: {unread}'] if unread else []
    held = [
        f'{words}: {entry[key]:,}'
        for key, words in (
            ('unanswered', 'a last question without an answer left out'),
            ('validation', 'held out for validation'),
            ('copies_of_validation', 'dropped, the same as a held-out one'),
        )
        if entry.get(key)
    ]
    reasons = [f'{words}: {entry[key]:,}' for key, words in REASONS.items() if entry[key]]
    left_out = entry.get('tokens_left_out', 0)
    tokens = (
        f'kept {entry["kept"]:,} of {entry["examples"]:,} examples: {entry["tokens"]:,} tokens, '
        f'{entry["trained_tokens"]:,} of them learnt from'
        + (f', {left_out:,} left out' if left_out else '')
        + f'; {entry["bins"]:,} rows, {entry["packing_efficiency"]:.1%} full'
    )
    return ['  ' + line for line in (*skipped, *held, *reasons, tokens)]
