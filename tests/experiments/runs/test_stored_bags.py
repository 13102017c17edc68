"""Bags of a whole validation split: asked once, kept with the run, and what claims and reports take from them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import Mini, fabricate

from analysis.bags.arrays import BAG_TABLE_COLUMNS, BEST_BOX, HIGHEST_SCORE, QUANTITIES, REGRET, image_means
from analysis.bags.matches import chosen_anchor, part_distance, summarize_bags
from analysis.bags.summaries import CONCENTRATION_METRICS, POSITION_COLUMNS
from experiments.claims import evidence as bag_evidence
from experiments.claims.evidence import BagEvidence, Evidence
from experiments.registry.build import build_profile
from experiments.registry.config import Evaluation
from experiments.reports import matching
from experiments.reports.matching import COLUMNS, bag_box_frame
from experiments.runs.bags import (
    STAGE_COLUMNS,
    bag_boxes_stage,
    bag_frames,
    bags_stage,
    first_images,
    matches_frame,
    stored_bags,
    stored_positions,
)
from experiments.runs.store import Store
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import ImageRecord, Split, read_split
from freeanchor.inference.bags import object_bags
from freeanchor.losses.free_anchor import FreeAnchorLoss


@pytest.fixture(scope="module")
def run(mini: Mini) -> Evaluation:
    """The miniature's FreeAnchor."""
    return mini.profile.evaluations[mini.profile.pair[-1]]


