"""Figures, by the data they draw: read back from their axes."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from oracles.match_frames import make_matches

from analysis.figures.breakdowns import bin_label, figure5, figure6
from analysis.figures.curves import figure2, figure3, learning_curves, smooth, training_curves
from analysis.figures.matching import figure1, figure4
from analysis.figures.style import write_figure

NAN = math.nan
IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


def texts(figure: Figure) -> str:
    """All words of a figure outside its axes' ticks."""
    return " ".join(
        [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title)]
        + [text.get_text() for text in figure.texts]
    )


def test_figure2_names_t1_and_t2_on_the_axis():
    """The curve is drawn as it comes, and the axis carries t1 and t2 where they lie."""
    x = np.linspace(0, 1, 11)
    curve = pd.DataFrame({"x": x, "t1": 0.6, "t2": 0.8, "value": np.clip((x - 0.6) / 0.2, 0, 1)})
    (axes,) = figure2(curve).axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), curve[["x", "value"]])
    ticks = {round(place, 9): label.get_text() for place, label in zip(axes.get_xticks(), axes.get_xticklabels())}
    assert ticks == {0.0: "0", 0.6: "$t_1$\n0.6", 0.8: "$t_2$\n0.8", 1.0: "1"}


def test_figure3_draws_each_function_in_a_panel_for_each_bag():
    """Mean, max and Mean-max of every bag are read back as they came in."""
    curve = pd.DataFrame(
        [
            (x, function, x * scale, bag)
            for bag in ("others at 0.1", "others at 0.3")
            for function, scale in (("mean", 0.5), ("max", 1.0), ("mean-max", 0.7))
            for x in (0.0, 0.5, 1.0)
        ],
        columns=["x", "function", "value", "bag"],
    )
    figure = figure3(curve)
    assert [axes._left_title.get_text() for axes in figure.axes] == ["others at 0.1", "others at 0.3"]
    for axes in figure.axes:
        drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
        assert drawn == {"max": [0, 0.5, 1], "mean": [0, 0.25, 0.5], "Mean-max": [0, 0.35, 0.7]}


def groups_and_categories():
    """A frame of Fig. 5."""
    values = {"RetinaNet": (0.758, 0.065), "FreeAnchor": (0.769, 0.139)}
    rows = [
        (detector, "group", label, NAN, 1204, value, value - 0.02, value + 0.03)
        for detector, pair in values.items()
        for label, value in zip(("square", "slender"), pair)
    ]
    rows += [
        (detector, "category", label, aspect, 10, value, NAN, NAN)
        for detector, pair in values.items()
        for label, aspect, value in zip(("ball", "wand"), (1.1, 5.0), pair)
    ]
    columns = ["detector", "panel", "label", "median_aspect", "num_objects", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def test_figure5_draws_bars_gains_and_points():
    """Bars and points carry the values in percent; each pair of bars has its gain above."""
    figure = figure5(groups_and_categories())
    groups, categories = figure.axes
    heights = [
        [bar.get_height() for bar in container] for container in groups.containers if hasattr(container, "patches")
    ]
    np.testing.assert_allclose(heights, [[75.8, 6.5], [76.9, 13.9]])
    assert "+1.1" in texts(figure) and "+7.4" in texts(figure)
    points = [dots.get_offsets().tolist() for dots in categories.collections]
    np.testing.assert_allclose(points, [[[1.1, 75.8], [5.0, 6.5]], [[1.1, 76.9], [5.0, 13.9]]])
    assert [label.get_text() for label in groups.get_xticklabels()] == [
        "square\n1,204 objects",
        "slender\n1,204 objects",
    ]


def test_figure5_says_which_part_was_not_run():
    """A missing bar and an empty panel say *not run*; a pair with a missing half has no gain."""
    frame = groups_and_categories()
    frame.loc[frame.panel == "category", "value"] = NAN
    frame.loc[(frame.label == "slender") & (frame.detector == "FreeAnchor"), "value"] = NAN
    figure = figure5(frame)
    assert texts(figure).count("not run") == 2 and "+7.4" not in texts(figure)


def crowdedness_rows():
    """A frame of Fig. 6."""
    rows = [
        (detector, name, num_images, 4 * num_images, value, value - 0.01, value + 0.02)
        for detector, values in {"RetinaNet": (0.5, 0.36), "FreeAnchor": (0.53, 0.42), "gain": (0.03, 0.06)}.items()
        for name, num_images, value in zip(("objects_1_3", "objects_13_plus"), (1190, 56), values)
    ]
    return pd.DataFrame(rows, columns=["detector", "bin", "num_images", "num_objects", "value", "low", "high"])


@pytest.mark.parametrize("has_gains", [True, False])
def test_figure6_draws_both_detectors_and_the_gain(has_gains):
    """Lines and bars carry percent; gains are those given, or the difference where none is; bins name their images."""
    frame = crowdedness_rows()
    curves, gains = figure6(frame if has_gains else frame[frame.detector != "gain"]).axes
    lines = [container.lines[0].get_ydata().astype(float) for container in curves.containers]
    np.testing.assert_allclose(lines, [[50, 36], [53, 42]])
    np.testing.assert_allclose([bar.get_height() for bar in gains.patches], [3, 6])
    assert [label.get_text() for label in gains.get_xticklabels()] == ["1–3\n1,190 images", "13+\n56 images"]
    assert [text.get_text() for text in gains.texts] == ["+3.0", "+6.0"]


def test_figure6_error_bars_end_at_the_interval():
    """The error bar of the first point runs from low to high."""
    curves, _ = figure6(crowdedness_rows()).axes
    segment = curves.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], [49, 52])


