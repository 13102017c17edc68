"""Checkpoints of other code bases to and from our own format, without loss: every name is matched, or nothing is done.

The result carries what foreign files leave to their code: anchors, order, class slots, coding of boxes, input and
inference. Weights of bare backbones are `backbone_weights.py`'s.

    origin = Origin(format="torchvision", detector="RetinaNet", norm_eps=0.0)
    convert_file(Path("retinanet_resnet50_fpn_coco.pth"), origin, Path("model.safetensors"), COCO_CATEGORIES)
    export_file(Path("model.safetensors"), "torchvision", Path("back.pth"))
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from freeanchor.anchors import AnchorConfig
from freeanchor.boxes import DELTA_WEIGHTS
from freeanchor.checkpoints.code_bases import CODE_BASES, CodeBase, Origin
from freeanchor.checkpoints.foreign_files import read_foreign
from freeanchor.checkpoints.native import DetectorConfig, Shape, describe, read_model, save_tensors, shapes_of
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import RESNETS, TorchvisionResNet, build_backbone
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.errors import CheckpointError, listed
from freeanchor.files import replacing

NAMED = 5  # missing, unknown and misshapen tensors each that a refusal names
BASIC_BLOCKS = ("resnet18", "resnet34")  # two convolutions of 3x3 each, no 1x1
MAX_DEPTH = 16  # hidden convolutions of a head
COUNTER = "num_batches_tracked"  # batch norm's own count of batches: no weight, and not in every file
PER_CELL = AnchorConfig().num_per_cell  # anchors a cell: nine in every code base
UNUSED_BIAS = -20.0  # of class slots that stand for nothing: a score of 2e-9


# The network that a foreign checkpoint belongs to. Every guess is the one that leaves the fewest names unexplained, so
# that one damaged entry does not mislead it.


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What shapes tell: the backbone's name, the pyramid's channels, the heads' depth, P6's source, class slots.

    `num_slots` are the class channels of an anchor, or None where the rows of the class output do not tell.
    """

    backbone: str
    channels: int
    depth: int
    p6_source: Literal["C5", "P5"]
    num_slots: int | None


def read_layout(tensors: Mapping[str, Tensor], format: str) -> Layout:
    """The `Layout` of a state dict by its names and shapes."""
    base, shapes = CODE_BASES[format], shapes_of(tensors)
    channels = _commonest_rows(shapes, [*base.laterals, *base.outputs, *base.top]) or 256
    p6 = shapes.get(f"{base.top[0]}.weight", ())
    return Layout(
        backbone=_nearest_backbone(shapes, base),
        channels=channels,
        depth=_nearest_depth(shapes, base),
        p6_source=base.p6_source or ("P5" if len(p6) != 4 or p6[1] == channels else "C5"),
        num_slots=_num_slots(shapes, base),
    )


@lru_cache(maxsize=len(RESNETS))
def _backbone_shapes(name: str) -> dict[str, Shape]:
    with torch.device("meta"):
        backbone = build_backbone(TorchvisionResNet(name=name))
    return {f"backbone.{key}": shape for key, shape in shapes_of(backbone.state_dict()).items()}


def _nearest_backbone(shapes: Mapping[str, Shape], base: CodeBase) -> str:
    def num_unexplained(name: str) -> int:
        own = _backbone_shapes(name)
        return len(own) - 2 * sum(shapes.get(base.foreign_name(key)) == shape for key, shape in own.items())

    return min(RESNETS, key=num_unexplained)


def _nearest_depth(names: Mapping[str, Shape], base: CodeBase) -> int:
    def num_unexplained(depth: int) -> int:
        towers = [template.format(layer=i, place=2 * i) for template in base.towers for i in range(depth)]
        expected = [f"{tower}.{tensor}" for tower in towers for tensor in ("weight", "bias")]
        return len(expected) - 2 * sum(name in names for name in expected)

    return min(range(MAX_DEPTH + 1), key=num_unexplained)


def _commonest_rows(shapes: Mapping[str, Shape], modules: Sequence[str]) -> int | None:
    found = (shapes.get(f"{module}.{tensor}") for module in modules for tensor in ("weight", "bias"))
    rows = Counter(shape[0] for shape in found if shape)
    return rows.most_common(1)[0][0] if rows else None


