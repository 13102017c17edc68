"""The printed lines of a table: a tidy frame, one row a cell, turned into texts.

What it is: which lines a table has and what each cell says. What it is not: markup or files (`analysis.tables`, which
re-exports the public names here).

    layout = TableLayout(title="Table 2", labels={"backbone": "Backbone", "detector": "Detector"}, metrics={"ap": "AP"})
    for line in table_rows(frame, layout):
        print(line.kind, line.labels, [cell.text for cell in line.cells])
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from freeanchor.errors import FreeAnchorError

TIDY_COLUMNS = (
    "profile", "run", "detector", "backbone", "split", "metric", "value", "low", "high", "n_seeds", "published",
    "source",
)  # fmt: skip
NOT_RUN, NOT_PUBLISHED, UNDEFINED, NO_LABEL = "not run", "n/a", "undefined", "–"
# Where a line's numbers come from, as it is printed: the paper, a run of ours, the authors of a published checkpoint,
# that checkpoint tested by us.
Kind = Literal["paper", "here", "its authors", "published checkpoint, evaluated here"]
KINDS: dict[str, tuple[Kind, Kind]] = {
    "here": ("paper", "here"),
    "here alone": ("paper", "here"),  # a run that no published number stands beside: one line
    "checkpoint": ("its authors", "published checkpoint, evaluated here"),
    "checkpoint beside the paper": ("paper", "published checkpoint, evaluated here"),
}
_PUBLISHED = ("paper", "its authors")
_IDENTITY = ("profile", "run", "detector", "backbone", "split", "variant", "published_backbone", "schedule")


class TableError(FreeAnchorError):
    """A frame that does not fit its layout; one line: what, where, how to mend."""


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """What a table shows: its rows are labelled by `labels`, its cells are the `metrics`; both map column to heading.

    Where the frame has a column `published_<label>`, the paper's line shows that one: the paper's backbone above ours.
    Where it has a column `measured_as`, a row that says so there is of somebody else's weights, tested here (`KINDS`).
    """

    title: str
    labels: Mapping[str, str]
    metrics: Mapping[str, str]
    caption: str = ""
    notes: tuple[str, ...] = ()
    bold_best: str | None = None  # the column whose equal values make a comparison group; None: nothing is bold
    has_paper_lines: bool = True  # False: the paper gives no number for any row, as for its ablations


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """What a cell says: value and spread over seeds, interval ("" where there is none); `number` is nan for words."""

    text: str
    interval: str = ""
    number: float = math.nan
    is_best: bool = False

    @property
    def full_text(self) -> str:
        """Value, spread and interval: `45.4 ±0.2 [43.9, 46.8]`."""
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True, kw_only=True)
class TableLine:
    """One printed line. The lines of one row of the table share `row`, lines that are compared share `group`."""

    kind: Kind
    row: int
    runs: tuple[str, ...]  # that the numbers are of; none where they are published ones
    group: str
    labels: tuple[str, ...]
    cells: tuple[TableCell, ...]


def table_rows(frame: pd.DataFrame, layout: TableLayout) -> list[TableLine]:
    """The lines of the table, in the frame's order, texts not yet escaped; an empty frame has none.

    Cells that agree in all labels make one row, shown as two lines, *paper* and *here*, or for a published checkpoint
    what its authors report and what it gives here; a row without a `run` has just its first line. Percent with one
    decimal, signed for gains; ± the standard deviation over seeds where the frame has a column `sd`; `num_*` and
    `effective_*` as plain numbers; `*_seconds` as time, in hours for the paper. Raises `TableError` where a column is
    missing or a cell is given twice.
    """
    _check_columns(frame, layout)
    lines = []
    for row, (key, cells) in enumerate(frame.groupby(_row_key(frame, layout), sort=False, dropna=False)):
        _refuse_doubles(cells, key)
        lines += [_line(kind, row, cells, layout) for kind in _kinds(cells.iloc[0], layout)]
    return lines if layout.bold_best is None else _mark_best(lines, list(layout.metrics))


def format_measure(metric: str, value: float) -> str:
    """One number as the tables print it, without interval: `45.4`, `+3.0` for gains, `7.5 min`, `not run` for nan."""
    if math.isnan(value):
        return NOT_RUN
    return _with_unit(metric, value, _time_unit(value))


def table_notes(frame: pd.DataFrame, layout: TableLayout) -> list[str]:
    """The layout's notes, then where the two kinds of line come from."""
    notes = list(layout.notes)
    for kind, part in frame.groupby(_measured_as(frame)):
        published = part.source[part.published.notna()].unique()
        sources = [str(source) for source in published if not _is_blank(source)]
        if layout.has_paper_lines and sources:
            notes.append(f"{KINDS[str(kind)][0]}: {'; '.join(sources)}.")
    measured = frame[frame.value.notna() & _measured_as(frame).isin(["here", "here alone"])]
    places = [f"{profile}, {split}" for profile, split in measured[["profile", "split"]].drop_duplicates().to_numpy()]
    seeds = sorted({int(number) for number in measured.n_seeds.dropna()})
    counts = f"; seeds a run: {', '.join(map(str, seeds))}" if seeds else ""
    return [*notes, f"here: {'; '.join(places)}{counts}." if places else "here: nothing has been run yet."]


def _check_columns(frame: pd.DataFrame, layout: TableLayout) -> None:
    grouped = () if layout.bold_best is None else (layout.bold_best,)
    missing = [column for column in (*TIDY_COLUMNS, *layout.labels, *grouped) if column not in frame.columns]
    if missing:
        raise TableError(f"{layout.title}: the frame lacks {', '.join(missing)}; give the tidy columns, one row a cell")


