"""What a run is: frozen values, their fingerprints, where their results lie, and the classes made of a data set's.

A `Training` says what to train on what, an `Evaluation` how to test it; where and how fast is a `Runtime`, and no part
of either. A fingerprint is the same for equal values, whatever the machine, and as the project grows.

    training.directory(Path("runs"))      # runs/shapes/freeanchor-small-s0-1f0c2a9b3d
    merged(content, "supercategory")["categories"]
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from freeanchor.checkpoints.code_bases import Origin
from freeanchor.data.coco import InputConfig, locate_split, read_split
from freeanchor.detector.backbones import BackboneConfig
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig
from freeanchor.errors import DataError
from freeanchor.files import read_json, write_json
from freeanchor.losses.assigned import AssignedLoss, TaskAlignedLoss
from freeanchor.shapes.dataset import VERSION as SHAPES_VERSION
from freeanchor.shapes.scene import ShapesConfig
from freeanchor.training.recipe import TrainConfig

STAGE_VERSION = 1  # raise it when training computes something else from the same configuration: all is trained anew
TEST_VERSION = 2  # raise it when testing or measuring does: runs are tested and measured anew, and not trained
CONVERSION_VERSION = 1  # raise it when converting does: published checkpoints are converted and tested anew
NUM_DIGITS = 10  # of a fingerprint: a billion configurations before two are likely to collide
# Fields that came after runs had been stored. At their default they say what was silently so before: they are left out
# then, and the stored runs keep their names.
ADDED_LATER = {
    "TrainConfig": {"bias_decays", "group_size", "aspect_groups"},
    "InputConfig": {"resize", "box_convention"},
    "TorchvisionResNet": {"norm_eps", "trained_affine"},
    "InferenceConfig": {"limit_shrinkage", "clip", "drop_empty"},
    "RetinaNetLoss": {"convention"},
    "FreeAnchorLoss": {"likelihood", "excuse"},
    "ModelConfig": {"plain_deltas"},
}


def fingerprint(*values: object) -> str:
    """A short name for configuration values: ten hexadecimal digits."""
    text = _text((STAGE_VERSION, values))
    return hashlib.sha256(text.encode()).hexdigest()[:NUM_DIGITS]


def _text(value: Any) -> str:
    """A value's repr, that of a configuration without later fields at their default."""
    if isinstance(value, tuple):
        inner = ", ".join(_text(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    name = type(value).__qualname__
    later = ADDED_LATER.get(name, set())
    shown = [
        field.name
        for field in fields(value)
        if not (field.name in later and field.default is not MISSING and getattr(value, field.name) == field.default)
    ]
    return f"{name}({', '.join(f'{key}={_text(getattr(value, key))}' for key in shown)})"


Classes = Literal["own", "supercategory", "one"]  # a data set's as they are, by supercategory, or all as one
CLASSES: tuple[Classes, ...] = ("own", "supercategory", "one")
CLASSES_MARK = ", classes "  # in the identity of a folder whose classes are not its own


@dataclass(frozen=True, kw_only=True)
class DrawnData:
    """The synthetic data set of `shapes`, drawn by the project itself."""

    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    is_made: ClassVar[bool] = True  # the project itself writes the folder that is trained on

    @property
    def identity(self) -> str:
        """What its contents depend on."""
        return f"shapes {SHAPES_VERSION} {self.shapes!r}"

    def directory(self, root: Path) -> Path:
        """Where it is drawn to under the data folder `root`."""
        return root / f"shapes-{fingerprint(self.identity)}"


@dataclass(frozen=True, kw_only=True)
class FolderData:
    """A folder that the user brings: `train.json`, `val.json` and `images/`, or COCO's own layout.

    `digest` covers both annotation files, not where they lie, nor the images: other images under the same json are
    taken for the same data. `classes` are made of the categories (`merged`): what is trained on is then a folder
    of ours.
    """

    name: str
    digest: str
    classes: Classes = "own"

    @property
    def identity(self) -> str:
        """What its contents depend on."""
        return f"folder {self.digest}" + (f"{CLASSES_MARK}{self.classes}" if self.is_made else "")

    @property
    def is_made(self) -> bool:
        """Whether the project itself writes the folder that is trained on."""
        return self.classes != "own"

    @property
    def title(self) -> str:
        """Its name in reports: the folder's, and which classes were made where they are not its own."""
        return f"{self.name}-{self.classes}" if self.is_made else self.name

    def directory(self, root: Path) -> Path:
        """Where a folder with other classes is written to under the data folder `root`."""
        return root / f"{self.title}-{self.digest}"

    @staticmethod
    def of(directory: Path, classes: Classes = "own") -> "FolderData":
        """Describe the folder; raises DataError where it is none."""
        content = b"".join(locate_split(directory, split)[0].read_bytes() for split in ("train", "val"))
        digest = hashlib.sha256(content).hexdigest()[:NUM_DIGITS]
        return FolderData(name=directory.resolve().name, digest=digest, classes=classes)


@dataclass(frozen=True, kw_only=True)
class CocoData:
    """COCO 2017 itself, wherever it lies: a name for what anybody has, so that runs can be listed without it."""

    name: str = "coco"
    is_made: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        """What its contents depend on."""
        return "COCO 2017, instances"


DataSource = DrawnData | FolderData | CocoData


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: a detector, its data, its recipe."""

    profile: str
    name: str
    detector: str
    data: DataSource
    model: ModelConfig
    inputs: InputConfig
    recipe: TrainConfig
    inference: InferenceConfig = field(default_factory=InferenceConfig)  # as the trained model is meant to be used
    backbone_weights: str = ""  # what the backbone starts from, by its name in `fetch/backbones.py`

    @property
    def backbone(self) -> BackboneConfig:
        """The backbone's configuration."""
        return self.model.backbone

    @property
    def backbone_label(self) -> str:
        """The backbone's name in tables."""
        return self.backbone.label

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the result; neither a run's name nor paths do."""
        return fingerprint(self.data.identity, self.model, self.inputs, self.recipe, self.backbone_weights)

    def directory(self, root: Path) -> Path:
        """Where its results lie under the run store `root`."""
        return root / self.profile / f"{self.name}-{self.fingerprint}"

    def describe(self) -> str:
        """The whole configuration as json, for people and provenance."""
        content = asdict(self)
        loss = self.recipe.loss
        content["recipe"]["loss"]["kind"] = type(loss).__name__
        if isinstance(loss, AssignedLoss | TaskAlignedLoss):
            content["recipe"]["loss"]["assigner"]["kind"] = type(loss.assigner).__name__
        content["model"]["backbone"]["kind"] = type(self.backbone).__name__
        return json.dumps(content, indent=2)


@dataclass(frozen=True, kw_only=True)
class PublishedCheckpoint:
    """Somebody else's training, whose weights can be had: evaluated here, not trained here.

    `file` is its name in the folder of downloads, `origin` what the file does not say about itself, `published` what
    its authors report on val2017 (`published_multiscale`: at six scales), and `source` where.
    """

    profile: str
    name: str
    detector: str
    data: DataSource
    backbone_label: str
    schedule: str
    file: str
    url: str
    sha256: str  # or its first digits; empty where nobody published any
    origin: Origin
    published: dict[str, float]
    source: str
    published_multiscale: dict[str, float] = field(default_factory=dict)
    short_side: int = 800
    max_long_side: int = 1333
    by_hand: str = ""  # why it cannot be fetched, and where to get it, where that is so

    @property
    def fingerprint(self) -> str:
        """Of everything that decides what comes out."""
        file = self.file, self.sha256, self.origin, CONVERSION_VERSION
        return fingerprint(self.data.identity, *file, self.short_side, self.max_long_side)

    def directory(self, root: Path) -> Path:
        """Where its results lie under the run store `root`."""
        return root / self.profile / f"{self.name}-{self.fingerprint}"

    def describe(self) -> str:
        """All that is known of it as json."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One way of testing a training, ours or somebody else's; its `name` is the registry's name of the run."""

    name: str
    training: Training | PublishedCheckpoint
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def directory(self, root: Path) -> Path:
        """Where its results lie, inside the training's folder."""
        return self.training.directory(root) / f"val-{fingerprint(self.inference, TEST_VERSION)}"

    @property
    def num_scales(self) -> int:
        """How many sizes each image is tested at."""
        return max(1, len(self.inference.short_sides))


def _names(categories: list[dict[str, Any]], classes: Classes) -> dict[int, str]:
    if classes == "own":
        return {item["id"]: item["name"] for item in categories}
    if classes == "one":
        return {item["id"]: "object" for item in categories}
    if missing := [item["name"] for item in categories if not item.get("supercategory")]:
        raise DataError(f"category {missing[0]!r} has no supercategory; add it to both jsons, or give --classes one")
    return {item["id"]: item["supercategory"] for item in categories}


def merged(content: Mapping[str, Any], classes: Classes, ids: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A COCO json's content with its categories made into classes; `content` itself is not changed.

    Ids count from 1 in the order of the old ones unless `ids`, of another split, has them. Raises DataError where a
    category has no supercategory to go by.
    """
    if classes == "own":
        return dict(content)
    names = _names(sorted(content["categories"], key=lambda item: item["id"]), classes)
    ids = {**(ids or {})}
    for name in names.values():
        ids.setdefault(name, len(ids) + 1)
    return {
        **content,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": [
            {**item, "category_id": ids[names[item["category_id"]]]}
            for item in content["annotations"]
            if item["category_id"] in names
        ],
    }


def write_merged(source: Path, target: Path, classes: Classes) -> None:
    """Write both annotation files with those classes into `target`, in the layout of `source`, whose images it links.

    Raises DataError where a split of `source` cannot be read. What is there already, and whole, is only linked anew.
    """
    made: dict[str, dict[str, Any]] = {}
    for split in ("train", "val"):
        annotations, images = locate_split(source, split)
        _link(target / images.relative_to(source), images)
        path = target / annotations.relative_to(source)
        if not _is_whole(path):
            read_split(source, split)  # says what is wrong with it, if anything is
            ids = {item["name"]: item["id"] for item in made["train"]["categories"]} if made else None
            made[split] = merged(read_json(annotations), classes, ids)
            write_json(path, made[split])
        else:
            made[split] = read_json(path)


def _is_whole(path: Path) -> bool:
    """Whether annotations of ours lie there; what a power cut may leave is made again."""
    try:
        return isinstance(read_json(path).get("categories"), list)
    except (DataError, AttributeError):
        return False


def _link(link: Path, images: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() != images.resolve():
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(images.resolve(), target_is_directory=True)
