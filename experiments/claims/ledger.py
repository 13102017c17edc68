"""The ledger of claims: every claim of the paper with what was measured and its verdict, as csv and Markdown.

frame = ledger_frame(profile, store)
write_ledger(frame, Path("reports/shapes/claims"))      # claims.csv, claims.md
"""

import math
from collections import Counter
from pathlib import Path

import pandas as pd

from experiments.claims.claims import CLAIMS, Claim
from experiments.claims.evidence import Evidence, Measured
from experiments.claims.rules import NOT_RUN, VERDICTS, judge
from experiments.registry.config import FolderData
from experiments.registry.profile import Profile
from experiments.runs.store import Store
from freeanchor.files import sibling, write_atomically

COLUMNS = (
    "profile", "data", "id", "section", "claim", "paper", "test", "rule", "unit", "part", "value", "low", "high",
    "n_seeds", "seed_error", "seed_degrees", "runs", "part_verdict", "verdict",
)  # fmt: skip
CAPTION = (
    "Each claim is judged by the 95 % interval of what was measured: *holds* where all of it lies where the claim "
    "says, *does not hold* where none of it does, else *undecided*; with several parts, all must hold and none may "
    "fail. Intervals know chance in the choice of images and, where runs were repeated, of the seed. The paper's "
    "figures are COCO's; here it is the profile's own data that decides, so a verdict is about the claim's direction, "
    "not its size."
)
ONE_SEED = (
    "Every run here has one seed: the intervals know the choice of images alone, another seed may turn a verdict. "
    "`SEEDS=3` tells."
)


def ledger_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """A row a part of a claim, in the ledger's order; a part that was not run has no value. Columns `COLUMNS`.

    `seed_error` is the value's standard error for the choice of seeds, already in its interval, with `seed_degrees` of
    freedom: 0 where the seeds' noise is not known.
    """
    evidence = Evidence(profile, store)
    rows = [row for claim in CLAIMS for row in _claim_rows(claim, profile, evidence)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _claim_rows(claim: Claim, profile: Profile, evidence: Evidence) -> list[dict[str, object]]:
    parts = dict(claim.measure(evidence)) or {"": None}
    verdict = judge(claim.rule, list(parts.values()))
    return [
        {
            "profile": profile.name,
            "data": profile.data.identity if isinstance(profile.data, FolderData) else profile.name,
            "id": claim.id,
            "section": claim.section,
            "claim": claim.wording,
            "paper": claim.paper,
            "test": claim.test,
            "rule": rule_text(claim),
            "unit": claim.unit,
            "part": name,
            **_numbers(part),
            "part_verdict": judge(claim.rule, [part]),
            "verdict": verdict,
        }
        for name, part in parts.items()
    ]


def _numbers(part: Measured | None) -> dict[str, object]:
    if part is None:
        return {
            **dict.fromkeys(("value", "low", "high", "seed_error"), math.nan),
            "n_seeds": 0,
            "seed_degrees": 0,
            "runs": "",
        }
    numbers = {"value": part.value, "low": part.low, "high": part.high, "n_seeds": part.n_seeds}
    return {**numbers, "seed_error": part.seeds.error, "seed_degrees": part.seeds.degrees, "runs": " ".join(part.runs)}


def summary(frame: pd.DataFrame) -> str:
    """How many claims have which verdict, in one line: `9 holds, 3 does not hold, …`."""
    counts = Counter(frame.drop_duplicates("id")["verdict"])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def to_markdown(frame: pd.DataFrame) -> str:
    """The ledger as one table, verdicts first."""
    lines = ["| Verdict | Claim | Sec. | The paper | Measured here | Judged by |", f"|{' --- |' * 6}"]
    for _, parts in frame.groupby("id", sort=False):
        first = parts.iloc[0]
        cells = [f"**{first['verdict']}**", first["claim"], first["section"], first["paper"]]
        cells += ["<br>".join(_measured(part) for _, part in parts.iterrows()), f"{first['test']}: {first['rule']}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    seeds = sorted({int(number) for number in frame["n_seeds"] if number})
    notes = f"- {summary(frame)}. Seeds behind a value: {', '.join(map(str, seeds)) or 'none'} (csv: one row a part)."
    if seeds == [1]:
        notes += f"\n- {ONE_SEED}"
    return "\n\n".join(["**The paper's claims**", CAPTION, "\n".join(lines), notes]) + "\n"


def _measured(part: pd.Series) -> str:
    name = f"{part['part']}: " if part["part"] else ""
    if part["part_verdict"] == NOT_RUN:
        return f"{name}{NOT_RUN}"
    value, low, high = (number_text(part[column], part["unit"]) for column in ("value", "low", "high"))
    return f"{name}{value} [{low}, {high}]"


def rule_text(claim: Claim) -> str:
    """A claim's rule in words, in points where its unit is."""
    return claim.rule.text(100 if claim.unit == "points" else 1)


def number_text(value: float, unit: str) -> str:
    """In percent points, or in the unit itself."""
    if unit == "points":
        return f"{100 * value:+.1f}"
    return f"{value:.2f}" if unit == "ratio" else f"{value:+.3f}" if unit == "diagonals" else f"{value:.1f}"


def write_ledger(frame: pd.DataFrame, stem: Path) -> None:
    """Write `stem`.md and, last, `stem`.csv."""
    write_atomically(sibling(stem, "md"), to_markdown(frame).encode())
    write_atomically(sibling(stem, "csv"), frame.to_csv(index=False, lineterminator="\n").encode())
