"""Where pycocotools alone goes wrong on a file: what we do instead, and that we say so."""

import contextlib
import io
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from oracles.detection_sets import detection_sets
from oracles.plain_files import ground_truth_content
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from world_columns import our_statistics

from analysis.coco.reading import DataNote, read_detections, read_ground_truth, results_json
from analysis.coco.record import STATISTICS, coco_statistics
from analysis.evaluation.matching import match_detections
from analysis.evaluation.precision import average_precision, average_recall, precision_curves
from freeanchor.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::analysis.coco.reading.DataNote")
OBJECTS = [
    {"id": i, "image_id": 1 + i % 2, "category_id": 7, "bbox": [40 * i, 0, 30, 40], "area": 1200, "iscrowd": 0}
    for i in range(4)
]


def content_with(**changes) -> dict:
    """Two images with two objects each, ids 0 to 3; `changes` to every object, None removes a key."""
    objects = [{k: v for k, v in (item | changes).items() if v is not None} for item in OBJECTS]
    return {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 7, "name": "door"}], "annotations": objects}


def write(path: Path, content) -> Path:
    """`content` as json at `path`."""
    path.write_text(json.dumps(content))
    return path


def found(objects) -> list[dict]:
    """Every object found perfectly."""
    return [{k: item[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for item in objects]


def pycocotools_alone(ground_truth: Path, results: list, max_detections=(1, 10, 100)) -> COCOeval:
    """What pycocotools makes of the files when nobody stands between."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(ground_truth))
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def notes_of(path: Path, **options) -> list[str]:
    """What reading a ground truth has to say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_ground_truth(path, **options)
    assert all(issubclass(note.category, DataNote) for note in caught)
    return [str(note.message) for note in caught]


def test_annotation_id_0_is_found(tmp_path):
    """A perfect detection of annotation 0 is missed by pycocotools alone, and right here; a note says so."""
    path = write(tmp_path / "gt.json", content_with())
    assert pycocotools_alone(path, found(OBJECTS)).stats[0] < 0.8
    (note,) = notes_of(path)
    assert note.startswith(f"{path}: has annotation id 0") and "\n" not in note
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataNote)
        ground_truth = read_ground_truth(path)
    detections = read_detections(write(tmp_path / "d.json", found(OBJECTS)), ground_truth)
    assert coco_statistics(ground_truth, detections)["ap"] == pytest.approx(1.0)
    assert our_statistics(ground_truth, detections)["ap"] == pytest.approx(1.0)


def test_a_file_without_traps_has_no_notes(tmp_path):
    """Nothing is said about a file as COCO's own are."""
    content = content_with()
    for item in content["annotations"]:
        item["id"] += 1
    assert notes_of(write(tmp_path / "gt.json", content)) == []


def test_no_detections_are_0_where_pycocotools_stops(tmp_path):
    """An empty list raises in pycocotools; here every statistic of the objects there are is 0, and a note says so."""
    path = write(tmp_path / "gt.json", content_with() | {"annotations": [{**OBJECTS[1]}]})
    with pytest.raises(IndexError):
        pycocotools_alone(path, [])
    ground_truth = read_ground_truth(path)
    with pytest.warns(DataNote, match="holds no detections: AP and AR are 0"):
        none = read_detections(write(tmp_path / "d.json", []), ground_truth)
    for statistics in (coco_statistics(ground_truth, none), our_statistics(ground_truth, none)):
        assert statistics["ap"] == statistics["ar_100"] == statistics["ap_medium"] == 0.0
        assert math.isnan(statistics["ap_large"])


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_missing_keys_are_filled_in_and_said_once(tmp_path, key):
    """pycocotools alone stops at a missing key; here one note counts the objects and names what is taken."""
    content = content_with(**{key: None})
    path = write(tmp_path / "gt.json", content)
    with pytest.raises(KeyError, match=key):
        pycocotools_alone(path, found(OBJECTS))
    notes = [note for note in notes_of(path) if key in note]
    taken = {"area": "the box's area is taken", "iscrowd": "0 is taken"}[key]
    assert notes == [f'{path}: 4 of 4 annotations have no "{key}"; {taken}']
    with pytest.warns(DataNote):
        ground_truth = read_ground_truth(path)
    assert ground_truth.area.tolist() == [1200.0] * 4
    assert not ground_truth.iscrowd.any()


@settings(max_examples=15, deadline=None)
@given(data=detection_sets())
def test_other_caps_than_100_are_defined(data, tmp_path_factory):
    """With `maxDets` (1, 10, 50) pycocotools' summary says AP -1; ours is its own average under that cap."""
    ground_truth, detections = data
    if not len(detections) or not (~ground_truth.iscrowd).any():
        return
    content = {"info": {}, **ground_truth_content(ground_truth)}
    path = write(tmp_path_factory.mktemp("caps") / "gt.json", content)
    theirs = pycocotools_alone(path, results_json(detections), max_detections=(1, 10, 50))
    assert theirs.stats[0] == -1
    precision, recall = theirs.eval["precision"][..., 0, 2], theirs.eval["recall"][..., 0, 2]
    curves = precision_curves(match_detections(ground_truth, detections), max_detections=50)
    assert float(average_precision(curves)) == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    assert float(average_recall(curves)) == pytest.approx(recall[recall > -1].mean(), abs=1e-12)
    assert set(coco_statistics(ground_truth, detections)) == set(STATISTICS)


def test_size_by_mask_or_by_box(tmp_path):
    """An object of 30 x 40 whose mask covers 600 is small by COCO's rule, medium by its box."""
    content = content_with(area=600)
    for item in content["annotations"]:
        item["id"] += 1
    path = write(tmp_path / "gt.json", content)
    by_mask, by_box = read_ground_truth(path), read_ground_truth(path, area="box")
    assert (by_mask.area.tolist(), by_box.area.tolist()) == ([600.0] * 4, [1200.0] * 4)
    detections = read_detections(write(tmp_path / "d.json", found(OBJECTS)), by_mask)
    mask, box = coco_statistics(by_mask, detections), coco_statistics(by_box, detections)
    assert (mask["ap_small"], box["ap_medium"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert math.isnan(mask["ap_medium"]) and math.isnan(box["ap_small"])
    assert mask["ap"] == box["ap"]


def test_size_by_box_needs_no_areas(tmp_path):
    """With the box deciding, a file without areas is complete, and one with nonsense in them is fine."""
    path = write(tmp_path / "gt.json", content_with(area=None))
    assert not [note for note in notes_of(path, area="box") if '"area"' in note]
    path = write(tmp_path / "gt.json", content_with(area=-1))
    with pytest.raises(DataError, match="area -1"):
        read_ground_truth(path)
    assert read_ground_truth(path, area="box").area.tolist() == [1200.0] * 4


def test_results_are_read_back_to_the_bit(tmp_path):
    """Detections written as COCO results come back as they were, widths that are no differences included."""
    results = [{"image_id": 1, "category_id": 7, "bbox": [1e3 + 0.1, 0.2, 0.1, 0.7], "score": 1 / 3}]
    ground_truth = read_ground_truth(write(tmp_path / "gt.json", content_with() | {"annotations": OBJECTS[1:]}))
    detections = read_detections(write(tmp_path / "d.json", results), ground_truth)
    assert results_json(detections) == results


def test_ids_are_free_where_there_is_no_ground_truth(tmp_path):
    """Without a ground truth any id will do; every other check stays."""
    path = write(tmp_path / "d.json", found(OBJECTS))
    np.testing.assert_array_equal(read_detections(path).image_id, [1, 2, 1, 2])
    write(path, [{**found(OBJECTS)[0], "bbox": [0, 0, -1, 4]}])
    with pytest.raises(DataError, match="detection 0 has bbox"):
        read_detections(path)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("image_id", "1" + "0" * 30, "ids must be whole numbers"),
        ("score", "1" + "0" * 400, "too large for a number"),
        ("bbox", f"[1{'0' * 400}, 0, 1, 1]", "too large for a number"),
    ],
)
def test_numbers_without_end_are_refused(tmp_path, key, text, message):
    """json's whole numbers may be longer than any of ours."""
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{**found(OBJECTS)[0], key: "HERE"}]).replace('"HERE"', text))
    with pytest.raises(DataError, match=message):
        read_detections(path)
