"""The check of image files, and of what two splits have to do with each other."""

import json
from pathlib import Path

import numpy as np
import pytest
from oracles.coco_folder import small_content, write_folder
from PIL import Image

from freeanchor.data import images
from freeanchor.data.folder_check import check_folder, image_problems, report_folder, unlisted_problems
from freeanchor.data.images import open_image
from freeanchor.data.json_check import ImageEntry
from freeanchor.errors import Problem, problem_lines

ENTRY = ImageEntry(image_id=1, file_name="a.jpg", size=(40, 30))


def _saved(folder: Path, name: str = "a.jpg", size: tuple[int, int] = (40, 30), **options: object) -> Path:
    Image.effect_noise(size, 60).convert("RGB").save(folder / name, **options)
    return folder / name


def _found(folder: Path, entry: ImageEntry = ENTRY, **options: bool) -> list[tuple[str, str]]:
    """Severity and kind of what is found in one image."""
    problems = image_problems([entry], folder, **options)
    assert all(problem.where == f"{folder.name}/{entry.file_name}" for problem in problems)
    assert all("\n" not in str(problem) for problem in problems)
    return [(problem.severity, problem.kind) for problem in problems]


def test_a_good_image(tmp_path: Path) -> None:
    """Nothing is found, decoded or not."""
    _saved(tmp_path)
    assert _found(tmp_path) == _found(tmp_path, decode=False) == []


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0" + bytes(40)])
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes) -> None:
    """It is found by its header alone, and is missing where it is not there."""
    assert _found(tmp_path) == [("error", "missing images")]
    (tmp_path / "a.jpg").write_bytes(content)
    assert _found(tmp_path, decode=False) == [("error", "unreadable images")]


def test_a_folder_in_place_of_an_image(tmp_path: Path) -> None:
    """It is unreadable, as is an image under a name that passes through a file."""
    (tmp_path / "a.jpg").mkdir()
    assert _found(tmp_path) == [("error", "unreadable images")]
    _saved(tmp_path, "b.jpg")
    through = ImageEntry(image_id=1, file_name="b.jpg/c.jpg", size=None)
    assert _found(tmp_path, through) == [("error", "unreadable images")]


def test_a_truncated_image_shows_when_decoded(tmp_path: Path) -> None:
    """Its header is right, its end is missing."""
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-400])
    assert _found(tmp_path, decode=False) == []
    assert _found(tmp_path) == [("error", "unreadable images")]


def test_an_image_of_another_size(tmp_path: Path) -> None:
    """Both sizes are told; one that the json does not give cannot differ."""
    _saved(tmp_path, size=(30, 40))
    (problem,) = image_problems([ENTRY], tmp_path, decode=False)
    assert "30x40" in problem.what
    assert "40x30" in problem.what
    assert _found(tmp_path, ImageEntry(image_id=1, file_name="a.jpg", size=None)) == []


@pytest.mark.parametrize("orientation", [0, 1, 3, 6])
def test_an_image_turned_by_a_flag(tmp_path: Path, orientation: int) -> None:
    """It is read as stored, which is a warning unless the flag says upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    _saved(tmp_path, exif=exif)
    assert _found(tmp_path) == ([("warning", "images turned by a flag")] if orientation > 1 else [])


def test_an_image_too_large_to_be_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow refuses as a bomb is unreadable; what it only remarks on is read, without a word."""
    _saved(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert _found(tmp_path) == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert _found(tmp_path) == [("error", "unreadable images")]


@pytest.mark.parametrize("kind", ["eps", "ppm", "tga", "pcx", "ico", "jp2", "sgi", "dds", "pdf"])
def test_only_six_kinds_are_decoded(tmp_path: Path, kind: str) -> None:
    """By content, whatever Pillow could read and whatever the name says; the kinds are named."""
    path = _saved(tmp_path, f"a.{kind}")
    path.rename(tmp_path / "a.jpg")
    (problem,) = image_problems([ENTRY], tmp_path)
    assert problem.kind == "unreadable images"
    assert "(JPEG, PNG, WebP, BMP, GIF, TIFF); save it as one of these" in str(problem)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "gif", "tiff"])
def test_the_content_says_the_kind(tmp_path: Path, kind: str) -> None:
    """An image under another kind's name is read; of several in a file the first counts."""
    image = Image.new("RGB", (40, 30), (200, 10, 10))
    options = (
        {"save_all": True, "append_images": [Image.new("RGB", (40, 30))]} if kind in ("gif", "webp", "tiff") else {}
    )
    image.save(tmp_path / "a.jpg", format=kind, **options)
    assert _found(tmp_path) == []
    assert np.abs(np.asarray(open_image(tmp_path / "a.jpg")).astype(int) - (200, 10, 10)).max() <= 12


