"""The network of a foreign checkpoint as plain functions of its state dict: no modules, nothing learned, one image in.

maps = forward(state, AUTHORS, RESNET50, images)     # maps.logits: five [B, 9 K, h, w], finest first
rows = flatten(maps.logits, 80)                      # [B, A, K] in the format's own order of anchors
"""

from dataclasses import dataclass

import torch
from oracles.foreign_names import Architecture, Layout
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Raw output of both heads at P3 to P7."""

    logits: list[Tensor]
    deltas: list[Tensor]


def _conv(state: State, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution padded to keep the size, with its bias where the file has one."""
    weight = state[f"{name}.weight"]
    padding = weight.shape[-1] // 2
    return functional.conv2d(x, weight, state.get(f"{name}.bias"), stride=stride, padding=padding, groups=groups)


def _norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    """Batch norm at its stored statistics, written out."""

    def column(part: str) -> Tensor:
        return state[f"{name}.{part}"].view(1, -1, 1, 1)

    return (x - column("running_mean")) / torch.sqrt(column("running_var") + eps) * column("weight") + column("bias")


def _block(state: State, layout: Layout, size: Architecture, prefix: str, x: Tensor, stride: int) -> Tensor:
    """A residual block; `stride` sits in its first or second convolution."""

    def step(n: int, inputs: Tensor, own_stride: int = 1, groups: int = 1) -> Tensor:
        output = _conv(state, prefix + layout.conv.format(n=n), inputs, own_stride, groups)
        return _norm(state, prefix + layout.norm.format(n=n), output, layout.norm_eps)

    if size.bottleneck:
        first, second = (stride, 1) if layout.stride_in_1x1 else (1, stride)
        inner = functional.relu(step(1, x, first))
        inner = functional.relu(step(2, inner, second, size.groups))
        residual = step(3, inner)
    else:
        residual = step(2, functional.relu(step(1, x, stride)))
    if f"{prefix}{layout.shortcut_conv}.weight" in state:
        x = _conv(state, prefix + layout.shortcut_conv, x, stride)
        x = _norm(state, prefix + layout.shortcut_norm, x, layout.norm_eps)
    return functional.relu(x + residual)


def backbone(state: State, layout: Layout, size: Architecture, images: Tensor) -> list[Tensor]:
    """C3, C4 and C5."""
    x = _norm(state, layout.stem_norm, _conv(state, layout.stem_conv, images, stride=2), layout.norm_eps)
    x = functional.max_pool2d(functional.relu(x), 3, stride=2, padding=1)
    maps = []
    for stage, num_blocks in enumerate(size.blocks):
        for block in range(num_blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _block(state, layout, size, layout.block_name(stage, block), x, stride)
        maps.append(x)
    return maps[1:]


def pyramid(state: State, layout: Layout, maps: list[Tensor]) -> list[Tensor]:
    """P3 to P7."""
    merged = _conv(state, layout.lateral[2], maps[2])
    levels = [_conv(state, layout.output[2], merged)]
    for i in (1, 0):
        doubled = merged.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        merged = _conv(state, layout.lateral[i], maps[i]) + doubled
        levels.insert(0, _conv(state, layout.output[i], merged))
    p6 = _conv(state, layout.p6, maps[2] if layout.p6_from_c5 else levels[2], stride=2)
    p7 = _conv(state, layout.p7, functional.relu(p6) if layout.relu_before_p7 else p6, stride=2)
    return [*levels, p6, p7]


def _head(state: State, tower: list[str], output: str, levels: list[Tensor]) -> list[Tensor]:
    """One head over every level."""
    results = []
    for features in levels:
        for name in tower:
            features = functional.relu(_conv(state, name, features))
        results.append(_conv(state, output, features))
    return results


@torch.no_grad()
def forward(state: State, layout: Layout, size: Architecture, images: Tensor) -> Maps:
    """Both heads' maps for normalised images [B, 3, H, W] whose sides are multiples of 32."""
    levels = pyramid(state, layout, backbone(state, layout, size, images))
    return Maps(
        logits=_head(state, layout.tower(layout.cls_tower, size.head_depth), layout.cls_output, levels),
        deltas=_head(state, layout.tower(layout.box_tower, size.head_depth), layout.box_output, levels),
    )


def flatten(maps: list[Tensor], width: int) -> Tensor:
    """[B, A, width]: levels, rows, columns, the cell's anchors; channel = anchor * width + k."""
    rows = []
    for output in maps:
        for y in range(output.shape[2]):
            for x in range(output.shape[3]):
                rows.append(output[:, :, y, x].reshape(len(output), -1, width))
    return torch.cat(rows, dim=1)
