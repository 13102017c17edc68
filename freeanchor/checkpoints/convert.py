"""Checkpoints of four code bases to and from our own format, without loss: every name is matched, or nothing is done.

The result carries what foreign files leave to their code: anchors, order, class slots, coding of boxes, input and
inference (`conversion_config.py`). Names are in `conversion_keys.py`, reading the files in `foreign_files.py`. Weights
of bare backbones: `backbone_weights.py`.

    origin = Origin(format="torchvision", detector="RetinaNet", norm_eps=0.0)
    convert_file(Path("retinanet_resnet50_fpn_coco.pth"), origin, Path("model.safetensors"), COCO_CATEGORIES)
    export_file(Path("model.safetensors"), "torchvision", Path("back.pth"))

The network that a foreign checkpoint belongs to, read off its names and shapes; and the names it must then have.

Every guess is the one that leaves the fewest names unexplained, so that one damaged entry does not mislead it.

    layout = read_layout(tensors, "torchvision")
    layout.backbone, layout.num_slots        # "resnet50", 91
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freeanchor.checkpoints.code_bases import (
    COUNTER,
    NAMINGS,
    PER_CELL,
    Channels,
    ExportFormat,
    Format,
    Layout,
    Naming,
    Origin,
    Shape,
    channels_of,
    configure,
    foreign_name,
    modern_name,
    obstacles,
)
from freeanchor.checkpoints.foreign_files import read_foreign
from freeanchor.checkpoints.native import DetectorConfig, describe, read_model, save_tensors
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import RESNETS, TorchvisionResNet, build_backbone
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.errors import CheckpointError
from freeanchor.files import replacing

MAX_DEPTH = 16  # hidden convolutions of a head


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


def _check_classes(num_slots: int | None, origin: Origin, categories: Mapping[int, str]) -> None:
    """Refuse categories that do not fit the class channels of the file."""
    if not categories:
        raise CheckpointError("no categories given; name the classes that the checkpoint knows")
    if num_slots is None:
        return  # the class output is missing or misshapen, which the comparison of names tells
    if origin.format == "torchvision" and not 0 <= min(categories) <= max(categories) < num_slots:
        raise CheckpointError(
            f"the checkpoint has class slots 0 to {num_slots - 1}, the categories have ids {min(categories)} to "
            f"{max(categories)}; give the categories that it was trained on"
        )
    if origin.format != "torchvision" and num_slots != len(categories):
        raise CheckpointError(
            f"the checkpoint knows {num_slots} classes, {len(categories)} categories are given; give those that it was "
            "trained on"
        )


def _foreign_shapes(shapes: Mapping[str, Shape], naming: Naming, channels: Channels) -> dict[str, Shape]:
    """The names and shapes that a code base has for a network of ours with `shapes`, batch norm's counters aside."""
    expected = {}
    for name, shape in shapes.items():
        rows = (PER_CELL * channels.num_slots, *shape[1:]) if name.startswith("cls_head.output.") else shape
        if not name.endswith(COUNTER):
            expected[foreign_name(name, naming)] = rows
    return expected


def _check_names(expected: Mapping[str, Shape], given: Mapping[str, Shape], origin: Origin) -> None:
    """Refuse a state dict whose names or shapes differ from the expected ones anywhere, saying where."""
    wrong = mismatches(expected, given)
    unknown = wrong.get("unknown", [])
    num_known = len(given) - len(unknown)
    if num_known < len(expected) / 2:
        raise CheckpointError(
            f"no {origin.format} RetinaNet: {num_known} of its {len(expected)} names are there, and {len(unknown)} "
            f"others ({', '.join(unknown[:3])}); name the format that it is of"
        )
    if wrong:
        all_of_them = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in wrong.items())
        raise CheckpointError(f"does not fit the names and shapes of {origin.format}'s RetinaNet; {all_of_them}")


