"""Bar charts as SVG, readable on light and on dark pages: they bring a background that follows the reader's choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

__all__ = ["Bar", "Group", "bars"]

_WIDTH = 760
_LABELS = 170  # to the left of the bars
_RIGHT = 110  # for the values behind them
_BAR, _GAP = 15, 4
_TOP, _BOTTOM = 56, 46
_TITLE = 26  # of a group

_STYLE = """
    .page { fill: #ffffff; } .text { fill: #24292f; } .faint { fill: #57606a; }
    .grid { stroke: #d0d7de; } .whisker { stroke: #24292f; }
    .own { fill: #0969da; } .base { fill: #6e7781; } .other { fill: #bf8700; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #161b22; } .text { fill: #e6edf3; } .faint { fill: #9198a1; }
      .grid { stroke: #30363d; } .whisker { stroke: #e6edf3; }
      .own { fill: #4493f8; } .base { fill: #8b949e; } .other { fill: #d29922; }
    }
    text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
    .title { font-size: 15px; font-weight: 600; } .group { font-weight: 600; }
"""


class Bar(NamedTuple):
    """One contender's figure.

    Attributes:
        label: Whose it is.
        value: The median.
        low: The smallest.
        high: The largest.
        kind: "own", "base" (no library at all) or "other", which gives the colour.
    """

    label: str
    value: float
    low: float
    high: float
    kind: str


class Group(NamedTuple):
    """Bars that belong together."""

    title: str
    bars: Sequence[Bar]


def bars(title: str, unit: str, groups: Sequence[Group]) -> str:
    """Draw groups of bars over one axis; a logarithmic one if the figures lie far apart.

    Args:
        title: What is shown.
        unit: Of the axis.
        groups: From top to bottom.
    """
    values = [bar for group in groups for bar in group.bars]
    least, most = min(bar.low for bar in values), max(bar.high for bar in values)
    log = most > 20 * least
    start, ticks = _axis(least, most, log=log)
    end = max(most, ticks[-1])
    room = _WIDTH - _LABELS - _RIGHT

    def x(value: float) -> float:
        share = math.log(value / start) / math.log(end / start) if log else (value - start) / (end - start)
        return round(_LABELS + room * share, 1)

    height = _TOP + _BOTTOM + sum(_TITLE + len(group.bars) * (_BAR + _GAP) for group in groups)
    parts = [f'<rect class="page" width="{_WIDTH}" height="{height}" rx="6"/>']
    parts.append(f'<text class="text title" x="16" y="26">{escape(title)}</text>')
    for tick in ticks:
        at = x(tick)
        parts.append(f'<line class="grid" x1="{at}" y1="{_TOP - 8}" x2="{at}" y2="{height - _BOTTOM}"/>')
        parts.append(
            f'<text class="faint" x="{at}" y="{height - _BOTTOM + 16}" text-anchor="middle">{_said(tick)}</text>'
        )
    scale = ", logarithmic scale" if log else ""
    middle = _LABELS + room / 2
    parts.append(
        f'<text class="faint" x="{middle}" y="{height - 12}" text-anchor="middle">{escape(unit + scale)}</text>'
    )
    y = _TOP
    for group in groups:
        parts.append(f'<text class="text group" x="16" y="{y + 14}">{escape(group.title)}</text>')
        y += _TITLE
        for bar in group.bars:
            parts += _drawn(bar, y, x(bar.value), x(bar.low), x(bar.high))
            y += _BAR + _GAP
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label={quoteattr(f"{title}, {unit}")}>\n'
        f"  <style>{_STYLE}  </style>\n  {body}\n</svg>\n"
    )


def _drawn(bar: Bar, y: int, end: float, low: float, high: float) -> list[str]:
    middle = y + _BAR / 2
    return [
        f'<text class="text" x="{_LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{bar.kind}" x="{_LABELS}" y="{y}" width="{max(1.0, round(end - _LABELS, 1))}" height="{_BAR}"/>',
        f'<line class="whisker" x1="{low}" y1="{middle}" x2="{high}" y2="{middle}"/>',
        f'<text class="text" x="{max(end, high) + 6}" y="{y + 12}">{_said(bar.value)}</text>',
    ]


def _axis(least: float, most: float, *, log: bool) -> tuple[float, list[float]]:
    """Choose where the axis begins, and its ticks."""
    if log:
        first = math.floor(math.log10(least / 1.5))
        last = math.ceil(math.log10(most))
        return 10.0**first, [10.0**power for power in range(first, last + 1)]
    step = 10 ** math.floor(math.log10(most))
    step = next(step / part for part in (1, 2, 5, 10) if most / (step / part) >= 3)
    return 0.0, [step * count for count in range(math.ceil(most / step) + 1)]


def _said(value: float) -> str:
    """Write a figure as one reads it: three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
