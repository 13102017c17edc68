"""The bags of a whole validation split: asked once, kept with the run, and what the claims take from them."""

import numpy as np
import pytest
from miniature import Mini

from analysis.bags.summaries import CONCENTRATION_METRICS
from experiments.claims import evidence as bag_evidence
from experiments.claims.evidence import BagEvidence, Evidence
from experiments.registry.build import build_profile
from experiments.reports.matching import concentration, part_distance
from experiments.runs.bags import bags_stage, stored_bags, stored_positions
from experiments.runs.store import Store


def test_bags_are_asked_for_once(mini: Mini) -> None:
    """Both files lie beside the run's measurements; a second call leaves them as they are."""
    run = mini.profile.evaluations[mini.profile.pair[1]]
    bags, positions = bags_stage(run, mini.store)
    assert bags.parent == positions.parent == run.directory(mini.store.runs)
    before = bags.stat().st_mtime_ns
    assert bags_stage(run, mini.store) == (bags, positions)
    assert bags.stat().st_mtime_ns == before


def test_frames_hold_both_detectors_and_every_snapshot(mini: Mini) -> None:
    """A row an object, run and snapshot; the figure's positions are FreeAnchor's first and last."""
    bags = stored_bags(mini.profile, mini.store)
    assert set(bags["run"]) == set(mini.profile.pair)
    snapshots = mini.profile.evaluations[mini.profile.pair[0]].training.recipe.snapshot_steps
    assert set(bags["step"]) == set(snapshots)
    assert not bags.duplicated(["run", "step", "annotation_id"]).any()
    positions = stored_positions(mini.profile, mini.store)
    assert set(positions["run"]) == {mini.profile.pair[1]}
    assert set(positions["step"]) == {min(snapshots), max(snapshots)}
    assert set(concentration(mini.profile, mini.store)["metric"]) == set(CONCENTRATION_METRICS)
    assert set(part_distance(mini.profile, mini.store)["matching"]) == {"learned", "iou"}


def test_nothing_run_gives_empty_frames_and_no_evidence(empty_store: Store) -> None:
    """Frames keep their columns; every claim about bags is not run."""
    profile = build_profile("mini")
    assert stored_bags(profile, empty_store).empty
    assert "effective_anchors" in stored_bags(profile, empty_store).columns
    evidence = BagEvidence(Evidence(profile, empty_store))
    assert evidence.concentration() == evidence.nearer_to_the_part() == {"": None}
    assert evidence.nearer_than_the_baseline() == {"": None}


def test_the_claims_numbers_are_means_over_objects(mini: Mini) -> None:
    """Change of effective anchors, and distances of FreeAnchor's likeliest anchor beside IoU's and RetinaNet's."""
    bags = stored_bags(mini.profile, mini.store)
    first, last = bags["step"].min(), bags["step"].max()
    retinanet, freeanchor = (bags[bags["run"] == run].set_index("annotation_id") for run in mini.profile.pair)
    evidence = BagEvidence(Evidence(mini.profile, mini.store))
    at = {step: freeanchor[freeanchor["step"] == step] for step in (first, last)}
    (change,) = evidence.concentration().values()
    assert change is not None
    expected = (at[last]["effective_anchors"] - at[first]["effective_anchors"]).mean()
    assert change.value == pytest.approx(expected)
    assert change.low <= change.value <= change.high
    acentric = at[last][at[last]["part_offset"] > 0.25]
    assert len(acentric) > 5
    (nearer,) = evidence.nearer_to_the_part().values()
    (farther,) = evidence.farther_from_the_centre().values()
    assert nearer is not None and farther is not None
    assert nearer.value == pytest.approx((acentric["iou_to_part"] - acentric["to_part"]).mean())
    assert farther.value == pytest.approx((acentric["to_centre"] - acentric["iou_to_centre"]).mean())
    theirs = retinanet[retinanet["step"] == last].loc[acentric.index, "to_part"]
    (beside,) = evidence.nearer_than_the_baseline().values()
    assert beside is not None
    assert beside.value == pytest.approx((theirs - acentric["to_part"]).mean())
    assert (beside.runs, nearer.runs) == (mini.profile.pair, mini.profile.pair[1:])
    assert np.isfinite([beside.low, beside.high]).all()


def test_one_snapshot_is_no_change(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published checkpoint has its end alone: how bags changed was not run, how they are at the end was."""
    bags = stored_bags(mini.profile, mini.store)
    last = bags[bags["step"] == bags["step"].max()]
    monkeypatch.setattr(bag_evidence, "stored_bags", lambda profile, store: last)
    evidence = BagEvidence(Evidence(mini.profile, mini.store))
    assert evidence.concentration() == {"": None}
    assert evidence.effective_at_the_end()[""] is not None
