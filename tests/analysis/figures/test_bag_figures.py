"""Figures of matching over a data set, by the data that they draw."""

import numpy as np
import pandas as pd
import pytest

from analysis.bags.summaries import CONCENTRATION_COLUMNS, CONCENTRATION_METRICS, DISTANCE_COLUMNS, NUM_BINS, REACH
from analysis.figures.bags import bag_concentration_figure, mass_grid, match_positions_figure, part_distance_figure

WIDTH = (REACH[1] - REACH[0]) / NUM_BINS
GROUPS = ("all", "slender", "square", "acentric", "acentric_aligned")


def make_positions(detectors=("FreeAnchor",), steps=(7, 350), groups=GROUPS) -> pd.DataFrame:
    """Random masses in a few bins of each group, matching and step."""
    rng = np.random.default_rng(0)
    rows = []
    for detector in detectors:
        for step in steps:
            for group in groups:
                for matching in ("learned", "likeliest", "iou", "part"):
                    bins = rng.choice(NUM_BINS**2, 30, replace=False)
                    for place, mass in zip(bins, rng.dirichlet(np.ones(30)), strict=True):
                        u, v = (REACH[0] + (number + 0.5) * WIDTH for number in divmod(int(place), NUM_BINS))
                        rows.append((detector, detector, step, group, matching, round(u, 5), round(v, 5), mass))
    return pd.DataFrame(rows, columns=["run", "detector", "step", "group", "matching", "u", "v", "mass"])


def test_a_grid_has_every_bin_in_its_place():
    """Rows run from top to bottom, columns from left to right; what has no row is 0, and runs are averaged."""
    rows = make_positions(steps=(7,), groups=("all",))
    rows = rows[rows.matching == "learned"]
    grid = mass_grid(rows)
    assert grid.shape == (NUM_BINS, NUM_BINS)
    assert grid.sum() == pytest.approx(1)
    for row in rows.itertuples():
        assert grid[round((row.v - REACH[0]) / WIDTH - 0.5), round((row.u - REACH[0]) / WIDTH - 0.5)] == row.mass
    np.testing.assert_allclose(mass_grid(pd.concat([rows, rows.assign(run="other")])), grid)


def test_positions_show_first_and_last_step_beside_iou():
    """Four rows of five panels, percent of the mass, on one colour scale a row; only FreeAnchor's."""
    frame = make_positions(("RetinaNet", "FreeAnchor"), steps=(7, 70, 350))
    figure = match_positions_figure(frame)
    panels = np.array([axes for axes in figure.axes if axes.images]).reshape(4, 5)
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in panels[0]]
    assert titles == [
        "Weight, step 7",
        "Weight, step 350",
        "Best-scoring, step 7",
        "Best-scoring, step 350",
        "By hand: IoU",
    ]
    own = frame[frame.detector == "FreeAnchor"]
    shown = [("learned", 7), ("learned", 350), ("likeliest", 7), ("likeliest", 350), ("iou", 350)]
    for line, group in zip(panels, ("all", "slender", "square", "acentric_aligned"), strict=True):
        for axes, (matching, step) in zip(line, shown, strict=True):
            rows = own[(own.group == group) & (own.matching == matching) & (own.step == step)]
            np.testing.assert_allclose(axes.images[0].get_array(), 100 * mass_grid(rows))
        assert len({axes.images[0].norm.vmax for axes in line}) == 1
        marks = {line.get_marker() for line in line[0].lines}
        assert marks == ({"+", "o", "X"} if group == "acentric_aligned" else {"+"})


def test_positions_of_one_step_and_no_parts():
    """One snapshot gives one panel of each kind; photographs have no row for parts."""
    figure = match_positions_figure(make_positions(steps=(350,), groups=("all", "square")))
    assert len([axes for axes in figure.axes if axes.images]) == 2 * 3


