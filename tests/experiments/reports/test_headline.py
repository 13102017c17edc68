"""The headline table: the paper's numbers beside the measured ones, and what is said when nothing was run."""

import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.tables.markup import to_markdown
from experiments.registry.build import build_profile
from experiments.reports.frames import HEADLINE_LAYOUT, HEADLINE_ROWS, headline_frame
from experiments.runs.store import Store

NO_GAINS = pd.DataFrame(columns=["metric", "value", "low", "high"])


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """The headline of a profile of which nothing was run."""
    return headline_frame(build_profile("mini"), Store(runs=tmp_path), NO_GAINS)


def test_every_row_has_both_detectors_and_their_difference(frame: pd.DataFrame) -> None:
    """Three cells a row, in the order of the rows declared."""
    assert list(frame["metric"]) == ["retinanet", "freeanchor", "gain"] * len(HEADLINE_ROWS)


@pytest.mark.parametrize(("what", "gain"), [("AP", 0.030), ("AP50", 0.023), ("NMS recall at 0.70", 0.025)])
def test_the_papers_gain_is_the_difference_of_its_rows(frame: pd.DataFrame, what: str, gain: float) -> None:
    """38.7 against 35.7 AP, 57.3 against 55.0 AP50, 89.5 against 87.0 NR70."""
    cell = frame[(frame["what"] == what) & (frame["metric"] == "gain")].iloc[0]
    assert math.isclose(cell["published"], gain, abs_tol=1e-9)


def test_what_was_not_run_says_so(frame: pd.DataFrame) -> None:
    """No measured cell is blank, and none carries the paper's number."""
    lines = [line for line in to_markdown(frame, HEADLINE_LAYOUT).splitlines() if "| here |" in line]
    assert len(lines) == len(HEADLINE_ROWS)
    assert all(line.count("not run") == 3 for line in lines)
