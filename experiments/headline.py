"""The result in one table: both detectors, their difference, and the difference the paper reports.

frame = headline_frame(profile, store, gains)
"""

import math
from dataclasses import replace

import pandas as pd

from analysis.tables.cells import TableLayout
from experiments.registry.config import CocoData
from experiments.registry.profile import DETECTORS, Profile
from experiments.registry.published import SOURCES, published
from experiments.runs.measured import NOT_RUN, pair_frame
from experiments.runs.store import Store

ROWS = {
    "ap": "AP",
    "ap_50": "AP50",
    "ap_75": "AP75",
    "ap_slender": "AP, slender objects (3:1 and beyond)",
    "ap_square": "AP, square objects (up to 4:3)",
    "ap_objects_1_3": "AP, 1 to 3 objects a picture",
    "ap_objects_4_7": "AP, 4 to 7 objects",
    "ap_objects_8_12": "AP, 8 to 12 objects",
    "ap_objects_13_plus": "AP, 13 objects and more",
    "nr": "NMS recall, mean of 0.50 to 0.90",
    "nr_70": "NMS recall at 0.70",
    "nr_90": "NMS recall at 0.90",
}
LAYOUT = TableLayout(
    title="In one table",
    labels={"what": "Metric (percent)"},
    metrics={"retinanet": "RetinaNet", "freeanchor": "FreeAnchor", "gain": "Gain"},
    caption="Small backbone; in brackets 95 % intervals over validation pictures, paired for the gain; ± the standard "
    "deviation over seeds, where there are several. The paper's lines are ResNet-50 on COCO, for the metrics that it "
    "gives as numbers.",
)


def headline_layout(profile: Profile) -> TableLayout:
    """The table's layout, saying which two detectors it is of where they are not the small ones."""
    if all("-small-" in name for name in profile.pair):
        return LAYOUT
    return replace(LAYOUT, caption=LAYOUT.caption.replace("Small backbone", " and ".join(profile.pair)))


def _in_the_paper(metric: str) -> dict[str, float]:
    """Both detectors on ResNet-50 in the paper's Tables 1 and 2, and their difference; nan where there is none."""
    table = "table1" if metric.startswith("nr") else "table2"
    values = {name.lower(): published(table, name, "ResNet-50").get(metric, math.nan) for name in DETECTORS}
    return {**values, "gain": values["freeanchor"] - values["retinanet"]}


def headline_frame(profile: Profile, store: Store, gains: pd.DataFrame) -> pd.DataFrame:
    """A row a cell of the table: what, metric (the column), value, low, high, n_seeds; nan where not run."""
    pair = pair_frame(profile, store)
    columns = {name.lower(): pair[pair["detector"] == name].set_index("metric") for name in DETECTORS}
    columns["gain"] = gains.set_index("metric")
    rows = []
    for metric, what in ROWS.items():
        head = {"profile": profile.name, "run": " ".join(run for pair in profile.pairs for run in pair), "what": what}
        head["split"] = "val2017" if isinstance(profile.data, CocoData) else "val"
        if set(profile.pair) <= set(profile.zoo):
            head["measured_as"] = "checkpoint beside the paper"
        paper = _in_the_paper(metric)
        for column, frame in columns.items():
            cell = dict(frame.loc[metric, list(NOT_RUN)]) if metric in frame.index else NOT_RUN
            source = SOURCES["table1" if metric.startswith("nr") else "table2"]
            known = {"published": paper[column], "source": source}
            rows.append({**head, "metric": column, **cell, **known})
    backbone = profile.evaluations[profile.pair[0]].training.backbone_label
    return pd.DataFrame(rows).assign(detector="", backbone=backbone)
