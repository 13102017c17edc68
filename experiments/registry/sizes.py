"""What a profile decides, how large and on which data, and the two sizes of drawn scenes: `shapes` and its miniature.

What is run at a size is the same list for all, in `registry.py`; photographs have their size in `photos.py`.

    size = shapes()
    size.recipe, size.backbones

The size of `photos`: whatever photographs a user brings, on a backbone that starts from ImageNet weights.

Nothing here is tuned to a data set. Learning rate and augmentation were chosen once, on `doors`, by RetinaNet's AP
alone (`_trials`; what came out is in `reports/photos/doors/trials.csv`), and serve every other set. The epochs were
doubled when the curves of both detectors had been seen at thirty; RetinaNet's AP rose, so it stayed.

    size = photos(Photographs(folder=Path("doors")))
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.fetch.backbones import weights_of
from experiments.registry.classes import Classes, merged
from experiments.registry.config import DataSource, DrawnData, FolderData
from experiments.registry.profile import FACTORS, SNAPSHOTS, Factor
from freeanchor.anchors import AnchorConfig
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.data.coco import InputConfig, read_split
from freeanchor.detector.backbones import RESNETS, BackboneConfig, SmallResNet, TorchvisionResNet
from freeanchor.detector.timm import TimmBackbone, check_backbone, input_statistics
from freeanchor.errors import CheckpointError
from freeanchor.files import read_json
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.shapes.objects import CATEGORIES
from freeanchor.shapes.scene import ShapesConfig
from freeanchor.training.recipe import TrainConfig

JITTER = (0.8, 0.84, 0.88, 0.92, 0.96, 1.0)  # 640 to 800 in steps of 32, as fractions of 800 (FACTS A3)
WIDE_JITTER = tuple(round(0.6 + 0.04 * step, 2) for step in range(16))  # 480 to 960 likewise


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting tried before the recipe was fixed: what is added to a run's name, and the recipe to try.

    The `suffix` of the recipe's own setting is empty: its trial is the registered run itself.
    """

    suffix: str
    recipe: TrainConfig


