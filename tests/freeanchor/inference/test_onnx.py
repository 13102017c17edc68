"""ONNX: the graph finds what torch finds, in images of any size, and says what it cannot do."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny import FLOAT32, tiny_detector, tiny_model
from torch import Tensor
from torchvision.ops import nms

from experiments.commands.objects import found_by_torch
from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints.native import DetectorConfig, save_model
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.detector.timm import TimmBackbone
from freeanchor.errors import CheckpointError, DataError
from freeanchor.inference import onnx_graph
from freeanchor.inference.onnx_detector import METADATA, load_onnx
from freeanchor.inference.onnx_graph import write_onnx

Harm = Callable[[Path], None]
SIZES = [(150, 100), (90, 120), (64, 64), (300, 40), (31, 33)]


def _save(path: Path, detector: DetectorConfig) -> Path:
    """A network that finds something everywhere, so that caps, classes and NMS all matter."""
    changed = {"anchors": detector.model.anchors, "plain_deltas": detector.model.plain_deltas}
    model = tiny_model(prior_prob=0.5, **changed)
    with torch.no_grad():
        model.cls_head.output.weight.mul_(30)
        model.box_head.output.weight.mul_(3)
    save_model(path, model, detector)
    return path


def _photo(path: Path, size: tuple[int, int]) -> Path:
    pixels = np.random.default_rng(sum(size)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _with(**changes: Any) -> DetectorConfig:
    """The tiny detector with other `inputs`, `inference` or `model` fields."""
    detector = tiny_detector(prior_prob=0.5)
    parts = {name: replace(getattr(detector, name), **fields) for name, fields in changes.items()}
    return replace(detector, **parts)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The tiny detector as ONNX."""
    directory = tmp_path_factory.mktemp("onnx")
    write_onnx(_save(directory / "model.safetensors", _with()), directory / "model.onnx")
    return (directory / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    "detector",
    [
        _with(),
        _with(
            inputs={"bgr": True, "mean": (100.0, 110.0, 120.0), "std": (50.0, 60.0, 70.0)},
            model={"anchors": AnchorConfig(geometry="legacy", centre_offset=0.0)},
        ),
        _with(inference={"max_per_level": None, "max_detections": None}),
        _with(inference={"max_per_level": 7, "max_detections": 5, "nms_iou": 0.2}),
    ],
    ids=["own", "bgr and other anchors", "no caps", "caps that cut"],
)
def test_the_graph_finds_what_torch_finds(tmp_path: Path, detector: DetectorConfig) -> None:
    """In images of five sizes, none of them the traced one, at three thresholds, down to none above."""
    checkpoint = _save(tmp_path / "model.safetensors", detector)
    write_onnx(checkpoint, tmp_path / "model.onnx")
    graph = load_onnx(tmp_path / "model.onnx", threads=1)
    photos = [_photo(tmp_path / f"{width}x{height}.png", (width, height)) for width, height in SIZES]
    num_found = []
    for min_score in (0.05, 0.6, 1.0):
        known, each = found_by_torch(photos, checkpoint, min_score=min_score, runtime=FLOAT32)
        assert (graph.category_ids, graph.category_names) == (known.category_ids, known.category_names)
        for image, theirs in each:
            ours = graph.detect(image, min_score=min_score)
            # Of hundreds of boxes one may lie so near NMS's threshold that rounding decides; the best ones must agree.
            assert len(ours.scores) == pytest.approx(len(theirs), abs=2)
            best = theirs.first(50)
            np.testing.assert_allclose(ours.scores[:50], best.scores.numpy(), atol=1e-4)
            assert ours.labels[:50].tolist() == best.labels.tolist()
            np.testing.assert_allclose(ours.boxes[:50], best.boxes.numpy(), atol=0.02)
            num_found.append(len(ours.scores))
    assert min(num_found[:5]) > 3
    assert num_found[-5:] == [0] * 5


