"""What each code base does beside its weights: anchors, order of strides, input, inference (FACTS G2). No tensors here.

detector = configure(Origin(format="authors", detector="FreeAnchor"), layout, COCO_CATEGORIES)

What four code bases call the weights of a RetinaNet (FACTS G1). Names only: values are in `conversion.py`.

A `Naming` gives a code base's name for each of our modules, so that both sets of names can be held against each other.

    foreign_name("pyramid.extra_blocks.p6.weight", NAMINGS["mmdetection"])      # 'neck.fpn_convs.3.conv.weight'

The rows of the two output convolutions, which each code base lays out its own way (FACTS G2), to and from ours.

Ours are ratio-major, then class or delta; deltas are coded with (10, 10, 5, 5). torchvision has a slot for every
number up to the highest category id; detectron2 is scale-major; torchvision, detectron2 and mmdetection's RetinaNet
code deltas without a factor.

    rows = channels_of("torchvision", detector).to_ours("cls_head.output.weight", tensor)
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from freeanchor.anchors import AnchorConfig
from freeanchor.boxes import DELTA_WEIGHTS
from freeanchor.checkpoints.native import DetectorConfig
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig

Format = Literal["authors", "mmdetection", "torchvision", "detectron2"]
_TORCH_BLOCK = {f"{kind}{number}": f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3)}
_TORCH_BLOCK |= {"downsample.0": "downsample.0", "downsample.1": "downsample.1"}
_DETECTRON2_BLOCK = {f"conv{number}": f"conv{number}" for number in (1, 2, 3)}
_DETECTRON2_BLOCK |= {f"bn{number}": f"conv{number}.norm" for number in (1, 2, 3)}
_DETECTRON2_BLOCK |= {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}


@dataclass(frozen=True, kw_only=True)
class Naming:
    """One code base's names: `stem` and `top` as pairs, the pyramid from C3 up, towers and heads as (class, box).

    Towers are templates over {layer}, which counts convolutions, or {place}, which counts the ReLUs between them too.
    `extras` matches names that hold nothing a network of ours needs.
    """

    stem: tuple[str, str]
    stages: tuple[str, str, str, str]
    block: Mapping[str, str]
    laterals: tuple[str, str, str]
    outputs: tuple[str, str, str]
    top: tuple[str, str]
    towers: tuple[str, str]
    heads: tuple[str, str]
    extras: str = r"(?!)"


NAMINGS: dict[Format, Naming] = {
    "authors": Naming(
        stem=("backbone.body.stem.conv1", "backbone.body.stem.bn1"),
        stages=("backbone.body.layer1", "backbone.body.layer2", "backbone.body.layer3", "backbone.body.layer4"),
        block=_TORCH_BLOCK,
        laterals=("backbone.fpn.fpn_inner2", "backbone.fpn.fpn_inner3", "backbone.fpn.fpn_inner4"),
        outputs=("backbone.fpn.fpn_layer2", "backbone.fpn.fpn_layer3", "backbone.fpn.fpn_layer4"),
        top=("backbone.fpn.top_blocks.p6", "backbone.fpn.top_blocks.p7"),
        towers=("rpn.head.cls_tower.{place}", "rpn.head.bbox_tower.{place}"),
        heads=("rpn.head.cls_logits", "rpn.head.bbox_pred"),
        extras=r"rpn\.anchor_generator\.cell_anchors\.\d+",
    ),
    "mmdetection": Naming(
        stem=("backbone.conv1", "backbone.bn1"),
        stages=("backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4"),
        block=_TORCH_BLOCK,
        laterals=("neck.lateral_convs.0.conv", "neck.lateral_convs.1.conv", "neck.lateral_convs.2.conv"),
        outputs=("neck.fpn_convs.0.conv", "neck.fpn_convs.1.conv", "neck.fpn_convs.2.conv"),
        top=("neck.fpn_convs.3.conv", "neck.fpn_convs.4.conv"),
        towers=("bbox_head.cls_convs.{layer}.conv", "bbox_head.reg_convs.{layer}.conv"),
        heads=("bbox_head.retina_cls", "bbox_head.retina_reg"),
    ),
    "torchvision": Naming(
        stem=("backbone.body.conv1", "backbone.body.bn1"),
        stages=("backbone.body.layer1", "backbone.body.layer2", "backbone.body.layer3", "backbone.body.layer4"),
        block=_TORCH_BLOCK,
        laterals=("backbone.fpn.inner_blocks.0.0", "backbone.fpn.inner_blocks.1.0", "backbone.fpn.inner_blocks.2.0"),
        outputs=("backbone.fpn.layer_blocks.0.0", "backbone.fpn.layer_blocks.1.0", "backbone.fpn.layer_blocks.2.0"),
        top=("backbone.fpn.extra_blocks.p6", "backbone.fpn.extra_blocks.p7"),
        towers=("head.classification_head.conv.{layer}.0", "head.regression_head.conv.{layer}.0"),
        heads=("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
    ),
    "detectron2": Naming(
        stem=("backbone.bottom_up.stem.conv1", "backbone.bottom_up.stem.conv1.norm"),
        stages=(
            "backbone.bottom_up.res2",
            "backbone.bottom_up.res3",
            "backbone.bottom_up.res4",
            "backbone.bottom_up.res5",
        ),
        block=_DETECTRON2_BLOCK,
        laterals=("backbone.fpn_lateral3", "backbone.fpn_lateral4", "backbone.fpn_lateral5"),
        outputs=("backbone.fpn_output3", "backbone.fpn_output4", "backbone.fpn_output5"),
        top=("backbone.top_block.p6", "backbone.top_block.p7"),
        towers=("head.cls_subnet.{place}", "head.bbox_subnet.{place}"),
        heads=("head.cls_score", "head.bbox_pred"),
        extras=r"pixel_mean|pixel_std|anchor_generator\.cell_anchors\.\d+",
    ),
}


def _foreign_module(module: str, naming: Naming) -> str:
    """`naming`'s name for one of our modules."""
    match module.split("."):
        case ["backbone", "stem", part]:
            return naming.stem[int(part)]
        case ["backbone", "stages", stage, block, *inner]:
            return f"{naming.stages[int(stage)]}.{block}.{naming.block['.'.join(inner)]}"
        case ["pyramid", "inner_blocks", level, "0"]:
            return naming.laterals[int(level)]
        case ["pyramid", "layer_blocks", level, "0"]:
            return naming.outputs[int(level)]
        case ["pyramid", "extra_blocks", level]:
            return naming.top[("p6", "p7").index(level)]
        case ["cls_head" | "box_head" as head, "tower", place]:
            template = naming.towers[("cls_head", "box_head").index(head)]
            return template.format(layer=int(place) // 2, place=place)
        case ["cls_head" | "box_head" as head, "output"]:
            return naming.heads[("cls_head", "box_head").index(head)]
    raise KeyError(module)


def foreign_name(name: str, naming: Naming) -> str:
    """`naming`'s name for a tensor of ours; raises KeyError for one that no RetinaNet of the four has."""
    module, _, tensor = name.rpartition(".")
    return f"{_foreign_module(module, naming)}.{tensor}"


def modern_name(name: str, format: Format) -> str:
    """The name that today's version of the code base gives a tensor: torchvision's changed once, others stayed."""
    if format != "torchvision":
        return name
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
    old = re.fullmatch(r"(head\.\w+\.conv)\.(\d)\.(weight|bias)", name)
    return f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}" if old and int(old[2]) % 2 == 0 else name


