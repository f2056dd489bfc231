"""What pages are made of: templates, and charts in HTML and SVG, whose text is the browser's.

Colours are classes and variables of the page's style. All text is escaped here or by the template.
"""

import functools
import importlib.resources
import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 230  # of a chart's own coordinates
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
INNER, OUTER = (50, 124), (126, 198)  # radii of the rings
COLUMNS = 14  # of a name in a ring; Chinese characters take two
Curve = tuple[str, str, Sequence[tuple[float, float]]]  # name, colour class, points
Format = Callable[[float], str]
NOTHING = Markup('<p class="note">nothing to show</p>')
LONGEST = 1500  # characters of a text that somebody or something else wrote


# --- the page -------------------------------------------------------------------------------------


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder.

    Args:
        template: The file's name.
        **values: What it shows; all that is not Markup is escaped.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('belle_jax.pages', ''),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (importlib.resources.files('belle_jax.pages') / 'style.css').read_text('utf-8')
    environment.globals['style'] = Markup(style)
    environment.filters['shortened'] = _shortened
    return environment


def _shortened(text: str) -> str:
    more = len(text) - LONGEST
    return f'{text[:LONGEST]}… ({more:,} characters more)' if more > 0 else text


# --- charts ---------------------------------------------------------------------------------------


def compact(number: float) -> str:
    """A number in few characters: 950, 1.2k, 34M, 0.05."""
    for limit, unit in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
        if abs(number) >= limit:
            return f'{number / limit:.3g}{unit}'
    return f'{number:.3g}'


def percent(share: float) -> str:
    """A share as a percentage."""
    return f'{share:.1%}' if 0 < share < 0.1 else f'{share:.0%}'


def bars(items: Sequence[tuple[str, int, str]], total: int, hues: bool = False) -> Markup:
    """Horizontal bars with their names, numbers and shares.

    Args:
        items: Name, number, and a sentence to show on pointing at it.
        total: What the shares are of.
        hues: A colour each, as the ring of `sunburst` has.
    """
    if not items:
        return NOTHING
    longest = max(number for _, number, _ in items) or 1
    rows = []
    for place, (name, number, title) in enumerate(items):
        hue = f' style="--h:{_hue(place, len(items))}"' if hues else ''
        share = percent(number / total) if total else ''
        rows.append(
            f'<div class="bar" title="{escape(title or name)}"{hue}>'
            f'<span class="name" dir="auto">{escape(name)}</span>'
            f'<span class="track"><i style="width:{100 * number / longest:.2f}%"></i></span>'
            f'<span class="number">{number:,}</span><span class="share">{share}</span></div>'
        )
    return Markup(f'<div class="bars{" hues" if hues else ""}">{"".join(rows)}</div>')


def histogram(
    bins: Sequence[tuple[float, float, int]], label: str, mark: float | None = None
) -> Markup:
    """Upright bars.

    Args:
        bins: Where each begins, where it ends (infinity: open) and its height.
        label: Of the axis below.
        mark: A place to mark with a line, such as a threshold.
    """
    if not any(height for _, _, height in bins):
        return NOTHING
    ticks = _ticks(max(height for _, _, height in bins))
    y, plot = _y_axis(ticks), WIDTH - LEFT - RIGHT
    step = plot / len(bins)
    shapes = []
    for place, (begin, end, height) in enumerate(bins):
        top = y(height)
        span = f'≥ {begin:g}' if math.isinf(end) else f'{begin:g} – {end:g}'
        shapes.append(
            f'<rect class="column" x="{LEFT + place * step + 0.5:.1f}" y="{top:.1f}" '
            f'width="{max(step - 1, 0.5):.1f}" height="{max(y(0) - top, 0):.1f}">'
            f'<title>{span}: {height:,}</title></rect>'
        )
    closed = [(begin, end) for begin, end, _ in bins if not math.isinf(end)]
    every = max(1, math.ceil(len(closed) / 6))
    edges = [(LEFT + i * step, f'{begin:g}') for i, (begin, _) in enumerate(closed)][::every]
    if len(closed) < len(bins):
        edges = [edge for edge in edges if edge[0] < WIDTH - RIGHT - step - 24]
        edges.append((LEFT + len(closed) * step, f'≥{bins[-1][0]:g}'))
    elif len(closed) % every == 0:
        edges.append((LEFT + plot, f'{closed[-1][1]:g}'))
    if mark is not None and closed and closed[0][0] <= mark <= closed[-1][1]:
        span = closed[-1][1] - closed[0][0]
        x = LEFT + (mark - closed[0][0]) / span * step * len(closed)
        shapes.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y(0):.1f}"/>'
            f'<text class="mark-name" x="{x + 4:.1f}" y="{TOP + 10}">{mark:g}</text>'
        )
    return _framed(shapes, ticks, compact, edges, label)


