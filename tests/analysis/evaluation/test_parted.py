"""Parts of a matching, put together, equal the whole to the bit, resampling included."""

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles.detection_sets import random_detections, random_ground_truth
from oracles.plain_files import random_sets, write_files

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.match_parts import image_range, read_parts, write_part
from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation.evaluate import Wanted, compare_detections, evaluation_frame, evaluation_frames
from analysis.evaluation.parted import match_part, matched
from analysis.evaluation.protocol import Protocol
from analysis.evaluation.slices import read_slices
from analysis.evaluation.suppression import HardNms, suppress
from analysis.evaluation.ultralytics import ultralytics_frame
from freeanchor.errors import DataError, UsageError

NUM_PARTS = 16


def world(seed: int) -> tuple[GroundTruth, Detections, Detections]:
    """Objects, crowd regions among them, and two detectors with tied scores; more than 100 of a class at times."""
    generator = np.random.default_rng(seed)
    num_images, num_classes = int(generator.integers(1, 40)), int(generator.integers(1, 4))
    ground_truth = random_ground_truth(generator, num_images, num_classes, int(generator.integers(3, 60)))
    count = int(generator.integers(0, 900))
    one, two = (random_detections(generator, ground_truth, count, distinct_scores=False) for _ in range(2))
    return ground_truth, one, two


def in_parts(folder: Path, ground_truth: GroundTruth, detections: Detections, num_parts: int) -> Detections:
    """The detections after each part was matched for itself and written."""
    for part in range(1, num_parts + 1):
        start, end = image_range(len(ground_truth.image_ids), part, num_parts)
        own = np.isin(detections.image_id, ground_truth.image_ids[start:end])
        columns = {name: column[own] for name, column in vars(detections).items()}
        write_part(folder, matched(ground_truth, Detections(**columns)), ground_truth, part, num_parts)
    return read_parts(folder, ground_truth)


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(300), marks=pytest.mark.slow)])
def test_sixteen_parts_equal_the_whole(tmp_path, seeds):
    """Every number and bound of evaluate and compare, on random worlds."""
    for seed in seeds:
        ground_truth, one, two = world(seed)
        first, second = (
            in_parts(tmp_path / f"{seed}-{name}", ground_truth, own, NUM_PARTS)
            for name, own in (("a", one), ("b", two))
        )
        for whole, parts in (
            (
                evaluation_frame(ground_truth, one, num_resamples=12),
                evaluation_frame(ground_truth, first, num_resamples=12),
            ),
            (
                compare_detections(ground_truth, one, two, num_resamples=12),
                compare_detections(ground_truth, first, second, num_resamples=12),
            ),
        ):
            pd.testing.assert_frame_equal(whole, parts, check_exact=True)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Ground truth and detections as files."""
    return write_files(tmp_path, *random_sets())


def whole_and_parts(files: tuple[str, str], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same evaluation of the file and of the parts."""
    ground_truth = read_ground_truth(files[0])
    frames = (
        evaluation_frame(ground_truth, read_detections(source, ground_truth), num_resamples=10)
        for source in (files[1], folder)
    )
    whole, parts = frames
    return whole, parts


def test_four_workers_equal_one_process(tmp_path, files):
    """Sixteen parts of two files, each matched by one of four processes."""
    job = partial(match_part, *files, tmp_path / "parts", num_parts=NUM_PARTS)
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        paths = [pool.submit(job, part=part) for part in range(1, NUM_PARTS + 1)]
        assert len({path.result() for path in paths}) == NUM_PARTS
    pd.testing.assert_frame_equal(*whole_and_parts(files, tmp_path / "parts"), check_exact=True)


