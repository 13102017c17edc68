"""Published numbers to stand beside measured ones, each with its source and split. Fractions and seconds.

The RetinaNet rows of Table 2 are not a re-run by its authors: digit for digit they are the test-dev numbers of the
RetinaNet paper, and the FreeAnchor rows are test-dev too (the README of the authors' repository says so). Nothing
measured on a validation set can match them digit for digit.

    published("table2", "FreeAnchor", "ResNet-50")["ap"]      # 0.387
"""

NMS_RECALL = ("nr", "nr_50", "nr_60", "nr_70", "nr_80", "nr_90")
AP_FAMILY = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large")

SOURCES = {
    "table1": "paper, Table 1, val2017",
    "table2": "paper, Table 2, test-dev",
    "table3": "paper, Table 3, test-dev",
    "readme": "authors' README, test-dev",
}

_TABLE_1 = """
RetinaNet  | ResNet-50 | 81.8 98.3 95.7 87.0 71.8 51.3
FreeAnchor | ResNet-50 | 83.8 99.2 97.5 89.5 74.3 53.1
"""

_TABLE_2 = """
RetinaNet  | ResNet-50  | 35.7 55.0 38.5 18.9 38.9 46.3 | 5.02
FreeAnchor | ResNet-50  | 38.7 57.3 41.6 20.2 41.3 50.1 | 5.27
RetinaNet  | ResNet-101 | 37.8 57.5 40.8 20.2 41.1 49.2 | 6.96
FreeAnchor | ResNet-101 | 40.9 59.9 43.8 21.7 43.8 53.0 | 7.26
"""

# detector | backbone | iterations | AP family
_TABLE_3 = """
RetinaNet    | ResNet-101    | 135k | 39.1 59.1 42.3 21.8 42.7 50.2
FoveaBox     | ResNet-101    | 135k | 40.6 60.1 43.5 23.3 45.2 54.5
FSAF         | ResNet-101    | 135k | 40.9 61.5 44.0 24.0 44.2 51.3
FCOS         | ResNet-101    | 180k | 41.5 60.7 45.0 24.4 44.8 51.6
RetinaNet    | ResNeXt-101   | 135k | 40.8 61.1 44.1 24.1 44.2 51.2
FoveaBox     | ResNeXt-101   | 135k | 42.1 61.9 45.2 24.9 46.8 55.6
FSAF         | ResNeXt-101   | 135k | 42.9 63.8 46.3 26.6 46.2 52.7
FCOS         | ResNeXt-101   | 180k | 43.2 62.8 46.6 26.5 46.2 53.3
CornerNet    | Hourglass-104 | 500k | 40.6 56.4 43.2 19.1 42.8 54.3
CenterNet    | Hourglass-104 | 480k | 44.9 62.4 48.1 25.6 47.4 57.4
FreeAnchor   | ResNet-101    | 180k | 43.1 62.2 46.4 24.5 46.1 54.8
FreeAnchor   | ResNeXt-101   | 180k | 44.9 64.3 48.5 26.8 48.3 55.9
FreeAnchor*  | ResNeXt-101   | 180k | 46.0 65.6 49.8 27.8 49.5 57.7
FreeAnchor** | ResNeXt-101   | 180k | 47.3 66.3 51.5 30.6 50.4 59.0
"""

# The wider jitter and multi-scale testing on ResNet-101, which the paper leaves out: AP alone.
_README = """
FreeAnchor*  | ResNet-101 | 43.9
FreeAnchor** | ResNet-101 | 45.2
"""


def _lines(table: str) -> list[list[str]]:
    """The cells of a table written with bars."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _fractions(metrics: tuple[str, ...], percents: str) -> dict[str, float]:
    """Metrics with the fractions that a row's percents stand for."""
    values = [round(float(value) / 100, 4) for value in percents.split()]
    return dict(zip(metrics, values, strict=True))


TABLE_3_ROWS = tuple((detector, backbone, schedule) for detector, backbone, schedule, _ in _lines(_TABLE_3))


def published(table: str, detector: str, backbone: str) -> dict[str, float]:
    """The row of `table` ("table1" to "table3", or "readme") for a detector and a backbone: metric -> value.

    Fractions, and `training_seconds` on the authors' eight V100 (Table 2). Raises KeyError for a row it does not have.
    """
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for name, network, values in _lines(_TABLE_1):
        rows["table1", name, network] = _fractions(NMS_RECALL, values)
    for name, network, values, hours in _lines(_TABLE_2):
        rows["table2", name, network] = {"training_seconds": float(hours) * 3600, **_fractions(AP_FAMILY, values)}
    for name, network, _, values in _lines(_TABLE_3):
        rows["table3", name, network] = _fractions(AP_FAMILY, values)
    for name, network, value in _lines(_README):
        rows["readme", name, network] = _fractions(("ap",), value)
    return rows[table, detector, backbone]