ExportFormat = Literal["torchvision", "mmdetection"]
BASIC_BLOCKS = ("resnet18", "resnet34")
CAFFE_MEAN = (103.53, 116.28, 123.675)  # BGR, as detectron2 and mmdetection write it
AUTHORS_MEAN = (102.9801, 115.9465, 122.7717)  # BGR, FACTS A3
UNIT_STD = (1.0, 1.0, 1.0)
CAFFE_STD = (57.375, 57.12, 58.395)  # BGR, of detectron2's ResNeXts, whose weights are not Caffe's


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a state dict does not say about itself.

    `detector` decides how mmdetection codes boxes. `caffe` is about mmdetection's files with a Caffe backbone: BGR, the
    stride in the 1x1, batch norm untrained. `norm_eps` None is the format's own; 0 for torchvision's COCO_V1 file.
    """

    format: Format
    detector: Literal["RetinaNet", "FreeAnchor"]
    caffe: bool = False
    norm_eps: float | None = None

    def __post_init__(self) -> None:
        """Refuse the one choice that only mmdetection's files leave open, elsewhere."""
        if self.caffe and self.format != "mmdetection":
            raise ValueError(f"caffe is about mmdetection's files; {self.format}'s are all of one kind, leave it out")


def _is_caffe(origin: Origin) -> bool:
    """Whether the backbone has Caffe's stride in the 1x1, unless it is a ResNeXt or has no 1x1."""
    return origin.caffe or origin.format in ("authors", "detectron2")


