"""What all processes must have in common, where they do not, and how they decide as one."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from belle_jax import __version__
from belle_jax.cluster.watch import Watch


class Member:
    """This process as one of its job.

    Attributes:
        process: Its number.
        stopping: The step at which all stop.
        apart: Whether the processes lack a directory in common.
    """

    def __init__(self, watch: Watch, apart: bool) -> None:
        """Takes what `joining` has found out."""
        self.process, self.stopping, self.apart = watch.job.process, watch.stopping, apart
        self._watch = watch

    def decide(self, value: Any, by: Callable[[list[Any]], Any]) -> Any:
        """What process 0 decides from the values of all; one thread at a time may ask.

        No device takes part, so that training goes on.

        Args:
            value: What this process has to say, as JSON.
            by: Called in process 0, with the values in the order of the processes.
        Returns:
            What that returned, in all.
        """
        values = self._watch.meet('decision', value)
        if self.process:
            return values[0]
        decision = by([values[number] for number in sorted(values)])
        self._watch.announce('decision', decision)
        return decision


def facts(values: Mapping[str, Any]) -> dict[str, str]:
    """What is compared: each of these values, the code, and the libraries below it.

    Args:
        values: Plain values by flag, nested: {'--config': {'seed': 0, …}} gives '--config.seed'.
    """
    sources = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob('*.py')):
        sources.update(f'{path.relative_to(package)}\0'.encode() + path.read_bytes())
    code = {f'version of {name}': importlib.metadata.version(name) for name in ('jax', 'jaxlib')}
    code['version of belle_jax'] = f'{__version__} (sources {sources.hexdigest()[:8]})'
    return code | _flat('', values)


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
    parts = (_flat(f'{name}.{key}' if name else key, inside) for key, inside in value.items())
    return {key: text for part in parts for key, text in part.items()}
