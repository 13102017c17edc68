"""README.md and its companions: blocks that are the reports', marks that are the code's; the notebooks' pages."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from experiments.claims.claims import VERDICTS
from experiments.registry.profile import PEER
from experiments.reports import documents
from experiments.reports.account import DEVIATIONS, checklist_table, deviations_table, find_marks, read_records
from experiments.reports.catalogue import TARGETS_FILE, targets
from experiments.reports.documents import (
    BLOCKS,
    NOTEBOOKS,
    SHORT,
    DocumentError,
    filled,
    main,
    photographs_table,
    publish,
    publish_all,
    stale_blocks,
)
from experiments.reports.tables import HEADLINE_ROWS
from experiments.runs.store import ROOT

TEXT = "# Title\n\n<!-- begin deviations -->\nold\n<!-- end deviations -->\n\nafter\n"
MARKS = pd.read_csv(DEVIATIONS)["mark"].tolist()
SOURCES = sorted((ROOT / NOTEBOOKS).glob("*.ipynb"))


def test_the_projects_documents_agree_with_its_reports() -> None:
    """Every table that stands between markers is, byte for byte, what the committed reports give; so are the targets."""
    paths = documents.documents(ROOT)
    assert {"README.md", "REPRODUCING.md"} <= {path.name for path in paths}
    assert {path.name: stale_blocks(path, ROOT) for path in paths} == {path.name: [] for path in paths}
    assert any("<!-- begin " in path.read_text(encoding="utf-8") for path in paths)
    assert (ROOT / TARGETS_FILE).read_text(encoding="utf-8") == targets()


def test_every_mark_in_the_code_is_listed_and_the_other_way_round() -> None:
    """A deviation without a mark, or a mark without an entry, is an error."""
    assert set(find_marks(ROOT)) == set(MARKS)
    numbers = [int(mark[1:]) for mark in MARKS]
    assert numbers == sorted(numbers)


def test_the_table_says_where_each_mark_stands() -> None:
    """One line per deviation, with the files that carry it, which are there."""
    lines = deviations_table(ROOT).splitlines()
    assert len(lines) == len(MARKS) + 2
    (line,) = (line for line in lines if line.startswith("| D14 |"))
    assert "| `freeanchor/losses/" in line
    for line in lines[2:]:
        assert all((ROOT / name.strip("`")).is_file() for name in line.split(" | ")[-1].removesuffix(" |").split(", "))


def test_the_checklist_names_files_that_are_there() -> None:
    """Its paths follow the code."""
    words = checklist_table(read_records(ROOT / "reports/shapes")).replace(";", " ").replace("`", " ").split()
    paths = [word for word in words if "/" in word and word[0].isalpha() and "." not in word.split("/")[0]]
    named = [word for word in paths if word.startswith(("freeanchor/", "analysis/", "reports/", "experiments/"))]
    assert len(named) >= 4 and all((ROOT / name).exists() for name in named)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a block in a document of its root and in one of docs/."""
    for name in ("README.md", "docs/more.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    return tmp_path


def test_a_block_is_filled_and_the_rest_left_alone(project: Path) -> None:
    """Only what stands between the markers changes; once filled, it is not stale."""
    path = project / "README.md"
    assert stale_blocks(path, project) == ["deviations"]
    text = filled(path, project)
    assert text.startswith("# Title\n\n<!-- begin deviations -->\n| mark |")
    assert text.endswith("<!-- end deviations -->\n\nafter\n")
    assert "old" not in text
    path.write_text(text, encoding="utf-8")
    assert stale_blocks(path, project) == []


def test_links_lead_from_where_the_document_lies(project: Path) -> None:
    """To a report from the root, or from a folder below it."""
    write_report(project / "reports" / "photos" / "ponds", None)
    for name, link in (("README.md", "(reports/photos"), ("docs/more.md", "(../reports/photos")):
        (project / name).write_text(TEXT.replace("deviations", "photographs"), encoding="utf-8")
        assert f"[ponds]{link}/ponds/claims.md)" in filled(project / name, project)


def test_an_unknown_block_is_named(project: Path) -> None:
    """A typing error in a marker is one clear line, not a block left stale for ever."""
    (project / "README.md").write_text(TEXT.replace("deviations", "tabel"), encoding="utf-8")
    with pytest.raises(DocumentError, match=r"README.md: no block 'tabel'; choose one of headline"):
        filled(project / "README.md", project)


def test_check_names_what_is_stale_and_changes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1 and the block's name; without --check documents and the list of targets are repaired."""
    assert main(["--check"]) == 1
    said = capsys.readouterr().err
    for name in ("README.md", "docs/more.md"):
        assert f"{name}: deviations differ from the reports; run make documents" in said
        assert (project / name).read_text(encoding="utf-8") == TEXT
    assert f"{TARGETS_FILE}: targets differ" in said and not (project / TARGETS_FILE).exists()
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_the_short_headline_has_no_empty_cell() -> None:
    """At most eight rows, each with both detectors and what the paper has; gains are the claims' own."""
    lines = BLOCKS["headline-short"](ROOT).splitlines()[2:]
    assert len(lines) == len(SHORT) <= 8
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 5 and all(row) for row in cells)
    assert not any(cell in ("n/a", "nan", "not run") for row in cells for cell in row)
    assert cells[0] == ["AP", "+3.0", "29.8", "29.8", "-0.0 [-1.5, +1.4]"]
    claims = (ROOT / "reports/shapes/claims.md").read_text(encoding="utf-8")
    assert all(row[-1] in claims for row in cells)


