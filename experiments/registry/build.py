"""Every run and table row, declared once for all profiles: an experiment says what, a profile's `Size` how large.

Both detectors on the compared backbones (Tables 1 and 2, Figs. 4 to 6), FreeAnchor on longer schedules with scale
jitter (Table 3), FreeAnchor with one field of its loss changed (Sec. 4.3), and the checkpoints that others published.

    profile = build_profile("shapes")
    profile.evaluations["freeanchor-small-s0"].training.recipe
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.registry.config import Evaluation, PublishedCheckpoint, Training
from experiments.registry.methods import METHODS, MethodRuns, method_trainings, own_method, rate_trials
from experiments.registry.profile import (
    DETECTORS,
    FACTORS,
    PEER,
    Ablation,
    Cell,
    Pair,
    Profile,
    Row,
    ablations_of,
    variant,
)
from experiments.registry.published import PAIR, README_ROWS, TABLE_3_ROWS
from experiments.registry.sizes import (
    BAG_SEEDS,
    BAG_SIZES,
    COARSE_GRID,
    GRID,
    JITTER,
    SIZES,
    WIDE_JITTER,
    Photographs,
    Size,
)
from freeanchor.checkpoints.convert import inference_of
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.errors import UsageError
from freeanchor.losses.torchvision_peer import TorchvisionRetinaNetLoss
from freeanchor.training.recipe import TrainConfig

PROFILES = tuple(SIZES)
PAPERS = {  # our backbones -> the paper's that stand in the same row
    "small": "ResNet-50", "large": "ResNet-101", "r50": "ResNet-50", "r101": "ResNet-101", "x101": "ResNeXt-101",
}  # fmt: skip
EXAMPLE = "tiny"  # the backbone of models that are trained to be committed with the reports
TEST_SCALES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)  # 480 to 1280 (Sec. 4.4)
SIX_SCALES = ", six test scales"


def build_profile(
    name: str,
    *,
    data: Path | None = None,
    num_seeds: int = 1,
    batch_size: int | None = None,
    chosen: str = "paper",
    photographs: Photographs | None = None,
    compare: Sequence[str] = (),
    assigner: Path | None = None,
) -> Profile:
    """The profile `name` with `num_seeds` seeds of every run; `data` is a folder of COCO or of photographs.

    `photographs` says more about the latter. `batch_size` changes every recipe by the linear rule. With `chosen` "zoo"
    the figures of a COCO profile compare two published checkpoints in place of two runs of ours, with `compare` those
    of two methods of assignment (`compared`). `assigner` is a file with one more (`own_method`). Raises ValueError for
    an unknown profile or number, DataError for no folder or one that holds no data set, TimmError and CheckpointError
    for a backbone or weights that cannot be had.
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}")
    if name not in SIZES:
        raise ValueError(f"unknown profile {name!r}; choose one of {', '.join(SIZES)}")
    size = SIZES[name](photographs or (Photographs(folder=data) if data else None))
    if batch_size is not None:
        size = size.at_batch_size(batch_size)
    zoo, trials, examples, ablations = _zoo(size), _trials(size), _examples(size), _ablations(size, num_seeds)
    extra = [*examples, *_peer(size), *trials, *(training for _, trainings in ablations for training in trainings)]
    cells = _cells(size, num_seeds)
    methods, own = _methods(size, num_seeds, trials, assigner)
    extra += [*(training for _, trainings in cells for training in trainings), *own]
    runs = [*_main_runs(size, num_seeds), *map(_tested, extra), *zoo]
    comparisons = {backbone: _pairs(backbone, num_seeds) for backbone in size.compared}
    committed = comparisons[size.compared[0]][0] if size.is_committed else tuple(training.name for training in examples)
    if chosen == "zoo" and zoo:
        comparisons = {"published": (PAIR,)}
    profile = Profile(
        name=size.name,
        data=size.data,
        evaluations={run.name: run for run in runs},
        tables=_tables(size, num_seeds, zoo),
        comparisons=comparisons,
        demo=tuple(run for pair in next(iter(comparisons.values())) for run in pair),
        trials=tuple(training.name for training in trials),
        ablations=tuple(ablation for ablation, _ in ablations),
        grids=tuple(cell for cell, _ in cells),
        methods=methods,
        examples=committed,
        zoo=tuple(run.name for run in zoo),
        on_request=(*size.on_request, *(("assigners",) if methods else ())),
        variant=size.variant,
    )
    return compared(profile, compare) if compare else profile


