"""What a bag can hold: IoUs by rank, as sorting all anchors one by one gives them, beside the stored reference."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from oracles.boxes import iou
from oracles.coco_folder import write_both

from analysis.figures.bags import bag_overlap_figure
from experiments.registry.build import build_profile
from experiments.reports.matching import NUM_RANKS, OVERLAP_COLUMNS, REFERENCE, bag_overlap, overlap_frame
from experiments.runs.store import Store
from freeanchor.anchors import AnchorConfig, grid_anchors
from freeanchor.data.coco import InputConfig

INPUTS = InputConfig(short_side=64, max_long_side=128)
ANCHORS = AnchorConfig(sizes=(16.0, 32.0, 64.0, 128.0, 256.0))


def test_ranks_are_those_of_all_anchors_sorted() -> None:
    """One object on an image of 64 px, not resized: its hundred highest IoUs, in order."""
    box = torch.tensor([[5.0, 8.0, 47.0, 30.0]])
    frame = overlap_frame("own", [(64, 64, box)], INPUTS, ANCHORS)
    grids = tuple((-(-64 // stride), -(-64 // stride)) for stride in ANCHORS.strides)
    grid = grid_anchors(ANCHORS, grids, (64, 64))
    expected = sorted((iou(tuple(box[0].tolist()), tuple(one)) for one in grid.tolist()), reverse=True)[:NUM_RANKS]
    own = frame[frame["group"] == "all"]
    assert own["rank"].tolist() == list(range(1, NUM_RANKS + 1))
    assert own["value"].to_numpy() == pytest.approx(expected, abs=1e-4)


def test_quartiles_are_over_objects_and_groups_by_aspect() -> None:
    """A slender and two square objects: each group counts its own; boxes are scaled with their image."""
    boxes = torch.tensor([[10.0, 10, 110, 30], [20.0, 20, 60, 60], [70.0, 70, 110, 105]])
    frame = overlap_frame("own", [(128, 128, boxes)], INPUTS, ANCHORS)
    counts = frame.groupby("group")["num_objects"].first().to_dict()
    assert counts == {"all": 3, "slender": 1, "square": 2}
    halved = overlap_frame("own", [(64, 64, boxes / 2)], INPUTS, ANCHORS)
    pd.testing.assert_frame_equal(frame, halved)
    slender = frame[frame["group"] == "slender"]
    assert (slender["low"] == slender["high"]).all()
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()


def test_a_split_without_objects_gives_no_rows() -> None:
    """Nothing to say, in the right columns."""
    frame = overlap_frame("own", [(64, 64, torch.zeros(0, 4))], INPUTS, ANCHORS)
    assert frame.empty and tuple(frame.columns) == OVERLAP_COLUMNS


def test_the_reference_stands_beside_the_profiles_own(tmp_path: Path) -> None:
    """Two data sets in the frame, a line each in every panel; the reference alone where the data are not there."""
    folder = write_both(tmp_path / "ponds")
    frame = bag_overlap(build_profile("photos", data=folder), Store(folder=folder))
    assert set(frame["data"]) == {"photos/ponds", "COCO val2017 at 800 px"}
    lines = [len(axes.lines) for axes in bag_overlap_figure(frame[frame["group"] != "slender"]).axes]
    assert lines == [3, 0, 3]  # with the dotted one; a group without objects says so
    alone = bag_overlap(build_profile("mini"), Store(drawn=tmp_path / "none"))
    pd.testing.assert_frame_equal(alone, pd.read_csv(REFERENCE))


def test_a_split_of_crowd_regions_alone_leaves_the_reference(tmp_path: Path) -> None:
    """No object has a bag: the reference is drawn alone, and nothing breaks."""
    folder = write_both(tmp_path / "ponds")
    truth = json.loads((folder / "val.json").read_text())
    for item in truth["annotations"]:
        item["iscrowd"] = 1
    (folder / "val.json").write_text(json.dumps(truth))
    frame = bag_overlap(build_profile("photos", data=folder), Store(folder=folder))
    assert set(frame["data"]) == {"COCO val2017 at 800 px"}
    assert len(bag_overlap_figure(frame).axes[0].lines) == 2


def test_the_reference_is_the_papers_bag() -> None:
    """COCO's fiftieth anchor still overlaps its object by more than 0.4; the first by about three quarters."""
    reference = pd.read_csv(REFERENCE).set_index(["group", "rank"])["value"]
    assert 0.7 < reference["all", 1] < 0.8
    assert 0.4 < reference["all", 50] < 0.5
