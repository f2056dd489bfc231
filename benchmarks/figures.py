"""What a benchmark measured, and on what: a file of JSON, and the same in print."""

import json
import platform
import sys
from pathlib import Path
from typing import Any


def write(output: str, benchmark: str, **figures: Any) -> None:
    """Writes and prints figures; arguments as those of `save`."""
    print(save(output, benchmark, **figures))
    print(f'The figures are in {output}', file=sys.stderr)


def save(output: str, benchmark: str, **figures: Any) -> str:
    """Writes figures, with the machine that they are of.

    Args:
        output: The file; missing directories are made.
        benchmark: The script's name.
        **figures: Settings and rows.
    Returns:
        What was written.
    """
    import jax

    machine = {
        'benchmark': benchmark,
        'device': str(jax.devices()[0].device_kind),
        'machine': platform.machine(),
        'jax': jax.__version__,
    }
    text = json.dumps(machine | figures, indent=1)
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + '\n', 'utf-8')
    return text
