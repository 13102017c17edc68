"""The notebooks: thin sources without outputs; one is executed whole, a failing one says which cell."""

from pathlib import Path

import nbformat
import pytest

from experiments.reports.notebooks import FOLDER, main, publish

SOURCES = sorted(FOLDER.glob("*.ipynb"))


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
    source.write_bytes((FOLDER / source.name).read_bytes())
    page = publish(source).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") >= 3
    assert "Traceback" not in page


def test_a_cell_that_fails_is_named_and_leaves_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1, the notebook and the error in one line."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    assert main(tmp_path) == 1
    assert "broken.ipynb: a cell failed: ZeroDivisionError" in capsys.readouterr().err
    assert not (tmp_path / "broken.html").exists()
