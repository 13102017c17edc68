"""`freeanchor explore`: one page that shows, image by image, which anchors learn which object.

The images come from `experiments.reports.sample`, the numbers from `answers`, the page from `explorer`. Models are
those given, or a profile's: its two runs where they lie in the store, else the example models kept with its reports.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from analysis.coco.reading import read_ground_truth
from analysis.figures.style import DETECTORS
from experiments.commands.compute import runtime_of
from experiments.commands.matches import MAX_CHECKPOINTS, checkpoint_names
from experiments.commands.runs import make_data, profile_of, store_of
from experiments.registry.config import Training
from experiments.registry.profile import Profile
from experiments.reports.answers import Asked, Stage, ask, subset_of
from experiments.reports.explorer import LIMIT, Exhibition, write_explorer
from experiments.reports.gallery import image_credits
from experiments.reports.page import EXPLORER_NAME
from experiments.reports.sample import Sample, choose_images
from experiments.runs.store import Store
from experiments.runs.training import data_stage
from freeanchor.checkpoints.native import read_model
from freeanchor.data.coco import Split, locate_split, read_split_file
from freeanchor.errors import UsageError
from freeanchor.files import read_json
from freeanchor.losses import AssignedLoss, TaskAlignedLoss
from freeanchor.shapes.dataset import recorded_parts


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a page is made of: ground truth, the folder of its images, model files, and where the page goes.

    `methods` has the name and loss of model files that were trained by an assigner, which no file says.
    """

    annotations: Path
    images: Path
    checkpoints: tuple[Path, ...]
    has_snapshots: bool
    title: str
    out: Path
    methods: Mapping[Path, tuple[str, AssignedLoss | TaskAlignedLoss]] = field(default_factory=dict)


def explore(arguments: argparse.Namespace) -> None:
    """`freeanchor explore --gt G --images DIR --checkpoint A [B …] --out explorer.html`, or of a profile."""
    _check(arguments)
    source = _given(arguments) if arguments.checkpoint else _of_profile(arguments)
    runtime = runtime_of(arguments)
    detectors = _detectors(source, arguments.num_stages)
    split = read_split_file(source.annotations, source.images)
    sample = _sample(split, arguments)
    ground_truth = subset_of(read_ground_truth(source.annotations), sample.images)
    num_asked = len(sample.images) * sum(len(one.stages) for one in detectors)
    with tqdm(total=num_asked, desc="explore", unit="image", disable=None) as bar:
        answers = [
            ask(one, sample.images, split.category_names, ground_truth, bag_size=arguments.bag_size, runtime=runtime,
                told=bar.update)
            for one in detectors
        ]  # fmt: skip
    exhibition = Exhibition(
        sample=sample,
        answers=answers,
        category_names=split.category_names,
        title=source.title,
        seed=arguments.seed,
        blurs_all=arguments.blur == "all" or arguments.hide_images,
    )
    size = write_explorer(source.out, exhibition)
    print(_summary(source.out, sample, detectors, size))


def _summary(out: Path, sample: Sample, detectors: Sequence[Asked], size: int) -> str:
    num_objects = sum(len(image.boxes) for image in sample.images)
    num_stages = sum(len(one.stages) for one in detectors)
    refused = f"; {sample.num_refused:,} image(s) left out, whose licence forbids derivatives"
    large = "; large for a page: give fewer --num-images or --num-stages" if size > LIMIT else ""
    return (
        f"{out}: {len(sample.images)} image(s), {num_objects:,} object(s), {len(detectors)} detector(s), {num_stages} "
        f"stage(s), {size / 1e6:.1f} MB{refused if sample.num_refused else ''}{large}"
    )


