"""NMS recall from equally many candidates: the frame from files of a test, against counting by hand."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from miniature import Mini, fabricate

from analysis.evaluation.nms_recall import TAUS
from analysis.figures.breakdowns import candidates_figure
from experiments.registry.build import build_profile
from experiments.reports.comparisons import ALL, COLUMNS, METRICS, budget_frame
from experiments.runs.store import Store
from experiments.runs.testing import BUDGETS

# Best IoUs before and after NMS of four objects in three images, with one candidate an image and with all.
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


def _write(store: Store, name: str, one: dict[str, list[float]], every: dict[str, list[float]], count: int) -> Path:
    """The files of a test, as far as the frame reads them, and a ground truth of four images; the run's folder."""
    profile = build_profile("shapes", num_seeds=2)
    evaluation = profile.evaluations[name]
    fabricate(profile, store, name, 0.4)
    directory = evaluation.directory(store.runs)
    objects = pd.DataFrame({"image_id": IMAGES, "annotation_id": OBJECTS})
    objects.assign(**every).to_csv(directory / "object_recall.csv", index=False)
    objects.assign(budget=1, num_given=[1, 1, 0, 1], **one).to_csv(directory / "budgets.csv", index=False)
    (directory / "predict.json").write_text(json.dumps({"num_candidates": count, "num_pictures": 4}))
    truth = {"images": [{"id": i, "file_name": f"{i}.png", "width": 99, "height": 99} for i in (3, 5, 7, 9)]}
    truth |= {"categories": [{"id": 1, "name": "one"}]}
    truth["annotations"] = [
        {"id": a, "image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
        for i, a in zip(IMAGES, OBJECTS, strict=True)
    ]
    (store.data(evaluation.training) / "images").mkdir(parents=True, exist_ok=True)
    (store.data(evaluation.training) / "val.json").write_text(json.dumps(truth))
    return directory


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
    given = frame.groupby(["detector", "budget"])["num_given"].first()
    assert given["RetinaNet", ALL] == 10 and given["FreeAnchor", ALL] == 25 and math.isnan(given["gain", ALL])
    assert given["RetinaNet", "1"] == pytest.approx(2 / 3)  # of the images with objects, one has no candidate
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
    assert frame.loc[("RetinaNet", ALL, "recall_before"), "num_given"] == 15
    assert frame["n_seeds"].groupby("detector").first().to_dict() == {"RetinaNet": 2, "FreeAnchor": 1, "gain": 1}


def test_runs_of_earlier_versions_are_named_and_left_out(
    empty_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tested, but without budgets: as not run, with the remedy on stderr; the figure says so."""
    directory = _write(empty_store, "retinanet-small-s0", ONE, EVERY, 40)
    (directory / "budgets.csv").unlink()
    frame = budget_frame(build_profile("shapes"), empty_store)
    assert frame.empty and tuple(frame.columns) == COLUMNS
    assert capsys.readouterr().err.endswith("is left out; run: freeanchor predict retinanet-small-s0\n")
    assert all(axes.texts[0].get_text() == "not run" for axes in candidates_figure(frame).axes)


def test_a_test_that_is_not_whole_is_not_run(empty_store: Store) -> None:
    """While a run is tested again its predict.json, written last, is not there."""
    directory = _write(empty_store, "retinanet-small-s0", ONE, EVERY, 40)
    (directory / "predict.json").unlink()
    assert budget_frame(build_profile("shapes"), empty_store).empty


def test_without_objects_nothing_is_known(empty_store: Store) -> None:
    """All annotations are crowd regions: no object to find, so nan everywhere, and the figure says so."""
    directory = _write(empty_store, "retinanet-small-s0", ONE, EVERY, 40)
    for name in ("object_recall.csv", "budgets.csv"):
        pd.read_csv(directory / name).iloc[:0].to_csv(directory / name, index=False)
    frame = budget_frame(build_profile("shapes"), empty_store)
    assert frame["budget"].unique().tolist() == [ALL] and frame[["value", "low", "high"]].isna().all(axis=None)
    candidates_figure(frame)


def test_a_gain_is_at_the_budgets_that_both_have(empty_store: Store) -> None:
    """Tested by versions with other budgets: the common ones are compared."""
    _write(empty_store, "retinanet-small-s0", ONE, EVERY, 40)
    directory = _write(empty_store, "freeanchor-small-s0", EVERY, EVERY, 100)
    frame = pd.read_csv(directory / "budgets.csv")
    frame.assign(budget=5).to_csv(directory / "budgets.csv", index=False)
    gain = budget_frame(build_profile("shapes"), empty_store)
    assert gain[gain["detector"] == "gain"]["budget"].unique().tolist() == [ALL]


def test_a_real_test_leaves_all_budgets(mini: Mini) -> None:
    """The miniature's own: recall grows with the budget, the last is the paper's; drawn in three panels."""
    frame = budget_frame(mini.profile, mini.store)
    own = frame[frame["detector"] == "FreeAnchor"]
    assert own["budget"].unique().tolist() == [*map(str, BUDGETS), ALL]
    before = own[own["metric"] == "recall_before"]["value"]
    assert before.is_monotonic_increasing and before.iloc[-1] > 0
    figure = candidates_figure(frame)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Found before NMS", "Found after NMS", "NMS recall"]
    assert (own["num_given"].diff().dropna() >= 0).all()
    drawn = figure.axes[0].containers[1].lines[0].get_ydata()
    assert drawn == pytest.approx(100 * before.to_numpy())
