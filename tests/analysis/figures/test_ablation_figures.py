"""The figure of the ablations, by the data it draws."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis.figures.comparisons import ablations_figure

NAN = math.nan
COLUMNS = ["factor", "tried", "is_default", "metric", "value", "low", "high"]


def _frame() -> pd.DataFrame:
    """A factor of numbers, one of which was not run, and one of words; a metric that is not drawn."""
    rows = [
        ("Bag size", "40", False, "gain_ap", -0.01, -0.03, 0.02),
        ("Bag size", "50 (default)", True, "gain_ap", 0.0, NAN, NAN),
        ("Bag size", "100", False, "gain_ap", NAN, NAN, NAN),
        ("Focal exponent", "2 (default)", True, "gain_ap", 0.0, NAN, NAN),
        ("Focal exponent", "2.5", False, "gain_ap", -0.02, -0.05, 0.01),
        ("Likelihood", "mean-max (default)", True, "gain_ap", 0.0, NAN, NAN),
        ("Likelihood", "max", False, "gain_ap", -0.20, -0.22, -0.18),
        ("Likelihood", "max", False, "ap", 0.2, 0.1, 0.3),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _panels(frame: pd.DataFrame) -> list[Axes]:
    return [axes for axes in ablations_figure(frame).axes if axes.get_visible()]


def test_each_factor_has_a_panel_with_its_differences_in_points() -> None:
    """Points are the difference in AP in the frame's order, the default at 0, bars the given intervals."""
    size, exponent, likelihood = _panels(_frame())
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in (size, exponent, likelihood)]
    assert titles == ["Bag size", "Focal exponent", "Likelihood"]
    assert [text.get_text() for text in size.get_xticklabels()] == ["40", "50", "100"]
    (bars,) = size.containers
    np.testing.assert_allclose(bars.lines[0].get_ydata(), [-1, 0, NAN])
    ((_, low), (_, high)), *_ = bars.lines[2][0].get_segments()
    assert (low, high) == pytest.approx((-3, 2))


def test_numbers_share_an_axis_and_words_another() -> None:
    """What taking a part away costs does not flatten what another number changes."""
    size, exponent, likelihood = _panels(_frame())
    assert size.get_ylim() == exponent.get_ylim()
    assert size.get_ylim()[0] > -10 > likelihood.get_ylim()[0]


def test_numbers_are_joined_and_words_are_not() -> None:
    """Between 40 and 50 there are other sizes; between mean-max and max there is nothing."""
    size, _, likelihood = _panels(_frame())
    styles = [axes.containers[0].lines[0].get_linestyle() for axes in (size, likelihood)]
    assert styles == ["-", "None"]


def test_what_was_not_run_says_so() -> None:
    """A value without a run is named in its place; a factor, or a frame, without any says so as a whole."""
    size, _, likelihood = _panels(_frame())
    assert [text.get_text() for text in size.texts] == ["not run"]
    assert not likelihood.texts
    for frame in (_frame().assign(value=NAN), _frame().iloc[:0]):
        words = [text.get_text() for axes in ablations_figure(frame).axes for text in axes.texts]
        assert words and set(words) == {"not run"}
