"""The rules that make verdicts: each on both sides of its bound, and parts put together."""

import pytest

from experiments.claims.claims import DOES_NOT_HOLD, HOLDS, NOT_RUN, UNDECIDED, Rule, above, below, judge, within
from experiments.claims.evidence import Measured


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
