"""The figure of how anchor grids fit, by the data that it draws."""

import numpy as np
import pandas as pd

from analysis.figures.anchors import anchor_fit_figure

GRIDS = {"given": (1.0, 0.3), "best": (2.0, 0.42), "large": (8.0, 0.46)}
GROUPS = ("all", "small", "slender")


def _frame() -> pd.DataFrame:
    rows = []
    for grid, (cost, iou) in GRIDS.items():
        whole = {"relative_cost": cost, **{f"iou_{rank}": iou + (50 - rank) / 200 for rank in range(1, 101)}}
        rows += [(grid, "all", metric, value) for metric, value in whole.items()]
        rows += [(grid, group, "share_50", place / 10 + iou) for place, group in enumerate(GROUPS)]
    return pd.DataFrame(rows, columns=["grid", "group", "metric", "value"])


def test_it_shows_ranks_costs_and_shares() -> None:
    """A line and a dot per grid, the given and the recommended apart; percent of each group that has objects."""
    frame = _frame()
    ranks, costs, shares = anchor_fit_figure(frame, "given", "best").axes
    by_label = {line.get_label(): line for line in ranks.lines}
    for name, label in (("given", "given: given"), ("best", "recommended: best")):
        y = by_label[label].get_ydata()
        assert len(y) == 100 and y[49] == GRIDS[name][1]
    assert any(np.isclose(line.get_ydata()[49], 0.46) for line in ranks.lines if len(line.get_ydata()) == 100)
    dots = {tuple(np.ravel(line.get_xydata()[:1])) for line in costs.lines if line.get_linestyle() == "None"}
    marked = {tuple(np.ravel(line.get_xydata())) for line in costs.lines if line.get_marker() == "D"}
    assert marked == {GRIDS["given"], GRIDS["best"]} and GRIDS["large"] in dots
    assert [label.get_text() for label in shares.get_yticklabels()] == list(GROUPS)
    np.testing.assert_allclose(shares.lines[1].get_xdata(), [42, 52, 62])
    assert (shares.lines[0].get_ydata() < shares.lines[1].get_ydata()).all()  # none hides another


def test_a_given_grid_that_is_recommended_stands_out_once() -> None:
    """One line, one dot, one label."""
    ranks, costs, shares = anchor_fit_figure(_frame(), "best", "best").axes
    assert "given and recommended: best" in [line.get_label() for line in ranks.lines]
    assert sum(line.get_marker() == "D" for line in costs.lines) == 1 == len(shares.lines)
