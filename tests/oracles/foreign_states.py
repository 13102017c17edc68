"""Random state dicts with the names and shapes of foreign checkpoints, tame enough to detect something.

Weights follow He's variance; batch norms keep their output near the input's size whatever variance they store, and
some store variances so small that a wrong epsilon shows. The last norm of a block is damped, so that depth does not
blow activations up. The classification bias lets tens to thousands of (anchor, class) pairs pass a score of 0.05.

    state = authors_state(RESNET50, seed=0)
"""

import math
from dataclasses import replace

import torch
from oracles.foreign_names import (
    AUTHORS,
    DETECTRON2,
    MMDETECTION,
    TORCHVISION,
    Architecture,
    Layout,
    convolutions,
    norms,
)
from torch import Tensor

State = dict[str, Tensor]
PIXEL_STD = 60.0  # where the image is not divided by its deviation, the stem's weights are
LOGIT_STD, DELTA_STD = 0.016, 0.006  # of the output convolutions, for 256 channels
STAGE_SIZES = (2.8, 3.6, 3.6)  # about what C3, C4 and C5 come to (measured: 2, 3.6, 4.5); the laterals divide by it


def _draw(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) * std


def _norm(channels: int, gain: float, generator: torch.Generator) -> State:
    """Four tensors of a batch norm that scales by 0.5 to 1.5 times `gain`."""
    variance = 10 ** (torch.rand(channels, generator=generator) * 4.3 - 4)  # 1e-4 to 2
    scale = (0.5 + torch.rand(channels, generator=generator)) * gain
    return {
        "weight": scale * variance.sqrt(),
        "bias": _draw((channels,), 0.1, generator),
        "running_mean": _draw((channels,), 0.1, generator),
        "running_var": variance,
    }


def _is_damped(name: str, size: Architecture) -> bool:
    """Whether a norm is the last of its block's three (or two)."""
    last = 3 if size.bottleneck else 2
    return f"bn{last}" in name or f"conv{last}.norm" in name


def _tame(state: State, layout: Layout, pixel_std: float) -> None:
    """Scale what no ReLU follows, so that P3 to P7 come out near 1 for pixels of `pixel_std`."""
    state[f"{layout.stem_conv}.weight"] /= pixel_std
    for i, stage_size in enumerate(STAGE_SIZES):
        state[f"{layout.lateral[i]}.weight"] /= stage_size * math.sqrt(2)
        state[f"{layout.output[i]}.weight"] /= math.sqrt(2)
    state[f"{layout.p6}.weight"] /= STAGE_SIZES[2] if layout.p6_from_c5 else 1
    state[f"{layout.p7}.weight"] *= math.sqrt(2)


def random_state(layout: Layout, size: Architecture, seed: int, *, pixel_std: float, delta_scale: float) -> State:
    """Weights of every layer that `layout` and `size` list; deltas are about `delta_scale` times 0.2."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape, has_bias in convolutions(layout, size):
        state[f"{name}.weight"] = _draw(shape, math.sqrt(2 / math.prod(shape[1:])), generator)
        if has_bias:
            state[f"{name}.bias"] = _draw((shape[0],), 0.05, generator)
    for name, channels in norms(layout, size):
        for part, tensor in _norm(channels, 0.3 if _is_damped(name, size) else 1.0, generator).items():
            state[f"{name}.{part}"] = tensor
        if layout.counts_batches:
            state[f"{name}.num_batches_tracked"] = torch.tensor(1000)
    _tame(state, layout, pixel_std)
    narrow = math.sqrt(256 / size.channels)
    for name, std in ((layout.cls_output, LOGIT_STD), (layout.box_output, DELTA_STD * delta_scale)):
        state[f"{name}.weight"] = _draw(tuple(state[f"{name}.weight"].shape), std * narrow, generator)
    state[f"{layout.cls_output}.bias"] = (
        _draw((9 * size.num_classes,), 0.3, generator) - 2.8 - 0.37 * math.log(size.num_classes)
    )
    state[f"{layout.box_output}.bias"] *= delta_scale
    return state


def authors_state(size: Architecture, seed: int = 0) -> State:
    """The authors' file: batch norm frozen, the cells' anchors saved too."""
    state = random_state(AUTHORS, size, seed, pixel_std=PIXEL_STD, delta_scale=10.0)
    for level in range(5):
        state[f"rpn.anchor_generator.cell_anchors.{level}"] = torch.full((9, 4), float(level))
    return state


def mmdetection_state(size: Architecture, seed: int = 0, *, free_anchor: bool, caffe: bool = False) -> State:
    """mmdetection's file, whose FreeAnchor codes boxes with deviations of 0.1 and 0.2 and whose RetinaNet with 1."""
    scale = 10.0 if free_anchor else 1.0
    return random_state(MMDETECTION, size, seed, pixel_std=PIXEL_STD if caffe else 1.0, delta_scale=scale)


def torchvision_state(size: Architecture, seed: int = 0, used: tuple[int, ...] = ()) -> State:
    """torchvision's file; slots other than the `used` category ids never score."""
    state = random_state(TORCHVISION, size, seed, pixel_std=1.0, delta_scale=1.0)
    bias = state[f"{TORCHVISION.cls_output}.bias"].view(9, size.num_classes)
    weight = state[f"{TORCHVISION.cls_output}.weight"].view(9, size.num_classes, -1)
    for slot in set(range(size.num_classes)) - set(used):
        bias[:, slot] = -20.0
        weight[:, slot] = 0.0
    return state


def detectron2_state(size: Architecture, seed: int = 0) -> State:
    """detectron2's file, its pixel mean and deviation and the cells' anchors with it."""
    state = random_state(DETECTRON2, size, seed, pixel_std=PIXEL_STD, delta_scale=1.0)
    state["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    state["pixel_std"] = torch.ones(3, 1, 1)
    for level in range(5):
        state[f"anchor_generator.cell_anchors.{level}"] = torch.full((9, 4), float(level))
    return state


MAKERS = {
    "authors": authors_state,
    "mmdetection": mmdetection_state,
    "torchvision": torchvision_state,
    "detectron2": detectron2_state,
}


def miniature(size: Architecture, *, num_classes: int = 5, head_depth: int = 1) -> Architecture:
    """The same backbone under a narrow pyramid with few classes."""
    return replace(size, channels=64, head_depth=head_depth, num_classes=num_classes)
