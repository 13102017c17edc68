"""What runs make of the anchors of their bags: asked once, paired over images, averaged over seeds."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from miniature import Mini, fabricate

from analysis.bags.arrays import BEST_BOX, HIGHEST_SCORE, QUANTITIES, REGRET, image_means
from experiments.registry.build import build_profile
from experiments.reports.matching import COLUMNS, bag_box_frame
from experiments.runs.bags import bag_boxes_stage
from experiments.runs.store import Store
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import read_split
from freeanchor.inference.bags import object_bags
from freeanchor.losses.free_anchor import FreeAnchorLoss


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
