"""The claims of several data sets of photographs, as their reports have them.

What it is: reading `reports/photos/*/claims.csv`, checked cell by cell. What it is not: putting them together
(`experiments.pooled`).

    for one in read_claim_sets(Path("reports/photos")):
        print(one.name, len(one.claims))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from experiments.claims.claims import CLAIMS
from experiments.claims.ledger import COLUMNS, rule_text
from experiments.claims.rules import VERDICTS
from experiments.registry.config import CLASSES, CLASSES_MARK

NUMBERS = ("value", "low", "high", "n_seeds", "seed_error", "seed_degrees")
_AGAIN = "write it again: make claims PROFILE=photos DATA=DIR"
_CLAIMS = {claim.id: claim for claim in CLAIMS}


class PooledError(ValueError):
    """Reports that cannot be pooled; one line: what, where, how to mend."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClaimSet:
    """What one data set says of the claims: the frame of its ledger, texts as str, "" where there is none."""

    name: str  # of the folder of its report
    claims: pd.DataFrame

    @property
    def images(self) -> str:
        """Which images they are, whatever classes were made of their categories."""
        return str(self.claims["data"].iloc[0]).partition(CLASSES_MARK)[0]

    @property
    def classes(self) -> str:
        """Which classes were made: the rest of the data's identity, "own" where it has none."""
        return str(self.claims["data"].iloc[0]).partition(CLASSES_MARK)[2] or "own"

    @cached_property
    def _measured(self) -> dict[tuple[str, str], pd.Series]:
        rows = self.claims[self.claims["value"].notna()]
        return {(row["id"], row["part"]): row for _, row in rows.iterrows()}

    def row(self, claim: str, part: str) -> pd.Series | None:
        """The row of a part of a claim; None where it was not measured."""
        return self._measured.get((claim, part))

    def parts(self, claim: str) -> list[str]:
        """Names of the parts of a claim, measured or not, in the ledger's order."""
        return list(self.claims.loc[self.claims["id"] == claim, "part"])


def read_claim_sets(reports: Path) -> tuple[list[ClaimSet], list[str]]:
    """The sets of photographs under `reports`, by name, and the names of those that show the images of another.

    A report on other classes of the same images (`doors-one` beside `doors`), or with another backbone, says nothing
    new about photographs and would pass for another sample of them: it is left out. Raises PooledError where there is
    no claims.csv, or one is damaged.
    """
    paths = sorted(reports.glob("*/claims.csv"))
    if not paths:
        raise PooledError(f"{reports}: no folder in it has a claims.csv; {_AGAIN}, for each set")
    sets = [ClaimSet(name=path.parent.name, claims=read_claims(path)) for path in paths]
    chosen = _one_of_each(sets)
    return [one for one in sets if one in chosen], [one.name for one in sets if one not in chosen]


def _one_of_each(sets: Sequence[ClaimSet]) -> list[ClaimSet]:
    """One report for the same images: that with their own classes where there is one, else with the finer ones."""
    chosen: dict[str, ClaimSet] = {}
    for one in sorted(sets, key=lambda one: (CLASSES.index(one.classes), one.name)):
        chosen.setdefault(one.images, one)
    return list(chosen.values())


def read_claims(path: Path) -> pd.DataFrame:
    """A ledger's csv; raises PooledError where a cell cannot be, or its claim is judged by other rules today."""
    try:
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, ValueError) as error:  # pandas' own are ValueErrors
        raise PooledError(f"{path}: cannot be read as csv ({' '.join(str(error).split())}); {_AGAIN}") from None
    if missing := [column for column in COLUMNS if column not in texts.columns]:
        raise PooledError(f"{path}: no column {', '.join(missing)}; {_AGAIN}")
    if texts.empty:
        raise PooledError(f"{path}: has no rows; {_AGAIN}")
    for number, row in enumerate(texts.to_dict("records"), start=2):
        if fault := _fault({str(name): str(cell) for name, cell in row.items()}):
            raise PooledError(f"{path}, line {number}: {fault}; {_AGAIN}")
    if (again := texts.duplicated(["id", "part"])).any():
        twice = texts[again].iloc[0]
        raise PooledError(f"{path}: {twice['id']} has the part {twice['part']!r} twice; {_AGAIN}")
    return texts.assign(**{column: pd.to_numeric(texts[column]) for column in NUMBERS})


def _fault(row: dict[str, str]) -> str:
    if row["data"].partition(CLASSES_MARK)[2] not in ("", *CLASSES):
        return f"no classes {row['data']!r} are known"
    claim = _CLAIMS.get(row["id"])
    if claim is None:
        return f"no claim {row['id']!r} is known"
    if (row["unit"], row["rule"]) != (claim.unit, rule_text(claim)):
        rules = f"{row['rule']} in {row['unit']!r}, today by {rule_text(claim)} in {claim.unit!r}"
        return f"{claim.id} is judged by {rules}"
    if unknown := {row["verdict"], row["part_verdict"]} - set(VERDICTS):
        return f"no verdict {unknown.pop()!r} is known"
    return _fault_of_numbers([row[column] for column in NUMBERS])


def _fault_of_numbers(cells: Sequence[str]) -> str:
    names = ", ".join(NUMBERS)
    try:
        value, low, high, seeds, error, degrees = (float(cell) if cell else math.nan for cell in cells)
    except ValueError:
        return f"{names} are {', '.join(cells)}: not all are numbers"
    if not any(cells[:3]):
        return ""  # not run
    if not all(map(math.isfinite, (value, low, high, seeds))) or seeds < 1 or seeds % 1:
        return f"{names} are {', '.join(cells)}: a value needs an interval and seeds"
    if not (0 <= error < math.inf and (degrees == 0 or 1 <= degrees < math.inf)):
        return f"{names} are {', '.join(cells)}: the error over seeds cannot be so"
    return f"the interval from {low} to {high} ends before it begins" if low > high else ""
