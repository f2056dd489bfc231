"""What a stranger's tokenizer may ask of the library that runs it.

`tokenizers` takes memory by the largest id, matches any regular expression, and fails by a panic,
which is no error of Python's. So ids are held against the file's size, expressions against what no
text can make slow, and replacements against how far they stretch a text.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from belle_jax.json_files import read_json

GROWTH = 64  # times that normalisation may make a text longer; LLaMA's does not
QUANTIFIERS = 3  # in one alternative: each may try every length of a text; published ones have two
_ATOM = re.compile(r'\\.|\[\^?\]?(?:\\.|\[[^\]]*\]|[^\]\\])*\]|.', re.DOTALL)
_COUNT = re.compile(r'[*+?]|\{[\d,]+\}')


@contextlib.contextmanager
def explained(place: object) -> Iterator[None]:
    """Makes one sentence of whatever the libraries of tokenizers fail with inside the block."""
    try:
        yield
    except BaseException as error:
        # `tokenizers` raises the bare class; a panic of Rust's is not even that.
        if (
            type(error) not in (Exception, RuntimeError)
            and type(error).__name__ != 'PanicException'
        ):
            raise
        raise ValueError(f'{place} is not readable ({error}): copy it again.') from error


def check_ids(path: Path, ids: Iterable[Any]) -> None:
    """Refuses an id beyond the bytes of its file, each of which would take memory."""
    size = path.stat().st_size
    for index in ids:
        if type(index) is int and not 0 <= index < size:
            raise ValueError(
                f'{path} has the id {index}, and no vocabulary of {size} bytes has as many tokens: '
                'copy it again.'
            )


def check(path: Path) -> None:
    """Refuses a `tokenizer.json` that would take memory or time without end."""
    values = read_json(path)
    model = values.get('model')
    model = model if isinstance(model, dict) else {}
    vocab, added = model.get('vocab'), values.get('added_tokens')
    check_ids(path, vocab.values() if isinstance(vocab, dict) else ())
    added = added if isinstance(added, list) else []
    check_ids(path, (token.get('id') for token in added if isinstance(token, dict)))
    if model.get('dropout'):
        raise ValueError(
            f'{path} sets dropout={model["dropout"]!r:.80}, with which a text becomes other tokens '
            'each time: set it to null.'
        )
    growth = 1
    for node in _nodes([values.get(name) for name in ('normalizer', 'pre_tokenizer', 'decoder')]):
        if isinstance(pattern := node.get('Regex'), str) and not is_quick(pattern):
            raise ValueError(
                f'{path} has the regular expression {pattern[:80]!r}, which can take for ever: '
                'groups that repeat are not read.'
            )
        for name in ('content', 'prepend'):
            if isinstance(text := node.get(name), str):
                growth *= max(1, len(text))
    if growth > GROWTH:
        raise ValueError(f'{path} makes texts {growth:,} times as long: that is not read.')


def is_quick(pattern: str) -> bool:
    """Whether no text makes matching slow: no group repeats, and few single characters do."""
    counts, before = 0, ''
    at = 0
    while at < len(pattern):
        atom = _COUNT.match(pattern, at) or _ATOM.match(pattern, at)
        assert atom
        now = atom[0]
        if _COUNT.fullmatch(now) and before not in ('', '(', '|'):
            again = _COUNT.fullmatch(before)
            if (again and now not in '?+') or (before == ')' and now != '?'):
                return False
            counts += not again and now != '?'
        elif re.fullmatch(r'\\([1-9]|[gk].?)', now):  # what a group matched, once more
            return False
        elif now == '|':
            counts = 0
        if counts > QUANTIFIERS:
            return False
        before, at = now, atom.end()
    return True


def _nodes(values: list[Any]) -> Iterator[dict[str, Any]]:
    while values:
        node = values.pop()
        if isinstance(node, dict):
            yield node
        inside = node.values() if isinstance(node, dict) else node
        values += inside if isinstance(node, dict | list) else ()
