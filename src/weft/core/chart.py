"""Small charts as SVG text: lines over numeric axes, and horizontal bars.

No dependency and no script. Axes and words take the colour of the text around them (currentColor), so the
charts sit on a light page and on a dark one; series have colours that are told apart on both.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#3b82c4", "#d97a1f", "#2f9e6e", "#b0529a", "#8a7a2c", "#7a6bd1")
_FONT = 'font-family="system-ui,sans-serif" font-size="12" fill="currentColor"'
_POINTS = 800
_SCHEMES = "svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}"


@dataclass(frozen=True)
class Series:
    """A line through the points (x, y); points that are not finite, or not positive on a log axis, are left
    out. ``faint`` draws it thin and pale, for raw values behind a smooth line; it then has no legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Bar:
    """``note`` stands behind the bar; ``low`` and ``high`` draw an interval over its end."""

    label: str
    value: float
    note: str = ""
    low: float | None = None
    high: float | None = None
    colour: int = 0


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    stop: float
    log: bool

    def place(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    width: int = 720,
    height: int = 280,
) -> str:
    """The SVG of several lines on common axes, a legend above; a chart without points says so."""
    drawn = [(one, _points(one, log_x, log_y)) for one in series]
    everything = [point for _, points in drawn for point in points]
    if not everything:
        return _svg(width, 40, y_label, f'<text x="8" y="24" {_FONT}>{_escape(y_label)}: –</text>')
    x = _axis([p[0] for p in everything], 64, width - 16, log_x)
    y = _axis([p[1] for p in everything], height - 40, 44, log_y)
    parts = [_grid(x, y, width, height), _legend(drawn), _labels(x_label, y_label, width, height)]
    for one, points in drawn:
        path = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in points)
        look = 'stroke-width="1" opacity="0.35"' if one.faint else 'stroke-width="2"'
        colour = COLOURS[one.colour % len(COLOURS)]
        if len(points) == 1:
            a, b = path.split(",")
            parts.append(f'<circle cx="{a}" cy="{b}" r="3" fill="{colour}"/>')
        else:
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-linejoin="round" {look}/>'
            )
    return _svg(width, height, f"{y_label} / {x_label}", "".join(parts))


def bar_chart(bars: Sequence[Bar], *, title: str, width: int = 720) -> str:
    """The SVG of horizontal bars from 0, one a row, label left and note right.

    Negative and non-finite values are drawn as 0.
    """
    left = min(width * 0.45, 16 + 7.0 * max((_columns(bar.label) for bar in bars), default=0))
    right = min(width * 0.4, 16 + 7.0 * max((_columns(bar.note) for bar in bars), default=0))
    ends = [_sound(value) for bar in bars for value in (bar.value, bar.high)]
    scale = (width - left - right) / (max(ends, default=0.0) or 1.0)
    parts: list[str] = []
    for row, bar in enumerate(bars):
        top = 6 + 28 * row
        end = left + scale * _sound(bar.value)
        colour = COLOURS[bar.colour % len(COLOURS)]
        parts.append(
            f'<text x="{left - 8:.1f}" y="{top + 15}" text-anchor="end" {_FONT}>{_escape(bar.label)}</text>'
            f'<rect x="{left:.1f}" y="{top}" width="{max(end - left, 1):.1f}" height="20" rx="2" '
            f'fill="{colour}"/>'
        )
        last = end
        if bar.low is not None and bar.high is not None:
            last = max(end, left + scale * _sound(bar.high))
            parts.append(_whisker(left + scale * _sound(bar.low), last, top + 10))
        parts.append(f'<text x="{last + 8:.1f}" y="{top + 15}" {_FONT}>{_escape(bar.note)}</text>')
    return _svg(width, 12 + 28 * len(bars), title, "".join(parts))


def standalone(svg: str) -> str:
    """A chart as a file of its own, whose words follow the reader's light or dark scheme."""
    return f"{svg.removesuffix('</svg>')}<style>{_SCHEMES}</style></svg>"


