"""A `Table` as Markdown, LaTeX and HTML, each made from the table itself.

write_table(frame, layout, Path("reports/shapes/table2"))       # table2.md, table2.tex, table2.csv
to_html(tidy_table(frame, layout))
"""

import html
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from analysis.tables.cells import PLACEHOLDERS, Table, TableCell, TableLayout, TableLine, tidy_table
from freeanchor.files import sibling, write_bytes

_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "]": "{]}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "–": "--", "×": r"$\times$", "±": r"$\pm$",
    "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$",
}  # fmt: skip
# Emphasis, code, tables, html and formulas; then, only where they would be some, strikes, links, entities and headings.
_MARKDOWN = re.compile(r"[\\`*_|<>$]|~(?=~)|\](?=[\[(:])|&(?=#?\w+;)|^#")
_INDEXED = re.compile(r"(AP|AR|NR)(\d+|[SML])")  # AP50, APS, NR70: the paper sets the end as an index
_MARKS = re.compile(r"\*(.+?)\*|`(.+?)`")
_LINE_CLASSES = {  # a line's kind -> its class in HTML
    "paper": "paper",
    "its authors": "paper",
    "here": "here",
    "published checkpoint, evaluated here": "here",
    "holds": "holds",
    "does not hold": "fails",
    "undecided": "open",
    "not run": "open",
}


class Marked(str):
    """Words of our own, in which *italics* and `code` are marked as in Markdown; any other str is shown as it is."""

    __slots__ = ()