@pytest.fixture(scope="module")
def frames(mini: Mini, run: Evaluation) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames of all its objects."""
    return bag_frames(run, mini.store)[:2]


def test_every_object_has_a_row_at_every_snapshot(mini: Mini, run: Evaluation, frames: tuple) -> None:
    """All objects of the validation split that are no crowd, with their stage before their numbers."""
    bags, _ = frames
    split = read_split(mini.store.data(run.training), "val")
    ids = [number for image in split.images for number in image.annotation_ids.tolist()]
    assert list(bags.columns) == [*STAGE_COLUMNS, *BAG_TABLE_COLUMNS]
    assert bags["step"].unique().tolist() == [1, 4, 12, 40]
    for _, own in bags.groupby("step"):
        assert own["annotation_id"].tolist() == ids
    counts = {image.image_id: len(image.boxes) for image in split.images}
    assert bags["num_objects"].tolist() == [counts[number] for number in bags["image_id"]]
    assert set(bags["run"]) == {run.name} and set(bags["detector"]) == {"FreeAnchor"} and set(bags["num_steps"]) == {40}


def test_rows_agree_with_the_bags_anchor_by_anchor(mini: Mini, run: Evaluation, frames: tuple) -> None:
    """The chosen objects' bags, tabulated anchor by anchor, have the same numbers by the slow way."""
    matches = matches_frame(run, mini.store)
    keys = ["step", "annotation_id"]
    own = frames[0].set_index(keys)
    summary, chosen = (part.set_index(keys) for part in (summarize_bags(matches), chosen_anchor(matches)))
    own = own.loc[summary.index]
    for name in ("num_anchors", "num_assigned", "entropy", "effective_anchors", "mean_max"):
        np.testing.assert_allclose(own[name], summary[name], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(own["category"], summary["category"])
    # float noise between a batch and a single image may swap anchors that are all but equal
    assert np.mean(own["chosen_rank"] == chosen["rank"]) > 0.7
    by_hand = part_distance(matches).query("matching == 'iou'").set_index(keys).loc[own.index]
    np.testing.assert_allclose(own[["iou_to_part", "iou_to_centre"]], by_hand[["to_part", "to_centre"]], atol=1e-4)


def test_positions_hold_the_weight_of_every_group(frames: tuple) -> None:
    """At every step; masses of all objects add up to at most 1, most of it near the box."""
    _, positions = frames
    assert list(positions.columns) == [*STAGE_COLUMNS[:3], *POSITION_COLUMNS]
    masses = positions.groupby(["step", "group", "matching"]).mass.sum()
    assert {"all", "slender", "square", "acentric", "acentric_aligned"} == set(positions["group"])
    assert bool(masses.between(0.5, 1 + 1e-4).all())
    np.testing.assert_allclose(masses.loc[:, "all", "part"], 1, atol=1e-3)


def test_fewer_objects_are_the_first_images(mini: Mini, run: Evaluation, frames: tuple) -> None:
    """A cap keeps the first images whole; both frames come from the same bags."""
    bags, positions, _ = bag_frames(run, mini.store, 20)
    assert 0 < len(bags) <= 4 * 20
    pd.testing.assert_frame_equal(bags[bags.step == 1], frames[0][frames[0].step == 1][: len(bags) // 4])
    assert 0 < len(positions) < len(frames[1])


def test_the_first_images_are_whole_and_have_objects() -> None:
    """As many as hold no more objects than asked for, and one at least."""

    def image(number: int) -> ImageRecord:
        ids = torch.arange(number)
        return ImageRecord(image_id=number, path=Path("x"), width=9, height=9, boxes=torch.zeros(number, 4), labels=ids, annotation_ids=ids)  # fmt: skip

    split = Split(
        annotations=Path("y"), images=tuple(map(image, (3, 0, 4, 5, 1))), category_ids=(1,), category_names=("a",)
    )
    for limit, expected in ((1, [3]), (3, [3]), (7, [3, 4]), (11, [3, 4]), (12, [3, 4, 5]), (99, [3, 4, 5, 1])):
        assert [one.image_id for one in first_images(split, limit)] == expected


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
    assert set(matching.concentration(mini.profile, mini.store)["metric"]) == set(CONCENTRATION_METRICS)
    assert set(matching.part_distance(mini.profile, mini.store)["matching"]) == {"learned", "iou"}


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


def _write(store: Store, name: str, scores: dict[int, float]) -> Path:
    """What a run that never was would say: an object an image with two anchors, the first of that score."""
    profile = build_profile("shapes", num_seeds=2)
    fabricate(profile, store, name, 0.4)
    frames = [
        image_means(
            pd.DataFrame([[0.8, 0.5]]).to_numpy(),
            pd.DataFrame([[score, 0.1]]).to_numpy(),
            pd.DataFrame([[score, 1 - score]]).to_numpy(),
        ).assign(image_id=image)
        for image, score in scores.items()
    ]
    path = profile.evaluations[name].directory(store.runs) / "bag_boxes.csv"
    pd.concat(frames).to_csv(path, index=False)
    return path


def test_a_run_is_asked_once(mini: Mini) -> None:
    """All ranks of a bag of 50 and the two picked, in every image with objects; then the file stays as it is."""
    run = mini.profile.evaluations[mini.profile.pair[1]]
    path = bag_boxes_stage(run, mini.store)
    written = path.stat().st_mtime_ns
    assert bag_boxes_stage(run, mini.store).stat().st_mtime_ns == written
    frame = pd.read_csv(path)
    names = [*map(str, range(1, FreeAnchorLoss().bag_size + 1)), HIGHEST_SCORE, BEST_BOX]
    assert all(own["anchor"].tolist() == names for _, own in frame.groupby("image_id"))
    wide = frame.pivot(index="image_id", columns="anchor", values="box_iou")
    assert (wide[BEST_BOX] >= wide.drop(columns=BEST_BOX).max(axis=1)).all()
    anchors = frame[frame["anchor"].str.isdigit()].groupby("anchor")["anchor_iou"].mean()
    assert anchors["1"] > anchors["10"] > anchors["50"]


def test_asking_the_snapshots_asks_the_trained_network_too(mini: Mini, tmp_path: Path) -> None:
    """Its boxes come out of the pass over the snapshots as they do alone."""
    run = mini.profile.evaluations[mini.profile.pair[1]]
    boxes = bag_frames(run, mini.store)[2]
    store = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(mini.store.runs, store.runs)
    (run.directory(store.runs) / "bag_boxes.csv").unlink()  # which that pass has left
    alone = pd.read_csv(bag_boxes_stage(run, store), dtype={"anchor": str})
    pd.testing.assert_frame_equal(boxes, alone, check_dtype=False)


def test_what_is_kept_is_the_trained_networks(mini: Mini) -> None:
    """One image's rows: IoUs of predicted boxes and class scores of the model at the end of training."""
    run = mini.profile.evaluations[mini.profile.pair[1]]
    model, detector = load_model(run.training.directory(mini.store.runs) / "model.safetensors")
    image = next(one for one in read_split(mini.store.data(run.training), "val").images if len(one.boxes) > 1)
    (bags,) = object_bags(model, detector, [image], FreeAnchorLoss())
    frame = pd.read_csv(bag_boxes_stage(run, mini.store)).query("image_id == @image.image_id").iloc[:-2]
    assert frame["box_iou"].to_numpy() == pytest.approx(bags.box_iou.mean(dim=0).numpy(), abs=1e-4)
    assert frame["score"].to_numpy() == pytest.approx(bags.cls_prob.mean(dim=0).numpy(), abs=1e-4)
    assert (bags.box_iou - bags.loc_prob).abs().max() > 0.01  # they could not be taken for one another


def test_the_miniatures_gain_is_the_difference(mini: Mini) -> None:
    """Both detectors have the same anchors, so that these gain nothing; boxes and scores differ by the gain."""
    frame = bag_box_frame(mini.profile, mini.store)
    assert tuple(frame.columns) == COLUMNS
    value = frame.set_index(["detector", "anchor", "quantity"])["value"]
    assert value["RetinaNet", "7", "anchor_iou"] == value["FreeAnchor", "7", "anchor_iou"]
    for quantity in QUANTITIES:
        for anchor in ("1", "50", HIGHEST_SCORE, BEST_BOX):
            both = value["FreeAnchor", anchor, quantity] - value["RetinaNet", anchor, quantity]
            assert value["gain", anchor, quantity] == pytest.approx(both)
    assert value["gain", "7", "score"] != 0
    same = frame[(frame["detector"] == "gain") & (frame["quantity"] == "anchor_iou") & frame["anchor"].str.isdigit()]
    assert (same[["value", "low", "high"]] == 0).all(axis=None)  # paired: the images' own chance is gone
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()


def test_seeds_are_averaged_and_the_gain_needs_both_of_a_pair(empty_store: Store) -> None:
    """Two seeds of RetinaNet, one of FreeAnchor: means of two and of one, the gain of the one pair."""
    _write(empty_store, "retinanet-small-s0", {1: 0.2, 2: 0.4})
    _write(empty_store, "retinanet-small-s1", {1: 0.4, 2: 0.4})
    _write(empty_store, "freeanchor-small-s0", {1: 0.9, 2: 0.7})
    frame = bag_box_frame(build_profile("shapes", num_seeds=2), empty_store).set_index(
        ["detector", "anchor", "quantity"]
    )
    assert frame.loc[("RetinaNet", "1", "score"), "value"] == pytest.approx(0.35)
    assert frame.loc[("RetinaNet", HIGHEST_SCORE, "score"), "value"] == pytest.approx((0.7 + 0.6) / 2)
    assert frame.loc[("FreeAnchor", "1", "box_iou"), "value"] == pytest.approx(0.8)
    assert frame.loc[("gain", "1", "box_iou"), "value"] == pytest.approx(0.8 - 0.3)
    assert frame["n_seeds"].groupby("detector").first().to_dict() == {"RetinaNet": 2, "FreeAnchor": 1, "gain": 1}


def test_gains_are_over_common_images(empty_store: Store) -> None:
    """By their ids, not by their order: of 1, 2, 3 and 2, 3, 4 those of 2 and 3; without a common one it is refused."""
    _write(empty_store, "retinanet-small-s0", {1: 0.9, 2: 0.2, 3: 0.4})
    _write(empty_store, "freeanchor-small-s0", {2: 0.3, 3: 0.6, 4: 0.1})
    profile = build_profile("shapes", num_seeds=2)
    frame = bag_box_frame(profile, empty_store).set_index(["detector", "anchor", "quantity"])
    assert frame.loc[("gain", "1", "score"), "value"] == pytest.approx(0.15)
    assert frame.loc[("RetinaNet", "1", "score"), "value"] == pytest.approx(0.5)
    assert frame.loc[("gain", REGRET, "box_iou"), "value"] == pytest.approx(0.1 - 0.2)
    _write(empty_store, "retinanet-small-s1", {1: 0.9})
    _write(empty_store, "freeanchor-small-s1", {2: 0.3})
    with pytest.raises(ValueError, match="no common image"):
        bag_box_frame(profile, empty_store)


def test_a_run_without_objects_or_network_is_as_not_run(empty_store: Store) -> None:
    """Measured, but without objects; or measured, its snapshots thrown away, and never asked: no rows, no error."""
    path = _write(empty_store, "retinanet-small-s0", {1: 0.2})
    pd.read_csv(path).iloc[:0].to_csv(path, index=False)
    fabricate(build_profile("shapes"), empty_store, "freeanchor-small-s0", 0.4)
    assert bag_box_frame(build_profile("shapes"), empty_store).empty


def test_images_without_objects_are_left_out(mini: Mini, tmp_path: Path) -> None:
    """A validation split with no object at all: the file is there, and empty."""
    run = mini.profile.evaluations[mini.profile.pair[1]]
    store = replace(mini.store, runs=tmp_path / "runs", drawn=tmp_path / "data")
    shutil.copytree(mini.store.runs, store.runs)
    shutil.copytree(mini.store.drawn, store.drawn)
    truth = store.data(run.training) / "val.json"
    content = pd.read_json(truth, typ="series")
    content["annotations"] = []
    content.to_json(truth)
    (run.directory(store.runs) / "bag_boxes.csv").unlink(missing_ok=True)
    assert pd.read_csv(bag_boxes_stage(run, store)).empty
