"""Reports: every table and figure is written whole, from stored results or from none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniature import Mini, fabricate
from PIL import Image

from experiments.commands.options import build_parser
from experiments.registry.build import build_profile
from experiments.reports.catalogue import (
    FIGURES,
    LAYOUTS,
    REPORTS,
    image_of,
    matches,
    mean_max_frame,
    saturated_linear_frame,
    write_report,
)
from experiments.reports.index import write_index
from experiments.runs.store import Store

FROM_CODE = ("figure2", "figure3")


def _suffixes(name: str) -> set[str]:
    if name in LAYOUTS:
        return {"csv", "md", "tex"}
    return {"csv", "png", "pdf"} if name in FIGURES else {"csv"}


def _assert_complete(folder: Path, name: str) -> None:
    """All files of a report are there, none is empty, images are images, and nothing temporary is left."""
    for suffix in _suffixes(name):
        assert (folder / f"{name}.{suffix}").stat().st_size > 10
    if name in FIGURES:
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 100
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_can_be_written_before_anything_is_run(tmp_path: Path, empty_store: Store, name: str) -> None:
    """Whatever is asked for first, it comes out complete and says that nothing was run."""
    path = write_report(name, build_profile("shapes"), empty_store, tmp_path / "reports")
    assert path == tmp_path / "reports" / "shapes" / f"{name}.csv"
    _assert_complete(path.parent, name)
    if name in LAYOUTS:
        frame = pd.read_csv(path)
        assert frame["value"].isna().all()
        assert frame["published"].notna().any()
        assert "not run" in path.with_suffix(".md").read_text()
        assert "not run" in path.with_suffix(".tex").read_text()


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_of_real_runs_is_written(tmp_path: Path, mini: Mini, name: str) -> None:
    """From two trained runs; what was not run is still said."""
    path = write_report(name, mini.profile, mini.store, tmp_path)
    _assert_complete(path.parent, name)
    if name not in ("table3", "trials", "models", "peer"):  # of which nothing was run
        columns = {"figure1": "confidence", "figure4": "confidence", "positions": "mass"}
        columns |= {f"gallery_{name}": "aspect" for name in ("slender", "crowded", "random")}
        assert pd.read_csv(path)[columns.get(name, "value")].notna().any()
    if name in ("table2", "table3"):
        assert "not run" in path.with_suffix(".md").read_text()


def test_tables_show_measured_beside_published(tmp_path: Path, empty_store: Store) -> None:
    """A measured 0.4444 is a 44.4 in the table, and the paper's 38.7 stays where it was."""
    profile = build_profile("shapes")
    fabricate(profile, empty_store, "freeanchor-small-s0", 0.4444)
    text = write_report("table2", profile, empty_store, tmp_path).with_suffix(".md").read_text()
    assert "44.4" in text
    assert "38.7" in text
    assert "not run" in text


def test_reports_written_twice_are_the_same(tmp_path: Path, mini: Mini) -> None:
    """Byte for byte, csv, Markdown, LaTeX and png alike."""
    for name in ("table1", "table2", "figure1", "figure5", "figure6", "comparison"):
        folders = [write_report(name, mini.profile, mini.store, tmp_path / part).parent for part in ("a", "b")]
        for suffix in _suffixes(name) - {"pdf"}:
            one, other = ((folder / f"{name}.{suffix}").read_bytes() for folder in folders)
            assert one == other, f"{name}.{suffix}"


def test_the_saturated_line_is_the_papers() -> None:
    """0 up to t, 1 from the best IoU on, a straight line between (Sec. 3.2)."""
    frame = saturated_linear_frame(0.6, (0.75, 0.9))
    for row in frame.itertuples():
        expected = min(1.0, max(0.0, (row.x - 0.6) / (row.t2 - 0.6)))
        assert row.value == pytest.approx(expected, abs=1e-9)
    assert set(frame["t1"]) == {0.6}
    assert set(frame["t2"]) == {0.75, 0.9}


def test_mean_max_lies_between_mean_and_max() -> None:
    """One minus the harmonic mean of 1 - x (FACTS A6), near the mean for small x and the max at x = 1."""
    frame = mean_max_frame(50, (0.1, 0.5))
    assert frame["bag"].nunique() == 2
    for title, bag in frame.groupby("bag"):
        rest = float(str(title).rpartition(" ")[2])
        table = bag.pivot_table(index="x", columns="function", values="value")
        x = table.index.to_numpy()
        with np.errstate(divide="ignore"):
            expected = 1 - 50 / (1 / (1 - x) + 49 / (1 - rest))
        np.testing.assert_allclose(table["mean-max"], expected, atol=1e-9)
        np.testing.assert_allclose(table["max"], np.maximum(x, rest))
        np.testing.assert_allclose(table["mean"], (x + 49 * rest) / 50)
        assert bool((table["mean-max"] >= table["mean"] - 1e-9).all())
        assert bool((table["mean-max"] <= table["max"] + 1e-9).all())


def test_the_matching_figures_show_one_object_of_one_image(mini: Mini) -> None:
    """Four stages of training, fifty anchors each, over the pixels of the image the object is in."""
    frame = matches(mini.profile, mini.store)
    assert frame["annotation_id"].nunique() == frame["image_id"].nunique() == 1
    assert frame.groupby("step").size().to_dict() == {1: 50, 4: 50, 12: 50, 40: 50}
    pixels, credit = image_of(frame, mini.profile, mini.store)
    assert pixels.shape == (128, 128, 3)
    assert pixels.dtype == np.uint8 and credit == ""
    gt = frame.iloc[0]
    assert 0 <= gt["gt_x1"] < gt["gt_x2"] <= 128


def test_the_page_shows_everything(tmp_path: Path, mini: Mini) -> None:
    """Each table and figure with its command, the runs with their fingerprints; nothing from elsewhere."""
    for name in ("table1", "table2", "table3", "figure2", "figure5"):
        write_report(name, mini.profile, mini.store, tmp_path)
    page = write_index(mini.profile, mini.store, tmp_path).read_text()
    for name in (*LAYOUTS, *FIGURES):
        assert f"make {name} PROFILE=mini" in page
    for name in mini.profile.pair:
        assert mini.profile.evaluations[name].training.fingerprint in page
    assert "not run" in page
    assert 'src="http' not in page


def test_the_page_of_nothing_says_so(tmp_path: Path, empty_store: Store) -> None:
    """No report, no run: the page stands all the same."""
    page = write_index(build_profile("shapes"), empty_store, tmp_path)
    assert page.read_text().count("not run") >= 5


def test_the_help_names_every_report(capsys: pytest.CaptureFixture[str]) -> None:
    """`freeanchor report --help` lists what there is: tables and figures by their range, all others by name."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["report", "--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    named = [name for name in REPORTS if not name.startswith(("table", "figure"))]
    assert set(named) <= set(words)
