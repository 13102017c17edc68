"""Published numbers, against a second transcription from the paper's tables, in its own units."""

import pytest

from experiments.registry.published import AP_FAMILY, NMS_RECALL, SOURCES, TABLE_3_ROWS, published

R50, R101, X101, HOURGLASS = "ResNet-50", "ResNet-101", "ResNeXt-101", "Hourglass-104"
NR = {"RetinaNet": (81.8, 98.3, 95.7, 87.0, 71.8, 51.3), "FreeAnchor": (83.8, 99.2, 97.5, 89.5, 74.3, 53.1)}
AP = {  # AP, AP50, AP75, APS, APM, APL, hours on eight V100
    ("FreeAnchor", R50): (38.7, 57.3, 41.6, 20.2, 41.3, 50.1, 5.27),
    ("FreeAnchor", R101): (40.9, 59.9, 43.8, 21.7, 43.8, 53.0, 7.26),
    ("RetinaNet", R50): (35.7, 55.0, 38.5, 18.9, 38.9, 46.3, 5.02),
    ("RetinaNet", R101): (37.8, 57.5, 40.8, 20.2, 41.1, 49.2, 6.96),
}
LONG = {
    ("FreeAnchor", R101): (43.1, 62.2, 46.4, 24.5, 46.1, 54.8),
    ("FreeAnchor", X101): (44.9, 64.3, 48.5, 26.8, 48.3, 55.9),
    ("FreeAnchor*", X101): (46.0, 65.6, 49.8, 27.8, 49.5, 57.7),
    ("FreeAnchor**", X101): (47.3, 66.3, 51.5, 30.6, 50.4, 59.0),
}
SECONDS = {
    ("FreeAnchor", R50): 0.211,
    ("RetinaNet", R50): 0.201,
    ("FreeAnchor", R101): 0.290,
    ("RetinaNet", R101): 0.278,
}


def _percents(row: dict[str, float], metrics: tuple[str, ...]) -> object:
    return pytest.approx([100 * row[metric] for metric in metrics], abs=1e-7)


def test_every_number_is_the_papers() -> None:
    """NR and NR50 to NR90; the AP family and the hours of Table 2; FreeAnchor's long schedules, all of 180k steps.

    90,000 steps at the published pace take the published hours.
    """
    for detector, percents in NR.items():
        assert list(percents) == _percents(published("table1", detector, R50), NMS_RECALL)
    for key, (*percents, hours) in AP.items():
        row = published("table2", *key)
        assert percents == _percents(row, AP_FAMILY)
        assert row["training_seconds"] == pytest.approx(3600 * hours)
        assert row["training_seconds"] / 90_000 == pytest.approx(SECONDS[key], abs=5e-4)
    for key, percents in LONG.items():
        assert list(percents) == _percents(published("table3", *key), AP_FAMILY)
        assert (*key, "180k") in TABLE_3_ROWS


def test_table_3_has_the_papers_other_detectors() -> None:
    """Ten rows of others: RetinaNet, FoveaBox, FSAF and FCOS on two backbones, CornerNet and CenterNet on one."""
    others = {(detector, backbone) for detector, backbone, _ in TABLE_3_ROWS if not detector.startswith("FreeAnchor")}
    families = ("RetinaNet", "FoveaBox", "FSAF", "FCOS")
    expected = {(name, backbone) for name in families for backbone in (R101, X101)}
    assert others == expected | {("CornerNet", HOURGLASS), ("CenterNet", HOURGLASS)}
    assert published("table3", "RetinaNet", R101)["ap"] == pytest.approx(0.391)
    assert published("table3", "RetinaNet", X101)["ap"] == pytest.approx(0.408)
    assert len(TABLE_3_ROWS) == len({row[:2] for row in TABLE_3_ROWS}) == 14


def test_rows_are_consistent_in_themselves() -> None:
    """Fractions, AP75 below AP50, AP between them, small below medium below large, NR falling with tau."""
    keys = [("table2", *key) for key in AP] + [("table3", *row[:2]) for row in TABLE_3_ROWS]
    for key in keys:
        row = published(*key)
        assert 0 < row["ap"] < row["ap_75"] < row["ap_50"] < 1
        assert row["ap_small"] < row["ap_medium"] < row["ap_large"]
    for detector in NR:
        row = published("table1", detector, R50)
        values = [row[metric] for metric in NMS_RECALL[1:]]
        assert values == sorted(values, reverse=True)
        assert values[-1] < row["nr"] < values[0]


def test_sources_say_table_and_split() -> None:
    """Table 1 is measured on val2017, Tables 2 and 3 and the authors' README rows on test-dev."""
    splits = {table: source.rpartition(", ")[2] for table, source in SOURCES.items()}
    assert splits == {"table1": "val2017", **dict.fromkeys(("table2", "table3", "readme"), "test-dev")}


@pytest.mark.parametrize("key", [("table1", "FreeAnchor", R101), ("table2", "FCOS", R50), ("table4", "RetinaNet", R50)])
def test_rows_the_paper_does_not_have_are_no_rows(key: tuple[str, str, str]) -> None:
    """A KeyError, never an empty row."""
    with pytest.raises(KeyError):
        published(*key)


def test_the_authors_readme_adds_resnet_101_rows() -> None:
    """Wider jitter and multi-scale testing on ResNet-101 stand in the authors' README alone, as AP."""
    assert [published("readme", name, R101) for name in ("FreeAnchor*", "FreeAnchor**")] == [
        {"ap": 0.439},
        {"ap": 0.452},
    ]
