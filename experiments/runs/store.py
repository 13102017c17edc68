"""Where runs, data and weights lie, what is done, and where a number comes from.

store = Store(folder=Path("photos"))
store.data(training)
is_trained(training, store)
provenance()     # commit, versions, hardware, time: a dict, ready for json

A stage writes its marker last. A marker is read and not only seen: one that is empty or damaged, as some file systems
leave after a power cut, is neither a finished stage nor an unfinished one, and is told of.
"""

import io
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.api.types import is_numeric_dtype

from experiments.registry.config import CocoData, Evaluation, PublishedCheckpoint, Training
from freeanchor.errors import CheckpointError, DataError, FileError, brief, is_number
from freeanchor.files import load_json
from freeanchor.runtime import processor_name


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where things lie: runs, synthetic data sets, downloaded weights, the user's own data folder and backbone weights.

    Reports show the data set's `images` unless their licence is not for that; `credit` says whose they are.
    """

    runs: Path = Path("runs")
    drawn: Path = Path("data")
    downloads: Path = Path("downloads")
    folder: Path | None = None
    backbone_weights: Path | None = None
    images: bool = True
    credit: str = ""

    def data(self, training: Training | PublishedCheckpoint) -> Path:
        """The data folder of a training."""
        if not isinstance(training.data, CocoData) and training.data.is_made:
            return training.data.directory(self.drawn)
        if self.folder is None and isinstance(training.data, CocoData):
            return self.drawn / "coco"
        if self.folder is None:
            raise DataError(f"{training.name} needs its data folder; give it with DATA=DIR (or --data DIR)")
        return self.folder

    def network(self, training: Training | PublishedCheckpoint) -> Path:
        """Where training, or fetching, leaves a run's weights; they may not be there, or no more."""
        return training.directory(self.runs) / "model.safetensors"

    def weights(self, training: Training | PublishedCheckpoint) -> Path:
        """A run's weights; raises CheckpointError where they are gone."""
        if not self.network(training).exists():
            raise self.gone(training, "its weights")
        return self.network(training)

    def gone(self, training: Training | PublishedCheckpoint, what: str) -> CheckpointError:
        """The error for what a run needs and has no more: unpacked runs come without weights and snapshots."""
        again = "fetch" if isinstance(training, PublishedCheckpoint) else "train"
        return CheckpointError(
            f"{training.directory(self.runs)}: {what} are not there (unpacked runs come without them); remove the "
            f"folder to {again} it again"
        )


TRAINED = ("seconds", "images_per_second", "precision", "fingerprint", "provenance")  # of train.json
TESTED = ("num_pictures", "num_candidates")  # of predict.json
MEASURED = ("metric", "value", "low", "high")  # of measurements.csv
NUMBERS = {"seconds", "images_per_second", *TESTED, "value", "low", "high", "step", "round"}  # in whichever they are


def _damaged(path: Path, what: str) -> DataError:
    is_of_test = (path.parent.parent / "train.json").exists()  # whose files are made together
    return DataError.at(
        path, f"damaged ({what})", f"remove {path.parent if is_of_test else 'it'}, and the same command makes it again"
    )


def stored_record(path: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """What a stage left as json; raises DataError where it is damaged: no object with the `needed` fields."""
    try:
        content = load_json(path)
    except FileError as error:
        raise _damaged(path, error.what) from None
    missing = [name for name in needed if not isinstance(content, dict) or name not in content]
    if missing or not isinstance(content, dict):
        raise _damaged(path, f"it has no {', '.join(missing) or 'fields'}")
    if odd := [name for name in NUMBERS & content.keys() if not (content[name] is None or is_number(content[name]))]:
        raise _damaged(path, f"{odd[0]} is {brief(content[odd[0]])}")
    return content


def stored_frame(path: Path, needed: Iterable[str] = (), **options: Any) -> pd.DataFrame:
    """What a stage left as csv, read with these `options` of pandas; raises DataError where it is damaged.

    Whole files have the `needed` columns, and their last line ends.
    """
    try:
        frame = pd.read_csv(io.BytesIO(_whole_lines(path)), **options)
    except ValueError as error:  # of pandas, about an empty file or lines of other lengths; of bytes that are no UTF-8
        raise _damaged(path, str(error)) from None
    if missing := [name for name in needed if name not in frame.columns]:
        raise _damaged(path, f"it has no column {', '.join(missing)}")
    if odd := [name for name in NUMBERS & set(frame.columns) if len(frame) and not is_numeric_dtype(frame[name])]:
        raise _damaged(path, f"its column {odd[0]} holds more than numbers")
    return frame


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.endswith(b"\n") or b"\0" in content:
        raise ValueError("its end is missing" if content else "it is empty")
    return content


def is_done(marker: Path, needed: Iterable[str], *, touched: bool = False) -> bool:
    """Whether a stage's marker is there; raises DataError where it is damaged.

    It is `touched` where asked for, so that Make sees it as younger than what it needs.
    """
    if not marker.exists():
        return False
    (stored_record if marker.suffix == ".json" else stored_frame)(marker, needed)
    if touched:
        marker.touch()
    return True


def trained_record(training: Training | PublishedCheckpoint, store: Store) -> dict[str, Any]:
    """What a training left of itself; raises DataError where that is damaged, or of another run."""
    path = training.directory(store.runs) / "train.json"
    record = stored_record(path, TRAINED)
    origin = record["provenance"]
    if not isinstance(origin, dict) or not {"commit", "date", "hardware"} <= origin.keys():
        raise _damaged(path, "it does not say where it comes from")
    if record["fingerprint"] != training.fingerprint:
        raise _damaged(path, f"it is of another run than {training.name}-{training.fingerprint}")
    return record


def is_trained(training: Training | PublishedCheckpoint, store: Store, *, touched: bool = False) -> bool:
    """Whether the training has ended, as `is_done` and `trained_record` see it."""
    is_ended = is_done(training.directory(store.runs) / "train.json", TRAINED, touched=touched)
    return is_ended and bool(trained_record(training, store))


def is_measured(evaluation: Evaluation, store: Store) -> bool:
    """Whether the run has been trained, tested and measured; raises DataError where its measurements are damaged."""
    path = evaluation.directory(store.runs) / "measurements.csv"
    if not path.exists():
        return False
    if stored_frame(path, MEASURED).empty:
        raise _damaged(path, "it has no rows")
    return True


ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "pandas", "matplotlib")


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def commit() -> str:
    """The commit checked out, marked where source files differ from it; "unknown" outside a repository."""
    head = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--", "freeanchor", "analysis", "experiments")
    return (f"{head}, changed" if changed else head) or "unknown"


def hardware(device: str) -> str:
    """The processor, or the GPU, that computes on `device`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} thread(s)"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # pycocotools, say, which training does without
        return "not installed"


def provenance(device: str = "cpu") -> dict[str, str]:
    """Commit, date, versions, system and hardware of this moment."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(device),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **{package: _version(package) for package in PACKAGES},
    }
