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
from analysis.evaluation.evaluate import compare_detections, evaluation_frame
from analysis.evaluation.parted import match_part, matched
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
    distributed = pytest.importorskip("distributed", reason="needs the extra dask: pip install 'freeanchor[dask]'")
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
