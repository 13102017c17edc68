"""Frames for tables and figures: what the paper has, what was measured, nan where it was not run."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from miniature import Mini, fabricate

from experiments.registry.build import build_profile
from experiments.registry.profile import PEER
from experiments.registry.published import AP_FAMILY, NMS_RECALL
from experiments.reports.catalogue import comparison
from experiments.reports.frames import crowdedness_frame, run_records, slenderness_frame, table_frame, trials_frame
from experiments.runs.measured import pair_frame, peer_frame, training_frame
from experiments.runs.store import Store, is_measured


@pytest.mark.parametrize("table", ["table1", "table2", "table3"])
def test_what_was_not_run_is_nan(empty_store: Store, table: str) -> None:
    """Every cell of every row is there, with the paper's value where it has one, and no measured one."""
    profile = build_profile("shapes")
    frame = table_frame(profile, table, empty_store)
    metrics = {"table1": NMS_RECALL, "table2": ("training_seconds", *AP_FAMILY), "table3": AP_FAMILY}[table]
    assert len(frame) == len(profile.tables[table]) * len(metrics)
    assert frame[["value", "low", "high"]].isna().all(axis=None)
    assert set(frame["n_seeds"]) == {0}
    published = frame[frame["published"].notna()]
    wholly = [row for row in profile.tables[table] if row.published and not row.published_in]
    ap_only = [row for row in profile.tables[table] if row.published_in == "readme"]
    assert len(published) == len(wholly) * len(metrics) + len(ap_only)
    assert not (published["source"] == "").any()


def test_one_seed_keeps_its_interval_over_images(empty_store: Store) -> None:
    """Value and interval come from the run's measurements; other rows stay not run."""
    profile = build_profile("shapes")
    fabricate(profile, empty_store, "freeanchor-small-s0", 0.4)
    frame = table_frame(profile, "table2", empty_store)
    mine = (frame["run"] == "freeanchor-small-s0") & (frame["metric"] == "ap")
    (cell,) = frame[mine].to_dict("records")
    assert (cell["value"], cell["low"], cell["high"], cell["n_seeds"]) == (0.4, 0.2, 0.8, 1)
    assert (cell["published"], cell["detector"], cell["published_backbone"]) == (0.387, "FreeAnchor", "ResNet-50")
    assert frame[frame["run"] != "freeanchor-small-s0"]["value"].isna().all()


def test_several_seeds_have_mean_both_intervals_and_spread(empty_store: Store) -> None:
    """0.40, 0.44 and 0.45: mean 0.43, half width over seeds 4.303 s / sqrt(3); over images the seeds' mean bounds."""
    profile = build_profile("shapes", num_seeds=3)
    values = (0.40, 0.44, 0.45)
    for seed, value in enumerate(values):
        fabricate(profile, empty_store, f"retinanet-small-s{seed}", value)
    frame = table_frame(profile, "table1", empty_store)
    cell = frame[(frame["detector"] == "RetinaNet") & (frame["metric"] == "nr_70")].iloc[0]
    half = 4.302653 * np.std(values, ddof=1) / math.sqrt(3)
    assert cell["value"] == pytest.approx(0.43)
    assert (cell["seed_low"], cell["seed_high"]) == pytest.approx((0.43 - half, 0.43 + half), rel=1e-5)
    assert (cell["low"], cell["high"]) == pytest.approx((0.215, 0.86))  # fabricated at half and twice the value
    assert (cell["minimum"], cell["maximum"], cell["n_seeds"]) == (0.40, 0.45, 3)
    assert cell["sd"] == pytest.approx(np.std(values, ddof=1))


def test_missing_seeds_are_left_out(empty_store: Store) -> None:
    """Two of three seeds that were run make a cell of two."""
    profile = build_profile("shapes", num_seeds=3)
    for seed in (0, 2):
        fabricate(profile, empty_store, f"retinanet-small-s{seed}", 0.4 + seed / 100)
    frame = table_frame(profile, "table1", empty_store)
    assert set(frame[frame["detector"] == "RetinaNet"]["n_seeds"]) == {2}
    assert set(frame[frame["detector"] == "FreeAnchor"]["n_seeds"]) == {0}


def test_figures_of_nothing_have_no_rows(empty_store: Store) -> None:
    """Frames keep their columns, so that a figure can say *not run*."""
    profile = build_profile("shapes")
    gains = comparison(profile, empty_store)
    frames = [pair_frame(profile, empty_store), training_frame(profile, empty_store)]
    frames += [slenderness_frame(profile, empty_store, gains), crowdedness_frame(profile, empty_store, gains), gains]
    for frame in frames:
        assert frame.empty
        assert {"value"} <= set(frame.columns)
    assert run_records(profile, empty_store) == []


