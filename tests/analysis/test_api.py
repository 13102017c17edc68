"""The public API: the numbers of the frames behind it, from files and from lists, as table, figure and page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from oracles.plain_files import ground_truth_content, random_sets, results_content, write_files

import analysis
from analysis import Protocol, compare, evaluate, nms_recall
from analysis.coco.reading import DataNote
from analysis.evaluation.evaluate import compare_detections, evaluation_frame
from analysis.evaluation.nms_recall import NmsRecallDefinition, recall_frame, recall_text
from analysis.evaluation.suppression import GaussianSoftNms, HardNms, LinearSoftNms
from freeanchor.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "pycocotools", "matplotlib", "seaborn"}


@pytest.fixture(scope="module")
def sets():
    """A ground truth and a detector."""
    return random_sets()


@pytest.fixture
def files(tmp_path: Path, sets) -> tuple[str, str]:
    """The same as files."""
    return write_files(tmp_path, *sets)


@pytest.fixture
def contents(sets) -> tuple[dict, list]:
    """The same as COCO-style dicts and lists."""
    return ground_truth_content(sets[0]), results_content(sets[1])


def test_evaluate_is_the_evaluation(sets, files, contents):
    """The frame behind the command, from paths, text or Path, and from dicts and lists."""
    expected = evaluation_frame(*sets, num_resamples=20, per_category=True)
    for gt, found in (files, map(Path, files), contents):
        result = evaluate(gt, found, per_category=True, resamples=20)
        pd.testing.assert_frame_equal(result.table, expected)
    assert "yolo" not in result.title and "the ground truth" in result.title
    assert Path(files[1]).name in evaluate(*files, resamples=0).title
    boxed = evaluate(*contents, area="box", resamples=0, check=True).table
    assert not boxed["num_objects"].equals(expected["num_objects"][: len(boxed)])


def test_compare_is_the_comparison(sets, files, contents):
    """The frame behind the command, its `value` called what it is."""
    worse = results_content(random_sets(num_detections=90)[1])
    other = random_sets(num_detections=90)[1]
    expected = compare_detections(*sets, other, num_resamples=20)
    result = compare(files[0], contents[1], worse, resamples=20)
    pd.testing.assert_frame_equal(result.table, expected.rename(columns={"value": "difference"}))
    assert str(result).split()[:6] == ["metric", "first", "second", "difference", "low", "high"]


def test_ap_under_other_thresholds_is_not_called_cocos(tmp_path, contents):
    """The text and the page say over what it is; COCO's own needs no word."""
    protocol = Protocol(iou_thresholds=(0.5, 0.75), max_detections=300)
    result = evaluate(*contents, resamples=0, protocol=protocol)
    line = "Not COCO's AP: over IoU 0.5, 0.75 and 300 detections of an image and class."
    assert str(result).splitlines()[-1] == line and line in result.caption
    assert "COCO" not in str(evaluate(*contents, resamples=0)) + evaluate(*contents, resamples=0).caption


def test_categories_of_one_name_are_told_apart(contents):
    """By their ids, in every table; a note says so. A class called background is not what nothing is taken for."""
    gt, found = json.loads(json.dumps(contents))
    first, second = (item["id"] for item in gt["categories"][:2])
    for item in gt["categories"][:2]:
        item["name"] = "background"
    with pytest.warns(DataNote, match=r"2 categories are called .background.; tables tell them by their ids"):
        result = compare(gt, found, found, resamples=2, per_category=True, confusion=0.1)
    labels = result.table.query("metric == 'ap_category'")["label"].tolist()
    assert labels[:2] == [f"background ({first})", f"background ({second})"]
    confusion = result.parts["confusion"]
    assert not confusion.duplicated(["true", "predicted"]).any() and (confusion["difference"] == 0).all()
    gt["categories"][1]["name"] = "another"
    names = set(
        evaluate(gt, found, resamples=0, confusion=0.1).parts["confusion"][["true", "predicted"]].to_numpy().flat
    )
    assert {"background", "(background)"} <= names


def test_detectors_are_told_apart_by_name(tmp_path, contents):
    """Files of one name are told by the folders that differ, whatever lies between; names that are given come first."""
    paths = [tmp_path / name / "results" / "detections.json" for name in ("old", "new")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(contents[1]))
    result = compare(contents[0], *paths, resamples=2)
    assert result.title.startswith("new: detections.json minus old: detections.json on")
    assert compare(contents[0], *paths, resamples=2, names=("A", "B")).title.startswith("B minus A on")
    assert compare(contents[0], paths[0], paths[0], resamples=2).title.startswith(
        "detections.json minus detections.json"
    )
    assert (
        "The same after NMS 0.5 minus detections.json" in compare(contents[0], paths[0], HardNms(), resamples=2).title
    )


