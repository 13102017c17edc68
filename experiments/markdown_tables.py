"""Tables of a Markdown file, read for the report page.

What it is: pipe tables and the list under each, with bold, code and backslash escapes. What it is not: a reader of
Markdown at large.

    for table in parse_markdown(Path("table2.md").read_text()):
        print(table.header, [cell.html for row in table.rows for cell in row.cells], table.notes)
"""

import re
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup, escape

_CELL_BORDER = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r"\\([\\`*_|<>{}\[\]()#+.!~-])")
_PROTECTED = re.compile("([\ue000-\uf8ff])")  # private use: stand-ins for escaped letters
_INDEXED = re.compile(r"(AP|AR|NR)(\d+|[SML])")
_PLACEHOLDERS = frozenset({"not run", "n/a", "undefined", "–"})
KINDS = {  # what a line says of its origin -> its class on the page
    "paper": "paper",
    "here": "here",
    "its authors": "paper",
    "published checkpoint, evaluated here": "here",
    "**holds**": "holds",
    "**does not hold**": "fails",
    "**undecided**": "open",
    "**not run**": "open",
}


@dataclass(frozen=True, kw_only=True)
class MarkdownCell:
    """A cell as safe HTML; a placeholder holds no number (*not run*, *n/a*)."""

    html: Markup
    is_number: bool
    is_placeholder: bool


@dataclass(frozen=True, kw_only=True)
class MarkdownRow:
    """A line of a table; `kind` is "paper" or "here" by what a cell says of its origin, or a verdict's, else ""."""

    kind: str
    cells: tuple[MarkdownCell, ...]


@dataclass(frozen=True, kw_only=True)
class MarkdownTable:
    """Header, body, and the list items that follow the table."""

    header: tuple[MarkdownCell, ...]
    rows: tuple[MarkdownRow, ...]
    notes: tuple[Markup, ...]


def parse_markdown(text: str) -> list[MarkdownTable]:
    """All pipe tables of the text, in order; other text is passed over. A text without tables gives none."""
    tables: list[list[list[str]]] = []
    for mark, lines in groupby(text.splitlines(), key=lambda line: line.lstrip()[:1]):
        if mark == "|":
            tables.append([list(lines), []])
        elif mark in ("-", "*") and tables and not tables[-1][1]:
            tables[-1][1] = [line.lstrip()[2:] for line in lines if line.lstrip()[1:2] == " "]
    return [_table(lines, notes) for lines, notes in tables if len(lines) > 1]


def inline_html(text: str) -> Markup:
    """Bold, code and backslash escapes of a line as HTML, everything else escaped."""
    protected = _ESCAPED.sub(lambda match: chr(0xE000 + ord(match[1])), text.strip())
    html = str(escape(protected))
    html = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html)
    html = re.sub(r"`(.+?)`", r"<code>\1</code>", html)
    return Markup(_PROTECTED.sub(lambda match: str(escape(chr(ord(match[1]) - 0xE000))), html))  # all of it escaped


def _table(lines: list[str], notes: list[str]) -> MarkdownTable:
    header, rule, *body = (_split(line) for line in lines)
    is_number = [cell.strip().endswith(":") for cell in rule]
    rows = []
    for texts in body:
        kind = next((KINDS[text.strip()] for text in texts if text.strip() in KINDS), "")
        rows.append(MarkdownRow(kind=kind, cells=_cells(texts, is_number)))
    return MarkdownTable(
        header=tuple(_heading(text, number) for text, number in zip(header, is_number, strict=False)),
        rows=tuple(rows),
        notes=tuple(inline_html(note) for note in notes),
    )


def _split(line: str) -> list[str]:
    return _CELL_BORDER.split(line.strip())[1:-1]


def _cells(texts: list[str], is_number: list[bool]) -> tuple[MarkdownCell, ...]:
    return tuple(
        MarkdownCell(html=_value(text), is_number=number, is_placeholder=text.strip() in _PLACEHOLDERS)
        for text, number in zip(texts, is_number, strict=False)
    )


def _value(text: str) -> Markup:
    """A cell's text, line by line; an interval behind a value is set apart, for the page to print it smaller."""
    lines = [_line(line) for line in text.split("<br>")]
    if len(lines) == 1:
        return lines[0]
    return Markup("").join(Markup('<span class="part">{}</span>').format(line) for line in lines)


def _line(text: str) -> Markup:
    """A line of a cell."""
    value, bracket, rest = text.strip().partition(" [")
    if bracket and rest.rstrip("*").endswith("]"):
        is_bold = value.startswith("**")
        shown = inline_html(f"{value}**" if is_bold else value)
        return shown + Markup('<span class="interval"> [{}</span>').format(rest.removesuffix("**"))
    return inline_html(text)


def _heading(text: str, is_number: bool) -> MarkdownCell:
    """A column's heading; the end of AP50 or NR70 is set as an index, as in the paper."""
    indexed = _INDEXED.fullmatch(text.strip())
    html = Markup("{}<sub>{}</sub>").format(indexed[1], indexed[2]) if indexed else inline_html(text)
    return MarkdownCell(html=html, is_number=is_number, is_placeholder=False)
