"""What the RetinaNets of other code bases do, one `CodeBase` each: names of weights, and all else.

Conversion and export read these values alone: a new format is a new entry of `CODE_BASES`. Nothing here imports torch,
so that the command line lists the formats at once.

    CODE_BASES["mmdetection"].foreign_name("pyramid.extra_blocks.p6.weight")      # 'neck.fpn_convs.3.conv.weight'
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

MSRA_MEAN = (102.9801, 115.9465, 122.7717)  # BGR, as the authors write it
CAFFE_MEAN = (103.53, 116.28, 123.675)  # BGR, as detectron2 and mmdetection write it
CAFFE_STD = (57.375, 57.12, 58.395)  # BGR, of detectron2's ResNeXts, whose weights are not Caffe's
_BGR: dict[str, Any] = {"std": (1.0, 1.0, 1.0), "bgr": True}  # input that only its mean is subtracted from
_BLOCK_PARTS = tuple(f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class Export:
    """How our weights are written for a code base whose RetinaNet can hold them.

    `norm_eps` are the values that its batch norm may add to variances; `counters` says whether the file has batch
    norm's counts of batches, `wrapped` whether the weights are one entry of a training state.
    """

    norm_eps: tuple[float, ...] = (1e-5,)
    counters: bool = False
    wrapped: bool = False


@dataclass(frozen=True, kw_only=True)
class CodeBase:
    """What one code base calls the weights of a RetinaNet, and what its files leave to its code.

    Names come as pairs, (convolution, norm), (P6, P7) and (class, box), or from the finest level on. Stages are a
    template over {layer}, from 1, or {res}, from 2; towers over {layer}, which counts convolutions, or {place}, which
    counts the ReLUs between them too. `extras` matches names that hold nothing a network of ours needs; `modern_name`
    turns a name of older files into today's. `others` tells, by the names that only they have, files of networks of
    the code base that are not known here.

    `anchors`, `inputs` and `inference` are the fields in which the code base's AnchorConfig, InputConfig and
    InferenceConfig differ from our defaults. `caffe` is the same code base with a Caffe backbone, where it has both.
    """

    stem: tuple[str, str]
    stages: str
    block: Mapping[str, str] = field(
        default_factory=lambda: {part: part for part in (*_BLOCK_PARTS, "downsample.0", "downsample.1")}
    )
    laterals: tuple[str, str, str]
    outputs: tuple[str, str, str]
    top: tuple[str, str]
    towers: tuple[str, str]
    heads: tuple[str, str]
    extras: str = r"(?!)"
    modern_name: Callable[[str], str] = str
    others: Mapping[str, str] = field(default_factory=dict)

    anchors: Mapping[str, Any]
    inputs: Mapping[str, Any]
    resnext_inputs: Mapping[str, Any] = field(default_factory=dict)  # where the input of ResNeXts differs from `inputs`
    inference: Mapping[str, Any] = field(default_factory=dict)
    stride_in_1x1: bool = False  # of a ResNet with bottlenecks, not of a ResNeXt
    norm_eps: float = 1e-5
    trained_affine: bool = False
    p6_source: Literal["C5", "P5"] | None  # None: P5 where P6's input is as wide as the pyramid, else C5
    relu_before_p7: bool = True
    free_anchor_prior: float = 0.01

    slots_are_category_ids: bool = False  # there is a class channel for every number up to the highest id
    scale_major: bool = False  # a cell's anchors; ours are ratio-major
    plain_deltas: Literal["never", "RetinaNet", "always"] = "never"  # which detectors do without (10, 10, 5, 5)

    has_free_anchor: bool = False  # a file may be of either detector and does not say which
    has_pickles: bool = False  # of arrays (.pkl), beside torch's files
    caffe: "CodeBase | None" = None
    export: Export | None = None

    def foreign_name(self, name: str) -> str:
        """This code base's name for a tensor of ours; raises KeyError for one that no RetinaNet has."""
        module, _, tensor = name.rpartition(".")
        return f"{self._foreign_module(module)}.{tensor}"

    def _foreign_module(self, module: str) -> str:
        match module.split("."):
            case ["backbone", "stem", part]:
                return self.stem[int(part)]
            case ["backbone", "stages", stage, block, *inner]:
                return ".".join(
                    (self.stages.format(layer=int(stage) + 1, res=int(stage) + 2), block, self.block[".".join(inner)])
                )
            case ["pyramid", "inner_blocks", level, "0"]:
                return self.laterals[int(level)]
            case ["pyramid", "layer_blocks", level, "0"]:
                return self.outputs[int(level)]
            case ["pyramid", "extra_blocks", level]:
                return self.top[("p6", "p7").index(level)]
            case ["cls_head" | "box_head" as head, "tower", place]:
                template = self.towers[("cls_head", "box_head").index(head)]
                return template.format(layer=int(place) // 2, place=place)
            case ["cls_head" | "box_head" as head, "output"]:
                return self.heads[("cls_head", "box_head").index(head)]
        raise KeyError(module)


def _modern_torchvision_name(name: str) -> str:
    # torchvision once named the convolutions of pyramid and towers without the blocks around them.
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
    old = re.fullmatch(r"(head\.\w+\.conv)\.([02468])\.(weight|bias)", name)
    return f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}" if old else name