class _Nms(torch.nn.Module):
    """The graph's NMS alone."""

    def __init__(self, nms_iou: float, num_classes: int) -> None:
        super().__init__()
        self.settings = nms_iou, num_classes

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return onnx_graph.NmsByClass.apply(boxes, scores, labels, *self.settings)


def _nms_session(nms_iou: float, num_classes: int) -> onnxruntime.InferenceSession:
    names, content = ["boxes", "scores", "labels"], io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the older exporter
        torch.onnx.export(
            _Nms(nms_iou, num_classes),
            (torch.rand(2, 4), torch.rand(2), torch.tensor([0, 1])),
            content,
            dynamo=False,
            opset_version=onnx_graph.OPSET,
            input_names=names,
            dynamic_axes={name: {0: "candidates"} for name in names},
        )
    return onnxruntime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])


def _assert_graph_suppresses_class_after_class(count: int) -> None:
    for setting, (nms_iou, num_classes) in enumerate([(0.5, 3), (0.25, 1), (0.5, 300), (1.0, 2)]):
        session = _nms_session(nms_iou, num_classes)
        for seed in range(setting, count, 4):
            generator = torch.Generator().manual_seed(seed)
            size = seed * 7 % 120
            scale = (1.0, 0.1, 1e5, 1e12 / 16)[seed // 4 % 4]
            corner = torch.randint(-3, 12, (size, 2), generator=generator) * scale
            boxes = torch.cat([corner, corner + torch.randint(0, 5, (size, 2), generator=generator) * scale], dim=1)
            boxes[: size // 30] = torch.tensor([-1e12, 0, 1e12, 1])
            scores = torch.randint(1, 40, (size,), generator=generator) / 40
            labels = torch.randint(num_classes, (size,), generator=generator)
            kept = session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy(), "labels": labels.numpy()})[0]
            expected = []
            for label in range(num_classes):
                own = (labels == label).nonzero()[:, 0]
                expected += own[nms(boxes[own], scores[own], nms_iou)].tolist()
            assert kept.tolist() == sorted(expected, key=lambda row: (-scores[row].item(), row)), seed


def test_the_graph_suppresses_class_after_class() -> None:
    """The boxes that torchvision's kernel keeps of each class alone, far and tied ones too; none of none."""
    _assert_graph_suppresses_class_after_class(80)


