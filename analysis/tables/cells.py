"""A table as a value: its headings, lines and notes, made of a tidy frame with one row per cell.

    layout = TableLayout(
        title="Table 2", labels={"backbone": "Backbone", "detector": "Detector"}, metrics={"ap": "AP", "ap_50": "AP50"}
    )
    table = tidy_table(frame, layout)       # `analysis.tables.markup` writes it as Markdown, LaTeX and HTML

A row of the frame has `metric`, `value` (measured here; nan where not run), `low` and `high` (its interval; nan where
none), `n_seeds`, `published` (the paper's; nan where it has none), `source` (where the paper's stands), `run` (empty
where the row is published only), `profile`, `split`, and whatever columns label its row. Times are in seconds.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from freeanchor.errors import FreeAnchorError

TIDY_COLUMNS = (
    "profile", "run", "detector", "backbone", "split", "metric", "value", "low", "high", "n_seeds", "published",
    "source",
)  # fmt: skip
NOT_RUN, NOT_PUBLISHED, UNDEFINED, NO_LABEL = PLACEHOLDERS = "not run", "n/a", "undefined", "–"
KIND_HEADING = "Source"
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
    """A frame that does not fit its layout; one line: what, where, the remedy."""


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
    has_paper_lines: bool = True  # False: the paper gives no number for any row, as for its ablations


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """What a cell says: value and spread over seeds, and the interval, "" where there is none.

    `below` are further values of the same cell, one per line: the parts of a claim.
    """

    text: str
    interval: str = ""
    is_bold: bool = False
    below: tuple["TableCell", ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableLine:
    """One printed line: labels, then cells. The lines of one row of the table share `row`.

    `kind` tells where the numbers come from, or a verdict.
    """

    kind: str
    row: int
    cells: tuple[TableCell, ...]
    labels: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()  # that the numbers are of; none where they are published ones


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table for readers. `headings` are those of the labels, then of the cells, right-aligned where `are_numbers`."""

    title: str
    caption: str
    headings: tuple[str, ...]
    lines: tuple[TableLine, ...]
    notes: tuple[str, ...]
    num_labels: int = 0
    are_numbers: bool = False

    def of_runs(self, known: Iterable[str]) -> "Table":
        """The table whose lines name known runs alone."""
        names = set(known)
        lines = (replace(line, runs=tuple(run for run in line.runs if run in names)) for line in self.lines)
        return replace(self, lines=tuple(lines))


def tidy_table(frame: pd.DataFrame, layout: TableLayout) -> Table:
    """The frame as a table, in its order; an empty frame has no lines.

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
    return Table(
        title=layout.title,
        caption=layout.caption,
        headings=(*layout.labels.values(), KIND_HEADING, *layout.metrics.values()),
        lines=tuple(lines),
        notes=tuple(_notes(frame, layout)),
        num_labels=len(layout.labels) + 1,
        are_numbers=True,
    )


def format_measure(metric: str, value: float) -> str:
    """One number as the tables print it, without interval: `45.4`, `+3.0` for gains, `7.5 min`, `not run` for nan."""
    return NOT_RUN if math.isnan(value) else _with_unit(metric, value, _time_unit(value))


def _notes(frame: pd.DataFrame, layout: TableLayout) -> list[str]:
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
    counts = f"; seeds per run: {', '.join(map(str, seeds))}" if seeds else ""
    return [*notes, f"here: {'; '.join(places)}{counts}." if places else "here: nothing has been run yet."]


def _check_columns(frame: pd.DataFrame, layout: TableLayout) -> None:
    missing = [column for column in (*TIDY_COLUMNS, *layout.labels) if column not in frame.columns]
    if missing:
        raise TableError(
            f"{layout.title}: the frame lacks {', '.join(missing)}; give the tidy columns, one row per cell"
        )


def _measured_as(frame: pd.DataFrame) -> pd.Series:
    """What each cell's run is: "here" unless the frame says otherwise."""
    return frame["measured_as"] if "measured_as" in frame.columns else pd.Series("here", index=frame.index)


def _row_key(frame: pd.DataFrame, layout: TableLayout) -> list[str]:
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
        labels=(*(_label(kind, first, column) for column in layout.labels), kind),
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
    return TableCell(text=_with_unit(metric, cell.published, "h"))


def _measured_cell(metric: str, cell: pd.Series | None) -> TableCell:
    """A nan of a finished run (it has seeds) is *undefined*, not *not run*: AP of large objects where there is none."""
    if cell is None or pd.isna(cell.value):
        has_run = cell is not None and not pd.isna(cell.n_seeds) and cell.n_seeds > 0
        return TableCell(text=UNDEFINED if has_run else NOT_RUN)
    unit = _time_unit(cell.value)
    interval = ""
    if not (pd.isna(cell.low) or pd.isna(cell.high)):
        interval = f"[{_without_unit(metric, cell.low, unit)}, {_without_unit(metric, cell.high, unit)}]"
    return TableCell(text=_with_unit(metric, cell.value, unit) + _over_seeds(metric, cell, unit), interval=interval)


def _over_seeds(metric: str, cell: pd.Series, unit: str) -> str:
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


def _is_blank(value: object) -> bool:
    return value is None or value == "" or bool(pd.isna(value))  # type: ignore[call-overload]  # scalars only
