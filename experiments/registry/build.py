"""Every run, table row and figure, declared once, at each profile's size.

A profile is a size: its data, its two backbones, its recipe. What is run at it is the same list for all: both detectors
on both backbones (Tables 1 and 2, Figs. 4 to 6), FreeAnchor on longer schedules with scale jitter (Table 3), FreeAnchor
with one field of its loss changed (Sec. 4.3). The two detectors differ in the loss and the prior probability, nothing
else.

    profile = build_profile("shapes")
    profile.evaluations["freeanchor-small-s0"].training.recipe
"""

from dataclasses import replace
from pathlib import Path

from experiments.registry.coco import COCO_PROFILES, coco_profile
from experiments.registry.config import Evaluation, Training
from experiments.registry.profile import DETECTORS, PEER, Ablation, Profile, Row, ablations_of, compared_runs
from experiments.registry.published import TABLE_3_ROWS
from experiments.registry.sizes import JITTER, WIDE_JITTER, Photographs, Size, mini, photos, shapes
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig
from freeanchor.errors import DataError
from freeanchor.losses.torchvision_peer import TorchvisionRetinaNetLoss
from freeanchor.training.recipe import TrainConfig

BACKBONES = {"small": "ResNet-50", "large": "ResNet-101"}  # ours -> the paper's that stands in the same row
EXAMPLE = "tiny"  # the backbone of the models that are committed with the reports
TEST_SCALES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)  # 480 to 1280 (Sec. 4.4)
PROFILES = ("shapes", "photos", *COCO_PROFILES, "mini")


def _scaled(size: Size, fractions: tuple[float, ...]) -> tuple[int, ...]:
    """Short sides at fractions of the profile's own."""
    return tuple(round(fraction * size.inputs.short_side) for fraction in fractions)


def _training(
    size: Size, detector: str, backbone: str, seed: int, suffix: str = "", recipe: TrainConfig | None = None
) -> Training:
    """One detector on one backbone with one seed, by the profile's recipe or, but for the loss, another."""
    loss, prior_prob = DETECTORS[detector]
    network = size.example if backbone == EXAMPLE and size.example else size.backbones[backbone]
    return Training(
        profile=size.name,
        name=f"{detector.lower()}-{backbone}{suffix}-s{seed}",
        detector=detector,
        data=size.data,
        model=ModelConfig(
            num_classes=size.num_classes,
            backbone=network,
            anchors=size.anchors,
            prior_prob=prior_prob,
            pyramid_channels=size.example_channels if backbone == EXAMPLE else size.pyramid_channels,
            head_depth=size.head_depth,
            # DEVIATION(D18): narrow heads from scratch; with N(0, 0.01) and no norm RetinaNet hardly starts to learn.
            head_norm="group",
            tower_init="he",
        ),
        inputs=size.inputs,
        recipe=replace(recipe or size.recipe, loss=loss, seed=seed),
        backbone_weights=size.backbone_weights,
    )


def _peer(size: Size) -> Training:
    """RetinaNet with torchvision's own loss, seed 0, all else alike but that deltas are plain, as torchvision's are."""
    ours = _training(size, "RetinaNet", "small", 0)
    return replace(
        ours,
        name=PEER,
        model=replace(ours.model, plain_deltas=True),
        recipe=replace(ours.recipe, loss=TorchvisionRetinaNetLoss()),
    )


def _long(size: Size, seed: int, suffix: str, jitter: tuple[float, ...]) -> Training:
    """Table 3's schedule: FreeAnchor on the large backbone, twice as long, with scale jitter."""
    augment = AugmentConfig(short_sides=_scaled(size, jitter))
    recipe = replace(size.recipe, num_steps=2 * size.recipe.num_steps, augment=augment)
    return _training(size, "FreeAnchor", "large", seed, suffix, recipe)


def _evaluations(size: Size, num_seeds: int) -> dict[str, Evaluation]:
    """Every run of a profile, by name."""
    runs = []
    for seed in range(num_seeds):
        for backbone in size.backbones:
            for detector in DETECTORS:
                training = _training(size, detector, backbone, seed)
                runs.append(Evaluation(name=training.name, training=training))
        if "large" in size.backbones and seed < size.long_seeds:
            jitter, wide = _long(size, seed, "-2x", JITTER), _long(size, seed, "-2x-wide", WIDE_JITTER)
            runs += [Evaluation(name=training.name, training=training) for training in (jitter, wide)]
            scales = InferenceConfig(short_sides=_scaled(size, TEST_SCALES))
            runs.append(
                Evaluation(name=f"freeanchor-large-2x-wide-multiscale-s{seed}", training=wide, inference=scales)
            )
    own = [*_examples(size), *([_peer(size)] if size.has_peer else [])]
    runs += [Evaluation(name=run.name, training=run) for run in own]
    varied = [Evaluation(name=training.name, training=training) for _, training in _ablations(size)]
    return {run.name: run for run in (*runs, *_trials(size), *varied)}


