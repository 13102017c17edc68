"""`detect`: boxes drawn on copies of images, in the pixels of the file."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import FLOAT32, tiny_detector, tiny_model

from analysis.figures import lettering
from experiments.cli import main
from experiments.commands.detect import detect, draw_detections, expanded
from experiments.commands.objects import image_at
from freeanchor.checkpoints.native import save_model
from freeanchor.data.coco import InputConfig, load_sample
from freeanchor.data.images import open_image, upright
from freeanchor.errors import CheckpointError, DataError, UsageError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network that finds something everywhere."""
    model = tiny_model(prior_prob=0.5)
    with torch.no_grad():
        model.cls_head.output.weight.mul_(30)
    save_model(tmp_path / "model.safetensors", model, tiny_detector(prior_prob=0.5))
    return tmp_path / "model.safetensors"


def _photo(path: Path, size: tuple[int, int] = (150, 100)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_detections_are_drawn_and_listed(tmp_path: Path, checkpoint: Path) -> None:
    """A png an image, of the image's size and different from it, and one json with every row."""
    photos = [_photo(tmp_path / "a.jpg"), _photo(tmp_path / "b.png", (90, 120))]
    before = [path.read_bytes() for path in photos]
    rows = detect(photos, checkpoint, tmp_path / "out", min_score=0.5, runtime=FLOAT32)
    assert rows == json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {row["file"] for row in rows} == {"a.jpg", "b.png"}
    for path in photos:
        drawn = open_image(tmp_path / "out" / f"{path.stem}.png")
        plain = draw_detections(open_image(path), [], tiny_detector().category_ids)
        assert drawn.size == plain.size
        assert not np.array_equal(np.array(drawn), np.array(plain))
    assert [path.read_bytes() for path in photos] == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "detections.json"]


