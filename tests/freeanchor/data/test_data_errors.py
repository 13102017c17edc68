"""Bad data: one line each, naming the file and saying what to do."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracles.coco_folder import annotation, small_content, write_folder
from PIL import Image

from freeanchor.data.coco import InputConfig, load_sample, read_categories, read_split
from freeanchor.data.images import open_image
from freeanchor.errors import DataError

Content = dict[str, Any]


def _one_line(error: pytest.ExceptionInfo[DataError], name: str) -> str:
    """The message, which names the file and has a remedy behind a semicolon."""
    message = str(error.value)
    assert "\n" not in message
    assert name in message
    assert ";" in message
    return message


def test_a_missing_folder(tmp_path: Path) -> None:
    """The folder is named."""
    with pytest.raises(DataError) as error:
        read_split(tmp_path / "nowhere", "val")
    assert "no such data folder" in _one_line(error, "nowhere")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    """A json given in place of its folder is refused."""
    path = tmp_path / "val.json"
    path.write_text("{}")
    with pytest.raises(DataError) as error:
        read_split(path, "val")
    _one_line(error, "val.json")


def test_a_folder_without_json(tmp_path: Path) -> None:
    """The json that is looked for is named."""
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError) as error:
        read_split(tmp_path, "train")
    _one_line(error, "train.json")


@pytest.mark.parametrize(("layout", "folder"), [("flat", "images"), ("coco", "val2017")])
def test_a_json_without_its_image_folder(tmp_path: Path, layout: str, folder: str) -> None:
    """The folder that is looked for is named."""
    write_folder(tmp_path, "val", small_content(1), layout=layout)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError) as error:
        read_split(tmp_path, "val")
    _one_line(error, folder)


@pytest.mark.parametrize(
    "text", ["", '{"images": [', '{"images": [{"id": 1}', "not json", "[1, 2]", "3", "null", "\xff\xfe"]
)
def test_a_json_that_is_none(tmp_path: Path, text: str) -> None:
    """Empty, truncated, foreign and binary files, and values other than an object, are refused."""
    (tmp_path / "images").mkdir()
    (tmp_path / "val.json").write_bytes(text.encode("latin-1"))
    for read in (read_split, read_categories):
        with pytest.raises(DataError) as error:
            read(tmp_path, "val")
        _one_line(error, "val.json")


def _without(key: str) -> Callable[[Content], Content]:
    return lambda content: {name: value for name, value in content.items() if name != key}


def _with(key: str, value: Any) -> Callable[[Content], Content]:
    return lambda content: {**content, key: value}


def _entry(key: str, **changes: Any) -> Callable[[Content], Content]:
    """The first entry of a list with fields changed; None takes a field out."""

    def change(content: Content) -> Content:
        first = {**content[key][0], **changes}
        first = {name: value for name, value in first.items() if value is not None}
        return {**content, key: [first, *content[key][1:]]}

    return change


MALFORMED: dict[str, Callable[[Content], Content]] = {
    "no list of images": _without("images"),
    "no list of annotations": _without("annotations"),
    "no list of categories": _without("categories"),
    "images that are no list": _with("images", {"1": "a.png"}),
    "annotations that are null": _with("annotations", None),
    "an empty list of images": _with("images", []),
    "an empty list of categories": _with("categories", []),
    "an annotation of an unknown image": _entry("annotations", image_id=999),
    "an annotation of an unknown category": _entry("annotations", category_id=999),
    "a box of nan": _entry("annotations", bbox=[1.0, 2.0, float("nan"), 4.0]),
    "a box of infinity": _entry("annotations", bbox=[1.0, float("inf"), 2.0, 4.0]),
    "a box of three numbers": _entry("annotations", bbox=[1.0, 2.0, 3.0]),
    "a box of letters": _entry("annotations", bbox=["a", "b", "c", "d"]),
    "a box of negative width": _entry("annotations", bbox=[10.0, 10.0, -3.0, 4.0]),
    "an annotation without a box": _entry("annotations", bbox=None),
    "an annotation without an id": _entry("annotations", id=None),
    "an annotation without an image": _entry("annotations", image_id=None),
    "an annotation without a category": _entry("annotations", category_id=None),
    "an image without a width": _entry("images", width=None),
    "an image without a file name": _entry("images", file_name=None),
    "an image without an id": _entry("images", id=None),
    "a width of letters": _entry("images", width="wide"),
    "a category without a name": _entry("categories", name=None),
    "a category without an id": _entry("categories", id=None),
    "a category id of letters": _entry("categories", id="bar"),
    "annotations that are lists": _with("annotations", [[1, 2, 3]]),
    "images that are names": _with("images", ["a.png"]),
    "two images of one id": lambda content: {**content, "images": [*content["images"], content["images"][0]]},
    "two categories of one id": lambda content: {
        **content,
        "categories": [*content["categories"], {"id": 2, "name": "x"}],
    },
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_json(tmp_path: Path, name: str) -> None:
    """Whatever is missing or mistyped, one line names the file."""
    write_folder(tmp_path, "val", small_content(2))
    content = MALFORMED[name](small_content(2))
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_split(tmp_path, "val")
    _one_line(error, "val.json")


@pytest.mark.parametrize("name", ["a category without a name", "a category without an id", "a category id of letters"])
def test_malformed_categories_alone(tmp_path: Path, name: str) -> None:
    """Reading nothing but the categories complains in the same way: the front door begins with it."""
    write_folder(tmp_path, "val", small_content(2))
    (tmp_path / "val.json").write_text(json.dumps(MALFORMED[name](small_content(2))))
    with pytest.raises(DataError) as error:
        read_categories(tmp_path, "val")
    _one_line(error, "val.json")


def test_an_annotation_is_named_by_its_id(tmp_path: Path) -> None:
    """Of many annotations, the bad one can be found."""
    content = small_content(1)
    content["annotations"].append(annotation(4711, 10, 2, [0, 0, float("nan"), 3]))
    write_folder(tmp_path, "val", small_content(1))
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="4711"):
        read_split(tmp_path, "val")


def test_a_missing_image(tmp_path: Path) -> None:
    """The image is named when it is loaded."""
    write_folder(tmp_path, "val", small_content(1))
    (tmp_path / "images" / "p0.png").unlink()
    with pytest.raises(DataError) as error:
        load_sample(read_split(tmp_path, "val").images[0], InputConfig())
    assert "no such image" in _one_line(error, "p0.png")


def test_a_folder_in_place_of_a_image(tmp_path: Path) -> None:
    """A folder with an image's name is refused."""
    (tmp_path / "p.png").mkdir()
    with pytest.raises(DataError) as error:
        open_image(tmp_path / "p.png")
    _one_line(error, "p.png")


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(40), bytes(500)]
)
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes) -> None:
    """Empty and foreign files, and bare signatures, are refused."""
    (tmp_path / "p.jpg").write_bytes(content)
    with pytest.raises(DataError) as error:
        open_image(tmp_path / "p.jpg")
    _one_line(error, "p.jpg")


@pytest.mark.parametrize("suffix", ["jpeg", "png", "gif", "bmp", "webp", "tiff"])
def test_a_truncated_image(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere, an image is either refused in one line or, where its end holds no pixels, read whole."""
    image = Image.effect_noise((40, 30), 60).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format=suffix)
    content, path = buffer.getvalue(), tmp_path / f"p.{suffix}"
    refused = 0
    for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        try:
            assert open_image(path).size == (40, 30)
        except DataError as error:
            assert "\n" not in str(error)
            assert path.name in str(error)
            refused += 1
    assert refused >= 9


def test_a_image_of_another_size_than_the_json_says(tmp_path: Path) -> None:
    """Both sizes are named: boxes would lie in the wrong places."""
    write_folder(tmp_path, "val", small_content(1))
    Image.new("RGB", (32, 20)).save(tmp_path / "images" / "p0.png")
    with pytest.raises(DataError) as error:
        load_sample(read_split(tmp_path, "val").images[0], InputConfig())
    message = _one_line(error, "p0.png")
    assert "32x20" in message
    assert "64x64" in message
