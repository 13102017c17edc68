"""Checkpoints: ours, those of other code bases, and files that would rather run code than hold weights."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.coco_folder import small_content
from oracles.foreign_names import RESNET18
from oracles.foreign_states import miniature, torchvision_state
from oracles.odd_images import scene
from safetensors.torch import save_file
from tiny import tiny_detector, tiny_model, tiny_recipe

from bad_input.outcome import handled, refused
from freeanchor.checkpoints.native import FORMAT, MAX_HEADER, describe, save_model, save_tensors
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.training.recipe import build_optimizer
from freeanchor.training.state import TrainingState

Header = dict[str, Any]


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A good image."""
    scene().save(tmp_path / "image.png")
    return tmp_path / "image.png"


def _detect(checkpoint: Path, image: Path) -> list[str | Path]:
    """The command that uses a checkpoint of ours."""
    return ["detect", image, "--checkpoint", checkpoint, "--out", image.parent / "out"]


def _ours(path: Path, change: Callable[[Header], object] = lambda header: None) -> Path:
    """A checkpoint of ours whose header was changed."""
    header = json.loads(json.dumps(describe(tiny_detector())))
    change(header)
    save_tensors(path, tiny_model().state_dict(), header)
    return path


def _set(*keys: str, value: object) -> Callable[[Header], object]:
    """A field of the header set."""

    def change(header: Header) -> None:
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


