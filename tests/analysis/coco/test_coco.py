"""Reading COCO files and the AP of record: every trap has one clear line, and what can be mended is read."""

import copy
import gc
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from oracles.detection_sets import detection_sets
from oracles.plain_files import ground_truth_content, results_content
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import read_detections, read_ground_truth
from analysis.coco.record import coco_statistics
from freeanchor.errors import DataError
from freeanchor.files import collector_paused

pytestmark = pytest.mark.filterwarnings("ignore::analysis.coco.reading.DataNote")  # tests/analysis/test_coco_traps.py
OBJECT = {"id": 5, "image_id": 2, "category_id": 7, "bbox": [10.1, 20, 30, 40.3], "area": 600, "iscrowd": 0}
CONTENT = {
    "images": [{"id": 2, "file_name": "two.jpg"}, {"id": 1, "file_name": "one.jpg"}],
    "categories": [{"id": 9, "name": "nine"}, {"id": 7, "name": "seven"}],
    "annotations": [OBJECT, {**OBJECT, "id": 6, "image_id": 1, "iscrowd": 1}],
}
FOUND = {"image_id": 2, "category_id": 7, "bbox": [10, 20, 30, 40], "score": 0.9}


def write(path: Path, content) -> Path:
    """`content` as json at `path`."""
    path.write_text(json.dumps(content))
    return path


def ground_truth_with(tmp_path: Path, **changes) -> GroundTruth:
    """CONTENT with its first annotation changed, read from a file; None removes a key."""
    content = copy.deepcopy(CONTENT)
    content["annotations"][0] = {k: v for k, v in (OBJECT | changes).items() if v is not None}
    return read_ground_truth(write(tmp_path / "gt.json", content))


def test_columns_are_what_the_file_says(tmp_path):
    """Boxes become xyxy, images and categories come in the order of their ids, and names stay with their ids."""
    ground_truth = ground_truth_with(tmp_path)
    assert ground_truth.image_ids.tolist() == [1, 2]
    assert dict(zip(ground_truth.category_ids.tolist(), ground_truth.category_names, strict=True)) == {
        7: "seven",
        9: "nine",
    }
    assert ground_truth.image_index.tolist() == [1, 0]
    np.testing.assert_allclose(ground_truth.boxes[0], [10.1, 20, 40.1, 60.3])
    assert ground_truth.sizes[0].tolist() == [30, 40.3]  # exactly as in the file
    assert (ground_truth.area.tolist(), ground_truth.iscrowd.tolist()) == ([600, 600], [False, True])


def test_gzip_is_read(tmp_path):
    """A gzipped file is read like the plain one."""
    path = tmp_path / "gt.json.gz"
    path.write_bytes(gzip.compress(json.dumps(CONTENT).encode()))
    assert read_ground_truth(path).annotation_id.tolist() == [5, 6]


