"""What a profile says: how large, and on which data. One `Size` per profile; `build.py` makes the same runs of each.

size = SIZES["shapes"](None)
size.detectors["FreeAnchor"].recipe, size.backbones["small"]
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.fetch.backbones import weights_of
from experiments.registry.config import (
    Classes,
    CocoData,
    DataSource,
    DrawnData,
    FolderData,
    PublishedCheckpoint,
    merged,
)
from experiments.registry.methods import RATES_TRIED
from experiments.registry.profile import DETECTORS, FACTORS, SNAPSHOTS, Factor
from experiments.registry.published import published_checkpoints
from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints.code_bases import Origin
from freeanchor.checkpoints.convert import inference_of, inputs_of
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.data.coco import InputConfig, read_categories, read_split
from freeanchor.detector.backbones import RESNETS, BackboneConfig, SmallResNet, TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig
from freeanchor.detector.timm import TimmBackbone, check_backbone, input_statistics
from freeanchor.errors import CheckpointError, DataError
from freeanchor.files import read_json
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.shapes.objects import CATEGORIES
from freeanchor.shapes.scene import ShapesConfig
from freeanchor.training.recipe import TrainConfig

JITTER = (0.8, 0.84, 0.88, 0.92, 0.96, 1.0)  # 640 to 800 in steps of 32, as fractions of 800 (authors' code)
WIDE_JITTER = tuple(round(0.6 + 0.04 * step, 2) for step in range(16))  # 480 to 960 likewise


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector at one size: its network, whose backbone each run of the tables replaces, and its 1x recipe."""

    model: ModelConfig
    recipe: TrainConfig


