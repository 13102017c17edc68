"""Methods of assignment beside each other: which runs, what the reports say of them, two of them in the paper's place."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniature import Mini, fabricate

from analysis.figures.learning import AGREEMENT, STABILITY
from experiments.registry.build import build_profile, compared
from experiments.registry.config import Training
from experiments.registry.methods import METHODS
from experiments.reports.assigners import agreement_frame, every_run, learning_by_method, methods_frame
from experiments.reports.catalogue import REPORTS
from experiments.reports.plan import make_rules
from experiments.runs.cost import cost_stage, timed_pairs
from experiments.runs.measured import measure_stage
from experiments.runs.store import Store
from experiments.runs.testing import predict_stage
from experiments.runs.training import train_stage
from freeanchor.errors import UsageError
from freeanchor.runtime import Runtime


def test_methods_differ_from_retinanet_in_loss_rate_and_anchors_alone() -> None:
    """Same network, data, schedule and seed; one anchor per cell where the method says so."""
    profile = build_profile("shapes", num_seeds=2)
    keys = [method.key for method in profile.methods]
    assert keys == ["retinanet", "freeanchor", *(method.key for method in METHODS)]
    for method, described in zip(METHODS, profile.methods[2:], strict=True):
        assert len(described.runs) == 2
        for run, usual in zip(described.runs, profile.methods[0].runs, strict=True):
            own, theirs = (profile.evaluations[name].training for name in (run, usual))
            assert isinstance(own, Training) and isinstance(theirs, Training)
            assert own.detector == method.label and own.recipe.loss == method.loss
            assert (own.model == theirs.model) != method.has_one_anchor
            assert own.model.anchors.num_per_cell == (1 if method.has_one_anchor else 9)
            assert (own.recipe.lr, own.recipe.num_steps, own.recipe.seed) == (
                theirs.recipe.lr, theirs.recipe.num_steps, theirs.recipe.seed,
            )  # fmt: skip


def test_rates_are_tried_on_one_short_grid() -> None:
    """Half, once and twice the recipe's rate with seed 0; RetinaNet's are the trials that are there already."""
    profile = build_profile("shapes")
    for method in profile.methods[:6]:
        rates = [profile.evaluations[run].training.recipe.lr for run in method.tried.values()]
        assert rates == [0.08, 0.16, 0.32]
        assert method.tried[1.0] == method.runs[0]
    assert set(profile.methods[0].tried.values()) <= set(profile.trials)


def test_make_assigners_waits_for_every_run_and_paper_for_none_more() -> None:
    """The runs are made when the report is asked for by name."""
    profile = build_profile("mini")
    rules = {
        chosen: make_rules(profile, Store(), reports=Path("r"), chosen=chosen) for chosen in ("paper", "assigners")
    }

    def needed(chosen: str) -> set[str]:
        (line,) = (
            line
            for line in rules[chosen].splitlines()
            if line.startswith("r/mini/assigners.csv") and ": " in line and "&" not in line
        )
        return {run for run in every_run(profile) if f"/{run}-" in line and "measurements" in line}

    assert needed("assigners") == set(every_run(profile))
    assert needed("paper") == set(profile.pair)


def test_two_methods_stand_in_the_papers_place() -> None:
    """Named in either order; pairs, Table 1 and the folder of their reports are theirs."""
    usual = build_profile("mini", num_seeds=2)
    profile = build_profile("mini", num_seeds=2, compare=("tal", "atss"))
    assert profile == compared(usual, ["atss", "tal"])
    assert profile.pairs == (("atss-small-s0", "tal-small-s0"), ("atss-small-s1", "tal-small-s1"))
    assert [row.detector for row in profile.tables["table1"]] == ["ATSS", "TAL"]
    assert profile.report_name == Path("mini/tal-minus-atss")
    assert set(profile.evaluations) == set(usual.evaluations)
    with pytest.raises(UsageError, match="cannot compare atss and ats; give two of retinanet, freeanchor, atss"):
        compared(usual, ["atss", "ats"])
    with pytest.raises(UsageError, match="profile coco has no methods"):
        build_profile("coco", compare=("atss", "tal"))


def test_figures_and_table_1_are_of_the_two_methods(tmp_path: Path) -> None:
    """Table 1 and the frame of Fig. 5 name them; the paper's two are not in the way."""
    profile, store = build_profile("mini", compare=("simota", "tal")), Store(runs=tmp_path / "runs")
    for run, value in zip(profile.pair, (0.25, 0.375), strict=True):
        fabricate(profile, store, run, value)
    text = REPORTS["table1"].write(profile, store, tmp_path).with_suffix(".md").read_text()
    assert "| SimOTA |" in text.replace("small | ", "| ") or "SimOTA" in text
    assert "37.5" in text and "FreeAnchor |" not in text


def test_what_was_not_run_is_said(empty_store: Store) -> None:
    """A row per method and metric, all nan, with the rates that are to be tried."""
    profile = build_profile("shapes")
    frame = methods_frame(profile, empty_store)
    assert list(frame["detector"].unique()) == [method.label for method in profile.methods]
    assert frame["value"].isna().all() and (frame["n_seeds"] == 0).all()
    assert frame["tried"].iloc[0] == "0.5x: not run, 1x: not run, 2x: not run"
    assert methods_frame(build_profile("coco"), empty_store).empty


def test_the_papers_two_are_asked_which_anchors_learn(mini: Mini) -> None:
    """At four stages: RetinaNet's equal shares, FreeAnchor's of a bag of 50; what they have in common lies between."""
    frame = learning_by_method(mini.profile, mini.store).set_index(["detector", "group", "metric", "step"])["value"]
    effective = frame.xs("all", level="group").xs("effective_anchors", level="metric")
    assert effective["FreeAnchor"].between(1, 50).all() and len(effective["FreeAnchor"]) == 4
    assert effective["RetinaNet"].nunique() == 1  # assigned before any training
    agreement = agreement_frame(mini.profile, mini.store)
    common = agreement[(agreement["kind"] == AGREEMENT) & (agreement["group"] == "all")]
    assert len(common) == 1 and 0 < common["value"].iloc[0] < 1
    kept = agreement[(agreement["kind"] == STABILITY) & (agreement["group"] == "all")]
    assert np.allclose(kept[kept["detector"] == "RetinaNet"]["value"], 1, atol=1e-3)
    assert kept[kept["detector"] == "FreeAnchor"]["value"].between(0.3, 1.001).all()


@pytest.mark.slow
def test_every_method_from_its_training_to_the_reports(tmp_path: Path, mini: Mini) -> None:
    """`make assigners PROFILE=mini`: all trained, tested, timed and asked; every cell of the table has a value."""
    runtime = Runtime(precision="float32")
    for method in mini.profile.methods:
        run = mini.profile.evaluations[method.runs[0]]
        train_stage(run.training, mini.store, runtime)
        predict_stage(run, mini.store, runtime)
        measure_stage(run, mini.store)
    cost_stage(mini.profile, timed_pairs(mini.profile)["assigners"], mini.store, runtime)
    for name in ("learning", "agreement", "method_boxes", "assigners"):
        path = REPORTS[name].write(mini.profile, mini.store, tmp_path)
        assert set(pd.read_csv(path)["detector"]) <= {method.label for method in mini.profile.methods}
    frame = pd.read_csv(path)
    assert frame.loc[frame["metric"].isin(("ap", "ap_slender", "step_cost")), "value"].notna().all()
    assert "not run" not in path.with_suffix(".md").read_text()
