"""Conversion: every name matched or named, what files leave to their code carried along, and the way back.

Whether a converted detector computes the same is tested in `test_conversion_parity.py` and `test_conversion_torchvision.py`.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracles.foreign_names import (
    AUTHORS,
    DETECTRON2,
    MMDETECTION,
    RESNET18,
    RESNET50,
    RESNEXT101_64X4D,
    TORCHVISION,
    Architecture,
)
from oracles.foreign_states import (
    State,
    authors_state,
    detectron2_state,
    miniature,
    mmdetection_state,
    torchvision_state,
)
from torch import Tensor

from freeanchor.checkpoints.code_bases import Origin
from freeanchor.checkpoints.convert import convert_file, convert_tensors, read_layout
from freeanchor.checkpoints.native import load_model
from freeanchor.errors import CheckpointError

SMALL = miniature(RESNET18)
NAMES = {1: "one", 2: "two", 4: "four", 7: "seven", 8: "eight"}
SLOTS = miniature(RESNET18, num_classes=9)  # torchvision's: one for each number up to the highest id
STATES: dict[str, Callable[[], State]] = {
    "authors": lambda: authors_state(SMALL),
    "mmdetection": lambda: mmdetection_state(SMALL, free_anchor=True),
    "torchvision": lambda: torchvision_state(SLOTS, used=tuple(NAMES)),
    "detectron2": lambda: detectron2_state(SMALL),
}
_LAYOUTS = {"authors": AUTHORS, "mmdetection": MMDETECTION, "torchvision": TORCHVISION, "detectron2": DETECTRON2}
SAMPLES = {  # of each format: a tensor of the backbone, of the pyramid, of a tower, of an output
    format: (
        f"{layout.block_name(2, 1)}{layout.norm.format(n=2)}.running_var",
        f"{layout.p7}.bias",
        f"{layout.tower(layout.box_tower, 1)[0]}.bias",
        f"{layout.cls_output}.weight",
    )
    for format, layout in _LAYOUTS.items()
}
every_format = pytest.mark.parametrize("format", STATES)


def _origin(format: str) -> Origin:
    return Origin(format=format, detector="FreeAnchor")


def _refusal(state: State, format: str, names: dict[int, str] = NAMES) -> str:
    """The one line that conversion fails with."""
    with pytest.raises(CheckpointError) as caught:
        convert_tensors(state, _origin(format), names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("format", "key"), [(format, key) for format, keys in SAMPLES.items() for key in keys])
def test_a_wrong_name_or_shape_is_named(format: str, key: str) -> None:
    """What is dropped, renamed or one row too long is named, a name by its old and new one, a shape beside the right one."""
    state = STATES[format]()
    tensor = state.pop(key)
    shape = tuple(tensor.shape)
    longer = (shape[0] + 1, *shape[1:])
    assert _refusal(state, format).endswith(f"; missing: {key}")
    renamed = {**state, f"{key}.new": tensor}
    assert _refusal(renamed, format).endswith(f"; missing: {key}; unknown: {key}.new")
    misshapen = {**state, key: torch.cat([tensor, tensor[:1]])}
    assert _refusal(misshapen, format).endswith(f"; misshapen: {key} {longer} instead of {shape}")


@every_format
def test_wrong_names_are_counted_and_the_first_told(format: str) -> None:
    """Many faults are in one short line: what is missing, what is unknown, what is misshapen."""
    state = STATES[format]()
    backbone, pyramid, tower, _ = SAMPLES[format]
    del state[backbone], state[pyramid]
    state[tower] = state[tower][1:]
    extras = [f"extra.{number}" for number in range(1200)]
    message = _refusal({**state, **{name: torch.zeros(1) for name in extras}}, format)
    for name in (backbone, pyramid, tower, "extra.0 ", "1,195 more"):
        assert name.strip() in message, name
    assert len(message) < 800


@every_format
def test_a_counter_of_no_norm_is_unknown(format: str) -> None:
    """Counters are left out only where a batch norm has one."""
    name = "backbone.bn9.num_batches_tracked"
    assert _refusal({**STATES[format](), name: torch.tensor(1)}, format).endswith(f"; unknown: {name}")


@every_format
def test_another_formats_file_is_refused_as_such(format: str) -> None:
    """A file read as the wrong format is answered so, not with a thousand names."""
    other = "mmdetection" if format != "mmdetection" else "authors"
    message = _refusal(STATES[other](), format)
    assert f"no {format} RetinaNet" in message
    assert len(message) < 400


@every_format
def test_nothing_but_known_extras_is_left_out(format: str) -> None:
    """Every number of the file is in the result, but for counters, stored anchors, pixel statistics, unused slots."""
    state = STATES[format]()
    converted, _ = convert_tensors(state, _origin(format), NAMES)
    extras = ("num_batches_tracked", "cell_anchors", "pixel_mean", "pixel_std")
    weights = sum(tensor.numel() for name, tensor in state.items() if not any(extra in name for extra in extras))
    unused = 9 * (9 - len(NAMES)) * (64 * 9 + 1) if format == "torchvision" else 0
    counters = sum("num_batches_tracked" in name for name in converted)
    assert sum(tensor.numel() for tensor in converted.values()) == weights - unused + counters
    assert {tensor.dtype for name, tensor in converted.items() if "tracked" not in name} == {torch.float32}


def test_torchvisions_old_names_are_accepted() -> None:
    """Files from before torchvision renamed its towers and pyramid give what today's give, and are named as they are."""
    state = STATES["torchvision"]()

    def old_name(name: str) -> str:
        name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
        return re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda match: f"{match[1]}.{2 * int(match[2])}.", name)

    old = {old_name(name): tensor for name, tensor in state.items()}
    assert sum(name not in state for name in old) == 16
    expected, _ = convert_tensors(state, _origin("torchvision"), NAMES)
    converted, _ = convert_tensors(old, _origin("torchvision"), NAMES)
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())
    misshapen = {**old, "head.regression_head.conv.0.bias": torch.zeros(3)}
    assert "misshapen: head.regression_head.conv.0.bias (3,)" in _refusal(misshapen, "torchvision")


