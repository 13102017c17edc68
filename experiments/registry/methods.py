"""Methods of assignment beside the paper's two: their losses, their runs, and rules that users bring.

    method_trainings(usual, METHODS, num_seeds=3, rates={})     # of each method its runs and its trials of the rate
    own_method(Path("examples/nearest_centres.py"))             # an assigner of somebody's own, as one more method

Network, schedule and data are RetinaNet's; the loss differs, and the rate where a method was tried at others. The two
with one anchor per cell differ in the anchors, too: one square of twice the size, RetinaNet's 8 strides instead of 4.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from experiments.registry.config import NUM_DIGITS, Training
from freeanchor.detector.retinanet import ModelConfig
from freeanchor.errors import UsageError
from freeanchor.losses import ATSS, TAL, AssignedLoss, IoUThresholds, SimOTA, TaskAlignedLoss
from freeanchor.losses.assignment import Assigner, Predicted

RATES_TRIED = (0.5, 1.0, 2.0)  # of the recipe's learning rate, with seed 0


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method: `key` begins the names of its runs, `label` is its name in tables."""

    key: str
    label: str
    loss: AssignedLoss | TaskAlignedLoss
    has_one_anchor: bool = False  # per cell, instead of RetinaNet's nine


METHODS = (
    Method(key="atss", label="ATSS", loss=AssignedLoss(assigner=ATSS())),
    Method(key="simota", label="SimOTA", loss=AssignedLoss(assigner=SimOTA())),
    Method(key="tal", label="TAL", loss=AssignedLoss(assigner=TAL())),
    Method(key="tal-own", label="TAL, own targets", loss=TaskAlignedLoss()),
    Method(key="iou-one", label="IoU, one anchor", loss=AssignedLoss(assigner=IoUThresholds()), has_one_anchor=True),
    Method(key="atss-one", label="ATSS, one anchor", loss=AssignedLoss(assigner=ATSS()), has_one_anchor=True),
)


@dataclass(frozen=True, kw_only=True)
class MethodRuns:
    """A method's runs, one per seed, and by each share of the recipe's rate the run of seed 0 that tried it."""

    key: str
    label: str
    runs: tuple[str, ...]
    tried: Mapping[float, str]


def one_anchor(model: ModelConfig) -> ModelConfig:
    """The same network with one square anchor per cell, of twice the size of RetinaNet's smallest."""
    anchors = replace(
        model.anchors, num_octaves=1, ratios=(1.0,), sizes=tuple(2 * size for size in model.anchors.sizes)
    )
    return replace(model, anchors=anchors)


def method_trainings(
    usual: Callable[[int], Training],
    methods: Iterable[Method],
    *,
    num_seeds: int,
    rates: Mapping[str, float],
    tried: Sequence[float] = RATES_TRIED,
) -> list[tuple[MethodRuns, list[Training]]]:
    """Each method's runs and its trials; `usual(seed)` is RetinaNet's.

    `rates` has the share of RetinaNet's rate that a method learns at, 1 where it does not name the method. With one
    anchor per cell no rate is tried.
    """
    found = []
    for method in methods:
        factor = rates.get(method.key, 1.0)
        runs = [_training(usual(seed), method, factor) for seed in range(num_seeds)]
        shares = (factor,) if method.has_one_anchor else tried
        trials = {share: runs[0] if share == factor else _trial(usual(0), method, share) for share in shares}
        names = tuple(run.name for run in runs)
        described = MethodRuns(
            key=method.key, label=method.label, runs=names, tried={share: run.name for share, run in trials.items()}
        )
        found.append((described, [*runs, *(run for run in trials.values() if run not in runs)]))
    return found


def rate_trials(usual: Training, tried: Sequence[float] = RATES_TRIED) -> dict[float, Training]:
    """One of the paper's two at each rate, all else alike; 1 is itself."""
    return {
        share: usual if share == 1 else _at_rate(replace(usual, name=_named(usual.name, f"rate{share:g}")), share)
        for share in tried
    }


def _at_rate(training: Training, share: float) -> Training:
    return replace(training, recipe=replace(training.recipe, lr=training.recipe.lr * share))


def _named(name: str, suffix: str) -> str:
    stem, _, seed = name.rpartition("-")
    return f"{stem}-{suffix}-{seed}"


def _training(usual: Training, method: Method, share: float) -> Training:
    _, backbone = usual.name.split("-", 1)
    model = one_anchor(usual.model) if method.has_one_anchor else usual.model
    return _at_rate(
        replace(
            usual,
            name=f"{method.key}-{backbone}",
            detector=method.label,
            model=model,
            recipe=replace(usual.recipe, loss=method.loss),
        ),
        share,
    )


def _trial(usual: Training, method: Method, share: float) -> Training:
    training = _training(usual, method, share)
    return replace(training, name=_named(training.name, f"rate{share:g}"))


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """A user's assigner with a digest of its source: once that changes, its runs are others."""

    rule: Assigner
    digest: str

    def assign(
        self,
        anchors: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor | None = None,
        *,
        level_sizes: Sequence[int] = (),
        strides: Tensor | None = None,
        predictions: Predicted | None = None,
    ) -> Tensor:
        """What the rule says; raises UsageError where that is no assignment."""
        given: dict[str, Any] = {"level_sizes": level_sizes, "strides": strides, "predictions": predictions}
        found = self.rule.assign(anchors, gt_boxes, gt_labels, **given)
        name = type(self.rule).__name__
        if not isinstance(found, Tensor) or found.shape != (len(anchors),) or found.dtype != torch.int64:
            said = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(f"{name}.assign gave {said}; give int64 [{len(anchors)}], an object, -1 or -2 per anchor")
        if len(found) and not (int(found.min()) >= -2 and int(found.max()) < len(gt_boxes)):
            raise UsageError(
                f"{name}.assign gave {int(found.min())} to {int(found.max())} for {len(gt_boxes)} objects; give an "
                "object's index, -1 for background or -2 for ignored"
            )
        return found


def own_method(path: Path) -> Method:
    """The assigner in a file of a user's own, whose runs are called after the file.

    The file has one dataclass with a method `assign`, whose fields all have defaults. Raises UsageError where it has
    not; running the file is up to whoever names it.
    """
    try:
        source = path.read_bytes()
        ast.parse(source)
    except (OSError, SyntaxError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        if isinstance(error, SyntaxError):
            what = f"line {error.lineno}: {error.msg}"
        raise UsageError(f"{path}: no Python file that can be read ({what}); give the file of your assigner") from None
    module = _module(path)
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    rules: list[Any] = [kind for kind in own if is_dataclass(kind) and callable(getattr(kind, "assign", None))]
    if len(rules) != 1:
        raise UsageError(f"{path}: has {len(rules)} dataclasses with a method assign; give a file with one")
    try:
        rule = rules[0]()
    except TypeError as error:
        raise UsageError(f"{path}: {rules[0].__name__} cannot be made ({error}); give every field a default") from None
    digest = hashlib.sha256(source).hexdigest()[:NUM_DIGITS]
    key = path.stem.replace("_", "-").lower()
    if key in {method.key for method in METHODS} | {"retinanet", "freeanchor"}:
        raise UsageError(f"{path}: its runs would be called {key} as a method of ours is; rename the file")
    return Method(key=key, label=rules[0].__name__, loss=AssignedLoss(assigner=FromFile(rule=rule, digest=digest)))


def _module(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"own_assigner_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise UsageError(f"{path}: not a Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # whatever a user's file does
        raise UsageError(f"{path}: stops with {type(error).__name__}: {error}; repair the file") from None
    return module
