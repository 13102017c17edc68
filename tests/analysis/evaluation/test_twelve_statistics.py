"""Our own twelve statistics are pycocotools' to the last bit, and reading many rows leaves Python as it was."""

import gc
import json

import numpy as np
import pytest
from analysis.evaluation.curves import RECALL_LEVELS, precisions_at_levels
from hypothesis import given, settings
from oracles.coco_record import coco_of, twelve_statistics
from oracles.coco_worlds import coco_worlds
from oracles.measured_worlds import measured
from pycocotools.cocoeval import COCOeval
from world_columns import columns

from analysis.coco.reading import read_detections, read_ground_truth
from analysis.coco.record import coco_statistics
from analysis.evaluation import evaluate as module
from analysis.evaluation.breakdowns import category_aspects, category_counts
from analysis.evaluation.evaluate import evaluation_frame
from analysis.evaluation.matching import match_detections
from analysis.evaluation.precision import average_precision, detection_statistics, precision_curves
from freeanchor.errors import DataError
from freeanchor.files import collector_paused

pytestmark = pytest.mark.filterwarnings("ignore::analysis.coco.reading.DataNote")


@settings(max_examples=60, deadline=None)
@given(coco_worlds())
def test_no_bit_differs_from_pycocotools(tmp_path_factory, world):
    """On worlds made of edges the numbers are equal, not just near, whoever evaluates: ours, ours through files."""
    if not world.content["annotations"]:
        return
    folder = tmp_path_factory.mktemp("world")
    paths = folder / "gt.json", folder / "d.json"
    for path, rows in zip(paths, (world.content, world.found), strict=True):
        path.write_text(json.dumps(rows))
    ground_truth = read_ground_truth(paths[0])
    ours = detection_statistics(ground_truth, read_detections(paths[1], ground_truth))
    np.testing.assert_array_equal(list(ours.values()), twelve_statistics(world.content, world.found))


@settings(max_examples=25, deadline=None)
@given(coco_worlds())
def test_precisions_at_levels_are_pycocotools(world):
    """Each class's precision at each level and threshold is `COCOeval.eval["precision"]`, and its mean is our AP."""
    objects = world.content["annotations"]
    if not objects or not world.found:
        return
    coco = coco_of(json.loads(json.dumps(world.content)))
    evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(world.found))), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    theirs = evaluation.eval["precision"][:, :, :, 0, 2]
    curves = precision_curves(match_detections(*columns(world)))
    values = []
    for k, curve in enumerate(curves.classes):
        if len(curve.object_images):
            values.append(precisions_at_levels(curve, curves.num_images))
            np.testing.assert_array_equal(values[-1], theirs[:, :, k])
            assert values[-1].shape[1] == len(RECALL_LEVELS)
        else:
            assert (theirs[:, :, k] == -1).all()
    mean = np.mean(values) if values else np.nan
    np.testing.assert_allclose(average_precision(curves), mean, rtol=0, atol=1e-12)


def test_a_check_runs_pycocotools_and_says_what_differs(monkeypatch):
    """With `check` equal statistics pass, and one that differs in its last bit is named; without it nobody looks."""
    truth, detections, _ = measured()
    plain = evaluation_frame(truth, detections, num_resamples=0)
    checked = evaluation_frame(truth, detections, num_resamples=0, check=True)
    assert checked.equals(plain)
    other = coco_statistics(truth, detections)
    other["ap_75"] = float(np.nextafter(other["ap_75"], 2))
    monkeypatch.setattr(module, "coco_statistics", lambda *_: other)
    with pytest.raises(ArithmeticError, match="ap_75 is .* here and .* in pycocotools"):
        evaluation_frame(truth, detections, num_resamples=0, check=True)
    assert evaluation_frame(truth, detections, num_resamples=0).equals(plain)


def test_counts_of_categories_need_no_detections():
    """The same counts stand beside the categories' AP."""
    truth, detections, _ = measured()
    assert category_counts(truth).equals(category_aspects(truth, detections).drop(columns="ap"))


@pytest.mark.parametrize("was_enabled", [True, False])
def test_the_collector_is_left_as_it_was(tmp_path, was_enabled):
    """Reading files, good and bad, turns Python's search for cycles off only while it lasts."""
    path = tmp_path / "d.json"
    path.write_text('[{"image_id": "one"}]')
    found = gc.isenabled()
    try:
        (gc.enable if was_enabled else gc.disable)()
        with collector_paused():
            assert not gc.isenabled()
        for call in (read_ground_truth, read_detections):
            with pytest.raises(DataError):
                call(path)
            assert gc.isenabled() == was_enabled
    finally:
        (gc.enable if found else gc.disable)()
