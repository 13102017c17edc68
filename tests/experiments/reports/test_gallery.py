"""The gallery shows what its rules say: a small world with known finds, the rules one by one, credits of images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from oracles.coco_folder import annotation, write_folder
from oracles.detection_metrics import iou, match_all
from oracles.detection_sets import detection_sets
from tiny import tiny_detector, tiny_model

from experiments.registry.build import build_profile
from experiments.registry.profile import Profile
from experiments.reports.catalogue import REPORTS
from experiments.reports.gallery import (
    CAPTION,
    COLUMNS,
    NO_IMAGES,
    choose_alone,
    draw_images,
    find_objects,
    gallery,
    image_credits,
    own_score,
)
from experiments.runs.store import Store
from freeanchor.checkpoints.native import save_model

GALLERIES = ("slender", "crowded", "random")
LICENCES = [
    {"id": 1, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"},
    {"id": 2, "name": "Attribution-NoDerivs License", "url": "http://creativecommons.org/licenses/by-nd/2.0/"},
]
# Object 1 is FreeAnchor's alone, 2 RetinaNet's, 3 both's, 4 nobody's (RetinaNet's box of it scores too low); 5 is
# FreeAnchor's in an image that must not be shown, 6 FreeAnchor's and too small to see, 7 a crowd region.
OBJECTS = [
    annotation(1, 10, 9, [4, 4, 40, 8]),
    annotation(2, 20, 9, [4, 4, 30, 10]),
    annotation(3, 20, 5, [4, 30, 20, 20]),
    annotation(4, 20, 5, [40, 30, 20, 20]),
    annotation(5, 30, 9, [2, 2, 48, 6]),
    annotation(6, 40, 2, [10, 10, 3, 2]),
    annotation(7, 40, 2, [20, 20, 30, 30], iscrowd=1),
]
NOWHERE = [50, 50, 4, 4]
FOUND = {
    "RetinaNet": [
        (20, 9, [4, 4, 30, 12], 0.9),
        (20, 5, [4, 30, 20, 20], 0.8),
        *[(10, 5, NOWHERE, 0.5)] * 4,  # the sixth best, as there are six objects: RetinaNet's own score is 0.5
        (20, 5, [40, 30, 20, 20], 0.1),
    ],
    "FreeAnchor": [
        (10, 9, [4, 4, 40, 8], 0.9),
        (30, 9, [2, 2, 48, 6], 0.8),
        (20, 5, [4, 30, 20, 20], 0.7),
        (40, 2, [10, 10, 3, 2], 0.65),
        (20, 5, [4, 4, 30, 10], 0.6),
        (50, 2, NOWHERE, 0.55),  # the sixth best
        (10, 2, NOWHERE, 0.2),
    ],
}


def content() -> dict[str, Any]:
    """The validation split's json."""
    images = [
        {
            "id": number,
            "file_name": f"{number}.png",
            "width": 64,
            "height": 64,
            "license": 1,
            "coco_url": f"url{number}",
        }
        for number in (10, 20, 30, 40, 50)
    ]
    images[2]["license"] = 2
    categories = [{"id": 9, "name": "bar"}, {"id": 2, "name": "dot"}, {"id": 5, "name": "box"}]
    return {"licenses": LICENCES, "images": images, "annotations": OBJECTS, "categories": categories}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Store]:
    """The profile `mini` on the images above, with both detectors' results, and models of random weights."""
    root = tmp_path_factory.mktemp("gallery")
    profile, store = build_profile("mini"), Store(runs=root / "runs", drawn=root / "data", credit="ours")
    for name, found in zip(profile.pair, FOUND.values(), strict=True):
        run = profile.evaluations[name]
        for split in ("train", "val"):
            write_folder(store.data(run.training), split, content())
        directory = run.directory(store.runs)
        directory.mkdir(parents=True)
        rows = [dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in found]
        (directory / "detections.json").write_text(json.dumps(rows))
        (directory / "predict.json").write_text("{}")
        save_model(directory.parent / "model.safetensors", tiny_model(), tiny_detector())
    return profile, store


def texts(figure) -> str:
    """Everything that is written in a figure."""
    inside = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title)]
    return "\n".join(text.get_text() for text in (*figure.texts, *inside))


@pytest.mark.parametrize("name", ["slender", "crowded"])
def test_objects_that_one_alone_finds_are_shown(world, name):
    """FreeAnchor's first, then RetinaNet's; too small ones and forbidden images are passed over, but counted."""
    figure, frame = gallery(name, *world)
    assert frame["annotation_id"].tolist() == [1, 2]
    assert frame["found_by"].tolist() == ["FreeAnchor alone", "RetinaNet alone"]
    assert frame["place"].tolist() == [1, 2] and set(frame["gallery"]) == {name}
    assert frame["num_alike"].tolist() == [3, 1]
    assert set(frame["num_all"]) == {6}
    assert set(frame["retinanet_least_score"]) == {0.5}
    assert set(frame["freeanchor_least_score"]) == {0.55}
    assert len(figure.axes) == 8
    words = texts(figure)
    assert "found by FreeAnchor alone: 3 of 6, by RetinaNet alone: 1, by both: 1" in words
    assert "bar, 5.0:1, 1 object in the image" in words
    assert (
        "Found by FreeAnchor alone, score 0.900, IoU 1.00. RetinaNet: no box of the class takes it at IoU 0.5." in words
    )
    assert "Attribution License, url10" in words and "url30" not in words
    assert "of 50 anchors" in words and "no match map" not in words