def _check(arguments: argparse.Namespace) -> None:
    for name in ("num_images", "num_stages", "bag_size"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    if arguments.seed < 0:
        raise UsageError(f"--seed must not be negative, got {arguments.seed}")
    if arguments.checkpoint and not (arguments.gt and arguments.images):
        raise UsageError("--checkpoint needs the objects and images to ask about; give --gt val.json --images DIR")
    if not arguments.checkpoint and (arguments.gt or arguments.images):
        raise UsageError("--gt and --images need models to ask; give --checkpoint model.safetensors")
    paths = arguments.checkpoint or []
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("--checkpoint: a file is given twice; give each once")
    if len(paths) > MAX_CHECKPOINTS:
        raise UsageError(f"--checkpoint: a page holds {MAX_CHECKPOINTS} detectors, got {len(paths)}; give fewer")


def _given(arguments: argparse.Namespace) -> Source:
    """What the command line names."""
    if not arguments.images.is_dir():
        raise UsageError(f"--images {arguments.images}: no such folder; give the one that holds the images of --gt")
    return Source(
        annotations=arguments.gt,
        images=arguments.images,
        checkpoints=tuple(arguments.checkpoint),
        has_snapshots=arguments.snapshots,
        title=arguments.title or arguments.gt.resolve().parent.name,
        out=arguments.out or Path(EXPLORER_NAME),
    )


def _of_profile(arguments: argparse.Namespace) -> Source:
    """A profile's validation split and models; synthetic data are generated where they are not there."""
    profile, store = profile_of(arguments), store_of(arguments)
    reports = arguments.reports / profile.report_name
    checkpoints = _models(profile, store, reports)
    methods = {}
    for own in (profile.evaluations[name].training for name in profile.pair):
        if isinstance(own, Training) and isinstance(own.recipe.loss, AssignedLoss | TaskAlignedLoss):
            methods[store.network(own)] = own.detector, own.recipe.loss
    training = profile.evaluations[profile.pair[0]].training
    make_data(profile, store)
    if training.data.is_made:
        data_stage(training, store)
    annotations, images = locate_split(store.data(training), "val")
    return Source(
        annotations=annotations,
        images=images,
        checkpoints=checkpoints,
        has_snapshots=True,
        title=arguments.title or str(profile.report_name),
        out=arguments.out or reports / EXPLORER_NAME,
        methods=methods,
    )


def _models(profile: Profile, store: Store, reports: Path) -> tuple[Path, ...]:
    """Model files of a profile's two runs, as far as they are trained; else of its example models."""
    runs = [store.network(profile.evaluations[name].training) for name in profile.pair]
    if there := [path for path in runs if path.exists()]:
        return tuple(there)
    kept = tuple(sorted((reports / "models").glob("*/model.safetensors")))
    if not kept:
        raise UsageError(
            f"profile {profile.name}: neither {' nor '.join(profile.pair)} is trained, and {reports} keeps no models; "
            "run make demo first, or give --checkpoint"
        )
    return kept


def _detectors(source: Source, num_stages: int) -> list[Asked]:
    """The detectors to ask, RetinaNet and FreeAnchor by these names where each is there once."""
    runs = [run for run, _ in checkpoint_names(source.checkpoints)]
    methods = [source.methods.get(path, (None, None)) for path in source.checkpoints]
    kinds = [
        method or read_model(path)[1].detector or run
        for path, run, (method, _) in zip(source.checkpoints, runs, methods, strict=True)
    ]
    names = kinds if len(set(kinds)) == len(kinds) else runs
    asked = [
        Asked(name=name, run=run, stages=_stages(path, num_stages) if source.has_snapshots else _end(path), loss=loss)
        for name, run, path, (_, loss) in zip(names, runs, source.checkpoints, methods, strict=True)
    ]
    return sorted(asked, key=lambda one: DETECTORS.index(one.name) if one.name in DETECTORS else len(DETECTORS))


def _end(model: Path) -> tuple[Stage, ...]:
    return (Stage(step=None, path=model),)


def _stages(model: Path, num_stages: int) -> tuple[Stage, ...]:
    """The model's snapshots, evenly spread over the logarithm of steps, and the finished model last."""
    found = {int(path.stem[5:]): path for folder in (model.parent, model.parent / "snapshots")
             for path in folder.glob("step-*.safetensors") if path.stem[5:].isdecimal()}  # fmt: skip
    steps = sorted(step for step in found if step > 0)
    end = None
    if steps and _is_same(found[steps[-1]], model):
        end = steps.pop()
    if len(steps) > num_stages - 1:
        wanted = np.geomspace(steps[0], steps[-1], num_stages - 1).tolist() if num_stages > 1 else []
        steps = sorted({min(steps, key=lambda step: abs(np.log(step / at))) for at in wanted})
    return (*(Stage(step=step, path=found[step]) for step in steps), Stage(step=end, path=model))


def _is_same(snapshot: Path, model: Path) -> bool:
    """Whether two model files have the same weights, as the last snapshot of a run and its model have."""
    (a, _), (b, _) = read_model(snapshot), read_model(model)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _sample(split: Split, arguments: argparse.Namespace) -> Sample:
    sample = choose_images(
        split,
        recorded_parts(read_json(split.annotations)),
        image_credits(split.annotations, arguments.credit),
        count=arguments.num_images,
        seed=arguments.seed,
        keeps_restricted=arguments.blur is not None or arguments.hide_images,
    )
    if not sample.images:
        refused = f" but {sample.num_refused} whose licence forbids derivatives; give --blur restricted"
        raise UsageError(f"{split.annotations}: has no image with an object{refused if sample.num_refused else ''}")
    return sample
