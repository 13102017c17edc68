"""Annotation files: each malformed one through training, the check of a folder, and evaluation."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.bad_annotations import CHANGES, TEXTS, changed
from oracles.coco_folder import small_content, write_both, write_folder
from PIL import Image
from tiny import FLOAT32, tiny_detector, tiny_recipe

from bad_input.outcome import files_in, handled, refused, run
from freeanchor.data.coco import InputConfig, load_sample, read_split
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.training.loop import train


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Item and remedy as the data folder's readers say it, and as the evaluation does; None: it takes the file."""

    folder: tuple[str, str] | None
    evaluate: tuple[str, str] | None


def _both(item: str, remedy: str, other_item: str = "", other_remedy: str = "") -> Refusal:
    return Refusal(folder=(item, remedy), evaluate=(other_item or item, other_remedy or remedy))


LISTS = "give it images, annotations, categories"
WHOLE = "give it a whole number of its own"
BOX = ("annotation 1:", "give [x, y, width, height]", "annotation 1 ", "fix or remove it")
SIZE = "give width and height in whole pixels"
REFUSED = {
    "an empty file": _both("not valid json", "fetch or write it again"),
    "a truncated file": _both("not valid json", "fetch or write it again"),
    "a web page": _both("not valid json", "fetch or write it again"),
    "a list of results": _both("holds a list", "give the ground truth", other_remedy="give a COCO instances file"),
    "null": _both("holds a", "give the ground truth", other_remedy="give a COCO instances file"),
    "a hundred thousand brackets": _both("not valid json", "fetch or write it again"),
    "a number of 5,000 digits": _both("not valid json", "fetch or write it again"),
    "bytes of something else": _both("not valid json", "fetch or write it again"),
    "a damaged gzip": _both("damaged gzip", "fetch or write it again"),
    "no list of images": _both("images", LISTS, other_remedy="list every image"),
    "an empty list of images": _both("images", "at least one", other_remedy="list every image"),
    "images in an object": _both("images", LISTS, other_remedy="list every image"),
    "annotations that are null": _both("annotations", LISTS, other_remedy="submit the detections there"),
    "no list of categories": _both("categories", LISTS, other_remedy="list every category"),
    "an empty list of categories": _both("categories", "at least one", other_remedy="list every category"),
    "an annotation that is a list": _both("item 0", "see COCO's data format", other_remedy="fix or remove it"),
    "two images of one id": _both("share the id 10", "give each its own", "image id 10", "an id of its own"),
    "two annotations of one id": _both("annotation 1", "give each its own", "annotation id 1", "an id of its own"),
    "two categories of one id": _both("share the id 9", "give each its own", "category id 9", "an id of its own"),
    "image ids of letters": _both("'10'", WHOLE, other_remedy="renumber them"),
    "image ids with fractions": _both("10.5", WHOLE, other_remedy="renumber them"),
    "annotation ids of letters": _both("'1'", WHOLE, other_remedy="renumber them"),
    "a truth value for an id": _both("True", WHOLE, other_remedy="renumber them"),
    "an id of a hundred digits": _both("10000000", "renumber them, from 1", other_remedy="renumber them"),
    "no id": _both("annotation [0]", WHOLE, "row 0", "add it"),
    "a negative width": _both(*BOX),
    "a box of nan": _both(*BOX),
    "a box of infinity": _both(*BOX),
    "a box without end on both sides": _both(*BOX),
    "a box beyond all numbers": _both(*BOX),
    "a box of three": _both(*BOX[:2], "row 0", "four numbers"),
    "a box of letters": _both(*BOX[:2], "row 0", "a number"),
    "no box": _both("annotation 1:", BOX[1], "annotation 1 ", other_remedy="add it"),
    "an area of nan": _both("annotation 1", "give square pixels", "row 0", "fix it"),
    "a crowd flag of letters": _both("annotation 1", "give 0, or 1", "row 0", "give 0, or 1"),
    "no annotations": _both("object", "nothing can be learned", "annotations", "evaluate on val2017"),
    "only crowds": Refusal(folder=("object", "nothing can be learned"), evaluate=None),
    "an absolute file name": Refusal(folder=("/etc/hostname", "inside the image folder"), evaluate=None),
    "a file name that leaves": Refusal(folder=("../outside.png", "inside the image folder"), evaluate=None),
    "a file name that leaves on a detour": Refusal(folder=("sub/..", "inside the image folder"), evaluate=None),
    "a file name of windows": Refusal(folder=("C:", "inside the image folder"), evaluate=None),
    "an empty file name": Refusal(folder=("image 10", "name its file"), evaluate=None),
    "a file name that is a number": Refusal(folder=("image 10", "name its file"), evaluate=None),
    "a file name with a zero byte": Refusal(folder=("image 10", "name its file"), evaluate=None),
    "an image of no width": Refusal(folder=("image 10", SIZE), evaluate=None),
    "an image of width nan": Refusal(folder=("image 10", SIZE), evaluate=None),
    "a height of letters": Refusal(folder=("image 10", SIZE), evaluate=None),
    "no height": Refusal(folder=("image 10", SIZE), evaluate=None),
    "a category without a name": Refusal(folder=("category 9", "give it a name"), evaluate=None),
    "a category name of two lines": Refusal(folder=("category 9", "give it a name"), evaluate=None),
}  # fmt: skip
NOTES = {  # of evaluation, beside those on ids, areas and crowds
    "only crowds": ("all annotations are crowd regions",),
    "id 0 everywhere": ("annotation id 0",),
    "an unknown image": ("annotations are of images", "detections are of images"),
    "an unknown category": ("annotations are of categories", "detections are of categories"),
    "no area and no crowd flag": ('no "area"', 'no "iscrowd"'),
}
CROWD = "5,000 objects in an image"
HANDLED = [name for name in CHANGES if name not in REFUSED]
REFUSED_FOLDERS = {name: refusal.folder for name, refusal in REFUSED.items() if refusal.folder}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good data folder, with an image outside that nothing may read."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "outside.png")
    return write_both(tmp_path / "data")


