"""Charts of a page as hand-written SVG that takes its colours from the page, light or dark.

forest([Mark(name="all", value=0.4, low=0.1, high=0.7)], unit="points", is_difference=True)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

_ROW, _LEFT, _RIGHT, _WIDTH, _FOOT = 22, 210, 150, 720, 34


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One row of a forest plot; nan where there is no number or no interval."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def forest(marks: Sequence[Mark], *, unit: str, is_difference: bool, decimals: int = 1) -> Markup:
    """Value and interval of each mark, one row each, numbers beside them; a line at 0 for differences."""
    numbers = [x for mark in marks for x in (mark.value, mark.low, mark.high) if math.isfinite(x)]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    low, high = min(low, 0.0), max(high, 0.0)
    ticks = _ticks(low, high if high > low else low + 1)
    height = _ROW * len(marks) + _FOOT
    parts = [
        '<div class="scroll" tabindex="0" role="region" aria-label="chart">'
        f'<svg class="forest" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(_spoken(marks, unit, decimals))}">'
    ]
    bottom = _ROW * len(marks) + 2
    for tick in ticks:
        x = _place(tick, ticks)
        kind = "zero" if is_difference and abs(tick) < 1e-12 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 13}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{bottom + 28}" text-anchor="middle">{escape(unit)}</text>')
    for row, mark in enumerate(marks):
        parts += _row(mark, row, ticks, is_difference, decimals)
    return Markup("".join(parts) + "</svg></div>")  # noqa: S704  # every text in it is escaped


def numbers_of(mark: Mark, *, is_difference: bool, decimals: int) -> str:
    """`+0.5 [+0.2, +0.7]`, `–` for what is undefined."""
    sign = "+" if is_difference else ""
    if not math.isfinite(mark.value):
        return "–"
    value, low, high = (f"{number:{sign}.{decimals}f}" for number in (mark.value, mark.low, mark.high))
    return f"{value} [{low}, {high}]" if math.isfinite(mark.low) else value


def _row(mark: Mark, row: int, ticks: list[float], is_difference: bool, decimals: int) -> list[str]:
    y = _ROW * row + _ROW / 2
    parts = [f'<text class="name" x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(_cut(mark.name))}</text>']
    sure = " sure" if is_difference and mark.excludes_zero else ""
    if math.isfinite(mark.low):
        a, b = _place(mark.low, ticks), _place(mark.high, ticks)
        parts.append(f'<line class="bar{sure}" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>')
    if math.isfinite(mark.value):
        parts.append(f'<circle class="dot{sure}" cx="{_place(mark.value, ticks)}" cy="{y}" r="4"/>')
    text = mark.note or numbers_of(mark, is_difference=is_difference, decimals=decimals)
    parts.append(f'<text class="value" x="{_WIDTH - _RIGHT + 10}" y="{y + 4}">{escape(text)}</text>')
    return parts


def _place(x: float, ticks: list[float]) -> float:
    share = (x - ticks[0]) / (ticks[-1] - ticks[0])
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, about five."""
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * place, 10) for place in range(first, last + 1)]


def _spoken(marks: Sequence[Mark], unit: str, decimals: int) -> str:
    rows = "; ".join(f"{m.name} {numbers_of(m, is_difference=False, decimals=decimals)}" for m in marks)
    return f"Values with 95 % intervals, {unit}: {rows}"


def _cut(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:19]}…{name[-10:]}"
