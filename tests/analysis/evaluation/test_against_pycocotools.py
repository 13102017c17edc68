"""The metrics against pycocotools on worlds made of edges, on photographs, and on images literally repeated."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.coco_record import coco_of, twelve_statistics, with_images_repeated
from oracles.coco_worlds import CocoWorld, coco_worlds, seven_of_ten, traits
from oracles.nms_recall import greedy_nms
from pycocotools.cocoeval import COCOeval
from world_columns import columns, our_statistics

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import read_detections, read_ground_truth
from analysis.coco.record import STATISTICS
from analysis.evaluation.curves import RECALL_LEVELS
from analysis.evaluation.matching import find_overlaps, match, match_detections
from analysis.evaluation.precision import (
    area_subset,
    average_precision,
    average_recall,
    precision_curves,
)
from analysis.evaluation.statistics import paired_bootstrap

pytestmark = pytest.mark.filterwarnings("ignore::analysis.coco.reading.DataNote")
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
TRAITS = {
    "no detections", "crowd region that is found", "scores tied within an image", "scores tied across images",
    "category without objects", "category without detections", "image without objects or detections",
    "over 100 of an image and category", "object's area at a size border", "detection's area at a size border",
    "area that is not the box's", "object without extent", "detection without extent", "IoU at a threshold",
    "equal IoU with two places", "ten objects of a category",
}  # fmt: skip


def assert_same(ours: dict[str, float], record: list[float]) -> None:
    """All twelve agree to the last bit, undefined ones included."""
    assert tuple(ours) == STATISTICS
    np.testing.assert_array_equal(list(ours.values()), record)


@pytest.mark.parametrize(("num_worlds", "often"), [(30, 1), pytest.param(250, 5, marks=pytest.mark.slow)])
def test_twelve_statistics_equal_pycocotools(tmp_path_factory, num_worlds, often):
    """All twelve equal pycocotools' on random worlds, from columns and through files; every edge occurs often."""
    seen = Counter()

    @settings(max_examples=num_worlds, deadline=None, derandomize=True)
    @example(seven_of_ten())
    @given(coco_worlds())
    def check(world):
        seen.update({"worlds", *traits(world)})
        record = twelve_statistics(world.content, world.found)
        assert_same(our_statistics(*columns(world)), record)
        if world.content["annotations"]:
            assert_same(our_statistics(*through_files(tmp_path_factory.mktemp("world"), world)), record)

    check()
    assert seen["worlds"] >= 0.8 * num_worlds
    assert {name for name in TRAITS if seen[name] < often} == set()


def through_files(folder: Path, world: CocoWorld) -> tuple[GroundTruth, Detections]:
    """What we read where the world is written to two files."""
    paths = folder / "ground_truth.json", folder / "detections.json"
    for path, rows in zip(paths, (world.content, world.found), strict=True):
        path.write_text(json.dumps(rows))
    ground_truth = read_ground_truth(paths[0])
    return ground_truth, read_detections(paths[1], ground_truth)


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
    own = columns(world)
    curves = precision_curves(match_detections(*own, area_subset(*own, "all")))
    values = curves.precision_at_levels
    has_objects = curves.num_objects > 0
    np.testing.assert_array_equal(values, theirs[:, :, has_objects])
    assert values.shape[1] == len(RECALL_LEVELS)
    assert (theirs[:, :, ~has_objects] == -1).all()
    mean = np.mean(values) if values.size else np.nan
    np.testing.assert_allclose(average_precision(curves), mean, rtol=0, atol=1e-12)


def shared(*names: str) -> Path:
    """A file of the shared data, or a skip where it does not lie beside the project."""
    path = SHARED.joinpath(*names)
    if not path.exists():
        pytest.skip(f"needs the shared data beside the project, {path.name}")
    return path


def assert_same_on_files(folder: Path, content: dict, found: list[dict]) -> None:
    """The twelve agree where we read two files and pycocotools has what stands in them."""
    ours = our_statistics(*through_files(folder, CocoWorld(content=content, found=found)))
    assert all(0 < value < 1 for value in ours.values())
    assert_same(ours, twelve_statistics(content, found))


def after_nms(candidates: list[dict], nms_iou: float) -> list[dict]:
    """Plain per-class NMS of COCO results, an image at a time."""
    by_image: dict[int, list] = {}
    for row in candidates:
        x, y, width, height = row["bbox"]
        box = (x, y, x + width, y + height)
        by_image.setdefault(row["image_id"], []).append((box, row["category_id"], row["score"]))
    return [
        {"image_id": i, "category_id": k, "bbox": [x, y, right - x, bottom - y], "score": score}
        for i, rows in by_image.items()
        for (x, y, right, bottom), k, score in greedy_nms(rows, nms_iou)
    ]


@pytest.mark.parametrize("nms_iou", [pytest.param(None, marks=pytest.mark.slow), 0.5], ids=["before NMS", "after NMS"])
def test_photographs_score_as_in_pycocotools(tmp_path, nms_iou):
    """A third-party detector on 300 photographs has pycocotools' twelve numbers, before NMS and after it."""
    content = json.loads(shared("coco-photos", "val.json").read_bytes())
    found = json.loads(gzip.decompress(shared("coco-photos", "yolox_nano_candidates_val.json.gz").read_bytes()))
    kept = found if nms_iou is None else after_nms(found, nms_iou)
    assert len(kept) > 4_000
    assert (len(kept) < len(found)) == (nms_iou is not None)
    assert_same_on_files(tmp_path, content, kept)


