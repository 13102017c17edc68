"""Claims measured on several data sets as one: a mean over sets, its interval, and the verdict that it earns.

frame = pooled_frame(sets)      # one row per part of a claim and level: pooled, then set by set
"""

import math
from collections.abc import Sequence

import pandas as pd

from analysis.evaluation.statistics import spread
from experiments.claims.claims import CLAIMS, NOT_RUN, Claim, judge
from experiments.claims.evidence import Measured, SeedError, joint_degrees
from experiments.claims.ledger import ClaimSet

COLUMNS = (
    "level", "id", "section", "claim", "paper", "test", "rule", "unit", "part", "value", "low", "high", "minimum",
    "maximum", "sd", "n_sets", "sets", "n_seeds", "part_verdict", "verdict", "claimed_from", "claimed_to",
)  # fmt: skip
POOLED, ONE_SET = "pooled", "set"  # of a row: its level
FEWEST = 2  # sets that make a pool


def pool(measured: Sequence[Measured]) -> Measured:
    """The unweighted mean of independent values, with the interval that their own intervals give it.

    Chance in images: each limit lies as far from the mean as the root of the summed squares of the values' distances
    to their limits on that side, over their number: MOVER for a sum, scaled (Zou and Donner, "Construction of
    confidence limits about effect measures: a general approach", Statistics in Medicine 27, 1693-1702, 2008; doi
    10.1002/sim.3095). Skewed intervals stay skewed. Chance in seeds, which is added in quadrature: a t interval with
    the degrees of freedom that all values' seeds have together; a value whose seeds say nothing of their noise, being
    one, is lent that of the others. `n_seeds` is the fewest of any value. Raises ValueError
    without values.
    """
    if not measured:
        raise ValueError("pool needs at least one value, got none; give one a set")
    mean = math.fsum(one.value for one in measured) / len(measured)
    below = math.hypot(*(_over_images(one.value - one.low, one) for one in measured)) / len(measured)
    above = math.hypot(*(_over_images(one.high - one.value, one) for one in measured)) / len(measured)
    seeds = _joint_error(measured)
    half = seeds.half
    return Measured(
        value=mean,
        low=mean - math.hypot(below, half),
        high=mean + math.hypot(above, half),
        seeds=seeds,
        n_seeds=min(one.n_seeds for one in measured),
        runs=tuple(run for one in measured for run in one.runs),
    )


def _over_images(reach: float, measured: Measured) -> float:
    """What images alone give of a value's distance to a limit."""
    return math.sqrt(max(0.0, max(0.0, reach) ** 2 - measured.seeds.half**2))


def _joint_error(measured: Sequence[Measured]) -> SeedError:
    """That of a mean of independent values, degrees of freedom after Welch and Satterthwaite; unknown if all are.

    They may differ in noise: with few degrees the interval errs on the wide side (97 % for two alike, two seeds each).
    Values without an error of their own are lent the others' mean variance of a single seed.
    """
    known = [one for one in measured if one.seeds.degrees]
    if not known:
        return SeedError()
    lent = math.fsum(1 / one.n_seeds for one in measured if not one.seeds.degrees)
    every = math.fsum(one.seeds.degrees for one in known)
    terms = [
        (one.n_seeds * one.seeds.error**2 * (1 / one.n_seeds + lent * one.seeds.degrees / every), one.seeds.degrees)
        for one in known
    ]
    total = math.fsum(variance for variance, _ in terms)
    if total == 0:
        return SeedError(degrees=every)
    return SeedError(error=math.sqrt(total) / len(measured), degrees=max(1.0, joint_degrees(terms)))