_AUTHORS = CodeBase(
    stem=("backbone.body.stem.conv1", "backbone.body.stem.bn1"),
    stages="backbone.body.layer{layer}",
    laterals=("backbone.fpn.fpn_inner2", "backbone.fpn.fpn_inner3", "backbone.fpn.fpn_inner4"),
    outputs=("backbone.fpn.fpn_layer2", "backbone.fpn.fpn_layer3", "backbone.fpn.fpn_layer4"),
    top=("backbone.fpn.top_blocks.p6", "backbone.fpn.top_blocks.p7"),
    towers=("rpn.head.cls_tower.{place}", "rpn.head.bbox_tower.{place}"),
    heads=("rpn.head.cls_logits", "rpn.head.bbox_pred"),
    extras=r"rpn\.anchor_generator\.cell_anchors\.\d+",
    anchors={"geometry": "legacy", "centre_offset": 0.5},
    inputs=_BGR | {"mean": MSRA_MEAN, "resize": "maskrcnn-benchmark", "box_convention": "inclusive"},
    stride_in_1x1=True,
    norm_eps=0.0,
    p6_source="P5",
    free_anchor_prior=0.02,
    has_free_anchor=True,
)
_MMDETECTION = CodeBase(
    stem=("backbone.conv1", "backbone.bn1"),
    stages="backbone.layer{layer}",
    laterals=("neck.lateral_convs.0.conv", "neck.lateral_convs.1.conv", "neck.lateral_convs.2.conv"),
    outputs=("neck.fpn_convs.0.conv", "neck.fpn_convs.1.conv", "neck.fpn_convs.2.conv"),
    top=("neck.fpn_convs.3.conv", "neck.fpn_convs.4.conv"),
    towers=("bbox_head.cls_convs.{layer}.conv", "bbox_head.reg_convs.{layer}.conv"),
    heads=("bbox_head.retina_cls", "bbox_head.retina_reg"),
    anchors={"geometry": "exact", "centre_offset": 0.0},
    inputs={"resize": "mmdetection"},
    inference={"limit_shrinkage": True, "drop_empty": True},
    trained_affine=True,
    p6_source="C5",
    relu_before_p7=False,
    plain_deltas="RetinaNet",
    has_free_anchor=True,
    export=Export(counters=True, wrapped=True),
)
_TORCHVISION = CodeBase(
    stem=("backbone.body.conv1", "backbone.body.bn1"),
    stages="backbone.body.layer{layer}",
    laterals=("backbone.fpn.inner_blocks.0.0", "backbone.fpn.inner_blocks.1.0", "backbone.fpn.inner_blocks.2.0"),
    outputs=("backbone.fpn.layer_blocks.0.0", "backbone.fpn.layer_blocks.1.0", "backbone.fpn.layer_blocks.2.0"),
    top=("backbone.fpn.extra_blocks.p6", "backbone.fpn.extra_blocks.p7"),
    towers=("head.classification_head.conv.{layer}.0", "head.regression_head.conv.{layer}.0"),
    heads=("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
    modern_name=_modern_torchvision_name,
    others={r"head\.\w+_head\.conv\.\d\.1\.weight": "retinanet_resnet50_fpn_v2 (v2), with group norm in its heads"},
    anchors={"geometry": "torchvision", "centre_offset": 0.0},
    inputs={"resize": "torchvision"},
    inference={"max_detections": 300},
    p6_source=None,
    slots_are_category_ids=True,
    plain_deltas="always",
    export=Export(norm_eps=(0.0, 1e-5)),  # its `overwrite_eps` sets 0 for the COCO_V1 file
)
_DETECTRON2 = CodeBase(
    stem=("backbone.bottom_up.stem.conv1", "backbone.bottom_up.stem.conv1.norm"),
    stages="backbone.bottom_up.res{res}",
    block={
        **{part: part.replace("bn", "conv") + (".norm" if part.startswith("bn") else "") for part in _BLOCK_PARTS},
        "downsample.0": "shortcut",
        "downsample.1": "shortcut.norm",
    },
    laterals=("backbone.fpn_lateral3", "backbone.fpn_lateral4", "backbone.fpn_lateral5"),
    outputs=("backbone.fpn_output3", "backbone.fpn_output4", "backbone.fpn_output5"),
    top=("backbone.top_block.p6", "backbone.top_block.p7"),
    towers=("head.cls_subnet.{place}", "head.bbox_subnet.{place}"),
    heads=("head.cls_score", "head.bbox_pred"),
    extras=r"pixel_mean|pixel_std|anchor_generator\.cell_anchors\.\d+",
    anchors={"geometry": "exact", "centre_offset": 0.0},
    inputs=_BGR | {"mean": CAFFE_MEAN, "resize": "detectron2"},
    resnext_inputs={"std": CAFFE_STD},
    inference={"clip": "after_nms", "drop_empty": True},
    stride_in_1x1=True,
    p6_source="C5",
    scale_major=True,
    plain_deltas="always",
    has_pickles=True,
)
_MMDETECTION_CAFFE = replace(
    _MMDETECTION,
    inputs=_BGR | {"mean": CAFFE_MEAN, "resize": "mmdetection"},
    stride_in_1x1=True,
    trained_affine=False,
)
CODE_BASES: dict[str, CodeBase] = {
    "authors": _AUTHORS,
    "mmdetection": replace(_MMDETECTION, caffe=_MMDETECTION_CAFFE),
    "torchvision": _TORCHVISION,
    "detectron2": _DETECTRON2,
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a state dict does not say about itself.

    `detector` decides how mmdetection codes boxes. `caffe` is about mmdetection's files with a Caffe backbone: BGR, the
    stride in the 1x1, batch norm untrained. `norm_eps` None is the format's own; 0 for torchvision's COCO_V1 file.
    """

    format: str  # a key of CODE_BASES
    detector: Literal["RetinaNet", "FreeAnchor"]
    caffe: bool = False
    norm_eps: float | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown format, and a Caffe backbone where the format leaves no choice."""
        if self.format not in CODE_BASES:
            raise ValueError(f"format {self.format!r} is unknown; known are {', '.join(CODE_BASES)}")
        if self.caffe and CODE_BASES[self.format].caffe is None:
            with_choice = " and ".join(name for name, base in CODE_BASES.items() if base.caffe)
            raise ValueError(f"caffe is about {with_choice}'s files; {self.format}'s are all of one kind, leave it out")

    @property
    def code_base(self) -> CodeBase:
        """The code base that wrote the file, with the backbone that it has."""
        base = CODE_BASES[self.format]
        return base.caffe if self.caffe and base.caffe else base
