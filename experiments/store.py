"""Where things lie: runs, drawn data sets, the user's own data folder.

store = Store(folder=Path("photos"))
store.data(training)
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.config import DrawnData, Training


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where things lie: the run store, the folder of drawn data sets, and the user's own data folder, if any."""

    runs: Path = Path("runs")
    drawn: Path = Path("data")
    folder: Path | None = None

    def data(self, training: Training) -> Path:
        """The data folder of a training."""
        if isinstance(training.data, DrawnData):
            return training.data.directory(self.drawn)
        if self.folder is None:
            raise ValueError(f"{training.name} needs its data folder; give it with DATA=DIR (or --data DIR)")
        return self.folder
