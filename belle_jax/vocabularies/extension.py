"""More pieces for a model: appended behind its own, with rows to begin training from."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax.data import corpora, tokenizer
from belle_jax.files import require_new
from belle_jax.json_files import write_json
from belle_jax.vocabularies import comparison, settings
from belle_jax.vocabularies.source import (
    REPORT,
    Blocks,
    VocabularySource,
    files_of,
    open_source,
    rewritten,
)
from belle_jax.vocabularies.vocabulary_files import Addition, TrainingPlan
from belle_jax.weights.tensors import planned

DEFAULT = TrainingPlan()
STEP = 256  # new rows that are made at a time


def extend(
    model: str | Path,
    target: str | Path,
    *,
    add: str | Path = '',
    train: Sequence[str] = (),
    plan: TrainingPlan = DEFAULT,
    keep_ascii: bool = False,
    report_texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes a model with more pieces; old ids, rows and settings stay as they are.

    A new row begins as the mean of those that stood for its piece, in the output table as well.

    Args:
        model: Hugging Face directory or hub name.
        target: A new directory.
        add: A second tokenizer of the same kind, whose missing pieces are taken.
        train: Or files of text or rows to learn pieces from,
        plan: and how.
        keep_ascii: Whether to take no piece that a line of ASCII could change by.
        report_texts: Files to compare both vocabularies on; by default those of `train`.
    Returns:
        The report, which is in the target's `vocabulary.json` as well.
    Raises:
        ValueError: what is given cannot be taken, or the target is there; nothing is written then.
    """
    require_new(target)
    source = open_source(model)
    for file in (*train, *report_texts):
        corpora.passages(file)  # which refuses one that has none
    if add:
        addition = source.files.read_other(Path(add), keep_ascii)
    else:
        texts = itertools.chain.from_iterable(map(corpora.passages, train))
        addition = source.files.train(texts, plan, keep_ascii)
    _require_pieces(source, addition, str(add))
    first = source.tokens
    rows = max(first + len(addition.pieces), source.model.architecture.vocab_size)
    spelled = source.files.spelled(addition.pieces)
    blocks = functools.partial(_lengthened, spelled=spelled, first=first)
    with rewritten(source, target, rows, blocks) as ready:
        notes = source.files.write(ready, range(first), addition)
        after = tokenizer.load(ready)
        report = {
            'kind': source.files.kind,
            'first_new_id': first,
            'tokens': len(after),
            'rows_before': source.model.architecture.vocab_size,
            'rows': rows,
            'unreachable': [*map(source.files.shown, _unreachable(after, addition.pieces, first))],
            'notes': notes,
            'texts': {
                file: comparison.compare(source.files.tokenizer, after, comparison.lines_of(file))
                for file in (report_texts or train)
            },
        }
        write_json(ready / REPORT, report)
    return report


def _unreachable(after: tokenizer.Tokenizer, pieces: Sequence[Any], first: int) -> list[Any]:
    """Pieces that are spelled by others even where they stand alone."""
    alone = files_of(after).spelled(pieces)
    return [piece for n, piece in enumerate(pieces) if alone[n] != [first + n]]


def summary(report: dict[str, Any]) -> str:
    """A report in a few lines."""
    lost = report['unreachable']
    lines = [
        f'{report["tokens"] - report["first_new_id"]:,} pieces appended to '
        f'{report["first_new_id"]:,}; the tables have {report["rows"]:,} rows.'
    ]
    if lost:
        lines.append(
            f'{len(lost):,} of them no text becomes: no pair of pieces makes them, or others are '
            f'made first ({", ".join(lost[:8])}{", ..." * (len(lost) > 8)}).'
        )
    lines += report['notes']
    return '\n'.join([*lines, *([comparison.table(report['texts'])] if report['texts'] else [])])


def _require_pieces(source: VocabularySource, addition: Addition, add: str) -> None:
    """Refuses an addition of nothing, and one that would take an id that means something."""
    if not addition.pieces:
        raise ValueError(
            f'{add or "What was learnt"} has no piece that {source.model.directory} lacks: nothing '
            'is to be appended.'
        )
    taken = range(source.tokens, source.tokens + len(addition.pieces))
    for index, place in settings.named(source.model.directory).items():
        if index in taken:
            raise ValueError(
                f'{source.model.directory}: {place} is {index}, which is no token of its tokenizer '
                'and would be the id of an appended piece: correct it, or add the token first.'
            )


def _lengthened(table: np.ndarray, spelled: list[list[int]], first: int) -> Blocks:
    """A table [V, D] with the means of some of its rows from the row `first` on.

    Spare rows that reach beyond the new ones stay.
    """
    yield from planned('', table[:first]).blocks()
    for at in range(0, len(spelled), STEP):
        some = spelled[at : at + STEP]
        sizes = np.array([len(ids) for ids in some])
        rows = table[[index for ids in some for index in ids]].astype(np.float32)
        sums = np.add.reduceat(rows, np.cumsum(sizes) - sizes)
        yield (sums / sizes[:, None]).astype(table.dtype)
    yield from planned('', table[first + len(spelled) :]).blocks()
