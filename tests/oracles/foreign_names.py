"""Names and shapes of four foreign RetinaNet checkpoints, and the arithmetic that goes with them.

A `Layout` is how a code base names its tensors and what its network does with them; an `Architecture` is how large the
network is. `convolutions` and `norms` list every layer of the two together.

    shapes = {name + ".weight": shape for name, shape, _ in convolutions(AUTHORS, RESNET50)}
"""

from collections.abc import Iterator
from dataclasses import dataclass

ANCHORS_PER_CELL = 9


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Blocks a stage and the width of their 3x3 convolutions (`groups` of `group_width` in the first stage)."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    channels: int = 256
    head_depth: int = 4
    num_classes: int = 80

    def inner(self, stage: int) -> int:
        """Channels of a block's 3x3 convolutions in `stage` (0 to 3)."""
        return self.groups * self.group_width * 2**stage

    def outer(self, stage: int) -> int:
        """Channels that `stage` (0 to 3) hands on."""
        return 64 * 2**stage * (4 if self.bottleneck else 1)


RESNET18 = Architecture(blocks=(2, 2, 2, 2), bottleneck=False)
RESNET50 = Architecture()
RESNEXT101_64X4D = Architecture(blocks=(3, 4, 23, 3), groups=64, group_width=4)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One code base's names; `{stage}` counts from `first_stage`, `{place}` steps by `tower_step`."""

    stem_conv: str
    stem_norm: str
    block: str
    first_stage: int = 1
    conv: str = "conv{n}"
    norm: str = "bn{n}"
    shortcut_conv: str = "downsample.0"
    shortcut_norm: str = "downsample.1"
    lateral: tuple[str, str, str]
    output: tuple[str, str, str]
    p6: str
    p7: str
    cls_tower: str
    box_tower: str
    tower_step: int
    cls_output: str
    box_output: str
    p6_from_c5: bool
    relu_before_p7: bool
    stride_in_1x1: bool
    norm_eps: float
    counts_batches: bool = False  # nn.BatchNorm2d saves num_batches_tracked beside its four tensors

    def tower(self, name: str, depth: int) -> list[str]:
        """Names of a tower's hidden convolutions."""
        return [name.format(place=self.tower_step * i) for i in range(depth)]

    def block_name(self, stage: int, block: int) -> str:
        """Prefix of a block; stages count from 0."""
        return self.block.format(stage=stage + self.first_stage, block=block) + "."


AUTHORS = Layout(
    stem_conv="backbone.body.stem.conv1",
    stem_norm="backbone.body.stem.bn1",
    block="backbone.body.layer{stage}.{block}",
    lateral=("backbone.fpn.fpn_inner2", "backbone.fpn.fpn_inner3", "backbone.fpn.fpn_inner4"),
    output=("backbone.fpn.fpn_layer2", "backbone.fpn.fpn_layer3", "backbone.fpn.fpn_layer4"),
    p6="backbone.fpn.top_blocks.p6",
    p7="backbone.fpn.top_blocks.p7",
    cls_tower="rpn.head.cls_tower.{place}",
    box_tower="rpn.head.bbox_tower.{place}",
    tower_step=2,
    cls_output="rpn.head.cls_logits",
    box_output="rpn.head.bbox_pred",
    p6_from_c5=False,
    relu_before_p7=True,
    stride_in_1x1=True,
    norm_eps=0.0,
)
MMDETECTION = Layout(
    stem_conv="backbone.conv1",
    stem_norm="backbone.bn1",
    block="backbone.layer{stage}.{block}",
    lateral=("neck.lateral_convs.0.conv", "neck.lateral_convs.1.conv", "neck.lateral_convs.2.conv"),
    output=("neck.fpn_convs.0.conv", "neck.fpn_convs.1.conv", "neck.fpn_convs.2.conv"),
    p6="neck.fpn_convs.3.conv",
    p7="neck.fpn_convs.4.conv",
    cls_tower="bbox_head.cls_convs.{place}.conv",
    box_tower="bbox_head.reg_convs.{place}.conv",
    tower_step=1,
    cls_output="bbox_head.retina_cls",
    box_output="bbox_head.retina_reg",
    p6_from_c5=True,
    relu_before_p7=False,
    stride_in_1x1=False,
    norm_eps=1e-5,
    counts_batches=True,
)
TORCHVISION = Layout(
    stem_conv="backbone.body.conv1",
    stem_norm="backbone.body.bn1",
    block="backbone.body.layer{stage}.{block}",
    lateral=("backbone.fpn.inner_blocks.0.0", "backbone.fpn.inner_blocks.1.0", "backbone.fpn.inner_blocks.2.0"),
    output=("backbone.fpn.layer_blocks.0.0", "backbone.fpn.layer_blocks.1.0", "backbone.fpn.layer_blocks.2.0"),
    p6="backbone.fpn.extra_blocks.p6",
    p7="backbone.fpn.extra_blocks.p7",
    cls_tower="head.classification_head.conv.{place}.0",
    box_tower="head.regression_head.conv.{place}.0",
    tower_step=1,
    cls_output="head.classification_head.cls_logits",
    box_output="head.regression_head.bbox_reg",
    p6_from_c5=False,
    relu_before_p7=True,
    stride_in_1x1=False,
    norm_eps=1e-5,
    counts_batches=True,
)
DETECTRON2 = Layout(
    stem_conv="backbone.bottom_up.stem.conv1",
    stem_norm="backbone.bottom_up.stem.conv1.norm",
    block="backbone.bottom_up.res{stage}.{block}",
    first_stage=2,
    norm="conv{n}.norm",
    shortcut_conv="shortcut",
    shortcut_norm="shortcut.norm",
    lateral=("backbone.fpn_lateral3", "backbone.fpn_lateral4", "backbone.fpn_lateral5"),
    output=("backbone.fpn_output3", "backbone.fpn_output4", "backbone.fpn_output5"),
    p6="backbone.top_block.p6",
    p7="backbone.top_block.p7",
    cls_tower="head.cls_subnet.{place}",
    box_tower="head.bbox_subnet.{place}",
    tower_step=2,
    cls_output="head.cls_score",
    box_output="head.bbox_pred",
    p6_from_c5=True,
    relu_before_p7=True,
    stride_in_1x1=True,
    norm_eps=1e-5,
)