@pytest.mark.slow
def test_the_graph_suppresses_two_thousand_cases_class_after_class() -> None:
    """The same as the test above, of 2,000 cases."""
    _assert_graph_suppresses_class_after_class(2000)


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (_with(model={"anchors": AnchorConfig(geometry="torchvision")}), "torchvision's anchors"),
        (_with(model={"plain_deltas": True}), "plain deltas"),
        (_with(inputs={"resize": "mmdetection"}), "'mmdetection' with continuous"),
        (_with(inputs={"box_convention": "inclusive"}), "inclusive boxes"),
        (_with(inference={"short_sides": (64, 96)}), "short_sides"),
        (_with(inference={"clip": "after_nms", "drop_empty": True}), "clip, drop_empty"),
        (_with(inference={"limit_shrinkage": True}), "limit_shrinkage"),
    ],
)
def test_what_the_graph_cannot_say_is_refused(tmp_path: Path, detector: DetectorConfig, words: str) -> None:
    """With the file and the habit named, and nothing written."""
    checkpoint = _save(tmp_path / "model.safetensors", detector)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{words}"):
        write_onnx(checkpoint, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def _not_onnx(path: Path) -> None:
    path.write_text("hello")


def _of_somebody_else(path: Path) -> None:
    onnx.helper.set_model_props(content := onnx.load(path), {"author": "somebody"})
    del content.metadata_props[:]
    onnx.save(content, path)


def _with_metadata(**changes: Any) -> Harm:
    """What edits the metadata; `text` replaces all of it."""

    def edit(path: Path) -> None:
        content = onnx.load(path)
        known = json.loads(content.metadata_props[0].value) | changes
        text = changes.get("text", json.dumps(known))
        onnx.helper.set_model_props(content, {METADATA: text})
        onnx.save(content, path)

    return edit


def _to_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "no such model file"),
        (_not_onnx, "cannot be read as ONNX"),
        (_of_somebody_else, "no ONNX file of ours"),
        (_to_a_folder, "is a folder"),
        (_with_metadata(text='{"category_ids": 3}'), "no ONNX file of ours"),
        (_with_metadata(text="[" * 100_000), "no ONNX file of ours"),
        (_with_metadata(category_ids=[2, 5]), "no ONNX file of ours"),
        (_with_metadata(category_ids=[2, 5, 5]), "no ONNX file of ours"),
        (_with_metadata(short_side=0), "no ONNX file of ours"),
        (_with_metadata(short_side=float("inf")), "no ONNX file of ours"),
        (_with_metadata(short_side=10**6, max_long_side=10**6), "no ONNX file of ours"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(
    tmp_path: Path, exported: bytes, capfd: pytest.CaptureFixture[str], harm: Harm, words: str
) -> None:
    """In one line that names it; onnxruntime says nothing besides."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported)
    harm(path)
    capfd.readouterr()  # of the export, where this test is the first to ask for it
    with pytest.raises(DataError, match=rf"model\.onnx: {words}") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_fails_or_names_too_few_classes_is_told(tmp_path: Path, exported: bytes) -> None:
    """In one line that names the file, too."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported)
    image = Image.open(_photo(tmp_path / "a.png", (90, 60))).convert("RGB")
    _with_metadata(category_ids=[2], category_names=["dot"])(path)
    with pytest.raises(DataError, match=r"model\.onnx: finds classes that it does not name"):
        load_onnx(path).detect(image, min_score=0.1)
    content = onnx.load(path)
    content.graph.input[0].name = "pix"
    for node in content.graph.node:
        node.input[:] = ["pix" if name == "pixels" else name for name in node.input]
    onnx.save(content, path)
    with pytest.raises(DataError, match=r"model\.onnx: cannot be run"):
        load_onnx(path).detect(image, min_score=0.1)


def _of_traced_size(content: onnx.ModelProto) -> None:
    for axis, side in enumerate(onnx_graph.TRACED_SIZE, start=1):
        content.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side


def _of_other_weights(content: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in content.graph.initializer if "cls_head.output.bias" in tensor.name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) - 100, tensor.name))


@pytest.mark.parametrize(
    ("harm", "words"), [(_of_traced_size, "cannot be run"), (_of_other_weights, "finds something else")]
)
def test_a_graph_that_does_not_find_the_same_at_other_sizes_is_refused(
    tmp_path: Path,
    exported: bytes,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[onnx.ModelProto], None],
    words: str,
) -> None:
    """Whatever tracing lost, the written graph is tried, and nothing stays of it."""
    harm(content := onnx.load_model_from_string(exported))
    monkeypatch.setattr(onnx_graph, "_traced", lambda graph: content.SerializeToString())
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {words} as ONNX at 96x64 px"):
        write_onnx(_save(tmp_path / "model.safetensors", _with()), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_a_backbone_that_keeps_the_traced_size_is_refused(tmp_path: Path) -> None:
    """Some of timm's reshape by the image's size, which a trace takes for a constant."""
    detector = tiny_detector(backbone=TimmBackbone(name="mobilevitv2_050"))
    save_model(tmp_path / "model.safetensors", RetinaNet(detector.model).eval(), detector)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .* as ONNX at 96x64 px"):
        write_onnx(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_without_the_extra_its_packages_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither package belongs to the plain installation."""
    checkpoint = _save(tmp_path / "model.safetensors", _with())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install onnx onnxruntime"):
        write_onnx(checkpoint, tmp_path / "model.onnx")
    with pytest.raises(DataError, match=r"pip install onnxruntime"):
        load_onnx(tmp_path / "model.onnx")
