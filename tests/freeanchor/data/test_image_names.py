"""File names of a json that differ from those of the files: found where one file alone is meant, and told."""

import json
from pathlib import Path

import pytest
from oracles.coco_folder import small_content, write_folder

from freeanchor.data.coco import InputConfig, load_sample, read_split
from freeanchor.data.folder_check import check_folder, report_folder
from freeanchor.data.image_names import matched

# what the json says -> the file that is meant
VARIANTS = {
    "P0.PNG": "p0.png", "p0.png": "P0.Png", "Stra\u00dfe.png": "STRASSE.PNG", "Cafe\u0301.png": "Caf\u00e9.png",
    "Caf\u00e9.png": "Cafe\u0301.PNG", "hall%201.png": "hall 1.png", "hall 1.png": "hall%201.png",
    "T%C3%BCr.png": "T\u00fcr.png", "images/p0.png": "p0.png", "images\\1/p0.png": "p0.png",
    "C\\p0.png": "p0.png", "sub\\p0.png": "sub/p0.png", "./SUB//p0.png": "sub/p0.png", "p0.png ": "p0.png",
    "data/images/sub/p0.png": "sub/p0.png", "deep/p0.png": "a/deep/p0.png", "a%2Fp0.png": "a/p0.png",
    "Images\\SUB\\My%20P.PNG": "sub/my p.png",
}  # fmt: skip
# what the json says, the files: none is meant, or more than one could be
UNCLEAR: dict[str, tuple[list[str], list[str]]] = {
    "two cases of letters": (["P0.PNG"], ["p0.png", "P0.png"]),
    "two folders": (["p0.png"], ["a/p0.png", "b/p0.png"]),
    "another folder": (["c/p0.png"], ["a/p0.png"]),
    "two names of one file": (["a/p0.png", "b/p0.png"], ["p0.png"]),
    "a name of another's file": (["p0.png", "P0.png"], ["p0.png"]),
    "another extension": (["p0.jpg"], ["p0.png"]),
    "another name": (["q0.png"], ["p0.png"]),
    "a folder above": (["sub/..%2f..%2fp0.png"], ["p0.png"]),
    "no name": (["%20/"], ["p0.png"]),
    "a name beyond any length": (["x" * 5000 + ".png"], ["p0.png"]),
}


def files(folder: Path, names: list[str]) -> Path:
    """Empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_the_file_that_is_meant(tmp_path: Path, name: str) -> None:
    """Among others; a file of the name itself needs no search."""
    folder = files(tmp_path / "images", [VARIANTS[name], "other.png"])
    assert matched([name, "other.png"], folder) == {name: VARIANTS[name]}
    assert matched([VARIANTS[name], "other.png"], folder) == {}


@pytest.mark.parametrize("case", UNCLEAR)
def test_unclear_names_are_not_matched(tmp_path: Path, case: str) -> None:
    """Nothing is guessed."""
    names, found = UNCLEAR[case]
    assert matched(names, files(tmp_path / "images", found)) == {}


def test_nothing_outside_the_folder_is_found(tmp_path: Path) -> None:
    """Neither by steps up, nor by an absolute name, nor encoded."""
    files(tmp_path, ["secret.png"])
    files(tmp_path / "images", ["a.png"])
    names = ["../secret.png", "%2e%2e/secret.png", "..\\secret.png", "images/../../secret.png"]
    assert matched(names, tmp_path / "images") == {}


def test_checked_and_read(tmp_path: Path) -> None:
    """The check and the reader take the same files, say so in one line, and call no such file unlisted."""
    content = small_content(3)
    write_folder(tmp_path, "val", content)
    names = ("images\\7/P0.png", "Cafe\u0301.png", "p2.png")
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    (tmp_path / "images/p1.png").rename(tmp_path / "images/Caf\u00e9.png")
    (tmp_path / "val.json").write_text(json.dumps(content))
    (problem,) = (p for p in check_folder(tmp_path, splits=("val",)) if p.kind != "categories without objects")
    assert (problem.severity, problem.kind) == ("warning", "file names that differ")
    assert "2 of 3 file names" in problem.what
    assert "'Cafe\\\\u0301.png' is 'Caf\\\\xe9.png'" in problem.what
    split = read_split(tmp_path, "val")
    assert [image.path.name for image in split.images] == ["p0.png", "Caf\u00e9.png", "p2.png"]
    assert len(split.notes) == 1 and "2 of 3 file names" in split.notes[0]
    assert load_sample(split.images[1], InputConfig(short_side=32)).image.isfinite().all()


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("p0.jpg", ["p0.jpeg"], "but there is 'p0.jpeg'; if that is it, write its name into the json"),
        ("P0.PNG", ["p0.png", "P0.png"], "but there is 'P0.png' and 1 more"),
        ("c/p0.png", ["a/p0.png"], "but there is 'a/p0.png'"),
        ("p0.png", ["q0.png"], "no such image; put it there"),
    ],
)
def test_what_differs_is_said(tmp_path: Path, name: str, found: list[str], words: str) -> None:
    """Where no file is meant without doubt, the check names one that is called alike."""
    content = small_content(1)
    write_folder(tmp_path, "val", content)
    (tmp_path / "images/p0.png").unlink()
    files(tmp_path / "images", found)
    content["images"][0]["file_name"] = name
    (tmp_path / "val.json").write_text(json.dumps(content))
    (problem,) = (p for p in check_folder(tmp_path, splits=("val",)) if p.kind == "missing images")
    assert words in str(problem)


def test_a_file_in_both_splits_by_two_names(tmp_path: Path) -> None:
    """What is tested on is what was learned from, whatever it is called."""
    for split, name in (("train", "p0.png"), ("val", "P0.png")):
        content = small_content(1)
        write_folder(tmp_path, split, content)
        content["images"][0]["file_name"] = name
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    lines, is_usable = report_folder(tmp_path)
    assert is_usable and any("'p0.png' is listed in train.json as well" in line for line in lines)