def test_figure6_says_what_was_not_run():
    """With one detector only, the other and the gain are *not run*, and the bins keep their labels."""
    frame = crowdedness_rows()
    figure = figure6(frame[frame.detector == "RetinaNet"])
    assert "FreeAnchor: not run" in texts(figure) and texts(figure).count("not run") == 2
    assert figure.axes[1].get_xticklabels()[1].get_text() == "13+\n56 images"


@pytest.mark.parametrize(
    ("name", "label"),
    [("objects_1_3", "1–3"), ("objects_13_plus", "13+"), ("objects_7", "7"), ("4-7", "4–7"), ("13+", "13+")],
)
def test_bins_are_labelled_for_readers(name, label):
    """Bins of `analysis.breakdowns`, and labels that are labels already."""
    assert bin_label(name) == label


def training_log():
    """A frame of a training log, rows out of order."""
    rows = [
        (detector, step, metric, 1.0 + 0.01 * step)
        for detector, terms in {"RetinaNet": ("box", "classification"), "FreeAnchor": ("negative", "positive")}.items()
        for step in (20, 10, 30)
        for metric in (*(f"loss_{term}" for term in terms), "lr", "effective_anchors", "images_per_second")
    ]
    return pd.DataFrame(rows, columns=["detector", "step", "metric", "value"])


def test_training_curves_draw_every_term_over_ordered_steps():
    """Each panel holds its metrics, raw and smoothed, in the order of steps; speed is passed over."""
    panels = training_curves(training_log()).axes
    names = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in panels]
    assert names == [["box", "classification"], ["negative", "positive"]] + [["RetinaNet", "FreeAnchor"]] * 2
    for axes in panels:
        assert len(axes.lines) == 4
        for line in axes.lines:
            np.testing.assert_allclose(line.get_xydata(), [[10, 1.1], [20, 1.2], [30, 1.3]])