def ticks(low: float, high: float, log: bool = False, count: int = 6) -> list[float]:
    """About ``count`` round values from ``low`` to ``high``: 1, 2 or 5 times powers of ten."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
            if 2 <= len(found) <= count + 1:
                return found
        if len(found) > count:
            return found[:: math.ceil(len(found) / count)]
        # Less than one step of the coarse grids: the linear ones are finer.
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (f * step) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A short spelling: 0.05, 1.5, 20k, 3M, 2e-05."""
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / {"G": 1e9, "M": 1e6, "k": 1e3}[suffix]
            return f"{scaled:.3g}{suffix}" if abs(scaled) < 1000 else f"{scaled:.0f}{suffix}"
    return f"{value:.4g}" if size >= 1e-3 or size == 0 else f"{value:.0e}"


def _points(series: Series, log_x: bool, log_y: bool) -> list[tuple[float, float]]:
    points = [
        (float(a), float(b))
        for a, b in zip(series.x, series.y, strict=True)
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    if len(points) <= _POINTS:
        return points
    # Both ends of each stretch's range, so that no spike is lost.
    size = math.ceil(len(points) / (_POINTS // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept.extend(sorted(ends))
    return kept


def _axis(values: Sequence[float], start: float, stop: float, log: bool) -> _Axis:
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
    return _Axis(low, high, start, stop, log)


def _grid(x: _Axis, y: _Axis, width: int, height: int) -> str:
    parts: list[str] = []
    for value in ticks(y.low, y.high, y.log):
        at = y.place(value)
        parts.append(
            f'<line x1="64" x2="{width - 16}" y1="{at:.1f}" y2="{at:.1f}" stroke="currentColor" '
            'opacity="0.15"/>'
            f'<text x="58" y="{at + 4:.1f}" text-anchor="end" {_FONT}>{number(value)}</text>'
        )
    for value in ticks(x.low, x.high, x.log):
        at = x.place(value)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{height - 40}" y2="{height - 36}" stroke="currentColor"/>'
            f'<text x="{at:.1f}" y="{height - 22}" text-anchor="middle" {_FONT}>{number(value)}</text>'
        )
    parts.append(
        f'<line x1="64" x2="{width - 16}" y1="{height - 40}" y2="{height - 40}" stroke="currentColor"/>'
    )
    return "".join(parts)


def _legend(drawn: Sequence[tuple[Series, list[tuple[float, float]]]]) -> str:
    parts: list[str] = []
    at = 64.0
    named = [one for one, points in drawn if points and not one.faint]
    for one in named if len(named) > 1 else ():
        colour = COLOURS[one.colour % len(COLOURS)]
        parts.append(
            f'<rect x="{at:.0f}" y="25" width="14" height="4" fill="{colour}"/>'
            f'<text x="{at + 19:.0f}" y="31" {_FONT}>{_escape(one.name)}</text>'
        )
        at += 40 + 7.0 * _columns(one.name)
    return "".join(parts)


def _labels(x_label: str, y_label: str, width: int, height: int) -> str:
    return (
        f'<text x="8" y="14" {_FONT} font-weight="600">{_escape(y_label)}</text>'
        f'<text x="{width - 16}" y="{height - 5}" text-anchor="end" {_FONT}>{_escape(x_label)}</text>'
    )


def _whisker(low: float, high: float, y: float) -> str:
    return (
        f'<path d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 5}V{y + 5}M{high:.1f} {y - 5}V{y + 5}" '
        'stroke="currentColor" stroke-width="1.5" fill="none"/>'
    )


def _svg(width: int, height: int, title: str, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{_escape(title)}</title>{content}</svg>'
    )


def _columns(text: str) -> int:
    """Width in half-width columns: a Han character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _sound(value: float | None) -> float:
    return max(value, 0.0) if value is not None and math.isfinite(value) else 0.0


def _escape(text: str) -> str:
    # Control characters may not stand in XML at all.
    return html.escape("".join(c if c >= " " else "�" for c in text))