def alike(model: ModelConfig, recipe: TrainConfig) -> dict[str, Detector]:
    """Both detectors by one network and recipe: they differ in the loss and the prior probability alone (Sec. 4.1)."""
    return {
        name: Detector(model=replace(model, prior_prob=prior_prob), recipe=replace(recipe, loss=loss))
        for name, (loss, prior_prob) in DETECTORS.items()
    }


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a profile decides: how large, and on which data."""

    name: str
    data: DataSource
    inputs: InputConfig
    detectors: dict[str, Detector]
    backbones: dict[str, BackboneConfig]
    compared: tuple[str, ...]  # backbones of both detectors (Tables 1 and 2); the figures show the first
    weights: dict[str, str] = field(default_factory=dict)  # what each backbone starts from; see `config.Training`
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    long: tuple[str, ...] = ()  # backbones of Table 3's schedules
    long_names: tuple[str, str] = ("2x, jitter 0.8-1", "2x, jitter 0.6-1.2")  # of these schedules, in the table
    long_seeds: int | None = None  # at most; None trains every seed
    factors: tuple[Factor, ...] = FACTORS
    trials: dict[str, Detector] = field(default_factory=dict)  # what was tried, by the suffix of its runs
    tried: tuple[str, ...] = ("RetinaNet",)  # the detectors of each trial
    coarse: dict[str, Detector] = field(default_factory=dict)  # the pair on a coarser anchor grid
    examples: dict[str, Detector] = field(default_factory=dict)  # a pair small enough to be committed when trained
    is_committed: bool = False  # whether the compared pair itself is small enough
    checkpoints: tuple[PublishedCheckpoint, ...] = ()
    has_peer: bool = False  # whether RetinaNet is trained with torchvision's loss, too
    variant: str = ""  # what its reports' folder is called after, besides the data
    on_request: tuple[str, ...] = ()  # reports whose runs are made only when they are asked for by name
    # Of other methods of assignment, the learning rate each was found best at, in the recipe's own; None: not trained.
    rates: dict[str, float] | None = None
    rates_tried: tuple[float, ...] = RATES_TRIED

    def at_batch_size(self, batch_size: int) -> "Size":
        """The size with every recipe at another batch size, by the linear rule; nothing was tried there."""
        detectors, examples = (
            {name: replace(own, recipe=own.recipe.at_batch_size(batch_size)) for name, own in pair.items()}
            for pair in (self.detectors, self.examples)
        )
        return replace(self, detectors=detectors, examples=examples, trials={}, coarse={})


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """What a user may choose: the folder, which classes to make of its categories, the backbone and its weights.

    `backbone` is torchvision's name of a ResNet or timm's of any network with maps at strides 4 to 32; `weights` a file
    of ImageNet weights in place of those that their publisher has.
    """

    folder: Path
    classes: Classes = "own"
    backbone: str = "tf_efficientnet_lite0"  # the lightest of timm's that CPUs train well: 4 million weights, no gates
    weights: Path | None = None


# --- shapes and its miniature ---

_SHAPES_MODEL = ModelConfig(  # the anchors are the paper's own: at 160 px they fit as they fit COCO at 800 px
    num_classes=len(CATEGORIES),
    backbone=SmallResNet(widths=(16, 32, 64, 128)),
    pyramid_channels=32,
    head_depth=2,
    # DEVIATION(D18): narrow heads from scratch; with N(0, 0.01) and no norm RetinaNet hardly starts to learn.
    head_norm="group",
    tower_init="he",
)
_SHAPES_RECIPE = TrainConfig(
    loss=RetinaNetLoss(),
    num_steps=3500,
    batch_size=8,
    lr=0.16,  # the best of those tried with RetinaNet alone: reports/shapes/trials.csv
    warmup_steps=100,
    max_grad_norm=10.0,  # the authors clip nothing, but start from ImageNet weights; from scratch the baseline diverges
    snapshots=SNAPSHOTS,
)
_SHAPES_FACTORS = (replace(FACTORS[0], values=(12, 25, *FACTORS[0].values), repeated=(25,)), *FACTORS[1:])


def _shapes_trial(width: int, channels: int, head_depth: int, num_steps: int, lr: float = 0.16) -> Detector:
    backbone = SmallResNet(widths=(width, 2 * width, 4 * width, 8 * width))
    model = replace(_SHAPES_MODEL, backbone=backbone, pyramid_channels=channels, head_depth=head_depth)
    return Detector(model=model, recipe=replace(_SHAPES_RECIPE, num_steps=num_steps, lr=lr))


# Networks that cost about the same CPU seconds in all; then the rate of the best. By RetinaNet's AP alone.
_SHAPES_TRIALS = {
    "-w32c64": _shapes_trial(32, 64, 2, 1600),
    "-w24c48": _shapes_trial(24, 48, 2, 2200),
    "-w24c48h1": _shapes_trial(24, 48, 1, 2600),
    "-lr0.08": _shapes_trial(16, 32, 2, 3500, 0.08),
    "": _shapes_trial(16, 32, 2, 3500),
    "-lr0.32": _shapes_trial(16, 32, 2, 3500, 0.32),
}


def shapes() -> Size:
    """The default: synthetic scenes of 160 px, minutes on two CPU cores."""
    small = _SHAPES_MODEL.backbone
    assert isinstance(small, SmallResNet)
    return Size(
        name="shapes",
        data=DrawnData(),
        inputs=InputConfig(short_side=160, max_long_side=266),
        detectors=alike(_SHAPES_MODEL, _SHAPES_RECIPE),
        backbones={"small": small, "large": replace(small, depths=(2, 2, 2, 2))},
        compared=("small", "large"),
        long=("large",),
        long_seeds=1,  # each takes as long as two other runs
        factors=_SHAPES_FACTORS,
        rates={},  # all at the recipe's: half and twice, tried with seed 0, are worse
        trials=_SHAPES_TRIALS,
        is_committed=True,
    )


def mini() -> Size:
    """`shapes` shrunk until everything runs in a minute: for tests of the toolkit, not for numbers."""
    tiny = SmallResNet(widths=(16, 16, 32, 32), depths=(1, 1, 1, 1))
    model = replace(_SHAPES_MODEL, pyramid_channels=16, head_depth=1)
    recipe = replace(_SHAPES_RECIPE, num_steps=40, batch_size=4, warmup_steps=5)
    varied = ((FACTORS[0], 40), (FACTORS[-1], "none"))  # a number of the paper's, and a part taken away
    return replace(
        shapes(),
        name="mini",
        data=DrawnData(
            shapes=ShapesConfig(num_train=32, num_val=16, image_size=128, min_size=20.0, max_size=80.0, min_head=9.0)
        ),
        inputs=InputConfig(short_side=128, max_long_side=224),
        detectors=alike(model, recipe),
        backbones={"small": tiny, "large": replace(tiny, depths=(2, 2, 2, 2))},
        factors=tuple(replace(factor, values=(factor.default, value)) for factor, value in varied),
        trials={},
        rates_tried=(1.0,),
    )


# --- photos ---
# Nothing here is tuned to a data set. By RetinaNet's AP alone, scale jitter was chosen on `doors` (commit 60ea4a7) and
# the learning rate on `aquarium`; both serve every set (REPRODUCING.md).

SHORT_SIDE, MAX_LONG_SIDE = 224, 336  # pixels; what two CPU cores train on in an hour or two
BATCH_SIZE = 8
MOST_IMAGES = 90_000 * 16  # that a training sees: the paper's own number
LR, LR_TRIALS, TRIAL_EPOCHS = 0.02, (0.01, 0.02, 0.04), 10
SMALL_SIZES = (16.0, 32.0, 64.0, 128.0, 256.0)  # pixels, one per level; half the paper's
# The grid by the rule (docs/anchors.md): 4 strides as in the paper, on levels twice as fine. 64 channels and 40 epochs,
# or two cores would need days. The coarse grid was the profile's own until commit 60ea4a7; on it an object's fiftieth
# anchor hardly touches it. Its recipe stays for two grids with two bag sizes each (the report `grids`).
GRID, STRIDES, CHANNELS, NUM_EPOCHS = "P2 to P6, 4 strides", (4, 8, 16, 32, 64), 64, 40
COARSE_GRID, COARSE_STRIDES, COARSE_CHANNELS, COARSE_EPOCHS = "P3 to P7, 2 strides", (8, 16, 32, 64, 128), 96, 60
BAG_SIZES, BAG_SEEDS = (12, 50), 2  # on either grid; the paper's own for every seed
PHOTO_SNAPSHOTS = (0.02, 0.1, 0.3, 0.5, 2 / 3, 0.8, 8 / 9, 1.0)  # to draw AP over training, too


def _network(name: str) -> BackboneConfig:
    """The backbone of that name, frozen as the paper freezes it; raises TimmError where it lacks the maps for that."""
    if name in RESNETS:
        return TorchvisionResNet(name=name)
    check_backbone(name)  # here, before anybody lists its runs or fetches its weights
    return TimmBackbone(name=name)


def _inputs(backbone: str) -> InputConfig:
    """Images normalised as the backbone's weights were trained: ImageNet's statistics, or what timm says."""
    inputs = InputConfig(short_side=SHORT_SIDE, max_long_side=MAX_LONG_SIDE)
    if backbone in RESNETS:
        return inputs
    mean, std = input_statistics(backbone)
    return replace(inputs, mean=mean, std=std)


def _recipe(num_images: int, num_epochs: int, lr: float = LR) -> TrainConfig:
    steps = math.ceil(min(num_epochs * max(1, num_images), MOST_IMAGES) / BATCH_SIZE)
    return TrainConfig(
        loss=RetinaNetLoss(),
        num_steps=steps,
        batch_size=BATCH_SIZE,
        lr=lr,
        warmup_steps=min(100, steps // 4),
        max_grad_norm=10.0,  # as on `shapes`
        augment=AugmentConfig(short_sides=tuple(round(SHORT_SIDE * fraction) for fraction in JITTER)),
        snapshots=PHOTO_SNAPSHOTS,
        aspect_groups=True,  # portrait and landscape images in one batch are half padding
    )


def _trials(model: ModelConfig, num_images: int) -> dict[str, Detector]:
    """What the rate was chosen from, for ten epochs each."""
    recipes = {f"-lr{lr:g}": _recipe(num_images, TRIAL_EPOCHS, lr) for lr in LR_TRIALS}
    return {
        suffix: Detector(model=model, recipe=replace(recipe, snapshots=(1.0,))) for suffix, recipe in recipes.items()
    }


def photos(chosen: Photographs | None) -> Size:
    """The size for the user's photographs; raises DataError, TimmError or CheckpointError where it cannot be."""
    if chosen is None:
        raise DataError("profile photos needs the folder of your images; give it with --data DIR (make: DATA=DIR)")
    if chosen.weights is not None and chosen.weights.suffix == ".pkl":
        raise CheckpointError(f"{chosen.weights}: Caffe2's weights want BGR images; give torchvision's or timm's")
    split = read_split(chosen.folder, "train")
    num_images = sum(len(image.boxes) > 0 for image in split.images)
    num_classes = len(split.category_ids)
    if chosen.classes != "own":
        num_classes = len(merged(read_json(split.annotations), chosen.classes)["categories"])
    network = _network(chosen.backbone)
    # DEVIATION(D20): P2 to P6. At 224 px half of the objects of photographs are smaller than the paper's 32 px anchors.
    anchors = AnchorConfig(sizes=SMALL_SIZES, strides=STRIDES)
    model = replace(_SHAPES_MODEL, num_classes=num_classes, anchors=anchors, pyramid_channels=CHANNELS)
    coarse = replace(model, anchors=replace(anchors, strides=COARSE_STRIDES), pyramid_channels=COARSE_CHANNELS)
    recipe, examples = _recipe(num_images, NUM_EPOCHS), {}
    if isinstance(network, TimmBackbone):
        example = replace(model, backbone=replace(network, strided_c5=True), pyramid_channels=32)
        examples = alike(example, replace(recipe, snapshots=(1.0,)))
    return Size(
        name="photos",
        data=FolderData.of(chosen.folder, chosen.classes),
        inputs=_inputs(chosen.backbone),
        detectors=alike(model, recipe),
        backbones={"small": network},
        compared=("small",),
        weights={"small": weights_of(chosen.backbone, chosen.weights)},
        factors=(replace(FACTORS[0], values=BAG_SIZES, is_papers=False),),
        trials=_trials(replace(model, backbone=network), num_images),
        tried=("RetinaNet", "FreeAnchor"),
        coarse=alike(coarse, _recipe(num_images, COARSE_EPOCHS)),
        examples=examples,
        has_peer=True,
        variant="" if chosen.backbone == Photographs.backbone else chosen.backbone,
        on_request=("trials", "models", "ablations", "grids"),
        rates={},
    )