@pytest.mark.parametrize(("mode", "is_read"), [("RGB", True), ("L", False), ("RGBA", False), ("I;16", False)])
def test_an_image_that_swells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, is_read: bool) -> None:
    """One colour, tiny as a file, is refused by its header where its pixels would take 20 times its file and more.

    An image that needs less than the limit is read whatever its file's size, and one whose file is large as well.
    """
    monkeypatch.setattr(images, "MEMORY", 4 * 400 * 300)
    Image.new(mode, (400, 300)).save(tmp_path / "a.jpg", format="PNG")
    problems = image_problems([ImageEntry(image_id=1, file_name="a.jpg", size=None)], tmp_path, decode=False)
    assert [problem.kind for problem in problems] == ([] if is_read else ["unreadable images"])
    assert is_read or "has 120,000 pixels in" in str(problems[0])
    _saved(tmp_path, size=(400, 300))
    monkeypatch.setattr(images, "MEMORY", 0)
    assert _found(tmp_path, ImageEntry(image_id=1, file_name="a.jpg", size=None)) == []


def test_images_keep_their_order(tmp_path: Path) -> None:
    """However many are read side by side."""
    entries = [ImageEntry(image_id=i, file_name=f"{i}.jpg", size=None) for i in range(50)]
    assert [p.where for p in image_problems(entries, tmp_path)] == [f"{tmp_path.name}/{i}.jpg" for i in range(50)]


def test_files_that_are_not_listed(tmp_path: Path) -> None:
    """They are counted, in folders inside too; hidden ones do not count."""
    (tmp_path / "inner").mkdir()
    for name in ("a.jpg", "b.jpg", "inner/c.jpg", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (problem,) = unlisted_problems({"a.jpg"}, tmp_path)
    assert problem.severity == "warning"
    assert "2 files" in problem.what
    assert list(unlisted_problems({"a.jpg", "b.jpg", "inner/c.jpg"}, tmp_path)) == []


@pytest.mark.parametrize(("layout", "folder"), [("flat", "images"), ("coco", "val2017")])
def test_a_missing_image_folder(tmp_path: Path, layout: str, folder: str) -> None:
    """It is one error, not one per image; the json is checked all the same."""
    content = small_content(3)
    content["annotations"][0]["image_id"] = None
    write_folder(tmp_path, "val", small_content(3), layout=layout)
    path = next(tmp_path.rglob("*val*.json"))
    path.write_text(json.dumps(content))
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    errors = [p for p in check_folder(tmp_path, splits=("val",)) if p.severity == "error"]
    assert [(p.kind, p.where) for p in errors if p.kind == "missing files"] == [("missing files", f"{folder}/")]
    assert [p.kind for p in errors] == ["annotations of no images", "missing files"]


@pytest.mark.parametrize("text", ["", '{"images": [', "[1, 2]", "3", "\xff\xfe", "[" * 100_000])
def test_a_json_that_is_none(tmp_path: Path, text: str) -> None:
    """One error for its split; the other is checked, and files that it may have listed are not called strange."""
    for split in ("train", "val"):
        write_folder(tmp_path, split, small_content(2))
    (tmp_path / "val.json").write_bytes(text.encode("latin-1"))
    errors = [problem for problem in check_folder(tmp_path) if problem.severity == "error"]
    assert [(p.kind, p.where) for p in errors] == [("files that are not read", "val.json")]
    lines, _ = report_folder(tmp_path)
    assert lines[-2].startswith("train: 2 images")
    assert lines[-1] == "val: 1 error"
    assert not any("not listed" in line for line in lines)


def test_categories_that_differ(tmp_path: Path) -> None:
    """The first difference between the splits is told."""
    write_folder(tmp_path, "train", small_content(2))
    content = small_content(2)
    content["categories"] = [{**item, "name": item["name"].upper()} for item in content["categories"]]
    write_folder(tmp_path, "val", content)
    (problem,) = (p for p in check_folder(tmp_path) if p.kind == "categories that differ")
    assert problem.severity == "error"
    assert "2 is 'dot' in train, 'DOT' in val" in problem.what


def test_an_image_listed_twice(tmp_path: Path) -> None:
    """Both entries are warned of, however the name is spelt, and its file is looked at once."""
    content = small_content(2)
    content["images"][1]["file_name"] = "./p0.png"
    write_folder(tmp_path, "val", content)
    (tmp_path / "images" / "p0.png").unlink()
    kinds = [problem.kind for problem in check_folder(tmp_path, splits=("val",))]
    assert kinds.count("images listed twice") == 2
    assert kinds.count("missing images") == 1


def test_problems_are_cut_short_by_kind() -> None:
    """Errors come first; of each kind five are shown, with the number of the others."""
    problems = [
        Problem(severity=severity, kind=kind, where=f"a {i}", what="is bad", remedy="fix it")
        for severity, kind, count in (("warning", "dust", 2), ("error", "holes", 1239))
        for i in range(count)
    ]
    lines = problem_lines(problems)
    assert lines[0] == "error: a 0: is bad; fix it"
    assert lines[5] == "error: … and 1,234 more of this kind: holes"
    assert [line[:7] for line in lines[6:]] == ["warning"] * 2


def test_a_line_stays_a_line() -> None:
    """Names of files may hold anything; what a terminal cannot show is spelt out."""
    problem = Problem(severity="error", kind="k", where="a\nb\ud800é", what="x\x1b[2J", remedy="r")
    assert str(problem) == "error: a\\nb\\ud800é: x\\x1b[2J; r"
