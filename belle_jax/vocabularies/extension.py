"""More pieces for a model: appended behind its own, with rows to begin training from."""

import functools
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
    small_files,
    write,
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

    A new row begins as the mean of those rows that stood for its piece before, in the output table
    as well: the longer piece is about as likely, and read about as the shorter ones were.

    Args:
        model: Hugging Face directory or hub name.
        target: A new directory.
        add: A second tokenizer of the same kind, whose missing pieces are taken.
        train: Or files of text or rows to learn pieces from,
        plan: and how.
        keep_ascii: Whether to take no piece that a line of ASCII could change by.
        report_texts: Files that both vocabularies are compared on; by default those of `train`.
    Returns:
        The report, which is in the target's `vocabulary.json` as well.
    Raises:
        ValueError: the model, tokenizer or text cannot be taken, there is nothing to append, or the
            target is there; nothing is written then.
    """
    require_new(target)
    source = open_source(model)
    for text in (*train, *report_texts):
        _require_text(text)
    if add:
        addition = source.files.read_other(Path(add), keep_ascii)
    else:
        texts = (passage for file in train for passage in corpora.passages(file))
        addition = source.files.train(texts, plan, keep_ascii)
    _require_new_pieces(source, addition, add)
    first, before = source.tokens, source.files.tokenizer
    rows = max(first + len(addition.pieces), source.model.architecture.vocab_size)
    with small_files(source) as ready:
        notes = source.files.write(ready, range(first), addition)
        after = tokenizer.load(ready)
        alone = files_of(after).spelled(addition.pieces)
        compared = {
            file: comparison.compare(before, after, comparison.lines_of(file))
            for file in (report_texts or train)
        }
        report = {
            'kind': source.files.kind,
            'first_new_id': first,
            'tokens': len(after),
            'rows_before': source.model.architecture.vocab_size,
            'rows': rows,
            'unreachable': [
                piece
                for index, (piece, ids) in enumerate(zip(addition.pieces, alone), first)
                if ids != [index]
            ],
            'notes': notes,
            'texts': compared,
        }
        write_json(ready / REPORT, report)
        spelled = source.files.spelled(addition.pieces)
        blocks = functools.partial(_lengthened, spelled=spelled, first=first)
        write(source, target, rows, blocks, ready)
    return report


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


def _require_text(file: str) -> None:
    if next(corpora.passages(file), None) is None:
        raise ValueError(f'{file} has no text: give a file that has some.')


def _require_new_pieces(source: VocabularySource, addition: Addition, add: str | Path) -> None:
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
