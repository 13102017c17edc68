"""Several seeds as one: means, mean intervals over images, spread over seeds."""

import math

import pandas as pd
import pytest

from experiments.runs.measured import SEED_COLUMNS, over_seeds


def _frame(value: float) -> pd.DataFrame:
    """Measurements of one seed: two metrics, and two categories that share a metric's name."""
    return pd.DataFrame(
        {
            "metric": ["ap", "nr", "ap_category", "ap_category"],
            "label": [math.nan, math.nan, "cat", "dog"],
            "value": [value, value / 2, value, 2 * value],
            "low": value - 0.1,
            "high": value + 0.2,
            "num_objects": [7, math.nan, 3, 4],
        }
    )


def test_values_are_averaged_and_bounds_too() -> None:
    """Mean of values and of bounds, standard deviation, range and t interval (12.706 with one degree of freedom)."""
    ap = over_seeds([_frame(0.2), _frame(0.4)], ("metric", "label")).iloc[0]
    assert (ap["value"], ap["low"], ap["high"]) == pytest.approx((0.3, 0.2, 0.5))
    assert (ap["minimum"], ap["maximum"], ap["n_seeds"], ap["num_objects"]) == (0.2, 0.4, 2, 7)
    assert ap["sd"] == pytest.approx(0.02**0.5)
    assert ap["seed_high"] - ap["value"] == pytest.approx(12.7062 * ap["sd"] / 2**0.5, rel=1e-5)


def test_one_seed_has_no_spread() -> None:
    """One seed keeps its numbers; what several would tell is nan."""
    alone = over_seeds([_frame(0.2)], ("metric", "label"))
    pd.testing.assert_frame_equal(alone[["value", "low", "high"]], _frame(0.2)[["value", "low", "high"]])
    assert alone[["sd", "seed_low", "seed_high"]].isna().all(axis=None)
    assert set(alone["n_seeds"]) == {1}


def test_a_metric_undefined_in_one_seed_has_no_bounds_either() -> None:
    """A value that is nan in one of two seeds is nan, and so is its interval; other metrics keep theirs."""
    undefined = _frame(0.4)
    undefined.loc[1, ["value", "low", "high"]] = math.nan
    both = over_seeds([_frame(0.2), undefined], ("metric", "label")).set_index("metric")
    assert both.loc["nr", ["value", "low", "high", "seed_low"]].isna().all()
    assert both.loc["ap", ["value", "low", "high"]].notna().all()


def test_rows_keep_their_order_and_categories_apart() -> None:
    """Categories are told apart by their label; the first frame's order stays."""
    both = over_seeds([_frame(0.2), _frame(0.4)[::-1]], ("metric", "label"))
    assert list(both["metric"]) == ["ap", "nr", "ap_category", "ap_category"]
    assert list(both["value"]) == pytest.approx([0.3, 0.15, 0.3, 0.6])


def test_nothing_gives_an_empty_frame_with_all_columns() -> None:
    """Reports of runs that were not made still have their columns."""
    empty = over_seeds([])
    assert empty.empty
    assert {"metric", "value", "low", "high", *SEED_COLUMNS} == set(empty.columns)
