"""Every reader of files with a good file of its kind, so that spoilt copies can be fed to it.

READERS["detections"].check(spoilt_bytes, folder)      # raises AssertionError, or whatever the reader should not

A reader either raises its own error, one line that names the file, or gives a result that makes sense.
"""

import gzip
import importlib.util
import io
import json
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from oracles.coco_folder import small_content
from oracles.mutations import json_bytes
from oracles.odd_images import scene
from oracles.voc_folder import draw, numbered, voc_object, voc_xml, write_official
from tiny import FLOAT32, tiny_detector, tiny_model, tiny_recipe
from world_columns import our_statistics

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import read_detections, read_ground_truth
from bad_input.outcome import run
from bad_input.traps import onnx_file
from experiments.runs.store import MEASURED, TRAINED, stored_frame, stored_record
from freeanchor.checkpoints.foreign_files import read_weights
from freeanchor.checkpoints.native import FORMAT, describe, load_model
from freeanchor.data.coco import read_categories_file, read_split
from freeanchor.data.folder_check import check_folder
from freeanchor.data.images import open_image
from freeanchor.data.voc import convert_voc
from freeanchor.data.voc_files import find_layout
from freeanchor.errors import CheckpointError, DataError, FreeAnchorError, is_line
from freeanchor.inference.onnx_detector import load_onnx
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.training.state import start

CONTENT = small_content(3)
FOUND = [
    {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for item in CONTENT["annotations"]
]
_RECIPE = tiny_recipe(FreeAnchorLoss())
HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How a kind of file is read, what may be raised, and a good one: a json value with its form, or bytes alone.

    `trap` is the kind of traps that are laid for it (`bad_input.traps`). An error names the file, or the folder that lies
    `depth` above it.
    """

    name: str
    file: str
    read: Callable[[Path], None]
    error: type[Exception]
    value: Any = None
    form: Callable[[Any], bytes] = json_bytes
    good: Callable[[], bytes] | None = None
    trap: str = "json"
    depth: int = 0

    def whole(self) -> bytes:
        """The good file."""
        return self.good() if self.good else self.form(self.value)

    def check(self, data: bytes, folder: Path) -> bool:
        """Whether a file of that content is taken; an AssertionError where it is refused in no clear line."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # arithmetic on what is not a number
                warnings.simplefilter("ignore", UserWarning)  # the notes
                self.read(path)
        except self.error as error:
            message, named = str(error), (path, *path.parents)[self.depth]
            assert str(named) in message and message.isprintable() and "\n" not in message and len(message) < 2000, (
                message
            )
            return False
        return True


def _check_columns(columns: GroundTruth | Detections) -> None:
    assert np.isfinite(columns.boxes).all() and (columns.sizes >= 0).all()
    assert len(columns.boxes) == len(columns.image_id) == len(columns.category_id)


def _ground_truth(path: Path) -> None:
    ground_truth = read_ground_truth(path)
    _check_columns(ground_truth)
    assert np.isfinite(ground_truth.area).all() and (ground_truth.area >= 0).all()
    assert all(name.encode() and "\n" not in name for name in ground_truth.category_names if name)
    _check_statistics(ground_truth, _perfect(ground_truth))


def _perfect(ground_truth: GroundTruth) -> Detections:
    return Detections(
        image_id=ground_truth.image_id,
        category_id=ground_truth.category_id,
        boxes=ground_truth.boxes,
        scores=np.ones(len(ground_truth.boxes)),
        sizes=ground_truth.sizes,
    )


def _check_statistics(ground_truth: GroundTruth, detections: Detections) -> None:
    values = np.array(list(our_statistics(ground_truth, detections).values()))
    assert ((values >= 0) & (values <= 1 + 1e-9) | np.isnan(values)).all()


@cache
def _known() -> GroundTruth:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gt.json"
        path.write_bytes(json_bytes(CONTENT))
        return read_ground_truth(path)


def _detections(path: Path) -> None:
    detections = read_detections(path, _known())
    _check_columns(detections)
    assert np.isfinite(detections.scores).all()
    _check_statistics(_known(), detections)


def _commands(path: Path) -> None:
    """The whole way of a user: two commands on the file, nothing in their answers nan or infinite."""
    good = path.with_name("good.json")
    good.write_bytes(json_bytes(CONTENT))
    common = ["--gt", good, "--resamples", "2", "--json"]
    evaluate = ["evaluate", *common, "--detections", path, "--per-category"]
    recall = ["nms-recall", *common, "--candidates", path, "--soft-nms", "linear", "gaussian"]
    for outcome in (run(evaluate), run(recall)):
        if outcome.status == 2:
            (line,) = outcome.complaints
            raise DataError(line)
        for row in json.loads(outcome.out):
            assert all(value is None or isinstance(value, str) or np.isfinite(value) for value in row.values()), row


def _split(path: Path) -> None:
    """Reading and checking agree: what has an error cannot be read, but for a split without objects."""
    fine = ("missing images", "unreadable images", "splits without objects")
    problems = check_folder(path.parent, splits=("val",), decode=False)
    errors = [problem for problem in problems if problem.severity == "error" and problem.kind not in fine]
    assert all(str(problem).isprintable() for problem in errors)
    try:
        split = read_split(path.parent, "val")
    except DataError:
        assert errors
        raise
    assert not errors, errors
    for image in split.images:
        assert Path(os.path.normpath(image.path)).is_relative_to(os.path.normpath(path.parent / "images"))
        assert image.boxes.isfinite().all() and (image.boxes >= 0).all()
        assert (image.boxes[:, 2:] > image.boxes[:, :2]).all()
        assert len(image.boxes) == len(image.labels) == len(image.annotation_ids)


def _model(path: Path) -> None:
    model, detector = load_model(path)
    assert len(detector.category_ids) == len(detector.category_names) == detector.model.num_classes
    with torch.no_grad():
        output = model(torch.zeros(1, 3, 64, 64))
    assert output.anchors.isfinite().all() and output.logits.shape[2] == detector.model.num_classes


def _checkpoint(header: Any) -> bytes:
    metadata = {"format": FORMAT, "header": json.dumps(header)}
    return safetensors.torch.save(_tensors(), metadata=metadata)


@cache
def _tensors() -> dict[str, torch.Tensor]:
    return tiny_model().state_dict()


def _weights(path: Path) -> None:
    tensors = read_weights(path)
    assert all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items())
    written = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert written <= max(500_000_000, 20 * path.stat().st_size), f"{written:,} bytes would be written"


