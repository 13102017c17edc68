"""Candidates in blocks of whole images: NMS recall is that of the whole, and what needs telling is left to the reader."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from oracles.detection_sets import random_detections, random_ground_truth
from oracles.plain_files import ground_truth_content, results_content

import analysis
from analysis.coco import by_image, pieces
from analysis.coco.by_image import image_blocks
from analysis.coco.pieces import NotInPieces
from analysis.coco.reading import read_ground_truth


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Ground truth, and candidates image by image; a piece is a few hundred bytes, and every file is large."""
    monkeypatch.setattr(by_image, "STREAMED_FROM", 0)
    original = pieces.result_pieces
    monkeypatch.setattr(by_image, "result_pieces", lambda path: original(path, 900))
    generator = np.random.default_rng(3)
    ground_truth = random_ground_truth(generator, 9, 3, 40)
    rows = results_content(random_detections(generator, ground_truth, 300, distinct_scores=False))
    content = ground_truth_content(ground_truth)
    for image in content["images"]:
        image |= {"width": 640, "height": 480}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    rows.sort(key=lambda row: row["image_id"])
    return tmp_path, rows


def written(folder, rows):
    """The candidates as a packed file."""
    path = folder / "candidates.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    return path


def test_blocks_hold_whole_images_and_lose_nothing(files):
    """Each image's rows are in one block, in their order."""
    folder, rows = files
    blocks = list(image_blocks(written(folder, rows), read_ground_truth(folder / "gt.json")))
    assert len(blocks) > 3
    images = [set(block.image_id.tolist()) for block in blocks]
    assert sum(map(len, images)) == len(set.union(*images))
    assert np.concatenate([block.scores for block in blocks]).tolist() == [row["score"] for row in rows]


def test_nms_recall_of_a_stream_is_that_of_the_whole(files, monkeypatch):
    """Every number and bound to the bit, without the whole file ever being read."""
    folder, rows = files
    options = {"nms": (0.4, 0.6), "soft_nms": "gaussian", "resamples": 20}
    whole = analysis.nms_recall(folder / "gt.json", rows, **options).table
    monkeypatch.setattr("analysis.evaluation.nms_recall.read_detections", None)
    streamed = analysis.nms_recall(folder / "gt.json", written(folder, rows), **options).table
    pd.testing.assert_frame_equal(whole, streamed, check_exact=True)


def _twice(rows):
    return [*rows, rows[0]]


def _stranger(rows):
    return [*rows, {**rows[-1], "image_id": 10**6}]


def _other_class(rows):
    return [*rows, {**rows[-1], "category_id": 77}]


def _negative(rows):
    return [*rows, {**rows[-1], "bbox": [1, 2, -3, 4]}]


@pytest.mark.parametrize("change", [_twice, _stranger, _other_class, _negative])
def test_what_needs_telling_is_not_streamed(files, change):
    """An image in two places, strangers and bad boxes are for the reader of whole files."""
    folder, rows = files
    with pytest.raises(NotInPieces):
        list(image_blocks(written(folder, change(rows)), read_ground_truth(folder / "gt.json")))


def test_an_image_in_two_places_gives_the_same_recall(files):
    """The other reader takes over from the middle of the file."""
    folder, rows = files
    mixed = [*rows[1:], rows[0]]
    whole = analysis.nms_recall(folder / "gt.json", mixed, resamples=0).table
    again = analysis.nms_recall(folder / "gt.json", written(folder, mixed), resamples=0).table
    pd.testing.assert_frame_equal(whole, again, check_exact=True)
