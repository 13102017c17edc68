"""Reports: every table and figure is written whole, from stored results or from none; and the page of them all."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniature import Mini, fabricate
from PIL import Image

from analysis.evaluation.metrics import detection_metrics
from experiments.commands.options import build_parser
from experiments.registry.build import build_profile
from experiments.registry.profile import Profile
from experiments.reports.catalogue import FIRST, REPORTS, SECTIONS
from experiments.reports.index import measured_runs, table_of, write_index, write_run
from experiments.reports.matching import image_of, matches, mean_max_frame, saturated_linear_frame
from experiments.reports.report import Report, table_cells, table_report
from experiments.runs.measured import metrics_frame
from experiments.runs.store import Store

SHOWN = (*FIRST, *SECTIONS)
each_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


def _suffixes(report: Report) -> set[str]:
    return {
        "csv",
        *(("png", "pdf") if "figure" in report.kinds else ()),
        *(("md",) if "table" in report.kinds else ()),
        *(("tex",) if report.layout else ()),
    }


def _assert_complete(folder: Path, report: Report) -> None:
    """All files of a report are there, none is empty, images are images, and nothing temporary is left."""
    for suffix in _suffixes(report):
        assert (folder / f"{report.name}.{suffix}").stat().st_size > 10
    if "figure" in report.kinds:
        with Image.open(folder / f"{report.name}.png") as image:
            assert min(image.size) > 100
        assert (folder / f"{report.name}.pdf").read_bytes().startswith(b"%PDF")
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@each_report
def test_every_report_can_be_written_before_anything_is_run(tmp_path: Path, empty_store: Store, report: Report) -> None:
    """Whatever is asked for first, it comes out complete and says that nothing was run."""
    profile = build_profile("shapes")
    path = report.write(profile, empty_store, tmp_path / "reports")
    assert path == tmp_path / "reports" / "shapes" / f"{report.name}.csv"
    _assert_complete(path.parent, report)
    if report.layout:
        assert pd.read_csv(path)["value"].isna().all()
        assert pd.read_csv(path)["published"].notna().any() == report.layout(profile).has_paper_lines
        words = "not run" if list(report.runs(profile)) else "nothing has been run"  # a profile without its runs
        assert words in path.with_suffix(".md").read_text()
        assert words in path.with_suffix(".tex").read_text()


@each_report
def test_every_report_of_real_runs_is_written(tmp_path: Path, mini: Mini, report: Report) -> None:
    """From two trained runs; what was not run is still said."""
    path = report.write(mini.profile, mini.store, tmp_path)
    _assert_complete(path.parent, report)
    if report.name not in ("table3", "trials", "models", "peer", "grids"):  # of which nothing was run
        columns = {"figure1": "confidence", "figure4": "confidence", "positions": "mass"}
        columns |= {f"gallery_{name}": "aspect" for name in ("slender", "crowded", "random")}
        assert pd.read_csv(path)[columns.get(report.name, "value")].notna().any()
    if report.name in ("table2", "table3"):
        assert "not run" in path.with_suffix(".md").read_text()


def test_tables_show_measured_beside_published(tmp_path: Path, empty_store: Store) -> None:
    """A measured 0.4444 is a 44.4 in the table, and the paper's 38.7 stays where it was."""
    profile = build_profile("shapes")
    fabricate(profile, empty_store, "freeanchor-small-s0", 0.4444)
    text = REPORTS["table2"].write(profile, empty_store, tmp_path).with_suffix(".md").read_text()
    assert all(words in text for words in ("44.4", "38.7", "not run"))


def test_reports_written_twice_are_the_same(tmp_path: Path, mini: Mini) -> None:
    """Byte for byte, csv, Markdown, LaTeX and png alike."""
    for name in ("table1", "table2", "figure1", "figure5", "figure6", "comparison"):
        folders = [REPORTS[name].write(mini.profile, mini.store, tmp_path / part).parent for part in ("a", "b")]
        for suffix in _suffixes(REPORTS[name]) - {"pdf"}:
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
    """One minus the harmonic mean of 1 - x, near the mean for small x and the max at x = 1."""
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
    assert 0 <= frame.iloc[0]["gt_x1"] < frame.iloc[0]["gt_x2"] <= 128


def test_the_page_shows_what_was_measured(tmp_path: Path, mini: Mini) -> None:
    """Each table and figure with its command, the runs with their fingerprints; Table 3, not measured, is named."""
    for name in ("table1", "table2", "table3", "figure2", "figure5"):
        REPORTS[name].write(mini.profile, mini.store, tmp_path)
    page = write_index(mini.profile, mini.store, tmp_path).read_text()
    for report in SHOWN:
        assert (f"make {report.name} PROFILE=mini" in page) == (report.name != "table3")
    assert f"Left out, since none of their runs has been measured here: {REPORTS['table3'].title}." in page
    for name in mini.profile.pair:
        assert mini.profile.evaluations[name].training.fingerprint in page
    assert "not run" in page
    assert 'src="http' not in page


def test_the_page_of_nothing_says_so(tmp_path: Path, empty_store: Store) -> None:
    """No report, no run: the page stands all the same, with every section."""
    page = write_index(build_profile("shapes"), empty_store, tmp_path).read_text()
    assert page.count("not run") >= 5
    assert all(f"make {report.name} PROFILE=shapes" in page for report in SHOWN)


