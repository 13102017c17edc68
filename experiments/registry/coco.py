"""The paper at its own scale: COCO, full-size backbones, the recipes of its authors and of mmdetection.

Every row of Tables 2 and 3 is a run here, and so are the checkpoints that others have published (`zoo.py`). The two
recipes are two profiles, `coco` and `coco-mmdetection`; `coco-mini` is the first, shrunk until a test can run it whole.

    coco_profile("coco").evaluations["freeanchor-r50-s0"].training
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.registry.config import CocoData, DataSource, Evaluation, FolderData, PublishedCheckpoint, Training
from experiments.registry.profile import (
    DETECTORS,
    FACTORS,
    SNAPSHOTS,
    Ablation,
    Pair,
    Profile,
    Row,
    ablations_of,
    compared_runs,
)
from experiments.registry.published import PAIR, TABLE_3_ROWS, published_checkpoints
from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints.code_bases import Origin
from freeanchor.checkpoints.convert import inference_of, inputs_of
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.data.coco import InputConfig, read_categories
from freeanchor.detector.backbones import BackboneConfig, SmallResNet, TorchvisionResNet
from freeanchor.detector.retinanet import ModelConfig
from freeanchor.errors import DataError
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.training.recipe import TrainConfig

COCO_PROFILES = ("coco", "coco-mmdetection", "coco-mini")
NETWORKS = {"r50": "resnet50", "r101": "resnet101", "x101": "resnext101_64x4d"}
PAPER_NAMES = {"r50": "ResNet-50", "r101": "ResNet-101", "x101": "ResNeXt-101"}
JITTER = tuple(range(640, 801, 32))  # short sides in pixels (FACTS A3)
WIDE_JITTER = tuple(range(480, 961, 32))
TEST_SCALES = (480, 640, 800, 960, 1120, 1280)  # Sec. 4.4
MINIATURE = "a miniature of it is for its maker to put there"
# ImageNet weights by code base; the files are in `backbone_files.py`.
WEIGHTS = {
    "authors": {"r50": "MSRA-R-50.pkl", "r101": "MSRA-R-101.pkl", "x101": "FBResNeXt-X-101-64x4d.pkl"},
    "mmdetection": {
        "r50": "resnet50-0676ba61.pth",
        "r101": "resnet101-63fe2227.pth",
        "x101": "resnext101_64x4d-ee2c6f71.pth",
    },
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large: the paper's own, or a miniature of it."""

    name: str
    data: DataSource
    num_classes: int
    recipe: str  # "authors" or "mmdetection"
    pixels: float = 1.0  # of the paper's image size
    steps: float = 1.0  # of the paper's number
    batch_size: int = 16
    pyramid_channels: int = 256
    head_depth: int = 4
    small_backbone: BackboneConfig | None = None  # in place of all full-size ones, from random weights

    def sides(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """Short sides at this scale."""
        return tuple(round(side * self.pixels) for side in sides)

    def inputs(self) -> InputConfig:
        """The recipe's input at this scale."""
        inputs = inputs_of(Origin(format=self.recipe, detector="RetinaNet"), "resnet50")
        return replace(inputs, short_side=self.sides((800,))[0], max_long_side=self.sides((1333,))[0])


def _backbone(scale: Scale, key: str) -> BackboneConfig:
    """A full-size backbone as the recipe's code base builds and freezes it (FACTS A2, A8)."""
    if scale.small_backbone:
        return scale.small_backbone
    if scale.recipe == "mmdetection":
        return TorchvisionResNet(name=NETWORKS[key], trained_affine=True)
    return TorchvisionResNet(name=NETWORKS[key], stride_in_1x1=key != "x101", norm_eps=0.0)


def _model(scale: Scale, detector: str, key: str) -> ModelConfig:
    """The recipe's network (FACTS A2, A8)."""
    is_theirs = scale.recipe == "mmdetection"
    anchors = AnchorConfig(geometry="exact" if is_theirs else "legacy", centre_offset=0.0 if is_theirs else 0.5)
    return ModelConfig(
        num_classes=scale.num_classes,
        backbone=_backbone(scale, key),
        anchors=anchors if scale.pixels == 1 else replace(anchors, sizes=(16.0, 32.0, 64.0, 128.0, 256.0)),
        prior_prob=0.01 if is_theirs else DETECTORS[detector][1],  # FACTS M1
        pyramid_channels=scale.pyramid_channels,
        head_depth=scale.head_depth,
        p6_source="C5" if is_theirs else "P5",
        relu_before_p7=not is_theirs,
        plain_deltas=is_theirs and detector == "RetinaNet",
    )


def _recipe(scale: Scale, detector: str, seed: int) -> TrainConfig:
    """The 1x schedule: 90k steps of 8 x 2 images (FACTS A4, A8)."""
    loss = DETECTORS[detector][0]
    paper = TrainConfig(loss=loss, snapshots=SNAPSHOTS, seed=seed, group_size=2, aspect_groups=True)
    if scale.recipe == "mmdetection":
        is_retinanet = detector == "RetinaNet"
        paper = replace(
            paper,
            # DEVIATION(D23): its FreeAnchor clamps 1 - x, ours passes the gradient straight through, as the authors'.
            loss=RetinaNetLoss(convention="mmdetection", smooth_l1_beta=0.0) if is_retinanet else loss,
            num_steps=87_960,  # 12 epochs of 7,330 steps, drops after the 8th and the 11th
            drops=(8 / 12, 11 / 12),
            warmup_factor=0.001,
            bias_lr_factor=1.0,
            bias_decays=True,
            max_grad_norm=None if is_retinanet else 35.0,
        )
    if scale.steps != 1:
        paper = replace(paper, num_steps=max(2, round(paper.num_steps * scale.steps)), warmup_steps=1, batch_size=4)
    return paper if paper.batch_size == scale.batch_size else paper.at_batch_size(scale.batch_size)


def _training(
    scale: Scale, detector: str, key: str, seed: int, suffix: str = "", jitter: tuple[int, ...] = ()
) -> Training:
    """One detector on one backbone; with `jitter`, on the doubled schedule of Table 3."""
    recipe = _recipe(scale, detector, seed)
    if jitter:
        augment = AugmentConfig(short_sides=scale.sides(jitter))
        recipe = replace(recipe, num_steps=2 * recipe.num_steps, augment=augment)
    return Training(
        profile=scale.name,
        name=f"{detector.lower()}-{key}{suffix}-s{seed}",
        detector=detector,
        data=scale.data,
        model=_model(scale, detector, key),
        inputs=scale.inputs(),
        recipe=recipe,
        inference=inference_of(scale.recipe),
        backbone_weights="" if scale.small_backbone else WEIGHTS[scale.recipe][key],
    )


def _evaluations(scale: Scale, num_seeds: int) -> Iterator[Evaluation]:
    """Every run of ours: Tables 1 and 2, then Table 3's schedules, the widest tested at six scales too."""
    for seed in range(num_seeds):
        for key in ("r50", "r101"):
            for detector in DETECTORS:
                training = _training(scale, detector, key, seed)
                yield _evaluation(training)
        for key in ("r101", "x101"):
            for suffix, jitter in (("-2x", JITTER), ("-2x-wide", WIDE_JITTER)):
                training = _training(scale, "FreeAnchor", key, seed, suffix, jitter)
                yield _evaluation(training)
            scales = replace(training.inference, short_sides=scale.sides(TEST_SCALES))
            yield Evaluation(name=f"freeanchor-{key}-2x-wide-multiscale-s{seed}", training=training, inference=scales)


def _evaluation(training: Training) -> Evaluation:
    """A training tested as it is meant to be."""
    return Evaluation(name=training.name, training=training, inference=training.inference)


def _ablations(scale: Scale) -> list[tuple[Ablation, Training]]:
    """FreeAnchor on ResNet-50, seed 0, with each value of each factor; the miniature has the first factor alone."""
    factors = (replace(FACTORS[0], values=FACTORS[0].values[:2]),) if scale.small_backbone else FACTORS
    return ablations_of(_training(scale, "FreeAnchor", "r50", 0), factors)


def _published(scale: Scale, checkpoint: PublishedCheckpoint) -> Iterator[Evaluation]:
    """A published checkpoint as it is meant to be tested, and those of wide jitter at six scales too."""
    inference = inference_of(checkpoint.origin.format)
    yield Evaluation(name=checkpoint.name, training=checkpoint, inference=inference)
    if checkpoint.name.endswith("-2x-wide"):
        scales = replace(inference, short_sides=scale.sides(TEST_SCALES))
        yield Evaluation(name=f"{checkpoint.name}-multiscale", training=checkpoint, inference=scales)


def _runs(stem: str, num_seeds: int) -> tuple[str, ...]:
    """Names of a run's seeds."""
    return tuple(f"{stem}-s{seed}" for seed in range(num_seeds))


def _zoo_rows(zoo: list[Evaluation], wanted: Callable[[str, str], bool], *, names_schedule: bool = True) -> list[Row]:
    """Rows of the published checkpoints whose name and schedule are `wanted`.

    Where the table has no column for schedules, `names_schedule`, the detector's name says whose it is.
    """
    return [
        Row(
            detector=f"{run.training.detector}{_stars(run.name)}{f' ({_schedule(run)})' if names_schedule else ''}",
            variant=_schedule(run),
            runs=(run.name,),
        )
        for run in zoo
        if isinstance(run.training, PublishedCheckpoint) and wanted(run.name, run.training.schedule)
    ]


def _stars(name: str) -> str:
    """The paper's marks: * for the wide jitter, ** for testing at six scales besides."""
    return "**" if name.endswith("multiscale") else "*" if name.endswith("-2x-wide") else ""


def _schedule(run: Evaluation) -> str:
    """Code base and schedule of a published checkpoint."""
    assert isinstance(run.training, PublishedCheckpoint)
    scales = ", six test scales" if run.name.endswith("multiscale") else ""
    return f"{run.training.origin.format}, {run.training.schedule}{scales}"


def _table_3(num_seeds: int, zoo: list[Evaluation]) -> Iterator[Row]:
    """The paper's lines, ours beside FreeAnchor's, then the two that only the authors' README has."""
    schedules = {"": ("-2x", "180k, jitter 640-800"), "*": ("-2x-wide", "180k, jitter 480-960")}
    schedules["**"] = ("-2x-wide-multiscale", "180k, jitter 480-960, six test scales")
    lines = [(*row, "") for row in TABLE_3_ROWS]
    lines += [("FreeAnchor*", "ResNet-101", "180k", "readme"), ("FreeAnchor**", "ResNet-101", "180k", "readme")]
    for detector, network, schedule, where in lines:
        key = {name: key for key, name in PAPER_NAMES.items()}.get(network)
        row = Row(detector=detector, schedule=schedule, published=(detector, network), published_in=where)
        if detector.startswith("FreeAnchor"):
            stem, variant = schedules[detector.removeprefix("FreeAnchor")]
            row = replace(row, variant=variant, runs=_runs(f"freeanchor-{key}{stem}", num_seeds))
        yield row
    yield from _zoo_rows(zoo, lambda name, schedule: "-2x" in name or "3x" in schedule, names_schedule=False)


def _tables(num_seeds: int, zoo: list[Evaluation]) -> dict[str, tuple[Row, ...]]:
    """The rows of Tables 1 to 3: ours, then the published checkpoints."""

    def compare(*keys: str) -> list[Row]:
        return [
            Row(
                detector=detector,
                published=(detector, PAPER_NAMES[key]),
                runs=_runs(f"{detector.lower()}-{key}", num_seeds),
            )
            for key in keys
            for detector in DETECTORS
        ]

    one = _zoo_rows(zoo, lambda name, schedule: "r50" in name and "3x" not in name)
    two = _zoo_rows(zoo, lambda name, schedule: "-2x" not in name and "3x" not in schedule)
    return {
        "table1": (*compare("r50"), *one),
        "table2": (*compare("r50", "r101"), *two),
        "table3": tuple(_table_3(num_seeds, zoo)),
    }


def _scale(name: str, data: Path | None) -> Scale:
    """The paper's scale, or the miniature on a folder of the user's."""
    if name != "coco-mini":
        recipe = "mmdetection" if name == "coco-mmdetection" else "authors"
        return Scale(name=name, data=CocoData(), num_classes=80, recipe=recipe)
    if data is None:
        raise DataError("profile coco-mini needs a small folder in COCO's layout; give it with --data DIR")
    return Scale(
        name=name,
        data=FolderData.of(data),
        num_classes=len(read_categories(data, "train")),
        recipe="authors",
        pixels=0.16,
        steps=4 / 90_000,
        batch_size=4,
        pyramid_channels=16,
        head_depth=1,
        small_backbone=SmallResNet(widths=(8, 8, 16, 16)),
    )


def coco_profile(
    name: str,
    *,
    data: Path | None = None,
    num_seeds: int = 1,
    batch_size: int | None = None,
    chosen: str = "paper",
) -> Profile:
    """One of the COCO profiles; see `registry.build_profile` for the arguments."""
    scale = _scale(name, data)
    scale = scale if batch_size is None else replace(scale, batch_size=batch_size)
    varied = _ablations(scale)
    own = [*_evaluations(scale, num_seeds), *(_evaluation(training) for _, training in varied)]
    checkpoints = [] if name == "coco-mmdetection" else published_checkpoints(scale.name, scale.data)
    if scale.small_backbone:
        short, long = scale.inputs().short_side, scale.inputs().max_long_side
        checkpoints = [
            replace(it, sha256="", by_hand=MINIATURE, short_side=short, max_long_side=long) for it in checkpoints
        ]
    zoo = [run for checkpoint in checkpoints for run in _published(scale, checkpoint)]
    comparisons: dict[str, tuple[Pair, ...]] = compared_runs(("r50", "r101"), num_seeds)
    if chosen == "zoo" and zoo:
        comparisons = {"published": (PAIR,)}
    return Profile(
        name=scale.name,
        data=scale.data,
        evaluations={run.name: run for run in (*own, *zoo)},
        tables=_tables(num_seeds, zoo),
        comparisons=comparisons,
        demo=tuple(run for pair in next(iter(comparisons.values())) for run in pair),
        zoo=tuple(run.name for run in zoo),
        ablations=tuple(ablation for ablation, _ in varied),
    )
