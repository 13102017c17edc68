"""Image files: every kind is read as RGB or refused by name, in detection, in the check of a folder, in training."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles.coco_folder import annotation, small_content, write_folder
from oracles.odd_images import BROKEN, GOOD, SIZE, SIZES, scene, write_odd
from PIL import Image, ImageFile
from tiny import tiny_detector, tiny_model

from bad_input.outcome import files_in, handled, refused, run
from freeanchor.checkpoints.native import save_model
from freeanchor.data import images as image_files
from freeanchor.data.coco import InputConfig, load_sample, read_split
from freeanchor.data.images import open_image
from freeanchor.errors import DataError

ODD = [*GOOD, *SIZES]
COPY, REPLACE = "copy the image again", "replace the file"
REFUSED = {
    "missing": ("no such image", "put it there"),
    "empty": ("not an image", REPLACE),
    "text": ("not an image", REPLACE),
    "web page": ("not an image", REPLACE),
    "bare header": ("not an image", REPLACE),
    "truncated jpeg": ("truncated", COPY),
    "truncated png": ("cannot be read", COPY),
    "damaged png": ("cannot be read", COPY),
    "20,000 px squared": ("has 400,000,000 pixels", "make it smaller"),
    "32-bit float": ("32 bits", "save it with 8 or 16 bits"),
    "folder": ("no file", "replace it"),
    "pipe": ("no file", "replace it"),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that finds something everywhere."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_model(path, tiny_model(prior_prob=0.5), tiny_detector(prior_prob=0.5))
    return path


def _folder(directory: Path, name: str, **image: object) -> Path:
    """A data folder whose first training image is the odd one, with an object as large as it; its name is odd.png."""
    for split in ("train", "val"):
        content = small_content(2, seed=len(split))
        for item in content["images"]:
            item["file_name"] = f"{split}-{item['file_name']}"
        write_folder(directory, split, content)
    width, height = write_odd(name, directory / "images" / "odd.png")
    content = json.loads((directory / "train.json").read_text())
    content["images"][0].update({"file_name": "odd.png", "width": width, "height": height} | image)
    content["annotations"].append(annotation(99, 10, 5, [0, 0, width, height]))
    (directory / "train.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("name", ODD)
def test_every_kind_of_image_is_detected_on(name: str, checkpoint: Path, tmp_path: Path) -> None:
    """`freeanchor detect` draws it upright, with finite boxes inside the image and no word on stderr."""
    path, out = tmp_path / "odd.png", tmp_path / "out"
    stored = write_odd(name, path)
    width, height = stored[::-1] if name == "turned by EXIF" else stored
    outcome = handled(["detect", path, "--checkpoint", checkpoint, "--out", out, "--min-score", "0.4", "--json"])
    for row in json.loads(outcome.out):
        x, y, w, h = row["bbox"]
        assert 0 <= row["score"] <= 1
        assert min(x, y, w, h) >= 0 and x + w <= width + 0.1 and y + h <= height + 0.1
    with Image.open(out / "odd.png") as drawn:
        assert drawn.size[0] >= width and drawn.size[1] >= height


@pytest.mark.parametrize("name", ODD)
def test_every_kind_of_image_is_trained_on(name: str, tmp_path: Path) -> None:
    """The folder passes the check, and the network's input is finite, with the image's bright and dark halves."""
    folder = _folder(tmp_path / "data", name)
    lines = run(["data", "check", folder]).out.splitlines()
    assert [line for line in lines if line.startswith("error")] == []
    warned = [line for line in lines if "viewers turn it" in line]
    assert len(warned) == ("EXIF" in name)
    sample = load_sample(read_split(folder, "train").images[0], InputConfig(short_side=64, max_long_side=512))
    assert sample.image.isfinite().all() and sample.boxes.isfinite().all()
    if name in GOOD:
        pixels = np.asarray(open_image(folder / "images" / "odd.png")).astype(int)
        assert np.abs(pixels - np.asarray(scene())).max() <= 12


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_image_is_refused_by_detection(name: str, checkpoint: Path, tmp_path: Path) -> None:
    """One line names it before anything is written, though a good image came first."""
    good, path = tmp_path / "good.png", tmp_path / "odd.png"
    scene().save(good)
    write_odd(name, path)
    command = ["detect", good, path, "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    words = ("holds no image", "give image files") if name == "folder" else REFUSED[name]  # one stands for its images
    refused(tmp_path, command, "odd.png", *words)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_image_is_refused_by_check_and_training(name: str, tmp_path: Path, small_backbone: list[str]) -> None:
    """The check lists it; a training that meets it ends with the same words, and without a model."""
    folder = _folder(tmp_path / "data", name)
    refused(folder, ["data", "check", folder], "odd.png", *REFUSED[name])
    places = [f"--{place}={tmp_path / place}" for place in ("runs", "drawn", "reports")]
    outcome = run(["train", "retinanet-small-s0", "--profile", "photos", "--data", folder, *places, *small_backbone])
    assert outcome.status == 2
    item, remedy = REFUSED[name]
    assert "odd.png" in outcome.complaints[-1] and item in outcome.complaints[-1] and remedy in outcome.complaints[-1]
    assert not any(file.endswith(("model.safetensors", "train.json", ".tmp")) for file in files_in(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("name", "size", "item", "remedy"),
    [
        ("grey", (48, 64), "is 64x48 pixels, the json says 48x64", "correct whichever is wrong"),
        ("grey", (640, 480), "the json says 640x480", "correct whichever is wrong"),
        ("turned by EXIF", (48, 64), "as viewers turn it (EXIF orientation 6)", "store it turned, without the flag"),
    ],
)
def test_a_size_unlike_the_json_is_refused(
    name: str, size: tuple[int, int], item: str, remedy: str, tmp_path: Path
) -> None:
    """Boxes would lie in the wrong places; where an EXIF flag is the reason, it is named."""
    folder = _folder(tmp_path / "data", name, width=size[0], height=size[1])
    refused(folder, ["data", "check", folder], "odd.png", item, remedy)
    with pytest.raises(DataError) as error:
        load_sample(read_split(folder, "train").images[0], InputConfig(short_side=64))
    assert item in str(error.value) and str(error.value).endswith(remedy)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a pixel of it is unpacked."""
    write_odd("20,000 px squared", tmp_path / "p.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("unpacked"))
    with pytest.raises(DataError, match="400,000,000 pixels"):
        open_image(tmp_path / "p.png")


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A process that is refused the 20,000 px image, 1.2 GB of pixels, needs less than 50 MB for it."""
    write_odd("20,000 px squared", tmp_path / "p.png")
    code = (
        "import resource, runpy, sys; from pathlib import Path\n"
        "read_image = runpy.run_path(sys.argv[1])['read_image']\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(Path(sys.argv[2]))\n"
        "except ValueError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, image_files.__file__, str(tmp_path / "p.png")]
    growth = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0 <= int(growth) < 50_000  # kB


@pytest.mark.parametrize("file_name", ["{outside}/p.png", "../outside/p.png", "sub/../../../outside/p.png"])
def test_no_name_leads_out_of_the_folder(file_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that lies outside is not opened, by training, by the check, or with a good image of its name."""
    outside = tmp_path / "outside"
    outside.mkdir()
    scene((64, 64)).save(outside / "p.png")
    folder = _folder(tmp_path / "data", "grey", file_name=file_name.format(outside=outside), width=64, height=64)
    touched: list[str] = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **how: touched.append(str(path)) or original(path, **how))
    refused(folder, ["data", "check", folder], "train.json", "image 10", "inside the image folder")
    with pytest.raises(DataError, match="inside the image folder"):
        read_split(folder, "train")
    assert not [path for path in touched if "outside" in path or ".." in path]


