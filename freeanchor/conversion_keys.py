"""What four code bases call the weights of a RetinaNet (FACTS G1). Names only: values are in `conversion.py`.

A `Naming` gives a code base's name for each of our modules, so that both sets of names can be held against each other.

    foreign_name("pyramid.extra_blocks.p6.weight", NAMINGS["mmdetection"])      # 'neck.fpn_convs.3.conv.weight'
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
