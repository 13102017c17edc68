"""The rules that turn measured values into verdicts. One measured value is judged by its 95 % interval alone.

A claim's parts (the metrics of a family, the values tried of a parameter) are judged one by one: a claim *holds* where
all parts do, *does not hold* where one does not, is *not run* where nothing was, and else *undecided*.

    judge(Above(0.0), [measured])       # "holds"
"""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.claims.evidence import Measured

HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
VERDICTS = (HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_RUN)


@dataclass(frozen=True)
class Above:
    """The value lies above a bound: holds if the whole interval does, does not if none of it does."""

    bound: float = 0.0

    def text(self, scale: float = 1.0) -> str:
        """The rule in words, its bound times `scale` (100 for percent)."""
        return f"interval above {scale * self.bound:g}"

    def verdict(self, measured: Measured) -> str:
        """Of one value."""
        if measured.low > self.bound:
            return HOLDS
        return DOES_NOT_HOLD if measured.high < self.bound else UNDECIDED


@dataclass(frozen=True)
class Below:
    """The value lies below a bound."""

    bound: float = 0.0

    def text(self, scale: float = 1.0) -> str:
        """The rule in words."""
        return f"interval below {scale * self.bound:g}"

    def verdict(self, measured: Measured) -> str:
        """Of one value."""
        if measured.high < self.bound:
            return HOLDS
        return DOES_NOT_HOLD if measured.low > self.bound else UNDECIDED


@dataclass(frozen=True)
class Within:
    """The value is as good as zero: its whole interval lies within the margin, on either side."""

    margin: float

    def text(self, scale: float = 1.0) -> str:
        """The rule in words."""
        return f"interval within ±{scale * self.margin:g}"

    def verdict(self, measured: Measured) -> str:
        """Of one value."""
        if -self.margin < measured.low and measured.high < self.margin:
            return HOLDS
        return DOES_NOT_HOLD if measured.low > self.margin or measured.high < -self.margin else UNDECIDED


Rule = Above | Below | Within


def judge(rule: Rule, parts: Sequence[Measured | None]) -> str:
    """The verdict on all parts of a claim; None is a part that was not run."""
    verdicts = [NOT_RUN if part is None else rule.verdict(part) for part in parts]
    if DOES_NOT_HOLD in verdicts:
        return DOES_NOT_HOLD
    if all(verdict == HOLDS for verdict in verdicts) and verdicts:
        return HOLDS
    return NOT_RUN if all(verdict == NOT_RUN for verdict in verdicts) else UNDECIDED
