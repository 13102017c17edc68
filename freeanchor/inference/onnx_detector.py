"""Running a detector that `onnx_graph.py` wrote by onnxruntime, without torch, whose import takes seconds.

detector = load_onnx(Path("model.onnx"))
found = detector.detect(Image.open("photo.jpg").convert("RGB"), min_score=0.5)
found.boxes, found.scores, found.labels
"""

import contextlib
import importlib.util
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from freeanchor.data.images import LARGEST_SIDE, resized_size
from freeanchor.errors import DataError, FreeAnchorError, printable

METADATA = "freeanchor"  # the graph's entry for classes and input size
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
        raise DataError(f"{path}: running ONNX takes the package onnxruntime; pip install 'freeanchor[onnx]'")
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
    return cast(tuple[np.ndarray, np.ndarray, np.ndarray], tuple(found))


def run_bytes(content: bytes, pixels: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and labels that a file of this content finds in one image [3, H, W]; raises RunError."""
    return _run(_session(content, 1), pixels, min_score)


def _first_words(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:120])


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
        if not 0 < len(set(ids)) == len(ids) == len(fields["category_names"]):
            raise ValueError("classes that are not told apart")
        if not all(1 <= fields[name] <= LARGEST_SIDE for name in ("short_side", "max_long_side")):
            raise ValueError("sides that no image has")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise DataError(f"{path}: no ONNX file of ours; write one by freeanchor export --to onnx") from None
    return fields
