"""The ledger of claims: what was measured of each and its verdict, written as csv and Markdown, and read again.

write_ledger(ledger_frame(profile, store), Path("reports/shapes/claims"))      # claims.csv, claims.md
sets, left_out = read_claim_sets(Path("reports/photos"))      # its claims.csv of every set, checked cell by cell
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis.tables.cells import Table, TableCell, TableLine
from analysis.tables.markup import Marked, to_markdown
from experiments.claims.claims import CLAIMS, NOT_RUN, VERDICTS, Claim, judge
from experiments.claims.evidence import Evidence, Measured
from experiments.registry.config import CLASSES, CLASSES_MARK, FolderData
from experiments.registry.profile import Profile
from experiments.runs.store import Store
from freeanchor.errors import FreeAnchorError
from freeanchor.files import sibling, write_bytes, write_csv

COLUMNS = (
    "profile", "data", "id", "section", "claim", "paper", "test", "rule", "unit", "part", "value", "low", "high",
    "n_seeds", "seed_error", "seed_degrees", "runs", "part_verdict", "verdict",
)  # fmt: skip
CAPTION = (
    "Each claim is judged by the 95 % interval of its measured value: *holds* where the whole interval agrees with the "
    "claim, *does not hold* where none of it does, else *undecided*. With several parts, all must hold and none may "
    "fail. Intervals cover chance in the choice of images and, where runs were repeated, of the seed. The paper's "
    "numbers are COCO's; here the profile's own data decide, so a verdict is about a claim's direction, not its size."
)
ONE_SEED = (
    "Every run here has one seed: the intervals cover the choice of images alone, and another seed may turn a verdict. "
    "`SEEDS=3` tells."
)


def ledger_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """One row per part of a claim, in the ledger's order; a part that was not run has no value. Columns `COLUMNS`.

    Nothing is run where the profile compares other methods: the claims are about FreeAnchor and RetinaNet.

    `seed_error` is the value's standard error for the choice of seeds, already in its interval, with `seed_degrees` of
    freedom: 0 where the seeds' noise is not known.
    """
    evidence = Evidence(profile, store)
    rows = [row for claim in CLAIMS for row in _claim_rows(claim, profile, evidence)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _claim_rows(claim: Claim, profile: Profile, evidence: Evidence) -> list[dict[str, object]]:
    parts = (dict(claim.measure(evidence)) if profile.has_papers_pair else {}) or {"": None}
    data = profile.data.identity if isinstance(profile.data, FolderData) else profile.name
    head = {"profile": profile.name, "data": data, **claim.head(), "verdict": judge(claim.rule, list(parts.values()))}
    return [
        {**head, "part": name, **_numbers(part), "part_verdict": judge(claim.rule, [part])}
        for name, part in parts.items()
    ]


def _numbers(part: Measured | None) -> dict[str, object]:
    if part is None:
        missing = dict.fromkeys(("value", "low", "high", "seed_error"), math.nan)
        return {**missing, "n_seeds": 0, "seed_degrees": 0, "runs": ""}
    numbers = {"value": part.value, "low": part.low, "high": part.high, "n_seeds": part.n_seeds}
    return {**numbers, "seed_error": part.seeds.error, "seed_degrees": part.seeds.degrees, "runs": " ".join(part.runs)}


def summary(frame: pd.DataFrame) -> str:
    """How many claims have which verdict, in one line: `9 holds, 3 does not hold, …`."""
    counts = Counter(frame.drop_duplicates("id")["verdict"])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def ledger_table(frame: pd.DataFrame) -> Table:
    """The ledger as one table, verdicts first, one line per claim."""
    lines = []
    for row, (_, parts) in enumerate(frame.groupby("id", sort=False)):
        first = parts.iloc[0]
        words = (Marked(first[name]) for name in ("claim", "section", "paper"))
        values = [_measured(part) for _, part in parts.iterrows()]
        rule = Marked(f"{first['test']}: {first['rule']}")
        lines.append(
            TableLine(
                kind=first["verdict"],
                row=row,
                cells=(
                    TableCell(text=first["verdict"], is_bold=True),
                    *(TableCell(text=text) for text in words),
                    replace(values[0], below=tuple(values[1:])),
                    TableCell(text=rule),
                ),
                runs=tuple(dict.fromkeys(" ".join(parts["runs"]).split())),
            )
        )
    seeds = sorted({int(number) for number in frame["n_seeds"] if number})
    note = f"{summary(frame)}. Seeds behind a value: {', '.join(map(str, seeds)) or 'none'} (csv: one row per part)."
    return Table(
        title="The paper's claims",
        caption=Marked(CAPTION),
        headings=("Verdict", "Claim", "Sec.", "The paper", "Measured here", "Judged by"),
        lines=tuple(lines),
        notes=(note, *([Marked(ONE_SEED)] if seeds == [1] else [])),
    )


def _measured(part: pd.Series) -> TableCell:
    name = f"{part['part']}: " if part["part"] else ""
    if part["part_verdict"] == NOT_RUN:
        return TableCell(text=Marked(f"{name}{NOT_RUN}"))
    value, low, high = (number_text(part[column], part["unit"]) for column in ("value", "low", "high"))
    return TableCell(text=Marked(f"{name}{value}"), interval=f"[{low}, {high}]")


def number_text(value: float, unit: str) -> str:
    """In percent points, or in the unit itself."""
    if unit == "points":
        return f"{100 * value:+.1f}"
    return f"{value:.2f}" if unit == "ratio" else f"{value:+.3f}" if unit == "diagonals" else f"{value:.1f}"


def write_ledger(frame: pd.DataFrame, stem: Path) -> None:
    """Write `stem`.md and, last, `stem`.csv."""
    write_bytes(sibling(stem, "md"), to_markdown(ledger_table(frame)).encode())
    write_csv(sibling(stem, "csv"), frame)


NUMBERS = ("value", "low", "high", "n_seeds", "seed_error", "seed_degrees")
_AGAIN = "write it again: make claims PROFILE=photos DATA=DIR"
_CLAIMS = {claim.id: claim for claim in CLAIMS}


class PooledError(FreeAnchorError):
    """Reports that cannot be pooled; one line: what, where, the remedy."""


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
    if (row["unit"], row["rule"]) != (claim.unit, claim.rule_text):
        rules = f"{row['rule']} in {row['unit']!r}, today by {claim.rule_text} in {claim.unit!r}"
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
