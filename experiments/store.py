"""Where things lie: runs, drawn data sets, the user's own data folder.

store = Store(folder=Path("photos"))
store.data(training)
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.registry.config import CocoData, PublishedCheckpoint, Training
from freeanchor.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where things lie: runs, drawn data sets, downloaded weights, the user's own data folder and backbone weights.

    Reports show the data set's `pictures` unless their licence is not for that; `credit` says whose they are.
    """

    runs: Path = Path("runs")
    drawn: Path = Path("data")
    downloads: Path = Path("downloads")
    folder: Path | None = None
    backbone_weights: Path | None = None
    pictures: bool = True
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
