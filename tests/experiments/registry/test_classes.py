"""Classes made of categories: by supercategory, all as one; written as a folder of their own."""

import copy
import json
from pathlib import Path

import pytest

from experiments.registry.config import merged, write_merged
from freeanchor.data.coco import read_split
from freeanchor.errors import DataError
from freeanchor.files import read_json, write_json

CONTENT = {
    "info": {"year": 2026},
    "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}],
    "categories": [
        {"id": 9, "name": "cup", "supercategory": "kitchen"},
        {"id": 2, "name": "cat", "supercategory": "animal"},
        {"id": 5, "name": "dog", "supercategory": "animal"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 9, "bbox": [5, 6, 7, 8], "area": 56, "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [9, 9, 9, 9], "area": 81, "iscrowd": 0},
    ],
}


def folder(path: Path) -> Path:
    """A data folder whose splits both hold `CONTENT`."""
    (path / "images").mkdir(parents=True)
    for split in ("train", "val"):
        write_json(path / f"{split}.json", CONTENT)
    return path


def test_by_supercategory() -> None:
    """Classes in the order of the lowest category id; each object's is its category's; nothing else changes."""
    before = copy.deepcopy(CONTENT)
    made = merged(CONTENT, "supercategory")
    assert made["categories"] == [{"id": 1, "name": "animal"}, {"id": 2, "name": "kitchen"}]
    assert [item["category_id"] for item in made["annotations"]] == [1, 2, 1]
    assert [{**item, "category_id": 0} for item in made["annotations"]] == [
        {**item, "category_id": 0} for item in CONTENT["annotations"]
    ]
    assert made["images"] == CONTENT["images"] and made["info"] == CONTENT["info"]
    assert before == CONTENT


def test_all_as_one() -> None:
    """One class for every object."""
    made = merged(CONTENT, "one")
    assert made["categories"] == [{"id": 1, "name": "object"}]
    assert {item["category_id"] for item in made["annotations"]} == {1}


def test_as_they_are() -> None:
    """Nothing is made of them."""
    assert merged(CONTENT, "own") == CONTENT


def test_a_category_without_supercategory_is_named() -> None:
    """One line with two remedies."""
    content = {**CONTENT, "categories": [*CONTENT["categories"], {"id": 11, "name": "lamp"}]}
    with pytest.raises(DataError, match=r"category 'lamp' has no supercategory; add it .* or give --classes one"):
        merged(content, "supercategory")


def test_the_folder_written_is_a_data_set(tmp_path: Path) -> None:
    """Both splits are read as any other; images are found through the link, also after the set was moved."""
    source, target = folder(tmp_path / "set"), tmp_path / "made"
    write_merged(source, target, "one")
    split = read_split(target, "val")
    assert split.category_names == ("object",) and len(split.images[0].boxes) == 2
    assert (target / "images").resolve() == source / "images"
    source.rename(tmp_path / "moved")
    write_merged(tmp_path / "moved", target, "one")
    assert (target / "images").resolve() == tmp_path / "moved" / "images"
    assert read_json(target / "train.json") == merged(CONTENT, "one")


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"categories": [{"id"', "\0\0\0"])
def test_made_annotations_that_a_power_cut_emptied_are_made_again(tmp_path: Path, damage: str) -> None:
    """They are ours, and nothing of the user's is lost."""
    source, target = folder(tmp_path / "set"), tmp_path / "made"
    write_merged(source, target, "one")
    whole = [(target / f"{split}.json").read_bytes() for split in ("train", "val")]
    for split in ("train", "val"):
        (target / f"{split}.json").write_text(damage)
        write_merged(source, target, "one")
        assert [(target / f"{split}.json").read_bytes() for split in ("train", "val")] == whole


def test_cocos_own_layout_keeps_its_two_folders_of_images(tmp_path: Path) -> None:
    """Each split's images are found in its own folder."""
    source, target = tmp_path / "set", tmp_path / "made"
    (source / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (source / f"{split}2017").mkdir()
        write_json(source / "annotations" / f"instances_{split}2017.json", CONTENT)
    write_merged(source, target, "one")
    folders = [read_split(target, split).images[0].path.parent.resolve() for split in ("train", "val")]
    assert folders == [source / "train2017", source / "val2017"]


def test_both_splits_have_the_same_ids(tmp_path: Path) -> None:
    """Also where one lists fewer categories than the other."""
    source = folder(tmp_path / "set")
    kitchen = [item for item in CONTENT["categories"] if item["name"] == "cup"]
    objects = [item for item in CONTENT["annotations"] if item["category_id"] == 9]
    write_json(source / "val.json", {**CONTENT, "categories": kitchen, "annotations": objects})
    write_merged(source, tmp_path / "made", "supercategory")
    splits = [read_json(tmp_path / "made" / f"{split}.json") for split in ("train", "val")]
    assert splits[0]["categories"] == splits[1]["categories"]
    assert splits[1]["annotations"][0]["category_id"] == 2


@pytest.mark.parametrize("text", ["{", json.dumps({**CONTENT, "categories": []})])
def test_a_bad_split_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """What is wrong with val.json is said as anywhere else."""
    source = folder(tmp_path / "set")
    (source / "val.json").write_text(text)
    with pytest.raises(DataError, match=r"val\.json"):
        write_merged(source, tmp_path / "made", "one")
