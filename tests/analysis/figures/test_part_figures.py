"""Figures of error types, slices, working points, images and classes: the data that they draw."""

import numpy as np
import pytest
from oracles.plain_files import ground_truth_content, random_sets, results_content

from analysis import compare, evaluate
from analysis.figures.style import BLUE, VERMILION
from freeanchor.errors import UsageError


@pytest.fixture(scope="module")
def results() -> list:
    """An evaluation and a comparison with every part."""
    truth, found = random_sets()
    gt, first, second = (
        ground_truth_content(truth), results_content(found), results_content(random_sets(num_detections=90)[1])
    )  # fmt: skip
    slices = [{"image_id": row["id"], "half": "$low" if row["id"] < 16 else "high"} for row in gt["images"]]
    wanted = {"errors": "coco", "slices": slices, "working_point": "f1", "per_image": True, "confusion": 0.3}
    return [evaluate(gt, first, resamples=10, **wanted), compare(gt, first, second, resamples=10, **wanted)]


@pytest.mark.parametrize(("place", "column"), [(0, "value"), (1, "difference")])
def test_points_are_the_rows_of_the_table(results, place, column) -> None:
    """dAP and numbers of errors; AP and AR of slices; F1 of classes: each point is its row's value."""
    parts = results[place].parts
    dap, num = results[place].figure("errors").axes
    for axes, measure, scale in ((dap, "dap", 100), (num, "num", 1)):
        rows = parts["errors"][parts["errors"]["measure"] == measure]
        np.testing.assert_allclose(points(axes), scale * rows[column])
    assert [label.get_text() for label in dap.get_yticklabels()] == rows["error"].tolist()
    for axes, metric in zip(results[place].figure("slices").axes, ("ap", "ar_100"), strict=True):
        rows = parts["slices"][parts["slices"]["metric"] == metric]
        np.testing.assert_allclose(points(axes), 100 * rows[column])
    f1 = results[place].figure("working_points").axes[0]
    rows = parts["working_points"][parts["working_points"]["measure"] == "f1"]
    np.testing.assert_allclose(sorted(points(f1)), sorted(rows[column].astype(float)))


def points(axes) -> np.ndarray:
    """Where the points of a forest plot stand; lines at 0 have none."""
    return np.concatenate([line.get_xdata() for line in axes.lines if line.get_marker() == "o"])


def test_curves_are_of_all_classes_and_one_colour_per_detector(results) -> None:
    """Precision over recall on the left; precision, recall and F1 over the threshold on the right."""
    for result, colours in zip(results, ([BLUE], [BLUE, VERMILION]), strict=True):
        left, right = result.figure("curves").axes
        assert [line.get_color() for line in left.lines] == colours and len(right.lines) == 3 * len(colours)
        frame = result.parts["curves"]
        rows = frame[frame["label"] == "all classes"]
        rows = rows[rows["detector"] == "first"] if "detector" in rows else rows
        np.testing.assert_allclose(left.lines[0].get_xdata(), rows["recall"])
        np.testing.assert_allclose(right.lines[2].get_ydata(), rows["f1"])


def test_images_and_confusion_hold_every_count(results) -> None:
    """The histogram counts the images that have an AP50; a row of the matrix is a share of its true class."""
    parts = results[0].parts
    (axes,) = results[0].figure("images").axes
    assert sum(bar.get_height() for bar in axes.patches) == parts["images"]["ap_50"].notna().sum()
    matrix = results[0].figure("confusion").axes[0].images[0].get_array()
    names = [label.get_text() for label in results[0].figure("confusion").axes[0].get_yticklabels()]
    assert names[-1] == "background"
    rows = parts["confusion"].set_index(["true", "predicted"])["num"]
    own = rows[names[0]]
    assert matrix[0, 0] == pytest.approx(100 * own.get(names[0], 0) / own.sum())
    np.testing.assert_allclose(np.asarray(matrix).sum(axis=1), 100)


def test_a_part_that_was_not_asked_for_is_refused(results) -> None:
    """One line that names those that there are."""
    with pytest.raises(UsageError, match="part must be one of errors, working_points, slices, curves"):
        results[0].figure("bags")
