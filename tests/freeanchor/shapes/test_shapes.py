"""The procedural data set: same bytes, valid COCO json, and files that are whole or absent."""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from freeanchor.data.json_check import content_problems
from freeanchor.shapes import dataset as shapes
from freeanchor.shapes.dataset import recorded_parts, write_shapes
from freeanchor.shapes.objects import CATEGORIES
from freeanchor.shapes.scene import Scene, ShapesConfig, draw_scene

SMALL = ShapesConfig(num_train=4, num_val=2)
# Of SMALL, drawn with the locked packages; where the drawing is meant to change, raise shapes.VERSION and put the
# digest here that the failing test shows.
SMALL_DIGEST = "19bfef9c9a078f1adc2b1a746332eb73774ef2f31e2fc1bb4a1a8999a942209f"
LOCK = Path(__file__).resolve().parents[3] / "requirements.lock"


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set on disk."""
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_shapes(SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with a crowd region in every image."""
    folder = tmp_path_factory.mktemp("shapes") / "crowded"
    write_shapes(ShapesConfig(num_train=6, num_val=1, crowd_fraction=1.0, empty_fraction=0.0), folder)
    return folder


def test_same_settings_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    """Two runs with one configuration write identical files under identical names."""
    write_shapes(SMALL, tmp_path / "again")
    assert digest(tmp_path / "again") == digest(written)


def test_bytes_match_the_committed_digest(written: Path) -> None:
    """With the locked numpy and Pillow, the small data set has the digest that this file records."""
    locked = set(re.findall(r"^(numpy|pillow)==(\S+)", LOCK.read_text(), re.MULTILINE))
    here = {(name, version(name)) for name in ("numpy", "pillow")}
    if not here <= locked:
        pytest.skip(f"the digest holds for the locked packages; these are not: {sorted(here - locked)}")
    assert digest(written) == SMALL_DIGEST


