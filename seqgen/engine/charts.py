"""Charts as SVG that take the reader's colours and width, for pages: no plotting library, no picture for each theme.

The classes c0, c1 ... colour the series; `page.STYLE` says how, in light and in dark.
"""

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]

COLOURS = 5
"""Series beyond so many take the colours of the first ones."""

_WIDE, _HIGH = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 36


@dataclass(frozen=True)
class Series:
    """What one colour of a chart shows."""

    label: str
    points: Sequence[Point]
    line: bool = True
    """Whether the points are joined."""
    dots: bool = False
    """Whether each point is drawn, with its name or its values to be read by pointing at it."""
    names: Sequence[str] = ()
    """What is written beside each dot; nothing where it is empty."""


def chart(
    series: Sequence[Series],
    *,
    title: str = "",
    across: str = "step",
    up: str = "",
    level: tuple[str, float] | None = None,
) -> str:
    """Return a figure of the series with a legend, axes named `across` and `up`; `level` is a dashed line with a name.

    "" where no series has a point.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points] + ([level[1]] if level else [])
    (left, right), (low, high) = _range(xs, 0.02), _range(ys, 0.06)

    def place(x: float, y: float) -> Point:
        return (
            _LEFT + (x - left) / (right - left) * (_WIDE - _LEFT - _RIGHT),
            _TOP + (high - y) / (high - low) * (_HIGH - _TOP - _BOTTOM),
        )

    parts = []
    for value in ticks(low, high, 4):
        _, y = place(left, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDE - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in ticks(left, right, 5):
        x, _ = place(value, low)
        parts.append(f'<text x="{x:.1f}" y="{_HIGH - _BOTTOM + 14}" text-anchor="middle">{_short(value)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_HIGH - _BOTTOM}H{_WIDE - _RIGHT}"/>')
    middle = (_LEFT + _WIDE - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HIGH - 5}" text-anchor="middle">{html.escape(across)}</text>')
    if level:
        _, y = place(left, level[1])
        parts.append(f'<path class="level" d="M{_LEFT} {y:.1f}H{_WIDE - _RIGHT}"/>')
    for number, one in enumerate(drawn):
        parts += _drawn(one, number % COLOURS, [place(*point) for point in one.points])
    labels = [(f'<i class="c{n % COLOURS}"></i>', one.label) for n, one in enumerate(drawn) if one.label]
    labels += [('<i class="dashed"></i>', level[0])] if level else []
    legend = "".join(f"<span>{sign}{html.escape(label)}</span>" for sign, label in labels)
    about = ", ".join(filter(None, [title, up, *(label for _, label in labels)]))
    heading = f"<b>{html.escape(title)}</b>" if title else ""
    heading += f"<small>{html.escape(up)}</small>" if up else ""
    svg = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{html.escape(about)}">{"".join(parts)}</svg>'
    return f'<figure class="chart"><figcaption>{heading}{legend}</figcaption>{svg}</figure>'


_CELL, _LETTER = 22, 7


def heat_map(across: Sequence[str], down: Sequence[str], shares: Sequence[Sequence[float]], *, title: str) -> str:
    """Return a figure of shares 0..1, a row for each name in `down`; the darker, the larger."""
    left, top = (_LETTER * max(map(len, names), default=0) + 8 for names in (down, across))
    wide, high = left + _CELL * len(across) + 4, top + _CELL * len(down) + 4
    parts = [
        f'<text x="{left - 6:.0f}" y="{top + _CELL * (n + 0.7):.0f}" text-anchor="end">{html.escape(name)}</text>'
        for n, name in enumerate(down)
    ]
    for n, name in enumerate(across):
        place = f"{left + _CELL * (n + 0.65):.0f},{top - 6:.0f}"
        parts.append(f'<text transform="translate({place}) rotate(-90)">{html.escape(name)}</text>')
    for row, (name, values) in enumerate(zip(down, shares, strict=True)):
        for column, (other, share) in enumerate(zip(across, values, strict=True)):
            parts.append(
                f'<rect class="c0" x="{left + _CELL * column:.0f}" y="{top + _CELL * row:.0f}" width="{_CELL - 1}" '
                f'height="{_CELL - 1}" fill-opacity="{max(0.04, share):.3f}">'
                f"<title>{html.escape(name)}, {html.escape(other)}: {share:.2f}</title></rect>"
            )
    return (
        f'<figure class="chart"><b>{html.escape(title)}</b><svg viewBox="0 0 {wide:.0f} {high:.0f}" role="img" '
        f'style="max-width:{wide:.0f}px" aria-label="{html.escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _drawn(one: Series, number: int, places: Sequence[Point]) -> Iterable[str]:
    if one.line and len(places) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path class="c{number}" d="M{path}"/>'
    if one.dots or len(places) == 1:
        for i, ((x, y), (value, height)) in enumerate(zip(places, one.points, strict=True)):
            name = one.names[i] if one.names else ""
            about = html.escape(f"{name or one.label}: {value:.6g}, {height:.4g}")
            yield f'<circle class="c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{about}</title></circle>'
            if name:
                end = x > _WIDE - 70
                anchor = ' text-anchor="end"' if end else ""
                yield f'<text x="{x + (-6 if end else 6):.1f}" y="{y - 5:.1f}"{anchor}>{html.escape(name)}</text>'


def averaged(points: Sequence[Point]) -> tuple[list[Point], str]:
    """Average values of single batches in groups of at least five, and say so; a few stay as they are."""
    count = min(60, len(points) // 5)
    if count < 2:
        return list(points), "single batches"
    edges = [len(points) * i // count for i in range(count + 1)]
    groups = [points[a:b] for a, b in itertools.pairwise(edges)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return means, f"mean of {len(points) / count:.0f} logged batches"


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers within a range, at most `count` + 1 of them and, where the range is none, its only one."""
    if not high > low:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / count))
    size *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (size * factor) <= count)
    first = math.ceil(low / size - 1e-9)
    return [size * n for n in range(first, math.floor(high / size + 1e-9) + 1)]


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    """Return the range of values and some room on both sides; of a single value a range around it."""
    low, high = min(values), max(values)
    more = room * (high - low) if high > low else abs(high) * 0.1 or 1.0
    return low - more, high + more


def _short(value: float) -> str:
    """Return a tick's number in few signs: 12k, 1.5M, 0.25."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"