def _num_slots(shapes: Mapping[str, Shape], base: CodeBase) -> int | None:
    # None, too, where the weight and the bias of the class output contradict each other.
    found = (shapes.get(f"{base.heads[0]}.{tensor}") for tensor in ("weight", "bias"))
    slots = {shape[0] // PER_CELL for shape in found if shape and shape[0] > 0 and shape[0] % PER_CELL == 0}
    return slots.pop() if len(slots) == 1 else None


# Our configuration of a foreign network, and what of a detector of ours a foreign network cannot be.


def inputs_of(origin: Origin, backbone: str) -> InputConfig:
    """Resizing and normalisation for a backbone of that name, as the code base has them."""
    base = origin.code_base
    own = base.resnext_inputs if backbone.startswith("resnext") else {}
    return InputConfig(**{**base.inputs, **own})


def inference_of(format: str) -> InferenceConfig:
    """Caps, clamps and clipping, as the code base has them."""
    return InferenceConfig(**CODE_BASES[format].inference)


def configure(origin: Origin, layout: Layout, categories: Mapping[int, str]) -> DetectorConfig:
    """Our configuration of a network of `layout`, its classes in the order of their ids."""
    base, ids = origin.code_base, sorted(categories)
    has_1x1 = layout.backbone.startswith("resnet") and layout.backbone not in BASIC_BLOCKS
    backbone = TorchvisionResNet(
        name=layout.backbone,
        stride_in_1x1=base.stride_in_1x1 and has_1x1,
        norm_eps=base.norm_eps if origin.norm_eps is None else origin.norm_eps,
        trained_affine=base.trained_affine,
    )
    model = ModelConfig(
        num_classes=len(ids),
        backbone=backbone,
        anchors=AnchorConfig(**base.anchors),
        prior_prob=base.free_anchor_prior if origin.detector == "FreeAnchor" else 0.01,
        pyramid_channels=layout.channels,
        head_depth=layout.depth,
        p6_source=layout.p6_source,
        relu_before_p7=base.relu_before_p7,
    )
    return DetectorConfig(
        model=model,
        inputs=inputs_of(origin, layout.backbone),
        category_ids=tuple(ids),
        category_names=tuple(categories[i] for i in ids),
        inference=inference_of(origin.format),
        detector=origin.detector,
    )


def _obstacles(detector: DetectorConfig, to: str) -> list[str]:
    """What of `detector` the standard RetinaNet of a code base does otherwise, in words; nothing where it fits."""
    base, model, backbone = CODE_BASES[to], detector.model, detector.model.backbone
    if base.export is None:
        return ["nothing is known of how to write its files"]
    if not isinstance(backbone, TorchvisionResNet):
        return [f"its backbone is a {backbone.label}"]
    origins = [Origin(format=to, detector="RetinaNet", caffe=caffe) for caffe in (False, True)[: 1 + bool(base.caffe)]]
    inputs = [_normalisation(inputs_of(origin, backbone.name)) for origin in origins]
    with_relu = "with" if model.relu_before_p7 else "without"
    reasons = {
        f"its heads have {model.head_norm} norm": model.head_norm != "none",
        f"its P6 is made from {model.p6_source} and its P7 {with_relu} a ReLU": not _top_fits(model, backbone, base),
        "its pyramid is P2 to P6": model.levels[0] != 3,
        "its anchors have another place, shape or rounding": model.levels[0] == 3
        and model.anchors != AnchorConfig(**base.anchors),
        "its input is normalised otherwise": _normalisation(detector.inputs) not in inputs,
        "its stride is in the 1x1 convolutions": backbone.stride_in_1x1
        and not any(origin.code_base.stride_in_1x1 for origin in origins),
        "its boxes include their last pixel": detector.inputs.box_convention == "inclusive",
        f"its batch norm adds {backbone.norm_eps:g} to variances": backbone.norm_eps not in base.export.norm_eps,
        "it does not say whether it is a RetinaNet or a FreeAnchor": base.plain_deltas == "RetinaNet"
        and detector.detector is None,
    }
    return [reason for reason, applies in reasons.items() if applies]


def _normalisation(inputs: InputConfig) -> tuple[object, ...]:
    return inputs.mean, inputs.std, inputs.bgr


def _top_fits(model: ModelConfig, backbone: TorchvisionResNet, base: CodeBase) -> bool:
    # A code base that tells P5 from C5 by P6's width takes a C5 as wide as the pyramid for P5.
    c5_width = 512 if backbone.name in BASIC_BLOCKS else 2048
    by_width = "P5" if c5_width == model.pyramid_channels else model.p6_source
    return model.relu_before_p7 == base.relu_before_p7 and model.p6_source == (base.p6_source or by_width)


# The rows of the two output convolutions, which each code base lays out its own way. Ours are ratio-major,
# then class or delta; deltas are coded with (10, 10, 5, 5).


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
        # Scale-major and ratio-major order are each other's transpose: three of each.
        return rows.unflatten(0, (3, 3)).transpose(0, 1).flatten(0, 1) if self.scale_major else rows

    def _scale_of(self, rows: Tensor) -> Tensor:
        return rows.new_tensor(self.delta_scale).reshape(4, *(1,) * (rows.ndim - 2))


def channels_of(base: CodeBase, detector: DetectorConfig, num_slots: int | None = None) -> Channels:
    """The layout of a code base; where slots are raw category ids, `num_slots` or up to the highest id."""
    ids = detector.category_ids
    plain = base.plain_deltas in ("always", detector.detector)
    return Channels(
        slots=ids if base.slots_are_category_ids else tuple(range(len(ids))),
        num_slots=(num_slots or max(ids) + 1) if base.slots_are_category_ids else len(ids),
        scale_major=base.scale_major,
        delta_scale=tuple(weight ** (plain - detector.model.plain_deltas) for weight in DELTA_WEIGHTS),
    )


# Conversion and export: first every name and shape is checked, then the tensors are renamed and their rows laid out.


def convert_tensors(
    tensors: Mapping[str, Tensor], origin: Origin, categories: Mapping[int, str]
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """A foreign state dict under our names, in float32, with the configuration that makes it the same detector.

    `categories` are the classes it knows, by category id; labels follow the ids. Left out are counters, stored anchors,
    torchvision's slots for no category, and what is not under the network's own prefix. Raises CheckpointError that
    counts the missing, unknown and misshapen names and tells the first of each, by the name of the file, or says that
    the categories do not fit.
    """
    base = origin.code_base
    tensors = _of_one_network(tensors, base)
    for pattern, words in base.others.items():
        if any(re.fullmatch(pattern, name) for name in tensors):
            raise CheckpointError(f"is a {words}; of {origin.format} its RetinaNet without that is known here")
    given, spelled = _modernised(tensors, base)
    layout = read_layout(given, origin.format)
    _check_classes(layout.num_slots, base, categories)
    detector = configure(origin, layout, categories)
    channels = channels_of(base, detector, layout.num_slots)
    with torch.device("meta"):  # takes no memory
        ours = shapes_of(RetinaNet(detector.model).state_dict())
    expected = _foreign_shapes(ours, base, channels)
    weights = _weights(given, base, expected)
    _check_names(
        {spelled.get(name, name): shape for name, shape in expected.items()},
        {spelled[name]: shape for name, shape in shapes_of(weights).items()},
        origin,
    )
    converted = {}
    for name in ours:
        foreign = base.foreign_name(name)
        if name.endswith(COUNTER):
            counter = given.get(foreign, torch.tensor(0))
            converted[name] = counter.long().reshape(()).clone() if counter.numel() == 1 else torch.tensor(0)
        else:
            converted[name] = channels.to_ours(name, weights[foreign].detach().float()).clone()
    if broken := [name for name, tensor in converted.items() if not bool(torch.isfinite(tensor).all())]:
        theirs = [base.foreign_name(name) for name in broken]
        raise CheckpointError(
            f"holds values that are not finite in float32 at {listed(theirs)}; take an earlier checkpoint"
        )
    return converted, replace(detector, inputs=_stored_input(detector.inputs, tensors))


def export_tensors(tensors: Mapping[str, Tensor], detector: DetectorConfig, to: str) -> dict[str, Tensor]:
    """Our weights under the names, and in the layout, of another code base; the inverse of `convert_tensors`.

    For torchvision unused class slots, up to the highest category id, get no weight and a score of 2e-9. A state dict
    holds no eps: a detector that adds 0 to its variances needs torchvision's `overwrite_eps(model, 0.0)`, as
    torchvision's own COCO_V1 file does. mmdetection's batch norm counts its batches, so the counters are there. Raises
    CheckpointError that says why, where the code base's standard RetinaNet would make another detector of the weights.
    """
    base = CODE_BASES[to]
    reasons = _obstacles(detector, to)
    if base.export is None or reasons:
        raise CheckpointError(f"{to}'s RetinaNet cannot hold this detector: {'; '.join(reasons)}")
    channels = channels_of(base, detector)
    exported = {}
    for name, tensor in tensors.items():
        if not name.endswith(COUNTER):
            exported[base.foreign_name(name)] = channels.to_theirs(name, tensor).clone()
        if name.endswith("running_var") and base.export.counters:
            counter = name.removesuffix("running_var") + COUNTER
            exported[base.foreign_name(counter)] = tensors.get(counter, torch.tensor(0)).clone()
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


def export_file(source: Path, to: str, target: Path) -> None:
    """Write a model file of ours as a state dict of another code base, atomically; raises CheckpointError as above."""
    tensors, detector = read_model(source)
    try:
        exported = export_tensors(tensors, detector, to)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    export = CODE_BASES[to].export
    with replacing(target) as temporary:
        torch.save({"state_dict": exported, "meta": {}} if export and export.wrapped else exported, temporary)


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


def _of_one_network(tensors: Mapping[str, Tensor], base: CodeBase) -> Mapping[str, Tensor]:
    """The tensors of the only RetinaNet there, its prefix taken off: what a training script called it."""
    output = f"{base.heads[0]}.weight"
    roots = [name.removesuffix(output) for name in tensors if name.endswith(output)]
    roots = [root for root in roots if not root or root.endswith(".")]
    if not roots or "" in roots:
        return tensors
    if len(roots) > 1:
        raise CheckpointError(f"holds {len(roots)} networks, under {listed(roots)}; save the one that is wanted alone")
    return {name.removeprefix(roots[0]): tensor for name, tensor in tensors.items() if name.startswith(roots[0])}


def _modernised(tensors: Mapping[str, Tensor], base: CodeBase) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors under today's names, and the name that each came with; an old name beside its new one stays."""
    origins = {}
    for name in tensors:
        modern = base.modern_name(name)
        origins[name if modern in tensors else modern] = name
    return {name: tensors[origin] for name, origin in origins.items()}, origins


def _check_classes(num_slots: int | None, base: CodeBase, categories: Mapping[int, str]) -> None:
    if not categories:
        raise CheckpointError("no categories given; name the classes that the checkpoint knows")
    if num_slots is None:
        return  # the class output is missing or misshapen, which the comparison of names tells
    if base.slots_are_category_ids and not 0 <= min(categories) <= max(categories) < num_slots:
        raise CheckpointError(
            f"the checkpoint has class slots 0 to {num_slots - 1}, the categories have ids {min(categories)} to "
            f"{max(categories)}; give the categories that it was trained on"
        )
    if not base.slots_are_category_ids and num_slots != len(categories):
        raise CheckpointError(
            f"the checkpoint knows {num_slots} classes, {len(categories)} categories are given; give those that it was "
            "trained on"
        )


def _foreign_shapes(shapes: Mapping[str, Shape], base: CodeBase, channels: Channels) -> dict[str, Shape]:
    expected = {}
    for name, shape in shapes.items():
        rows = (PER_CELL * channels.num_slots, *shape[1:]) if name.startswith("cls_head.output.") else shape
        if not name.endswith(COUNTER):
            expected[base.foreign_name(name)] = rows
    return expected


def _weights(tensors: Mapping[str, Tensor], base: CodeBase, expected: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The tensors that are weights: without those known to be none, batch norm's counters among them."""
    counters = {name.removesuffix("running_var") + COUNTER for name in expected if name.endswith("running_var")}
    extra = re.compile(base.extras)
    return {name: t for name, t in tensors.items() if name not in counters and not extra.fullmatch(name)}


def _check_names(expected: Mapping[str, Shape], given: Mapping[str, Shape], origin: Origin) -> None:
    wrong = mismatches(expected, given)
    unknown = wrong.get("unknown", [])
    num_known = len(given) - len(unknown)
    for pattern, words in origin.code_base.others.items():
        if any(re.fullmatch(pattern, name) for name in unknown):
            raise CheckpointError(
                f"is {words}, which is another network than the RetinaNet of {origin.format} known here"
            )
    if num_known < len(expected) / 2:
        raise CheckpointError(
            f"no {origin.format} RetinaNet: {num_known} of its {len(expected)} names are there, and {len(unknown)} "
            f"others ({listed(unknown)}); name the format that it is of"
        )
    if wrong:
        found = "; ".join(f"{kind}: {listed(names, NAMED)}" for kind, names in wrong.items())
        raise CheckpointError(f"does not fit the names and shapes of {origin.format}'s RetinaNet; {found}")


def _stored_input(inputs: InputConfig, tensors: Mapping[str, Tensor]) -> InputConfig:
    """The input with the mean and standard deviation that detectron2's files may hold themselves."""
    stored: dict[str, Any] = {
        field: tuple(round(value, 4) for value in tensors[name].flatten().tolist())  # they are kept in float32
        for field, name in (("mean", "pixel_mean"), ("std", "pixel_std"))
        if name in tensors and tensors[name].numel() == 3
    }
    return replace(inputs, **stored)
