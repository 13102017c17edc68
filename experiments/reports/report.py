"""A report: one table, figure or csv of `reports/`, described once, beside the function that makes its frame.

    TRIALS = Report(name="trials", title="…", runs=lambda profile: profile.trials, build=csv_of(trials_frame))
    TRIALS.write(profile, store, Path("reports"))           # reports/shapes/trials.csv

`catalogue.py` lists them all; Make rules, `make help`, `freeanchor report --help`, the page and the tests read it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import write_figure
from analysis.tables.cells import TableLayout
from analysis.tables.markup import write_table
from experiments.registry.config import CocoData
from experiments.registry.profile import Profile
from experiments.runs.store import Store
from freeanchor.files import write_csv

Kind = Literal["table", "figure"]
Build = Callable[[Profile, Store, Path], None]
Frame = Callable[[Profile, Store], pd.DataFrame]
Text = str | Callable[[Profile], str]


def compared_runs(profile: Profile) -> tuple[str, ...]:
    """The pairs of runs that the figures compare."""
    return tuple(run for pair in profile.pairs for run in pair)


def no_runs(profile: Profile) -> tuple[str, ...]:
    """Of a report that the code alone makes."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is called, what it shows, which runs it is made from, and how.

    `build` writes its files at a stem (`reports/shapes/table2`), the csv last. `kinds` are its sections of the page, in
    their order; a report that is a csv alone has none. `runs` are all runs that it shows, whether they are there or
    not; `needs` the reports to write before it, since they compute what it reads, too; with `needs_costs` it reads the
    times of training steps. One that `is_extra` waits for its runs in `make paper` alone. `layout` is its table's.
    """

    name: str
    title: str
    build: Build
    caption: Text = ""
    figure_caption: str = ""  # where the report is a table and a figure
    kinds: tuple[Kind, ...] = ()
    runs: Callable[[Profile], Iterable[str]] = compared_runs
    needs: tuple[str, ...] = ()
    needs_costs: bool = False
    is_extra: bool = False
    layout: Callable[[Profile], TableLayout] | None = None

    def write(self, profile: Profile, store: Store, reports: Path) -> Path:
        """Write its files into the profile's folder under `reports`; the path of the csv, written last."""
        stem = reports / profile.report_name / self.name
        self.build(profile, store, stem)
        return stem.with_suffix(".csv")

    def text(self, profile: Profile) -> str:
        """The caption as it holds for a profile."""
        return self.caption if isinstance(self.caption, str) else self.caption(profile)


def split_of(profile: Profile) -> str:
    """The split that everything is tested on, by its name."""
    return "val2017" if isinstance(profile.data, CocoData) else "val"


def table_cells(frame: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """A frame of `metrics_frame` as cells of a table: with what each table says of its runs, and no published value."""
    names = {"gain": " ".join(compared_runs(profile))}
    names |= {profile.evaluations[own[0]].training.detector: " ".join(own) for own in zip(*profile.pairs, strict=True)}
    backbone = profile.evaluations[profile.pair[0]].training.backbone_label
    return frame.assign(
        run=frame["detector"].map(names),
        profile=profile.name,
        backbone=backbone,
        split=split_of(profile),
        published=math.nan,
        source="",
    )


def csv_of(frame: Frame) -> Build:
    """Write a frame as csv."""
    return lambda profile, store, stem: write_csv(stem.with_suffix(".csv"), frame(profile, store))


def figure_report(frame: Frame, draw: Callable[[pd.DataFrame], Figure], **described: Any) -> Report:
    """A report that is one figure of a frame."""

    def build(profile: Profile, store: Store, stem: Path) -> None:
        data = frame(profile, store)
        write_figure(draw(data), data, stem)

    return Report(kinds=("figure",), build=build, **described)


def table_report(
    frame: Frame,
    *,
    labels: Mapping[str, str],
    metrics: Mapping[str, str],
    notes: Callable[[Profile], tuple[str, ...]] = lambda profile: (),
    has_paper_lines: bool = True,
    draw: Callable[[pd.DataFrame], Figure] | None = None,
    **described: Any,
) -> Report:
    """A report that is a table of a frame, with a figure of the same where `draw` is given.

    The frame has one row per cell, with the columns that `analysis.tables.cells` lists; `table_cells` adds those that
    are the same for every analysis.
    """

    def layout(profile: Profile) -> TableLayout:
        return TableLayout(
            title=report.title,
            labels=labels,
            metrics=metrics,
            caption=report.text(profile),
            notes=notes(profile),
            has_paper_lines=has_paper_lines,
        )

    def build(profile: Profile, store: Store, stem: Path) -> None:
        data = frame(profile, store)
        if draw:
            write_figure(draw(data), data, stem)
        write_table(data, layout(profile), stem)

    kinds: tuple[Kind, ...] = ("table", "figure") if draw else ("table",)
    report = Report(kinds=kinds, build=build, layout=layout, **described)
    return report
