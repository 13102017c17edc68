"""All reports in the order of the page, and what Make and the command line say about them.

    REPORTS["table2"].write(profile, store, Path("reports"))      # reports/shapes/table2.csv, .md, .tex
    targets()                                                     # make/reports.mk

A new report is written beside its frame and listed here; everything else follows.
"""

from experiments.reports import comparisons, gallery, kept, matching, tables
from experiments.reports.report import Report

FIRST = (tables.CLAIMS, tables.HEADLINE)  # above the table of contents: verdicts, then the numbers behind most of them
SECTIONS = (
    tables.TABLE1,
    tables.TABLE2,
    tables.TABLE3,
    matching.FIGURE1,
    matching.FIGURE2,
    matching.FIGURE3,
    matching.FIGURE4,
    comparisons.FIGURE5,
    comparisons.FIGURE6,
    comparisons.CANDIDATES,
    tables.ABLATIONS,
    matching.POSITIONS,
    matching.CONCENTRATION,
    matching.PART_DISTANCE,
    matching.BAG_BOXES,
    comparisons.TRAINING,
    comparisons.CONVERGENCE,
    matching.BAG_OVERLAP,
    gallery.GALLERY_SLENDER,
    gallery.GALLERY_CROWDED,
    gallery.GALLERY_RANDOM,
)
BESIDE = (tables.COMPARISON, tables.PEER_REPORT, tables.TRIALS, kept.MODELS)  # files that the page does not show
REPORTS: dict[str, Report] = {report.name: report for report in (*FIRST, *SECTIONS, *BESIDE)}
TARGETS_FILE = "make/reports.mk"


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
