"""Where runs, data and weights lie, what is done, and where a number comes from.

store = Store(folder=Path("photos"))
store.data(training)
provenance()     # commit, versions, hardware, time: a dict, ready for json
"""

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from experiments.registry.config import CocoData, Evaluation, PublishedCheckpoint, Training
from freeanchor.errors import CheckpointError
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
            raise ValueError(f"{training.name} needs its data folder; give it with DATA=DIR (or --data DIR)")
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


def is_done(marker: Path) -> bool:
    """Whether a stage's marker is there; it is touched then, so that Make sees it as younger than what it needs."""
    if not marker.exists():
        return False
    marker.touch()
    return True


def is_measured(evaluation: Evaluation, store: Store) -> bool:
    """Whether the run has been trained, tested and measured."""
    return (evaluation.directory(store.runs) / "measurements.csv").exists()


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


def provenance(device: str = "cpu") -> dict[str, str]:
    """Commit, date, versions, system and hardware of this moment."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(device),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **{package: version(package) for package in PACKAGES},
    }
