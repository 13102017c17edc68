"""ONNX files whose metadata are right and whose graph gives something else: refused in one line, nothing else read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from freeanchor.errors import DataError
from freeanchor.inference.onnx_detector import METADATA, OUTPUTS, Found, load_onnx

KNOWN: dict[str, Any] = {
    "detector": "FreeAnchor",
    "category_ids": [1, 2],
    "category_names": ["bolt", "nut"],
    "short_side": 32,
    "max_long_side": 64,
}
GOOD: dict[str, np.ndarray] = {
    "boxes": np.array([[1, 2, 30, 20], [0, 0, 48, 32]], dtype=np.float32),
    "scores": np.array([0.9, 0.9], dtype=np.float32),
    "labels": np.array([0, 1]),
}


def _model(known: dict[str, Any] | None = None, **values: np.ndarray) -> onnx.ModelProto:
    """A graph that gives these constants for any image; by default good ones."""
    constants = [numpy_helper.from_array(array, f"{name} of") for name, array in {**GOOD, **values}.items()]
    nodes = [helper.make_node("Identity", [f"{name} of"], [name]) for name in OUTPUTS]
    inputs = [
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [3, None, None]),
        helper.make_tensor_value_info("min_score", TensorProto.FLOAT, []),
    ]
    outputs = [helper.make_tensor_value_info(it.name[:-3], it.data_type, None) for it in constants]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA: json.dumps(KNOWN | (known or {}))})
    return model


def _found(model: onnx.ModelProto, folder: Path) -> Found:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return load_onnx(path).detect(Image.new("RGB", (96, 64)), min_score=0.5)


def _refusal(model: onnx.ModelProto, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        _found(model, folder)
    line = str(caught.value)
    assert line.startswith(f"{folder / 'model.onnx'}: ") and ";" in line and line.isprintable() and len(line) < 500
    return line


def test_good_outputs_are_taken(tmp_path: Path) -> None:
    """In the image's own pixels, twice those that the graph saw."""
    found = _found(_model(), tmp_path)
    assert found.boxes.tolist() == [[2, 4, 60, 40], [0, 0, 96, 64]]
    nothing = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32), "labels": np.zeros(0, int)}
    assert len(_found(_model(**nothing), tmp_path).scores) == 0


def _boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


BOX = [1.0, 2.0, 30.0, 20.0]
BAD: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "a box of nan": ({"boxes": _boxes([np.nan, 2, 30, 20], BOX)}, "not finite"),
    "a box of inf": ({"boxes": _boxes([1, 2, np.inf, 20], BOX)}, "not finite"),
    "a huge box": ({"boxes": _boxes([1, 2, 3e38, 20], BOX)}, "outside the image of 48x32 px"),
    "a box left of the image": ({"boxes": _boxes([-1, 2, 30, 20], BOX)}, "outside the image"),
    "a box below the image": ({"boxes": _boxes([1, 2, 30, 33], BOX)}, "outside the image"),
    "a box from right to left": ({"boxes": _boxes([30, 2, 1, 20], BOX)}, "comes first"),
    "a box from bottom to top": ({"boxes": _boxes([1, 20, 30, 2], BOX)}, "comes first"),
    "a box too few": ({"boxes": _boxes(BOX)}, "boxes (1, 4), scores (2,)"),
    "labels too many": ({"labels": np.zeros(3, int)}, "labels (3,)"),
    "boxes of five": ({"boxes": np.zeros((2, 5), np.float32)}, "boxes (2, 5)"),
    "boxes in three axes": ({"boxes": np.zeros((1, 2, 4), np.float32)}, "boxes (1, 2, 4)"),
    "a score alone": ({"scores": np.array(0.5, np.float32)}, "scores ()"),
    "labels that are floats": ({"labels": np.array([0.0, 1.0], np.float32)}, "types float32, float32 and float32"),
    "labels that are text": ({"labels": np.array(["bolt", "nut"], object)}, "and object"),
    "boxes that are whole": ({"boxes": np.array([[1, 2, 30, 20]] * 2)}, "types int64"),
    "truth values as labels": ({"labels": np.array([True, False])}, "and bool"),
    "a score of nan": ({"scores": np.array([np.nan, 0.1], np.float32)}, "not finite"),
    "a score above 1": ({"scores": np.array([1.5, 0.1], np.float32)}, "no probabilities"),
    "a score below 0": ({"scores": np.array([0.1, -0.1], np.float32)}, "no probabilities"),
    "the worst first": ({"scores": np.array([0.1, 0.9], np.float32)}, "best first"),
    "a label too high": ({"labels": np.array([0, 2])}, "classes that it does not name"),
    "a label below 0": ({"labels": np.array([-1, 0])}, "classes that it does not name"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_outputs_are_refused(name: str, tmp_path: Path) -> None:
    """Count, shape, type, finiteness, order and range, each once."""
    values, words = BAD[name]
    assert words in _refusal(_model(**values), tmp_path)


@pytest.mark.parametrize("name", ["a\nb", "\x1b]0;title\x07", "\ud800", ""])
def test_names_that_are_no_line_are_refused(name: str, tmp_path: Path) -> None:
    """As those of other checkpoints."""
    assert "names a class '" in _refusal(_model({"category_names": ["bolt", name]}), tmp_path)
    assert "no ONNX file of ours" in _refusal(_model({"detector": [name]}), tmp_path)


def _external(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")


def _initializer(model: onnx.ModelProto) -> None:
    _external(model.graph.initializer[1])


def _constant(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(2, np.float32))
    _external(value)
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=value))


def _branch(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(2, np.float32), "inner of")
    _external(value)
    inner = helper.make_graph([helper.make_node("Identity", ["inner of"], ["inner"])], "b", [], [], [value])
    model.graph.node.append(helper.make_node("If", ["x"], ["unused"], then_branch=inner, else_branch=inner))


def _sparse(model: onnx.ModelProto) -> None:
    _external(model.graph.sparse_initializer.add().values)


@pytest.mark.parametrize("place", [_initializer, _constant, _branch, _sparse])
def test_numbers_in_other_files_are_refused(
    place: Callable[[onnx.ModelProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the graph they are wanted: onnxruntime would take them from the working folder."""
    (tmp_path / "secret.bin").write_bytes(np.array([0.9, 0.1], np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    place(model := _model())
    assert "numbers from other files" in _refusal(model, tmp_path)


@pytest.mark.parametrize("tail", [b"\x0b", b"\x08" + b"\xff" * 11, b"\x80", b"\x7b\x08\x01\x7c"])
def test_what_cannot_be_looked_into_is_refused(tail: bytes, tmp_path: Path) -> None:
    """Groups, numbers without end and cut ones: nothing may hide behind them."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model().SerializeToString() + tail)
    with pytest.raises(DataError, match="cannot be read as ONNX"):
        load_onnx(path)