SIZES: dict[str, Architecture] = {
    "resnet18": RESNET18,
    "resnet34": Architecture(blocks=(3, 4, 6, 3), bottleneck=False),
    "resnet50": RESNET50,
    "resnet101": Architecture(blocks=(3, 4, 23, 3)),
    "resnext101_32x4d": Architecture(blocks=(3, 4, 23, 3), groups=32, group_width=4),
    "resnext101_32x8d": Architecture(blocks=(3, 4, 23, 3), groups=32, group_width=8),
    "resnext101_64x4d": RESNEXT101_64X4D,
}


@pytest.mark.parametrize("name", SIZES)
def test_the_backbone_is_read_off_the_shapes(name: str) -> None:
    """Depth and group width decide, and a missing tensor does not mislead them."""
    state = mmdetection_state(miniature(SIZES[name], head_depth=2), free_anchor=False)
    for key in (
        "backbone.layer3.5.conv2.weight",
        "bbox_head.cls_convs.1.conv.weight",
        "neck.lateral_convs.0.conv.weight",
    ):
        state.pop(key, None)
    layout = read_layout(state, "mmdetection")
    assert (layout.backbone, layout.depth, layout.channels, layout.num_slots) == (name, 2, 64, 5)


def test_torchvisions_p6_comes_from_where_its_width_says() -> None:
    """As torchvision does: from P5 where its input is as wide as the pyramid, from C5 otherwise."""
    state = STATES["torchvision"]()
    assert convert_tensors(state, _origin("torchvision"), NAMES)[1].model.p6_source == "P5"
    state["backbone.fpn.extra_blocks.p6.weight"] = torch.zeros(64, 512, 3, 3)
    converted, detector = convert_tensors(state, _origin("torchvision"), NAMES)
    assert detector.model.p6_source == "C5"
    assert converted["pyramid.extra_blocks.p6.weight"].shape == (64, 512, 3, 3)


def test_categories_must_fit_the_classes() -> None:
    """Too few or too many categories, ids without a slot, none at all: one line each, with the numbers."""
    assert "knows 5 classes, 4 categories" in _refusal(STATES["authors"](), "authors", {1: "a", 2: "b", 3: "c", 4: "d"})
    assert "slots 0 to 8" in _refusal(STATES["torchvision"](), "torchvision", {1: "a", 9: "b"})
    assert "no categories" in _refusal(STATES["authors"](), "authors", {})


def test_labels_follow_category_ids_whatever_the_order_given() -> None:
    """The first label is the lowest id; torchvision's slot of that number becomes its channel."""
    state = STATES["torchvision"]()
    backwards = dict(reversed(NAMES.items()))
    converted, detector = convert_tensors(state, _origin("torchvision"), backwards)
    assert detector.category_ids == tuple(NAMES)
    assert detector.category_names == tuple(NAMES.values())
    theirs = state["head.classification_head.cls_logits.bias"].reshape(9, 9)
    assert torch.equal(converted["cls_head.output.bias"].reshape(9, 5), theirs[:, [1, 2, 4, 7, 8]])


def test_detectron2s_own_pixel_statistics_are_used() -> None:
    """A file that holds a mean and deviation of its own is normalised with them; without, with Caffe's."""
    state = STATES["detectron2"]()
    state["pixel_mean"] = torch.tensor([1.5, 2.5, 3.53]).reshape(3, 1, 1)
    assert convert_tensors(state, _origin("detectron2"), NAMES)[1].inputs.mean == (1.5, 2.5, 3.53)
    del state["pixel_mean"], state["pixel_std"]
    inputs = convert_tensors(state, _origin("detectron2"), NAMES)[1].inputs
    assert (inputs.mean, inputs.std, inputs.bgr) == ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), True)


