"""One self-contained page of a report: every table and figure with its command, and where the numbers come from.

    sections = [Section(id="table2", title="Table 2", command="make table2", kind="table", stem=stem, table=table, …)]
    build_page(Path("reports/shapes"), {"profile": "shapes", "commit": "0f3c…"}, sections)

What is missing shows as *not run*. The page loads nothing: images are embedded, styles are inline, there are no
scripts; only links to sibling files are relative.
"""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from analysis.tables.cells import Table
from analysis.tables.markup import to_html
from freeanchor.data.images import open_image
from freeanchor.errors import FreeAnchorError
from freeanchor.files import sibling, write_bytes

PAGE_NAME = "index.html"
EXPLORER_NAME = "explorer.html"  # of `freeanchor explore`, linked to where it lies beside the page
_DOWNLOADS = ("csv", "md", "tex", "pdf", "png")
_POINTS_AN_INCH = 120  # on the page; a screen's 96 would show figures smaller than their text deserves
_PNG_DPI = 200
_QUALITIES = ((70, 1.0), (50, 1.0), (25, 1.0), (25, 0.75))  # of webp, share of the width; drawings pass at once
_LARGEST_IMAGE = 130_000  # bytes, if any quality allows
_TEMPLATE_FOLDER = Path(__file__).parent


class PageError(FreeAnchorError):
    """Sections that make no page; one line: what, where, the remedy."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table or figure of the page, with the files that lie at its stem: `<stem>.csv`, `<stem>.png` …

    A figure is read from its png. A table without `table` shows as not run. Lines of the table name their runs.
    """

    id: str  # the anchor: #table2
    title: str
    caption: str
    command: str  # what makes it again
    kind: Literal["table", "figure"]
    stem: Path
    runs: tuple[str, ...] = ()  # that it is measured on
    table: Table | None = None

    @property
    def named_runs(self) -> set[str]:
        """All runs that it links to."""
        lines = self.table.lines if self.table else ()
        return {*self.runs, *(run for line in lines for run in line.runs)}


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
    `runs` become a table, one row per run: its "run" is what sections name, and links to its "file", where given; every
    number of a table and every figure links to its row. Raises `PageError` where two sections share an id, or one names
    a run that is not there.
    """
    known = {str(run["run"]) for run in runs}
    for section in (*first, *sections):
        if unknown := section.named_runs - known:
            raise PageError(f"section {section.id} names {', '.join(sorted(unknown))}, which is no run of the page")
    ids = [section.id for section in (*first, *sections)]
    for name in ids:
        if ids.count(name) > 1:
            raise PageError(f"section id {name} occurs more than once; give every section an id of its own")
    page = template("page.html").render(
        title=title,
        summary=summary,
        explorer=EXPLORER_NAME if (report_dir / EXPLORER_NAME).exists() else "",
        profile=str(provenance.get("profile", "")),
        first=[_shown(section, report_dir) for section in first],
        runs=runs,
        sections=[_shown(section, report_dir) for section in sections],
        provenance={key: value for key, value in provenance.items() if key != "profile"},
    )
    write_bytes(report_dir / PAGE_NAME, page.encode())


def template(name: str) -> Template:
    """A template of this folder; what it is given is escaped."""
    return _environment().get_template(name)


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
        "table": Markup(to_html(section.table)) if section.table else "",  # all of it escaped there
        "image": _read_image(section) if section.kind == "figure" else None,
        "downloads": {
            suffix: quote(os.path.relpath(sibling(section.stem, suffix), report_dir))
            for suffix in _DOWNLOADS
            if sibling(section.stem, suffix).exists()
        },
    }


def _read_image(section: Section) -> ImageRecord | None:
    """The section's png as webp, a tenth of its size, so that the page stays small enough to commit and to mail."""
    path = sibling(section.stem, "png")
    if not path.exists():
        return None
    image = open_image(path)
    width, height = image.size
    encoded = _webp(image)
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