def test_names_are_printed_and_drawn_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Marks that turn the text, and names of any length, of files and of classes; in the json they stay as they are."""
    names = ("bolt \u202egnp.exe", "x" * 5000, "\u2067nut")
    model = tiny_model(prior_prob=0.5)
    with torch.no_grad():
        model.cls_head.output.weight.mul_(30)
    save_model(tmp_path / "m.safetensors", model, replace(tiny_detector(prior_prob=0.5), category_names=names))
    photo = _photo(tmp_path / "a\n\x1b[2J.png")
    out = tmp_path / "out"
    assert main(["detect", str(photo), "--checkpoint", str(tmp_path / "m.safetensors"), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads((out / "detections.json").read_text())
    assert len(lines) == len(rows) + 1 and all(line.isprintable() and len(line) < 500 for line in lines)
    assert {row["category"] for row in rows} <= {*names} and r"a\n\x1b[2J.png: " in lines[0]


def test_rows_are_in_the_files_pixels_best_first(tmp_path: Path, checkpoint: Path) -> None:
    """Scores above the limit, boxes as x, y, width, height inside the image, categories by id and name."""
    rows = detect([_photo(tmp_path / "a.png")], checkpoint, tmp_path / "out", min_score=0.6, runtime=FLOAT32)
    assert len(rows) > 3
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.6
    names = dict(zip((2, 5, 9), ("dot", "box", "bar"), strict=True))
    for row in rows:
        x, y, width, height = row["bbox"]
        assert min(x, y, width, height) >= 0
        assert x + width <= 150.01
        assert y + height <= 100.01
        assert row["category"] == names[row["category_id"]]
    assert max(row["bbox"][0] + row["bbox"][2] for row in rows) > 100  # not in the 96 px that the network saw


def test_nothing_found_leaves_the_image_as_it_is(tmp_path: Path, checkpoint: Path) -> None:
    """A copy without boxes, enlarged as small images are, and an empty list."""
    photo = _photo(tmp_path / "a.png")
    assert detect([photo], checkpoint, tmp_path / "out", min_score=1.0, runtime=FLOAT32) == []
    enlarged = open_image(photo).resize((960, 640), Image.Resampling.BICUBIC)
    assert np.array_equal(np.array(open_image(tmp_path / "out" / "a.png")), np.array(enlarged))


@pytest.mark.parametrize(
    ("size", "shown"), [((60, 40), (960, 640)), ((40, 60), (640, 960)), ((2000, 500), (2000, 500))]
)
def test_small_images_are_enlarged_and_large_ones_left(size: tuple[int, int], shown: tuple[int, int]) -> None:
    """The long side is shown at 960 px at least, the shape kept."""
    assert draw_detections(Image.new("RGB", size, "white"), [], tiny_detector().category_ids).size == shown


@pytest.mark.parametrize("box", [[0, 0, 60, 40], [-5, -5, 10, 10], [50, 30, 10, 10], [10, 10, 0, 0], [0, 39, 60, 1]])
def test_boxes_at_the_border_can_be_drawn(box: list[float]) -> None:
    """Labels of boxes at any border stay drawable, boxes of no extent too, and the image itself is not painted on."""
    image = Image.new("RGB", (60, 40), "white")
    row = {"category_id": 5, "category": "box", "score": 0.875, "bbox": box}
    drawn = draw_detections(image, [row], tiny_detector().category_ids)
    assert drawn.size == (960, 640)
    assert np.array(drawn).min() < 255
    assert np.array(image).min() == 255


def test_surer_boxes_lie_on_top() -> None:
    """Where two boxes meet, the colour of the higher score shows."""
    rows = [
        {"category_id": number, "category": "", "score": score, "bbox": [10, 20, 40, 40]}
        for number, score in ((2, 0.9), (9, 0.4))
    ]
    image = Image.new("RGB", (80, 80), "white")
    both, best = (draw_detections(image, chosen, tiny_detector().category_ids) for chosen in (rows, rows[:1]))
    corner = (12 * 50, 12 * 60)  # of the box, where 80 px are shown as 960
    assert both.getpixel(corner) == best.getpixel(corner) != (255, 255, 255)


def test_two_images_of_one_name_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    """Their results would overwrite each other; both are named."""
    photos = [_photo(tmp_path / "a.jpg"), _photo(tmp_path / "a.png")]
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png share a name"):
        detect(photos, checkpoint, tmp_path / "out", min_score=0.5, runtime=FLOAT32)


@pytest.mark.parametrize("out", ["pics", "pics/../pics", "link"])
def test_a_drawing_never_replaces_its_image(tmp_path: Path, out: str) -> None:
    """However the folder is spelled; before the checkpoint is looked at, and the image stays as it was."""
    (tmp_path / "pics").mkdir()
    (tmp_path / "link").symlink_to("pics")
    photo = _photo(tmp_path / "pics" / "a.png")
    before = photo.read_bytes()
    with pytest.raises(UsageError, match=r"a\.png: a drawing would overwrite it; give another --out"):
        detect([photo], tmp_path / "none", tmp_path / out, min_score=0.5, runtime=FLOAT32)
    assert photo.read_bytes() == before
    assert [path.name for path in photo.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("out", ["a.jpg", "a.jpg/deeper", "full", "listed"])
def test_results_that_have_no_place_are_refused_at_once(tmp_path: Path, out: str) -> None:
    """A file where the folder should be, or above it, and folders where the drawing or the json should be."""
    photo = _photo(tmp_path / "a.jpg")
    (tmp_path / "full" / "a.png").mkdir(parents=True)
    (tmp_path / "listed" / "detections.json").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"a\.jpg is no folder|is a folder where a result would be written"):
        detect([photo], tmp_path / "none", tmp_path / out, min_score=0.5, runtime=FLOAT32)


def _stored(shown: Image.Image, flag: int) -> Image.Image:
    """The pixels that a camera held as `flag` says stores, for viewers to show `shown`."""
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    return shown.transpose(turns[flag])


@pytest.mark.parametrize("flag", [3, 6, 8])
def test_a_turned_photo_is_detected_upright(tmp_path: Path, checkpoint: Path, flag: int) -> None:
    """Rows and drawing are those of the image as viewers show it; the file stays as it was, other images too."""
    with Image.open(_photo(tmp_path / "a.png")) as image:
        shown = image.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = flag
    turned = tmp_path / "turned" / "a.png"
    turned.parent.mkdir()
    _stored(shown, flag).save(turned, exif=exif)
    before = turned.read_bytes()
    plain = [tmp_path / "a.png", _photo(tmp_path / "b.png", (90, 120))]
    expected = detect(plain, checkpoint, tmp_path / "plain", min_score=0.5, runtime=FLOAT32)
    assert detect([turned, plain[1]], checkpoint, tmp_path / "out", min_score=0.5, runtime=FLOAT32) == expected
    for name in ("a.png", "b.png"):
        drawn, theirs = (np.array(open_image(tmp_path / folder / name)) for folder in ("out", "plain"))
        assert np.array_equal(drawn, theirs)
    assert turned.read_bytes() == before


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_a_image_whose_exif_says_nothing_stays_as_it_is(tmp_path: Path, exif: bytes) -> None:
    """Without a flag, or with a header that cannot be read, the pixels count as they are stored."""
    with Image.open(_photo(tmp_path / "a.png")) as image:
        image.save(tmp_path / "a.jpg", exif=exif)
    image = open_image(tmp_path / "a.jpg")
    assert upright(image) is image


@pytest.mark.parametrize("bad", ["missing", "truncated", "text"])
def test_a_bad_image_is_found_before_anything_is_written(tmp_path: Path, checkpoint: Path, bad: str) -> None:
    """Even when it is the second of two."""
    good, other = _photo(tmp_path / "a.png"), tmp_path / "b.png"
    if bad == "truncated":
        other.write_bytes(_photo(other).read_bytes()[:2000])
    elif bad == "text":
        other.write_text("hello")
    with pytest.raises(DataError, match=r"b\.png"):
        detect([good, other], checkpoint, tmp_path / "out", min_score=0.5, runtime=FLOAT32)
    assert not (tmp_path / "out").exists()


def test_a_bad_checkpoint_is_found_before_anything_is_written(tmp_path: Path) -> None:
    """Its path is named."""
    photo = _photo(tmp_path / "a.png")
    with pytest.raises(CheckpointError, match=r"a\.png"):
        detect([photo], photo, tmp_path / "out", min_score=0.5, runtime=FLOAT32)
    assert not (tmp_path / "out").exists()


def test_images_have_no_objects(tmp_path: Path) -> None:
    """A bare image can be loaded as any other, without boxes."""
    image = image_at(_photo(tmp_path / "a.png"), 3)
    sample = load_sample(image, InputConfig(short_side=32))
    assert (image.image_id, len(image.boxes), tuple(sample.image.shape)) == (3, 0, (3, 32, 48))


def test_onnx_gives_the_same_rows_without_torch(tmp_path: Path, checkpoint: Path) -> None:
    """By the command line in a process of its own, in which torch is never imported; a turned photo upright."""
    model = tmp_path / "model.onnx"
    assert main(["export", "--to", "onnx", str(checkpoint), str(model)]) == 0
    photos = [_photo(tmp_path / "a.png"), tmp_path / "b.jpg"]
    exif = Image.Exif()
    exif[0x0112] = 6
    open_image(_photo(tmp_path / "c.png", (90, 120))).save(photos[1], exif=exif)
    expected = detect(photos, checkpoint, tmp_path / "torch", min_score=0.5, runtime=FLOAT32)
    options = ["--checkpoint", str(model), "--out", str(tmp_path / "out"), "--threads", "1"]
    code = "import sys; from experiments.cli import main; status = main(sys.argv[1:]); sys.exit(status or 9 * ('torch' in sys.modules))"
    command = [sys.executable, "-c", code, "detect", *map(str, photos), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [(row["file"], row["category"]) for row in rows] == [(row["file"], row["category"]) for row in expected]
    for row, theirs in zip(rows, expected, strict=True):
        assert row["bbox"] == pytest.approx(theirs["bbox"], abs=0.05)
        assert row["score"] == pytest.approx(theirs["score"], abs=2e-4)
    assert (tmp_path / "out" / "b.png").exists()


@pytest.mark.parametrize("options", [["--device", "cuda"], ["--precision", "bfloat16"], ["--threads", "-1"]])
def test_onnx_refuses_what_it_would_ignore(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """One line that names the option, exit status 2, before the model is looked for."""
    arguments = ["detect", str(_photo(tmp_path / "a.png")), "--checkpoint", "none.onnx", "--out", str(tmp_path / "out")]
    assert main([*arguments, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert options[0] in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["model.safetensors", "model.bin", "."])
def test_an_export_never_replaces_its_source(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    """Nor takes a folder, nor a name that detect would not know for ONNX's."""
    before = checkpoint.read_bytes()
    assert main(["export", "--to", "onnx", str(checkpoint), str(tmp_path / target)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "give" in line
    assert checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def _detected(tmp_path: Path, *given: str) -> list[str]:
    """The images that `freeanchor detect --json` reads, in its order."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        model = ["--checkpoint", str(tmp_path / "model.safetensors"), "--device", "cpu", "--min-score", "0.5", "--json"]
        assert main(["detect", *given, *model, "--out", str(tmp_path / "pics")]) in (0, None)
    return list(dict.fromkeys(row["file"] for row in json.loads(out.getvalue())))


def test_a_folder_stands_for_its_images(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In natural order, hidden files, other files and folders inside left out; its own drawings are no images of it."""
    assert checkpoint.exists()
    (tmp_path / "pics" / "inside").mkdir(parents=True)
    for name in ("10.jpg", "2.jpg", "B1.webp", "a 3.JPEG", "inside/x.jpg", ".hidden.jpg"):
        _photo(tmp_path / "pics" / name)
    (tmp_path / "pics" / "notes.txt").write_text("a")
    expected = ["2.jpg", "10.jpg", "a 3.JPEG", "B1.webp"]
    assert _detected(tmp_path, str(tmp_path / "pics")) == expected
    assert "4 images; left out: 2 other files and folders" in capsys.readouterr().err
    assert _detected(tmp_path, str(tmp_path / "pics")) == expected
    assert "4 images; left out: 4 drawings of detections, 3 other files" in capsys.readouterr().err


@pytest.mark.parametrize("holds", ["nothing", "drawings"])
def test_a_folder_without_images(tmp_path: Path, checkpoint: Path, holds: str) -> None:
    """It is refused before anything is written, and says why."""
    (tmp_path / "pics").mkdir()
    if holds == "drawings":
        detect([_photo(tmp_path / "a.jpg")], checkpoint, tmp_path / "pics", min_score=0.5, runtime=FLOAT32)
        (tmp_path / "pics/detections.json").unlink()
    words = "nothing but drawings" if holds == "drawings" else "holds no image"
    with pytest.raises(DataError, match=words):
        expanded([tmp_path / "pics"])


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J dot", "热带鱼 рыба", "x" * 5000, "$a$", "\ud800", "é"])
def test_any_name_can_be_drawn(name: str) -> None:
    """A line break is no second line, a long name leaves the image visible, and no letter is an error."""
    image = Image.new("RGB", (200, 100), "white")
    row = {"category": name, "category_id": 1, "score": 0.5, "bbox": [20, 50, 60, 30]}
    drawn = np.array(draw_detections(image, [row], [1]))
    assert (drawn[: drawn.shape[0] // 2, :400] < 128).any()  # its letters
    assert (drawn == 255).all(axis=2).mean() > 0.5


def test_letters_that_no_font_has_are_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for all of a model's names, after the results are there; known letters need none."""
    model = tiny_model(prior_prob=0.5)
    monkeypatch.setattr(lettering, "families", lambda: ["DejaVu Sans"])
    for names, notes in ((("热带鱼", "热", "bär"), 1), (("dot", "bär", "рыба"), 0)):
        save_model(tmp_path / "m.safetensors", model, replace(tiny_detector(prior_prob=0.5), category_names=names))
        detect(
            [_photo(tmp_path / "a.png")], tmp_path / "m.safetensors", tmp_path / "out", min_score=0.1, runtime=FLOAT32
        )
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == notes and all("热" in line and "in no font here" in line for line in lines)
