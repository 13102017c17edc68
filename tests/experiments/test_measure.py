"""Everything measured on one evaluation: pycocotools' numbers, the analyses' numbers, and intervals around them."""

import numpy as np
import pandas as pd
import pytest

from analysis.breakdowns import category_aspects, crowdedness, slenderness
from analysis.coco import coco_statistics
from analysis.columns import Detections, GroundTruth
from analysis.nms_recall import nms_recall_table
from experiments import measure as module
from experiments.measure import RECALL_DEFINITIONS, compare, measure, metric_functions, object_recalls

NUM_IMAGES, NUM_OBJECTS = 12, 40
SUFFIXES = tuple(RECALL_DEFINITIONS)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of 50 resamplings: enough to see where they lie."""
    monkeypatch.setattr(module, "NUM_RESAMPLES", 50)


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corners = generator.uniform(0, 100, (count, 2))
    sides = np.exp(generator.uniform(np.log(6), np.log(120), (count, 2)))
    return np.hstack([corners, corners + sides])


def _ground_truth(seed: int = 0) -> GroundTruth:
    generator = np.random.default_rng(seed)
    boxes = _boxes(generator, NUM_OBJECTS)
    sides = boxes[:, 2:] - boxes[:, :2]
    return GroundTruth(
        image_ids=np.arange(NUM_IMAGES) * 7 + 1,
        category_ids=np.array([4, 2, 9]),
        category_names=("four", "two", "nine"),
        image_id=generator.integers(0, NUM_IMAGES, NUM_OBJECTS) * 7 + 1,
        annotation_id=np.arange(NUM_OBJECTS) + 100,
        category_id=generator.choice([4, 2, 9], NUM_OBJECTS),
        boxes=boxes,
        area=sides.prod(axis=1),
        iscrowd=np.zeros(NUM_OBJECTS, dtype=bool),
    )


def _detections(truth: GroundTruth, seed: int, noise: float = 0.1) -> Detections:
    """Every object found with an error of `noise` times its sides, and some boxes that are nothing."""
    generator = np.random.default_rng(seed)
    sides = np.tile(truth.boxes[:, 2:] - truth.boxes[:, :2], 2)
    near = truth.boxes + noise * sides * generator.normal(size=truth.boxes.shape)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    return Detections(
        image_id=np.concatenate([truth.image_id, generator.choice(truth.image_ids, 20)]),
        category_id=np.concatenate([truth.category_id, generator.choice([4, 2, 9], 20)]),
        boxes=np.vstack([near, _boxes(generator, 20)]),
        scores=generator.uniform(0.05, 1, NUM_OBJECTS + 20),
    )


def _recall(truth: GroundTruth, seed: int) -> pd.DataFrame:
    """Best IoUs that fall from column to column, as NMS and caps make them."""
    generator = np.random.default_rng(seed)
    before = generator.uniform(0.4, 1, NUM_OBJECTS)
    own = before * generator.uniform(0.8, 1, NUM_OBJECTS)
    columns = {"before": before, "before_same_class": own}
    for name, start in (("after", before), ("after_capped", before), ("after_same_class", own)):
        columns[name] = start * generator.choice([1, 0.7], NUM_OBJECTS, p=[0.8, 0.2])
    columns["after_capped_same_class"] = columns["after_same_class"] * generator.choice([1, 0.5], NUM_OBJECTS)
    return pd.DataFrame({"image_id": truth.image_id, "annotation_id": truth.annotation_id, **columns})


def _measured(seed: int = 1, noise: float = 0.1) -> tuple[GroundTruth, Detections, pd.DataFrame]:
    truth = _ground_truth()
    return truth, _detections(truth, seed, noise), _recall(truth, seed)


def _values(frame: pd.DataFrame) -> pd.Series:
    single = frame[frame["metric"] != "ap_category"]
    assert single["metric"].is_unique
    return single.set_index("metric")["value"]


def test_the_ap_family_is_pycocotools() -> None:
    """All twelve statistics, to the last bit."""
    truth, detections, recall = _measured()
    values = _values(measure(truth, detections, recall))
    for name, value in coco_statistics(truth, detections).items():
        assert values[name] == value


def test_intervals_lie_around_their_values() -> None:
    """Of every metric that has one; AP has, and the breakdowns and recalls have."""
    frame = measure(*_measured()).set_index("metric")
    frame = frame.drop(index="ap_category")
    with_interval = frame[frame["low"].notna()]
    assert {"ap", "ap_50", "ap_slender", "ap_square", "nr", "nr_50"} <= set(with_interval.index)
    assert bool((with_interval["low"] <= with_interval["high"]).all())
    assert bool((with_interval["low"] <= with_interval["value"] + 0.05).all())
    assert bool((with_interval["high"] >= with_interval["value"] - 0.05).all())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nms_recall_is_the_analysis_of_the_stored_columns(suffix: str) -> None:
    """NR and NR_tau under each definition, with the recalls before and after beside them."""
    truth, detections, recall = _measured()
    values = _values(measure(truth, detections, recall))
    before, after = RECALL_DEFINITIONS[suffix]
    ratios = []
    for tau in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9):
        found, kept = (recall[before] > tau).mean(), (recall[after] > tau).mean()
        ratios.append(kept / found)
        percent = round(100 * tau)
        assert values[f"nr_{percent}{suffix}"] == pytest.approx(kept / found)
        assert values[f"recall_before_{percent}{suffix}"] == pytest.approx(found)
        assert values[f"recall_after_{percent}{suffix}"] == pytest.approx(kept)
    assert values[f"nr{suffix}"] == pytest.approx(np.mean(ratios))
    assert nms_recall_table(object_recalls(recall)[suffix])["nr"].mean() == pytest.approx(np.mean(ratios))


def test_breakdowns_are_those_of_the_analysis() -> None:
    """Square, middle, slender; bins of objects a picture; categories: values with the objects behind them."""
    truth, detections, recall = _measured()
    frame = measure(truth, detections, recall)
    for groups in (slenderness(truth, detections), crowdedness(truth, detections)):
        for row in groups.itertuples():
            found = frame[frame["metric"] == row.metric].iloc[0]
            np.testing.assert_allclose(found["value"], row.value)
            assert found["num_objects"] == row.num_objects
    categories = frame[frame["metric"] == "ap_category"].reset_index(drop=True)
    expected = category_aspects(truth, detections)
    assert categories["label"].tolist() == expected["name"].tolist()
    np.testing.assert_allclose(categories["value"], expected["ap"])
    np.testing.assert_allclose(categories["median_aspect"], expected["median_aspect"])


def test_a_weight_of_zero_leaves_a_picture_out() -> None:
    """Metrics under weights 0 and 1 are those of the pictures that remain."""
    truth, detections, recall = _measured()
    kept_ids = truth.image_ids[::2]
    weights = np.isin(truth.image_ids, kept_ids).astype(float)[None]
    functions = metric_functions(truth, detections, recall)
    objects, boxes = np.isin(truth.image_id, kept_ids), np.isin(detections.image_id, kept_ids)
    rest = GroundTruth(
        image_ids=kept_ids,
        category_ids=truth.category_ids,
        category_names=truth.category_names,
        **{
            name: getattr(truth, name)[objects]
            for name in ("image_id", "annotation_id", "category_id", "boxes", "area", "iscrowd", "sizes")
        },
    )
    found = Detections(
        **{name: getattr(detections, name)[boxes] for name in ("image_id", "category_id", "boxes", "scores", "sizes")}
    )
    expected = metric_functions(rest, found, recall[objects])
    ones = np.ones((1, len(kept_ids)))
    for name, function in functions.items():
        np.testing.assert_allclose(function(weights), expected[name](ones), rtol=1e-9, err_msg=name)


def test_a_detector_gains_nothing_over_itself() -> None:
    """Every difference is 0 with an interval of no width, where the metric is defined."""
    one = _measured()
    gains = compare(one, one)
    defined = gains.dropna(subset=["value"])
    assert len(defined) > 30
    assert defined[["value", "low", "high"]].to_numpy().tolist() == np.zeros((len(defined), 3)).tolist()


def test_gains_are_second_minus_first() -> None:
    """A better second detector gains; swapped, it loses as much."""
    worse, better = _measured(noise=0.3), _measured(noise=0.03)
    gains, losses = (compare(*pair).set_index("metric") for pair in ((worse, better), (better, worse)))
    assert gains.loc["ap", "low"] > 0
    single = [_values(measure(*one))["ap"] for one in (worse, better)]
    assert gains.loc["ap", "value"] == pytest.approx(single[1] - single[0], abs=1e-6)
    np.testing.assert_allclose(gains["value"], -losses["value"])
    np.testing.assert_allclose(gains["low"], -losses["high"])


def test_measuring_twice_gives_the_same_numbers() -> None:
    """The resampling has a seed of its own."""
    pd.testing.assert_frame_equal(measure(*_measured()), measure(*_measured()))


def test_no_detections_measure_zero() -> None:
    """AP is 0, NMS recall undefined, and nothing fails."""
    truth, _, recall = _measured()
    nothing = Detections(
        image_id=np.zeros(0, dtype=np.int64),
        category_id=np.zeros(0, dtype=np.int64),
        boxes=np.zeros((0, 4)),
        scores=np.zeros(0),
    )
    zeros = recall.assign(**{name: 0.0 for pair in RECALL_DEFINITIONS.values() for name in pair})
    values = _values(measure(truth, nothing, zeros))
    assert values["ap"] == 0
    assert np.isnan(values["nr"])
    assert values["recall_before_50"] == 0