def _backbone(origin: Origin, name: str) -> TorchvisionResNet:
    """The backbone's configuration: strides, eps, what trains (FACTS G2, A8)."""
    eps = origin.norm_eps if origin.norm_eps is not None else (0.0 if origin.format == "authors" else 1e-5)
    return TorchvisionResNet(
        name=name,
        stride_in_1x1=_is_caffe(origin) and name.startswith("resnet") and name not in BASIC_BLOCKS,
        norm_eps=eps,
        trained_affine=origin.format == "mmdetection" and not origin.caffe,
    )


def _anchors(format: Format) -> AnchorConfig:
    """The anchors' geometry (FACTS G2)."""
    if format == "authors":
        return AnchorConfig(geometry="legacy", centre_offset=0.5)
    return AnchorConfig(geometry="torchvision" if format == "torchvision" else "exact", centre_offset=0.0)


def inputs_of(origin: Origin, backbone: str) -> InputConfig:
    """Resizing and normalisation (FACTS G2)."""
    if origin.format == "authors":
        return InputConfig(
            mean=AUTHORS_MEAN, std=UNIT_STD, bgr=True, resize="maskrcnn-benchmark", box_convention="inclusive"
        )
    if origin.format == "torchvision":
        return InputConfig(resize="torchvision")
    if origin.format == "mmdetection" and not origin.caffe:
        return InputConfig(resize="mmdetection")
    std = CAFFE_STD if origin.format == "detectron2" and backbone.startswith("resnext") else UNIT_STD
    return InputConfig(mean=CAFFE_MEAN, std=std, bgr=True, resize=origin.format)