@cache
def _torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"a.weight": torch.ones(3, 4), "b": torch.zeros(2)}, "epoch": 3}, buffer)
    return buffer.getvalue()


@cache
def _pickle() -> bytes:
    arrays = {"a.weight": np.ones((3, 4), dtype=np.float32), "b": np.zeros(2)}
    return pickle.dumps({"model": arrays, "epoch": 3, "names": ["x", ("y", 2.5)]})


def _image(path: Path) -> None:
    image = open_image(path)
    assert image.mode == "RGB" and min(image.size) >= 1


def _voc_list(path: Path) -> None:
    """Every file that is read of it lies in the data set."""
    root = path.parents[2]
    if not (root / "Annotations").exists():
        write_official(root, numbered(5), {"train": ["p01"]})
    layout = find_layout(root)
    assert set(layout.splits["val"].xml_paths) <= set((root / "Annotations").iterdir())


def _saved(form: str) -> Callable[[], bytes]:
    @cache
    def save() -> bytes:
        buffer = io.BytesIO()
        scene().save(buffer, format=form)
        return buffer.getvalue()

    return save


def _voc(path: Path) -> None:
    root = path.parents[1]
    for name in "abcde":  # one of five is for validation
        if not (root / "JPEGImages" / f"{name}.jpg").exists():
            draw(root / "JPEGImages" / f"{name}.jpg")
            if name != path.stem:
                path.with_name(f"{name}.xml").write_text(voc_xml([voc_object("dog")], filename=f"{name}.jpg"))
    target = root.with_name("converted")
    try:
        convert_voc(root, target, say=lambda _: None)
        for split in ("train", "val"):
            content = json.loads((target / f"{split}.json").read_bytes())
            assert all(np.isfinite(item["bbox"]).all() for item in content["annotations"])
            assert all(is_line(item["name"]) for item in content["categories"])
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _onnx(path: Path) -> None:
    detector = load_onnx(path, threads=1)
    found = detector.detect(scene().convert("RGB"), min_score=0.1)
    number = len(found.labels)
    assert found.boxes.shape == (number, 4) and found.scores.shape == found.labels.shape == (number,)
    assert np.isfinite(found.boxes).all() and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.labels.dtype.kind == "i" and (np.diff(found.scores) <= 0).all()
    assert all(is_line(name) for name in detector.category_names)


