"""A row a bag of a data set at each snapshot of a training, and where in the objects their weight lies."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import Mini

from analysis.bags.arrays import BAG_TABLE_COLUMNS
from analysis.bags.matches import chosen_anchor, part_distance, summarize_bags
from analysis.bags.summaries import POSITION_COLUMNS
from experiments.registry.config import Evaluation
from experiments.runs.bags import STAGE_COLUMNS, bag_frames, first_images, matches_frame
from freeanchor.data.coco import ImageRecord, Split, read_split


@pytest.fixture(scope="module")
def run(mini: Mini) -> Evaluation:
    """The miniature's FreeAnchor."""
    return mini.profile.evaluations[mini.profile.pair[-1]]


@pytest.fixture(scope="module")
def frames(mini: Mini, run: Evaluation) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames of all its objects."""
    return bag_frames(run, mini.store)


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
    bags, positions = bag_frames(run, mini.store, 20)
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
