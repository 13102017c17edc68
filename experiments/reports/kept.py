"""What is kept of measured runs beside their reports: small files without the weights, and two small models.

Whoever unpacks kept runs makes every table and figure again without training, or trains only the runs that were not
kept: another seed, another value of an ablation, on any machine.

    list(pack_runs(profile, store, Path("reports")))      # reports/shapes/kept/freeanchor-small-s0-0123456789.zip, …
    list(unpack_runs(profile, store, Path("reports")))    # runs/shapes/freeanchor-small-s0-0123456789/, …
    write_models(profile, store, Path("reports/shapes/models"))     # models/<run>/*.safetensors, models.csv

A zip is named after its run's folder, whose name ends with the fingerprint of configuration and data: what was kept of
other data cannot be taken for a run of these. What could not be measured again is never removed.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_LZMA, ZipFile, ZipInfo

import numpy as np
import pandas as pd
import torch

from experiments.claims.evidence import Evidence
from experiments.fetch.coco import DAMAGED, members, remove_leftovers, unpack
from experiments.registry.config import PublishedCheckpoint, Training
from experiments.registry.profile import Profile
from experiments.reports.gallery import gallery_stage
from experiments.reports.report import Report
from experiments.runs.bags import bag_boxes_stage, bags_stage, has_bags
from experiments.runs.cost import cost_file, timed_pairs
from experiments.runs.learning import can_be_asked, learning_stage
from experiments.runs.measured import measurements
from experiments.runs.store import Store, is_measured
from freeanchor.checkpoints.native import describe, read_model, save_tensors
from freeanchor.errors import UsageError
from freeanchor.files import alone_at, in_turn, replacing, write_csv

FOLDER = "kept"  # beside a profile's reports
_NAME = re.compile(r"(?P<run>.+)-(?P<fingerprint>[0-9a-f]+)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can tell: the same run gives the same bytes
_MARKER = "measurements.csv"


def pack_runs(profile: Profile, store: Store, reports: Path) -> Iterator[str]:
    """Keep every measured run of a profile; one line per file, written anew only where what it holds has changed.

    Runs whose bags the reports show are asked about these first, should no report have done so, compared runs about who
    learns there too. Tests that an earlier zip of the same training holds, and the store does not, stay in it. Where
    the store's images are not to be shown, the boxes of the galleries' objects are left out. Raises UsageError where
    nothing has been measured.
    """
    measured = [run for run in profile.evaluations.values() if is_measured(run, store)]
    if not measured:
        raise UsageError(f"{store.runs / profile.name}: none of the profile's runs is measured yet; run make first")
    compared = {name for pair in profile.pairs for name in pair}
    in_grids = {name for cell in profile.grids for name in cell.runs}
    for run in measured:
        if run.name in compared or (run.name in in_grids and has_bags(run, store)):
            bags_stage(run, store)
            bag_boxes_stage(run, store)
        if run.name in compared and can_be_asked(run, store):
            learning_stage(run, store)
    gallery_stage(profile, store)
    folder = reports / profile.report_name / FOLDER
    for training in dict.fromkeys(run.training for run in measured):
        tests = {run.directory(store.runs) for run in measured if run.training == training}
        files = _files(training.directory(store.runs), tests, with_galleries=store.images)
        path = _pack(training.directory(store.runs).name, dict(sorted(files)), folder, store)
        yield f"{path}: {path.stat().st_size:,} bytes"
        yield from (f"{other}: of another configuration or other data, left" for other in _namesakes(training, folder))
    for backbone, source in _cost_files(profile, store).items():
        if source.exists():
            _copy(source, folder / _kept_times(source))
        elif not (folder / _kept_times(source)).exists():
            yield f"{backbone}: steps are not timed yet, and claims need their times; freeanchor cost takes them"


def _files(directory: Path, tests: set[Path], *, with_galleries: bool) -> Iterator[tuple[str, bytes]]:
    """The files of a training and of its finished tests, by name in the zip: all but weights and what is hidden."""
    for path in directory.rglob("*"):
        is_ours = path.parent == directory or path.parent in tests
        is_small = path.suffix != ".safetensors" and not path.name.startswith(".")
        if path.is_file() and is_ours and is_small and (with_galleries or not path.name.startswith("gallery_")):
            yield path.relative_to(directory.parent).as_posix(), path.read_bytes()


def _pack(name: str, content: dict[str, bytes], folder: Path, store: Store) -> Path:
    """The zip of a run's files; with those that an earlier zip of the same training holds besides."""
    target, record = folder / f"{name}.zip", f"{name}/train.json"
    earlier = _content(target)
    if earlier.get(record) == content[record]:
        shown = {key: data for key, data in earlier.items() if store.images or "/gallery_" not in key}
        content = dict(sorted((shown | content).items()))
    if content == earlier:
        return target
    with replacing(target) as temporary, ZipFile(temporary, "w") as bundle:
        for key, data in content.items():
            entry = ZipInfo(key, _EPOCH)
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, data, ZIP_LZMA)
    return target