def test_a_good_checkpoint_detects(image: Path, tmp_path: Path) -> None:
    """What the table below spoils is good before."""
    handled(_detect(_ours(tmp_path / "m.safetensors"), image))


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut in its header": lambda whole: whole[:500],
    "cut in its weights": lambda whole: whole[:-1000],
    "longer than it says": lambda whole: whole + bytes(100),
    "text": lambda whole: b"hello, this is text",
    "a pickle": lambda whole: pickle.dumps({"a": 1}),
    "a header as long as memory": lambda whole: b"\xff" * 8 + whole[8:],
}
FILES = {name: (spoil, "not a readable safetensors file", "truncated") for name, spoil in UNREADABLE.items()} | {
    "a header that is no json": (lambda whole: whole.replace(b'\\"model\\"', b'\\"model\\\\'), "header", "again")
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused(name: str, image: Path, tmp_path: Path) -> None:
    """Before an image is read or a folder made."""
    spoil, item, remedy = FILES[name]
    path = _ours(tmp_path / "m.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    refused(tmp_path, _detect(path, image), "m.safetensors", item, remedy)


HEADERS: dict[str, tuple[Callable[[Header], object], str]] = {
    "no network": (lambda header: header.pop("model"), "has no 'model'"),
    "a network that is a list": (_set("model", value=[1]), "has no 'model'"),
    "an unknown backbone": (_set("model", "backbone", "kind", value="SmallResnet"), "did you mean 'SmallResNet'?"),
    "a backbone that is a list": (_set("model", "backbone", "kind", value=["a"]), "backbone.kind"),
    "an unknown ResNet": (_set("model", "backbone", value={"kind": "TorchvisionResNet", "name": "resnet51"}), "resnet50"),
    "an unknown field": (_set("inference", "nms_iuo", value=0.5), "did you mean 'nms_iou'?"),
    "a field of the wrong type": (_set("inputs", "short_side", value="800"), "inputs.short_side is '800'"),
    "a field of nan": (_set("inputs", "mean", value=[float("nan"), 1, 2]), "inputs.mean"),
    "a mean of two": (_set("inputs", "mean", value=[1, 2]), "a list of 3"),
    "a deviation of 0": (_set("inputs", "std", value=[0, 1, 2]), "std must be positive"),
    "a threshold out of range": (_set("inference", "nms_iou", value=50), "nms_iou must lie in [0, 1]"),
    "a cap of 0": (_set("inference", "max_detections", value=0), "inference.max_detections is 0"),
    "a negative side": (_set("inputs", "short_side", value=-800), "inputs.short_side is -800"),
    "three levels": (lambda header: header["model"]["anchors"].update(sizes=[8, 16, 32], strides=[8, 16, 32]), "pyramid level"),
    "no ratios": (_set("model", "anchors", "ratios", value=[]), "the number of anchors.ratios is 0"),
    "a stride of 0": (_set("model", "anchors", "strides", value=[8, 16, 0, 64, 128]), "must be positive"),
    "a prior of 1": (_set("model", "prior_prob", value=1), "prior_prob must lie in (0, 1)"),
    "categories of one id": (_set("category_ids", value=[2, 2, 9]), "give each its own"),
    "a name too few": (_set("category_names", value=["a", "b"]), "give each its own"),
    "names that are numbers": (_set("category_names", value=[1, 2, 3]), "category_names"),
    "a name of two lines": (_set("category_names", value=["a\nb", "c", "d"]), "a name is text of one line"),
    "a name of escapes": (_set("category_names", value=["c", "\x1b]0;title\x07\x1b[2Jdot", "d"]), r"'\x1b]0;"),
    "half a character": (_set("category_names", value=["c", "d", "\ud800"]), r"'\ud800'"),
    "a name of nothing": (_set("category_names", value=["c", "", "d"]), "category_names holds ''"),
    "sides of 2 Gpx": (_set("inputs", value={"short_side": 2**31 - 1, "max_long_side": 2**31 - 1}), "2,147,483,647 px; give at most 8,192"),
    "a long side of 8193": (_set("inputs", "max_long_side", value=8193), "inputs.max_long_side is 8,193 px"),
    "a scale beyond": (_set("inference", "short_sides", value=[64, 8193]), "of inference.short_sides is 8,193 px"),
    "scales that stretch": (lambda header: (header["inputs"].update(short_side=1, max_long_side=100), header["inference"].update(short_sides=[800])), "is 80,000 px"),
    "a thousand scales": (_set("inference", "short_sides", value=[64] * 1000), "1,000 scales; give at most 32"),
    "nested 500 deep": (_set("inference", "short_sides", value=json.loads("[" * 500 + "]" * 500)), "nested too deeply"),
    "an unknown field of nests": (_set("inference", "deep", value=json.loads("[" * 450 + "]" * 450)), "deep"),
    "an unknown way to resize": (_set("inputs", "resize", value="pill"), "inputs.resize is 'pill'"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_configurations_that_make_no_detector_are_refused(name: str, image: Path, tmp_path: Path) -> None:
    """The field is named with what it must be, or the nearest name that there is."""
    change, item = HEADERS[name]
    path = _ours(tmp_path / "m.safetensors", change)
    line = refused(tmp_path, _detect(path, image), "m.safetensors", "configuration", "")
    assert item in line


def _claims(path: Path, shape: list[int], name: str = "cls_head.output.weight", extra: str = "") -> Path:
    """A checkpoint of ours whose json says that one tensor has this shape, and no bytes."""
    header = {"__metadata__": {FORMAT: json.dumps(describe(tiny_detector()))}}
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    content = (json.dumps(header) + extra).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    return path


@pytest.mark.parametrize(
    ("shape", "item"),
    [
        ([0, 2**62, 2**62, 2**62], "sides must be 0 to"),
        ([0] + [2**31] * 3, "sides must be 0 to"),
        ([1] * 100_000, "100,000 dimensions, more than 8"),
        ([0] * 9, "9 dimensions"),
        ([2**31 - 1] * 8, "not a readable safetensors"),
        ([5], "not a readable safetensors"),
        ([-1], "sides must be"),
        ("x", "no shape"),
    ],
)
def test_shapes_that_the_file_cannot_hold_are_refused(shape: Any, item: str, image: Path, tmp_path: Path) -> None:
    """Before anything is computed with them: by the number of dimensions, by their sides, by the file's size."""
    path = _claims(tmp_path / "m.safetensors", shape)
    refused(tmp_path, _detect(path, image), "m.safetensors", item, "truncated")


def test_a_header_has_a_stated_limit(image: Path, tmp_path: Path) -> None:
    """And may be nested as deeply as it likes."""
    path = _claims(tmp_path / "m.safetensors", [0], extra=" " * MAX_HEADER)
    refused(tmp_path, _detect(path, image), "m.safetensors", "more than 16,777,216", "truncated")
    path.write_bytes((10**6).to_bytes(8, "little") + b"[" * 10**6)
    refused(tmp_path, _detect(path, image), "m.safetensors", "not a readable safetensors", "truncated")


def test_tensors_of_hostile_names_are_named_in_one_line(image: Path, tmp_path: Path) -> None:
    """Escaped, and shortened."""
    tensors = dict(tiny_model().state_dict()) | {"evil\n\x1b[2Jname" + "x" * 9999: torch.zeros(1)}
    save_tensors(tmp_path / "m.safetensors", tensors, describe(tiny_detector()))
    line = refused(tmp_path, _detect(tmp_path / "m.safetensors", image), "m.safetensors", r"evil\n\x1b[2Jname", "")
    assert len(line) < 500


NETWORKS: dict[str, tuple[Callable[[Header], object], str]] = {
    "another class count": (
        lambda header: (_set("model", "num_classes", value=4)(header), header["category_ids"].append(11), header["category_names"].append("x")),
        "cls_head.output",
    ),
    "another width": (_set("model", "backbone", "widths", value=[8, 8, 16, 32]), "backbone.stages"),
    "another architecture": (_set("model", "backbone", value={"kind": "TorchvisionResNet", "name": "resnet18"}), "backbone."),
    "another depth of heads": (_set("model", "head_depth", value=2), "head.tower"),
    "a network larger than memory": (_set("model", "pyramid_channels", value=2**24), "box_head."),
    "a network beyond all numbers": (_set("model", "pyramid_channels", value=2**31 - 8), "network"),
    "a billion layers": (_set("model", "head_depth", value=10**9), "too few"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_another_network_are_refused(name: str, image: Path, tmp_path: Path) -> None:
    """The first names that do not fit are told, and no memory is taken for the network described."""
    change, item = NETWORKS[name]
    path = _ours(tmp_path / "m.safetensors", change)
    refused(tmp_path, _detect(path, image), "m.safetensors", item, "")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, image: Path, tmp_path: Path) -> None:
    """Rather than a detector that finds nothing, or everything."""
    tensors = {name: tensor.clone() for name, tensor in tiny_model().state_dict().items()}
    tensors["cls_head.output.weight"][0, 0, 0, 0] = value
    save_tensors(tmp_path / "m.safetensors", tensors, describe(tiny_detector()))
    command = _detect(tmp_path / "m.safetensors", image)
    refused(tmp_path, command, "m.safetensors", "cls_head.output.weight", "train it again")


def test_other_purposes_are_refused(image: Path, tmp_path: Path) -> None:
    """A training's state, and tensors of somebody else."""
    model, recipe = tiny_model(), tiny_recipe(FreeAnchorLoss())
    TrainingState(model, build_optimizer(model, recipe)).save(tmp_path / "state.safetensors", recipe)
    save_file({"weight": torch.zeros(2)}, tmp_path / "theirs.safetensors")
    for name, item, remedy in (
        ("state.safetensors", "not a detector's", "training state"),
        ("theirs.safetensors", "not one of ours", "convert"),
    ):
        refused(tmp_path, _detect(tmp_path / name, image), name, item, remedy)


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
@pytest.mark.parametrize("command", ["convert", "detect"])
def test_a_malicious_pickle_is_not_run(command: str, suffix: str, image: Path, tmp_path: Path) -> None:
    """Whatever its file is called, and whichever command is given it, its payload stays unrun."""
    trap, path = Payload(tmp_path / "ran"), tmp_path / f"theirs.{suffix}"
    if suffix == "pth":
        torch.save({"model": {"a": torch.ones(1)}, "hook": trap}, path)
    else:
        path.write_bytes(pickle.dumps({"model": {"a": np.ones(1)}, "hook": trap}))
    convert = ["convert", "--from", "detectron2", path, tmp_path / "out.safetensors"]
    item, remedy = "not a readable", "truncated"
    if command == "convert" and suffix != "safetensors":  # which torch does not even take for a pickle
        item, remedy = "was refused", "save only its state dict"
    refused(tmp_path, convert if command == "convert" else _detect(path, image), path.name, item, remedy)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "ran").exists()  # the trap works


def _foreign(name: str, path: Path) -> list[str]:
    """A checkpoint of another code base with something wrong; the options of its conversion."""
    state: Any = torchvision_state(miniature(RESNET18, num_classes=10), used=(2, 5, 9))
    if name == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-2000])
        return ["--from", "torchvision"]
    if name == "a name missing":
        state.pop("head.classification_head.cls_logits.bias")
    elif name == "a tensor of another shape":
        state["head.regression_head.bbox_reg.weight"] = torch.zeros(3, 3)
    elif name == "no weights":
        state = {"epoch": 3}
    elif name == "a list":
        state = [1, 2, 3]
    elif name == "text among weights":
        state["note"] = "text"
    elif name == "another class count":
        state = torchvision_state(miniature(RESNET18, num_classes=5), used=(2, 3, 4))
    torch.save(state, path)
    return ["--from", "detectron2" if name == "another code base" else "torchvision"]


@pytest.mark.parametrize(
    ("name", "item", "remedy"),
    [
        ("cut", "not a readable weight file", "truncated"),
        ("a name missing", "does not fit the names", "missing: head.classification_head.cls_logits.bias"),
        ("a tensor of another shape", "does not fit the names", "bbox_reg.weight (3, 3) instead of"),
        ("no weights", "holds a int at 'epoch'", "remove it"),
        ("a list", "holds a list", "is it the right file"),
        ("text among weights", "'note'", "remove it"),
        ("another class count", "class slots", "give the categories that it was trained on"),
        ("another code base", "no detectron2 RetinaNet", "name the format that it is of"),
    ],
)
def test_foreign_checkpoints_that_do_not_fit_are_refused(name: str, item: str, remedy: str, tmp_path: Path) -> None:
    """`freeanchor convert` says where, and writes nothing."""
    (tmp_path / "categories.json").write_text(json.dumps(small_content(1)))
    options = _foreign(name, tmp_path / "theirs.pth")
    command = ["convert", *options, "--categories", tmp_path / "categories.json", tmp_path / "theirs.pth"]
    refused(tmp_path, [*command, tmp_path / "ours.safetensors"], "theirs.pth", item, remedy)


@pytest.mark.parametrize(
    ("content", "item", "remedy"),
    [
        ({"images": [], "annotations": []}, "categories", "give it images, annotations, categories"),
        ({"images": [], "annotations": [], "categories": []}, "lists no categories", "at least one"),
        ({"images": [], "annotations": [], "categories": [{"id": "a", "name": "b"}]}, "'a'", "a whole number"),
    ],
)
def test_categories_that_are_none_are_refused(content: Header, item: str, remedy: str, tmp_path: Path) -> None:
    """The json of a conversion is checked, and nothing written."""
    _foreign("good", tmp_path / "theirs.pth")
    (tmp_path / "categories.json").write_text(json.dumps(content))
    categories, theirs = tmp_path / "categories.json", tmp_path / "theirs.pth"
    command = ["convert", "--from", "torchvision", "--categories", categories, theirs]
    refused(tmp_path, [*command, tmp_path / "ours.safetensors"], "categories.json", item, remedy)


def test_a_model_of_ours_is_exported_only_where_it_fits(image: Path, tmp_path: Path) -> None:
    """A damaged one is refused by `freeanchor export` as well."""
    save_model(tmp_path / "m.safetensors", tiny_model(), tiny_detector())
    (tmp_path / "m.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:-100])
    command = ["export", "--to", "torchvision", tmp_path / "m.safetensors", tmp_path / "out.pth"]
    refused(tmp_path, command, "m.safetensors", "not a readable safetensors file", "truncated")
