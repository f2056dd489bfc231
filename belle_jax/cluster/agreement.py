"""What all processes must have in common, and where they do not: configuration and code."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from belle_jax import __version__


def facts(config: Mapping[str, Any]) -> dict[str, str]:
    """What is compared: each value of a configuration, the code, and the libraries below it.

    Args:
        config: Plain values by name, nested, as `Run.to_dict` gives them.
    """
    sources = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob('*.py')):
        sources.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes())
    code = {f'version of {name}': importlib.metadata.version(name) for name in ('jax', 'jaxlib')}
    code['version of belle_jax'] = f'{__version__} (sources {sources.hexdigest()[:8]})'
    return code | _flat('--config', config)


def difference(values: Mapping[int, Mapping[str, str]], names: Mapping[int, str]) -> str | None:
    """A sentence about the first process that has other facts than process 0, or None.

    Args:
        values: The facts of each process.
        names: What to call the processes.
    """
    ours = values[0]
    for number, theirs in sorted(values.items()):
        for field in [*ours, *theirs]:
            here, there = ours.get(field, 'none'), theirs.get(field, 'none')
            if here != there:
                return (
                    f'{names[number]} has another {field} than {names[0]}: {there} and not {here}. '
                    'All must run the same command with the same code and recipe.'
                )
    return None


def _flat(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {name: json.dumps(value, ensure_ascii=False, default=str)}
    parts = (_flat(f'{name}.{key}', inside) for key, inside in value.items())
    return {key: text for part in parts for key, text in part.items()}
