"""A detector as one ONNX graph, from pixels to detections, for any runtime that knows the format.

The graph holds everything between the resized image and its boxes: normalisation, padding, network, anchors,
decoding, the cap per level and NMS. Resizing is left to the caller, such as `onnx_detector.py`: the graph's metadata
state the size.

    write_onnx(Path("model.safetensors"), Path("model.onnx"))

Inputs are `pixels` [3, H, W], RGB of 0 to 255 at any size, and `min_score` []; outputs are `boxes` [D, 4] xyxy in these
pixels, `scores` [D] and `labels` [D], best first.
"""

import importlib.util
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from freeanchor.anchors import SIZE_DIVISOR, cell_anchors
from freeanchor.boxes import decode_boxes
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import InputConfig
from freeanchor.detector.postprocess import InferenceConfig, nms_by_class
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.errors import CheckpointError
from freeanchor.files import write_bytes
from freeanchor.inference.onnx_detector import INPUTS, METADATA, OUTPUTS, RunError, run_bytes

OPSET = 17  # of 2022: every runtime since knows it
TRACED_SIZE = (160, 224)  # px, height and width; the graph takes any
TRIED_SIZES = ((64, 96), (130, 301))  # px; a written graph is tried at these


class NmsByClass(torch.autograd.Function):
    """`nms_by_class` as a single operation of ONNX, which takes each class by itself and shifts nothing."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float, num_classes: int) -> Tensor:
        """Positions kept, best first; the graph says the number of classes, which torch finds in the labels."""
        return nms_by_class(boxes, scores, labels, nms_iou)

    @staticmethod
    def symbolic(
        g: Any, boxes: torch.Value, scores: torch.Value, labels: torch.Value, nms_iou: float, num_classes: int
    ) -> torch.Value:
        """The same as nodes of the graph `g`."""

        def constant(value: Any, dtype: torch.dtype) -> torch.Value:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        def at(*axes: int) -> torch.Value:
            return constant(axes, torch.int64)

        # Each box has its score in its own class, and less than the threshold in the others.
        classes = constant([[label] for label in range(num_classes)], torch.int64)
        is_own = g.op("Equal", classes, labels)  # [K, D]
        by_class = g.op("Where", is_own, scores, constant(-1.0, torch.float32))
        every, least = constant([2**31 - 1], torch.int64), constant([-0.5], torch.float32)
        boxes, by_class = (g.op("Unsqueeze", it, at(0)) for it in (boxes, by_class))
        chosen = g.op("NonMaxSuppression", boxes, by_class, every, constant([nms_iou], torch.float32), least)
        kept = g.op("Squeeze", g.op("Slice", chosen, at(2), at(3), at(1)), at(1))
        # They come by class; sorted, the best first, and ties by position.
        kept, _ = g.op("TopK", kept, g.op("Shape", kept), largest_i=0, outputs=2)
        _, order = g.op("TopK", g.op("Gather", scores, kept), g.op("Shape", kept), outputs=2)
        return g.op("Gather", kept, order)


class DetectionGraph(nn.Module):
    """Pixels in, detections out, as `select_candidates` and `suppress` have it, in operations that ONNX has."""

    def __init__(self, model: RetinaNet, detector: DetectorConfig) -> None:
        super().__init__()
        self.model, self.detector = model, detector
        self.mean, self.std = (
            torch.tensor(each)[:, None, None] for each in (detector.inputs.mean, detector.inputs.std)
        )
        self.cells = [cell.float() for cell in cell_anchors(detector.model.anchors)]

    def forward(self, pixels: Tensor, min_score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [D, 4], scores [D] and labels [D] of one image [3, H, W] above `min_score`, best first."""
        height, width = pixels.shape[1], pixels.shape[2]
        image = ((pixels.flip(0) if self.detector.inputs.bgr else pixels) - self.mean) / self.std
        padded = functional.pad(image, (0, -width % SIZE_DIVISOR, 0, -height % SIZE_DIVISOR))
        each = zip(self.model.pyramid_maps(padded[None]), self.cells, self.detector.model.anchors.strides, strict=True)
        found = [self._of_level(*level, min_score) for level in each]
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        # `clip_boxes` would make constants of the traced image's sides.
        limit = torch.stack([torch.as_tensor(side) for side in (width, height, width, height)])
        boxes = torch.minimum(boxes.clamp(min=0), limit.to(boxes))
        inference, num_classes = self.detector.inference, self.detector.model.num_classes
        kept = NmsByClass.apply(boxes, scores, labels, inference.nms_iou, num_classes)[: inference.max_detections]
        return boxes[kept], scores[kept], labels[kept]

    def _of_level(self, level: Tensor, cell: Tensor, stride: int, min_score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates of one level [1, C, h, w], unclipped: of the best `max_per_level` those above the score."""
        num_classes = self.detector.model.num_classes
        scores = self.model.cls_head([level], num_classes)[0].sigmoid().flatten()
        cap = self.detector.inference.max_per_level
        if cap is None:
            places = (scores > min_score).nonzero()[:, 0]
            scores = scores[places]
        else:
            # `cap` more scores, below any threshold, so that even a small level has that many.
            best, places = torch.cat([scores, scores.new_full((cap,), -1.0)]).topk(cap)
            above = (best > min_score).nonzero()[:, 0]
            scores, places = best[above], places[above]
        anchor = places.div(num_classes, rounding_mode="floor")
        deltas = self.model.box_head([level], 4)[0]
        boxes = decode_boxes(deltas[anchor], self._grid(level, cell, stride)[anchor])
        return boxes, scores, places % num_classes

    def _grid(self, level: Tensor, cell: Tensor, stride: int) -> Tensor:
        # `grid_anchors` of a level whose size is known only when the graph runs.
        offset = self.detector.model.anchors.centre_offset
        y = (torch.arange(level.shape[2]) + offset) * stride
        x = (torch.arange(level.shape[3]) + offset) * stride
        centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
        return (centres[:, :, None] + cell).reshape(-1, 4)


def _check(detector: DetectorConfig) -> None:
    # The graph has no operations for the habits of other code bases, nor for several scales.
    inputs, inference = detector.inputs, detector.inference
    if detector.model.anchors.geometry == "torchvision":
        raise CheckpointError("has torchvision's anchors, whose strides depend on the image; ONNX gets fixed ones")
    if detector.model.plain_deltas:
        raise CheckpointError("has mmdetection's plain deltas, which the ONNX graph does not know; use it with torch")
    if (inputs.resize, inputs.box_convention) != (InputConfig.resize, InputConfig.box_convention):
        raise CheckpointError(
            f"resizes by the rule {inputs.resize!r} with {inputs.box_convention} boxes, as the code base that it was "
            "converted from does; only detectors trained here become ONNX"
        )
    habits = ("limit_shrinkage", "clip", "drop_empty", "short_sides")
    odd = [name for name in habits if getattr(inference, name) != getattr(InferenceConfig, name)]
    if odd:
        raise CheckpointError(f"detects with {', '.join(odd)}, which the ONNX graph does not know; use it with torch")


def _metadata(detector: DetectorConfig) -> dict[str, str]:
    # Json, which `onnx_detector.py` reads.
    known = {
        "detector": detector.detector,
        "category_ids": detector.category_ids,
        "category_names": detector.category_names,
        "resize": "the short side to short_side unless the long one would pass max_long_side, both rounded; Pillow's "
        "bilinear filter, which averages when it shrinks",
        "short_side": detector.inputs.short_side,
        "max_long_side": detector.inputs.max_long_side,
    }
    return {METADATA: json.dumps(known)}


def write_onnx(source: Path, target: Path) -> None:
    """Write a model file of ours as an ONNX graph, atomically.

    Before anything is written, the graph is tried at other sizes than the traced one. Raises CheckpointError where the
    file is none of ours, or where the graph cannot do what the detector does.
    """
    if any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxruntime")):
        raise CheckpointError(f"{target}: writing ONNX takes onnx and onnxruntime; pip install onnx onnxruntime")
    import onnx

    model, detector = load_model(source, "cpu")
    graph = DetectionGraph(model.eval(), detector).eval()
    try:
        _check(detector)
        content = onnx.load_model_from_string(_traced(graph))
        onnx.helper.set_model_props(content, _metadata(detector))
        written = content.SerializeToString()
        _try_sizes(graph, written)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    write_bytes(target, written)


@torch.no_grad()
def _try_sizes(graph: DetectionGraph, written: bytes) -> None:
    # Some of timm's backbones compute with the image's size, of which tracing makes a constant.
    for size in TRIED_SIZES:
        pixels = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 255
        _, expected, _ = graph(pixels, torch.tensor(0.0))
        try:
            _, scores, _ = run_bytes(written, pixels.numpy(), 0.0)
        except RunError as error:
            raise CheckpointError(
                f"cannot be run as ONNX at {size[1]}x{size[0]} px ({error}); use it with torch"
            ) from None
        best = torch.from_numpy(scores)[:20]
        if len(best) != len(expected[:20]) or not torch.allclose(best, expected[:20], atol=0.02):
            raise CheckpointError(f"finds something else as ONNX at {size[1]}x{size[0]} px; use it with torch")


def _traced(graph: DetectionGraph) -> bytes:
    # By torch's older exporter, which takes two seconds: the newer one, through torch.export, was still at work on this
    # network's open sizes after eight minutes.
    with warnings.catch_warnings(), torch.no_grad(), TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # on the older exporter, and on branches, which `_try_sizes` looks after
        path = str(Path(scratch) / "traced.onnx")
        torch.onnx.export(
            graph,
            (torch.rand(3, *TRACED_SIZE) * 255, torch.tensor(0.05)),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_axes={INPUTS[0]: {1: "height", 2: "width"}} | {name: {0: "detections"} for name in OUTPUTS},
        )
        return Path(path).read_bytes()