def _spoil(folder: Path, name: str) -> Path:
    """The training split's json with the fault of that name; its path."""
    path = folder / "train.json"
    good = json.loads(path.read_text())
    path.write_bytes(TEXTS[name] if name in TEXTS else json.dumps(changed(name, good)).encode())
    return path


def _found(path: Path, names: list[dict]) -> Path:
    """COCO results that find every object of `names` perfectly."""
    keys = ("image_id", "category_id", "bbox")
    path.write_text(json.dumps([{**{key: item[key] for key in keys}, "score": 0.9} for item in names]))
    return path


@pytest.mark.parametrize("name", REFUSED_FOLDERS)
def test_training_refuses_a_bad_json(name: str, folder: Path, tmp_path: Path, small_backbone: list[str]) -> None:
    """`freeanchor train` ends before its first step; file, item and remedy are named, and nothing is written."""
    _spoil(folder, name)
    places = [f"--{place}={tmp_path / place}" for place in ("runs", "drawn", "reports")]
    command = ["train", "retinanet-small-s0", "--profile", "photos", "--data", folder, *places, *small_backbone]
    if name in ("no annotations", "only crowds"):  # seen when the training is set up, which has its folder by then
        outcome = run(command)
        assert outcome.status == 2 and "train.json: no image has an object" in outcome.complaints[-1]
        assert not any(file.endswith((".safetensors", "train.json")) for file in files_in(tmp_path / "runs"))
        return
    refused(tmp_path, command, "train.json", *REFUSED_FOLDERS[name])


def test_training_says_what_is_suspicious(folder: Path, tmp_path: Path, small_backbone: list[str]) -> None:
    """One line for each suspicion of both splits, before the first step; here that ends at an image that is gone."""
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        for item in content["annotations"]:
            item.update(ignore=1, area=1)
        (folder / f"{split}.json").write_text(json.dumps(content))
    for path in (folder / "images").glob("train-*"):
        path.unlink()
    places = [f"--{place}={tmp_path / place}" for place in ("runs", "drawn", "reports")]
    outcome = run(["train", "retinanet-small-s0", "--profile", "photos", "--data", folder, *places, *small_backbone])
    assert outcome.status == 2 and "no such image" in outcome.complaints[-1]
    notes = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert ["train.json" in note for note in notes] == [True, True, False, False]
    for words in ("12 of 12 annotations have an area", "with ignore: 12 of 12", "8 of 8 annotations", "ignore: 8 of 8"):
        assert sum(words in note for note in notes) == 1