def inference_of(format: Format) -> InferenceConfig:
    """Caps, clamps and clipping (FACTS G2, A8)."""
    if format == "torchvision":
        return InferenceConfig(max_detections=300)
    if format == "mmdetection":
        return InferenceConfig(limit_shrinkage=True, drop_empty=True)
    if format == "detectron2":
        return InferenceConfig(clip="after_nms", drop_empty=True)
    return InferenceConfig()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What shapes tell: the backbone's name, the pyramid's channels, the heads' depth, P6's source, class slots.

    `num_slots` are the class channels an anchor has, or None where the rows of the class output do not tell.
    """

    backbone: str
    channels: int
    depth: int
    p6_from_pyramid: bool
    num_slots: int | None


def configure(origin: Origin, layout: Layout, categories: Mapping[int, str]) -> DetectorConfig:
    """Our configuration of a network of `layout`, its classes in the order of their ids."""
    ids = sorted(categories)
    model = ModelConfig(
        num_classes=len(ids),
        backbone=_backbone(origin, layout.backbone),
        anchors=_anchors(origin.format),
        prior_prob=0.02 if (origin.format, origin.detector) == ("authors", "FreeAnchor") else 0.01,
        pyramid_channels=layout.channels,
        head_depth=layout.depth,
        p6_source="P5" if layout.p6_from_pyramid else "C5",
        relu_before_p7=origin.format != "mmdetection",
    )
    return DetectorConfig(
        model=model,
        inputs=inputs_of(origin, layout.backbone),
        category_ids=tuple(ids),
        category_names=tuple(categories[i] for i in ids),
        inference=inference_of(origin.format),
        detector=origin.detector,
    )


def obstacles(detector: DetectorConfig, to: ExportFormat) -> list[str]:
    """What of `detector` the standard RetinaNet of a code base does otherwise, in words; nothing where it fits."""
    model, backbone = detector.model, detector.model.backbone
    if not isinstance(backbone, TorchvisionResNet):
        return [f"its backbone is a {backbone.label}"]
    with_relu = "with" if model.relu_before_p7 else "without"
    eps = (0.0, 1e-5) if to == "torchvision" else (1e-5,)
    kinds = [
        Origin(format=to, detector="RetinaNet", caffe=caffe) for caffe in (False, True)[: 2 - (to == "torchvision")]
    ]
    inputs = [_normalisation(inputs_of(kind, backbone.name)) for kind in kinds]
    reasons = {
        f"its heads have {model.head_norm} norm": model.head_norm != "none",
        f"its P6 is made from {model.p6_source} and its P7 {with_relu} a ReLU": not _top_fits(model, backbone, to),
        "its anchors have another place, shape or rounding": model.anchors != _anchors(to),
        "its input is normalised otherwise": _normalisation(detector.inputs) not in inputs,
        "its stride is in the 1x1 convolutions": to == "torchvision" and backbone.stride_in_1x1,
        "its boxes include their last pixel": detector.inputs.box_convention == "inclusive",
        f"its batch norm adds {backbone.norm_eps:g} to variances": backbone.norm_eps not in eps,
        "it does not say whether it is a RetinaNet or a FreeAnchor": to == "mmdetection" and detector.detector is None,
    }
    return [reason for reason, applies in reasons.items() if applies]


def _normalisation(inputs: InputConfig) -> tuple[object, ...]:
    """What the values of an input depend on, its size aside."""
    return inputs.mean, inputs.std, inputs.bgr


def _top_fits(model: ModelConfig, backbone: TorchvisionResNet, to: ExportFormat) -> bool:
    """Whether the code base would make P6 and P7 as `model` does; torchvision tells P5 from C5 by its width alone."""
    if to == "mmdetection":
        return model.p6_source == "C5" and not model.relu_before_p7
    c5_width = 512 if backbone.name in BASIC_BLOCKS else 2048
    return model.relu_before_p7 and (model.p6_source == "P5" or c5_width != model.pyramid_channels)


COUNTER = "num_batches_tracked"  # batch norm's own count of batches: no weight, and not in every file
PER_CELL = AnchorConfig().num_per_cell  # anchors a cell: nine in all four code bases
Shape = tuple[int, ...]
UNUSED_BIAS = -20.0  # of class slots that stand for nothing: a score of 2e-9


@dataclass(frozen=True, kw_only=True)
class Channels:
    """How a code base lays out the rows of the output convolutions.

    `slots` holds the class channel of each label among an anchor's `num_slots`; `scale_major` the order of anchors in a
    cell; `delta_scale` what their (dx, dy, dw, dh) are multiplied by to be ours.
    """

    slots: tuple[int, ...]
    num_slots: int
    scale_major: bool
    delta_scale: tuple[float, ...]

    def to_ours(self, name: str, tensor: Tensor) -> Tensor:
        """One of their tensors under our `name`, its rows in our order and scale."""
        if name.startswith("cls_head.output."):
            return self._reordered(tensor.unflatten(0, (PER_CELL, self.num_slots)))[:, list(self.slots)].flatten(0, 1)
        if name.startswith("box_head.output."):
            rows = self._reordered(tensor.unflatten(0, (PER_CELL, 4)))
            return (rows * self._scale_of(rows)).flatten(0, 1)
        return tensor

    def to_theirs(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of `to_ours`; classes that we do not have get no weight and a score of nothing."""
        if name.startswith("cls_head.output."):
            rows = tensor.unflatten(0, (PER_CELL, len(self.slots)))
            filling = UNUSED_BIAS if name.endswith("bias") else 0.0
            full = rows.new_full((PER_CELL, self.num_slots, *rows.shape[2:]), filling)
            full[:, list(self.slots)] = rows
            return self._reordered(full).flatten(0, 1)
        if name.startswith("box_head.output."):
            rows = tensor.unflatten(0, (PER_CELL, 4))
            return self._reordered(rows / self._scale_of(rows)).flatten(0, 1)
        return tensor

    def _reordered(self, rows: Tensor) -> Tensor:
        """Anchors between scale-major and ratio-major order, which are each other's transpose: three of each."""
        return rows.unflatten(0, (3, 3)).transpose(0, 1).flatten(0, 1) if self.scale_major else rows

    def _scale_of(self, rows: Tensor) -> Tensor:
        """The scale of the deltas, shaped like an anchor's rows."""
        return rows.new_tensor(self.delta_scale).reshape(4, *(1,) * (rows.ndim - 2))


def channels_of(format: Format, detector: DetectorConfig, num_slots: int | None = None) -> Channels:
    """The layout of `format`; torchvision's slots are raw category ids, `num_slots` or up to the highest id."""
    ids = detector.category_ids
    raw_ids = format == "torchvision"
    plain = format in ("torchvision", "detectron2") or (format == "mmdetection" and detector.detector == "RetinaNet")
    return Channels(
        slots=ids if raw_ids else tuple(range(len(ids))),
        num_slots=(num_slots or max(ids) + 1) if raw_ids else len(ids),
        scale_major=format == "detectron2",
        delta_scale=tuple(weight ** (plain - detector.model.plain_deltas) for weight in DELTA_WEIGHTS),
    )
