"""Charts of scores from 0 to 1: bars with intervals, and a radar of several models.

Each model has a hue, which the page's `--h` carries; all text is escaped.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from belle_jax.pages.page import NOTHING

Bounds = tuple[float, float, float]  # a value, and where it lies; NaN is not known
HUES = (216, 32, 160, 280, 350, 190, 60, 310)
RADIUS, RINGS = 128, (0.25, 0.5, 0.75, 1.0)


def hue(place: int) -> int:
    """Of the model in that place."""
    return HUES[place % len(HUES)]


def legend(names: Sequence[str]) -> Markup:
    """The models' names with their colours; nothing for a single one."""
    if len(names) < 2:
        return Markup('')
    keys = ''.join(
        f'<span class="key"><i style="--h:{hue(place)}"></i>{escape(name)}</span>'
        for place, name in enumerate(names)
    )
    return Markup(f'<div class="legend hued">{keys}</div>')


def interval_bars(names: Sequence[str], rows: Sequence[tuple[str, Sequence[Bounds]]]) -> Markup:
    """Horizontal bars from 0 to 1, each with the range in which the true value lies.

    Args:
        names: Of the models.
        rows: The name of each group, and a value for each model.
    """
    if not rows:
        return NOTHING
    shown = []
    for name, values in rows:
        tracks = []
        for place, (value, low, high) in enumerate(values):
            if math.isnan(value):
                tracks.append('<span class="track"></span><span class="number">–</span>')
                continue
            said = f'{names[place]}, {name}: {value:.3f}'
            whisker = ''
            if not math.isnan(low):
                said += f', {low:.3f} to {high:.3f}'
                left, width = 100 * max(low, 0), 100 * (min(high, 1) - max(low, 0))
                whisker = f'<b style="left:{left:.2f}%;width:{width:.2f}%"></b>'
            tracks.append(
                f'<span class="track" title="{escape(said)}" style="--h:{hue(place)}">'
                f'<i style="width:{100 * value:.2f}%"></i>{whisker}</span>'
                f'<span class="number">{value:.3f}</span>'
            )
        shown.append(
            f'<div class="scored"><span class="name">{escape(name)}</span>'
            f'<div class="tracks">{"".join(tracks)}</div></div>'
        )
    return Markup(f'<div class="intervals">{"".join(shown)}</div>{legend(names)}')


def radar(names: Sequence[str], rows: Sequence[tuple[str, Sequence[Bounds]]]) -> Markup:
    """One axis a group, one polygon a model, which passes by what is not known.

    Args:
        names: Of the models.
        rows: As in `interval_bars`; fewer than three have no such chart.
    """
    if len(rows) < 3:
        return NOTHING

    def at(place: int, value: float) -> tuple[float, float]:
        angle = math.tau * place / len(rows)
        return RADIUS * value * math.sin(angle), -RADIUS * value * math.cos(angle)

    def polygon(values: Sequence[float]) -> str:
        points = (at(place, v) for place, v in enumerate(values) if not math.isnan(v))
        return ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)

    shapes = [f'<polygon class="ring" points="{polygon([r] * len(rows))}"/>' for r in RINGS]
    for place, (name, _) in enumerate(rows):
        (x, y), (edge_x, edge_y) = at(place, 1.1), at(place, 1)
        anchor = 'middle' if abs(x) < 20 else 'start' if x > 0 else 'end'
        shapes.append(
            f'<line class="ring" x1="0" y1="0" x2="{edge_x:.1f}" y2="{edge_y:.1f}"/>'
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    for place, model in enumerate(names):
        values = [group[place][0] for _, group in rows]
        shapes.append(
            f'<polygon class="model" style="--h:{hue(place)}" points="{polygon(values)}">'
            f'<title>{escape(model)}</title></polygon>'
        )
    return Markup(
        '<svg class="radar" viewBox="-240 -165 480 330" role="img" aria-label="scores by class">'
        f'{"".join(shapes)}</svg>{legend(names)}'
    )