def test_an_image_does_not_depend_on_how_many_are_drawn(written: Path, tmp_path: Path) -> None:
    """A larger data set begins with the images and annotations of a smaller one."""
    write_shapes(dataclasses.replace(SMALL, num_train=5, num_val=3), tmp_path / "more")
    for path in (written / "images").iterdir():
        assert path.read_bytes() == (tmp_path / "more" / "images" / path.name).read_bytes()
    few, many = (json.loads((folder / "train.json").read_bytes()) for folder in (written, tmp_path / "more"))
    assert many["annotations"][: len(few["annotations"])] == few["annotations"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_reads_it(written: Path, split: str) -> None:
    """pycocotools loads both splits; every file is there, named once, of the size that the json says."""
    coco = COCO(str(written / f"{split}.json"))
    assert len(coco.getImgIds()) == getattr(SMALL, f"num_{split}")
    assert [category["name"] for category in coco.loadCats(range(1, 13))] == [each.name for each in CATEGORIES]
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(written / "images" / image["file_name"]) as opened:
            assert (opened.format, opened.size) == ("JPEG", (image["width"], image["height"]))
    assert len(list((written / "images").glob(f"{split}_*.jpg"))) == getattr(SMALL, f"num_{split}")


@pytest.mark.parametrize("folder", ["written", "crowded"])
def test_annotations_are_valid(folder: str, request: pytest.FixtureRequest) -> None:
    """Ids are unique, boxes positive and inside the image, areas positive and no larger than the box, parts inside."""
    document = json.loads((request.getfixturevalue(folder) / "train.json").read_bytes())
    found = document["annotations"]
    assert [annotation["id"] for annotation in found] == list(range(1, len(found) + 1))
    assert {annotation["image_id"] for annotation in found} <= {image["id"] for image in document["images"]}
    for annotation in found:
        x, y, width, height = annotation["bbox"]
        assert min(x, y) >= 0 and min(width, height) > 2 and max(x + width, y + height) <= SMALL.image_size + 0.01
        assert 0 < annotation["area"] <= width * height
        assert x < annotation["part"][0] < x + width and y < annotation["part"][1] < y + height
        assert 0 <= annotation["angle"] < 360 and 1 <= annotation["elongation"] <= SMALL.max_aspect
        assert 1 <= annotation["category_id"] <= len(CATEGORIES) and 0 <= annotation["hidden"] <= SMALL.max_hidden


def test_parts_are_recorded_in_our_own_json_alone(written: Path) -> None:
    """What other tools' objects call `part`, a name or a point, is theirs; no damaged part of ours is read either."""
    document = json.loads((written / "val.json").read_bytes())
    found = document["annotations"]
    assert recorded_parts(document) == {annotation["id"]: tuple(annotation["part"]) for annotation in found}
    for info in ({}, [], "freeanchor shapes", {"description": "another"}, {"description": ["freeanchor shapes"]}):
        assert recorded_parts({**document, "info": info}) == {}
    for part in ("ab", "wheel", 3, None, [1, 2, 3], [1, "2"], [True, 1], [float("nan"), 1], {"0": 1, "1": 2}):
        damaged = [{**found[0], "part": part}, *found[1:]]
        assert set(recorded_parts({**document, "annotations": damaged})) == {item["id"] for item in found[1:]}


def test_the_check_finds_nothing_in_it(written: Path) -> None:
    """Neither error nor warning; of the same file by somebody else, that its boxes might be turned."""
    document = json.loads((written / "val.json").read_bytes())
    assert list(content_problems(document, "val.json")) == []
    (problem,) = content_problems({**document, "info": {}}, "val.json")
    assert problem.severity == "warning" and "angle" in problem.what


def test_crowds_are_one_region_that_nothing_covers(crowded: Path) -> None:
    """Where asked for, each image has exactly one crowd annotation, and no crowd where not."""
    annotations = json.loads((crowded / "train.json").read_bytes())["annotations"]
    crowds = Counter(annotation["image_id"] for annotation in annotations if annotation["iscrowd"])
    assert crowds == dict.fromkeys(range(1, 7), 1)
    without = dataclasses.replace(SMALL, crowd_fraction=0.0)
    assert all(draw_scene(without, "val", index).crowd is None for index in range(10))


def test_existing_data_is_left_alone(written: Path) -> None:
    """A second call with the same settings rewrites nothing."""
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    write_shapes(SMALL, written)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_other_settings_are_refused(written: Path) -> None:
    """A folder of other settings is named with what differs, in one line, and not touched."""
    with pytest.raises(ValueError, match=r"seed 0 not 7.*remove that folder") as caught:
        write_shapes(dataclasses.replace(SMALL, seed=7), written)
    assert "\n" not in str(caught.value)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    """A folder or file that is no such data set is refused and kept; an empty folder is used."""
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "train.json").write_text('{"info": {"version": "1.0"}, "images": []}')
    for path in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(ValueError, match="no shapes data set"):
            write_shapes(SMALL, path)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"
    (tmp_path / "new").mkdir()
    write_shapes(dataclasses.replace(SMALL, num_train=1, num_val=0), tmp_path / "new")
    assert (tmp_path / "new" / "val.json").exists()


def test_interrupted_writing_leaves_nothing_visible(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped half-way there is no data set; the next call replaces the left-overs and ends with the same bytes."""

    def stop_at_the_third(config: ShapesConfig, split: str, index: int) -> Scene:
        if index == 2:
            raise KeyboardInterrupt
        return draw_scene(config, split, index)

    monkeypatch.setattr(shapes, "draw_scene", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(SMALL, tmp_path / "set")
    left_over = list(tmp_path.iterdir())
    assert left_over and not (tmp_path / "set").exists()
    (left_over[0] / "images" / "stale.jpg").write_bytes(b"stale")
    monkeypatch.undo()
    write_shapes(SMALL, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert digest(tmp_path / "set") == digest(written)
