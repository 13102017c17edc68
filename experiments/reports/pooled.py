"""The claims over all data sets of photographs together: one value, one interval and one verdict per claim.

Reports of single sets are the input; nothing is trained or measured here.

    python -m experiments.reports.pooled --reports reports/photos     # pooled.csv, .md, .png, .pdf and index.html in it
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from analysis.figures.pooled import pooled_figure
from analysis.figures.style import write_figure
from analysis.tables.markup import escape_markdown
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


def to_markdown(frame: pd.DataFrame, sets: Sequence[ClaimSet], left_out: Sequence[str] = ()) -> str:
    """The table for a reader: one line per claim, pooled, then as each set has it."""
    title = "**The paper's claims on photographs, pooled over data sets**"
    body = "\n".join(_table_lines(frame, [one.name for one in sets])) if len(frame) else _NONE_POOLED
    notes = [f"- Pooled: {summary(frame[frame['level'] == POOLED])}."] if len(frame) else []
    notes.append(f"- Sets: {', '.join(escape_markdown(one.name) for one in sets)}. Seeds of each value are in the csv.")
    seeds = {number for one in sets for number in one.claims["n_seeds"] if number > 0}
    if seeds == {1}:
        notes.append(f"- {ONE_SEED}")
    if alone := unpooled(sets):
        said = "; ".join(f"{claim} ({', '.join(map(escape_markdown, names))})" for claim, names in alone.items())
        notes.append(f"- Measured, but no part of it in two sets: {said}.")
    if left_out:
        names = ", ".join(map(escape_markdown, left_out))
        notes.append(f"- Left out, since their images are already counted: {names}.")
    return "\n\n".join([title, CAPTION, body, "\n".join(notes)]) + "\n"


def _table_lines(frame: pd.DataFrame, sets: Sequence[str]) -> list[str]:
    heads = ["Pooled verdict", "Claim", "The paper", "Pooled", "Range over sets", *map(escape_markdown, sets)]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for _, rows in frame.groupby("id", sort=False):
        pooled = rows[rows["level"] == POOLED]
        first = pooled.iloc[0]
        cells = [f"**{first['verdict']}**", first["claim"], first["paper"]]
        cells += ["<br>".join(_measured(row) for row in _records(pooled))]
        cells += ["<br>".join(_range(row, len(sets)) for row in _records(pooled))]
        cells += [_set_cell(rows[(rows["level"] == ONE_SET) & (rows["sets"] == name)]) for name in sets]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _set_cell(rows: pd.DataFrame) -> str:
    if not rows["n_sets"].any():
        return NOT_RUN
    return "<br>".join([str(rows["verdict"].iloc[0]), *(_measured(row) for row in _records(rows))])


def _measured(row: Mapping[str, Any]) -> str:
    if pd.isna(row["value"]):
        is_alone = row["level"] == POOLED and row["n_sets"]
        return _name(row) + (f"{escape_markdown(row['sets'])} only" if is_alone else NOT_RUN)
    value, low, high = (number_text(row[column], row["unit"]) for column in ("value", "low", "high"))
    return f"{_name(row)}{value} [{low}, {high}]"


def _range(row: Mapping[str, Any], num_sets: int) -> str:
    """Lowest to highest of the sets' values, and of how many where not all have one."""
    if pd.isna(row["value"]):
        return f"{_name(row)}–"
    low, high = (number_text(row[column], row["unit"]) for column in ("minimum", "maximum"))
    return f"{_name(row)}{low} to {high}" + (f" ({row['n_sets']} sets)" if row["n_sets"] < num_sets else "")


def _name(row: Mapping[str, Any]) -> str:
    return f"{escape_markdown(row['part'])}: " if row["part"] else ""


def write_pooled(reports: Path) -> Path:
    """Write `pooled.md`, `.png`, `.pdf`, `.csv` and `index.html` into `reports`; the page's path.

    Raises PooledError, and writes nothing, where a set's claims.csv is damaged or there is none.
    """
    sets, left_out = read_claim_sets(reports)
    frame = pooled_frame(sets)
    write_bytes(reports / "pooled.md", to_markdown(frame, sets, left_out).encode())
    write_figure(pooled_figure(frame), frame, reports / "pooled")
    _write_page(reports, sets, left_out)
    return reports / PAGE_NAME


def _write_page(reports: Path, sets: Sequence[ClaimSet], left_out: Sequence[str]) -> None:
    described: dict[str, Any] = {"command": "make pooled", "stem": reports / "pooled"}
    table = Section(id="pooled", title="The claims, pooled", caption=CAPTION, kind="table", **described)
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
        first=[table],
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