def test_the_help_names_every_report(capsys: pytest.CaptureFixture[str]) -> None:
    """`freeanchor report --help` lists what there is, with titles."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["report", "--help"])
    printed = capsys.readouterr().out
    assert all(f"    {name:16} {report.title}\n" in printed for name, report in REPORTS.items())


@pytest.mark.parametrize("name", ["shapes", "mini", "coco", "coco-mmdetection"])
def test_captions_hold_for_their_profile(name: str) -> None:
    """Nothing is said of COCO's runs that is true of the small backbone or of this project's own schedule alone."""
    profile = build_profile(name)
    texts = {report.name: report.text(profile) for report in SHOWN}
    assert all(texts.values())
    backbone = profile.evaluations[profile.pair[1]].training.backbone_label
    assert backbone in texts["ablations"] and backbone in texts["headline"]
    drops = profile.evaluations[profile.pair[0]].training.recipe.drops
    assert f"at {100 * drops[0]:.0f} and {100 * drops[1]:.0f} % of the training" in texts["convergence"]
    assert "band" not in REPORTS["ablations"].figure_caption


def test_every_number_leads_to_its_runs_provenance(mini: Mini, tmp_path: Path) -> None:
    """Each measured number links to a row of the table of runs, that to the whole record; records of others go."""
    for name in ("claims", "headline", "table1", "table2", "table3", "ablations", "figure5", "training"):
        REPORTS[name].write(mini.profile, mini.store, tmp_path)
    of_earlier = tmp_path / "mini" / "runs" / "freeanchor-small-s9.json"
    of_earlier.parent.mkdir()
    of_earlier.write_text("{}")
    page = write_index(mini.profile, mini.store, tmp_path).read_text(encoding="utf-8")
    assert not of_earlier.exists()
    rows = dict(re.findall(r'<tr id="run-([\w.-]+)"><td><a href="([^"]+)">', page))
    assert set(rows) == set(mini.profile.pair)
    assert set(re.findall(r'class="origin" href="#run-([\w.-]+)"', page)) == set(rows)
    for run, file in rows.items():
        record = json.loads((tmp_path / "mini" / file).read_text(encoding="utf-8"))
        assert record["run"] == run
        training = mini.profile.evaluations[run].training
        assert record["training"]["fingerprint"] == training.fingerprint
        assert {"commit", "hardware", "torch"} <= set(record["training"]["provenance"])
        assert record["test"]["num_pictures"] == 16
    numbers = re.findall(r'<tr class="here">.*?</tr>', page, flags=re.S)
    cells = [cell for row in numbers for cell in re.findall(r'<td class="number">(.*?)</td>', row, flags=re.S)]
    assert cells
    assert all('class="origin"' in cell for cell in cells)


def test_figures_name_their_runs(mini: Mini) -> None:
    """Figs. 5 and 6 are of the compared pair, Fig. 2 of the code alone; runs that are not there are left out."""
    runs = {name: measured_runs(REPORTS[name], mini.profile, mini.store) for name in ("figure5", "figure2", "claims")}
    assert runs["figure5"] == mini.profile.pair
    assert runs["figure2"] == ()
    assert set(runs["claims"]) == set(mini.profile.pair)


def test_lines_without_runs_lead_nowhere(empty_store: Store, tmp_path: Path) -> None:
    """A table of which nothing was run has no links; a missing one is none."""
    profile = build_profile("mini")
    REPORTS["table1"].write(profile, empty_store, tmp_path)
    table = table_of(REPORTS["table1"], profile, empty_store, tmp_path / "mini")
    assert table is not None and {line.runs for line in table.lines} == {()}
    assert table_of(REPORTS["table2"], profile, empty_store, tmp_path / "mini") is None


def test_a_record_says_where_the_run_lies(mini: Mini, tmp_path: Path) -> None:
    """The run's folder is given relative to the project, whatever the store's own place."""
    name = mini.profile.pair[0]
    path = write_run(mini.profile.evaluations[name], mini.store, tmp_path)
    record = json.loads((tmp_path / path).read_text(encoding="utf-8"))
    assert record["directory"].startswith(f"runs/mini/{name}-")


def test_metrics_of_an_analysis_are_a_table(mini: Mini, tmp_path: Path) -> None:
    """One line per detector and one for the gain, each with its runs and no published value."""

    def frame(profile: Profile, store: Store) -> pd.DataFrame:
        return table_cells(metrics_frame(profile, store, detection_metrics), profile)

    labels, metrics = {"detector": "Detector"}, {"ap_slender": "Slender", "ap_square": "Square"}
    report = table_report(frame, labels=labels, metrics=metrics, has_paper_lines=False, name="new", title="New")
    written = pd.read_csv(report.write(mini.profile, mini.store, tmp_path))
    first, second = mini.profile.pair
    assert dict(zip(written["detector"], written["run"], strict=True)) == {
        "RetinaNet": first,
        "FreeAnchor": second,
        "gain": f"{first} {second}",
    }
    assert written["published"].isna().all()
    text = (tmp_path / mini.profile.report_name / "new.md").read_text(encoding="utf-8")
    assert [line.split("|")[1].strip() for line in text.splitlines() if "| here |" in line] == [
        "RetinaNet",
        "FreeAnchor",
        "gain",
    ]
