"""Fingerprints: they change with everything that decides a result, and with nothing else."""

import json
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from experiments.registry.build import build_profile
from experiments.registry.config import ADDED_LATER, DrawnData, Evaluation, FolderData, Training, fingerprint
from freeanchor.anchors import AnchorConfig
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import SmallResNet, TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig
from freeanchor.errors import DataError
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.shapes.scene import ShapesConfig
from freeanchor.training.recipe import TrainConfig

TRAINING = build_profile("mini").evaluations["freeanchor-small-s0"].training
OTHER_TEXTS = {"legacy": "exact", "exact": "legacy", "none": "group", "group": "none", "he": "normal", "P5": "C5"}
OTHER_TEXTS |= {"pil": "mmdetection", "continuous": "inclusive", "authors": "mmdetection", "before_nms": "after_nms"}
OTHER_TEXTS |= {"mean-max": "max", "per-class": "none"}


def _other(value: Any) -> Any:
    """A different value of the same kind that the field's class accepts."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 if value else 0.1
    if isinstance(value, str):
        return OTHER_TEXTS[value]
    if value is None:
        return 2
    if value == (8, 16, 32, 64, 128):  # strides of P3 to P7
        return (4, 8, 16, 32, 64)
    if isinstance(value, tuple):
        return (*(_other(item) for item in value[:1]), *value[1:]) if value else (64,)
    raise TypeError(value)


def _variants(value: Any, name: str = "") -> dict[str, Any]:
    """Copies of a nest of dataclasses, each with a single field changed, by the field's path."""
    found = {}
    for field in fields(value):
        inner, path = getattr(value, field.name), f"{name}.{field.name}".lstrip(".")
        if is_dataclass(inner):
            for deeper, other in _variants(inner, path).items():
                found[deeper] = replace(value, **{field.name: other})
        else:
            found[path] = replace(value, **{field.name: _other(inner)})
    return found


PARTS = ("model", "inputs", "recipe")
VARIANTS = {name: (part, value) for part in PARTS for name, value in _variants(getattr(TRAINING, part), part).items()}


def test_there_are_variants_of_every_kind() -> None:
    """The walk below reaches nested fields of all parts, the loss's among them."""
    expected = {
        f"model.{name}" for name in ("num_classes", "backbone.widths", "anchors.centre_offset", "relu_before_p7")
    }
    expected |= {f"recipe.{name}" for name in ("loss.bag_size", "augment.short_sides", "max_grad_norm", "seed")}
    expected |= {"inputs.bgr"}
    assert expected <= set(VARIANTS)
    assert len(VARIANTS) > 40


def test_every_field_of_network_input_and_recipe_counts() -> None:
    """A change of any single field is another training, in another folder."""
    others = {name: replace(TRAINING, **{part: value}) for name, (part, value) in VARIANTS.items()}
    assert [name for name, other in others.items() if other.fingerprint == TRAINING.fingerprint] == []
    assert [name for name, other in others.items() if other.directory(Path("r")) == TRAINING.directory(Path("r"))] == []


def test_every_field_of_the_synthetic_data_counts() -> None:
    """Another drawing is another data set in another folder, and another training."""
    for name, shapes in _variants(ShapesConfig()).items():
        other = DrawnData(shapes=shapes)
        assert other.directory(Path("data")) != DrawnData().directory(Path("data")), name
        assert replace(TRAINING, data=other).fingerprint != replace(TRAINING, data=DrawnData()).fingerprint, name