PHOTO_SNAPSHOTS = (0.02, 0.1, 0.3, 0.5, 2 / 3, 0.8, 8 / 9, 1.0)  # to draw AP over training, too


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a profile decides: how large, and on which data."""

    name: str
    data: DataSource
    num_classes: int
    inputs: InputConfig
    backbones: dict[str, BackboneConfig]
    recipe: TrainConfig  # of the 1x schedule; its loss is replaced by each detector's
    anchors: AnchorConfig
    pyramid_channels: int = 64
    head_depth: int = 2
    trials: tuple[Trial, ...] = ()
    tried: tuple[str, ...] = ("RetinaNet",)  # the detectors that each trial is made with
    example: BackboneConfig | None = None  # of a quarter of the weights: a trained pair small enough to be committed
    example_channels: int = 32  # of its pyramid
    example_snapshots: tuple[float, ...] = SNAPSHOTS
    backbone_weights: str = ""  # what the backbones start from; see `experiments.config.Training`
    factors: tuple[Factor, ...] = FACTORS
    long_seeds: int = 1  # at most, of Table 3's schedules: each takes as long as two other runs
    has_peer: bool = False  # whether RetinaNet is trained with torchvision's loss, too
    variant: str = ""  # what its reports' folder is called after, besides the data
    on_request: tuple[str, ...] = ()  # reports whose runs are made only when they are asked for by name


# DEVIATION(D20): sizes of 3 strides a level, 24 to 152 px on P3 to P5, cover the objects of `shapes` (half of them 28
# to 52 px). The paper's 4 strides leave the small ones without anchors; at 2 strides an object spans few cells.
_SMALL_ANCHORS = AnchorConfig(sizes=(24.0, 48.0, 96.0, 192.0, 384.0))
_SMALL_BACKBONES: dict[str, BackboneConfig] = {
    "small": SmallResNet(widths=(32, 64, 128, 256), depths=(1, 1, 1, 1)),
    "large": SmallResNet(widths=(32, 64, 128, 256), depths=(2, 2, 2, 2)),
}
_SHAPES_RECIPE = TrainConfig(
    loss=RetinaNetLoss(),
    num_steps=3500,
    batch_size=8,
    lr=0.16,
    warmup_steps=100,
    max_grad_norm=10.0,  # the authors clip nothing, but start from ImageNet weights; from scratch the baseline diverges
    snapshots=SNAPSHOTS,
)
# Tried with RetinaNet alone; the recipe has the best of them: reports/shapes/trials.csv.
_LR_TRIALS = (0.08, 0.16, 0.32)
_MINI_FACTORS = ((FACTORS[0], 40), (FACTORS[-1], "none"))  # a number of the paper's, and a part taken away


def shapes() -> Size:
    """The default: drawn scenes of 192 px, minutes on two CPU cores."""
    return Size(
        name="shapes",
        data=DrawnData(),
        num_classes=len(CATEGORIES),
        inputs=InputConfig(short_side=192, max_long_side=320),
        backbones=_SMALL_BACKBONES,
        recipe=_SHAPES_RECIPE,
        anchors=_SMALL_ANCHORS,
        example=SmallResNet(widths=(16, 32, 64, 128), depths=(1, 1, 1, 1)),
        trials=tuple(
            Trial(suffix="" if lr == _SHAPES_RECIPE.lr else f"-lr{lr:g}", recipe=replace(_SHAPES_RECIPE, lr=lr))
            for lr in _LR_TRIALS
        ),
    )


def mini() -> Size:
    """`shapes` shrunk until everything runs in a minute: for tests of the toolkit, not for numbers."""
    tiny = SmallResNet(widths=(16, 16, 32, 32), depths=(1, 1, 1, 1))
    return replace(
        shapes(),
        name="mini",
        data=DrawnData(shapes=ShapesConfig(num_train=32, num_val=16, image_size=128, max_size=80.0, min_head=9.0)),
        inputs=InputConfig(short_side=128, max_long_side=224),
        backbones={"small": tiny, "large": replace(tiny, depths=(2, 2, 2, 2))},
        recipe=replace(_SHAPES_RECIPE, num_steps=40, batch_size=4, warmup_steps=5),
        pyramid_channels=16,
        head_depth=1,
        example=tiny,
        example_channels=8,
        trials=(),
        factors=tuple(replace(factor, values=(factor.default, value)) for factor, value in _MINI_FACTORS),
    )


BACKBONE = "tf_efficientnet_lite0"  # the lightest of timm's that CPUs train well: 4 million weights, no gates
SHORT_SIDE, MAX_LONG_SIDE = 224, 336  # pixels; what two CPU cores train on in an hour or two
BATCH_SIZE = 8
MOST_IMAGES = 90_000 * 16  # that a training sees: the paper's own number
NUM_EPOCHS, HALF_TRIAL, SHORT_TRIAL = 60, 30, 10
BAG_SIZES = (12, 25, 50)  # the paper's fiftieth anchor hardly touches its object at this image size
LR, LR_TRIALS = 0.02, (0.01, 0.02, 0.04)
# DEVIATION(D20): sizes of 2 strides a level, 16 to 101 px on P3 to P5. At 224 px, half of the objects of photographs
# are smaller than the paper's 32 px anchors: an IoU of 0.5 with some anchor is reached by 40 % of the objects of doors
# at 4 strides, 48 % at 3 and 56 % at 2 (hardhat: 38, 63, 85 %).
_ANCHORS = AnchorConfig(sizes=(16.0, 32.0, 64.0, 128.0, 256.0))


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """What a user may choose: the folder, which classes to make of its categories, the backbone and its weights.

    `backbone` is torchvision's name of a ResNet or timm's of any network with maps at strides 4 to 32; `weights` a file
    of ImageNet weights in place of those that their publisher has.
    """

    folder: Path
    classes: Classes = "own"
    backbone: str = BACKBONE
    weights: Path | None = None


def _backbone(name: str) -> BackboneConfig:
    """The network of that name, frozen as the paper freezes it; raises TimmError where it has not the maps for that."""
    if name in RESNETS:
        return TorchvisionResNet(name=name)
    check_backbone(name)  # here, before anybody lists its runs or fetches its weights
    return TimmBackbone(name=name)


def _inputs(name: str) -> InputConfig:
    """Images normalised as the backbone's weights were trained: ImageNet's statistics, or what timm says."""
    inputs = InputConfig(short_side=SHORT_SIDE, max_long_side=MAX_LONG_SIDE)
    if name in RESNETS:
        return inputs
    mean, std = input_statistics(name)
    return replace(inputs, mean=mean, std=std)


def _recipe(
    num_images: int, num_epochs: int = NUM_EPOCHS, lr: float = LR, jitter: tuple[float, ...] = JITTER
) -> TrainConfig:
    """The recipe for a set of that many images; the loss is replaced by each detector's."""
    samples = min(num_epochs * max(1, num_images), MOST_IMAGES)
    steps = math.ceil(samples / BATCH_SIZE)
    return TrainConfig(
        loss=RetinaNetLoss(),
        num_steps=steps,
        batch_size=BATCH_SIZE,
        lr=lr,
        warmup_steps=min(100, steps // 4),
        max_grad_norm=10.0,  # as on `shapes`
        augment=AugmentConfig(short_sides=tuple(round(SHORT_SIDE * fraction) for fraction in jitter)),
        snapshots=PHOTO_SNAPSHOTS,
        aspect_groups=True,  # upright and lying images in one batch are half padding
    )


def _trials(num_images: int) -> tuple[Trial, ...]:
    """What the recipe was chosen from: three rates, then three augmentations, each for ten epochs; then the epochs."""
    short = {f"-lr{lr:g}": _recipe(num_images, SHORT_TRIAL, lr) for lr in LR_TRIALS}
    short |= {
        "-flips": _recipe(num_images, SHORT_TRIAL, jitter=()),
        "-wide": _recipe(num_images, SHORT_TRIAL, jitter=WIDE_JITTER),
    }
    tried = [Trial(suffix=suffix, recipe=replace(recipe, snapshots=(1.0,))) for suffix, recipe in short.items()]
    half = Trial(suffix=f"-{HALF_TRIAL}epochs", recipe=_recipe(num_images, HALF_TRIAL))
    return (*tried, half, Trial(suffix="", recipe=_recipe(num_images)))


def photos(chosen: Photographs) -> Size:
    """The size for the user's photographs; raises DataError, TimmError or CheckpointError where it cannot be."""
    if chosen.weights is not None and chosen.weights.suffix == ".pkl":
        raise CheckpointError(f"{chosen.weights}: Caffe2's weights want BGR images; give torchvision's or timm's")
    split = read_split(chosen.folder, "train")
    num_images = sum(len(image.boxes) > 0 for image in split.images)
    num_classes = len(split.category_ids)
    if chosen.classes != "own":
        num_classes = len(merged(read_json(split.annotations), chosen.classes)["categories"])
    network = _backbone(chosen.backbone)
    return Size(
        name="photos",
        data=FolderData.of(chosen.folder, chosen.classes),
        num_classes=num_classes,
        inputs=_inputs(chosen.backbone),
        backbones={"small": network},
        recipe=_recipe(num_images),
        anchors=_ANCHORS,
        pyramid_channels=96,
        example=replace(network, strided_c5=True) if isinstance(network, TimmBackbone) else None,
        example_snapshots=(1.0,),
        backbone_weights=weights_of(chosen.backbone, chosen.weights),
        trials=_trials(num_images),
        tried=("RetinaNet", "FreeAnchor"),
        factors=(replace(FACTORS[0], values=BAG_SIZES, is_papers=False),),
        has_peer=True,
        variant="" if chosen.backbone == BACKBONE else chosen.backbone,
        on_request=("trials", "models", "ablations"),
    )