@pytest.mark.parametrize("name", REFUSED_FOLDERS)
def test_the_check_of_a_folder_lists_a_bad_json(name: str, folder: Path) -> None:
    """`freeanchor data check` names the same fault in a line of its report, and ends with status 2."""
    _spoil(folder, name)
    refused(folder, ["data", "check", folder], "train.json", *REFUSED_FOLDERS[name])


@pytest.mark.parametrize("name", [name for name, refusal in REFUSED.items() if refusal.evaluate])
def test_evaluation_refuses_a_bad_json(name: str, folder: Path, tmp_path: Path) -> None:
    """`freeanchor evaluate` names file, item and remedy, whatever the detections are."""
    path = _spoil(folder, name)
    found = _found(tmp_path / "found.json", json.loads((folder / "val.json").read_text())["annotations"])
    command = ["evaluate", "--gt", path, "--detections", found, "--csv", tmp_path / "out.csv"]
    evaluate = REFUSED[name].evaluate
    assert evaluate is not None
    refused(tmp_path, command, "train.json", *evaluate)


@pytest.mark.parametrize("name", [name for name in CHANGES if name in HANDLED or not REFUSED[name].evaluate])
def test_evaluation_handles_an_odd_json(name: str, folder: Path, tmp_path: Path) -> None:
    """Perfect detections of what can be found have an AP of 1, and no number is nan; what is repaired is said."""
    path = _spoil(folder, name)
    objects = json.loads(path.read_text())["annotations"]
    if name == CROWD:
        objects = objects[-6:]  # pycocotools compares each detection with each object, in Python
    command = ["evaluate", "--gt", path, "--detections", _found(tmp_path / "found.json", objects), "--per-category"]
    outcome = handled([*command, "--resamples", "20", "--json"], *NOTES.get(name, ()))
    values = {row["metric"]: row["value"] for row in json.loads(outcome.out)}
    if name == "only crowds":
        assert values["ap"] is None
    elif name not in ("a box without area", CROWD):
        assert values["ap"] == pytest.approx(1)
    else:
        assert 0 < values["ap"] < 1
    assert all(value is None or -1 <= value <= 1 for value in values.values())
    if name != CROWD:
        handled([*command, "--resamples", "20"], *NOTES.get(name, ()))


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in REFUSED_FOLDERS])
def test_training_handles_an_odd_json(name: str, folder: Path, tmp_path: Path) -> None:
    """The folder passes the check, its boxes lie inside their images, and a step of training is finite."""
    _spoil(folder, name)
    outcome = run(["data", "check", folder, "--profile", "shapes"])
    assert [line for line in outcome.out.splitlines() if line.startswith("error")] in (
        [],
        [line for line in outcome.out.splitlines() if "categories differ" in line],  # ids were changed in one split
    )
    split = read_split(folder, "train")
    for image in split.images:
        boxes = load_sample(image, InputConfig(short_side=64)).boxes
        assert torch.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= 64).all()
    detector = replace(tiny_detector(), category_ids=split.category_ids, category_names=split.category_names)
    recipe = tiny_recipe(FreeAnchorLoss(), num_steps=1)
    train(tmp_path / "run", split, detector, recipe, FLOAT32)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows and all(np.isfinite(value) for name, value in rows[-1].items() if name.startswith("loss"))


@pytest.mark.parametrize("file_name", ["Straße 1/ein Bild.png", "日本語 写真.png", "a\u00a0b.png", "émoji 🚪.png"])
def test_names_of_any_script_and_with_spaces_are_read(file_name: str, tmp_path: Path) -> None:
    """Folders inside the image folder, too; categories with such names stand in the tables as they are."""
    folder = tmp_path / "mein Ordner é"
    for split in ("train", "val"):
        content = small_content(1)
        content["images"][0]["file_name"] = f"{split} {file_name}" if "/" not in file_name else file_name
        content["categories"] = [{**item, "name": f"{item['name']} ü 日 本"} for item in content["categories"]]
        (folder / "images" / content["images"][0]["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        write_folder(folder, split, content)
    assert run(["data", "check", folder]).status == 0
    (image,) = read_split(folder, "val").images
    assert load_sample(image, InputConfig(short_side=64)).image.isfinite().all()
    found = _found(tmp_path / "found 日.json", content["annotations"])
    command = ["evaluate", "--gt", folder / "val.json", "--detections", found, "--per-category", "--resamples", "0"]
    assert "ü 日 本" in handled(command).out