def test_choices_of_types_count() -> None:
    """Another loss or another kind of backbone, even with equal fields, and other weights to start from."""
    others = [
        replace(TRAINING, recipe=replace(TRAINING.recipe, loss=RetinaNetLoss())),
        replace(TRAINING, model=replace(TRAINING.model, backbone=TorchvisionResNet())),
        replace(TRAINING, backbone_weights="0123456789"),
        replace(TRAINING, data=FolderData(name="a", digest="1")),
    ]
    assert len({TRAINING.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_names_and_places_do_not_count() -> None:
    """Whatever a training is called, wherever its data lie, equal ones share a fingerprint and a place under any root."""
    assert replace(TRAINING, name="x", profile="x", detector="x").fingerprint == TRAINING.fingerprint
    one, other = (replace(TRAINING, data=FolderData(name=name, digest="abc")) for name in ("here", "there"))
    assert one.fingerprint == other.fingerprint
    assert one.directory(Path("a")).relative_to("a") == one.directory(Path("/b")).relative_to("/b")


def test_equal_values_have_equal_fingerprints() -> None:
    """Built anew, a configuration has the same fingerprint: ten hexadecimal digits."""
    assert fingerprint(AugmentConfig(), AnchorConfig()) == fingerprint(AugmentConfig(), AnchorConfig())
    assert len(TRAINING.fingerprint) == 10
    assert int(TRAINING.fingerprint, 16) >= 0


def test_a_folder_is_known_by_its_annotations(tmp_path: Path) -> None:
    """The digest covers both jsons, in either layout, and not where they lie."""
    folders = []
    for name, train, val in (("a", "{1}", "{2}"), ("b", "{1}", "{2}"), ("c", "{1}", "{3}"), ("d", "{0}", "{2}")):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "train.json").write_text(train)
        (folder / "val.json").write_text(val)
        folders.append(FolderData.of(folder))
    assert folders[0].digest == folders[1].digest
    assert len({folder.digest for folder in folders}) == 3
    assert [folder.name for folder in folders] == ["a", "b", "c", "d"]
    (tmp_path / "a" / "val.json").unlink()
    with pytest.raises(DataError, match=r"val\.json"):
        FolderData.of(tmp_path / "a")


def test_tests_of_one_training_lie_apart_inside_it() -> None:
    """Another way of testing has another folder under the same training, and its name does not count."""
    usual = Evaluation(name="a", training=TRAINING)
    values = {**_variants(InferenceConfig()), "short_sides": InferenceConfig(short_sides=(32, 64))}
    for name, inference in values.items():
        other = replace(usual, inference=inference)
        assert usual.directory(Path("r")) != other.directory(Path("r")), name
        assert usual.directory(Path("r")).parent == other.directory(Path("r")).parent == TRAINING.directory(Path("r"))
    assert replace(usual, name="b").directory(Path("r")) == usual.directory(Path("r"))


def test_a_description_is_json_with_the_choices_named() -> None:
    """`freeanchor show` prints it: everything, and which loss and backbone it is."""
    content = json.loads(TRAINING.describe())
    assert set(content) == {field.name for field in fields(Training)}
    assert content["recipe"]["loss"]["kind"] == "FreeAnchorLoss"
    assert content["recipe"]["loss"]["bag_size"] == FreeAnchorLoss().bag_size
    assert content["model"]["backbone"]["kind"] == "SmallResNet"
    assert tuple(content["model"]["backbone"]["widths"]) == SmallResNet(widths=(16, 16, 32, 32)).widths


def test_fields_added_later_leave_stored_runs_alone() -> None:
    """At its default such a field is left out of the fingerprint; at another value it counts as any other."""
    kinds = (TrainConfig, InputConfig, TorchvisionResNet, InferenceConfig, RetinaNetLoss, FreeAnchorLoss, ModelConfig)
    known = {kind.__name__: kind for kind in kinds}
    for name, later in ADDED_LATER.items():
        names = {field.name for field in fields(known[name])}
        assert later <= names
        assert all(field.default is not MISSING for field in fields(known[name]) if field.name in later)
    recipe = TrainConfig(loss=FreeAnchorLoss(), batch_size=4)
    assert fingerprint(recipe) != fingerprint(replace(recipe, group_size=2))
    evaluations = build_profile("shapes").evaluations
    assert evaluations["freeanchor-small-s0"].training.fingerprint == "a69d64f105"  # the run that the README names
    assert evaluations["retinanet-small-s0"].training.fingerprint == "e662410b4d"
