"""NMS recall from equally many candidates: the frame from files of a test, against counting by hand."""

import json
import math

import pandas as pd
import pytest
from miniature import Mini, fabricate

from analysis.budget_figures import candidates_figure
from analysis.nms_recall import TAUS
from experiments.candidate_budgets import ALL, COLUMNS, METRICS, budget_frame
from experiments.registry import build_profile
from experiments.results import BUDGETS
from experiments.store import Store

# Best IoUs before and after NMS of four objects in three pictures, with one candidate a picture and with all.
ONE = {"before": [0.95, 0.0, 0.0, 0.72], "after": [0.95, 0.0, 0.0, 0.72]}
EVERY = {"before": [0.95, 0.91, 0.66, 0.93], "after": [0.95, 0.57, 0.0, 0.93]}
IMAGES, OBJECTS = [3, 3, 7, 9], [10, 11, 12, 13]


def _share(ious: list[float]) -> float:
    """Mean over tau of the share of objects found."""
    return sum(iou > tau for iou in ious for tau in TAUS) / len(ious) / len(TAUS)


def _ratio(before: list[float], after: list[float]) -> float:
    """Mean over tau of the objects found after NMS over those found before."""
    ratios = [sum(v > tau for v in after) / sum(u > tau for u in before) for tau in TAUS]
    return sum(ratios) / len(ratios)


def _write(store: Store, name: str, one: dict[str, list[float]], every: dict[str, list[float]], count: int) -> None:
    """The files of a test, as far as the frame reads them."""
    evaluation = build_profile("shapes", num_seeds=2).evaluations[name]
    fabricate(build_profile("shapes", num_seeds=2), store, name, 0.4)
    directory = evaluation.directory(store.runs)
    objects = pd.DataFrame({"image_id": IMAGES, "annotation_id": OBJECTS})
    objects.assign(**every).to_csv(directory / "object_recall.csv", index=False)
    objects.assign(budget=1, **one).to_csv(directory / "budgets.csv", index=False)
    (directory / "predict.json").write_text(json.dumps({"num_candidates": count, "num_pictures": 4}))


def test_values_are_counts_by_hand(empty_store: Store) -> None:
    """Both recalls and NR at both budgets, for each detector and for the gain, which is paired."""
    _write(empty_store, "retinanet-small-s0", ONE, EVERY, 40)
    _write(empty_store, "freeanchor-small-s0", EVERY, EVERY, 100)
    frame = budget_frame(build_profile("shapes", num_seeds=2), empty_store)
    assert tuple(frame.columns) == COLUMNS
    value = frame.set_index(["detector", "budget", "metric"])["value"]
    for detector, budget, ious in (("RetinaNet", "1", ONE), ("RetinaNet", ALL, EVERY), ("FreeAnchor", "1", EVERY)):
        assert value[detector, budget, "recall_before"] == pytest.approx(_share(ious["before"]))
        assert value[detector, budget, "recall_after"] == pytest.approx(_share(ious["after"]))
        assert value[detector, budget, "nr"] == pytest.approx(_ratio(ious["before"], ious["after"]))
    for metric in METRICS:
        gain = value["FreeAnchor", "1", metric] - value["RetinaNet", "1", metric]
        assert value["gain", "1", metric] == pytest.approx(gain)
        assert value["gain", ALL, metric] == 0
    counts = frame.groupby("detector")["num_candidates"].first()
    assert counts["RetinaNet"] == 10 and counts["FreeAnchor"] == 25 and math.isnan(counts["gain"])
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert (frame["low"] < frame["high"]).any()


def test_seeds_are_averaged_and_the_gain_needs_both_of_a_pair(empty_store: Store) -> None:
    """Two seeds of RetinaNet, one of FreeAnchor: means of two and of one, the gain of the one pair."""
    _write(empty_store, "retinanet-small-s0", ONE, EVERY, 40)
    _write(empty_store, "retinanet-small-s1", EVERY, EVERY, 80)
    _write(empty_store, "freeanchor-small-s0", EVERY, EVERY, 100)
    frame = budget_frame(build_profile("shapes", num_seeds=2), empty_store).set_index(["detector", "budget", "metric"])
    mean = (_share(ONE["before"]) + _share(EVERY["before"])) / 2
    assert frame.loc[("RetinaNet", "1", "recall_before"), "value"] == pytest.approx(mean)
    assert frame.loc[("RetinaNet", "1", "recall_before"), "num_candidates"] == 15
    assert frame["n_seeds"].groupby("detector").first().to_dict() == {"RetinaNet": 2, "FreeAnchor": 1, "gain": 1}


def test_runs_of_earlier_versions_have_no_rows(empty_store: Store) -> None:
    """Measured, but without budgets: as not run; the figure says so."""
    profile = build_profile("shapes")
    fabricate(profile, empty_store, "retinanet-small-s0", 0.4)
    frame = budget_frame(profile, empty_store)
    assert frame.empty and tuple(frame.columns) == COLUMNS
    assert all(axes.texts[0].get_text() == "not run" for axes in candidates_figure(frame).axes)


def test_a_real_test_leaves_all_budgets(mini: Mini) -> None:
    """The miniature's own: recall grows with the budget, the last is the paper's; drawn in three panels."""
    frame = budget_frame(mini.profile, mini.store)
    own = frame[frame["detector"] == "FreeAnchor"]
    assert own["budget"].unique().tolist() == [*map(str, BUDGETS), ALL]
    before = own[own["metric"] == "recall_before"]["value"]
    assert before.is_monotonic_increasing and before.iloc[-1] > 0
    figure = candidates_figure(frame)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Found before NMS", "Found after NMS", "NMS recall"]
    drawn = figure.axes[0].containers[1].lines[0].get_ydata()
    assert drawn == pytest.approx(100 * before.to_numpy())