def _content(path: Path) -> dict[str, bytes]:
    """What a zip holds by name; nothing where it is missing or damaged."""
    try:
        with ZipFile(path) as bundle:
            return {info.filename: bundle.read(info) for info in members(bundle, path)}
    except (FileNotFoundError, *DAMAGED):
        return {}


def _names(path: Path) -> set[str]:
    # Of the files in a zip, none of which is read; no names where it is damaged, which unpacking tells.
    try:
        with ZipFile(path) as bundle:
            return {info.filename for info in members(bundle, path)}
    except DAMAGED:
        return set()


def _copy(source: Path, target: Path) -> None:
    data = source.read_bytes()
    if not target.exists() or target.read_bytes() != data:
        with replacing(target) as temporary:
            temporary.write_bytes(data)


def _namesakes(training: Training | PublishedCheckpoint, folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob(f"{training.name}-*.zip")):
        run = _NAME.fullmatch(path.stem)
        if run and run["run"] == training.name and run["fingerprint"] != training.fingerprint:
            yield path


def _cost_files(profile: Profile, store: Store) -> dict[str, Path]:
    """Where the times of steps lie, by backbone, of the pairs that have been measured."""
    return {
        backbone: cost_file(profile, pair, store)
        for backbone, pair in timed_pairs(profile).items()
        if all(is_measured(profile.evaluations[run], store) for run in pair)
    }


def _kept_times(path: Path) -> str:
    return f"costs-{path.name}"


def unpack_runs(profile: Profile, store: Store, reports: Path) -> Iterator[str]:
    """Put kept runs into the store, and say of each what became of it; those that lie there already stay.

    Raises UsageError where none was kept, or none of this configuration and data, DownloadError for a damaged zip.
    """
    folder = reports / profile.report_name / FOLDER
    kept = sorted(folder.glob("*.zip"))
    if not kept:
        raise UsageError(f"{folder}: holds no kept runs; make pack keeps those that were measured")
    needed = _needed(profile, store)
    if not any(path.stem in needed for path in kept):
        raise UsageError(
            f"{folder}: none of its {len(kept)} kept runs is of this data and configuration; give DATA, CLASSES, "
            "BACKBONE, BACKBONE_WEIGHTS and BATCH as when they were packed, or run the version that packed them"
        )
    target = store.runs / profile.name
    with in_turn(target):
        remove_leftovers(target)
        for path in kept:
            yield f"{path.stem}: {_unpacked(path, profile, target, needed)}"
        for place in _cost_files(profile, store).values():
            if (folder / _kept_times(place)).exists() and not place.exists():
                _copy(folder / _kept_times(place), place)


def _needed(profile: Profile, store: Store) -> dict[str, dict[str, str]]:
    """The folder of each training of a profile, and in it the marker of each of its tests, with the test's name."""
    needed: dict[str, dict[str, str]] = {}
    for run in profile.evaluations.values():
        marker = run.directory(store.runs) / _MARKER
        own = needed.setdefault(run.training.directory(store.runs).name, {})
        own[marker.relative_to(run.training.directory(store.runs).parent).as_posix()] = run.name
    return needed