def write_table(frame: pd.DataFrame, layout: TableLayout, stem: Path) -> None:
    """Write `stem`.md, `stem`.tex and, last, `stem`.csv: the tidy frame, fractions in full precision.

    Each file appears whole or not at all; once the csv is there, the others are. Raises `TableError` before anything
    is written where the frame does not fit the layout.
    """
    table = tidy_table(frame, layout)
    contents = {
        "md": to_markdown(table),
        "tex": to_latex(table, label=stem.name),
        "csv": frame.to_csv(index=False, lineterminator="\n"),
    }
    for suffix, content in contents.items():
        write_bytes(sibling(stem, suffix), content.encode())


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown: title, caption, table, notes; without headings no table."""
    rule = [*["---"] * table.num_labels, *["--:" if table.are_numbers else "---"] * _num_cells(table)]
    rows = [map(escape_markdown, table.headings), rule]
    rows += [[*map(escape_markdown, line.labels), *map(_markdown_cell, line.cells)] for line in table.lines]
    body = pipe_table(rows) if table.headings else ""
    notes = "\n".join(f"- {escape_markdown(note)}" for note in table.notes)
    parts = [f"**{escape_markdown(table.title)}**", escape_markdown(table.caption), body, notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def pipe_table(rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells as Markdown has them; the first is the head, the second the rule (`---`, or `--:` for numbers)."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def to_latex(table: Table, label: str = "") -> str:
    """The table in LaTeX; needs the packages booktabs and graphicx. `label` becomes `\\label{tab:<label>}`.

    LaTeX numbers tables itself: the title stands in for a missing caption only.
    """
    columns = "l" * table.num_labels + ("r" if table.are_numbers else "l") * _num_cells(table)
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}[t]",
        "  \\centering",
        f"  \\caption{{{_escape_latex(table.caption or table.title)}}}",
        *([f"  \\label{{tab:{label}}}"] if label else []),
        "  \\resizebox{\\linewidth}{!}{%",
        f"  \\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        f"    {_latex_row(map(_latex_heading, table.headings))}",
        "    \\midrule",
        *(f"    {line}" for line in _latex_body(table.lines)),
        "    \\bottomrule",
        "  \\end{tabular}}",
        *(f"  \\par\\smallskip{{\\footnotesize {_escape_latex(note)}}}" for note in table.notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """The headings and lines as a `<table>`, and the notes as a list; the page has title and caption of its own.

    A number, and a bold cell, links to `#run-<name>`, the first of its line's runs, and names all of them.
    """
    number = ' class="number"' if table.are_numbers else ""
    classes = [""] * table.num_labels + [number] * _num_cells(table)
    heads = (
        f'<th scope="col"{it}>{_html_heading(text)}</th>' for it, text in zip(classes, table.headings, strict=True)
    )
    rows = [f"<table>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>"]
    for line in table.lines:
        named = f' class="{_LINE_CLASSES[line.kind]}"' if line.kind in _LINE_CLASSES else ""
        cells = [_html_cell(TableCell(text=label), line, is_number=False) for label in line.labels]
        cells += [_html_cell(cell, line, is_number=table.are_numbers) for cell in line.cells]
        rows.append(f"<tr{named}>{''.join(cells)}</tr>")
    rows.append("</tbody>\n</table>")
    notes = "".join(f"<li>{_escape_html(note)}</li>" for note in table.notes)
    return "\n".join(rows if table.headings else []) + (f'\n<ul class="notes">{notes}</ul>' if notes else "")


def escape_markdown(text: str) -> str:
    """Words from anywhere as one line of Markdown that shows them as they are, in a cell of a table, too."""
    if isinstance(text, Marked):
        return str(text)
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def _num_cells(table: Table) -> int:
    return len(table.headings) - table.num_labels


def _markdown_cell(cell: TableCell) -> str:
    parts = ((it.is_bold, f"{escape_markdown(it.text)} {it.interval}".rstrip()) for it in (cell, *cell.below))
    return "<br>".join(f"**{text}**" if is_bold else text for is_bold, text in parts)


def _latex_body(lines: Iterable[TableLine]) -> list[str]:
    """The lines, a little apart wherever a row of two lines meets another row."""
    sizes: dict[int, int] = {}
    for line in lines:
        sizes[line.row] = sizes.get(line.row, 0) + 1
    body: list[str] = []
    before = None
    for line in lines:
        if before is not None and before != line.row and max(sizes[before], sizes[line.row]) > 1:
            body.append("\\addlinespace")
        body.append(_latex_row([*map(_escape_latex, line.labels), *map(_latex_cell, line.cells)]))
        before = line.row
    return body


def _latex_row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_cell(cell: TableCell) -> str:
    texts = []
    for it in (cell, *cell.below):
        text = f"\\textbf{{{_escape_latex(it.text)}}}" if it.is_bold else _escape_latex(it.text)
        texts.append(f"{text} {{\\scriptsize {it.interval}}}" if it.interval else text)
    return "; ".join(texts)


def _latex_heading(text: str) -> str:
    indexed = _INDEXED.fullmatch(text)
    return f"{indexed[1]}$_{{{indexed[2]}}}$" if indexed else _escape_latex(text)


def _escape_latex(text: str) -> str:
    def escape(words: str) -> str:
        return "".join(_LATEX_ESCAPES.get(letter, letter) for letter in words)

    return _words(text, escape, "\\emph{{{}}}", "\\texttt{{{}}}")


def _html_cell(cell: TableCell, line: TableLine, *, is_number: bool) -> str:
    is_placeholder = cell.text in PLACEHOLDERS and not cell.is_bold
    names = [name for name, holds in (("number", is_number), ("placeholder", is_placeholder)) if holds]
    shown = [_html_value(it) for it in (cell, *cell.below)]
    inner = "".join(f'<span class="part">{it}</span>' for it in shown) if cell.below else shown[0]
    if line.runs and not is_placeholder and (is_number or cell.is_bold):
        runs = [html.escape(run) for run in line.runs]
        inner = f'<a class="origin" href="#run-{runs[0]}" title="{", ".join(runs)}">{inner}</a>'
    return f'<td class="{" ".join(names)}">{inner}</td>' if names else f"<td>{inner}</td>"


def _html_value(cell: TableCell) -> str:
    text = _escape_html(cell.text)
    value = f"<strong>{text}</strong>" if cell.is_bold else text
    return value + (f'<span class="interval"> {html.escape(cell.interval)}</span>' if cell.interval else "")


def _html_heading(text: str) -> str:
    indexed = _INDEXED.fullmatch(text)
    return f"{indexed[1]}<sub>{indexed[2]}</sub>" if indexed else _escape_html(text)


def _escape_html(text: str) -> str:
    return _words(text, html.escape, "<em>{}</em>", "<code>{}</code>")


def _words(text: str, escape: Callable[[str], str], italics: str, code: str) -> str:
    """The words escaped, on one line; the marks of `Marked` ones as the format has them."""
    line = " ".join(text.split())
    if not isinstance(text, Marked):
        return escape(line)
    plain, *marked = _MARKS.split(line)
    shown = [escape(plain)]
    for in_italics, in_code, after in zip(marked[::3], marked[1::3], marked[2::3], strict=True):
        shown.append((italics if in_italics else code).format(escape(in_italics or in_code)))
        shown.append(escape(after))
    return "".join(shown)
