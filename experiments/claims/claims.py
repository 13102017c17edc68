"""Each claim of the paper as a test over measured runs: our wording, where the paper makes it, how it is judged.

One measured value is judged by its 95 % interval alone. A claim's parts (the metrics of a family, the values tried of a
parameter) are judged one by one: a claim *holds* where all parts do, *does not hold* where one does not, is *not run*
where nothing was, and else *undecided*. The rules were written before the runs that they judge, but for seed 0 of both
detectors on both backbones (see REPRODUCING.md, *Results*).

    judge(claim.rule, list(claim.measure(evidence).values()))       # "holds"
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.claims.evidence import BagEvidence, Evidence, Measured, Parts, measured_cost
from experiments.claims.methods import alignment_gain, learners_by_size, method_gain
from experiments.registry.profile import FACTORS

HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
VERDICTS = (HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_RUN)


@dataclass(frozen=True)
class Rule:
    """The value lies between two bounds: holds if its whole interval does, does not hold if none of it does."""

    low: float = -math.inf
    high: float = math.inf

    def text(self, scale: float = 1.0) -> str:
        """The rule in words, its bounds times `scale` (100 for percent)."""
        if math.isinf(self.high):
            return f"interval above {scale * self.low:g}"
        return f"interval {'below ' if math.isinf(self.low) else 'within ±'}{scale * self.high:g}"

    def verdict(self, measured: Measured) -> str:
        """Of one value."""
        if self.low < measured.low and measured.high < self.high:
            return HOLDS
        return DOES_NOT_HOLD if measured.low > self.high or measured.high < self.low else UNDECIDED


def above(bound: float) -> Rule:
    """The value lies above a bound."""
    return Rule(low=bound)


def below(bound: float) -> Rule:
    """The value lies below a bound."""
    return Rule(high=bound)


def within(margin: float) -> Rule:
    """The value is as good as zero: within a margin on either side."""
    return Rule(low=-margin, high=margin)


def judge(rule: Rule, parts: Sequence[Measured | None]) -> str:
    """The verdict on all parts of a claim; None is a part that was not run."""
    verdicts = [NOT_RUN if part is None else rule.verdict(part) for part in parts]
    if DOES_NOT_HOLD in verdicts:
        return DOES_NOT_HOLD
    if all(verdict == HOLDS for verdict in verdicts) and verdicts:
        return HOLDS
    return NOT_RUN if all(verdict == NOT_RUN for verdict in verdicts) else UNDECIDED


PARITY = 0.01  # a point of AP: what we take "comparable" to mean
CHEAP = 1.10  # a tenth: what we take "negligible" to mean; the paper's own ratios are 1.05 and 1.04
CONCENTRATED = 2.0  # effective anchors below which one anchor outweighs all others of its bag
TABLE_1_METRICS = {f"nr_{tau}": f"0.{tau}" for tau in (50, 60, 70, 80, 90)}
TABLE_2_METRICS = {
    "ap_50": "AP50", "ap_75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium", "ap_large": "AP large"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim: `measure` gives its parts by name, each None where not run; `rule` judges each part.

    `unit`: "points" (fractions, shown in percent), "ratio", "anchors", or "diagonals" of the object.
    """

    id: str
    section: str
    wording: str
    paper: str  # its figure, as far as it gives one
    test: str
    measure: Callable[[Evidence], Parts]
    unit: str = "points"
    rule: Rule = Rule(low=0.0)

    @property
    def rule_text(self) -> str:
        """The rule in words, in points where its unit is."""
        return self.rule.text(100 if self.unit == "points" else 1)

    def head(self) -> dict[str, str]:
        """What all rows of a csv say of it, by column."""
        texts = {"id": self.id, "section": self.section, "claim": self.wording, "paper": self.paper, "test": self.test}
        return {**texts, "rule": self.rule_text, "unit": self.unit}


def _gain(metric: str, backbone: int = 0) -> Callable[[Evidence], Parts]:
    """FreeAnchor minus RetinaNet in one metric, on the first or the second backbone."""

    def measure(evidence: Evidence) -> Parts:
        pairs = list(evidence.profile.comparisons.values())
        return {"": evidence.gain(pairs[backbone], metric) if backbone < len(pairs) else None}

    return measure


def _gains(metrics: Mapping[str, str]) -> Callable[[Evidence], Parts]:
    return lambda evidence: {name: evidence.gain(evidence.profile.pairs, metric) for metric, name in metrics.items()}


def _others(symbol: str) -> Callable[[Evidence], Parts]:
    """AP of each other value of a factor minus the default's; only where the values are the paper's."""

    def measure(evidence: Evidence) -> Parts:
        ablations = [one for one in evidence.profile.ablations if one.factor.symbol == symbol and one.factor.is_papers]
        gains = {}
        for one in ablations:
            default = evidence.profile.default_runs(one.factor)
            if one.runs != default:
                label = one.value if isinstance(one.value, str) else f"{symbol} = {one.value:g}"
                gains[label] = evidence.gain(one.pairs_with(default), "ap")
        return gains

    return measure