def compared(profile: Profile, methods: Sequence[str]) -> Profile:
    """The profile with two methods in the place of the paper's two: in the figures, in Table 1, wherever pairs are.

    Differences are the later minus the earlier, in the order of `Profile.methods`. Raises UsageError for any but two of
    them.
    """
    known = {method.key: method for method in profile.methods}
    if not known:
        raise UsageError(f"profile {profile.name} has no methods of assignment to compare; give shapes, photos or mini")
    if len(set(methods)) != 2 or not set(methods) <= set(known):
        raise UsageError(f"cannot compare {' and '.join(methods)}; give two of {', '.join(known)}")
    first, second = (method for key, method in known.items() if key in methods)
    pairs = tuple(zip(first.runs, second.runs, strict=True))
    backbone = next(iter(profile.comparisons))
    usual = {row.runs: row for row in profile.tables["table1"]}
    rows = [usual.get(each.runs, Row(detector=each.label, runs=each.runs)) for each in (first, second)]
    return replace(
        profile,
        tables={**profile.tables, "table1": tuple(rows)},
        comparisons={backbone: pairs},
        demo=tuple(run for pair in pairs for run in pair),
        on_request=tuple(name for name in profile.on_request if name != "assigners"),
        variant="-".join(filter(None, (profile.variant, f"{second.key}-minus-{first.key}"))),
    )


def _methods(
    size: Size, num_seeds: int, trials: list[Training], assigner: Path | None
) -> tuple[tuple[MethodRuns, ...], list[Training]]:
    """Every method of assignment, the paper's two first, with its trainings that are not among the others."""
    backbone, methods = size.compared[0], METHODS if size.rates is not None else ()
    rates = size.rates_tried if methods else (1.0,)
    if assigner is not None:
        methods = (*methods, own_method(assigner))
    if not methods:
        return (), []
    there, trainings, described = {training.fingerprint: training.name for training in trials}, [], []
    for detector in DETECTORS:
        usual = _training(size, detector, backbone)
        tried = rate_trials(usual, rates)
        names = {share: there.get(run.fingerprint, run.name) for share, run in tried.items()}
        trainings += [run for share, run in tried.items() if share != 1 and names[share] == run.name]
        runs = tuple(f"{detector.lower()}-{backbone}-s{seed}" for seed in range(num_seeds))
        described.append(MethodRuns(key=detector.lower(), label=detector, runs=runs, tried=names))
    usual_of = partial(_training, size, "RetinaNet", backbone)
    found = method_trainings(usual_of, methods, num_seeds=num_seeds, rates=size.rates or {}, tried=rates)
    trainings += [run for _, runs in found for run in runs]
    return (*described, *(method for method, _ in found)), trainings


def _pairs(backbone: str, num_seeds: int) -> tuple[Pair, ...]:
    return tuple((f"retinanet-{backbone}-s{seed}", f"freeanchor-{backbone}-s{seed}") for seed in range(num_seeds))


def _tested(training: Training) -> Evaluation:
    return Evaluation(name=training.name, training=training, inference=training.inference)


def _short_sides(size: Size, fractions: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(fraction * size.inputs.short_side) for fraction in fractions)