def test_the_learning_rate_falls_in_steps_and_other_curves_are_smoothed():
    """A rate that drops tenfold between two of 100 points is drawn so; loss and effective anchors are means of a window."""
    steps = np.arange(100)
    drop = np.where(steps < 50, 1.0, 0.1)
    metrics = ("loss_box", "loss_classification", "lr", "effective_anchors")
    frame = pd.concat(
        pd.DataFrame({"detector": detector, "step": steps, "metric": metric, "value": drop})
        for detector in ("RetinaNet", "FreeAnchor")
        for metric in metrics
    )
    loss, _, rate, anchors = (axes.lines[1].get_ydata() for axes in training_curves(frame).axes)
    np.testing.assert_array_equal(rate, drop)
    for smoothed in (loss, anchors):
        np.testing.assert_allclose(smoothed, smooth(drop, 4))


def test_smoothing_is_the_mean_of_a_centred_window():
    """Each value becomes the mean of its neighbours, fewer at the ends; nan are left out; a window below 1 is refused."""
    np.testing.assert_allclose(smooth(np.array([0.0, 3.0, 6.0, NAN, 2.0]), 3), [1.5, 3.0, 4.5, 4.0, 2.0])
    with pytest.raises(ValueError, match="window must be at least 1"):
        smooth(np.zeros(3), 0)


@pytest.mark.parametrize(
    "figure",
    [
        lambda: figure1(make_matches().iloc[:0], IMAGE),
        lambda: figure4(make_matches().iloc[:0], IMAGE),
        lambda: figure4(make_matches().assign(confidence=NAN), IMAGE),
        lambda: figure2(pd.DataFrame({"x": [0.0], "t1": [0.6], "t2": [0.8], "value": [NAN]})),
        lambda: figure3(pd.DataFrame(columns=["x", "function", "value", "bag"], dtype=float)),
        lambda: figure5(groups_and_categories().assign(value=NAN, low=NAN, high=NAN)),
        lambda: figure6(crowdedness_rows().assign(value=NAN, low=NAN, high=NAN)),
        lambda: training_curves(training_log().iloc[:0]),
    ],
)
def test_figures_without_values_say_not_run_and_can_be_written(figure, tmp_path):
    """No figure fails for want of measurements: it says so, on paper too."""
    drawn = figure()
    assert "not run" in texts(drawn)
    write_figure(drawn, pd.DataFrame(), tmp_path / "empty")


def test_the_same_frame_gives_the_same_bytes(tmp_path):
    """png, pdf and csv of two drawings of one frame are equal byte for byte, and nothing else is left behind."""
    frame = make_matches(steps=(1000,))
    for name in ("a", "b"):
        write_figure(figure4(frame, IMAGE), frame, tmp_path / name / "figure4")
    names = ["figure4.csv", "figure4.pdf", "figure4.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"CreationDate" not in (tmp_path / "a" / "figure4.pdf").read_bytes()
    back = pd.read_csv(tmp_path / "a" / "figure4.csv")
    pd.testing.assert_frame_equal(back, frame.reset_index(drop=True), check_dtype=False)


def test_drawing_leaves_matplotlib_as_it_was():
    """The style is the figures' own: the caller's settings, and pyplot's list of figures, do not change."""
    before = dict(matplotlib.rcParams)
    figure6(crowdedness_rows())
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_learning_curves_draw_each_detector_in_each_panel() -> None:
    """AP, AP50 and AP75 in percent over percent of training; seeds as mean and range."""
    rows = [
        {
            "detector": detector,
            "run": f"{detector}-{seed}",
            "step": step,
            "num_steps": 200,
            "metric": metric,
            "value": v,
        }
        for detector in ("RetinaNet", "FreeAnchor")
        for seed in (0, 1)
        for metric in ("ap", "ap_50", "ap_75")
        for step, v in ((50, 0.1 + 0.02 * seed), (200, 0.3 + 0.02 * seed))
    ]
    figure = learning_curves(pd.DataFrame(rows))
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["RetinaNet", "FreeAnchor"]
        assert axes.lines[0].get_xdata().tolist() == [25, 100]
        assert axes.lines[0].get_ydata() == pytest.approx([11, 31])
    empty = learning_curves(pd.DataFrame(columns=["detector", "run", "step", "num_steps", "metric", "value"]))
    assert all("not run" in axes.texts[0].get_text() for axes in empty.axes)
