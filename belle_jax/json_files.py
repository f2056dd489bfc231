"""JSON files of settings: one reader for all, which bounds what a stranger's file may take."""

import json
from pathlib import Path
from typing import Any

from belle_jax.files import write_text

# Python's objects take up to 25 times the text: 0.8 GB. The largest file of settings that is read,
# Llama 3's tokenizer.json, has half of it, and none nests beyond ten.
JSON_MAX, JSON_DEPTH = 1 << 25, 64


def write_json(path: Path, values: Any) -> None:
    """Writes values as JSON, for people to read too; a kill leaves the old file or the new one."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + '\n')


def read_json(path: Path, remedy: str = 'copy it again', kind: type = dict) -> Any:
    """JSON from a file.

    Args:
        path: The file; it may begin with a byte order mark.
        remedy: What the reader of the message is to do.
        kind: dict or list: what it must hold.
    Raises:
        ValueError: it is missing or larger than `JSON_MAX`, or as in `parse_json`; it is named.
    """
    try:
        with path.open('rb') as file:
            content = file.read(JSON_MAX + 1)
    except FileNotFoundError as error:
        raise ValueError(f'{path} is missing: {remedy}.') from error
    return parse_json(content, path, remedy, kind)


def parse_json(
    content: bytes | str, place: object, remedy: str, kind: type = dict, hook: Any = None
) -> Any:
    """JSON from elsewhere, checked as in `read_json`: every reader of settings comes here.

    Args:
        content: UTF-8, or text.
        place: How messages name it.
        remedy: What the reader of the message is to do.
        kind: dict or list: what it must be.
        hook: `object_pairs_hook` of the standard library.
    Raises:
        ValueError: it is too large, is not JSON, is nested too deeply, or is of another kind.
    """
    try:
        if len(content) > JSON_MAX:
            raise ValueError(f'it has more than {JSON_MAX:,} bytes')
        text = content.decode('utf-8-sig') if isinstance(content, bytes) else content
        values = json.loads(text, object_pairs_hook=hook)
        level = [values] if isinstance(values, kind) else []
        for _ in range(JSON_DEPTH):
            nodes = (node.values() if isinstance(node, dict) else node for node in level)
            level = [v for inside in nodes for v in inside if isinstance(v, dict | list)]
        if level:
            raise RecursionError
    except RecursionError as error:
        raise ValueError(f'{place} is not readable JSON (nested too deeply): {remedy}.') from error
    except ValueError as error:
        raise ValueError(f'{place} is not readable JSON ({error}): {remedy}.') from error
    if not isinstance(values, kind):
        name = {dict: 'object', list: 'list'}[kind]
        raise ValueError(f'{place} does not hold a JSON {name}: {remedy}.')
    return values