def test_the_frame_says_what_the_detectors_scored(world):
    """Score and IoU of the box that takes the object, also below the detector's own score; nan where none does."""
    rows = gallery("random", *world)[1].set_index("annotation_id")
    assert rows.loc[2, "retinanet_iou"] == pytest.approx(300 / 360, abs=1e-5)
    assert np.isnan(rows.loc[2, "freeanchor_score"])  # its box there is of another class
    assert rows.loc[4, "retinanet_score"] == 0.1
    assert rows["found_by"].drop(6, errors="ignore").to_dict() == {
        1: "FreeAnchor alone",
        2: "RetinaNet alone",
        3: "both",
        4: "neither",
    }
    assert rows.loc[1, ["x1", "y1", "x2", "y2", "aspect", "num_objects"]].tolist() == [4, 4, 44, 12, 5, 1]


def test_images_drawn_by_lot_have_all_their_objects(world):
    """Every image with an object that may be shown, here three; the crowd region is no object, the empty one out."""
    figure, frame = gallery("random", *world)
    assert sorted(frame["image_id"].unique()) == [10, 20, 40]
    assert frame.groupby("image_id").size().to_dict() == {10: 1, 20: 3, 40: 1}
    assert len(figure.axes) == 6
    assert "3 objects: 2 box, 1 bar" in texts(figure)
    assert "RetinaNet finds 2, FreeAnchor 1" in texts(figure)


@pytest.mark.parametrize("name", GALLERIES)
def test_where_images_must_not_appear_the_numbers_do(world, name):
    """The same frame but for the labelled boxes, and a figure that says why it holds no image."""
    profile, store = world
    figure, frame = gallery(name, profile, replace(store, images=False))
    boxes = ["x1", "y1", "x2", "y2"]
    pd.testing.assert_frame_equal(frame.drop(columns=boxes), gallery(name, *world)[1].drop(columns=boxes))
    assert frame[boxes].isna().all(axis=None)
    assert NO_IMAGES in texts(figure) and "by RetinaNet alone: 1" in texts(figure)
    assert not any(axes.images for axes in figure.axes)


@pytest.mark.parametrize("name", GALLERIES)
def test_a_run_that_is_not_there_is_said(empty_store, name):
    """An empty frame with its columns, and "not run"."""
    figure, frame = gallery(name, build_profile("mini"), empty_store)
    assert "not run" in texts(figure)
    assert frame.empty and tuple(frame.columns) == COLUMNS


def test_results_without_a_model_show_no_match_map(world, tmp_path):
    """Images and numbers need the stored detections alone."""
    profile, store = world
    for name in profile.pair:
        old = profile.evaluations[name].directory(store.runs)
        new = profile.evaluations[name].directory(tmp_path)
        new.mkdir(parents=True)
        for file in ("detections.json", "predict.json"):
            (new / file).write_bytes((old / file).read_bytes())
    figure, frame = gallery("slender", profile, replace(store, runs=tmp_path))
    assert len(frame) == 2
    assert "no match map" in texts(figure)


def test_no_object_to_show_is_said(world, tmp_path):
    """Two detectors with the same detections: nothing is found by one alone."""
    profile, store = world
    for name in profile.pair:
        directory = profile.evaluations[name].directory(tmp_path)
        directory.mkdir(parents=True)
        (directory / "detections.json").write_text("[]")
        (directory / "predict.json").write_text("{}")
    with pytest.warns(UserWarning, match="no detections"):
        figure, frame = gallery("slender", profile, replace(store, runs=tmp_path))
    assert frame.empty
    assert "There is no such object" in texts(figure)
    with pytest.warns(UserWarning, match="no detections"):
        figure, frame = gallery("random", profile, replace(store, runs=tmp_path))
    assert set(frame["found_by"]) == {"neither"}


@given(detection_sets(distinct_scores=True))
def test_finding_is_cocos_matching_above_the_detectors_own_score(sets):
    """By loops: the box that takes the object at IoU 0.5, and the score that as many detections reach as objects are."""
    ground_truth, detections = sets
    found = find_objects(ground_truth, detections)
    taken = match_all(ground_truth, detections, 0.5, ground_truth.iscrowd)
    by_object = {thing: row for row, thing in taken.items() if thing >= 0 and not ground_truth.iscrowd[thing]}
    num_objects = int((~ground_truth.iscrowd).sum())
    best = sorted((detections.scores[row] for row in taken), reverse=True)[:num_objects]
    for thing in range(len(ground_truth.boxes)):
        row = by_object.get(thing)
        if row is None:
            assert np.isnan(found.score[thing]) and np.isnan(found.iou[thing]) and not found.is_found[thing]
            continue
        assert found.score[thing] == detections.scores[row]
        assert found.iou[thing] == pytest.approx(iou(ground_truth.boxes[thing], detections.boxes[row]))
        assert found.is_found[thing] == (detections.scores[row] in best)


