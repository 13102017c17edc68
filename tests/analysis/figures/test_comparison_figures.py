"""The ablations and the forest plot of pooled claims, by the data that they draw."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.comparisons import SET_MARKERS, VERDICT_COLOURS, ablations_figure, pooled_figure
from analysis.figures.style import INK

NAN = math.nan
ABLATION_COLUMNS = ["factor", "tried", "is_default", "metric", "value", "low", "high"]


def _ablations() -> pd.DataFrame:
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
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)


def _ablation_panels(frame: pd.DataFrame) -> list[Axes]:
    return [axes for axes in ablations_figure(frame).axes if axes.get_visible()]


def test_each_factor_has_a_panel_with_its_differences_in_points() -> None:
    """Points are the difference in AP in the frame's order, the default at 0, bars the given intervals."""
    size, exponent, likelihood = _ablation_panels(_ablations())
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in (size, exponent, likelihood)]
    assert titles == ["Bag size", "Focal exponent", "Likelihood"]
    assert [text.get_text() for text in size.get_xticklabels()] == ["40", "50", "100"]
    (bars,) = size.containers
    np.testing.assert_allclose(bars.lines[0].get_ydata(), [-1, 0, NAN])
    ((_, low), (_, high)), *_ = bars.lines[2][0].get_segments()
    assert (low, high) == pytest.approx((-3, 2))


def test_numbers_share_an_axis_and_words_another() -> None:
    """What taking a part away costs does not flatten what another number changes."""
    size, exponent, likelihood = _ablation_panels(_ablations())
    assert size.get_ylim() == exponent.get_ylim()
    assert size.get_ylim()[0] > -10 > likelihood.get_ylim()[0]


def test_numbers_are_joined_and_words_are_not() -> None:
    """Between 40 and 50 there are other sizes; between mean-max and max there is nothing."""
    size, _, likelihood = _ablation_panels(_ablations())
    styles = [axes.containers[0].lines[0].get_linestyle() for axes in (size, likelihood)]
    assert styles == ["-", "None"]


def test_what_was_not_run_says_so() -> None:
    """A value without a run is named in its place; a factor, or a frame, without any says so as a whole."""
    size, _, likelihood = _ablation_panels(_ablations())
    assert [text.get_text() for text in size.texts] == ["not run"]
    assert not likelihood.texts
    for frame in (_ablations().assign(value=NAN), _ablations().iloc[:0]):
        words = [text.get_text() for axes in ablations_figure(frame).axes for text in axes.texts]
        assert words and set(words) == {"not run"}


POOLED_COLUMNS = [
    "level", "id", "claim", "unit", "part", "value", "low", "high", "sets", "part_verdict", "claimed_from", "claimed_to"
]  # fmt: skip


def _rows(name, part, wording, unit, bounds, values):
    """Rows of a part: the pooled one first, then doors and hardhat; each value with its interval and verdict."""
    levels = [("pooled", "doors; hardhat"), ("set", "doors"), ("set", "hardhat")]
    return [
        (level, name, wording, unit, part, *numbers, sets, verdict, *bounds)
        for (level, sets), (*numbers, verdict) in zip(levels, values, strict=True)
    ]


def _pooled() -> pd.DataFrame:
    """Three claims in points, one of two parts of which one was not pooled, and one that is a ratio."""
    above, not_run = (0.0, NAN), (NAN, NAN, NAN, "not run")
    ap = [(0.02, 0.01, 0.03, "holds"), (0.01, -0.01, 0.03, "undecided"), (0.03, 0.02, 0.031, "holds")]
    loses = [(-0.02, -0.03, -0.01, "does not hold"), (-0.02, -0.5, -0.01, "does not hold"), not_run]
    alone = [not_run, (0.3, 0.2, 0.4, "holds"), not_run]
    same = [(0.001, -0.004, 0.006, "holds"), (0.0, -0.02, 0.02, "undecided"), (0.002, -0.005, 0.009, "holds")]
    cost = [(1.05, 1.0, 1.08, "holds")] * 3
    rows = [
        *_rows("ap", "", "It is better in AP", "points", above, ap),
        *_rows("family", "AP50", "The gain is consistent", "points", above, loses),
        *_rows("family", "AP large", "The gain is consistent", "points", above, alone),
        *_rows("square", "", "They are comparable", "points", (-0.01, 0.01), same),
        *_rows("cost", "R18", "It costs little", "ratio", (NAN, 1.1), cost),
    ]
    return pd.DataFrame(rows, columns=POOLED_COLUMNS)


def _axes(frame: pd.DataFrame) -> Axes:
    (axes,) = pooled_figure(frame).axes
    return axes