def pooled_frame(sets: Sequence[ClaimSet]) -> pd.DataFrame:
    """Every claim of which some part was measured in two sets; columns `COLUMNS`.

    For each part a row of level "pooled", then one of level "set" for each set. A part is pooled over the sets that
    have it, which `sets` names; one that fewer than two have has no pooled value, is "not run", and so keeps its claim
    from holding, as in a single ledger. `n_seeds` lists the sets' in the order of `sets`; `minimum`, `maximum` and `sd`
    are of the sets' values; the claim says that values lie between `claimed_from` and `claimed_to` (nan: no bound).
    """
    rows = [row for claim in CLAIMS for row in _claim_rows(claim, sets)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def unpooled(sets: Sequence[ClaimSet]) -> dict[str, list[str]]:
    """Wordings of the claims that were measured, but no part of them in two sets, and the sets that have them."""
    found = {}
    for claim in CLAIMS:
        own = [names for names in _measured_in(claim, sets).values() if names]
        if own and max(map(len, own)) < FEWEST:
            found[claim.wording] = list(dict.fromkeys(one.name for names in own for one in names))
    return found


def _measured_in(claim: Claim, sets: Sequence[ClaimSet]) -> dict[str, list[ClaimSet]]:
    """The parts of a claim, and the sets that measured each; a nameless stand-in for parts not run is no part."""
    names = dict.fromkeys(part for one in sets for part in one.parts(claim.id))
    parts = [name for name in names if name] or list(names)
    return {part: [one for one in sets if one.row(claim.id, part) is not None] for part in parts}


def _claim_rows(claim: Claim, sets: Sequence[ClaimSet]) -> list[dict[str, object]]:
    parts = {name: [_of_set(claim, name, one) for one in owners] for name, owners in _measured_in(claim, sets).items()}
    pooled = {name: pool(own) if len(own) >= FEWEST else None for name, own in parts.items()}
    if not any(pooled.values()):
        return []
    verdict = judge(claim.rule, list(pooled.values()))
    rows = []
    for name, whole in pooled.items():
        owners = [one.name for one in sets if one.row(claim.id, name) is not None]
        row = {**_of_claim(claim), "part": name, **_interval(whole), **_extent(parts[name] if whole else [])}
        row |= {"level": POOLED, "n_sets": len(owners), "sets": "; ".join(owners)}
        row |= {"n_seeds": "; ".join(str(one.n_seeds) for one in parts[name])}
        rows.append({**row, "part_verdict": judge(claim.rule, [whole]), "verdict": verdict})
        rows += [_set_row(claim, name, one) for one in sets]
    return rows


def _of_claim(claim: Claim) -> dict[str, object]:
    low, high = (math.nan if math.isinf(bound) else bound for bound in (claim.rule.low, claim.rule.high))
    return {**claim.head(), "claimed_from": low, "claimed_to": high}


def _of_set(claim: Claim, part: str, one: ClaimSet) -> Measured:
    row = one.row(claim.id, part)
    assert row is not None
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    runs = tuple(f"{one.name}/{run}" for run in row["runs"].split())
    seeds = SeedError(error=float(row["seed_error"]), degrees=float(row["seed_degrees"]))
    return Measured(value=value, low=low, high=high, n_seeds=int(row["n_seeds"]), runs=runs, seeds=seeds)


def _interval(measured: Measured | None) -> dict[str, float]:
    if measured is None:
        return dict.fromkeys(("value", "low", "high"), math.nan)
    return {"value": measured.value, "low": measured.low, "high": measured.high}


def _extent(measured: Sequence[Measured]) -> dict[str, float]:
    if not measured:
        return dict.fromkeys(("minimum", "maximum", "sd"), math.nan)
    values = spread([one.value for one in measured])
    return {"minimum": values.minimum, "maximum": values.maximum, "sd": values.sd}


def _set_row(claim: Claim, part: str, one: ClaimSet) -> dict[str, object]:
    own = one.claims[one.claims["id"] == claim.id]
    row = one.row(claim.id, part)
    measured = None if row is None else _of_set(claim, part, one)
    return {
        **_of_claim(claim), "level": ONE_SET, "part": part, **_interval(measured), **_extent([]),
        "n_sets": int(measured is not None), "sets": one.name, "n_seeds": str(measured.n_seeds if measured else 0),
        "part_verdict": NOT_RUN if row is None else row["part_verdict"],
        "verdict": NOT_RUN if own.empty else own["verdict"].iloc[0],
    }  # fmt: skip
