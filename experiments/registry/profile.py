"""What a profile is: its data, its runs by name, the rows of its tables, what is compared and what is varied.

profile.evaluations["freeanchor-small-s0"].training
[variant(training, FACTORS[0], value) for value in FACTORS[0].others]       # Sec. 4.3
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.registry.config import DataSource, Evaluation, FolderData, Training
from experiments.registry.methods import MethodRuns
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

Value = float | str


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One field of `FreeAnchorLoss` and the values tried; `symbol` is the paper's, or ours where it has none.

    `repeated` are the values that are trained with every seed; the others have the first alone.
    """

    symbol: str
    label: str
    field: str
    values: tuple[Value, ...]
    is_papers: bool = True  # whether Sec. 4.3 names these values
    repeated: tuple[Value, ...] = ()

    @property
    def default(self) -> Value:
        """The value of the runs in the tables."""
        value: Value = getattr(FreeAnchorLoss(), self.field)
        return value

    @property
    def others(self) -> tuple[Value, ...]:
        """The values that need runs of their own."""
        return tuple(value for value in self.values if value != self.default)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One value of one factor and the runs that have it, one per seed."""

    factor: Factor
    value: Value
    runs: tuple[str, ...]

    @property
    def run(self) -> str:
        """The run with the first seed."""
        return self.runs[0]

    def pairs_with(self, default: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """(the default's run, this value's) of every seed that both have."""
        return tuple(zip(default, self.runs, strict=False))


FACTORS = (
    Factor(symbol="n", label="Anchor bag size n", field="bag_size", values=(40, 50, 60, 100)),
    Factor(symbol="t", label="Background IoU threshold t", field="match_iou", values=(0.5, 0.6, 0.7)),
    Factor(symbol="alpha", label="Focal balance α", field="alpha", values=(0.25, 0.5, 0.75)),
    Factor(symbol="gamma", label="Focal exponent γ", field="gamma", values=(1.5, 2.0, 2.5)),
    # The paper names 0.75 alone; the values beside it are ours.
    Factor(symbol="beta", label="Box weight β", field="box_weight", values=(0.5, 0.75, 1.0)),
    Factor(symbol="likelihood", label="Likelihood of a bag", field="likelihood", is_papers=False,
           values=("mean-max", "detached", "max")),
    Factor(symbol="excuse", label="Anchors excused from background", field="excuse", is_papers=False,
           values=("per-class", "per-anchor", "none")),
)  # fmt: skip


def _suffix(factor: Factor, value: Value) -> str:
    """How a run's name tells its variant: n40, t0.5, max, excuse-none."""
    if not isinstance(value, str):
        return f"{factor.symbol}{value:g}"
    return "excuse-none" if value == "none" else value


def variant(training: Training, factor: Factor, value: Value) -> Training:
    """The training with one field of its loss changed; a name with `-s<seed>` at its end gets the variant before."""
    stem, _, seed = training.name.rpartition("-")
    loss = replace(training.recipe.loss, **{factor.field: value})  # type: ignore[arg-type]
    return replace(training, name=f"{stem}-{_suffix(factor, value)}-{seed}", recipe=replace(training.recipe, loss=loss))


def ablations_of(usual: list[Training], factors: tuple[Factor, ...]) -> list[tuple[Ablation, list[Training]]]:
    """Every value of every factor with the trainings that have it; the default's are `usual`, one per seed."""
    found = []
    for factor in factors:
        for value in factor.values:
            trainings = usual
            if value != factor.default:
                seeds = usual if value in factor.repeated else usual[:1]
                trainings = [variant(training, factor, value) for training in seeds]
            names = tuple(training.name for training in trainings)
            found.append((Ablation(factor=factor, value=value, runs=names), trainings))
    return found


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
class Cell:
    """A detector on one anchor grid with one bag size (nan for RetinaNet, which has none); its runs, one per seed."""

    grid: str
    detector: str
    bag_size: float
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that is run and reported at one size.

    `comparisons` has, for each backbone, the runs to compare: a pair a seed, RetinaNet first; the first backbone's are
    the figures'. `demo` are the runs that a demonstration waits for; `trials` the baseline at each learning rate that
    was tried; `ablations` each value of Sec. 4.3 with its runs; `grids` both detectors on two anchor grids, FreeAnchor
    with two bag sizes; `methods` every method of assignment, the paper's two first; `examples` two small models to
    commit; `zoo` other people's checkpoints, evaluated here; `on_request` the reports whose runs are made only when
    asked for by name; `variant` what tells its reports from others on the same data.
    """

    name: str
    data: DataSource
    evaluations: dict[str, Evaluation]
    tables: dict[str, tuple[Row, ...]]
    comparisons: dict[str, tuple[Pair, ...]] = field(default_factory=dict)
    demo: tuple[str, ...] = ()
    trials: tuple[str, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    grids: tuple[Cell, ...] = ()
    methods: tuple[MethodRuns, ...] = ()
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
    def has_papers_pair(self) -> bool:
        """Whether these are the paper's two detectors, and not two other methods (`COMPARE`)."""
        detectors = tuple(self.evaluations[run].training.detector for run in self.pair) if self.pairs else ()
        return not detectors or detectors == tuple(DETECTORS)

    def default_runs(self, factor: Factor) -> tuple[str, ...]:
        """The runs with the factor's default, one per seed; none where the factor is not varied."""
        found = (one.runs for one in self.ablations if one.factor == factor and one.value == factor.default)
        return next(found, ())

    @property
    def report_name(self) -> Path:
        """Folder of its reports under `reports/`: one per variant and, for the user's own data, per data set."""
        title = self.data.title if isinstance(self.data, FolderData) else ""
        return Path(self.name) / "-".join(filter(None, (title, self.variant)))
