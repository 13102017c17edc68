"""The rules that make verdicts, and the ledger of claims: complete, judged by its rules, and readable."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from miniature import Mini

from analysis.tables.markup import to_markdown
from experiments.claims.claims import (
    CLAIMS,
    DOES_NOT_HOLD,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    VERDICTS,
    Rule,
    above,
    below,
    judge,
    within,
)
from experiments.claims.evidence import Evidence, Measured
from experiments.claims.ledger import COLUMNS, ledger_frame, ledger_table, summary, write_ledger
from experiments.registry.build import build_profile, compared
from experiments.runs.store import ROOT, Store


def test_without_runs_every_claim_is_not_run(empty_store: Store) -> None:
    """Nothing is made up: no value, no verdict but not run; all claims are there, in order."""
    frame = ledger_frame(build_profile("shapes"), empty_store)
    assert list(frame.columns) == list(COLUMNS)
    assert list(dict.fromkeys(frame["id"])) == [claim.id for claim in CLAIMS]
    assert set(frame["verdict"]) == set(frame["part_verdict"]) == {NOT_RUN}
    assert frame[["value", "low", "high"]].isna().all(axis=None)
    assert summary(frame) == f"{len(CLAIMS)} not run"


def test_real_runs_are_judged(mini: Mini) -> None:
    """Claims on the compared pair have values with intervals, and the verdict that their rule gives."""
    frame = ledger_frame(mini.profile, mini.store).set_index("id")
    ap = frame.loc["ap-small"]
    gain = Evidence(mini.profile, mini.store).gain(mini.profile.pairs, "ap")
    assert gain is not None
    assert (ap["value"], ap["low"], ap["high"]) == (gain.value, gain.low, gain.high)
    assert ap["runs"].split() == list(mini.profile.pair)
    expected = "holds" if gain.low > 0 else "does not hold" if gain.high < 0 else "undecided"
    assert ap["verdict"] == expected
    assert frame.loc["ap-large", "verdict"] == NOT_RUN


def test_other_methods_do_not_stand_for_the_papers_two(mini: Mini) -> None:
    """With `COMPARE` the pairs are other methods': no claim of FreeAnchor's is judged by them."""
    other = compared(mini.profile, ("retinanet", "atss"))
    assert set(ledger_frame(other, mini.store)["verdict"]) == {NOT_RUN}


def test_an_assigner_of_ones_own_alone_leaves_later_claims_not_run(empty_store: Store) -> None:
    """A profile without ATSS, SimOTA and TAL that compares a user's assigner has a ledger all the same."""
    profile = build_profile("coco", assigner=ROOT / "examples" / "nearest_centres.py")
    assert {method.key for method in profile.methods} == {"retinanet", "freeanchor", "nearest-centres"}
    assert set(ledger_frame(profile, empty_store)["verdict"]) == {NOT_RUN}


def test_every_claim_names_its_section_and_its_test() -> None:
    """Ids are unique, wordings and tests are there, and the issue's claims are covered."""
    ids = [claim.id for claim in CLAIMS]
    assert len(ids) == len(set(ids)) >= 20
    assert all(claim.section and claim.wording and claim.paper and claim.test for claim in CLAIMS)
    covered = {"ap-small", "ap-large", "cost", "nms-recall", "slender", "square", "crowdedness", "multi-scale"}
    assert covered | {f"best-{symbol}" for symbol in ("n", "t", "alpha", "gamma", "beta")} <= set(ids)


def test_values_that_the_paper_did_not_try_say_nothing_about_its_choice(mini: Mini) -> None:
    """Bags of 12 and 25, tried on photographs, are no verdict on the paper's 50 of 40, 50, 60 and 100."""
    own = [
        replace(one, factor=replace(one.factor, is_papers=False)) if one.factor.symbol == "n" else one
        for one in mini.profile.ablations
    ]
    assert len(own) > 2
    frame = ledger_frame(replace(mini.profile, ablations=tuple(own)), mini.store).set_index("id")
    assert ledger_frame(mini.profile, mini.store).set_index("id").loc["best-n", "part"] == "n = 40"
    assert (frame.loc["best-n", "part"], frame.loc["best-n", "verdict"]) == ("", NOT_RUN)


