"""The size of `photos`: whatever photographs a user brings, on a backbone that starts from ImageNet weights.

Nothing here is tuned to a data set. Learning rate and augmentation were chosen once, on `doors`, by RetinaNet's AP
alone (`_trials`; what came out is in `reports/photos/doors/trials.csv`), and serve every other set. The epochs were
doubled when the curves of both detectors had been seen at thirty; RetinaNet's AP rose, so it stayed.

    size = photos(Photographs(folder=Path("doors")))
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.ablations import FACTORS
from experiments.backbone_files import weights_of
from experiments.classes import Classes, merged
from experiments.config import FolderData
from experiments.sizes import JITTER, WIDE_JITTER, Size, Trial
from freeanchor.anchors import AnchorConfig
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.data.coco import InputConfig, read_split
from freeanchor.detector.backbones import RESNETS, BackboneConfig, TorchvisionResNet
from freeanchor.detector.timm import TimmBackbone, check_backbone, input_statistics
from freeanchor.errors import CheckpointError
from freeanchor.files import read_json
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.training.recipe import TrainConfig

BACKBONE = "tf_efficientnet_lite0"  # the lightest of timm's that CPUs train well: 4 million weights, no gates
SHORT_SIDE, MAX_LONG_SIDE = 224, 336  # pixels; what two CPU cores train on in an hour or two
BATCH_SIZE = 8
MOST_PICTURES = 90_000 * 16  # that a training sees: the paper's own number
SNAPSHOTS = (0.02, 0.1, 0.3, 0.5, 2 / 3, 0.8, 8 / 9, 1.0)  # to draw AP over training, too
NUM_EPOCHS, HALF_TRIAL, SHORT_TRIAL = 60, 30, 10
BAG_SIZES = (12, 25, 50)  # the paper's fiftieth anchor hardly touches its object at this picture size
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
    """Pictures normalised as the backbone's weights were trained: ImageNet's statistics, or what timm says."""
    inputs = InputConfig(short_side=SHORT_SIDE, max_long_side=MAX_LONG_SIDE)
    if name in RESNETS:
        return inputs
    mean, std = input_statistics(name)
    return replace(inputs, mean=mean, std=std)


def _recipe(
    num_pictures: int, num_epochs: int = NUM_EPOCHS, lr: float = LR, jitter: tuple[float, ...] = JITTER
) -> TrainConfig:
    """The recipe for a set of that many pictures; the loss is replaced by each detector's."""
    samples = min(num_epochs * max(1, num_pictures), MOST_PICTURES)
    steps = math.ceil(samples / BATCH_SIZE)
    return TrainConfig(
        loss=RetinaNetLoss(),
        num_steps=steps,
        batch_size=BATCH_SIZE,
        lr=lr,
        warmup_steps=min(100, steps // 4),
        max_grad_norm=10.0,  # as on `shapes`
        augment=AugmentConfig(short_sides=tuple(round(SHORT_SIDE * fraction) for fraction in jitter)),
        snapshots=SNAPSHOTS,
        aspect_groups=True,  # upright and lying pictures in one batch are half padding
    )


def _trials(num_pictures: int) -> tuple[Trial, ...]:
    """What the recipe was chosen from: three rates, then three augmentations, each for ten epochs; then the epochs."""
    short = {f"-lr{lr:g}": _recipe(num_pictures, SHORT_TRIAL, lr) for lr in LR_TRIALS}
    short |= {
        "-flips": _recipe(num_pictures, SHORT_TRIAL, jitter=()),
        "-wide": _recipe(num_pictures, SHORT_TRIAL, jitter=WIDE_JITTER),
    }
    tried = [Trial(suffix=suffix, recipe=replace(recipe, snapshots=(1.0,))) for suffix, recipe in short.items()]
    half = Trial(suffix=f"-{HALF_TRIAL}epochs", recipe=_recipe(num_pictures, HALF_TRIAL))
    return (*tried, half, Trial(suffix="", recipe=_recipe(num_pictures)))


def photos(chosen: Photographs) -> Size:
    """The size for the user's photographs; raises DataError, TimmError or CheckpointError where it cannot be."""
    if chosen.weights is not None and chosen.weights.suffix == ".pkl":
        raise CheckpointError(f"{chosen.weights}: Caffe2's weights want BGR pictures; give torchvision's or timm's")
    split = read_split(chosen.folder, "train")
    num_pictures = sum(len(picture.boxes) > 0 for picture in split.pictures)
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
        recipe=_recipe(num_pictures),
        anchors=_ANCHORS,
        pyramid_channels=96,
        example=replace(network, strided_c5=True) if isinstance(network, TimmBackbone) else None,
        example_snapshots=(1.0,),
        backbone_weights=weights_of(chosen.backbone, chosen.weights),
        trials=_trials(num_pictures),
        tried=("RetinaNet", "FreeAnchor"),
        factors=(replace(FACTORS[0], values=BAG_SIZES, is_papers=False),),
        has_peer=True,
        variant="" if chosen.backbone == BACKBONE else chosen.backbone,
        on_request=("trials", "models", "ablations"),
    )
