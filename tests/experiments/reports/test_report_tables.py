"""The tables' frames: what the paper has, what was measured, nan where it was not run."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniature import Mini, fabricate

from analysis.tables.cells import tidy_table
from analysis.tables.markup import to_markdown
from experiments.registry.build import build_profile
from experiments.registry.profile import FACTORS, PEER
from experiments.registry.published import AP_FAMILY, NMS_RECALL
from experiments.reports.comparisons import crowdedness_frame, slenderness_frame
from experiments.reports.index import run_records
from experiments.reports.tables import (
    ABLATIONS,
    HEADLINE,
    HEADLINE_ROWS,
    ablation_frame,
    comparison,
    headline_frame,
    table_frame,
    trials_frame,
)
from experiments.runs.measured import pair_frame, peer_frame, training_frame
from experiments.runs.store import Store, is_measured
from freeanchor.losses.free_anchor import FreeAnchorLoss

SECTION_4_3 = {"n": {40, 50, 60, 100}, "t": {0.5, 0.6, 0.7}, "alpha": {0.25, 0.5, 0.75}, "gamma": {1.5, 2.0, 2.5}}


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
    for build in (pair_frame, training_frame, slenderness_frame, crowdedness_frame, comparison):
        frame = build(profile, empty_store)
        assert frame.empty and "value" in frame.columns
    assert run_records(profile, empty_store) == []


def test_trials_have_one_row_per_setting(empty_store: Store) -> None:
    """The networks and the learning rates tried, nan where not run."""
    profile = build_profile("shapes")
    fabricate(profile, empty_store, profile.trials[0], 0.3)
    frame = trials_frame(profile, empty_store)
    ap = frame[frame["metric"] == "ap"].set_index("run")
    assert ap["lr"].tolist() == [0.16, 0.16, 0.16, 0.08, 0.16, 0.32]
    assert ap["network"].iloc[0] == "ResNet-10 (narrow) of 32 to 256 channels, P3 to P7 of 64, heads of 2 convolutions"
    assert ap["network"].nunique() == 4
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
    slender = slenderness_frame(mini.profile, mini.store)
    groups = slender[slender["panel"] == "group"]
    detectors, labels = ("RetinaNet", "FreeAnchor", "gain"), ("square", "middle", "slender")
    assert set(zip(groups["detector"], groups["label"], strict=True)) == {(a, b) for a in detectors for b in labels}
    categories = slender[slender["panel"] == "category"]
    assert set(categories["detector"]) == {"RetinaNet", "FreeAnchor"}
    assert bool((categories["median_aspect"] >= 1).all())
    crowded = crowdedness_frame(mini.profile, mini.store)
    assert set(crowded["bin"]) == {"1-3", "4-7", "8-12", "13+"}
    assert set(crowded["detector"]) == set(detectors)
    for _, rows in crowded.groupby("bin"):
        assert rows["num_images"].nunique() == rows["num_objects"].nunique() == 1


def test_gains_are_the_differences_of_the_two_runs(mini: Mini) -> None:
    """FreeAnchor minus RetinaNet, in the frames that the figures draw."""
    frame = crowdedness_frame(mini.profile, mini.store)
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


@pytest.fixture
def headline(tmp_path: Path) -> pd.DataFrame:
    """The headline of a profile of which nothing was run."""
    return headline_frame(build_profile("mini"), Store(runs=tmp_path))


def test_every_row_has_both_detectors_and_their_difference(headline: pd.DataFrame) -> None:
    """Three cells per row, in the order of the rows declared."""
    assert list(headline["metric"]) == ["retinanet", "freeanchor", "gain"] * len(HEADLINE_ROWS)


@pytest.mark.parametrize(("what", "gain"), [("AP", 0.030), ("AP50", 0.023), ("NMS recall at 0.70", 0.025)])
def test_the_papers_gain_is_the_difference_of_its_rows(headline: pd.DataFrame, what: str, gain: float) -> None:
    """38.7 against 35.7 AP, 57.3 against 55.0 AP50, 89.5 against 87.0 NR70."""
    cell = headline[(headline["what"] == what) & (headline["metric"] == "gain")].iloc[0]
    assert math.isclose(cell["published"], gain, abs_tol=1e-9)


def test_what_was_not_run_says_so_in_every_cell(headline: pd.DataFrame) -> None:
    """No measured cell is blank, and none carries the paper's number."""
    lines = [
        line
        for line in to_markdown(tidy_table(headline, HEADLINE.layout(build_profile("mini")))).splitlines()
        if "| here |" in line
    ]
    assert len(lines) == len(HEADLINE_ROWS)
    assert all(line.count("not run") == 3 for line in lines)


def test_the_papers_values_are_all_there() -> None:
    """Every value that Sec. 4.3 names, and its choice as the default; beta has values on both sides of 0.75."""
    tried = {factor.symbol: factor for factor in FACTORS}
    for symbol, values in SECTION_4_3.items():
        assert set(tried[symbol].values) == values
        assert tried[symbol].is_papers
    assert min(tried["beta"].values) < tried["beta"].default == 0.75 < max(tried["beta"].values)
    assert [tried[symbol].default for symbol in SECTION_4_3] == [50, 0.6, 0.5, 2.0]
    assert set(tried["likelihood"].values) == {"mean-max", "detached", "max"}
    assert set(tried["excuse"].values) == {"per-class", "per-anchor", "none"}


@pytest.mark.parametrize("name", ["shapes", "coco"])
def test_a_variant_differs_in_its_one_field(name: str) -> None:
    """Same network, data, schedule and seed as the run of the tables; the default is that run itself."""
    profile = build_profile(name)
    default = profile.evaluations[profile.pair[1]].training
    for ablation in profile.ablations:
        training = profile.evaluations[ablation.run].training
        assert (training.model, training.inputs, training.data) == (default.model, default.inputs, default.data)
        ours, theirs = training.recipe.loss, default.recipe.loss
        assert isinstance(ours, FreeAnchorLoss)
        changed = {field.name for field in fields(ours) if getattr(ours, field.name) != getattr(theirs, field.name)}
        is_default = ablation.value == ablation.factor.default
        assert changed == (set() if is_default else {ablation.factor.field})
        assert (ablation.run == profile.pair[1]) == is_default
        assert getattr(ours, ablation.factor.field) == ablation.value
    runs = [ablation.run for ablation in profile.ablations if ablation.value != ablation.factor.default]
    assert len(runs) == len(set(runs)) == (17 if name == "shapes" else 15)


def test_the_frame_has_every_value_run_or_not(mini: Mini) -> None:
    """The default's numbers stand in each factor's rows with a difference of 0; what was not run is nan and says so."""
    frame = ablation_frame(mini.profile, mini.store)
    own = frame[frame["metric"] == "ap"].set_index(["symbol", "is_default"])["value"]
    assert own["n", True] == own["excuse", True] > 0
    assert own[:, False].isna().all()
    differences = frame[frame["metric"] == "gain_ap"].set_index(["symbol", "is_default"])["value"]
    assert differences["n", True] == 0
    text = to_markdown(tidy_table(frame, ABLATIONS.layout(mini.profile)))
    assert "50 (default)" in text and "none" in text and "not run" in text