def test_nms_recall_is_the_recall(sets, files):
    """The frame behind the command, whatever is asked for, and its text."""
    plain = recall_frame(*sets, [HardNms(nms_iou=0.5)], num_resamples=10)
    pd.testing.assert_frame_equal(nms_recall(*files, resamples=10).table, plain)
    result = nms_recall(
        *files, nms=0.4, soft_nms=("linear", "gaussian"), sigma=0.3, score_threshold=0.1, max_candidates=5,
        include_crowd=True, inclusive=True, resamples=0,
    )  # fmt: skip
    base = NmsRecallDefinition(score_threshold=0.1, max_candidates=5, include_crowd=True, strict=False)
    several = [HardNms(nms_iou=0.4), LinearSoftNms(nms_iou=0.4), GaussianSoftNms(sigma=0.3)]
    expected = recall_frame(*sets, several, base=base, num_resamples=0)
    pd.testing.assert_frame_equal(result.table, expected)
    assert str(result) == "at most 5 candidates per image\n" + recall_text(expected)
    labels = nms_recall(*files, nms=(0.5, 0.7, 0.5), soft_nms="linear", resamples=0).table["nms"].unique()
    assert labels.tolist() == ["NMS 0.5", "NMS 0.7", "linear soft-NMS 0.5", "linear soft-NMS 0.7"]


def test_gzip_is_read_and_numpy_is_taken_for_numbers(tmp_path, files, contents):
    """Files compressed or not; lists that hold numpy's numbers, tuples and arrays, as a detector's output does."""
    gt, found = contents
    plain = tmp_path / "found.json"
    plain.write_text(json.dumps(found))
    expected = evaluate(*files, resamples=0).table
    pd.testing.assert_frame_equal(evaluate(files[0], plain, resamples=0).table, expected)
    of_numpy = [
        {
            "image_id": np.int64(row["image_id"]),
            "category_id": np.int32(row["category_id"]),
            "bbox": np.array(row["bbox"]) if i % 2 else tuple(row["bbox"]),
            "score": np.float64(row["score"]),
        }
        for i, row in enumerate(found)
    ]
    pd.testing.assert_frame_equal(evaluate(gt, of_numpy, resamples=0).table, expected)


