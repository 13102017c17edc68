"""What a profile is: data, every run by name, the rows of the tables, and which two runs are compared.

The profiles themselves are made in `registry.py` (drawn scenes, a user's photographs) and `coco.py`.

    profile.evaluations["freeanchor-small-s0"].training
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from experiments.ablations import Ablation
from experiments.config import DataSource, Evaluation, FolderData
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

# The only differences between the two detectors: the loss, and rho of Sec. 4.1 (0.01 is RetinaNet's own).
DETECTORS: dict[str, tuple[RetinaNetLoss | FreeAnchorLoss, float]] = {
    "RetinaNet": (RetinaNetLoss(), 0.01),
    "FreeAnchor": (FreeAnchorLoss(), 0.02),
}
SNAPSHOTS = (0.02, 0.1, 0.3, 1.0)  # fractions of training at which matching is looked at (Fig. 4)


PEER = "retinanet-small-torchvision-s0"  # RetinaNet with torchvision's own loss, where a profile has it
Pair = tuple[str, str]  # names of a RetinaNet's run and a FreeAnchor's, alike in everything else


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table: the paper's row it stands beside, and the runs, one a seed, that measure it here.

    `runs` is empty for rows that only the paper has. `published` is the paper's (detector, backbone), if any.
    """

    detector: str
    schedule: str = ""
    variant: str = ""
    published: tuple[str, str] | None = None
    published_in: str = ""  # where, if not in the paper's table of the same number: "readme"
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that is run and reported at one size.

    `comparisons` has, for each backbone, the runs to compare: a pair a seed, RetinaNet first; the first backbone's are
    the figures'. `demo` are the runs that a demonstration waits for; `trials` the baseline at each learning rate that
    was tried; `ablations` each value of Sec. 4.3 with its run; `examples` two small models to commit; `zoo` other
    people's checkpoints, evaluated here; `on_request` the reports whose runs are made only when asked for by name;
    `variant` what tells its reports from others on the same data.
    """

    name: str
    data: DataSource
    evaluations: dict[str, Evaluation]
    tables: dict[str, tuple[Row, ...]]
    comparisons: dict[str, tuple[Pair, ...]] = field(default_factory=dict)
    demo: tuple[str, ...] = ()
    trials: tuple[str, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    examples: tuple[str, ...] = ()
    zoo: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    variant: str = ""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of runs that the figures compare, one a seed."""
        return next(iter(self.comparisons.values()), ())

    @property
    def pair(self) -> Pair:
        """The first of them, which Figs. 1 and 4 show."""
        return self.pairs[0]

    @property
    def report_name(self) -> Path:
        """Folder of its reports under `reports/`: for the user's own data, one a data set and variant."""
        if not isinstance(self.data, FolderData):
            return Path(self.name)
        return Path(self.name) / "-".join(filter(None, (self.data.title, self.variant)))


def compared_runs(backbones: Iterable[str], num_seeds: int) -> dict[str, tuple[Pair, ...]]:
    """The runs of both detectors with the same seed, for each backbone."""
    return {
        backbone: tuple(
            (f"retinanet-{backbone}-s{seed}", f"freeanchor-{backbone}-s{seed}") for seed in range(num_seeds)
        )
        for backbone in backbones
    }
