"""All reports in the order of the page, and what Make and the command line say about them.

    REPORTS["table2"].write(profile, store, Path("reports"))      # reports/shapes/table2.csv, .md, .tex
    targets()                                                     # make/reports.mk

A new report is written beside its frame and added to its module's `REPORTS`; everything else follows. `make documents`
then writes make/reports.mk again.
"""

import re
from collections.abc import Iterable

from experiments.reports import comparisons, gallery, grids, kept, matching, tables
from experiments.reports.report import Report

_ALL = [report for module in (tables, matching, comparisons, gallery, grids, kept) for report in module.REPORTS]
_IS_PAPERS = re.compile(r"(table|figure)\d")
FIRST = (tables.CLAIMS, tables.HEADLINE)  # above the table of contents: verdicts, then the numbers behind most of them
SECTIONS = sorted(  # the paper's own tables and figures before all others
    (report for report in _ALL if report.kinds and report not in FIRST),
    key=lambda it: not _IS_PAPERS.fullmatch(it.name),
)
BESIDE = [report for report in _ALL if not report.kinds]  # files that the page does not show
REPORTS: dict[str, Report] = {report.name: report for report in (*FIRST, *SECTIONS, *BESIDE)}
MATCHING = matching.REPORTS
TARGETS_FILE = "make/reports.mk"


def in_order(names: Iterable[str]) -> list[str]:
    """The names, each after those of its `needs` that are among them, and the index last."""
    ordered: list[str] = []
    chosen = list(dict.fromkeys(names))
    for name in sorted(chosen, key="index".__eq__):
        before = REPORTS[name].needs if name in REPORTS else ()
        ordered += [each for each in (*before, name) if each in chosen and each not in ordered]
    return ordered


def targets() -> str:
    """The reports as targets of Make, with the lines of `make help`; `freeanchor plan` says what each needs."""
    extras = " ".join(name for name, report in REPORTS.items() if report.is_extra)
    head = ["# Written by `make documents` from experiments/reports/catalogue.py: one target per report."]
    head += [f"REPORTS := {' '.join(REPORTS)}", f"EXTRAS := {extras}", ""]
    return "\n".join([*head, *(f"{name}: ## {report.title}" for name, report in REPORTS.items()), ""])


def summary() -> str:
    """Every report by name with its title, for the help of `freeanchor report`."""
    titles = {name: report.title for name, report in REPORTS.items()}
    titles |= {"index": "the page that shows them", "all": "all of them"}
    return "\n".join(["reports:", *(f"    {name:16} {title}" for name, title in titles.items()), ""])