BAD_CONTENT = {
    "an empty list of images": (CONTENT | {"images": []}, 'an empty "images" list'),
    "no images": ({k: v for k, v in CONTENT.items() if k != "images"}, 'no "images" list'),
    "no categories": ({k: v for k, v in CONTENT.items() if k != "categories"}, 'no "categories" list'),
    "no annotations": ({k: v for k, v in CONTENT.items() if k != "annotations"}, "no annotations.*val2017"),
    "empty annotations": (CONTENT | {"annotations": []}, "no annotations.*AP would be -1.*val2017"),
    "annotations of a strange kind": (CONTENT | {"annotations": "none"}, 'unreadable "annotations" list'),
    "a list": ([CONTENT], "holds a list, not an object"),
    "a string among the images": (CONTENT | {"images": ["one.jpg"]}, "images item 0 is a string"),
    "an image twice": (CONTENT | {"images": [{"id": 1}, {"id": 2}, {"id": 2}]}, "image id 2 occurs more than once"),
    "an image with a name for id": (CONTENT | {"images": [{"id": "one"}]}, "'one'; ids must be whole numbers"),
    "a category twice": (CONTENT | {"categories": [{"id": 7}, {"id": 7}]}, "category id 7 occurs more than once"),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_bad_ground_truth_is_refused(tmp_path, case):
    """Each defect of a whole file is one line that names the file and the defect."""
    content, message = BAD_CONTENT[case]
    path = write(tmp_path / "gt.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_ground_truth(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 6}, "annotation id 6 occurs more than once"),
        ({"id": None}, 'annotation in row 0 has no "id"; add it'),
        ({"category_id": None}, 'annotation 5 has no "category_id"'),
        ({"bbox": None}, 'annotation 5 has no "bbox"'),
        ({"bbox": [1, 2, 3]}, "annotation in row 0 has bbox .1, 2, 3.; it must be four numbers"),
        ({"bbox": [1, 2, "wide", 3]}, "bbox value 'wide'"),
        ({"bbox": [1, 2, -3, 4]}, "annotation 5 has bbox .1.0, 2.0, -3.0, 4.0."),
        ({"bbox": [1, 2, float("nan"), 4]}, "annotation 5 has bbox"),
        ({"bbox": [1, 2, float("inf"), 4]}, "annotation 5 has bbox"),
        ({"area": -1}, "annotation in row 0 has area -1"),
        ({"area": float("nan")}, "annotation in row 0 has area nan"),
    ],
)
def test_bad_annotations_are_refused(tmp_path, changes, message):
    """Each defect of an annotation is one line that names the file and the annotation."""
    with pytest.raises(DataError, match=message) as caught:
        ground_truth_with(tmp_path, **changes)
    assert str(caught.value).startswith(str(tmp_path / "gt.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": [FOUND]}, "holds a json object, not a list"),
        ([[1, 2]], "detection item 0 is a list"),
        ([{**FOUND, "image_id": 3}], "image id 3 .row 0. is not an image of the ground truth"),
        ([{**FOUND, "category_id": 1}] * 2, "category id 1 .row 0. is not a category"),
        ([{**FOUND, "category_id": 1}, {**FOUND, "image_id": 3}], "image id 3 .row 1. is not an image"),
        ([{**FOUND, "score": float("nan")}], "detection 0 has score nan"),
        ([{**FOUND, "score": "high"}], "row 0 has score 'high'"),
        ([{**FOUND, "bbox": [0, 0, -1, 5]}], "detection 0 has bbox"),
        ([FOUND, {k: v for k, v in FOUND.items() if k != "score"}], 'detection in row 1 has no "score"'),
    ],
)
def test_bad_detections_are_refused(tmp_path, content, message):
    """Each defect of a results file is one line that names the file and the row."""
    path = write(tmp_path / "d.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_detections(path, ground_truth_with(tmp_path))
    assert str(caught.value).startswith(f"{path}: ")


def test_bad_paths_are_refused(tmp_path):
    """A missing file, a folder, a file cut short (plain or gzipped) and bytes that are no text say what is wrong."""
    plain, zipped, binary = tmp_path / "short.json", tmp_path / "short.json.gz", tmp_path / "binary.json"
    plain.write_text(json.dumps(CONTENT)[:-20])
    zipped.write_bytes(gzip.compress(json.dumps(CONTENT).encode())[:-20])
    binary.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    for path, message in (
        (tmp_path / "none.json", "no such file"),
        (tmp_path, "is a folder"),
        (plain, "not valid json"),
        (zipped, "damaged gzip"),
        (binary, "not valid json"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_ground_truth(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_statistics_print_nothing(tmp_path, capsys):
    """pycocotools' output stays away."""
    ground_truth = ground_truth_with(tmp_path)
    coco_statistics(ground_truth, read_detections(write(tmp_path / "d.json", [FOUND]), ground_truth))
    assert capsys.readouterr().out == ""


def test_statistics_refuse_strangers(tmp_path):
    """Detections made by hand for another data set are refused, not silently left out."""
    detections = Detections(
        image_id=np.array([3]), category_id=np.array([7]), boxes=np.array([[0.0, 0, 1, 1]]), scores=np.array([0.5])
    )
    with pytest.raises(DataError, match="image id 3"):
        coco_statistics(ground_truth_with(tmp_path), detections)


@settings(max_examples=30, deadline=None)
@given(data=detection_sets())
def test_equals_plain_pycocotools_on_files(data, tmp_path_factory):
    """Files read by us score what pycocotools scores when it reads them itself."""
    ground_truth, detections = data
    folder = tmp_path_factory.mktemp("coco")
    content, found = {"info": {}, **ground_truth_content(ground_truth)}, results_content(detections)
    if not content["annotations"] or not found:
        return
    paths = write(folder / "gt.json", content), write(folder / "d.json", found)
    coco = COCO(str(paths[0]))
    evaluation = COCOeval(coco, coco.loadRes(str(paths[1])), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    read = read_ground_truth(paths[0])
    ours = coco_statistics(read, read_detections(paths[1], read))
    assert [-1 if math.isnan(v) else v for v in ours.values()] == evaluation.stats.tolist()


def test_columns_of_different_length_are_refused():
    """A column that is too short is refused with all lengths."""
    with pytest.raises(DataError, match="columns differ in length"):
        Detections(
            image_id=np.array([1]), category_id=np.array([1]), boxes=np.array([[0.0, 0, 1, 1]]), scores=np.array([])
        )


def test_sizes_that_contradict_the_boxes_are_refused():
    """Replacing boxes without their sizes is refused, since IoU would mix the two."""
    with pytest.raises(DataError, match="`sizes` contradicts `boxes`"):
        Detections(
            image_id=np.array([1]), category_id=np.array([1]), boxes=np.array([[0.0, 0, 9, 9]]),
            scores=np.array([0.5]), sizes=np.array([[1.0, 1.0]]),
        )  # fmt: skip


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