def _training_state(path: Path) -> None:
    state = start(tiny_detector().model, _RECIPE, FLOAT32)
    state.run = "abc"
    state.resume(path, _RECIPE)
    assert 0 < state.step <= _RECIPE.num_steps and state.seconds >= 0
    assert all(bool(tensor.isfinite().all()) for tensor in state.model.state_dict().values())


@cache
def _saved_state() -> bytes:
    state = start(tiny_detector().model, _RECIPE, FLOAT32)
    for parameter in state.model.parameters():
        state.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    state.step, state.seconds, state.run = 4, 1.5, "abc"
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "s.safetensors", _RECIPE)
        return (Path(folder) / "s.safetensors").read_bytes()


def _record(path: Path) -> None:
    assert set(TRAINED) <= stored_record(path, TRAINED).keys()


def _measurements(path: Path) -> None:
    assert set(MEASURED) <= set(stored_frame(path, MEASURED).columns)


@cache
def _table() -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(FOUND).to_parquet(buffer)
    return buffer.getvalue()


_ALL = [
    Reader(name="ground truth", file="gt.json", read=_ground_truth, error=DataError, value=CONTENT),
    Reader(name="detections", file="found.json", read=_detections, error=DataError, value=FOUND),
    Reader(
        name="gzipped candidates", file="found.json.gz", read=_detections, error=DataError, value=FOUND,
        form=lambda value: gzip.compress(json_bytes(value), mtime=0),
    ),
    Reader(name="commands", file="run.json", read=_commands, error=DataError, value=FOUND),
    Reader(name="data folder", file="images/../val.json", read=_split, error=DataError, value=CONTENT),
    Reader(name="categories", file="c.json", read=lambda p: assert_names(read_categories_file(p)), error=DataError, value=CONTENT),
    Reader(
        name="checkpoint", file="m.safetensors", read=_model, error=CheckpointError,
        value=json.loads(json.dumps(describe(tiny_detector()))), form=_checkpoint,
        trap="safetensors",
    ),
    Reader(name="torch file", file="m.pth", read=_weights, error=CheckpointError, good=_torch_file, trap="weights"),
    Reader(name="pickle", file="m.pkl", read=_weights, error=CheckpointError, good=_pickle, trap="weights"),
    Reader(
        name="voc xml", file="voc/Annotations/a.xml", read=_voc, error=DataError, trap="xml", depth=2,
        good=lambda: voc_xml([voc_object("dog"), voc_object("cat")], filename="a.jpg").encode(),
    ),
    Reader(name="onnx", file="m.onnx", read=_onnx, error=DataError, good=onnx_file, trap="onnx"),
    Reader(
        name="training state", file="s.safetensors", read=_training_state, error=FreeAnchorError, good=_saved_state,
        trap="safetensors",
    ),
    Reader(
        name="train record", file="train.json", read=_record, error=DataError, value=dict.fromkeys(TRAINED, 1), trap="marker"
    ),
    Reader(
        name="measurements", file="measurements.csv", read=_measurements, error=DataError, trap="marker",
        good=lambda: b"metric,value,low,high\nap,0.5,0.4,0.6\n",
    ),
    Reader(
        name="voc list", file="voc/ImageSets/Main/val.txt", read=_voc_list, error=DataError,
        good=lambda: "p02\nJPEGImages/p03.jpg 1\r\n\"p04\" -1\nTür 5.png\n".encode("utf-8-sig"),
    ),
    *(
        Reader(name=f"{form.lower()} image", file=f"p.{form.lower()}", read=_image, error=DataError, good=_saved(form), trap="image")
        for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
    ),
]  # fmt: skip
if HAS_PYARROW:
    _ALL.append(Reader(name="parquet", file="f.parquet", read=_detections, error=DataError, good=_table, trap="marker"))
READERS = {reader.name: reader for reader in _ALL}


def assert_names(categories: dict[int, str]) -> None:
    """Categories are names of one line by whole numbers."""
    assert categories and all(isinstance(number, int) and name.encode() for number, name in categories.items())
