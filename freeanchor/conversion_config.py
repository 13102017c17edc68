"""What each code base does beside its weights: anchors, order of strides, input, inference (FACTS G2). No tensors here.

detector = configure(Origin(format="authors", detector="FreeAnchor"), layout, COCO_CATEGORIES)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints import DetectorConfig
from freeanchor.conversion_keys import Format
from freeanchor.conversion_layout import Layout
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig

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