# --- COCO: the paper's own size ---

_NETWORKS = {"r50": "resnet50", "r101": "resnet101", "x101": "resnext101_64x4d"}
_PAPERS_RECIPE = TrainConfig(  # 90k steps of 8 x 2 images (authors' code)
    loss=RetinaNetLoss(), snapshots=SNAPSHOTS, group_size=2, aspect_groups=True
)


def coco() -> Size:
    """COCO, full-size backbones, the authors' recipe, and what others have published."""
    model = ModelConfig(num_classes=80, anchors=AnchorConfig(geometry="legacy", centre_offset=0.5))
    return Size(
        name="coco",
        data=CocoData(),
        inputs=inputs_of(Origin(format="authors", detector="RetinaNet"), "resnet50"),
        detectors=alike(model, _PAPERS_RECIPE),
        backbones={
            key: TorchvisionResNet(name=name, stride_in_1x1=key != "x101", norm_eps=0.0)
            for key, name in _NETWORKS.items()
        },
        compared=("r50", "r101"),
        weights={"r50": "MSRA-R-50.pkl", "r101": "MSRA-R-101.pkl", "x101": "FBResNeXt-X-101-64x4d.pkl"},
        inference=inference_of("authors"),
        long=("r101", "x101"),
        long_names=("180k, jitter 640-800", "180k, jitter 480-960"),
        checkpoints=published_checkpoints("coco", CocoData()),
    )