def _marks(axes: Axes, marker: str) -> list[Line2D]:
    """What is drawn with a marker, from the top."""
    return sorted((line for line in axes.lines if line.get_marker() == marker), key=lambda line: line.get_ydata()[0])


def _values(marks: list[Line2D]) -> list[float]:
    return [float(mark.get_xdata()[0]) for mark in marks]


def test_every_pooled_part_in_points_has_a_row() -> None:
    """Claims in their order, the parts of one below its wording; no row for another unit or what was not pooled."""
    labels = [text.get_text() for text in _axes(_pooled()).get_yticklabels()]
    assert labels == ["It is better in AP", "The gain is consistent", "AP50", "They are comparable"]


def test_diamonds_are_the_pooled_values_and_other_marks_the_sets() -> None:
    """One marker a set, in points, in the row's band; a set that has no value has no mark."""
    axes = _axes(_pooled())
    pooled, doors, hardhat = (_marks(axes, marker) for marker in ("D", *SET_MARKERS[:2]))
    assert _values(pooled) == pytest.approx([2, -2, 0.1])
    assert _values(doors) == pytest.approx([1, -2, 0])
    assert _values(hardhat) == pytest.approx([3, 0.2])
    places = [tick for tick, label in zip(axes.get_yticks(), axes.get_yticklabels()) if "gain" not in label.get_text()]
    for marks, own in ((pooled, places), (doors, places), (hardhat, [places[0], places[2]])):
        assert [mark.get_ydata()[0] for mark in marks] == pytest.approx(own, abs=0.46)


def test_colour_and_filling_tell_the_verdict() -> None:
    """Hollow is undecided; holding and failing differ in colour."""
    axes = _axes(_pooled())
    doors = _marks(axes, SET_MARKERS[0])
    verdicts = ["undecided", "does not hold", "undecided"]
    assert [to_hex(mark.get_color()) for mark in doors] == [VERDICT_COLOURS[name].lower() for name in verdicts]
    assert [mark.get_markerfacecolor() == "white" for mark in doors] == [True, False, True]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["+2.0 [+1.0, +3.0]\nholds", "-2.0 [-3.0, -1.0]\ndoes not hold", "+0.1 [-0.4, +0.6]\nholds"]


def test_bars_are_the_intervals_cut_at_the_edge() -> None:
    """Bars run from low to high; one that leaves the panel ends at its edge in an arrowhead."""
    axes = _axes(_pooled())
    left, right = axes.get_xlim()
    bars = [np.asarray(line.get_xdata(), dtype=float) for line in axes.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(bar, [1, 3]) for bar in bars)
    assert any(np.allclose(bar, [left, -1]) for bar in bars)
    assert all(left - 1e-9 <= bar.min() and bar.max() <= right + 1e-9 for bar in bars)
    (arrow,) = _marks(axes, "<")
    assert arrow.get_xdata()[0] == left and not _marks(axes, ">")
    assert left > -10  # or one long interval would flatten all others


def test_the_zero_line_and_where_the_claim_would_hold() -> None:
    """A line at zero; shades from the bound to the edge, or between both bounds."""
    axes = _axes(_pooled())
    zero = [line for line in axes.lines if list(line.get_xdata()) == [0, 0] and to_hex(line.get_color()) == INK.lower()]
    assert len(zero) == 1
    right = axes.get_xlim()[1]
    shades = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    assert np.allclose(shades, [(0, right), (0, right), (-1, 1)])


def _legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_names_every_set() -> None:
    """Pooled, the sets in their order, the shade; a name with dollars is a name, not a formula."""
    assert _legend_texts(pooled_figure(_pooled())) == ["pooled", "doors", "hardhat", "where the claim would hold"]
    odd = pooled_figure(_pooled().replace({"sets": {"doors": "a$^$b"}}))
    odd.savefig(io.BytesIO(), format="png", dpi=20)
    assert _legend_texts(odd)[1] == "a$^$b"


def test_the_figure_can_be_drawn_again_from_its_csv() -> None:
    """Names of parts that a csv leaves empty are no trouble."""
    again = pd.read_csv(io.StringIO(_pooled().to_csv(index=False)))
    first, second = _axes(_pooled()), _axes(again)
    assert _values(_marks(first, "D")) == _values(_marks(second, "D"))
    assert [t.get_text() for t in first.get_yticklabels()] == [t.get_text() for t in second.get_yticklabels()]


@pytest.mark.parametrize("frame", [_pooled().iloc[:0], _pooled().assign(value=NAN), _pooled().assign(unit="ratio")])
def test_nothing_pooled_says_so(frame: pd.DataFrame) -> None:
    """An empty frame, values that are all missing, or no claim in points: no axes that pretend otherwise."""
    assert [text.get_text() for text in _axes(frame).texts] == ["not run"]
