"""Measured runs kept as small files beside their reports: all that these are drawn from, without the weights.

Who unpacks them makes every table and figure again with nothing trained, or trains only what is missing: another seed,
another value of an ablation, on whatever machine.

    pack_runs(profile, store, Path("reports"))      # reports/shapes/kept/freeanchor-small-s0-0123456789.zip, …
    unpack_runs(profile, store, Path("reports"))    # runs/shapes/freeanchor-small-s0-0123456789/, …

A zip is named after its run's folder, whose name ends with the fingerprint of configuration and data: what was kept of
other data cannot be taken for a run of these.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from experiments.archive import remove_leftovers, unpack
from experiments.bag_boxes import bag_boxes_stage
from experiments.bag_frames import bags_stage
from experiments.config import PublishedCheckpoint, Training
from experiments.frames import is_measured
from experiments.locks import in_turn
from experiments.profiles import Profile
from experiments.store import Store
from experiments.training_cost import cost_file
from experiments.usage import UsageError
from freeanchor.writing import replacing

FOLDER = "kept"  # beside a profile's reports
_NAME = re.compile(r"(?P<run>.+)-(?P<fingerprint>[0-9a-f]+)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can tell: the same run gives the same bytes


def pack_runs(profile: Profile, store: Store, reports: Path) -> list[Path]:
    """Keep every measured run of a profile; the files, written anew only where what they hold has changed.

    Runs that are compared are asked about their bags first, should no report have done so. Zips of the same runs under
    other configurations or data are removed. Raises UsageError where nothing has been measured.
    """
    measured = [run for run in profile.evaluations.values() if is_measured(run, store)]
    if not measured:
        raise UsageError(f"{store.runs / profile.name}: none of the profile's runs is measured yet; run make first")
    for run in measured:
        if any(run.name in pair for pair in profile.pairs):
            bags_stage(run, store)
            bag_boxes_stage(run, store)
    folder = reports / profile.report_name / FOLDER
    packed = []
    for training in dict.fromkeys(run.training for run in measured):
        directory = training.directory(store.runs)
        tests = {run.directory(store.runs) for run in measured if run.training == training}
        packed.append(_pack(directory, sorted(_files(directory, tests)), folder))
        _remove_earlier(training, folder)
    return packed + [_copy(path, folder / path.name) for path in _cost_files(profile, store) if path.exists()]


def _files(directory: Path, tests: set[Path]) -> Iterator[Path]:
    """The files of a training and of its finished tests: all but weights and what is hidden."""
    for path in directory.rglob("*"):
        is_ours = path.parent == directory or path.parent in tests
        if path.is_file() and is_ours and path.suffix != ".safetensors" and not path.name.startswith("."):
            yield path


def _pack(directory: Path, files: list[Path], folder: Path) -> Path:
    """The zip of a run's files, each under the name of its folder."""
    target = folder / f"{directory.name}.zip"
    content = {path.relative_to(directory.parent).as_posix(): path.read_bytes() for path in files}
    if target.exists() and _content(target) == content:
        return target
    with replacing(target) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED, compresslevel=9) as bundle:
        for name, data in content.items():
            entry = ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = ZIP_DEFLATED, 0o644 << 16
            bundle.writestr(entry, data)
    return target


def _content(path: Path) -> dict[str, bytes] | None:
    """What a zip holds by name; None where it cannot be read."""
    try:
        with ZipFile(path) as bundle:
            return {name: bundle.read(name) for name in bundle.namelist()}
    except (BadZipFile, EOFError, NotImplementedError):
        return None


def _copy(source: Path, target: Path) -> Path:
    """A small file, written whole where it is not there as it is."""
    data = source.read_bytes()
    if not target.exists() or target.read_bytes() != data:
        with replacing(target) as temporary:
            temporary.write_bytes(data)
    return target


def _remove_earlier(training: Training | PublishedCheckpoint, folder: Path) -> None:
    """Remove the zips of a run of the same name under another fingerprint: the reports are not drawn from them."""
    for path in folder.glob(f"{training.name}-*.zip"):
        run = _NAME.fullmatch(path.stem)
        if run and run["run"] == training.name and run["fingerprint"] != training.fingerprint:
            path.unlink()


def _cost_files(profile: Profile, store: Store) -> list[Path]:
    """Where the times of the compared pairs' steps lie."""
    return [cost_file(profile, pairs[0], store) for pairs in profile.comparisons.values()]


def unpack_runs(profile: Profile, store: Store, reports: Path) -> Iterator[str]:
    """Put kept runs into the store, and say of each what became of it; those that lie there already stay.

    Raises UsageError where none was kept, or none of this configuration and data, DownloadError for a damaged zip.
    """
    folder = reports / profile.report_name / FOLDER
    kept = sorted(folder.glob("*.zip"))
    if not kept:
        raise UsageError(f"{folder}: holds no kept runs; make pack keeps those that were measured")
    known = {run.training.directory(store.runs).name for run in profile.evaluations.values()}
    if not any(path.stem in known for path in kept):
        raise UsageError(
            f"{folder}: none of its {len(kept)} kept runs is of this configuration and data; is DATA (with CLASSES, "
            "BACKBONE, BACKBONE_WEIGHTS) what they were made from?"
        )
    target = store.runs / profile.name
    with in_turn(target):
        remove_leftovers(target)
        for path in kept:
            yield f"{path.stem}: {_unpacked(path, profile, target, known)}"
        for place in _cost_files(profile, store):
            if (folder / place.name).exists() and not place.exists():
                _copy(folder / place.name, place)


def _unpacked(path: Path, profile: Profile, target: Path, known: set[str]) -> str:
    """Unpack one run where it is known and not there; what became of it, in words."""
    if path.stem not in known:
        run = _NAME.fullmatch(path.stem)
        is_asked = run is not None and run["run"] in profile.evaluations
        return "left, kept of another configuration or other data" if is_asked else "left, not asked for (SEEDS?)"
    if (target / path.stem).exists():
        return "is there already"
    return f"unpacked, {unpack(path, path.stem, target, is_fetched=False, progress=False)} files"
