"""What two vocabularies make of the same texts."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from belle_jax.data import corpora
from belle_jax.data.tokenizer import Tokenizer

CHARACTERS = 10_000_000  # of a text that are looked at
BATCH = 1000  # lines that are tokenised together
LINE = '{:<24} {:>12} {:>20} {:>20} {:>20}'
SHOWN = 100  # changed lines that the report quotes


def compare(before: Tokenizer, after: Tokenizer, lines: Iterable[str]) -> dict[str, Any]:
    """Tokens of lines, and which lines change.

    Args:
        before: The tokenizer of the model.
        after: The same with more pieces.
        lines: Each is tokenised on its own.
    Returns:
        lines, characters, tokens_before, tokens_after, changed (lines), ascii_lines, ascii_changed,
        and the first changed lines, those of ASCII in front, each with its new pieces.
    """
    counts: Counter[str] = Counter()
    shown: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    first = len(before)
    lines = iter(lines)
    while counts['characters'] < CHARACTERS and (batch := list(itertools.islice(lines, BATCH))):
        both = before.encode_batch(batch), after.encode_batch(batch)
        for line, old, new in zip(batch, *both, strict=True):
            changed, is_ascii = old != new, line.isascii()
            counts.update(
                lines=1,
                characters=len(line),
                tokens_before=len(old),
                tokens_after=len(new),
                changed=changed,
                ascii_lines=is_ascii,
                ascii_changed=is_ascii and changed,
            )
            if changed and len(shown[is_ascii]) < SHOWN:
                pieces = dict.fromkeys(after.token(index) for index in new if index >= first)
                shown[is_ascii].append({'line': line[:200], 'pieces': list(pieces)[:20]})
    return {**counts, 'changed_lines': [*shown[True], *shown[False]][:SHOWN]}


def lines_of(file: str) -> Iterator[str]:
    """The lines of a file that are not blank."""
    for passage in corpora.passages(file):
        yield from (line for line in passage.splitlines() if line.strip())


def table(compared: dict[str, dict[str, Any]]) -> str:
    """Comparisons by the text's name, as a few lines for people."""
    lines = [LINE.format('text', 'characters', 'tokens a character', 'lines changed', 'of ASCII')]
    for name, c in compared.items():
        before, after = (
            c[key] / max(1, c['characters']) for key in ('tokens_before', 'tokens_after')
        )
        lines.append(
            LINE.format(
                name[-24:],
                f'{c["characters"]:,}',
                f'{before:.3f} -> {after:.3f}',
                f'{c["changed"]:,} of {c["lines"]:,}',
                f'{c["ascii_changed"]:,} of {c["ascii_lines"]:,}',
            )
        )
    return '\n'.join(lines)
