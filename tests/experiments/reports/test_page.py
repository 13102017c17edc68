"""The report page: complete, self-contained, safe."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from analysis.tables.cells import Table, TableCell, TableLine
from experiments.reports.page import PageError, Section, build_page

TABLE = Table(
    title="Table 2",
    caption="",
    headings=("Backbone", "Source", "AP", "AP50"),
    lines=(
        TableLine(
            kind="paper",
            row=0,
            labels=("ResNet-50", "paper"),
            cells=(TableCell(text="38.7"), TableCell(text="n/a")),
        ),
        TableLine(
            kind="here",
            row=0,
            labels=("Small <b>", "here"),
            cells=(TableCell(text="45.4", interval="[43.9, 46.8]", is_bold=True), TableCell(text="not run")),
            runs=("free_anchor", "retinanet"),
        ),
    ),
    notes=("paper: Table 2, test-dev.", "FreeAnchor** & others"),
    num_labels=2,
    are_numbers=True,
)
PROVENANCE = {
    "profile": "shapes",
    "commit": "0f3c2ab",
    "hardware": {"processor": "<script>alert(1)</script>", "cores": 2},
    "seeds": [0, 1],
    "notes": "",
}
RUNS = [
    {"run": "retinanet", "fingerprint": "a81b2c", "file": "runs/retinanet.json"},
    {"run": "free_anchor", "fingerprint": "9f00aa", "device": "cpu"},
]


class Elements(HTMLParser):
    """Every element with its attributes, and whether tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self):
        super().__init__()
        self.elements, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def sections(folder):
    """A table, a figure, and one of each that was never made."""
    (folder / "table2.md").write_text("| a |\n")
    (folder / "table2.csv").write_text("a\n")
    Figure(figsize=(2, 1)).savefig(folder / "figure 5.png", dpi=200)
    (folder / "figure 5.pdf").write_bytes(b"%PDF")
    entries = [
        ("table2", "table", "table2"),
        ("figure5", "figure", "figure 5"),
        ("table3", "table", "table3"),
        ("figure6", "figure", "figure6"),
    ]
    return [
        Section(
            id=name, title=f"{name} & more", caption='A "caption" <i>', command=f"make {name} PROFILE=shapes",
            kind=kind, stem=folder / stem, runs=("retinanet",) if name == "figure5" else (),
            table=TABLE if name == "table2" else None,
        )
        for name, kind, stem in entries
    ]  # fmt: skip


@pytest.fixture
def page(tmp_path):
    """The page's text."""
    entries = sections(tmp_path)
    first = [replace(entries[0], id="headline")]
    build_page(tmp_path, PROVENANCE, entries, first=first, runs=RUNS, summary="One seed.")
    return (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def elements(page):
    """All elements of the page; fails where tags are not balanced."""
    parser = Elements()
    parser.feed(page)
    assert parser.open == []
    return parser.elements


def test_the_page_loads_nothing(page, elements):
    """No scripts, no imports, and every resource is embedded; links lead to the page itself or to siblings."""
    assert "script" not in {tag for tag, _ in elements}
    assert "@import" not in page and "url(" not in page
    for tag, attributes in elements:
        for name in ("src", "href"):
            target = attributes.get(name)
            if target is not None:
                allowed = r"#|(runs/)?[\w%.]+$" if tag == "a" else "data:"
                assert re.match(allowed, target), (tag, target)


def test_every_section_stands_in_contents_with_its_command(page, elements):
    """Each section has its anchor, a link to it, its title and the command that remakes it."""
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    links = [attributes.get("href") for tag, attributes in elements if tag == "a"]
    for name in ("table2", "figure5", "table3", "figure6"):
        assert ids.count(name) == 1 and f"#{name}" in links
        assert f"<code>make {name} PROFILE=shapes</code>" in page
    assert len(ids) == len(set(ids))


def test_paper_and_here_lines_and_missing_cells_can_be_told_apart(page):
    """Lines carry their kind, placeholders their class, intervals stand apart, numbers keep their emphasis."""
    assert page.count('<tr class="paper">') == page.count('<tr class="here">') == 2  # headline and section
    assert '<td class="number placeholder">not run</td>' in page and '<td class="number placeholder">n/a</td>' in page
    assert '<strong>45.4</strong><span class="interval"> [43.9, 46.8]</span>' in page
    assert "AP<sub>50</sub>" in page and "<li>FreeAnchor** &amp; others</li>" in page


def test_what_was_never_made_is_shown_as_not_run(page):
    """A section without files says so, and offers no downloads."""
    for name in ("table3", "figure6"):
        part = page[page.index(f'id="{name}"') :].partition("</section>")[0]
        assert '<p class="missing">not run</p>' in part and "files:" not in part


def test_numbers_and_figures_lead_to_their_runs(page):
    """A measured number links to the first of its runs and names all; published ones and words link to nothing."""
    link = '<a class="origin" href="#run-free_anchor" title="free_anchor, retinanet">'
    assert page.count(f'<td class="number">{link}<strong>45.4') == 2  # above the contents and in its section
    assert page.count('class="origin"') == 2
    assert '<tr id="run-retinanet"><td><a href="runs/retinanet.json">retinanet</a></td>' in page
    assert '<tr id="run-free_anchor"><td>free_anchor</td>' in page
    part = page[page.index('id="figure5"') :].partition("</section>")[0]
    assert 'measured on 1 run</summary> <a href="#run-retinanet">retinanet</a>' in part


def test_a_run_that_is_not_there_is_refused(tmp_path):
    """A link into nothing would be no provenance."""
    with pytest.raises(PageError, match="section table2 names free_anchor, retinanet, which is no run"):
        build_page(tmp_path, {}, sections(tmp_path)[:1])


def test_downloads_are_relative_and_exist(tmp_path, elements, page):
    """Links name the siblings that are there, quoted, and no others."""
    links = {
        attributes["href"] for tag, attributes in elements if tag == "a" and not attributes["href"].startswith("#")
    }
    assert links == {"table2.csv", "table2.md", "figure%205.png", "figure%205.pdf", "runs/retinanet.json"}


def test_figures_are_embedded_at_their_size(elements):
    """The png of 400 x 200 pixels at 200 dpi is 2 x 1 inches on the page, with a text for those who do not see it."""
    (image,) = [attributes for tag, attributes in elements if tag == "img"]
    assert image["src"].startswith("data:image/webp;base64,UklGR")
    assert (image["width"], image["height"]) == ("240", "120")
    assert image["alt"] == 'figure5 & more: A "caption" <i>'


def test_provenance_is_complete_and_escaped(page):
    """Every fact is shown, every run with its fingerprint, gaps are named, and nothing becomes markup."""
    for fact in ("0f3c2ab", "profile shapes", "0, 1", "a81b2c", "9f00aa", "not recorded", "–"):
        assert fact in page
    assert "<script>" not in page and html.escape("<script>alert(1)</script>") in page
    assert "Small &lt;b&gt;" in page and "&lt;i&gt;" in page


def test_the_same_input_gives_the_same_page(tmp_path, page):
    """Nothing of the moment enters the page, and no half-written file stays."""
    entries = sections(tmp_path)
    first = [replace(entries[0], id="headline")]
    build_page(tmp_path, PROVENANCE, entries, first=first, runs=RUNS, summary="One seed.")
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == page
    assert not list(tmp_path.glob(".*"))


def test_doubled_ids_are_refused(tmp_path):
    """Two sections of one id could not both be linked to."""
    entry = sections(tmp_path)[2]
    with pytest.raises(PageError, match="section id table3 occurs more than once"):
        build_page(tmp_path, {}, [entry, entry])
