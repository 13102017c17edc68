"""The figure of the ablations, by the data it draws."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.ablation_figures import ablations_figure

NAN = math.nan
COLUMNS = ["factor", "tried", "is_default", "metric", "value", "low", "high", "seed_sd"]


def _frame() -> pd.DataFrame:
    """A factor of numbers, one of which was not run, and one of words; a metric that is not drawn."""
    rows = [
        ("Bag size", "40", False, "ap", 0.36, 0.35, 0.38, 0.01),
        ("Bag size", "50 (default)", True, "ap", 0.37, 0.36, 0.38, 0.01),
        ("Bag size", "100", False, "ap", NAN, NAN, NAN, 0.01),
        ("Likelihood", "mean-max (default)", True, "ap", 0.37, 0.36, 0.38, 0.01),
        ("Likelihood", "max", False, "ap", 0.20, 0.19, 0.21, 0.01),
        ("Likelihood", "max", False, "nr", 0.9, 0.8, 1.0, 0.01),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_each_factor_has_a_panel_with_its_values_in_percent() -> None:
    """Points are AP in percent in the frame's order, the default's filled, with a band of one deviation around it."""
    size, likelihood = ablations_figure(_frame()).axes[:2]
    assert [axes.get_title(loc="left") or axes.get_title() for axes in (size, likelihood)] == ["Bag size", "Likelihood"]
    assert [text.get_text() for text in size.get_xticklabels()] == ["40", "50", "100"]
    np.testing.assert_allclose(size.lines[0].get_ydata(), [36, 37, NAN])
    np.testing.assert_allclose(likelihood.lines[0].get_ydata(), [37, 20])
    (band,) = size.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((36, 2))


def test_numbers_are_joined_and_words_are_not() -> None:
    """Between 40 and 50 there are other sizes; between mean-max and max there is nothing."""
    size, likelihood = ablations_figure(_frame()).axes[:2]
    assert (size.lines[0].get_linestyle(), likelihood.lines[0].get_linestyle()) == ("-", "None")


def test_what_was_not_run_says_so() -> None:
    """A value without a run is named in its place; a factor, or a frame, without any says so as a whole."""
    size, likelihood = ablations_figure(_frame()).axes[:2]
    assert [text.get_text() for text in size.texts] == ["not run"]
    assert not likelihood.texts
    for frame in (_frame().assign(value=NAN), _frame().iloc[:0]):
        words = [text.get_text() for axes in ablations_figure(frame).axes for text in axes.texts]
        assert words and set(words) == {"not run"}
