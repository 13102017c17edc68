"""Running a detector that `onnx_graph.py` wrote, by onnxruntime and without torch: in a fraction of a second from cold.

detector = load_onnx(Path("model.onnx"))
found = detector.detect(Image.open("photo.jpg").convert("RGB"), min_score=0.5)
found.boxes, found.scores, found.labels
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freeanchor.data_problems import DataError
from freeanchor.resized_size import resized_size

METADATA = "freeanchor"  # the name under which the graph carries what else one must know


@dataclass(frozen=True)
class Found:
    """Detections of one picture, best first: boxes [D, 4] xyxy in its pixels, scores [D] and labels [D]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class OnnxDetector:
    """A session of onnxruntime with the classes and the input size that its file tells."""

    session: Any
    detector: str
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    short_side: int
    max_long_side: int

    def detect(self, image: Image.Image, *, min_score: float) -> Found:
        """What is found in an RGB picture above `min_score`, in the picture's own pixels."""
        width, height = resized_size(*image.size, self.short_side, self.max_long_side)
        resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)
        given = {"pixels": np.ascontiguousarray(pixels), "min_score": np.array(min_score, dtype=np.float32)}
        boxes, scores, labels = self.session.run(["boxes", "scores", "labels"], given)
        scale = np.array([width / image.width, height / image.height] * 2, dtype=np.float32)
        return Found(boxes / scale, scores, labels)


def load_onnx(path: Path, threads: int = 0) -> OnnxDetector:
    """A detector of a file that `write_onnx` wrote; `threads=0` leaves onnxruntime its own choice.

    Raises DataError where the file is missing or another's, or where onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise DataError(f"{path}: running ONNX takes the package onnxruntime; pip install 'freeanchor[onnx]'")
    if not path.is_file():
        raise DataError(f"{path}: no such model file; freeanchor export --to onnx writes one")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each way in which a file is damaged
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: cannot be read as ONNX ({reason}); write it again by freeanchor export") from None
    return OnnxDetector(session=session, **_known(path, session.get_modelmeta().custom_metadata_map))


def _known(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The fields of the metadata that `onnx_graph.py` writes."""
    try:
        known = json.loads(metadata[METADATA])
        return {
            "detector": str(known["detector"]),
            "category_ids": tuple(int(number) for number in known["category_ids"]),
            "category_names": tuple(str(name) for name in known["category_names"]),
            "short_side": int(known["short_side"]),
            "max_long_side": int(known["max_long_side"]),
        }
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: no ONNX file of ours; write one by freeanchor export --to onnx") from None
