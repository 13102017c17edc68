"""Each claim of the paper as a test over measured runs: our wording, where the paper makes it, how it is judged.

The rules were written before the runs that they judge, but for seed 0 of both detectors on both backbones (see
REPRODUCING.md, *Results*).

    rows = claims_frame(profile, store)       # a row a part of a claim: measured value, interval, verdicts
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from experiments.claims.evidence import BagEvidence, Evidence, Measured, measured_cost
from experiments.claims.rules import Above, Below, Rule, Within
from experiments.registry.profile import FACTORS

Parts = Mapping[str, Measured | None]
TABLE_1_METRICS = {"nr_50": "0.50", "nr_60": "0.60", "nr_70": "0.70", "nr_80": "0.80", "nr_90": "0.90"}
TABLE_2_METRICS = {
    "ap_50": "AP50", "ap_75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium", "ap_large": "AP large"
}  # fmt: skip
PARITY = 0.01  # a point of AP: what we take "comparable" to mean
CHEAP = 1.10  # a tenth: what we take "negligible" to mean; the paper's own ratios are 1.05 and 1.04
CONCENTRATED = 2.0  # effective anchors below which one anchor outweighs all others of its bag


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
    unit: str
    rule: Rule
    measure: Callable[[Evidence], Parts]


def _gain(metric: str, backbone: int = 0) -> Callable[[Evidence], Parts]:
    def measure(evidence: Evidence) -> Parts:
        pairs = list(evidence.profile.comparisons.values())
        return {"": evidence.gain(pairs[backbone], metric) if backbone < len(pairs) else None}

    return measure


def _gains(metrics: Mapping[str, str]) -> Callable[[Evidence], Parts]:
    return lambda evidence: {name: evidence.gain(evidence.profile.pairs, metric) for metric, name in metrics.items()}


def _others(symbol: str) -> Callable[[Evidence], Parts]:
    """AP of each other value of a factor less the default's; only where the values are the paper's."""

    def measure(evidence: Evidence) -> Parts:
        every = [ablation for ablation in evidence.profile.ablations if ablation.factor.symbol == symbol]
        own = [ablation for ablation in every if ablation.factor.is_papers]
        default = next((one.run for one in own if one.value == one.factor.default), "")
        return {
            f"{symbol} = {one.value:g}" if not isinstance(one.value, str) else one.value: evidence.difference(
                default, one.run, "ap"
            )
            for one in own
            if one.run != default
        }

    return measure


def _step(first: str, second: str) -> Callable[[Evidence], Parts]:
    """AP of one of Table 3's runs less another's, on each backbone that has them."""

    def measure(evidence: Evidence) -> Parts:
        names = [name for name in evidence.profile.evaluations if name.endswith(f"{second}-s0")]
        others = {name: f"{name.removesuffix(f'{second}-s0')}{first}-s0" for name in names if name.startswith("free")}
        return {
            evidence.profile.evaluations[name].training.backbone_label: evidence.difference(other, name, "ap")
            for name, other in others.items()
            if other in evidence.profile.evaluations
        }

    return measure


def _parameter_claim(symbol: str, paper: str) -> Claim:
    factor = next(factor for factor in FACTORS if factor.symbol == symbol)
    return Claim(
        id=f"best-{symbol}",
        section="4.3",
        wording=f"{factor.label}: {factor.default:g} is the best of the values tried",
        paper=paper,
        test="AP with each other value less AP with the default, seed 0",
        unit="points",
        rule=Below(0.0),
        measure=_others(symbol),
    )


CLAIMS = (
    Claim(
        id="ap-small",
        section="4.4, Table 2",
        wording="FreeAnchor beats RetinaNet in AP",
        paper="+3.0 (35.7 to 38.7, ResNet-50)",
        test="AP of FreeAnchor less RetinaNet's, small backbone",
        unit="points",
        rule=Above(0.0),
        measure=_gain("ap"),
    ),
    Claim(
        id="ap-large",
        section="4.4, Table 2",
        wording="FreeAnchor beats RetinaNet in AP on a deeper backbone too",
        paper="+3.1 (37.8 to 40.9, ResNet-101)",
        test="AP of FreeAnchor less RetinaNet's, large backbone",
        unit="points",
        rule=Above(0.0),
        measure=_gain("ap", backbone=1),
    ),
    Claim(
        id="ap-family",
        section="4.4, Table 2",
        wording="The gain is consistent at IoU 0.50 and 0.75, for small, medium and large objects",
        paper="+2.3, +3.1; +1.3, +2.4, +3.8",
        test="each metric's difference, small backbone",
        unit="points",
        rule=Above(0.0),
        measure=_gains(TABLE_2_METRICS),
    ),
    Claim(
        id="cost",
        section="4.4, Table 2",
        wording="Training costs hardly more",
        paper="1.05 and 1.04 times RetinaNet's time",
        test="time of a training step, FreeAnchor's over RetinaNet's, steps of both in turn; negligible: below 1.10",
        unit="ratio",
        rule=Below(CHEAP),
        measure=measured_cost,
    ),
    Claim(
        id="nms-recall",
        section="4.2, Table 1",
        wording="FreeAnchor's candidates are more compatible with NMS, on average over IoU thresholds",
        paper="NR +2.0 (81.8 to 83.8)",
        test="NR of FreeAnchor less RetinaNet's, the authors' definition",
        unit="points",
        rule=Above(0.0),
        measure=_gain("nr"),
    ),
    Claim(
        id="nms-recall-all",
        section="4.2, Table 1",
        wording="NMS recall is higher at every IoU threshold",
        paper="+0.9, +1.8, +2.5, +2.5, +1.8",
        test="NR of FreeAnchor less RetinaNet's at each threshold that the paper prints",
        unit="points",
        rule=Above(0.0),
        measure=_gains(TABLE_1_METRICS),
    ),
    Claim(
        id="slender",
        section="4.2, Fig. 5",
        wording="FreeAnchor is better on slender objects",
        paper="a figure without numbers",
        test="AP of objects of 3:1 and beyond, FreeAnchor less RetinaNet",
        unit="points",
        rule=Above(0.0),
        measure=_gain("ap_slender"),
    ),
    Claim(
        id="square",
        section="4.2, Fig. 5",
        wording="On square objects the two are comparable",
        paper="a figure without numbers",
        test="AP of objects up to 4:3, FreeAnchor less RetinaNet; comparable: within a point",
        unit="points",
        rule=Within(PARITY),
        measure=_gain("ap_square"),
    ),
    Claim(
        id="slender-more",
        section="4.2, Fig. 5",
        wording="The gain is larger on slender than on square objects",
        paper="a figure without numbers",
        test="gain on slender less gain on square objects",
        unit="points",
        rule=Above(0.0),
        measure=_gain("ap_slender_minus_square"),
    ),
    Claim(
        id="crowdedness",
        section="4.2, Fig. 6",
        wording="The gain grows with the number of objects in an image",
        paper="a figure without numbers",
        test="gain in images of 13 objects and more less gain in those of 1 to 3",
        unit="points",
        rule=Above(0.0),
        measure=_gain("ap_crowded_minus_sparse"),
    ),
    Claim(
        id="mean-at-first",
        section="3.3, Fig. 3",
        wording="Mean-max moves from the mean towards the max as training goes on",
        paper="in words",
        test="effective anchors of a bag at the end of training less those at its first snapshot, mean over objects",
        unit="anchors",
        rule=Below(0.0),
        measure=lambda evidence: BagEvidence(evidence).concentration(),
    ),
    Claim(
        id="max-in-the-end",
        section="3.3, Fig. 3",
        wording="In the end a single best anchor can be selected from a bag",
        paper="in words",
        test="effective anchors of a bag at the end, mean over objects; single: below 2",
        unit="anchors",
        rule=Below(CONCENTRATED),
        measure=lambda evidence: BagEvidence(evidence).effective_at_the_end(),
    ),
    Claim(
        id="nearer-to-the-part",
        section="1 and 4.2, Figs. 1 and 4",
        wording="For acentric objects learned matching prefers anchors nearer to the telling part than IoU does",
        paper="images without numbers",
        test="acentric objects: distance from the part to the anchor that IoU prefers, less that to the learned one",
        unit="diagonals",
        rule=Above(0.0),
        measure=lambda evidence: BagEvidence(evidence).nearer_to_the_part(),
    ),
    Claim(
        id="farther-from-the-centre",
        section="1 and 4.2, Figs. 1 and 4",
        wording="For acentric objects learned matching is freed from the centre: its anchors lie farther from it",
        paper="images without numbers",
        test="acentric objects: distance from the centre to the learned anchor, less that to the one that IoU prefers",
        unit="diagonals",
        rule=Above(0.0),
        measure=lambda evidence: BagEvidence(evidence).farther_from_the_centre(),
    ),
    Claim(
        id="nearer-than-retinanet",
        section="1 and 4.2, Figs. 1 and 4",
        wording="For acentric objects FreeAnchor's likeliest anchor is nearer to the telling part than RetinaNet's",
        paper="implied: RetinaNet is the counterpart of Figs. 1 and 4",
        test="acentric objects: distance from the part to RetinaNet's likeliest anchor, less that to FreeAnchor's",
        unit="diagonals",
        rule=Above(0.0),
        measure=lambda evidence: BagEvidence(evidence).nearer_than_the_baseline(),
    ),
    _parameter_claim("n", "50 of 40, 50, 60, 100; no numbers"),
    _parameter_claim("t", "0.6 of 0.5, 0.6, 0.7; no numbers"),
    _parameter_claim("alpha", "0.5 of 0.25, 0.5, 0.75; no numbers"),
    _parameter_claim("gamma", "2.0 of 1.5, 2.0, 2.5; no numbers"),
    _parameter_claim("beta", "0.75; neither other values nor numbers"),
    Claim(
        id="longer",
        section="4.4, Table 3",
        wording="Twice the schedule with scale jitter adds AP",
        paper="+2.2 (40.9 to 43.1, ResNet-101)",
        test="AP of the doubled schedule with jitter less AP of the single one without, large backbone, seed 0",
        unit="points",
        rule=Above(0.0),
        measure=_step("", "-2x"),
    ),
    Claim(
        id="wider-jitter",
        section="4.4, Table 3",
        wording="A wider range of scales in training adds AP",
        paper="+1.1 (44.9 to 46.0, ResNeXt-101); +0.8 (ResNet-101, authors' README)",
        test="AP with wide jitter less AP with the usual one, seed 0",
        unit="points",
        rule=Above(0.0),
        measure=_step("-2x", "-2x-wide"),
    ),
    Claim(
        id="multi-scale",
        section="4.4, Table 3",
        wording="Testing at six scales adds AP",
        paper="+1.3 (46.0 to 47.3, ResNeXt-101); +1.3 (ResNet-101, authors' README)",
        test="AP at six scales less AP at one, the same trained model",
        unit="points",
        rule=Above(0.0),
        measure=_step("-2x-wide", "-2x-wide-multiscale"),
    ),
)