@pytest.mark.parametrize("link", ["an image", "a folder of images", "the image folder", "the data folder"])
def test_links_are_followed(link: str, tmp_path: Path) -> None:
    """Whoever owns the folder made them: data sets often lie on another disk. A json cannot make one."""
    folder, elsewhere = _folder(tmp_path / "data", "grey"), tmp_path / "elsewhere"
    images = folder / "images"
    if link == "an image":
        (images / "odd.png").rename(elsewhere)
        (images / "odd.png").symlink_to(elsewhere)
    elif link == "a folder of images":
        elsewhere.mkdir()
        (images / "odd.png").rename(elsewhere / "odd.png")
        (images / "sub").symlink_to(elsewhere)
        text = (folder / "train.json").read_text()
        (folder / "train.json").write_text(text.replace('"odd.png"', '"sub/odd.png"'))
    elif link == "the image folder":
        images.rename(elsewhere)
        images.symlink_to(elsewhere)
    else:
        folder = folder.rename(elsewhere)
        (tmp_path / "data").symlink_to(elsewhere)
    assert run(["data", "check", tmp_path / "data"]).status == 0
    image = read_split(tmp_path / "data", "train").images[0]
    assert (image.width, image.height) == SIZE
    assert load_sample(image, InputConfig(short_side=64)).image.isfinite().all()


@pytest.mark.parametrize("link", ["to itself", "to nothing"])
def test_broken_links_are_refused(link: str, tmp_path: Path) -> None:
    """A circle, and a link whose file is gone, are bad images like others."""
    folder = _folder(tmp_path / "data", "missing")
    (folder / "images" / "odd.png").symlink_to("odd.png" if link == "to itself" else "gone.png")
    expected = ("symbolic", COPY) if link == "to itself" else REFUSED["missing"]
    refused(folder, ["data", "check", folder], "odd.png", *expected)
    with pytest.raises(DataError, match=rf"odd\.png: .*; {expected[1]}"):
        load_sample(read_split(folder, "train").images[0], InputConfig(short_side=64))


def test_the_table_is_whole() -> None:
    """Every broken image has an expectation."""
    assert set(BROKEN) | {"missing", "folder", "pipe"} == set(REFUSED)
