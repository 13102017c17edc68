"""The page that shows every table and figure of a profile, with where each comes from.

write_index(profile, store, Path("reports"))      # reports/shapes/index.html
"""

from pathlib import Path

from experiments.frames import run_records
from experiments.headline import headline_layout
from experiments.page import Section, build_page
from experiments.provenance import provenance
from experiments.registry import Profile
from experiments.report import LAYOUTS
from experiments.store import Store

FIGURE_TEXTS = {
    "figure1": (
        "Figure 1. Assignment by hand and learned",
        "One object of the validation split. Top: the anchors that IoU assignment matches with it, all equal. Bottom: "
        "its bag of 50 under the trained FreeAnchor, opacity by each anchor's share in Mean-max, the chosen one thick.",
    ),
    "figure2": (
        "Figure 2. Saturated linear function",
        "The probability that a prediction is right, against its IoU, for two values of the best IoU t2; computed by "
        "the function that the loss calls.",
    ),
    "figure3": (
        "Figure 3. Mean-max",
        "Mean-max of a bag in which one anchor's confidence grows: the mean at first, the max in the end.",
    ),
    "figure4": (
        "Figure 4. Matching of one object over training",
        "Left: confidence of the 16 square anchors of highest IoU under FreeAnchor, darker is likelier. Right: the "
        "same anchors by IoU, as hand-crafted assignment ranks them. One row a stage of training. The object is "
        "chosen by a rule on the ground truth: of objects with their class at one end and a box no longer than 4:3, "
        "the largest in a picture of few objects.",
    ),
    "figure5": (
        "Figure 5. Slender and square objects",
        "Seed 0 of both detectors. "
        "AP on objects whose box is at most 4:3 (square), at least 3:1 (slender) and between, with COCO's rules for "
        "what is ignored; the paper's own cuts are unpublished, these are ours. Right: each category's AP against the "
        "median aspect ratio of its boxes.",
    ),
    "figure6": (
        "Figure 6. Crowdedness",
        "Seed 0 of both detectors. "
        "AP on the pictures with so many objects, and what FreeAnchor gains, paired over pictures. The paper's bins "
        "are unpublished, these are ours.",
    ),
    "training": (
        "Training",
        "Loss terms, learning rate, and how many of a bag's anchors Mean-max really uses, for both detectors.",
    ),
}


def _make(name: str, profile: Profile) -> str:
    """The command that remakes a report."""
    data = " DATA=DIR" if profile.name == "photos" else ""
    return f"make {name} PROFILE={profile.name}{data}"


def _of_pair(caption: str, profile: Profile) -> str:
    """A figure's caption, saying which two detectors it is of where they are published ones."""
    is_theirs = set(profile.pair) <= set(profile.zoo)
    return caption.replace("Seed 0 of both detectors.", f"{' and '.join(profile.pair)}.") if is_theirs else caption


def write_index(profile: Profile, store: Store, reports: Path) -> Path:
    """Write `index.html` beside the profile's tables and figures; its path."""
    directory = reports / profile.report_name
    sections = [
        Section(
            id=name,
            title=layout.title,
            caption=layout.caption,
            command=_make(name, profile),
            kind="table",
            stem=directory / name,
        )
        for name, layout in LAYOUTS.items()
    ]
    sections += [
        Section(
            id=name,
            title=title,
            caption=_of_pair(caption, profile),
            command=_make(name, profile),
            kind="figure",
            stem=directory / name,
        )
        for name, (title, caption) in FIGURE_TEXTS.items()
    ]
    headline = Section(
        id="headline",
        title=headline_layout(profile).title,
        caption=headline_layout(profile).caption,
        command=_make("headline", profile),
        kind="table",
        stem=directory / "headline",
    )
    origin = {"profile": str(profile.report_name), **provenance(), "runs": run_records(profile, store)}
    build_page(directory, origin, sections, headline=headline)
    return directory / "index.html"