def test_the_marked_mean_is_that_of_the_mass():
    """The white dot stands at the mean of the bins, the cross at that of the parts over all steps."""
    frame = make_positions(groups=("acentric_aligned",))
    axes = match_positions_figure(frame).axes[0]
    dot, cross = (next(line for line in axes.lines if line.get_marker() == marker) for marker in ("o", "X"))
    rows = frame[(frame.matching == "learned") & (frame.step == 7)]
    np.testing.assert_allclose(dot.get_xydata()[0], np.average(rows[["u", "v"]], axis=0, weights=rows.mass), atol=1e-4)
    parts = frame[frame.matching == "part"]
    np.testing.assert_allclose(cross.get_xydata()[0], np.average(parts[["u", "v"]], axis=0, weights=parts.mass))


def make_concentration() -> pd.DataFrame:
    """Both detectors at three steps, two groups."""
    rng = np.random.default_rng(0)
    rows = [
        (detector, step, 100, group, metric, *sorted(rng.uniform(1, 3, 3))[1:2], 0.9, 3.1, 40)
        for detector in ("RetinaNet", "FreeAnchor")
        for step in (100, 1, 10)
        for group in ("objects_1_9", "objects_10_plus")
        for metric in CONCENTRATION_METRICS
    ]
    return pd.DataFrame(rows, columns=list(CONCENTRATION_COLUMNS))


def test_concentration_draws_medians_in_order_of_steps():
    """A line of panels per metric, entropy first, a column per group, steps side by side."""
    frame = make_concentration()
    figure = bag_concentration_figure(frame)
    panels = np.array(figure.axes).reshape(len(CONCENTRATION_METRICS), 2)
    for line, metric in zip(panels, CONCENTRATION_METRICS, strict=True):
        for axes, group in zip(line, ("objects_1_9", "objects_10_plus"), strict=True):
            for curve in axes.lines:
                own = frame[(frame.group == group) & (frame.metric == metric) & (frame.detector == curve.get_label())]
                np.testing.assert_allclose(curve.get_xydata()[:, 1], own.sort_values("step").value)
                assert curve.get_xdata().tolist() == [0, 1, 2]
            assert len(axes.lines) == 2
    assert panels[0, 0].get_title(loc="left") == "1–9 in an image (40 objects)"


def make_distances() -> pd.DataFrame:
    """Both detectors at two steps."""
    rng = np.random.default_rng(0)
    rows = []
    for detector in ("RetinaNet", "FreeAnchor"):
        for step in (10, 1000):
            for matching in ("learned", "iou"):
                for target in ("part", "centre"):
                    value = rng.uniform(0.1, 0.4) if matching == "learned" else {"part": 0.35, "centre": 0.08}[target]
                    rows.append((detector, step, 1000, matching, target, value, value - 0.02, value + 0.03, 1234, 56))
    return pd.DataFrame(rows, columns=list(DISTANCE_COLUMNS))


def test_distances_draw_both_detectors_against_iou():
    """Left to the part, right to the centre; error bars are the intervals, IoU's is a band."""
    frame = make_distances()
    figure = part_distance_figure(frame)
    for axes, target in zip(figure.axes, ("part", "centre"), strict=True):
        by_hand, *_ = axes.lines
        assert set(by_hand.get_ydata()) == {{"part": 0.35, "centre": 0.08}[target]}
        for container in axes.containers:
            detector = container.get_label().partition(":")[0]
            own = frame[(frame.detector == detector) & (frame.target == target) & (frame.matching == "learned")]
            np.testing.assert_allclose(container.lines[0].get_ydata(orig=False), own.value)
            bars = container.lines[2][0].get_segments()
            np.testing.assert_allclose([bar[:, 1].tolist() for bar in bars], own[["low", "high"]].to_numpy())
        assert len(axes.containers) == 2
    assert "1,234 objects in 56 images" in figure.get_supxlabel()


@pytest.mark.parametrize(
    ("draw", "frame"),
    [
        (match_positions_figure, make_positions()[:0]),
        (bag_concentration_figure, make_concentration()[:0]),
        (part_distance_figure, make_distances()[:0]),
    ],
)
def test_nothing_measured_says_so(draw, frame):
    """An empty frame gives a figure that says not run."""
    (axes,) = draw(frame).axes
    assert [text.get_text() for text in axes.texts] == ["not run"]
