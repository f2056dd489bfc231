"""What quantising came to: figures for programs, and a page for people."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax.json_files import read_json, write_json
from belle_jax.pages import page
from belle_jax.progress import duration

JSON, PAGE = 'quantization_report.json', 'quantization_report.html'


def account(
    layers: Sequence[Mapping[str, Any]], before: np.ndarray, after: np.ndarray, seconds: float
) -> dict[str, Any]:
    """All figures.

    Args:
        layers: What was said of each layer when it was finished.
        before: Mean loss of each window that was held out, nats a token.
        after: The same of the quantised model.
        seconds: That this process took.
    """
    matrices = [matrix for layer in layers for matrix in layer['matrices']]
    tunings = [tuning for layer in layers for tuning in layer['tuning']]
    ratios = [m['error'] / m['rounding'] for m in matrices if m['rounding']]
    return {
        'perplexity_before': math.exp(before.mean()) if len(before) else None,
        'perplexity_after': math.exp(after.mean()) if len(after) else None,
        'error_of_rounding': sum(ratios) / max(len(ratios), 1),
        'rounded': sum(m['damp'] is None for m in matrices),
        'seconds': seconds,
        'matrices': matrices,
        'tuning': tunings,
    }


def summary(figures: Mapping[str, Any]) -> str:
    """A few lines."""
    parts = [
        f'{len(figures["matrices"]):,} matrices in {duration(figures["seconds"])}: their outputs '
        f'change by {figures["error_of_rounding"]:.2f} of what rounding alone would do'
    ]
    if figures['perplexity_before'] is not None:
        parts.append(
            f'perplexity on the text held out: {figures["perplexity_before"]:,.4f} before, '
            f'{figures["perplexity_after"]:,.4f} now'
        )
    if figures['rounded']:
        parts.append(
            f'{figures["rounded"]} matrices were only rounded: their Hessians could not be '
            'factored. More --samples help.'
        )
    return '\n'.join(parts)


def is_of(target: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a directory holds a model that was quantised with these settings."""
    path = target / JSON
    said = read_json(path) if path.is_file() else {}
    return all(said.get(name) == value for name, value in settings.items())


def write(target: Path, figures: Mapping[str, Any]) -> None:
    """Writes the figures, and a page that shows them, into a directory."""
    write_json(target / JSON, dict(figures))
    matrices = figures['matrices']
    names = list(dict.fromkeys(m['name'] for m in matrices))
    charts = [
        {
            'name': name,
            'chart': page.lines(
                [
                    (
                        title,
                        colour,
                        [(m['layer'], m[field]) for m in matrices if m['name'] == name],
                    )
                    for title, colour, field in (
                        ('rounding', 'other', 'rounding'),
                        ('quantised', 'kept', 'error'),
                    )
                ],
                'layer',
                '{:.2g}'.format,
            ),
        }
        for name in names
    ]
    text = page.render(
        'quantization.jinja', figures=figures, charts=charts, summary=summary(figures).splitlines()
    )
    (target / PAGE).write_text(text, 'utf-8')
