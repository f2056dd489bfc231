"""A person looks at rows before a model learns from them: `serve` shows a page, `apply` writes.

Rows are shown as they were harvested, before any decision, so that each decision can be taken back.
"""

from collections.abc import Iterator
from pathlib import Path

from belle_jax.data.row_file import new_row_file
from belle_jax.disk import distinct
from belle_jax.pages.server import PageServer, Route
from belle_jax.progress import Progress
from belle_jax.synthesis.decisions import ByHand, DecisionLog, Names, rejected_row
from belle_jax.synthesis.harvest import Files
from belle_jax.synthesis.review_page import Item, ReviewPage
from belle_jax.synthesis.sources import objects
from belle_jax.texts.filters import Row

ASSETS = ('style.css', 'review.css', 'review.js')


def apply(rows: Path, output: Path, overwrite: bool = False) -> str:
    """Writes rows as the decisions about them leave them.

    Args:
        rows: The file that was reviewed; it stays as it is.
        output: Where to.
        overwrite: Whether a file that is there may be replaced.
    Returns:
        The account.
    Raises:
        ValueError: there are no decisions, or a file cannot be read or written.
    """
    files = Files.beside(rows)
    distinct({'--rows': vars(files).values()}, {'--output': output})
    decided = DecisionLog(files.decisions).decided
    if not decided:
        raise ValueError(f'{files.decisions} has no decisions: make some without --apply first.')
    by_hand = ByHand(decided)
    for piece in _rejected(files):
        by_hand.see(piece)
    with new_row_file(output, overwrite=overwrite) as write:
        for row in by_hand.rows(_harvested(files)):
            write(row)
    return f'{by_hand}\nRows: {output}'


def serve(rows: Path, host: str, port: int) -> str:
    """Serves the page until Ctrl-C.

    Args:
        rows: The file to review.
        host: As `PageServer` takes it.
        port: Likewise.
    Returns:
        What was done, and what is to be done next.
    Raises:
        ValueError: a file cannot be read or written, or the port is taken.
    """
    files = Files.beside(rows)
    items = _items(files)
    with DecisionLog(files.decisions) as log:
        review = ReviewPage(rows.name, items, log)
        get: dict[str, Route] = {'': review.page, 'rows': review.rows}
        post: dict[str, Route] = {'decide': review.decide, 'undo': review.undo}
        PageServer(get, post, ASSETS, host, port).serve()
    counts = review.counts()
    if files.journal.exists():
        how = 'run the command that made the rows, with --rebuild.'
    else:
        how = f'belle-jax generate_data review --apply --rows={rows} --output=reviewed.jsonl'
    return (
        f'\n{counts["decided"]:,} of {counts["all"]:,} rows decided.\n'
        f'Decisions: {files.decisions}\nTo apply them: {how}'
    )


def _items(files: Files) -> list[Item]:
    """All rows, then all rejected pieces, as they were harvested."""
    names, items, progress = Names(), [], Progress('Reading', 'rows')
    for row in _harvested(files):
        score, nearest = row.get('similarity'), ''
        if near := row.get('most_similar_instructions'):
            nearest, score = next(iter(near.items()))
        items.append(Item.of(len(items), names.row(row), row, '', score, nearest))
        progress.show(len(items))
    for piece in _rejected(files):
        row, nearest, score = rejected_row(piece['text'])
        found, reason = piece['text'] if row is None else row, piece['reason']
        items.append(Item.of(len(items), names.piece(piece), found, reason, score, nearest))
        progress.show(len(items))
    progress.end(len(items))
    if not items:
        raise ValueError(f'{files.output} has no rows: there is nothing to look at.')
    return items


def _harvested(files: Files) -> Iterator[Row]:
    """The rows before decisions changed them, which are in a file of their own if any did."""
    return _objects(files.harvested if files.harvested.exists() else files.output)


def _rejected(files: Files) -> Iterator[Row]:
    """The rejected pieces, where a harvest left any."""
    for piece in _objects(files.rejected) if files.rejected.exists() else ():
        if not all(isinstance(piece.get(field), str) for field in ('reason', 'text')):
            raise ValueError(f'{files.rejected} holds no rejected pieces: put it elsewhere.')
        yield piece


def _objects(path: Path) -> Iterator[Row]:
    if not path.exists() or path.stat().st_size:  # a harvest may have been without any
        yield from (row for _, row in objects(path))
