"""What a profile decides, how large and on which data, and the two sizes of drawn scenes: `shapes` and its miniature.

What is run at a size is the same list for all, in `registry.py`; photographs have their size in `photos.py`.

    size = shapes()
    size.recipe, size.backbones
"""

from dataclasses import dataclass, replace

from experiments.ablations import FACTORS, Factor
from experiments.config import DataSource, DrawnData
from experiments.profiles import SNAPSHOTS
from freeanchor.anchors import AnchorConfig
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import BackboneConfig, SmallResNet
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
