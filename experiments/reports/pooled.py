"""The claims over all data sets of photographs together: one value, one interval and one verdict per claim.

Reports of single sets are the input; nothing is trained or measured here.

    python -m experiments.reports.pooled --reports reports/photos     # pooled.csv, .md, .png, .pdf and index.html in it
"""

import argparse
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from analysis.figures.comparisons import pooled_figure
from analysis.figures.style import write_figure
from analysis.tables.cells import Table, TableCell, TableLine
from analysis.tables.markup import Marked, to_markdown
from experiments.claims.claims import NOT_RUN
from experiments.claims.ledger import ONE_SEED, ClaimSet, PooledError, number_text, read_claim_sets, summary
from experiments.claims.pooling import ONE_SET, POOLED, pooled_frame, unpooled
from experiments.reports.page import PAGE_NAME, Section, build_page
from experiments.runs.store import provenance
from freeanchor.files import write_bytes

CAPTION = (
    "Each pooled value is the plain mean over the sets that have it, every set alike: the question is about "
    "photographs, not about the biggest folder. Its 95 % interval joins the sets' own as independent ones (images: "
    "MOVER, Zou and Donner 2008; seeds: t, degrees after Welch and Satterthwaite; a set with one seed is lent the "
    "others' noise) and is judged by the same rules. It is about these sets, not about all that there are: what "
    "another set might give is seen from the range, lowest to highest of the sets' values, chance included. There is "
    "no test of heterogeneity: with so few sets Cochran's Q would hardly ever reject, and I² would say nothing."
)
FIGURE_CAPTION = (
    "Differences in points; shaded: where the claim would hold. A diamond with a thick bar is the mean over sets, "
    "small marks are the sets, bars are 95 % intervals, cut with an arrowhead where they leave the panel. Filled blue "
    "holds, filled vermilion does not hold, hollow grey is undecided."
)
_NONE_POOLED = "No claim was measured in two sets or more: there is nothing to pool yet."


def pooled_table(frame: pd.DataFrame, sets: Sequence[ClaimSet], left_out: Sequence[str] = ()) -> Table:
    """One line per claim: pooled, then as each set has it."""
    notes = [f"Pooled: {summary(frame[frame['level'] == POOLED])}."] if len(frame) else []
    notes.append(f"Sets: {', '.join(one.name for one in sets)}. Seeds of each value are in the csv.")
    if {number for one in sets for number in one.claims["n_seeds"] if number > 0} == {1}:
        notes.append(Marked(ONE_SEED))
    if alone := unpooled(sets):
        said = "; ".join(f"{claim} ({', '.join(names)})" for claim, names in alone.items())
        notes.append(f"Measured, but no part of it in two sets: {said}.")
    if left_out:
        notes.append(f"Left out, since their images are already counted: {', '.join(left_out)}.")
    names = [one.name for one in sets]
    return Table(
        title="The paper's claims on photographs, pooled over data sets",
        caption=Marked(CAPTION if len(frame) else f"{CAPTION}\n\n{_NONE_POOLED}"),
        headings=("Pooled verdict", "Claim", "The paper", "Pooled", "Range over sets", *names) if len(frame) else (),
        lines=tuple(_line(number, rows, names) for number, (_, rows) in enumerate(frame.groupby("id", sort=False))),
        notes=tuple(notes),
    )


def _line(number: int, rows: pd.DataFrame, names: Sequence[str]) -> TableLine:
    pooled = rows[rows["level"] == POOLED].to_dict("records")
    first = pooled[0]
    return TableLine(
        kind=first["verdict"],
        row=number,
        cells=(
            TableCell(text=first["verdict"], is_bold=True),
            TableCell(text=first["claim"]),
            TableCell(text=first["paper"]),
            _stack([_measured(row) for row in pooled]),
            _stack([_range(row, len(names)) for row in pooled]),
            *(_set_cell(rows[(rows["level"] == ONE_SET) & (rows["sets"] == name)]) for name in names),
        ),
    )