def test_trials_have_a_row_a_rate(empty_store: Store) -> None:
    """The learning rates tried, nan where not run."""
    profile = build_profile("shapes")
    fabricate(profile, empty_store, profile.trials[0], 0.3)
    frame = trials_frame(profile, empty_store)
    ap = frame[frame["metric"] == "ap"].set_index("run")
    assert ap["lr"].tolist() == [0.08, 0.16, 0.32]
    assert ap["value"].notna().sum() == 1
    assert ap.loc[profile.trials[0], "value"] == 0.3


def test_records_say_where_runs_come_from(empty_store: Store) -> None:
    """Only runs that lie in the store, with fingerprint, time, commit and hardware."""
    profile = build_profile("shapes")
    fabricate(profile, empty_store, "freeanchor-small-s0", 0.4)
    (record,) = run_records(profile, empty_store)
    training = profile.evaluations["freeanchor-small-s0"].training
    assert record["run"] == "freeanchor-small-s0"
    assert record["fingerprint"] == training.fingerprint
    assert record["training_minutes"] == 2.0
    assert (record["commit"], record["hardware"], record["precision"]) == ("abc", "abacus", "float32")


def test_measured_runs_are_told_from_others(empty_store: Store) -> None:
    """A run is measured when its measurements are there."""
    profile = build_profile("shapes")
    run = profile.evaluations["freeanchor-small-s0"]
    assert not is_measured(run, empty_store)
    fabricate(profile, empty_store, "freeanchor-small-s0", 0.4)
    assert is_measured(run, empty_store)


def test_the_pairs_frames_hold_both_detectors_and_the_gain(mini: Mini) -> None:
    """Figs. 5 and 6 from real runs: three groups, the bins, every category, each for both detectors."""
    gains = comparison(mini.profile, mini.store)
    slender = slenderness_frame(mini.profile, mini.store, gains)
    groups = slender[slender["panel"] == "group"]
    assert set(zip(groups["detector"], groups["label"], strict=True)) == {
        (detector, label)
        for detector in ("RetinaNet", "FreeAnchor", "gain")
        for label in ("square", "middle", "slender")
    }
    categories = slender[slender["panel"] == "category"]
    assert set(categories["detector"]) == {"RetinaNet", "FreeAnchor"}
    assert bool((categories["median_aspect"] >= 1).all())
    crowded = crowdedness_frame(mini.profile, mini.store, gains)
    assert set(crowded["bin"]) == {"1-3", "4-7", "8-12", "13+"}
    assert set(crowded["detector"]) == {"RetinaNet", "FreeAnchor", "gain"}
    for _, rows in crowded.groupby("bin"):
        assert rows["num_images"].nunique() == rows["num_objects"].nunique() == 1


def test_gains_are_the_differences_of_the_two_runs(mini: Mini) -> None:
    """FreeAnchor minus RetinaNet, in the frames that the figures draw."""
    frame = crowdedness_frame(mini.profile, mini.store, comparison(mini.profile, mini.store))
    table = frame.pivot_table(index="bin", columns="detector", values="value", dropna=False)
    np.testing.assert_allclose(table["gain"], table["FreeAnchor"] - table["RetinaNet"], atol=1e-9)


def test_training_curves_are_the_logs(mini: Mini) -> None:
    """Every logged value of both runs, with its step."""
    frame = training_frame(mini.profile, mini.store)
    assert set(frame["detector"]) == {"RetinaNet", "FreeAnchor"}
    assert set(frame["step"]) == {10, 20, 30, 40}
    assert {"lr", "effective_anchors", "images_per_second", "loss_positive", "loss_box"} <= set(frame["metric"])
    directory: Path = mini.profile.evaluations["freeanchor-small-s0"].training.directory(mini.store.runs)
    last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    chosen = (frame["detector"] == "FreeAnchor") & (frame["step"] == 40) & (frame["metric"] == "loss_negative")
    assert frame[chosen]["value"].tolist() == [last["loss_negative"]]


def test_both_detectors_are_compared_with_the_peer(mini: Mini, empty_store: Store) -> None:
    """A peer that is RetinaNet itself: RetinaNet is no better, FreeAnchor by as much as it gains; without it, no rows."""
    baseline, freeanchor = (mini.profile.evaluations[name] for name in mini.profile.pair)
    evaluations = {**mini.profile.evaluations, PEER: replace(baseline, name=PEER)}
    profile = replace(mini.profile, evaluations=evaluations)
    frame = peer_frame(profile, mini.store)
    own = frame[frame["detector"] == "RetinaNet"]
    assert len(own) and (own["value"].dropna() == 0).all()
    gains = comparison(mini.profile, mini.store)["value"].to_list()
    assert frame[frame["detector"] == freeanchor.training.detector]["value"].to_list() == pytest.approx(
        gains, nan_ok=True
    )
    for nothing in (peer_frame(mini.profile, mini.store), peer_frame(profile, empty_store)):
        assert nothing.empty and list(nothing.columns) == list(frame.columns)
