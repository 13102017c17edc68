"""Everything measured on one evaluation: pycocotools' numbers, the analyses' numbers, and intervals around them."""

import numpy as np
import pandas as pd
import pytest
from oracles.measured_worlds import NUM_IMAGES, NUM_OBJECTS, measured

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import coco_statistics
from analysis.evaluation import evaluate as module
from analysis.evaluation.breakdowns import category_aspects, crowdedness, slenderness
from analysis.evaluation.evaluate import compare, measure, metric_functions
from analysis.evaluation.metrics import RECALL_DEFINITIONS, object_recalls
from analysis.evaluation.nms_recall import nms_recall_table
from analysis.evaluation.statistics import bootstrap

SUFFIXES = tuple(RECALL_DEFINITIONS)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of 50 resamplings: enough to see where they lie."""
    monkeypatch.setattr(module, "NUM_RESAMPLES", 50)


def _values(frame: pd.DataFrame) -> pd.Series:
    single = frame[frame["metric"] != "ap_category"]
    assert single["metric"].is_unique
    return single.set_index("metric")["value"]


def test_the_ap_family_is_pycocotools() -> None:
    """All twelve statistics, to the last bit."""
    truth, detections, recall = measured()
    values = _values(measure(truth, detections, recall))
    for name, value in coco_statistics(truth, detections).items():
        assert values[name] == value


def test_every_number_has_an_interval_around_it() -> None:
    """AP, AR, breakdowns, recalls, differences and categories: low and high wherever the value is defined."""
    frame = measure(*measured())
    defined = frame[frame["value"].notna()]
    assert {"ap", "ap_50", "ap_slender", "nr", "nr_50", "ar_1", "ar_small", "ap_category"} <= set(defined["metric"])
    assert {"recall_before_50", "recall_after_90_class_aware", "ap_slender_minus_square"} <= set(defined["metric"])
    assert bool((defined["low"] <= defined["high"]).all())
    assert bool((defined["low"] <= defined["value"] + 0.05).all())
    assert bool((defined["high"] >= defined["value"] - 0.05).all())
    assert frame.loc[frame["value"].isna(), ["low", "high"]].isna().all(axis=None)


def test_fractions_keep_their_intervals_between_0_and_1() -> None:
    """Also where taking the bias off would push a bound over the edge."""
    truth, detections, recall = measured()
    lost = np.arange(NUM_OBJECTS) == 7
    for before, after in RECALL_DEFINITIONS.values():
        recall = recall.assign(**{before: 0.95, after: np.where(lost, 0.3, 0.95)})
    nr_50 = metric_functions(truth, detections, recall)["nr_50"]
    uncut = bootstrap(nr_50, num_images=NUM_IMAGES, generator=np.random.default_rng(0), num_resamples=50, centred=True)
    assert uncut.high > 1
    frame = measure(truth, detections, recall).set_index("metric").dropna(subset=["value"])
    assert frame.loc["nr_50", ["low", "high"]].to_list() == [pytest.approx(uncut.low, abs=1e-12), 1.0]
    fractions = frame[~frame.index.str.contains("_minus_")]
    assert fractions[["low", "high"]].stack().between(0, 1).all()


def test_intervals_of_differences_may_fall_below_0() -> None:
    """A detector that finds no slender object is worse on slender than on square ones, whole interval."""
    truth, detections, recall = measured(noise=0.02)
    aspect = detections.sizes.max(axis=1) / detections.sizes.min(axis=1)
    astray = Detections(
        image_id=detections.image_id,
        category_id=detections.category_id,
        boxes=detections.boxes + np.where(aspect > 2, 500.0, 0.0)[:, None],
        scores=detections.scores,
    )
    row = measure(truth, astray, recall).set_index("metric").loc["ap_slender_minus_square"]
    assert row["low"] <= row["value"] <= row["high"] < 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nms_recall_is_the_analysis_of_the_stored_columns(suffix: str) -> None:
    """NR and NR_tau under each definition, with the recalls before and after beside them."""
    truth, detections, recall = measured()
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
    """Square, middle, slender; bins of objects per image; categories: values with the objects behind them."""
    truth, detections, recall = measured()
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


def test_a_weight_of_zero_leaves_a_image_out() -> None:
    """Metrics under weights 0 and 1 are those of the images that remain."""
    truth, detections, recall = measured()
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
    one = measured()
    gains = compare(one, one)
    defined = gains.dropna(subset=["value"])
    assert len(defined) > 30
    assert defined[["value", "low", "high"]].to_numpy().tolist() == np.zeros((len(defined), 3)).tolist()


def test_gains_are_second_minus_first() -> None:
    """A better second detector gains; swapped, it loses as much."""
    worse, better = measured(noise=0.3), measured(noise=0.03)
    gains, losses = (compare(*pair).set_index("metric") for pair in ((worse, better), (better, worse)))
    assert gains.loc["ap", "low"] > 0
    single = [_values(measure(*one))["ap"] for one in (worse, better)]
    assert gains.loc["ap", "value"] == pytest.approx(single[1] - single[0], abs=1e-6)
    np.testing.assert_allclose(gains["value"], -losses["value"])
    np.testing.assert_allclose(gains["low"], -losses["high"])


def test_measuring_twice_gives_the_same_numbers() -> None:
    """The resampling has a seed of its own."""
    pd.testing.assert_frame_equal(measure(*measured()), measure(*measured()))


def test_no_detections_measure_zero() -> None:
    """AP is 0, NMS recall undefined, and nothing fails."""
    truth, _, recall = measured()
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