def coco_mmdetection() -> Size:
    """The same by mmdetection's recipes, whose RetinaNet has its own loss, deltas and no clipping."""
    anchors = AnchorConfig(centre_offset=0.0)
    model = ModelConfig(num_classes=80, anchors=anchors, prior_prob=0.01, p6_source="C5", relu_before_p7=False)
    recipe = replace(
        _PAPERS_RECIPE,
        num_steps=87_960,  # 12 epochs of 7,330 steps, drops after the 8th and the 11th
        drops=(8 / 12, 11 / 12),
        warmup_factor=0.001,
        bias_lr_factor=1.0,
        bias_decays=True,
    )
    theirs = replace(recipe, loss=RetinaNetLoss(convention="mmdetection", smooth_l1_beta=0.0))
    # DEVIATION(D23): its FreeAnchor clamps 1 - x, ours passes the gradient straight through, as the authors'.
    ours = replace(recipe, loss=FreeAnchorLoss(), max_grad_norm=35.0)
    return replace(
        coco(),
        name="coco-mmdetection",
        inputs=inputs_of(Origin(format="mmdetection", detector="RetinaNet"), "resnet50"),
        detectors={
            "RetinaNet": Detector(model=replace(model, plain_deltas=True), recipe=theirs),
            "FreeAnchor": Detector(model=model, recipe=ours),
        },
        backbones={key: TorchvisionResNet(name=name, trained_affine=True) for key, name in _NETWORKS.items()},
        weights={key: weights_of(name, None) for key, name in _NETWORKS.items()},
        inference=inference_of("mmdetection"),
        checkpoints=(),
    )


