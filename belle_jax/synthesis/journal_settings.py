"""What decides the requests of a run: a journal belongs to one such configuration."""

import dataclasses
import hashlib
import json
from typing import Any

from belle_jax.synthesis.kinds import Kind

# Data go in by their hash: a journal says which they were, not what they were.
HASHED = ('seeds', 'rows', 'categories', 'characters')
FIRST = 3  # requests that go in whole


def journal_settings(kind: Kind) -> dict[str, Any]:
    """Everything from which a kind makes the request of an index.

    Args:
        kind: With its settings.
    Returns:
        Values that JSON knows, for `Journal`: two runs may share a journal if these are equal.
        Filters, similarity, count and budget are none of them.
    """
    settings = kind.settings
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for name in HASHED:
        values[name] = f'{len(values[name]):,}, {_hash(values[name])}' if values[name] else ''
    # The text, not the name of its file: a file may be changed.
    del values['prompt_file']
    decides_rows_alone = ('longest_answer', 'apart')
    for name in decides_rows_alone:
        del values[name]
    values['model'] = settings.model
    del values['model_name']
    values['stop'] = list(values['stop']) if values['stop'] is not None else None
    values['turns'] = list(values['turns'])
    # What other versions of this program would ask differently, with the same settings.
    first = [kind.body(index) for index in range(min(FIRST, kind.requests or FIRST))]
    return (
        {'kind': kind.name, 'prompt': _hash(kind.text)} | values | {'first requests': _hash(first)}
    )


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]