def _examples(size: Size) -> list[Training]:
    """Both detectors on the backbone of the committed models, seed 0; none where there are to be none."""
    recipe = replace(size.recipe, snapshots=size.example_snapshots)
    return [_training(size, detector, EXAMPLE, 0, recipe=recipe) for detector in DETECTORS] if size.example else []


def _ablations(size: Size) -> list[tuple[Ablation, Training]]:
    """FreeAnchor on the small backbone, seed 0, with each value of each factor."""
    return ablations_of(_training(size, "FreeAnchor", "small", 0), size.factors)


def _trials(size: Size) -> list[Evaluation]:
    """Each setting that was tried, with each detector that tried it; the recipe's own may be the registered run."""
    trials = []
    for detector in size.tried:
        for trial in size.trials:
            training = _training(size, detector, "small", 0, trial.suffix, trial.recipe)
            trials.append(Evaluation(name=training.name, training=training))
    return trials


def _tables(size: Size, num_seeds: int) -> dict[str, tuple[Row, ...]]:
    """The rows of Tables 1 to 3."""

    def runs(stem: str) -> tuple[str, ...]:
        return tuple(f"{stem}-s{seed}" for seed in range(num_seeds))

    def compare(backbones: list[str]) -> tuple[Row, ...]:
        return tuple(
            Row(detector=detector, published=(detector, BACKBONES[name]), runs=runs(f"{detector.lower()}-{name}"))
            for name in backbones
            for detector in DETECTORS
        )

    theirs = [
        Row(detector=name, schedule=schedule, published=(name, network)) for name, network, schedule in TABLE_3_ROWS
    ]
    ours = [
        ("FreeAnchor", "2x, jitter 0.8-1", ("FreeAnchor", "ResNet-101"), "freeanchor-large-2x"),
        ("FreeAnchor*", "2x, jitter 0.6-1.2", ("FreeAnchor*", "ResNet-101"), "freeanchor-large-2x-wide"),
        (
            "FreeAnchor**",
            "2x, jitter 0.6-1.2, six test scales",
            ("FreeAnchor**", "ResNet-101"),
            "freeanchor-large-2x-wide-multiscale",
        ),
    ]
    if "large" not in size.backbones:
        ours = []
    beside = {published for _, _, published, _ in ours}
    table3 = [row for row in theirs if row.published not in beside]
    table3 += [
        Row(
            detector=detector,
            schedule="180k",
            variant=variant,
            published=published,
            published_in="" if published[0] == "FreeAnchor" else "readme",
            runs=runs(stem)[: size.long_seeds],
        )
        for detector, variant, published, stem in ours
    ]
    peer = Row(detector="RetinaNet (torchvision's loss)", runs=(PEER,))
    table2 = compare(list(size.backbones)) + ((peer,) if size.has_peer else ())
    return {"table1": compare(["small"]), "table2": table2, "table3": tuple(table3)}


def build_profile(
    name: str,
    *,
    data: Path | None = None,
    num_seeds: int = 1,
    batch_size: int | None = None,
    chosen: str = "paper",
    photographs: Photographs | None = None,
) -> Profile:
    """The profile `name` with `num_seeds` seeds a run; `data` is a folder of COCO or of photographs.

    `photographs` says more about the latter. `batch_size` changes every recipe by the linear rule. With `chosen` "zoo"
    the figures of a COCO profile compare two published checkpoints in place of two runs of ours. Raises ValueError for
    an unknown profile or number, DataError for no folder or one that holds no data set, TimmError and CheckpointError
    for a backbone or weights that cannot be had.
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}")
    if name in COCO_PROFILES:
        return coco_profile(name, data=data, num_seeds=num_seeds, batch_size=batch_size, chosen=chosen)
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; choose one of {', '.join(PROFILES)}")
    if photographs is None and data is not None:
        photographs = Photographs(folder=data)
    if name == "photos" and photographs is None:
        raise DataError("profile photos needs the folder of your images; give it with --data DIR (make: DATA=DIR)")
    size = photos(photographs) if name == "photos" and photographs else {"shapes": shapes, "mini": mini}[name]()
    if batch_size is not None:
        size = replace(size, recipe=size.recipe.at_batch_size(batch_size), trials=())
    comparisons = compared_runs(size.backbones, num_seeds)
    return Profile(
        name=size.name,
        data=size.data,
        evaluations=_evaluations(size, num_seeds),
        tables=_tables(size, num_seeds),
        comparisons=comparisons,
        demo=tuple(run for pair in comparisons["small"] for run in pair),
        trials=tuple(trial.name for trial in _trials(size)),
        ablations=tuple(ablation for ablation, _ in _ablations(size)),
        examples=tuple(training.name for training in _examples(size)),
        on_request=size.on_request,
        variant=size.variant,
    )