def _training(
    size: Size, detector: str, backbone: str, seed: int = 0, suffix: str = "", recipe: TrainConfig | None = None
) -> Training:
    """One detector on one backbone with one seed, by its own recipe or, but for the loss, another."""
    own = size.detectors[detector]
    return Training(
        profile=size.name,
        name=f"{detector.lower()}-{backbone}{suffix}-s{seed}",
        detector=detector,
        data=size.data,
        model=replace(own.model, backbone=size.backbones[backbone]),
        inputs=size.inputs,
        recipe=replace(recipe or own.recipe, loss=own.recipe.loss, seed=seed),
        inference=size.inference,
        backbone_weights=size.weights.get(backbone, ""),
    )


def _main_runs(size: Size, num_seeds: int) -> Iterable[Evaluation]:
    """The runs of Tables 1 to 3, seed by seed."""
    for seed in range(num_seeds):
        for backbone in size.compared:
            for detector in DETECTORS:
                yield _tested(_training(size, detector, backbone, seed))
        for backbone in size.long if seed in range(num_seeds)[: size.long_seeds] else ():
            yield _tested(_long(size, backbone, seed, "-2x", JITTER))
            wide = _tested(_long(size, backbone, seed, "-2x-wide", WIDE_JITTER))
            yield wide
            scales = replace(wide.inference, short_sides=_short_sides(size, TEST_SCALES))
            yield replace(wide, name=f"freeanchor-{backbone}-2x-wide-multiscale-s{seed}", inference=scales)


def _long(size: Size, backbone: str, seed: int, suffix: str, jitter: tuple[float, ...]) -> Training:
    """Table 3's schedule: twice as long, with scale jitter."""
    usual = size.detectors["FreeAnchor"].recipe
    augment = AugmentConfig(short_sides=_short_sides(size, jitter))
    recipe = replace(usual, num_steps=2 * usual.num_steps, augment=augment)
    return _training(size, "FreeAnchor", backbone, seed, suffix, recipe)


def _examples(size: Size) -> list[Training]:
    return [
        replace(
            _training(size, detector, size.compared[0]),
            name=f"{detector.lower()}-{EXAMPLE}-s0",
            model=own.model,
            recipe=own.recipe,
        )
        for detector, own in size.examples.items()
    ]


def _peer(size: Size) -> list[Training]:
    """RetinaNet with torchvision's own loss, seed 0, all else alike but that deltas are plain, as torchvision's are."""
    if not size.has_peer:
        return []
    ours = _training(size, "RetinaNet", size.compared[0])
    model, recipe = replace(ours.model, plain_deltas=True), replace(ours.recipe, loss=TorchvisionRetinaNetLoss())
    return [replace(ours, name=PEER, model=model, recipe=recipe)]


def _trials(size: Size) -> list[Training]:
    """What was tried, with each detector that tried it; without a suffix it is the registered run."""
    own = [
        (trial, _training(size, detector, size.compared[0], suffix=suffix, recipe=trial.recipe))
        for detector in size.tried
        for suffix, trial in size.trials.items()
    ]
    return [replace(run, model=replace(trial.model, prior_prob=run.model.prior_prob)) for trial, run in own]


def _ablations(size: Size, num_seeds: int) -> list[tuple[Ablation, list[Training]]]:
    usual = [_training(size, "FreeAnchor", size.compared[0], seed) for seed in range(num_seeds)]
    return ablations_of(usual, size.factors)


def _cells(size: Size, num_seeds: int) -> list[tuple[Cell, list[Training]]]:
    """Both detectors on the coarser grid and their own, FreeAnchor with two bag sizes on each."""
    found: list[tuple[Cell, list[Training]]] = []
    backbone, bags = size.compared[0], FACTORS[0]
    grids = ((COARSE_GRID, "-coarse", size.coarse), (GRID, "", size.detectors)) if size.coarse else ()
    for grid, suffix, pair in grids:
        for detector, own in pair.items():
            model = replace(own.model, backbone=size.backbones[backbone])
            runs = [
                replace(_training(size, detector, backbone, seed, suffix, own.recipe), model=model)
                for seed in range(num_seeds)
            ]
            for value in BAG_SIZES if detector == "FreeAnchor" else (math.nan,):
                is_usual = value in (bags.default, math.nan)
                chosen = runs if is_usual else [variant(run, bags, value) for run in runs[:BAG_SEEDS]]
                names = tuple(run.name for run in chosen)
                found.append((Cell(grid=grid, detector=detector, bag_size=value, runs=names), chosen))
    return found


