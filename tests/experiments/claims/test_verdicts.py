"""The rules that make verdicts: each on both sides of its bound, and parts put together."""

import pytest

from experiments.claims.evidence import Measured
from experiments.claims.rules import DOES_NOT_HOLD, HOLDS, NOT_RUN, UNDECIDED, Above, Below, Within, judge


def _measured(low: float, high: float) -> Measured:
    """A value in the middle of its interval."""
    return Measured(value=(low + high) / 2, low=low, high=high, n_seeds=1, runs=("a",))


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (Above(0.0), 0.1, 0.3, HOLDS),
        (Above(0.0), -0.1, 0.3, UNDECIDED),
        (Above(0.0), 0.0, 0.3, UNDECIDED),
        (Above(0.0), -0.3, -0.1, DOES_NOT_HOLD),
        (Below(1.1), 0.9, 1.05, HOLDS),
        (Below(1.1), 1.0, 1.2, UNDECIDED),
        (Below(1.1), 1.15, 1.2, DOES_NOT_HOLD),
        (Within(0.01), -0.005, 0.009, HOLDS),
        (Within(0.01), -0.02, 0.005, UNDECIDED),
        (Within(0.01), -0.02, 0.02, UNDECIDED),
        (Within(0.01), 0.02, 0.03, DOES_NOT_HOLD),
        (Within(0.01), -0.03, -0.02, DOES_NOT_HOLD),
    ],
)
def test_an_interval_is_judged_whole(rule: Above | Below | Within, low: float, high: float, verdict: str) -> None:
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
    assert judge(Above(0.0), measured) == verdict


def test_rules_say_themselves_in_percent() -> None:
    """A margin of 0.01 is a point."""
    assert Within(0.01).text(100) == "interval within ±1"
    assert (Above(0.0).text(), Below(1.1).text()) == ("interval above 0", "interval below 1.1")