def _ledger(value: float, unit: str) -> pd.DataFrame:
    """A ledger of one claim with two parts, the second not run."""
    head = {"profile": "shapes", "data": "shapes", "id": "x", "section": "9", "claim": "It is good", "paper": "+1"}
    head |= {"test": "look", "rule": "interval above 0", "unit": unit, "verdict": "undecided"}
    numbers = {"value": value, "low": value / 2, "high": 2 * value, "n_seeds": 3, "seed_error": 0.0, "seed_degrees": 0}
    missing = {**dict.fromkeys(("value", "low", "high"), math.nan), "n_seeds": 0}
    rows = [
        {**head, "part": "AP50", **numbers, "runs": "one two", "part_verdict": "holds"},
        {**head, "part": "AP75", **missing, "runs": "", "part_verdict": NOT_RUN},
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.02, "points", "AP50: +2.0 [+1.0, +4.0]"),
        (1.2, "ratio", "AP50: 1.20 [0.60, 2.40]"),
        (0.1, "diagonals", "AP50: +0.100 [+0.050, +0.200]"),
        (8.0, "anchors", "AP50: 8.0 [4.0, 16.0]"),
    ],
)
def test_values_are_written_in_their_unit(value: float, unit: str, text: str) -> None:
    """Fractions in points, the rest as it is; a part that was not run says so; its line has the verdict."""
    table = ledger_table(_ledger(value, unit))
    markdown = to_markdown(table)
    assert f"{text}<br>AP75: not run" in markdown
    assert [line.kind for line in table.lines] == ["undecided"]
    assert "1 undecided. Seeds behind a value: 3" in markdown
    assert set(VERDICTS) >= {"undecided"}


def test_both_files_are_written(tmp_path, mini: Mini) -> None:
    """claims.csv has a row a part, claims.md a line a claim."""
    frame = ledger_frame(mini.profile, mini.store)
    write_ledger(frame, tmp_path / "claims")
    assert len(pd.read_csv(tmp_path / "claims.csv")) == len(frame)
    table = ledger_table(frame)
    assert (tmp_path / "claims.md").read_text(encoding="utf-8") == to_markdown(table)
    assert len(table.lines) == len(CLAIMS)


def _measured(low: float, high: float) -> Measured:
    """A value in the middle of its interval."""
    return Measured(value=(low + high) / 2, low=low, high=high, n_seeds=1, runs=("a",))


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (above(0.0), 0.1, 0.3, HOLDS),
        (above(0.0), -0.1, 0.3, UNDECIDED),
        (above(0.0), 0.0, 0.3, UNDECIDED),
        (above(0.0), -0.3, -0.1, DOES_NOT_HOLD),
        (below(1.1), 0.9, 1.05, HOLDS),
        (below(1.1), 1.0, 1.2, UNDECIDED),
        (below(1.1), 1.15, 1.2, DOES_NOT_HOLD),
        (within(0.01), -0.005, 0.009, HOLDS),
        (within(0.01), -0.02, 0.005, UNDECIDED),
        (within(0.01), -0.02, 0.02, UNDECIDED),
        (within(0.01), 0.02, 0.03, DOES_NOT_HOLD),
        (within(0.01), -0.03, -0.02, DOES_NOT_HOLD),
    ],
)
def test_an_interval_is_judged_whole(rule: Rule, low: float, high: float, verdict: str) -> None:
    """All of it on the claimed side holds, none of it does not hold, anything else is undecided."""
    assert judge(rule, [_measured(low, high)]) == verdict


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([(0.1, 0.2), (0.3, 0.4)], HOLDS),
        ([(0.1, 0.2), (-0.1, 0.2)], UNDECIDED),
        ([(0.1, 0.2), (-0.2, -0.1)], DOES_NOT_HOLD),
        ([(0.1, 0.2), None], UNDECIDED),
        ([(-0.2, -0.1), None], DOES_NOT_HOLD),
        ([None, None], NOT_RUN),
        ([], NOT_RUN),
    ],
)
def test_all_parts_must_hold_and_none_may_fail(parts: list[tuple[float, float] | None], verdict: str) -> None:
    """A part that was not run leaves a claim undecided, unless another part fails already."""
    measured = [None if part is None else _measured(*part) for part in parts]
    assert judge(above(0.0), measured) == verdict


def test_rules_say_themselves_in_percent() -> None:
    """A margin of 0.01 is a point."""
    assert within(0.01).text(100) == "interval within ±1"
    assert (above(0.0).text(), below(1.1).text()) == ("interval above 0", "interval below 1.1")
