"""The two by two of anchor grids and bag sizes, on the miniature's two runs put into its cells."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import Mini
from oracles.coco_folder import write_both

from analysis.evaluation.statistics import t_quantile
from analysis.figures.comparisons import grids_figure
from analysis.tables.cells import tidy_table
from experiments.claims.evidence import Evidence, SeedError
from experiments.registry.build import build_profile
from experiments.registry.profile import Cell, Profile
from experiments.registry.sizes import COARSE_GRID, GRID
from experiments.reports.grids import GRIDS, grid_frame
from experiments.runs.measured import compare_stage, measurements
from experiments.runs.store import Store

RETINANET, FREEANCHOR = "retinanet-small-s0", "freeanchor-small-s0"


def _cells(*grids: tuple[str, str, str, str]) -> tuple[Cell, ...]:
    """Cells of (grid, RetinaNet's run, that with bags of 12, that with bags of 50)."""
    return tuple(
        Cell(grid=grid, detector=detector, bag_size=size, runs=(run,))
        for grid, *runs in grids
        for run, detector, size in zip(runs, ("RetinaNet", "FreeAnchor", "FreeAnchor"), (math.nan, 12, 50), strict=True)
    )


@pytest.fixture
def crossed(mini: Mini) -> Profile:
    """The old grid's n = 12 is RetinaNet's run again, and on the new grid the two detectors are exchanged."""
    cells = _cells(("old", RETINANET, RETINANET, FREEANCHOR), ("new", FREEANCHOR, FREEANCHOR, RETINANET))
    return replace(mini.profile, grids=cells)


def test_gains_are_over_the_same_grid_and_answers_are_differences(mini: Mini, crossed: Profile) -> None:
    """A run gains nothing over itself; exchanged, the gain changes by minus twice itself; n = 12 minus 50 as paired."""
    frame = grid_frame(crossed, mini.store)
    gains = frame[frame["metric"] == "gain_ap"].set_index(["grid", "bag"])["value"]
    runs = [crossed.evaluations[name] for name in (RETINANET, FREEANCHOR)]
    compared = compare_stage(*runs, mini.store).set_index("metric").loc["ap"]
    assert gains["old", "12"] == gains["new", "12"] == 0
    assert gains["old", "50"] == pytest.approx(compared["value"]) and gains["new", "50"] == pytest.approx(
        -compared["value"]
    )
    assert gains["new minus old", "50"] == pytest.approx(-2 * compared["value"], abs=1e-12)
    assert gains["old", "12 minus 50"] == pytest.approx(-compared["value"])
    assert math.isnan(gains["old", ""])
    assert not (frame[frame["metric"] == "gain_ap"]["n_seeds"] == 0).any()  # undefined there, not "not run"
    change = frame[(frame["grid"] == "new minus old") & (frame["metric"] == "gain_ap")].iloc[0]
    width = change["high"] - change["low"]
    assert width == pytest.approx(2 * (compared["high"] - compared["low"]), rel=1e-6)


def test_one_seed_of_each_cell_borrows_the_noise_of_both_gains(
    mini: Mini, crossed: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-widths over images and over seeds in quadrature; the variances of the two gains add up."""
    key = ("new minus old", "50", "gain_ap")
    plain = grid_frame(crossed, mini.store).set_index(["grid", "bag", "metric"]).loc[key]
    monkeypatch.setattr(Evidence, "borrowed", lambda *_: SeedError(error=0.01, degrees=4))
    wide = grid_frame(crossed, mini.store).set_index(["grid", "bag", "metric"]).loc[key]
    half = t_quantile(0.975, 4) * 0.01 * math.sqrt(2)
    assert wide["high"] - wide["value"] == pytest.approx(math.hypot(plain["high"] - plain["value"], half))


def test_cells_say_what_their_runs_measured(mini: Mini, crossed: Profile) -> None:
    """AP as measured; regret and the chosen box add up to the best box; effective anchors between 1 and 50."""
    frame = grid_frame(crossed, mini.store)
    own = frame[(frame["grid"] == "old") & (frame["bag"] == "50")].set_index("metric")
    ap = measurements(crossed.evaluations[FREEANCHOR], mini.store).set_index("metric").loc["ap", "value"]
    assert own.loc["ap", "value"] == pytest.approx(ap)
    assert own.loc["regret", "value"] >= 0 and own.loc["regret", "value"] + own.loc["chosen_box_iou", "value"] <= 1
    assert 1 <= own.loc["effective_anchors", "value"] <= 50
    assert (own.loc[["ap", "regret", "score_fall"], "n_seeds"] == 1).all()


def test_answers_name_the_runs_that_have_a_partner(mini: Mini, crossed: Profile) -> None:
    """A cell with more seeds than its partner answers with the common ones alone."""
    more = tuple(
        replace(cell, runs=(*cell.runs, "freeanchor-small-s1")) if (cell.grid, cell.bag_size) == ("old", 50) else cell
        for cell in crossed.grids
    )
    frame = grid_frame(replace(crossed, grids=more), mini.store).set_index(["grid", "bag", "metric"])
    assert frame.loc[("old", "12 minus 50", "gain_ap"), "run"] == f"{FREEANCHOR} {RETINANET}"
    of_four = f"{RETINANET} {FREEANCHOR} {FREEANCHOR} {RETINANET}"
    assert frame.loc[("new minus old", "50", "gain_ap"), "run"] == of_four
    assert frame.loc[("old", "50", "ap"), "run"] == f"{FREEANCHOR} freeanchor-small-s1"


def test_runs_that_can_no_longer_be_asked_have_their_ap(mini: Mini, crossed: Profile, tmp_path: Path) -> None:
    """Measured, snapshots thrown away, bags never asked: AP and gains stand, what bags look like is missing."""
    bare = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(mini.store.runs, bare.runs)
    for path in [*bare.runs.rglob("bag*.csv"), *bare.runs.rglob("snapshots/*")]:
        path.unlink()
    frame, whole = (grid_frame(crossed, store).set_index(["grid", "bag", "metric"]) for store in (bare, mini.store))
    of_runs = frame.index.get_level_values("metric").isin(["ap", "gain_ap"])
    assert frame["value"][of_runs].equals(whole["value"][of_runs]) and frame["value"][~of_runs].isna().all()


def test_the_table_and_the_figure_hold_every_cell(mini: Mini, crossed: Profile) -> None:
    """Six cells and two answers; six panels; nothing run, and no grids, are drawn as such."""
    frame = grid_frame(crossed, mini.store)
    assert len(tidy_table(frame, GRIDS.layout(crossed)).lines) == 8
    assert len([axes for axes in grids_figure(frame).axes if axes.get_visible()]) == 6
    for nothing in (grid_frame(mini.profile, mini.store), frame.assign(value=math.nan)):
        assert "not run" in "".join(text.get_text() for axes in grids_figure(nothing).axes for text in axes.texts)


def test_photographs_have_the_plans_cells(tmp_path: Path, empty_store: Store) -> None:
    """Both grids with RetinaNet and FreeAnchor of 12 and 50; the profile's own has four strides on P2 to P6."""
    profile = build_profile("photos", data=write_both(tmp_path / "ponds"), num_seeds=3)
    assert [(cell.grid, cell.bag_size) for cell in profile.grids if cell.detector == "FreeAnchor"] == [
        (COARSE_GRID, 12), (COARSE_GRID, 50), (GRID, 12), (GRID, 50)
    ]  # fmt: skip
    assert [len(cell.runs) for cell in profile.grids] == [3, 2, 3, 3, 2, 3]
    for cell in profile.grids:
        model = profile.evaluations[cell.runs[0]].training.model
        assert model.levels == ((2, 3, 4, 5, 6) if cell.grid == GRID else (3, 4, 5, 6, 7))
        sizes = [size / stride for size, stride in zip(model.anchors.sizes, model.anchors.strides, strict=True)]
        assert set(sizes) == {4 if cell.grid == GRID else 2}
    frame = grid_frame(profile, empty_store)
    assert frame["value"].isna().all() and len(frame) == 6 * 6 + 2 * 6