def _measured_as(frame: pd.DataFrame) -> pd.Series:
    """What each cell's run is: "here" unless the frame says otherwise."""
    return frame["measured_as"] if "measured_as" in frame.columns else pd.Series("here", index=frame.index)


def _row_key(frame: pd.DataFrame, layout: TableLayout) -> list[str]:
    """The columns that tell one row of the table from another."""
    wanted = (*_IDENTITY, *layout.labels, *(f"published_{label}" for label in layout.labels))
    return [column for column in dict.fromkeys(wanted) if column in frame.columns]


def _refuse_doubles(cells: pd.DataFrame, key: tuple[object, ...]) -> None:
    twice = cells.metric[cells.metric.duplicated()]
    if len(twice):
        labels = ", ".join(str(part) for part in key if not _is_blank(part))
        raise TableError(f"{twice.iloc[0]} stands twice in the row of {labels}; give it once, or label the rows apart")


def _kinds(first: pd.Series, layout: TableLayout) -> tuple[Kind, ...]:
    measured_as = str(first.get("measured_as", "here"))
    theirs, ours = KINDS[measured_as]
    if _is_blank(first.run):
        return (theirs,)
    return (theirs, ours) if layout.has_paper_lines and measured_as != "here alone" else (ours,)


def _line(kind: Kind, row: int, cells: pd.DataFrame, layout: TableLayout) -> TableLine:
    first = cells.iloc[0]
    by_metric = {str(cell.metric): cell for _, cell in cells.iterrows()}
    read = _paper_cell if kind in _PUBLISHED else _measured_cell
    return TableLine(
        kind=kind,
        row=row,
        runs=() if kind in _PUBLISHED else tuple(str(first.run).split()),
        group=str(first[layout.bold_best]) if layout.bold_best else "",
        labels=tuple(_label(kind, first, column) for column in layout.labels),
        cells=tuple(read(metric, by_metric.get(metric)) for metric in layout.metrics),
    )


def _label(kind: Kind, first: pd.Series, column: str) -> str:
    published = f"published_{column}"
    if kind in _PUBLISHED and published in first.index:
        return NOT_PUBLISHED if _is_blank(first[published]) else str(first[published])
    return NO_LABEL if _is_blank(first[column]) else str(first[column])


def _paper_cell(metric: str, cell: pd.Series | None) -> TableCell:
    if cell is None or pd.isna(cell.published):
        return TableCell(text=NOT_PUBLISHED)
    return TableCell(text=_with_unit(metric, cell.published, "h"), number=float(cell.published))


def _measured_cell(metric: str, cell: pd.Series | None) -> TableCell:
    """A nan of a finished run (it has seeds) is *undefined*, not *not run*: AP of large objects where there is none."""
    if cell is None or pd.isna(cell.value):
        has_run = cell is not None and not pd.isna(cell.n_seeds) and cell.n_seeds > 0
        return TableCell(text=UNDEFINED if has_run else NOT_RUN)
    unit = _time_unit(cell.value)
    interval = ""
    if not (pd.isna(cell.low) or pd.isna(cell.high)):
        interval = f"[{_without_unit(metric, cell.low, unit)}, {_without_unit(metric, cell.high, unit)}]"
    text = f"{_with_unit(metric, cell.value, unit)}{_over_seeds(metric, cell, unit)}"
    return TableCell(text=text, interval=interval, number=float(cell.value))


def _over_seeds(metric: str, cell: pd.Series, unit: str) -> str:
    """The standard deviation over seeds, where there are several: ` ±0.3`."""
    sd = cell.get("sd", math.nan)
    return "" if pd.isna(sd) or cell.n_seeds < 2 else f" ±{_without_unit(metric, sd, unit).lstrip('+')}"


def _time_unit(seconds: float) -> str:
    return "s" if seconds < 120 else "min" if seconds < 7200 else "h"


def _with_unit(metric: str, value: float, unit: str) -> str:
    number = _without_unit(metric, value, unit)
    return f"{number} {unit}" if metric.endswith("_seconds") else number


def _without_unit(metric: str, value: float, unit: str) -> str:
    """The number as printed; `unit` counts for times only."""
    if metric.endswith("_seconds"):
        return {"s": f"{value:.0f}", "min": f"{value / 60:.1f}", "h": f"{value / 3600:.2f}"}[unit]
    if metric.startswith(("num_", "effective_")):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"
    return f"{100 * value:+.1f}" if "gain" in metric.split("_") else f"{100 * value:.1f}"


def _mark_best(lines: list[TableLine], metrics: list[str]) -> list[TableLine]:
    """The lines with the highest numbers marked, within each kind and group; times are never marked."""
    best: dict[tuple[str, str, str], float] = {}
    for line in lines:
        for metric, cell in zip(metrics, line.cells, strict=True):
            if not math.isnan(cell.number) and not metric.endswith("_seconds"):
                key = line.kind, line.group, metric
                best[key] = max(best.get(key, -math.inf), cell.number)
    return [
        replace(
            line,
            cells=tuple(
                replace(cell, is_best=cell.number == best.get((line.kind, line.group, metric)))
                for metric, cell in zip(metrics, line.cells, strict=True)
            ),
        )
        for line in lines
    ]


def _is_blank(value: object) -> bool:
    return value is None or value == "" or bool(pd.isna(value))  # type: ignore[call-overload]  # scalars only