def _weights(tensors: Mapping[str, Tensor], naming: Naming, expected: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The tensors that are weights: without those known to be none, batch norm's counters among them."""
    counters = {name.removesuffix("running_var") + COUNTER for name in expected if name.endswith("running_var")}
    extra = re.compile(naming.extras)
    return {name: t for name, t in tensors.items() if name not in counters and not extra.fullmatch(name)}


def _modernised(tensors: Mapping[str, Tensor], format: Format) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors under today's names, and the name that each came with; an old name beside its new one stays."""
    origins = {}
    for name in tensors:
        modern = modern_name(name, format)
        origins[name if modern in tensors else modern] = name
    return {name: tensors[origin] for name, origin in origins.items()}, origins


def _stored_input(inputs: InputConfig, tensors: Mapping[str, Tensor]) -> InputConfig:
    """The input with the mean and standard deviation that detectron2's files may hold themselves."""
    stored: dict[str, Any] = {
        field: tuple(round(value, 4) for value in tensors[name].flatten().tolist())  # they are kept in float32
        for field, name in (("mean", "pixel_mean"), ("std", "pixel_std"))
        if name in tensors and tensors[name].numel() == 3
    }
    return replace(inputs, **stored)


def convert_tensors(
    tensors: Mapping[str, Tensor], origin: Origin, categories: Mapping[int, str]
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """A foreign state dict under our names, in float32, with the configuration that makes it the same detector.

    `categories` are the classes it knows, by category id; labels follow the ids. Left out are counters, stored anchors,
    and torchvision's slots for no category. Raises CheckpointError that lists every missing, unknown or misshapen name,
    by the name of the file, or says that the categories do not fit. Source: FACTS G1 to G3.
    """
    naming = NAMINGS[origin.format]
    given, spelled = _modernised(tensors, origin.format)
    layout = read_layout(given, origin.format)
    _check_classes(layout.num_slots, origin, categories)
    detector = configure(origin, layout, categories)
    channels = channels_of(origin.format, detector, layout.num_slots)
    ours = own_shapes(detector.model)
    expected = _foreign_shapes(ours, naming, channels)
    weights = _weights(given, naming, expected)
    _check_names(
        {spelled.get(name, name): shape for name, shape in expected.items()},
        {spelled[name]: tuple(tensor.shape) for name, tensor in weights.items()},
        origin,
    )
    converted = {}
    for name in ours:
        if name.endswith(COUNTER):
            converted[name] = given.get(foreign_name(name, naming), torch.tensor(0)).long().reshape(()).clone()
        else:
            converted[name] = channels.to_ours(name, weights[foreign_name(name, naming)].detach().float()).clone()
    if origin.format == "detectron2":
        detector = replace(detector, inputs=_stored_input(detector.inputs, tensors))
    return converted, detector


def export_tensors(tensors: Mapping[str, Tensor], detector: DetectorConfig, to: ExportFormat) -> dict[str, Tensor]:
    """Our weights under the names, and in the layout, of another code base; the inverse of `convert_tensors`.

    For torchvision unused class slots, up to the highest category id, get no weight and a score of 2e-9. A state dict
    holds no eps: a detector that adds 0 to its variances needs torchvision's `overwrite_eps(model, 0.0)`, as
    torchvision's own COCO_V1 file does. mmdetection's batch norm counts its batches, so the counters are there. Raises
    CheckpointError that says why, where the code base's standard RetinaNet would make another detector of the weights.
    """
    reasons = obstacles(detector, to)
    if reasons:
        raise CheckpointError(f"{to}'s RetinaNet cannot hold this detector: {'; '.join(reasons)}")
    naming, channels = NAMINGS[to], channels_of(to, detector)
    exported = {}
    for name, tensor in tensors.items():
        if not name.endswith(COUNTER):
            exported[foreign_name(name, naming)] = channels.to_theirs(name, tensor).clone()
        if name.endswith("running_var") and to == "mmdetection":
            counter = name.removesuffix("running_var") + COUNTER
            exported[foreign_name(counter, naming)] = tensors.get(counter, torch.tensor(0)).clone()
    return exported


def convert_file(source: Path, origin: Origin, target: Path, categories: Mapping[int, str]) -> DetectorConfig:
    """Read a foreign file, convert it, and write it in our format; raises CheckpointError where any of it fails."""
    tensors = read_foreign(source, origin.format)
    try:
        converted, detector = convert_tensors(tensors, origin, categories)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    save_tensors(target, converted, describe(detector))
    return detector


def export_file(source: Path, to: ExportFormat, target: Path) -> None:
    """Write a model file of ours as a state dict of another code base, atomically; raises CheckpointError as above."""
    tensors, detector = read_model(source)
    try:
        exported = export_tensors(tensors, detector, to)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    content = {"state_dict": exported, "meta": {}} if to == "mmdetection" else exported
    with replacing(target) as temporary:
        torch.save(content, temporary)