def test_what_trains_is_the_code_bases_own() -> None:
    """mmdetection trains batch norm's weights unless its backbone is Caffe's; the authors' prior is FreeAnchor's."""

    def config(format: str, detector: str = "FreeAnchor", **origin: bool) -> tuple[bool, float, float]:
        model = convert_tensors(STATES[format](), Origin(format=format, detector=detector, **origin), NAMES)[1].model
        return model.backbone.trained_affine, model.backbone.norm_eps, model.prior_prob

    assert config("authors") == (False, 0.0, 0.02)
    assert config("authors", "RetinaNet") == (False, 0.0, 0.01)
    assert config("mmdetection") == (True, 1e-5, 0.01)
    assert config("mmdetection", caffe=True) == (False, 1e-5, 0.01)


def test_origins_that_make_no_sense_are_refused() -> None:
    """Caffe's backbone where a format leaves no choice."""
    with pytest.raises(ValueError, match="mmdetection's files"):
        Origin(format="torchvision", detector="RetinaNet", caffe=True)


def test_arguments_stay_as_they_are() -> None:
    """Conversion shares no memory with what it was given."""
    state = STATES["authors"]()
    converted, _ = convert_tensors(state, _origin("authors"), NAMES)
    before = {name: tensor.clone() for name, tensor in state.items()}
    for tensor in converted.values():
        tensor.zero_()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def _wrapped(state: dict[str, Tensor]) -> dict:
    """A training state as the authors save it, written by eight processes."""
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01}]}
    return {
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": optimizer,
        "iteration": 9,
    }


def test_a_converted_file_needs_nothing_else(tmp_path: Path) -> None:
    """A training state converts to a model file that loads by itself, its configuration the one that was returned."""
    torch.save(_wrapped(STATES["authors"]()), tmp_path / "model_final.pth")
    target = tmp_path / "out" / "model.safetensors"
    returned = convert_file(tmp_path / "model_final.pth", _origin("authors"), target, NAMES)
    model, detector = load_model(target)
    assert detector == returned
    assert (detector.inputs.resize, detector.inputs.box_convention) == ("maskrcnn-benchmark", "inclusive")
    assert torch.equal(model.state_dict()["cls_head.output.bias"], STATES["authors"]()["rpn.head.cls_logits.bias"])


def test_a_failed_conversion_names_the_file_and_writes_none(tmp_path: Path) -> None:
    """The line begins with the path, and nothing stands at the target."""
    state = STATES["authors"]()
    del state["rpn.head.bbox_pred.bias"]
    source, target = tmp_path / "a.pth", tmp_path / "b.safetensors"
    torch.save(state, source)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(source))}: .*rpn\.head\.bbox_pred\.bias$"):
        convert_file(source, _origin("authors"), target, NAMES)
    assert sorted(tmp_path.iterdir()) == [source]


def _after(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["retinanet.", "student.detector.", "model.module.net."])
def test_a_network_inside_another_module_is_found(prefix: str) -> None:
    """Whatever a training script calls it, with a loss's weights and metrics beside it."""
    state = STATES["torchvision"]()
    beside = {"criterion.weights": torch.ones(3), "metric.total": torch.tensor(0)}
    expected, detector = convert_tensors(state, _origin("torchvision"), NAMES)
    converted, same = convert_tensors({**beside, **_after(prefix, state)}, _origin("torchvision"), NAMES)
    assert same == detector and all(torch.equal(converted[name], tensor) for name, tensor in expected.items())


def test_two_networks_in_one_file_are_named() -> None:
    """Nobody knows which is wanted; the second of a pair beside the network itself is unknown as before."""
    state = STATES["mmdetection"]()
    pair = {**_after("teacher.", state), **_after("student.", state)}
    assert "holds 2 networks, under teacher., student.; save the one" in _refusal(pair, "mmdetection")
    assert "unknown: teacher." in _refusal({**state, **_after("teacher.", state)}, "mmdetection")


def test_torchvisions_v2_is_refused_by_its_name() -> None:
    """In a short line that says v2, whatever the categories."""
    state = STATES["torchvision"]()
    for head in ("classification", "regression"):
        for layer in range(4):
            state[f"head.{head}_head.conv.{layer}.1.weight"] = torch.ones(64)
            state.pop(f"head.{head}_head.conv.{layer}.0.bias", None)
    for names in (NAMES, {1: "one"}):
        message = _refusal(state, "torchvision", names)
        assert "retinanet_resnet50_fpn_v2 (v2)" in message and len(message) < 200


def test_a_counter_of_another_shape_counts_from_0() -> None:
    """Batch norm's own count is no weight."""
    state = STATES["mmdetection"]()
    name = next(name for name in state if name.endswith("running_var")).replace("running_var", "num_batches_tracked")
    converted, _ = convert_tensors({**state, name: torch.ones(3)}, _origin("mmdetection"), NAMES)
    assert all(tensor.shape == () for key, tensor in converted.items() if key.endswith("num_batches_tracked"))


@every_format
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_named(format: str, value: float) -> None:
    """By the name of the file, before anything is written; a number may be too large for float32, too."""
    state, name = STATES[format](), SAMPLES[format][1]
    state[name] = torch.full_like(state[name], value, dtype=torch.float64)
    assert f"not finite in float32 at {name};" in _refusal(state, format)
