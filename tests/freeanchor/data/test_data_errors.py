"""Bad data: one line each, naming the file and saying what to do."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.coco_folder import annotation, small_content, write_folder
from PIL import Image

from freeanchor.data.coco import InputConfig, load_sample, read_categories, read_split
from freeanchor.data.images import open_image
from freeanchor.errors import DataError


def _refused(name: str, read: Callable[[], object], *words: str) -> None:
    """One line, which names the file and has a remedy behind a semicolon."""
    with pytest.raises(DataError) as error:
        read()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in (name, ";", *words)), message


def test_places_without_data(tmp_path: Path) -> None:
    """A missing folder, a json in place of its folder and a folder without json are named."""
    (tmp_path / "file.json").write_text("{}")
    _refused("nowhere", lambda: read_split(tmp_path / "nowhere", "val"), "no such data folder")
    _refused("file.json", lambda: read_split(tmp_path / "file.json", "val"))
    _refused("train.json", lambda: read_split(tmp_path, "train"))


@pytest.mark.parametrize(("layout", "folder"), [("flat", "images"), ("coco", "val2017")])
def test_a_json_without_its_image_folder(tmp_path: Path, layout: str, folder: str) -> None:
    """The folder that is looked for is named."""
    write_folder(tmp_path, "val", small_content(1), layout=layout)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    _refused(folder, lambda: read_split(tmp_path, "val"))


@pytest.mark.parametrize(
    "text", ["", '{"images": [', '{"images": [{"id": 1}', "not json", "[1, 2]", "3", "null", "\xff\xfe"]
)
def test_a_json_that_is_none(tmp_path: Path, text: str) -> None:
    """Empty, truncated, foreign and binary files, and values other than an object, are refused."""
    (tmp_path / "images").mkdir()
    (tmp_path / "val.json").write_bytes(text.encode("latin-1"))
    for read in (read_split, read_categories):
        _refused("val.json", lambda read=read: read(tmp_path, "val"))


def test_an_annotation_is_named_by_its_id(tmp_path: Path) -> None:
    """Of many annotations, the bad one can be found."""
    content = small_content(1)
    write_folder(tmp_path, "val", content)
    content["annotations"].append(annotation(4711, 10, 2, [0, 0, float("nan"), 3]))
    (tmp_path / "val.json").write_text(json.dumps(content))
    _refused("val.json", lambda: read_split(tmp_path, "val"), "4711")


def test_an_image_that_is_not_the_jsons(tmp_path: Path) -> None:
    """It is named when it is loaded: missing, or with both sizes, as boxes would lie in the wrong places."""
    write_folder(tmp_path, "val", small_content(1))
    (record,) = read_split(tmp_path, "val").images
    Image.new("RGB", (32, 20)).save(record.path)
    _refused("p0.png", lambda: load_sample(record, InputConfig()), "32x20", "64x64")
    record.path.unlink()
    _refused("p0.png", lambda: load_sample(record, InputConfig()), "no such image")


@pytest.mark.parametrize(
    "content", [None, b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(40), bytes(500)]
)
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes | None) -> None:
    """Empty and foreign files, bare signatures, and a folder with an image's name, are refused."""
    path = tmp_path / "p.jpg"
    path.mkdir() if content is None else path.write_bytes(content)
    _refused("p.jpg", lambda: open_image(path))


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