def _step(first: str, second: str) -> Callable[[Evidence], Parts]:
    """AP of one of Table 3's runs minus another's, on each backbone that has them."""

    def measure(evidence: Evidence) -> Parts:
        runs = evidence.profile.evaluations
        names = [name for name in runs if name.startswith("free") and name.endswith(f"{second}-s0")]
        others = {name: f"{name.removesuffix(f'{second}-s0')}{first}-s0" for name in names}
        return {
            runs[name].training.backbone_label: evidence.difference(other, name, "ap")
            for name, other in others.items()
            if other in runs
        }

    return measure


def _parameter_claim(symbol: str, paper: str) -> Claim:
    factor = next(factor for factor in FACTORS if factor.symbol == symbol)
    return Claim(
        id=f"best-{symbol}",
        section="4.3",
        wording=f"{factor.label}: {factor.default:g} is the best of the values tried",
        paper=paper,
        test="AP with each other value minus AP with the default, seed 0 or all seeds that the value has",
        rule=below(0.0),
        measure=_others(symbol),
    )


CLAIMS = (
    Claim(
        id="ap-small", section="4.4, Table 2", measure=_gain("ap"),
        wording="FreeAnchor beats RetinaNet in AP",
        paper="+3.0 (35.7 to 38.7, ResNet-50)",
        test="AP of FreeAnchor minus AP of RetinaNet, small backbone",
    ),
    Claim(
        id="ap-large", section="4.4, Table 2", measure=_gain("ap", backbone=1),
        wording="FreeAnchor beats RetinaNet in AP on a deeper backbone too",
        paper="+3.1 (37.8 to 40.9, ResNet-101)",
        test="AP of FreeAnchor minus AP of RetinaNet, large backbone",
    ),
    Claim(
        id="ap-family", section="4.4, Table 2", measure=_gains(TABLE_2_METRICS),
        wording="The gain is consistent at IoU 0.50 and 0.75, for small, medium and large objects",
        paper="+2.3, +3.1; +1.3, +2.4, +3.8",
        test="each metric's difference, small backbone",
    ),
    Claim(
        id="cost", section="4.4, Table 2", measure=measured_cost, unit="ratio", rule=below(CHEAP),
        wording="Training costs hardly more",
        paper="1.05 and 1.04 times RetinaNet's time",
        test="time of a training step, FreeAnchor's over RetinaNet's, steps of both in turn; negligible: below 1.10",
    ),
    Claim(
        id="nms-recall", section="4.2, Table 1", measure=_gain("nr"),
        wording="FreeAnchor's candidates are more compatible with NMS, on average over IoU thresholds",
        paper="NR +2.0 (81.8 to 83.8)",
        test="NR of FreeAnchor minus NR of RetinaNet, by the authors' definition",
    ),
    Claim(
        id="nms-recall-all", section="4.2, Table 1", measure=_gains(TABLE_1_METRICS),
        wording="NMS recall is higher at every IoU threshold",
        paper="+0.9, +1.8, +2.5, +2.5, +1.8",
        test="NR of FreeAnchor minus NR of RetinaNet, at each threshold that the paper prints",
    ),
    Claim(
        id="slender", section="4.2, Fig. 5", measure=_gain("ap_slender"),
        wording="FreeAnchor is better on slender objects",
        paper="a figure without numbers",
        test="AP on objects of 3:1 and beyond, FreeAnchor minus RetinaNet",
    ),
    Claim(
        id="square", section="4.2, Fig. 5", measure=_gain("ap_square"), rule=within(PARITY),
        wording="On square objects the two are comparable",
        paper="a figure without numbers",
        test="AP on objects up to 4:3, FreeAnchor minus RetinaNet; comparable: within a point",
    ),
    Claim(
        id="slender-more", section="4.2, Fig. 5", measure=_gain("ap_slender_minus_square"),
        wording="The gain is larger on slender than on square objects",
        paper="a figure without numbers",
        test="gain on slender objects minus gain on square objects",
    ),
    Claim(
        id="crowdedness", section="4.2, Fig. 6", measure=_gain("ap_crowded_minus_sparse"),
        wording="The gain grows with the number of objects in an image",
        paper="a figure without numbers",
        test="gain in images of 13 or more objects minus gain in images of 1 to 3",
    ),
    Claim(
        id="mean-at-first", section="3.3, Fig. 3", unit="anchors", rule=below(0.0),
        measure=lambda evidence: BagEvidence(evidence).concentration(),
        wording="Mean-max moves from the mean towards the max as training goes on",
        paper="in words",
        test="effective anchors of a bag at the end of training minus those at its first snapshot, mean over objects",
    ),
    Claim(
        id="max-in-the-end", section="3.3, Fig. 3", unit="anchors", rule=below(CONCENTRATED),
        measure=lambda evidence: BagEvidence(evidence).effective_at_the_end(),
        wording="In the end a single best anchor can be selected from a bag",
        paper="in words",
        test="effective anchors of a bag at the end, mean over objects; single: below 2",
    ),
    Claim(
        id="nearer-to-the-part", section="1 and 4.2, Figs. 1 and 4", unit="diagonals",
        measure=lambda evidence: BagEvidence(evidence).nearer_to_the_part(),
        wording="For acentric objects learned matching prefers anchors nearer to the discriminative part than IoU does",
        paper="images without numbers",
        test="acentric objects: distance from the part to the highest-IoU anchor, minus that to the learned one",
    ),
    Claim(
        id="farther-from-the-centre", section="1 and 4.2, Figs. 1 and 4", unit="diagonals",
        measure=lambda evidence: BagEvidence(evidence).farther_from_the_centre(),
        wording="For acentric objects learned matching is not bound to the centre: its anchors lie farther from it",
        paper="images without numbers",
        test="acentric objects: distance from the centre to the learned anchor, minus that to the highest-IoU one",
    ),
    Claim(
        id="nearer-than-retinanet", section="1 and 4.2, Figs. 1 and 4", unit="diagonals",
        measure=lambda evidence: BagEvidence(evidence).nearer_than_the_baseline(),
        wording="For acentric objects FreeAnchor's best-scoring anchor is nearer to the discriminative part than "
        "RetinaNet's",
        paper="implied: RetinaNet is the counterpart of Figs. 1 and 4",
        test="acentric objects: distance from the part to RetinaNet's best-scoring anchor, minus that to FreeAnchor's",
    ),
    _parameter_claim("n", "50 of 40, 50, 60, 100; no numbers"),
    _parameter_claim("t", "0.6 of 0.5, 0.6, 0.7; no numbers"),
    _parameter_claim("alpha", "0.5 of 0.25, 0.5, 0.75; no numbers"),
    _parameter_claim("gamma", "2.0 of 1.5, 2.0, 2.5; no numbers"),
    _parameter_claim("beta", "0.75; neither other values nor numbers"),
    Claim(
        id="longer", section="4.4, Table 3", measure=_step("", "-2x"),
        wording="Twice the schedule with scale jitter adds AP",
        paper="+2.2 (40.9 to 43.1, ResNet-101)",
        test="AP of the doubled schedule with jitter minus AP of the single one without, large backbone, seed 0",
    ),
    Claim(
        id="wider-jitter", section="4.4, Table 3", measure=_step("-2x", "-2x-wide"),
        wording="A wider range of scales in training adds AP",
        paper="+1.1 (44.9 to 46.0, ResNeXt-101); +0.8 (ResNet-101, authors' README)",
        test="AP with wide jitter minus AP with the usual jitter, seed 0",
    ),
    Claim(
        id="multi-scale", section="4.4, Table 3", measure=_step("-2x-wide", "-2x-wide-multiscale"),
        wording="Testing at six scales adds AP",
        paper="+1.3 (46.0 to 47.3, ResNeXt-101); +1.3 (ResNet-101, authors' README)",
        test="AP at six scales minus AP at one, the same trained model",
    ),
    Claim(
        id="atss-gap", section="ATSS, Discussion", measure=method_gain("atss", "atss-one", "ap"), rule=within(PARITY),
        wording="Under ATSS one anchor per cell is as good as nine: the gap to anchor-free detectors closes",
        paper="39.3 and 39.2 AP (one anchor and nine, ResNet-50)",
        test="AP of ATSS with one anchor per cell minus AP with nine; as good: within a point",
    ),
    Claim(
        id="atss-one-anchor", section="ATSS, Table 2", measure=method_gain("iou-one", "atss-one", "ap"),
        wording="With one anchor per cell ATSS beats IoU thresholds",
        paper="+2.3 (37.0 to 39.3, ResNet-50)",
        test="AP of ATSS minus AP of IoU thresholds, both with one anchor per cell",
    ),
    Claim(
        id="tal-aligns", section="TOOD, task alignment", unit="ratio",
        measure=alignment_gain({"tal": "assignment alone", "tal-own": "with its targets"}),
        wording="TAL aligns scores and boxes: the higher a detection scores, the better its box",
        paper="Pearson correlations of score and IoU rise",
        test="rank correlation of score and IoU over detections that find an object, TAL minus RetinaNet",
    ),
    Claim(
        id="simota-k", section="YOLOX, Sec. 2.1", unit="ratio", measure=learners_by_size("simota"),
        wording="SimOTA's dynamic k grows with the object",
        paper="in words (OTA, Sec. 3.3)",
        test="rank correlation of the number of anchors that learn an object and its diagonal, at the end of training",
    ),
)  # fmt: skip
