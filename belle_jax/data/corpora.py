"""The texts that papers measure language models on and calibrate with, by name; or one's own file.

Names resolve through `datasets` to files of rows on the hub, never to a program that loads them.
How rows become one text is what the code of the GPTQ papers does, so that figures compare.
"""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from belle_jax.data import fields
from belle_jax.data.fields import BadRow
from belle_jax.data.records import Record, layout, parse
from belle_jax.data.row_file import RowFile

SPLITS = ('evaluation', 'calibration')
PASSAGE = 1 << 12  # characters of lines that are read together
ROWS = ('.json', '.jsonl', '.ndjson', '.jsonlines', '.parquet', '.gz')  # others are plain text


class Corpus(NamedTuple):
    """Where a named text is, and how its rows are one."""

    hub: str
    evaluation: tuple[str, str]  # files, and which of their rows as `datasets` slices them
    calibration: tuple[str, str]
    field: str = 'text'
    between: str = '\n\n'
    revision: str = 'main'
    windows: int | None = None  # how many the papers measure on; None: all


CORPORA = {
    'wikitext2': Corpus(
        'Salesforce/wikitext',
        ('wikitext-2-raw-v1/test-*.parquet', ''),
        ('wikitext-2-raw-v1/train-*.parquet', ''),
    ),
    # Its main branch has a loading script alone; the hub's own conversion has the rows.
    'ptb': Corpus(
        'ptb-text-only/ptb_text_only',
        ('penn_treebank/validation/*.parquet', ''),
        ('penn_treebank/train/*.parquet', ''),
        field='sentence',
        revision='refs/convert/parquet',
    ),
    # As `c4-new` of the papers' code; the whole first file of the training split is 800 MB.
    'c4': Corpus(
        'allenai/c4',
        ('en/c4-validation.00000-of-00008.json.gz', '[:1100]'),
        ('en/c4-train.00000-of-01024.json.gz', '[:10000]'),
        between=' ',
        windows=256,
    ),
}


def text(source: str, split: str = 'evaluation') -> str:
    """One long text.

    Args:
        source: A name of CORPORA, or a file: plain text, or rows (JSON, JSON lines, Parquet), whose
            texts are joined by blank lines.
        split: 'evaluation' or 'calibration', of a named text.
    Returns:
        The text, which is not blank.
    Raises:
        ValueError: there is no such name or file, the hub does not give it, or it has no text.
    """
    if source in CORPORA:
        corpus = CORPORA[source]
        found = corpus.between.join(_of_hub(source, corpus, split))
    elif pathlib.Path(source).is_file():
        file = pathlib.Path(source)
        found = '\n\n'.join(_of_rows(file)) if file.suffix in ROWS else _plain(file)
    else:
        raise ValueError(
            f'{source} is neither a file here nor the name of a text: {", ".join(CORPORA)} are.'
        )
    if not found.strip():
        raise ValueError(f'{source} has no text: give a file that has some.')
    return found


def passages(source: str | pathlib.Path) -> Iterator[str]:
    """The texts of a file one after the other, so that a large one need not fit in memory.

    Args:
        source: Rows, as for `text`, or plain text, of which some lines at a time are a passage.
    Yields:
        What is not blank; lines keep their ends.
    Raises:
        ValueError: there is no such file, it has no text, or it cannot be read.
    """
    file = pathlib.Path(source)
    if not file.is_file():
        raise ValueError(f'{source} is not a file here: give a file of text or of rows.')
    found = _of_rows(file) if file.suffix in ROWS else _lines(file)
    found = (passage for passage in found if passage.strip())
    if (first := next(found, None)) is None:
        raise ValueError(f'{source} has no text: give a file that has some.')
    return itertools.chain([first], found)


def said(record: Record) -> str:
    """What stands in a record, as plain text: a conversation's turns, a line or more each."""
    if record.text is not None:
        return record.text
    turns = ((turn['content'], turn.get('input', '')) for turn in record.messages)
    return '\n'.join(part for parts in turns for part in parts if part)


def _of_hub(name: str, corpus: Corpus, split: str) -> list[str]:
    import datasets

    files, rows = {'evaluation': corpus.evaluation, 'calibration': corpus.calibration}[split]
    try:
        found: Any = datasets.load_dataset(
            corpus.hub,
            data_files={split: files},
            revision=corpus.revision,
            split=f'{split}{rows}',
            # c4 declares more files than are taken.
            verification_mode='no_checks',
        )
        return list(found[corpus.field])
    except Exception as error:  # network, names and formats each have classes of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'{name} is {files} of {corpus.hub} on the hub, and it could not be loaded: {reason} '
            'Where there is no network, give a file with the text instead of the name.'
        ) from error


def _of_rows(file: pathlib.Path) -> Iterator[str]:
    for where, row in RowFile(file):
        try:
            if isinstance(row, BadRow):
                raise row
            if isinstance(row, dict) and row.get('text') is not None:
                yield fields.text(row, 'text')  # blank ones, too, as WikiText has them
            else:
                yield said(parse(row, layout(row))[0])
        except BadRow as bad:
            raise ValueError(f'{where}: {bad} Mend it, or leave it out.') from bad


def _lines(file: pathlib.Path) -> Iterator[str]:
    with _as_utf8(file), file.open(encoding='utf-8-sig', newline='') as opened:
        while lines := opened.readlines(PASSAGE):
            yield ''.join(lines)


def _plain(file: pathlib.Path) -> str:
    with _as_utf8(file):
        return file.read_text('utf-8-sig')


@contextlib.contextmanager
def _as_utf8(file: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{file} is not UTF-8 (byte {error.start:,}): convert it to UTF-8.'
        ) from error