def test_bad_data_is_one_line(tmp_path, files, contents):
    """`DataError`, as of the commands: it names the file or what was given, the item, and the remedy."""
    gt, found = contents
    bad = [{**found[0], "image_id": 999}, {**found[0], "image_id": 998}]
    for call, message in (
        (lambda: evaluate(tmp_path / "none.json", found), f"^{tmp_path}/none.json: no such file; "),
        (lambda: evaluate(gt, bad), "^detections: detections: image id 999 .row 0. is not an image of the ground"),
        (lambda: compare(gt, found, bad), "^second: detections: image id 999"),
        (lambda: nms_recall(gt, [{**found[0], "score": "high"}]), "^candidates: row 0 has score 'high'"),
        (lambda: evaluate({**gt, "images": []}, found), '^ground truth: has an empty "images" list'),
        (lambda: evaluate(found, gt), "^ground truth: holds a list, not an object"),
        (lambda: evaluate(gt, [{**found[0], "category_id": np.bool_(True)}]), "ids must be whole numbers"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.warns(DataNote, match="^detections: holds no detections"):
        evaluate(gt, [], resamples=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *data: evaluate(*data, resamples=1), "resamples must be at least 2 .or 0"),
        (lambda *data: evaluate(*data, area="mask"), "area must be"),
        (lambda *data: compare(*data, data[1], resamples=0), "resamples must be at least 2, got 0"),
        (lambda *data: nms_recall(*data, nms=(0.5, 50)), "nms_iou must lie in"),
        (lambda *data: nms_recall(*data, nms=()), "at least one IoU"),
        (lambda *data: nms_recall(*data, soft_nms="soft"), 'soft_nms must be "linear" or "gaussian"'),
        (lambda *data: nms_recall(*data, soft_nms="gaussian", sigma=0), "sigma must be greater than 0"),
        (lambda *data: nms_recall(*data, score_threshold=-0.1), "score_threshold must be 0 or more"),
        (lambda *data: nms_recall(*data, max_candidates=0), "max_candidates must be at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(call, message, contents):
    """One line that names the option, before any computing."""
    with pytest.raises(UsageError, match=message):
        call(*contents)


def test_figures_draw_the_table(contents):
    """Values as points with their intervals, in percent, differences in a panel of their own; curves of NMS recall."""
    gt, found = contents
    gt["categories"][0]["name"] = "$x_$"  # no formula
    result = evaluate(gt, found, per_category=True, resamples=10)
    plain, gaps = result.figure().axes
    is_gap = result.table["metric"].str.contains("_minus_")
    for axes, rows in ((plain, result.table[~is_gap]), (gaps, result.table[is_gap])):
        np.testing.assert_allclose(axes.lines[0].get_xdata(), 100 * rows["value"])
        (bars,) = [part for part in axes.collections if isinstance(part, LineCollection)]
        ends = np.array([segment[:, 0] for segment in bars.get_segments() if len(segment)])
        np.testing.assert_allclose(ends, 100 * rows[["low", "high"]].dropna())
    assert "ap_category $x_$" in [label.get_text() for label in plain.get_yticklabels()]
    result.to_html()
    (axes,) = compare(gt, found, found, resamples=10).figure().axes
    assert np.nanmax(np.abs(axes.lines[0].get_xdata())) == 0
    recall = nms_recall(gt, found, nms=(0.5, 0.9), resamples=10)
    panels = recall.figure().axes
    assert [panel.get_title(loc="left") for panel in panels] == recall.table["definition"].unique().tolist()
    own = recall.table[(recall.table["nms"] == "NMS 0.9") & (recall.table["definition"] == "class-aware")]
    np.testing.assert_allclose(panels[1].lines[1].get_ydata(), 100 * own["nr"][:9])


def test_a_page_is_whole_and_needs_nothing_else(tmp_path, contents):
    """The text that is returned is what is written; it holds charts and classes, and loads nothing."""
    gt, found = contents
    gt["categories"][0]["name"] = "<b>&"
    path = tmp_path / "new" / "page.html"
    result = evaluate(gt, found, per_category=True, resamples=0)
    page = result.to_html(path)
    assert path.read_text(encoding="utf-8") == page == result.to_html()
    assert [item.name for item in path.parent.iterdir()] == ["page.html"]
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page and "<svg" in page
    loads = r"<link|<img|@import|src=|url\((?!#)|href=\"(?!#)"
    assert not re.search(rf"{loads}|https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("<script") == page.count("</script") == 2
    assert "nan" not in re.sub("(?s)<script.*?</script>|<style.*?</style>", "", page).lower()
    nms_recall(gt, found, resamples=0).to_html(str(path))
    plain = path.read_text(encoding="utf-8")
    assert "NMS recall" in plain and "<svg" in plain and not re.search(f"{loads}|<script", plain)


def loaded_by(program: str) -> set[str]:
    """Which of the heavy packages a program of its own has loaded at its end."""
    program += f"\nimport sys\nprint(*sorted({HEAVY | {'numpy', 'pandas'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_analysis_loads_nothing():
    """Not even numpy: the public names are looked up when asked for, and unknown ones refused."""
    assert loaded_by("import analysis") == set()
    assert not loaded_by("from analysis import evaluate, compare, nms_recall") & HEAVY
    with pytest.raises(AttributeError, match="no attribute 'slices'"):
        _ = analysis.slices
    assert {"Result", "compare", "evaluate", "nms_recall"} < set(analysis.__all__)
    assert all(getattr(analysis, name) for name in analysis.__all__)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["evaluate", "--gt", "GT", "--detections", "FOUND"], 0),
        (["compare", "--gt", "GT", "FOUND", "FOUND", "--resamples", "10"], 0),
        (["nms-recall", "--gt", "GT", "--candidates", "FOUND", "--resamples", "10"], 0),
        (["nms", "--candidates", "FOUND", "--out", "OUT"], 0),
        (["evaluate", "--gt", "FOUND", "--detections", "FOUND"], 2),
    ],
)
def test_commands_load_no_torch(tmp_path, contents, command, status):
    """On ten images, to the last line, a refusal included; `nms` does without pandas, too."""
    gt, found = contents
    ids = [row["id"] for row in gt["images"][:10]]
    gt["images"] = gt["images"][:10]
    gt["annotations"] = [row for row in gt["annotations"] if row["image_id"] in ids]
    paths = {"GT": gt, "FOUND": [row for row in found if row["image_id"] in ids]}
    for name, content in paths.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    words = [str(tmp_path / f"{word}.json") if word.isupper() else word for word in command]
    loaded = loaded_by(f"from experiments.cli import main\nassert main({words!r}) == {status}")
    assert not loaded & HEAVY and "numpy" in loaded
    assert command[0] != "nms" or "pandas" not in loaded