def lines(curves: Sequence[Curve], label: str, form: Format) -> Markup:
    """Curves over one axis that begins at 0.

    Args:
        curves: Each with a name, a class for its colour, and points.
        label: Of the axis below.
        form: How numbers of the upright axis are written.
    """
    points = [point for _, _, points in curves for point in points]
    if not points:
        return NOTHING
    ticks = _ticks(max(0, *(y for _, y in points)))
    right = max(x for x, _ in points) or 1
    y, plot = _y_axis(ticks), WIDTH - LEFT - RIGHT
    shapes = []
    for name, colour, curve in curves:
        places = [(LEFT + plot * a / right, y(b)) for a, b in curve]
        path = ' '.join(f'{a:.1f},{b:.1f}' for a, b in places)
        shapes.append(f'<polyline class="curve {colour}" points="{path}"/>')
        small = ' small' if len(places) > 40 else ''
        for (a, b), (before, after) in zip(places, curve):
            shapes.append(
                f'<circle class="dot {colour}{small}" cx="{a:.1f}" cy="{b:.1f}" r="3">'
                f'<title>{escape(name)}, {before:,.0f}: {escape(form(after))}</title></circle>'
            )
    edges = [(LEFT + plot * t / right, compact(t)) for t in _ticks(right) if t <= right]
    legend = ''.join(
        f'<span class="key"><i class="{colour}"></i>{escape(name)}</span>'
        for name, colour, _ in curves
    )
    drawn = _framed(shapes, ticks, form, edges, label)
    return drawn + Markup(f'<div class="legend">{legend}</div>' if len(curves) > 1 else '')


def sunburst(tree: Sequence[tuple[str, int, Sequence[tuple[str, int]]]]) -> Markup:
    """Two rings: groups inside, their parts outside; what is narrow has a name on pointing at it.

    Args:
        tree: Name and size of each group, and of its parts, which may leave a rest.
    """
    shapes, begin = [], 0.0
    total = sum(size for _, size, _ in tree) or 1
    for place, (name, size, parts) in enumerate(tree):
        angle = math.tau * size / total
        said = f'{name}: {size:,} ({percent(size / total)})'
        shapes.append(f'<g style="--h:{_hue(place, len(tree))}">')
        shapes.append(_sector(begin, begin + angle, *INNER, 'inner', name, said))
        at = begin
        for part, number in parts:
            end = at + math.tau * number / total
            said = f'{name}, {part}: {number:,}'
            shapes.append(_sector(at, end, *OUTER, 'outer', part, said))
            at = end
        if rest := size - sum(number for _, number in parts):
            said = f'{name}, others: {rest:,}'
            shapes.append(_sector(at, begin + angle, *OUTER, 'outer rest', '', said))
        shapes.append('</g>')
        begin += angle
    return Markup(
        '<svg class="sunburst" viewBox="-200 -200 400 400" role="img" '
        f'aria-label="categories and verbs">{"".join(shapes)}</svg>'
    )


def _sector(
    begin: float, end: float, inside: float, outside: float, kind: str, name: str, said: str
) -> str:
    end = min(end, begin + math.tau - 1e-4)  # a whole ring has no two ends
    large = int(end - begin > math.pi)
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = (
        (radius * math.sin(angle), -radius * math.cos(angle))
        for radius, angle in ((outside, begin), (outside, end), (inside, end), (inside, begin))
    )
    shape = (
        f'<path class="{kind}" d="M{ax:.2f} {ay:.2f}A{outside} {outside} 0 {large} 1 {bx:.2f} '
        f'{by:.2f}L{cx:.2f} {cy:.2f}A{inside} {inside} 0 {large} 0 {dx:.2f} {dy:.2f}Z">'
        f'<title>{escape(said)}</title></path>'
    )
    middle, radius = (begin + end) / 2, (inside + outside) / 2
    if not name or (end - begin) * radius < 11:  # no room for a line of text
        return shape
    turn = math.degrees(middle) - 90
    turn += 180 if middle % math.tau > math.pi else 0
    x, y = radius * math.sin(middle), -radius * math.cos(middle)
    short = name
    while sum(1 + (unicodedata.east_asian_width(c) in 'WF') for c in short) > COLUMNS:
        short = f'{short.rstrip("…")[:-1]}…'
    return shape + (
        f'<text class="{kind}-name" transform="translate({x:.2f} {y:.2f}) rotate({turn:.1f})">'
        f'{escape(short)}</text>'
    )


def _hue(place: int, number: int) -> int:
    return round(210 + 360 * place / max(number, 1)) % 360


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 to the first one that is not below `top`."""
    if top <= 0:
        return [0, 1]
    scale = 10.0 ** math.floor(math.log10(top / 4))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10, 20) if top / (m * scale) <= 4.0001)
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def _y_axis(ticks: Sequence[float]) -> Callable[[float], float]:
    height = HEIGHT - TOP - BOTTOM
    return lambda value: HEIGHT - BOTTOM - height * value / ticks[-1]


def _framed(
    shapes: Sequence[str],
    ticks: Sequence[float],
    form: Format,
    edges: Sequence[tuple[float, str]],
    label: str,
) -> Markup:
    """A chart: shapes with a grid behind them, and what stands beside the axes."""
    y, middle = _y_axis(ticks), (LEFT + WIDTH - RIGHT) / 2
    grid = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" '
        f'y2="{y(tick):.1f}"/><text class="tick y" x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}">'
        f'{escape(form(tick))}</text>'
        for tick in ticks
    ]
    below = [
        f'<text class="tick x" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}">{escape(text)}</text>'
        for x, text in edges
    ]
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join([*grid, *shapes, *below])}'
        f'<text class="axis" x="{middle}" y="{HEIGHT - 6}">{escape(label)}</text></svg>'
    )