def coco_mini(chosen: Photographs | None) -> Size:
    """`coco` shrunk until a test can run it whole, on a folder in COCO's layout; its maker puts checkpoints there."""
    if chosen is None:
        raise DataError("profile coco-mini needs a small folder in COCO's layout; give it with --data DIR")
    whole, data = coco(), FolderData.of(chosen.folder)
    inputs = replace(whole.inputs, short_side=128, max_long_side=213)
    model = replace(
        whole.detectors["RetinaNet"].model,
        num_classes=len(read_categories(chosen.folder, "train")),
        pyramid_channels=16,
        head_depth=1,
    )
    model = replace(model, anchors=replace(model.anchors, sizes=(16.0, 32.0, 64.0, 128.0, 256.0)))
    by_hand = "a miniature of it is for its maker to put there"
    return replace(
        whole,
        name="coco-mini",
        data=data,
        inputs=inputs,
        detectors=alike(model, replace(_PAPERS_RECIPE, num_steps=4, warmup_steps=1, batch_size=4)),
        backbones=dict.fromkeys(whole.backbones, SmallResNet(widths=(8, 8, 16, 16))),
        weights={},
        factors=(replace(FACTORS[0], values=FACTORS[0].values[:2]),),
        checkpoints=tuple(
            replace(one, sha256="", by_hand=by_hand, short_side=128, max_long_side=213)
            for one in published_checkpoints("coco-mini", data)
        ),
    )


SIZES: dict[str, Callable[[Photographs | None], Size]] = {
    "shapes": lambda _: shapes(),
    "photos": photos,
    "coco": lambda _: coco(),
    "coco-mmdetection": lambda _: coco_mmdetection(),
    "coco-mini": coco_mini,
    "mini": lambda _: mini(),
}
