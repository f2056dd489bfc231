"""Fewer pieces for a model: those that a corpus needs, whose tokens stay the same pieces."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax.data import corpora, tokenizer
from belle_jax.data.tokenizer import Tokenizer
from belle_jax.files import require_new
from belle_jax.json_files import write_json
from belle_jax.progress import Progress
from belle_jax.vocabularies import settings
from belle_jax.vocabularies.source import REPORT, Blocks, open_source, rewritten
from belle_jax.weights.tensors import BLOCK

BATCH = 64  # passages that are tokenised together


def prune(model: str | Path, target: str | Path, corpus: Sequence[str]) -> dict[str, Any]:
    """Writes a model without the pieces that a corpus does not use.

    Bytes and special tokens stay, and all that the pieces are built from, so that each text of the
    corpus, and each of its lines, becomes the same pieces as before, and each of these has its old
    rows: the logits of what stays are the same numbers. Other texts are spelled in smaller pieces.

    Args:
        model: Hugging Face directory or hub name.
        target: A new directory.
        corpus: Files of text or rows.
    Returns:
        The report, which is in the target's `vocabulary.json` as well; `old_ids` has for each new
        id the old one.
    Raises:
        ValueError: the model or corpus cannot be taken, or the target is there; nothing is written
            then.
    """
    require_new(target)
    source = open_source(model)
    before = source.files.tokenizer
    used: set[int] = set()
    characters = 0
    for count, texts in _texts(corpus, 'Reading'):
        characters = count
        used.update(*_encoded(before, texts))
    special = {i for i in settings.named(source.model.directory) if i < source.tokens}
    kept = source.files.needed(used | special)
    new_ids = {old: new for new, old in enumerate(kept)}
    architecture = source.model.architecture
    parameters = sum(math.prod(tensor.shape) for tensor in source.model.planned())
    tables = architecture.embed * (1 if architecture.tied else 2)  # numbers of a row in them
    blocks = functools.partial(_chosen, ids=np.array(kept))
    with rewritten(source, target, len(kept), blocks) as ready:
        notes = source.files.write(ready, kept)
        settings.renumber(ready, new_ids)
        _require_same(before, tokenizer.load(ready), new_ids, corpus)
        report = {
            'kind': source.files.kind,
            'tokens_before': source.tokens,
            'tokens': len(kept),
            'used': len(used),
            'characters': characters,
            'parameters_before': parameters,
            'parameters': parameters - tables * (architecture.vocab_size - len(kept)),
            'notes': notes,
            'old_ids': kept,
        }
        write_json(ready / REPORT, report)
    return report


def summary(report: dict[str, Any]) -> str:
    """A report in a few lines."""
    before, after = report['parameters_before'], report['parameters']
    return '\n'.join(
        [
            f'{report["tokens"]:,} of {report["tokens_before"]:,} pieces stay, of which the corpus '
            f'({report["characters"]:,} characters) uses {report["used"]:,}.',
            f'{after:,} of {before:,} parameters stay: {1 - after / before:.1%} less.',
            *report['notes'],
        ]
    )


def _texts(corpus: Sequence[str], what: str) -> Iterator[tuple[int, list[str]]]:
    """Passages of files with their lines, which training may read on their own.

    Yields:
        Characters so far, and texts; a line shows how far the work is.
    """
    passages = (passage for file in corpus for passage in corpora.passages(file))
    total = sum(Path(file).stat().st_size for file in corpus if Path(file).is_file())
    progress, characters, done = Progress(what, 'characters'), 0, 0
    while batch := list(itertools.islice(passages, BATCH)):
        characters += sum(map(len, batch))
        yield characters, [*batch, *(line for passage in batch for line in passage.splitlines())]
        done += sum(len(passage.encode()) for passage in batch)
        progress.show(characters, min(1.0, done / total))
    progress.end(characters)


def _encoded(words: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    """Texts as they begin, and as they go on where other text ended."""
    yield from words.encode_batch(texts)
    if words.continuing is not words.backend or words.encoder:
        yield from words.encode_batch(texts, continued=True)


def _require_same(
    before: Tokenizer, after: Tokenizer, new_ids: dict[int, int], corpus: Sequence[str]
) -> None:
    for _, texts in _texts(corpus, 'Comparing'):
        pairs = zip(_encoded(before, texts), _encoded(after, texts), strict=True)
        for text, (old, new) in zip([*texts, *texts], pairs):
            if list(map(new_ids.get, old)) != new:
                raise ValueError(
                    f'{before.directory}: without the other pieces {text[:40]!r} would become '
                    'other tokens: this tokenizer joins pieces in a way that is not known here.'
                )


def _chosen(table: np.ndarray, ids: np.ndarray) -> Blocks:
    """Some rows of a table [V, D], in the order of `ids`."""
    step = max(1, BLOCK // table[:1].nbytes)
    for at in range(0, len(ids), step):
        yield table[ids[at : at + step]]
