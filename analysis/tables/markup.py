"""A tidy frame as a table for readers: csv, Markdown and LaTeX, the paper's value above the measured one.

What it is: markup and files. What it is not: the numbers, which come in one row a cell, as fractions, nor how a number
is printed (`analysis.table_lines`).

    layout = TableLayout(
        title="Table 2", labels={"backbone": "Backbone", "detector": "Detector"}, metrics={"ap": "AP", "ap_50": "AP50"}
    )
    write_table(frame, layout, Path("reports/shapes/table2"))       # table2.md, table2.tex, table2.csv

A cell has `metric`, `value` (measured here; nan where not run), `low` and `high` (its interval; nan where none),
`n_seeds`, `published` (the paper's; nan where it has none), `source` (where the paper's stands), `run` (empty where
the row is published only), `profile`, `split`, and whatever columns label its row. Times are in seconds throughout.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.tables.cells import TableCell, TableLayout, TableLine, table_notes, table_rows
from freeanchor.files import sibling, write_bytes

KIND_HEADING = "Source"
_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "]": "{]}", "–": "--", "×": r"$\times$", "±": r"$\pm$",
    "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$",
}  # fmt: skip
_INDEXED = re.compile(r"(AP|AR|NR)(\d+|[SML])")  # AP50, APS, NR70: the paper sets the end as an index


def to_markdown(frame: pd.DataFrame, layout: TableLayout) -> str:
    """The table in GitHub's Markdown: title, caption, table, notes."""
    table = [
        _markdown_row(map(escape_markdown, _headings(layout))),
        _markdown_row(["---"] * (len(layout.labels) + 1) + ["--:"] * len(layout.metrics)),
        *(_markdown_line(line) for line in table_rows(frame, layout)),
    ]
    notes = [f"- {escape_markdown(note)}" for note in table_notes(frame, layout)]
    parts = [f"**{escape_markdown(layout.title)}**", escape_markdown(layout.caption), "\n".join(table)]
    return "\n\n".join(part for part in [*parts, "\n".join(notes)] if part) + "\n"


def to_latex(frame: pd.DataFrame, layout: TableLayout, label: str = "") -> str:
    """The table in LaTeX; needs the packages booktabs and graphicx. `label` becomes `\\label{tab:<label>}`.

    LaTeX numbers tables itself: the title stands in for a missing caption only.
    """
    columns = "l" * (len(layout.labels) + 1) + "r" * len(layout.metrics)
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}[t]",
        "  \\centering",
        f"  \\caption{{{_escape_latex(layout.caption or layout.title)}}}",
        *([f"  \\label{{tab:{label}}}"] if label else []),
        "  \\resizebox{\\linewidth}{!}{%",
        f"  \\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        f"    {_latex_row(map(_latex_heading, _headings(layout)))}",
        "    \\midrule",
        *(f"    {line}" for line in _latex_body(table_rows(frame, layout))),
        "    \\bottomrule",
        "  \\end{tabular}}",
        *(f"  \\par\\smallskip{{\\footnotesize {_escape_latex(note)}}}" for note in table_notes(frame, layout)),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def write_table(frame: pd.DataFrame, layout: TableLayout, stem: Path) -> None:
    """Write `stem`.md, `stem`.tex and, last, `stem`.csv: the tidy frame, fractions in full precision.

    Each file appears whole or not at all; once the csv is there, the others are. Raises `TableError` before anything
    is written where the frame does not fit the layout.
    """
    contents = {
        "md": to_markdown(frame, layout),
        "tex": to_latex(frame, layout, label=stem.name),
        "csv": frame.to_csv(index=False, lineterminator="\n"),
    }
    for suffix, content in contents.items():
        write_bytes(sibling(stem, suffix), content.encode())


def _headings(layout: TableLayout) -> list[str]:
    return [*layout.labels.values(), KIND_HEADING, *layout.metrics.values()]


def _markdown_line(line: TableLine) -> str:
    cells = [
        f"**{escape_markdown(cell.full_text)}**" if cell.is_best else escape_markdown(cell.full_text)
        for cell in line.cells
    ]
    return _markdown_row([*map(escape_markdown, line.labels), line.kind, *cells])


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Words from anywhere as one line of Markdown that shows them as they are, in a cell of a table, too."""
    return "".join(f"\\{letter}" if letter in "\\`*_|<>" else letter for letter in " ".join(text.split()))


def _latex_body(lines: list[TableLine]) -> list[str]:
    """The lines, a little apart wherever a row of two lines meets another row."""
    sizes = {line.row: 0 for line in lines}
    for line in lines:
        sizes[line.row] += 1
    body: list[str] = []
    for before, line in zip([None, *lines], lines, strict=False):
        if before and before.row != line.row and max(sizes[before.row], sizes[line.row]) > 1:
            body.append("\\addlinespace")
        body.append(_latex_row([*map(_escape_latex, line.labels), line.kind, *map(_latex_cell, line.cells)]))
    return body


def _latex_row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_cell(cell: TableCell) -> str:
    text = f"\\textbf{{{_escape_latex(cell.text)}}}" if cell.is_best else _escape_latex(cell.text)
    return f"{text} {{\\scriptsize {cell.interval}}}" if cell.interval else text


def _latex_heading(text: str) -> str:
    indexed = _INDEXED.fullmatch(text)
    return f"{indexed[1]}$_{{{indexed[2]}}}$" if indexed else _escape_latex(text)


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))