def _unpacked(path: Path, profile: Profile, target: Path, needed: dict[str, dict[str, str]]) -> str:
    """Unpack one run where it is needed and not there; what became of it, in words."""
    if path.stem not in needed:
        run = _NAME.fullmatch(path.stem)
        is_asked = run is not None and run["run"] in profile.evaluations
        return "left, kept of another configuration or other data" if is_asked else "left, not asked for (SEEDS?)"
    path.open("rb").close()  # one that may not be read is named
    names, tests = _names(path), needed[path.stem]
    missing = [name for marker, name in tests.items() if marker not in names]
    if names and len(missing) == len(tests):
        return "left, tested by another version of this program"
    place = target / path.stem
    if place.exists() and any(place.iterdir()):
        return "is there already"
    with alone_at(place):  # nobody begins to train it meanwhile
        try:
            num_files = unpack(path, path.stem, target, is_fetched=False, progress=False)
        finally:
            with suppress(OSError):  # it holds something, and stays
                place.rmdir()
    without = f"; without its test {', '.join(missing)}, which needs a training" if missing else ""
    return f"unpacked, {num_files} files{without}"


MODEL_COLUMNS = ("file", "run", "fingerprint", "detector", "step", "parameters", "bytes", "ap", "low", "high")


def write_models(profile: Profile, store: Store, stem: Path) -> None:
    """Write the example models into the folder `stem`, FreeAnchor's snapshots beside it, and `stem`.csv.

    AP, of the finished models before rounding, is that of their run. What was not run is not there. Of a run that was
    unpacked, without weights, the files of an earlier report stay, where that was of the same measurement.
    """
    evidence, listing = Evidence(profile, store), stem.with_suffix(".csv")
    rows: list[dict[str, Any]] = []
    for run in profile.examples:
        training = profile.evaluations[run].training
        if not (evidence.is_done(run) and isinstance(training, Training)):
            continue
        measured = measurements(profile.evaluations[run], store)
        ap = measured.loc[measured["metric"] == "ap", ["value", "low", "high"]].to_numpy()[0].tolist()
        quality = dict(zip(("ap", "low", "high"), ap, strict=True))
        stages = _model_files(training, store)
        if all(source.exists() for _, source in stages):
            rows += [_model_row(stem, training, step, source, quality) for step, source in stages]
        elif listing.exists():
            rows += _earlier_rows(pd.read_csv(listing), training, quality["ap"])
    write_csv(listing, pd.DataFrame(rows, columns=list(MODEL_COLUMNS)))


def _model_row(stem: Path, training: Training, step: int, source: Path, quality: dict[str, float]) -> dict[str, Any]:
    """Write one model file, rounded to half precision, which makes it small; its line of the list."""
    is_finished = step == training.recipe.num_steps
    name = f"{training.name}/model.safetensors" if is_finished else f"{training.name}/step-{step:06d}.safetensors"
    tensors, detector = read_model(source)
    halved = {key: it.half() if it.is_floating_point() else it for key, it in tensors.items()}
    save_tensors(stem / name, halved, describe(detector))
    return {
        "file": f"{stem.name}/{name}",
        "run": training.name,
        "fingerprint": training.fingerprint,
        "detector": training.detector,
        "step": step,
        "parameters": sum(it.numel() for it in tensors.values() if it.dtype == torch.float32),
        "bytes": (stem / name).stat().st_size,
        **(quality if is_finished else {}),
    }


def _earlier_rows(listing: pd.DataFrame, training: Training, ap: float) -> list[dict[str, Any]]:
    """A run's lines of an earlier list; none where its files are of other weights than were measured."""
    own = listing[(listing["run"] == training.name) & (listing["fingerprint"] == training.fingerprint)]
    is_same = bool(np.isclose(own["ap"].dropna(), ap, rtol=0, atol=1e-9).any())
    return [{str(key): it for key, it in row.items()} for row in own.to_dict("records")] if is_same else []


def _model_files(training: Training, store: Store) -> list[tuple[int, Path]]:
    """(step, file) of the finished model and, of a FreeAnchor, of what it was at its snapshots."""
    directory = training.directory(store.runs)
    end = (training.recipe.num_steps, directory / "model.safetensors")
    if training.detector != "FreeAnchor":
        return [end]
    steps = [step for step in training.recipe.snapshot_steps if step < end[0]]
    return [*((step, directory / "snapshots" / f"step-{step:06d}.safetensors") for step in sorted(steps)), end]


REPORTS = (
    Report(
        name="models",
        title="Two small trained models, kept with the reports",
        runs=lambda profile: profile.examples,
        is_extra=True,
        build=write_models,
    ),
)