def test_dask_workers_equal_one_process(tmp_path, files):
    """The same by Dask's local cluster, the extra `dask`."""
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    job = partial(match_part, *files, tmp_path / "parts", num_parts=NUM_PARTS)
    with (
        distributed.LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.gather([client.submit(job, part=part) for part in range(1, NUM_PARTS + 1)])
    pd.testing.assert_frame_equal(*whole_and_parts(files, tmp_path / "parts"), check_exact=True)


def test_a_part_is_the_same_bytes_again(tmp_path, files):
    """A part that is matched anew replaces itself, and changes nothing."""
    first = match_part(*files, tmp_path / "parts", part=2, num_parts=3).read_bytes()
    assert match_part(*files, tmp_path / "parts", part=2, num_parts=3).read_bytes() == first


def _lose(folder: Path, files) -> None:
    next(folder.glob("match-2-*")).unlink()


def _cut(folder: Path, files) -> None:
    path = next(folder.glob("match-2-*"))
    path.write_bytes(path.read_bytes()[:-40])


def _other_number(folder: Path, files) -> None:
    match_part(*files, folder, part=2, num_parts=5)


def _other_truth(folder: Path, files) -> None:
    content = json.loads(Path(files[0]).read_text())
    content["annotations"][0]["bbox"][2] += 1
    Path(files[0]).write_text(json.dumps(content))


BROKEN = {
    "lacks 1 of 3 parts: 2; run freeanchor match --part 2/3": _lose,
    "no part of a matching": _cut,
    "differs from match-1-of-3.npz in num_parts": _other_number,
    "matched with other ground truth": _other_truth,
}


@pytest.mark.parametrize("line", BROKEN)
def test_parts_that_do_not_fit_are_refused_in_one_line(tmp_path, files, line):
    """What is missing, damaged or of another matching is named."""
    folder = tmp_path / "parts"
    for part in (1, 2, 3):
        match_part(*files, folder, part=part, num_parts=3)
    BROKEN[line](folder, files)
    with pytest.raises(DataError, match=line):
        read_detections(folder, read_ground_truth(files[0]))


def test_a_part_out_of_range_is_refused(tmp_path, files):
    """Parts are counted from 1."""
    with pytest.raises(UsageError, match="part must lie in 1 to 3, got 0"):
        match_part(*files, tmp_path, part=0, num_parts=3)


def crowded_image() -> tuple[GroundTruth, Detections]:
    """One image with 150 objects of a class, each found; more than parts hold."""
    edges = np.arange(150.0) * 10
    boxes = np.stack([edges, 0 * edges, edges + 8, 0 * edges + 8], axis=1)
    of_one = np.ones(150, dtype=np.int64)
    ground_truth = GroundTruth(
        image_ids=of_one[:1],
        category_ids=of_one[:1],
        category_names=("thing",),
        image_id=of_one,
        annotation_id=np.arange(1, 151),
        category_id=of_one,
        boxes=boxes,
        area=np.full(150, 64.0),
        iscrowd=np.zeros(150, dtype=bool),
    )
    found = Detections(image_id=of_one, category_id=of_one, boxes=boxes, scores=np.linspace(0.9, 0.1, 150))
    return ground_truth, found


@pytest.mark.parametrize("limit", [1, 50, 100])
def test_fewer_detections_may_count_than_parts_hold(tmp_path, limit):
    """A smaller limit gives what the whole gives."""
    ground_truth, found = crowded_image()
    wanted = Wanted(protocol=Protocol(max_detections=limit))
    whole, parts = (
        evaluation_frames(ground_truth, own, wanted, num_resamples=3)["metrics"]
        for own in (found, in_parts(tmp_path / "parts", ground_truth, found, 1))
    )
    pd.testing.assert_frame_equal(whole, parts, check_exact=True)
    recall = whole.set_index("metric").loc[f"ar_{limit}", "value"]
    assert recall == pytest.approx(limit / 150)


def test_what_needs_every_detection_refuses_parts(tmp_path):
    """NMS and Ultralytics' AP see more than COCO's hundred: parts are no substitute, and say so."""
    ground_truth, found = crowded_image()
    parts = in_parts(tmp_path / "parts", ground_truth, found, 1)
    with pytest.raises(DataError, match="NMS 0.5 needs every detection, but parts hold the best 100"):
        suppress(parts, HardNms(nms_iou=0.5))
    with pytest.raises(DataError, match="Ultralytics' AP needs every detection"):
        ultralytics_frame(ground_truth, parts)
    slices = read_slices([{"image_id": 1, "place": "here"}], ground_truth)
    for wanted in (Wanted(slices=slices, candidates=(parts,)), Wanted(protocol=Protocol(max_detections=101))):
        with pytest.raises(DataError, match="parts hold the best 100"):
            evaluation_frames(ground_truth, parts, wanted, num_resamples=0)