def test_verdicts_are_counted() -> None:
    """Every claim has one verdict, said in a sentence that leads to them."""
    text = BLOCKS["verdict-counts"](ROOT)
    assert text == "**9 hold, 4 do not hold, 14 are undecided** ([all claims](reports/shapes/claims.md))."
    assert set(documents.SAID) == set(VERDICTS)


def test_one_sure_anchor_needs_99_percent_to_decide_a_bag() -> None:
    """The table of Mean-max against Eq. 7 by hand: weights 1 / (1 - c) and 49 times 1, their sum squared over squares."""
    head, _, numbers = (line.strip("| ").split(" | ")[1:] for line in BLOCKS["mean-max"](ROOT).splitlines())
    assert len(head) == len(numbers) > 0
    for confidence, number in zip(map(float, head), map(float, numbers), strict=True):
        odds = 1 / (1 - confidence)
        assert number == pytest.approx((odds + 49) ** 2 / (odds**2 + 49), abs=0.051)
    assert float(numbers[head.index("0.99")]) == pytest.approx(2.2, abs=0.05)


def write_report(folder: Path, peer: float | None) -> None:
    """A set's reports, as far as the table reads them."""
    folder.mkdir(parents=True)
    cells = [
        {"what": what, "metric": metric, "value": value, "low": value - 0.01, "high": value + 0.02, "n_seeds": 2}
        for place, what in enumerate(HEADLINE_ROWS.values())
        for metric, value in (("retinanet", 0.2 + place), ("freeanchor", 0.25 + place), ("gain", 0.05 + place))
    ]
    pd.DataFrame(cells).to_csv(folder / "headline.csv", index=False)
    rows = [{"run": PEER, "metric": "ap", "value": peer}] if peer is not None else []
    pd.DataFrame(rows, columns=["run", "metric", "value"]).to_csv(folder / "table2.csv", index=False)
    gains = (("FreeAnchor", "ap", -0.03), ("RetinaNet", "ap_50", 0.5), ("RetinaNet", "ap", 0.01))
    above = [(name, metric, v, v - 0.01, v + 0.02) for name, metric, v in gains] if peer else []
    pd.DataFrame(above, columns=["detector", "metric", "value", "low", "high"]).to_csv(folder / "peer.csv", index=False)
    bins = [{"bin": name, "num_images": number} for name, number in (("1-3", 7), ("1-3", 7), ("4-7", 5))]
    pd.DataFrame(bins).to_csv(folder / "figure6.csv", index=False)


@pytest.mark.parametrize(
    ("peer", "shown"), [(0.19, ["19.0", "+1.0 [+0.0, +3.0]; -3.0 [-4.0, -1.0]"]), (None, ["not run"] * 2)]
)
def test_photographs_have_one_line_per_set(tmp_path: Path, peer: float | None, shown: list[str]) -> None:
    """In percent; gains signed, with their interval; what was not run is said."""
    write_report(tmp_path / "reports" / "photos" / "ponds", peer)
    head, rule, line = photographs_table(tmp_path).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:7] == ["[ponds](reports/photos/ponds/claims.md)", "12", "2", "20.0", "25.0", *shown]
    places = [list(HEADLINE_ROWS).index(metric) for metric in ("ap", "ap_slender", "ap_square", "nr")]
    assert cells[7:] == [f"+{5 + 100 * at}.0 [+{4 + 100 * at}.0, +{7 + 100 * at}.0]" for at in places]
    assert head.count("|") == rule.count("|") == line.count("|")


def test_no_set_of_photographs_is_a_table_without_lines(tmp_path: Path) -> None:
    """Before anything was measured."""
    assert len(photographs_table(tmp_path).splitlines()) == 2


def test_a_report_of_an_earlier_version_has_no_peer(tmp_path: Path) -> None:
    """No peer.csv is as not run; a detector that was not run beside it, too."""
    folder = tmp_path / "reports" / "photos" / "ponds"
    write_report(folder, 0.19)
    frame = pd.read_csv(folder / "peer.csv")
    frame[frame["detector"] == "FreeAnchor"].to_csv(folder / "peer.csv", index=False)
    assert "| not run; -3.0 [-4.0, -1.0] |" in photographs_table(tmp_path)
    (folder / "peer.csv").unlink()
    assert "| 19.0 | not run |" in photographs_table(tmp_path)


def test_there_are_three_notebooks() -> None:
    """Matching one object, NMS recall and breakdowns, reading the ablations."""
    assert [path.stem for path in SOURCES] == [
        "matching_one_object",
        "nms_recall_and_breakdowns",
        "reading_the_ablations",
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_sources_hold_no_outputs_and_no_functions(path: Path) -> None:
    """What a notebook shows is computed by the packages when it is executed."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert not any(line.startswith(("def ", "class ")) for cell in code for line in cell.source.splitlines())


def test_a_notebook_is_executed_into_a_page(tmp_path: Path) -> None:
    """Reading the ablations, from the committed reports: a page with its figures in it."""
    source = tmp_path / "reading_the_ablations.ipynb"
    source.write_bytes((ROOT / NOTEBOOKS / source.name).read_bytes())
    page = publish(source).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") >= 3
    assert "Traceback" not in page


def test_a_cell_that_fails_is_named_and_leaves_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1, the notebook and the error in one line."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    assert publish_all(tmp_path) == 1
    assert "broken.ipynb: a cell failed: ZeroDivisionError" in capsys.readouterr().err
    assert not (tmp_path / "broken.html").exists()
