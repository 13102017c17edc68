"""The network that a foreign checkpoint belongs to, read off its names and shapes; and the names it must then have.

Every guess is the one that leaves the fewest names unexplained, so that one damaged entry does not mislead it.

    layout = read_layout(tensors, "torchvision")
    layout.backbone, layout.num_slots        # "resnet50", 91
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from freeanchor.anchors import AnchorConfig
from freeanchor.conversion_keys import NAMINGS, Format, Naming, foreign_name
from freeanchor.detector.backbones import RESNETS, TorchvisionResNet, build_backbone
from freeanchor.detector.retinanet import ModelConfig, RetinaNet

COUNTER = "num_batches_tracked"  # batch norm's own count of batches: no weight, and not in every file
MAX_DEPTH = 16  # hidden convolutions of a head
PER_CELL = AnchorConfig().num_per_cell  # anchors a cell: nine in all four code bases

Shape = tuple[int, ...]


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


@lru_cache(maxsize=len(RESNETS))
def _backbone_shapes(name: str) -> dict[str, Shape]:
    """Names and shapes of a backbone of ours, batch norm's counters aside."""
    with torch.device("meta"):
        state = build_backbone(TorchvisionResNet(name=name)).state_dict()
    return {f"backbone.{key}": tuple(tensor.shape) for key, tensor in state.items()}


def _nearest_backbone(shapes: Mapping[str, Shape], naming: Naming) -> str:
    """The backbone that explains most of the names and misses fewest."""

    def unexplained(name: str) -> int:
        own = _backbone_shapes(name)
        return len(own) - 2 * sum(shapes.get(foreign_name(key, naming)) == shape for key, shape in own.items())

    return min(RESNETS, key=unexplained)


def _nearest_depth(names: Mapping[str, Shape], naming: Naming) -> int:
    """The depth of the heads that explains most of the names and misses fewest."""

    def unexplained(depth: int) -> int:
        towers = [template.format(layer=i, place=2 * i) for template in naming.towers for i in range(depth)]
        expected = [f"{tower}.{tensor}" for tower in towers for tensor in ("weight", "bias")]
        return len(expected) - 2 * sum(name in names for name in expected)

    return min(range(MAX_DEPTH + 1), key=unexplained)


def _common_rows(shapes: Mapping[str, Shape], modules: Sequence[str]) -> int | None:
    """The commonest first side of the weights and biases of `modules`, or None where there is none."""
    found = (shapes.get(f"{module}.{tensor}") for module in modules for tensor in ("weight", "bias"))
    rows = Counter(shape[0] for shape in found if shape)
    return rows.most_common(1)[0][0] if rows else None


def _num_slots(shapes: Mapping[str, Shape], naming: Naming) -> int | None:
    """Class channels an anchor, where the weight and the bias of the class output do not contradict each other."""
    found = (shapes.get(f"{naming.heads[0]}.{tensor}") for tensor in ("weight", "bias"))
    slots = {shape[0] // PER_CELL for shape in found if shape and shape[0] > 0 and shape[0] % PER_CELL == 0}
    return slots.pop() if len(slots) == 1 else None


def read_layout(tensors: Mapping[str, Tensor], format: Format) -> Layout:
    """The `Layout` of a state dict by its names and shapes; only torchvision's leaves P6's source to the shape.

    torchvision takes P5 where P6's input is as wide as the pyramid, and C5 otherwise.
    """
    naming = NAMINGS[format]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    channels = _common_rows(shapes, [*naming.laterals, *naming.outputs, *naming.top]) or 256
    p6 = shapes.get(f"{naming.top[0]}.weight", ())
    by_shape = len(p6) != 4 or p6[1] == channels
    return Layout(
        backbone=_nearest_backbone(shapes, naming),
        channels=channels,
        depth=_nearest_depth(shapes, naming),
        p6_from_pyramid=by_shape if format == "torchvision" else format == "authors",
        num_slots=_num_slots(shapes, naming),
    )


def own_shapes(model: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of our network's tensors; no memory is taken for them."""
    with torch.device("meta"):
        state = RetinaNet(model).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def mismatches(expected: Mapping[str, Shape], given: Mapping[str, Shape]) -> dict[str, list[str]]:
    """Every difference between two sets of names and shapes, by its kind (missing, unknown, misshapen); sorted.

    Kinds of which there are none are left out, so that an empty result means that all fits.
    """
    found = {
        "missing": sorted(expected.keys() - given.keys()),
        "unknown": sorted(given.keys() - expected.keys()),
        "misshapen": [
            f"{name} {given[name]} instead of {expected[name]}"
            for name in sorted(expected.keys() & given.keys())
            if expected[name] != given[name]
        ],
    }
    return {kind: names for kind, names in found.items() if names}