def _zoo(size: Size) -> list[Evaluation]:
    """Published checkpoints as they are meant to be tested, and those of wide jitter at six scales too."""
    runs = []
    for checkpoint in size.checkpoints:
        inference = inference_of(checkpoint.origin.format)
        runs.append(Evaluation(name=checkpoint.name, training=checkpoint, inference=inference))
        if checkpoint.name.endswith("-2x-wide"):
            scales = replace(inference, short_sides=_short_sides(size, TEST_SCALES))
            runs.append(Evaluation(name=f"{checkpoint.name}-multiscale", training=checkpoint, inference=scales))
    return runs


def _tables(size: Size, num_seeds: int, zoo: list[Evaluation]) -> dict[str, tuple[Row, ...]]:
    """The rows of Tables 1 to 3: ours, then the published checkpoints."""

    def compare(backbones: tuple[str, ...]) -> list[Row]:
        return [
            Row(
                detector=detector,
                published=(detector, PAPERS[backbone]),
                runs=tuple(f"{detector.lower()}-{backbone}-s{seed}" for seed in range(num_seeds)),
            )
            for backbone in backbones
            for detector in DETECTORS
        ]

    peer = [Row(detector="RetinaNet (torchvision's loss)", runs=(PEER,))] if size.has_peer else []
    short, long = ([run for run in zoo if _is_long(run) == wanted] for wanted in (False, True))
    on_r50 = [run for run in short if "r50" in run.name]
    return {
        "table1": (*compare(size.compared[:1]), *map(_zoo_row, on_r50)),
        "table2": (*compare(size.compared), *peer, *map(_zoo_row, short)),
        "table3": (*_table_3(size, num_seeds), *(_zoo_row(run, names_schedule=False) for run in long)),
    }


def _table_3(size: Size, num_seeds: int) -> list[Row]:
    """The paper's lines that have no run here, then those that have, of the authors' README too."""
    usual, wide = size.long_names
    schedules = {
        "FreeAnchor": ("-2x", usual),
        "FreeAnchor*": ("-2x-wide", wide),
        "FreeAnchor**": ("-2x-wide-multiscale", f"{wide}{SIX_SCALES}"),
    }
    ours = {PAPERS[backbone]: backbone for backbone in size.long}
    seeds = range(num_seeds)[: size.long_seeds]
    theirs, runs = [], []
    for where, lines in (("", TABLE_3_ROWS), ("readme", README_ROWS)):
        for detector, network, schedule in lines:
            row = Row(detector=detector, schedule=schedule, published=(detector, network), published_in=where)
            if detector in schedules and network in ours:
                suffix, variant = schedules[detector]
                names = tuple(f"freeanchor-{ours[network]}{suffix}-s{seed}" for seed in seeds)
                runs.append(replace(row, variant=variant, runs=names))
            elif not where:
                theirs.append(row)
    return theirs + runs


def _is_long(run: Evaluation) -> bool:
    return "-2x" in run.name or "-3x" in run.name


def _zoo_row(run: Evaluation, *, names_schedule: bool = True) -> Row:
    """The row of a published checkpoint: * for the wide jitter, ** for testing at six scales besides, as in the paper.

    Where the table has no column for schedules, `names_schedule`, the detector's name says whose it is.
    """
    checkpoint, at_six = run.training, run.name.endswith("-multiscale")
    assert isinstance(checkpoint, PublishedCheckpoint)
    stars = "**" if at_six else "*" if run.name.endswith("-2x-wide") else ""
    schedule = f"{checkpoint.origin.format}, {checkpoint.schedule}{SIX_SCALES if at_six else ''}"
    name = f"{checkpoint.detector}{stars}"
    return Row(detector=f"{name} ({schedule})" if names_schedule else name, variant=schedule, runs=(run.name,))
