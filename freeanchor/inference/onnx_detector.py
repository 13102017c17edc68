"""Running a detector that `onnx_graph.py` wrote by onnxruntime, without torch, whose import takes seconds.

detector = load_onnx(Path("model.onnx"))
found = detector.detect(Image.open("photo.jpg").convert("RGB"), min_score=0.5)
found.boxes, found.scores, found.labels
"""

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from freeanchor.data.images import LARGEST_SIDE, resized_size
from freeanchor.errors import DataError, FreeAnchorError, brief, is_line, shown

METADATA = "freeanchor"  # the graph's entry for classes and input size
EDGE = 0.01  # px that a box may lie beyond its image
INPUTS, OUTPUTS = ["pixels", "min_score"], ["boxes", "scores", "labels"]


class RunError(FreeAnchorError):
    """What onnxruntime says of a graph that it cannot run, in one line."""


@dataclass(frozen=True)
class Found:
    """Detections of one image, best first: boxes [D, 4] xyxy in its pixels, scores [D] and labels [D]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class OnnxDetector:
    """A session of onnxruntime, with the classes and the input size that its file states."""

    path: Path
    session: Any
    detector: str | None
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    short_side: int
    max_long_side: int

    def detect(self, image: Image.Image, *, min_score: float) -> Found:
        """The detections above `min_score` in an RGB image, in the image's own pixels.

        Raises DataError where the graph fails, or finds classes that its file does not name.
        """
        width, height = resized_size(*image.size, self.short_side, self.max_long_side)
        resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)
        try:
            boxes, scores, labels = _run(self.session, pixels, min_score)
        except RunError as error:
            raise DataError(f"{self.path}: {error}; write it again by freeanchor export --to onnx") from None
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.category_ids):
            raise DataError(f"{self.path}: finds classes that it does not name; write it again by freeanchor export")
        scale = np.array([width / image.width, height / image.height] * 2, dtype=np.float32)
        return Found(boxes / scale, scores, labels)


def load_onnx(path: Path, threads: int = 0) -> OnnxDetector:
    """A detector of a file that `write_onnx` wrote; `threads=0` leaves onnxruntime its own choice.

    Raises DataError where the file is missing or another's, or where onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise DataError(f"{path}: running ONNX takes the package onnxruntime; pip install onnxruntime")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give the model.onnx in it")
    if not path.is_file():
        raise DataError(f"{path}: no such model file; freeanchor export --to onnx writes one")
    try:
        session = _session(path.read_bytes(), threads)
    except RunError as error:
        raise DataError(f"{path}: {error}; write it again by freeanchor export --to onnx") from None
    return OnnxDetector(path=path, session=session, **_known(path, session))


def _session(content: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, not logged too
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not its own, which would not be looked into
    if _has_external_data(content):
        raise RunError("wants numbers from other files, which are not read")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it announces a second try there
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each way in which a file is damaged
        raise RunError(f"cannot be read as ONNX ({_first_words(error)})") from None


def _run(session: Any, pixels: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    given = (np.ascontiguousarray(pixels, dtype=np.float32), np.array(min_score, dtype=np.float32))
    try:
        found = session.run(OUTPUTS, dict(zip(INPUTS, given, strict=True)))
    except Exception as error:  # likewise
        raise RunError(f"cannot be run ({_first_words(error)})") from None
    if wrong := _wrong_output(found, pixels.shape[2], pixels.shape[1]):
        raise RunError(f"gives {wrong}")
    return cast(tuple[np.ndarray, np.ndarray, np.ndarray], tuple(found))


def _wrong_output(found: Sequence[Any], width: int, height: int) -> str:
    """What is wrong with boxes, scores and labels as a graph gave them for an image of this size; "" for nothing."""
    if not all(isinstance(values, np.ndarray) for values in found):
        return "something else than arrays"
    boxes, scores, labels = found
    if scores.ndim != 1 or boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
        return f"boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape} in place of [D, 4], [D] and [D]"
    if (boxes.dtype.kind, scores.dtype.kind) != ("f", "f") or labels.dtype.kind not in "iu":
        return f"boxes, scores and labels of the types {boxes.dtype}, {scores.dtype} and {labels.dtype}"
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        return "numbers that are not finite"
    if (boxes < -EDGE).any() or (boxes > np.array([width, height] * 2) + EDGE).any():
        return f"boxes outside the image of {width}x{height} px"
    if (boxes[:, 2:] < boxes[:, :2]).any():
        return "boxes whose right or lower edge comes first"
    if ((scores < 0) | (scores > 1)).any() or (np.diff(scores) > 0).any():
        return "scores that are no probabilities, best first"
    return ""


def run_bytes(content: bytes, pixels: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and labels that a file of this content finds in one image [3, H, W]; raises RunError."""
    return _run(_session(content, 1), pixels, min_score)


_WITHIN = {  # the messages of ONNX's protobuf that tensors may be in, by the number of their field
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}


def _has_external_data(content: bytes) -> bool:
    """Whether a tensor's values lie elsewhere: onnxruntime would look in the working folder, or in its own memory."""
    left = [("model", memoryview(content))]
    try:
        while left:
            kind, message = left.pop()
            if kind == "external":
                return True
            left += [(_WITHIN[kind][number], inner) for number, inner in _fields(message) if number in _WITHIN[kind]]
    except (IndexError, ValueError):
        raise RunError("cannot be read as ONNX (no protobuf)") from None
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message that have a length, with their numbers; raises ValueError for what is none."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number = (tag & 0xFFFFFFFF) >> 3  # as protobuf reads it
        match tag & 7:
            case 0:
                _, place = _varint(message, place)
            case 1:
                place += 8
            case 2:
                size, place = _varint(message, place)
                yield number, message[place : place + size]
                place += size
            case 5:
                place += 4
            case _:
                raise ValueError("a group, which ONNX does not have")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number without end")


def _first_words(error: Exception) -> str:
    return shown(" ".join(str(error).split()))


def _known(path: Path, session: Any) -> dict[str, Any]:
    # The metadata that `onnx_graph.py` writes; another program's file may hold anything.
    try:
        known = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        fields = {
            "detector": known["detector"],
            "category_ids": tuple(int(number) for number in known["category_ids"]),
            "category_names": tuple(str(name) for name in known["category_names"]),
            "short_side": int(known["short_side"]),
            "max_long_side": int(known["max_long_side"]),
        }
        ids = fields["category_ids"]
        if not isinstance(fields["detector"], str | None):
            raise TypeError("a detector that is no name")
        if not 0 < len(set(ids)) == len(ids) == len(fields["category_names"]):
            raise ValueError("classes that are not told apart")
        if not all(1 <= fields[name] <= LARGEST_SIDE for name in ("short_side", "max_long_side")):
            raise ValueError("sides that no image has")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise DataError(f"{path}: no ONNX file of ours; write one by freeanchor export --to onnx") from None
    if bad := [name for name in fields["category_names"] if not is_line(name)]:
        raise DataError(f"{path}: names a class {brief(bad[0])}; a name is text of one line")
    return fields