def _block_shapes(size: Architecture, stage: int, block: int) -> list[tuple[int, ...]]:
    """Shapes of a block's convolutions in order, the shortcut's last where there is one."""
    entering = size.outer(stage) if block else (size.outer(stage - 1) if stage else 64)
    inner, leaving = size.inner(stage), size.outer(stage)
    if size.bottleneck:
        shapes = [(inner, entering, 1, 1), (inner, inner // size.groups, 3, 3), (leaving, inner, 1, 1)]
    else:
        shapes = [(leaving, entering, 3, 3), (leaving, leaving, 3, 3)]
    if block == 0 and (stage > 0 or entering != leaving):
        shapes.append((leaving, entering, 1, 1))
    return shapes


def _body(layout: Layout, size: Architecture) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(convolution, its norm, shape) over stem and stages."""
    yield layout.stem_conv, layout.stem_norm, (64, 3, 7, 7)
    for stage, num_blocks in enumerate(size.blocks):
        for block in range(num_blocks):
            prefix = layout.block_name(stage, block)
            shapes = _block_shapes(size, stage, block)
            plain = 3 if size.bottleneck else 2
            for n, shape in enumerate(shapes[:plain], start=1):
                yield prefix + layout.conv.format(n=n), prefix + layout.norm.format(n=n), shape
            for shape in shapes[plain:]:
                yield prefix + layout.shortcut_conv, prefix + layout.shortcut_norm, shape


def convolutions(layout: Layout, size: Architecture) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """(name, shape of the weight, whether it has a bias) of every convolution."""
    for name, _, shape in _body(layout, size):
        yield name, shape, False
    channels = size.channels
    square = (channels, channels, 3, 3)
    for i in range(3):
        yield layout.lateral[i], (channels, size.outer(i + 1), 1, 1), True
        yield layout.output[i], square, True
    yield layout.p6, ((channels, size.outer(3), 3, 3) if layout.p6_from_c5 else square), True
    yield layout.p7, square, True
    for tower in (layout.cls_tower, layout.box_tower):
        for name in layout.tower(tower, size.head_depth):
            yield name, square, True
    yield layout.cls_output, (ANCHORS_PER_CELL * size.num_classes, channels, 3, 3), True
    yield layout.box_output, (ANCHORS_PER_CELL * 4, channels, 3, 3), True


def norms(layout: Layout, size: Architecture) -> Iterator[tuple[str, int]]:
    """(name, channels) of every batch norm."""
    for _, norm, shape in _body(layout, size):
        yield norm, shape[0]