def test_the_own_score_counts_detections():
    """The N-th best; all of them where there are fewer; nothing reaches it where there are none."""
    scores = np.array([0.1, 0.9, 0.5, 0.5])
    assert [own_score(scores, number) for number in (1, 2, 3, 4, 9)] == [0.9, 0.5, 0.5, 0.1, 0.1]
    assert own_score(scores[:0], 3) == own_score(scores, 0) == np.inf


def objects_of(rows: list[tuple[int, int, float, int, float, str]]) -> pd.DataFrame:
    """Objects by image, id, aspect, number in the image, size and finder."""
    return pd.DataFrame(rows, columns=["image_id", "annotation_id", "aspect", "num_objects", "size", "found_by"])


def test_objects_are_chosen_by_order_alone():
    """The longest first, ties by id, one per image and detector, none below 12 px or in images not to be shown."""
    rows = [
        (1, 11, 9.0, 2, 11.9, "FreeAnchor alone"),
        (1, 12, 8.0, 2, 12.0, "FreeAnchor alone"),
        (1, 13, 7.0, 2, 50.0, "FreeAnchor alone"),
        (2, 15, 6.0, 5, 50.0, "FreeAnchor alone"),
        (3, 14, 6.0, 5, 50.0, "FreeAnchor alone"),
        (4, 16, 99.0, 9, 50.0, "FreeAnchor alone"),
        (5, 17, 5.0, 5, 50.0, "FreeAnchor alone"),
        (1, 18, 3.0, 2, 50.0, "RetinaNet alone"),
        (2, 19, 9.0, 5, 50.0, "both"),
        (3, 20, 9.0, 5, 50.0, "neither"),
    ]
    shown = {1, 2, 3, 5}
    assert choose_alone(objects_of(rows), "aspect", shown)["annotation_id"].tolist() == [12, 14, 15, 18]
    assert choose_alone(objects_of(rows), "num_objects", shown)["annotation_id"].tolist() == [14, 15, 17, 18]
    assert choose_alone(objects_of(rows[::-1]), "aspect", shown, 1)["annotation_id"].tolist() == [12, 18]


def test_the_lot_is_fixed_and_looks_at_nothing_else():
    """Four of the images that may be shown, whoever finds what in them, in whatever order the rows come."""
    rows = [(number, number, 1.0, 1, 50.0, "neither") for number in range(1, 101)]
    drawn = draw_images(objects_of(rows), set(range(51, 101)))["image_id"].tolist()
    assert len(set(drawn)) == 4 and min(drawn) > 50
    assert drawn != sorted(drawn) or max(drawn) - min(drawn) > 3
    others = objects_of([(*row[:5], "both") for row in reversed(rows)])
    assert draw_images(others, set(range(51, 101)))["image_id"].tolist() == drawn


def test_the_page_states_the_rules():
    """Each gallery's caption holds how finding is defined and which objects are left out."""
    for name in GALLERIES:
        report = REPORTS[f"gallery_{name}"]
        assert report.title.startswith("Gallery") and CAPTION in report.caption
    assert "12 x 12 px" in REPORTS["gallery_slender"].caption


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("Attribution-NonCommercial-NoDerivs License", ""),
        ("Attribution-NoDerivatives 4.0", ""),
        ("CC BY-ND 2.0", ""),
        ("cc by no derivatives", ""),
        ("6", "http://creativecommons.org/licenses/by-nd/2.0/"),
    ],
)
def test_images_that_forbid_derivatives_have_no_credit(tmp_path: Path, name: str, url: str):
    """However the licence is called, and whether its id is a number or text; the data set's own credit is no way in."""
    path = tmp_path / "val.json"
    images = [{"id": 1, "license": "7"}, {"id": 2, "license": 8}, {"id": 3}]
    licences = [{"id": 7, "name": name, "url": url}, {"id": 8, "name": "Land and Sand"}]
    path.write_text(json.dumps({"images": images, "licenses": licences}))
    assert image_credits(path, "ours") == {2: "Land and Sand", 3: "ours"}


def test_a_credit_names_licence_and_source(tmp_path: Path):
    """Flickr's address before COCO's; the data set's credit where the json has no licences; one printable line."""
    path = tmp_path / "val.json"
    images = [
        {"id": 1, "license": 1, "coco_url": "coco", "flickr_url": "flickr"},
        {"id": 2, "license": 1, "coco_url": "co\nco"},
        {"id": 3, "license": 5, "coco_url": "coco"},
    ]
    path.write_text(json.dumps({"images": images, "licenses": LICENCES[:1]}))
    expected = {1: "Attribution License, flickr", 2: "Attribution License, co\\nco", 3: "ours"}
    assert image_credits(path, "ours") == expected
    path.write_text(json.dumps({"images": images, "licenses": None}))
    assert set(image_credits(path, "ours").values()) == {"ours"}
