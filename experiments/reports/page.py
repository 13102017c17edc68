"""One self-contained page of a report: every table and figure with its command, and where the numbers come from.

What it is: files that lie in a report's folder, put on one page. What it is not: making those files, or measuring.

    sections = [Section(id="table2", title="Table 2", caption="…", command="make table2", kind="table", stem=stem)]
    build_page(Path("reports/shapes"), {"profile": "shapes", "commit": "0f3c…"}, sections)

A table is read from its Markdown (`<stem>.md`), a figure from its png. What is missing shows as *not run*. The page
loads nothing: images are embedded, styles are inline, there are no scripts; only links to sibling files are relative.

Tables of a Markdown file, read for the report page.

What it is: pipe tables and the list under each, with bold, code and backslash escapes. What it is not: a reader of
Markdown at large.

    for table in parse_markdown(Path("table2.md").read_text()):
        print(table.header, [cell.html for row in table.rows for cell in row.cells], table.notes)
"""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from freeanchor.errors import FreeAnchorError
from freeanchor.files import sibling, write_bytes

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


PAGE_NAME = "index.html"
_DOWNLOADS = ("csv", "md", "tex", "pdf", "png")
_POINTS_AN_INCH = 120  # on the page; a screen's 96 would show figures smaller than their text deserves
_PNG_DPI = 200
_QUALITIES = ((85, 1.0), (55, 1.0), (25, 1.0), (25, 0.75))  # of webp, share of the width; drawings pass at once
_LARGEST_IMAGE = 200_000  # bytes, if any quality allows
_TEMPLATE_FOLDER = Path(__file__).parent


class PageError(FreeAnchorError):
    """Sections that make no page; one line: what, where, how to mend."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table or figure of the page; its files are `<stem>.md`, `<stem>.csv` … or `<stem>.png`, `<stem>.csv` …"""

    id: str  # the anchor: #table2
    title: str
    caption: str
    command: str  # what makes it again
    kind: Literal["table", "figure"]
    stem: Path
    runs: tuple[str, ...] = ()  # that it is measured on
    line_runs: tuple[tuple[str, ...], ...] = ()  # of a table, line by line; none for a line of published numbers


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """A png as the page shows it."""

    data_uri: str
    width: int  # CSS pixels
    height: int


def build_page(
    report_dir: Path,
    provenance: Mapping[str, Any],
    sections: Sequence[Section],
    *,
    title: str = "FreeAnchor: reproduction report",
    summary: str = "",
    first: Sequence[Section] = (),
    runs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `report_dir`/index.html, whole or not at all.

    `provenance` may nest mappings and lists and is shown as it comes: mappings as definitions, lists of mappings as
    tables. Its "profile", where given, goes beside the title. `first` are the sections above the table of contents.
    `runs` become a table, a row a run: its "run" is what sections name, and links to its "file", where given; every
    number of a table and every figure links to its row. Raises `PageError` where two sections share an id, or one names
    a run that is not there.
    """
    known = {str(run["run"]) for run in runs}
    for section in (*first, *sections):
        unknown = {run for line in (section.runs, *section.line_runs) for run in line} - known
        if unknown:
            raise PageError(f"section {section.id} names {', '.join(sorted(unknown))}, which is no run of the page")
    ids = [section.id for section in (*first, *sections)]
    for name in ids:
        if ids.count(name) > 1:
            raise PageError(f"section id {name} occurs more than once; give every section an id of its own")
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            summary=summary,
            profile=str(provenance.get("profile", "")),
            first=[_shown(section, report_dir) for section in first],
            runs=runs,
            sections=[_shown(section, report_dir) for section in sections],
            provenance={key: value for key, value in provenance.items() if key != "profile"},
        )
    )
    write_bytes(report_dir / PAGE_NAME, page.encode())


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["listing"] = lambda value: isinstance(value, list | tuple)
    environment.filters["heading"] = lambda key: str(key).replace("_", " ")
    environment.filters["columns"] = _columns
    return environment


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All keys of a list of mappings, in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _shown(section: Section, report_dir: Path) -> dict[str, Any]:
    """What the template needs of a section: its parts, and links relative to the page."""
    return {
        "section": section,
        "tables": _read_tables(section) if section.kind == "table" else [],
        "image": _read_image(section) if section.kind == "figure" else None,
        "downloads": {
            suffix: quote(os.path.relpath(sibling(section.stem, suffix), report_dir))
            for suffix in _DOWNLOADS
            if sibling(section.stem, suffix).exists()
        },
    }


def _read_tables(section: Section) -> list[MarkdownTable]:
    path = sibling(section.stem, "md")
    return parse_markdown(path.read_text(encoding="utf-8")) if path.exists() else []


def _read_image(section: Section) -> ImageRecord | None:
    """The section's png as webp, a tenth of its size, so that the page stays small enough to commit and to mail."""
    path = sibling(section.stem, "png")
    if not path.exists():
        return None
    with Image.open(path) as image:
        width, height = image.size
        encoded = _webp(image.convert("RGB"))
    scale = _POINTS_AN_INCH / _PNG_DPI
    return ImageRecord(
        data_uri=f"data:image/webp;base64,{base64.b64encode(encoded).decode()}",
        width=round(width * scale),
        height=round(height * scale),
    )


def _webp(image: Image.Image) -> bytes:
    """An image as webp, the more coarsely the larger it comes out: figures of photographs, above all."""
    for quality, share in _QUALITIES:
        buffer = io.BytesIO()
        size = round(image.width * share), round(image.height * share)
        (image if share == 1 else image.resize(size)).save(buffer, format="WEBP", quality=quality)
        if buffer.tell() <= _LARGEST_IMAGE:
            break
    return buffer.getvalue()
