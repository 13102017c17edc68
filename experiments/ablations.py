"""What Sec. 4.3 varies, and what it leaves out: one field of FreeAnchor's loss at a time, all else as in the tables.

Each factor's values include the default, whose run is the one that the tables show: it is not trained twice. All runs
have seed 0, so that a variant and the default differ in that one field.

    [variant(training, FACTORS[0], value) for value in FACTORS[0].others]
"""

from dataclasses import dataclass, replace

from experiments.config import Training
from freeanchor.losses.free_anchor import FreeAnchorLoss

Value = float | str


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One field of `FreeAnchorLoss` and the values tried; `symbol` is the paper's, or ours where it has none."""

    symbol: str
    label: str
    field: str
    values: tuple[Value, ...]
    is_papers: bool = True  # whether Sec. 4.3 names these values

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
    """One value of one factor and the run that has it."""

    factor: Factor
    value: Value
    run: str


FACTORS = (
    Factor(symbol="n", label="Anchor bag size n", field="bag_size", values=(40, 50, 60, 100)),
    Factor(symbol="t", label="Background IoU threshold t", field="match_iou", values=(0.5, 0.6, 0.7)),
    Factor(symbol="alpha", label="Focal balance α", field="alpha", values=(0.25, 0.5, 0.75)),
    Factor(symbol="gamma", label="Focal exponent γ", field="gamma", values=(1.5, 2.0, 2.5)),
    # The paper names 0.75 alone; the values beside it are ours.
    Factor(symbol="beta", label="Box weight β", field="box_weight", values=(0.5, 0.75, 1.0)),
    Factor(
        symbol="likelihood",
        label="Likelihood of a bag",
        field="likelihood",
        values=("mean-max", "detached", "max"),
        is_papers=False,
    ),
    Factor(
        symbol="excuse",
        label="Anchors excused from background",
        field="excuse",
        values=("per-class", "per-anchor", "none"),
        is_papers=False,
    ),
)


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


def ablations_of(training: Training, factors: tuple[Factor, ...]) -> list[tuple[Ablation, Training]]:
    """Every value of every factor with the training that has it; the default's is `training` itself."""
    return [
        (Ablation(factor=factor, value=value, run=changed.name), changed)
        for factor in factors
        for value in factor.values
        for changed in [training if value == factor.default else variant(training, factor, value)]
    ]