def first_images(content: dict, count: int) -> dict:
    """The data set of the first images of the file alone."""
    images = content["images"][:count]
    ids = {row["id"] for row in images}
    annotations = [row for row in content["annotations"] if row["image_id"] in ids]
    return {"images": images, "categories": content["categories"], "annotations": annotations}


def made_up_detections(content: dict, generator: np.random.Generator) -> list[dict]:
    """Two noisy copies of every object, every fifth of a wrong category, with scores rounded until many are tied."""
    rows = [row for row in content["annotations"] for _ in range(2)]
    category_ids = [row["id"] for row in content["categories"]]
    noise = 1 + generator.normal(0, 0.12, (len(rows), 4))
    scores = generator.beta(2, 2, len(rows)).round(2)
    found = []
    for i, row in enumerate(rows):
        x, y, width, height = row["bbox"]
        corner = [x + width * (noise[i, 0] - 1), y + height * (noise[i, 1] - 1)]
        category_id = int(generator.choice(category_ids)) if i % 5 == 0 else row["category_id"]
        bbox = [*corner, width * noise[i, 2], height * noise[i, 3]]
        place = {"image_id": row["image_id"], "category_id": category_id}
        found.append({**place, "bbox": [float(v) for v in bbox], "score": float(scores[i])})
    return found


@pytest.mark.slow
def test_val2017_scores_as_in_pycocotools(tmp_path):
    """Made-up detections on the first 500 images of val2017, crowds included, have pycocotools' twelve numbers."""
    path = shared("coco-val2017", "instances_val2017.json.gz")
    content = first_images(json.loads(gzip.decompress(path.read_bytes())), 500)
    assert any(row["iscrowd"] for row in content["annotations"])
    assert_same_on_files(tmp_path, content, made_up_detections(content, np.random.default_rng(2017)))


def weighted_statistics(ground_truth: GroundTruth, detections: Detections):
    """The twelve statistics as one metric of image weights [R, N], returning [R, 12]."""
    overlaps = find_overlaps(ground_truth, detections)
    table = match(overlaps, area_subset(ground_truth, detections, "all"))  # which ends at 1e10 px, as pycocotools' does
    curves = precision_curves(table)
    limited = [precision_curves(table, max_detections=limit) for limit in (1, 10, 100)]
    sized = [
        precision_curves(match(overlaps, area_subset(ground_truth, detections, size)))
        for size in ("small", "medium", "large")
    ]

    def metric(weights):
        values = [average_precision(curves, weights, iou=iou) for iou in (None, 0.5, 0.75)]
        values += [average_precision(one, weights) for one in sized]
        values += [average_recall(one, weights) for one in limited + sized]
        return np.stack(values, axis=1)

    return metric


@pytest.mark.parametrize("num_worlds", [6, pytest.param(25, marks=pytest.mark.slow)])
def test_paired_bootstrap_equals_images_copied_by_hand(num_worlds):
    """Differences under resampling are what pycocotools gives when the drawn images are copied under new ids.

    For all twelve statistics and the interval's ends; images with equal scores within a category are left out, where
    weights are documented to mean something else.
    """

    @settings(max_examples=num_worlds, deadline=None, derandomize=True)
    @given(coco_worlds(ties_within_images=False), coco_worlds(ties_within_images=False), st.integers(0, 99))
    def check(world, other, seed):
        ids = sorted(row["id"] for row in world.content["images"])
        both = world.found, placed_in(world.content, other.found)
        one, two = (weighted_statistics(*columns(CocoWorld(content=world.content, found=rows))) for rows in both)
        drawn = []

        def recorded(weights):
            drawn.append(np.array(weights))
            return one(weights)

        interval = paired_bootstrap(
            recorded, two, num_images=len(ids), generator=np.random.default_rng(seed), num_resamples=4
        )
        weights = np.concatenate(drawn)
        expected = np.array([difference_by_hand(world.content, *both, dict(zip(ids, row))) for row in weights])
        np.testing.assert_allclose(two(weights) - one(weights), expected, rtol=0, atol=1e-12)
        for column, (low, high) in enumerate(zip(interval.low, interval.high, strict=True)):
            samples = expected[1:, column]  # the first evaluation is of the images as they are
            samples = samples[~np.isnan(samples)]
            ends = np.quantile(samples, [0.025, 0.975]) if len(samples) else [np.nan, np.nan]
            np.testing.assert_allclose([low, high], ends, rtol=0, atol=1e-12)

    check()


def placed_in(content: dict, found: list[dict]) -> list[dict]:
    """Detections of another world, those that point to an image and a category of this one."""
    images, categories = ({row["id"] for row in content[key]} for key in ("images", "categories"))
    return [row for row in found if row["image_id"] in images and row["category_id"] in categories]


def difference_by_hand(content: dict, first: list[dict], second: list[dict], counts: dict[int, float]) -> np.ndarray:
    """Second minus first in pycocotools' twelve, on the data set with each image copied `counts` times."""
    copies = {i: int(count) for i, count in counts.items()}
    one, two = (np.array(twelve_statistics(*with_images_repeated(content, rows, copies))) for rows in (first, second))
    return two - one