def _stack(cells: Sequence[TableCell]) -> TableCell:
    """Values one below the other in one cell."""
    return replace(cells[0], below=tuple(cells[1:]))


def _set_cell(rows: pd.DataFrame) -> TableCell:
    if not rows["n_sets"].any():
        return TableCell(text=NOT_RUN)
    return _stack([TableCell(text=rows["verdict"].iloc[0]), *(_measured(row) for row in rows.to_dict("records"))])


def _measured(row: Mapping[Hashable, Any]) -> TableCell:
    if pd.isna(row["value"]):
        is_alone = row["level"] == POOLED and row["n_sets"]
        return TableCell(text=_name(row) + (f"{row['sets']} only" if is_alone else NOT_RUN))
    value, low, high = (number_text(row[column], row["unit"]) for column in ("value", "low", "high"))
    return TableCell(text=f"{_name(row)}{value}", interval=f"[{low}, {high}]")


def _range(row: Mapping[Hashable, Any], num_sets: int) -> TableCell:
    """Lowest to highest of the sets' values, and of how many where not all have one."""
    if pd.isna(row["value"]):
        return TableCell(text=f"{_name(row)}–")
    low, high = (number_text(row[column], row["unit"]) for column in ("minimum", "maximum"))
    counted = f" ({row['n_sets']} sets)" if row["n_sets"] < num_sets else ""
    return TableCell(text=f"{_name(row)}{low} to {high}{counted}")


def _name(row: Mapping[Hashable, Any]) -> str:
    return f"{row['part']}: " if row["part"] else ""


def write_pooled(reports: Path) -> Path:
    """Write `pooled.md`, `.png`, `.pdf`, `.csv` and `index.html` into `reports`; the page's path.

    Raises PooledError, and writes nothing, where a set's claims.csv is damaged or there is none.
    """
    sets, left_out = read_claim_sets(reports)
    frame = pooled_frame(sets)
    table = pooled_table(frame, sets, left_out)
    write_bytes(reports / "pooled.md", to_markdown(table).encode())
    write_figure(pooled_figure(frame), frame, reports / "pooled")
    _write_page(reports, table, sets, left_out)
    return reports / PAGE_NAME


def _write_page(reports: Path, table: Table, sets: Sequence[ClaimSet], left_out: Sequence[str]) -> None:
    described: dict[str, Any] = {"command": "make pooled", "stem": reports / "pooled"}
    claims = Section(
        id="pooled",
        title="The claims, pooled",
        caption=CAPTION,
        kind="table",
        table=table if table.lines else None,
        **described,
    )
    figure = Section(
        id="forest", title="The differences, set by set", caption=FIGURE_CAPTION, kind="figure", **described
    )
    names = [*(one.name for one in sets), *left_out]
    links = Markup(", ").join(_link(reports, name) for name in sorted(names))
    verdicts = [{"set": _link(reports, one.name), "verdicts of its own": summary(one.claims)} for one in sets]
    build_page(
        reports,
        {"profile": reports.resolve().name, "sets": verdicts, **provenance()},
        [figure],
        title="FreeAnchor: photographs, all data sets",
        summary=Markup("Each set has a report of its own: {}.").format(links),
        first=[claims],
    )


def _link(reports: Path, name: str) -> Markup:
    """To a set's own page; its name alone where it has none."""
    if not (reports / name / PAGE_NAME).exists():
        return Markup("{}").format(name)
    return Markup('<a href="{}/{}">{}</a>').format(quote(name), PAGE_NAME, name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pool what lies there; the exit status: 2, with one line, where it cannot be."""
    parser = argparse.ArgumentParser(description="The claims over several data sets of photographs together.")
    parser.add_argument("--reports", type=Path, default=Path("reports/photos"), help="folder of the sets' reports")
    options = parser.parse_args(arguments)
    try:
        print(write_pooled(options.reports))
    except (PooledError, OSError) as error:
        print(f"pooled: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
