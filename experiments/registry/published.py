"""Published results, each with its source and split: the paper's numbers, and detectors that others have trained.

The RetinaNet rows of Table 2 are not a re-run by its authors: digit for digit they are the test-dev numbers of the
RetinaNet paper, and the FreeAnchor rows are test-dev too (the README of the authors' repository says so). Nothing
measured on a validation set can match them digit for digit. The detectors are those of the README of the authors'
repository and of the model zoos of mmdetection, torchvision and detectron2; nothing is fetched here.

    published("table2", "FreeAnchor", "ResNet-50")["ap"]      # 0.387, a fraction
    published_checkpoints("coco", CocoData())[0].url
"""

import re

from experiments.registry.config import DataSource, PublishedCheckpoint
from freeanchor.checkpoints.code_bases import Origin

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
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _fractions(metrics: tuple[str, ...], percents: str) -> dict[str, float]:
    values = [round(float(value) / 100, 4) for value in percents.split()]
    return dict(zip(metrics, values, strict=True))


TABLE_3_ROWS = tuple((detector, backbone, schedule) for detector, backbone, schedule, _ in _lines(_TABLE_3))
README_ROWS = tuple((detector, backbone, "180k") for detector, backbone, _ in _lines(_README))


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


# name | detector | backbone | schedule | AP on val2017 (percent) | path under the root
_MMDETECTION = """
free-anchor-r50         | FreeAnchor | ResNet-50         | 1x | 38.7 | free_anchor/retinanet_free_anchor_r50_fpn_1x_coco/retinanet_free_anchor_r50_fpn_1x_coco_20200130-0f67375f.pth
free-anchor-r101        | FreeAnchor | ResNet-101        | 1x | 40.3 | free_anchor/retinanet_free_anchor_r101_fpn_1x_coco/retinanet_free_anchor_r101_fpn_1x_coco_20200130-358324e6.pth
free-anchor-x101-32x4d  | FreeAnchor | ResNeXt-101-32x4d | 1x | 41.9 | free_anchor/retinanet_free_anchor_x101_32x4d_fpn_1x_coco/retinanet_free_anchor_x101_32x4d_fpn_1x_coco_20200130-d4846968.pth
retinanet-r18           | RetinaNet  | ResNet-18         | 1x | 31.7 | retinanet/retinanet_r18_fpn_1x_coco/retinanet_r18_fpn_1x_coco_20220407_171055-614fd399.pth
retinanet-r50           | RetinaNet  | ResNet-50         | 1x | 36.5 | retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth
retinanet-r50-caffe     | RetinaNet  | ResNet-50         | 1x, Caffe | 36.3 | retinanet/retinanet_r50_caffe_fpn_1x_coco/retinanet_r50_caffe_fpn_1x_coco_20200531-f11027c5.pth
retinanet-r101          | RetinaNet  | ResNet-101        | 1x | 38.5 | retinanet/retinanet_r101_fpn_1x_coco/retinanet_r101_fpn_1x_coco_20200130-7a93545f.pth
retinanet-x101-32x4d    | RetinaNet  | ResNeXt-101-32x4d | 1x | 39.9 | retinanet/retinanet_x101_32x4d_fpn_1x_coco/retinanet_x101_32x4d_fpn_1x_coco_20200130-5c8b7ec4.pth
retinanet-x101-64x4d    | RetinaNet  | ResNeXt-101-64x4d | 1x | 41.0 | retinanet/retinanet_x101_64x4d_fpn_1x_coco/retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth
"""
_TORCHVISION = """
retinanet-r50 | RetinaNet | ResNet-50 | 26 epochs | 36.4 | retinanet_resnet50_fpn_coco-eeacb38b.pth
"""
_DETECTRON2 = """
retinanet-r50     | RetinaNet | ResNet-50  | 1x, jitter 640-800 | 37.4 | retinanet_R_50_FPN_1x/190397773/model_final_bfca0b.pkl
retinanet-r50-3x  | RetinaNet | ResNet-50  | 3x, jitter 640-800 | 38.7 | retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl
retinanet-r101-3x | RetinaNet | ResNet-101 | 3x, jitter 640-800 | 40.4 | retinanet_R_101_FPN_3x/190397697/model_final_971ab9.pkl
"""
# The authors' lie on Google Drive, by these ids; their file names are ours. AP on the
# 5,000 images of val2017, then at six test scales where the README has it.
_AUTHORS = """
free-anchor-r50          | FreeAnchor | ResNet-50         | 90k                  | 38.7 | 1o-VvpOIwYCPxyas8n6OngpOznlVy0T6k
free-anchor-r101         | FreeAnchor | ResNet-101        | 90k                  | 40.5 | 1jc5ncxuuuG3-sm-4OpkOfr51ClwCWHu0
free-anchor-r101-2x      | FreeAnchor | ResNet-101        | 180k, jitter 640-800 | 42.7 | 1OvK8Xona8v7mWU2nf5Fp1QzvwUaFhlIg
free-anchor-r101-2x-wide | FreeAnchor | ResNet-101        | 180k, jitter 480-960 | 43.2 44.7 | 1ZIx2HTexVyU6xTwAm2ABTYjsJuLvlfhB
free-anchor-x101-2x      | FreeAnchor | ResNeXt-101-64x4d | 180k, jitter 640-800 | 44.5 | 1MrtXoBGHceq_BBY5cH-kw2ax5-aDPdTv
free-anchor-x101-2x-wide | FreeAnchor | ResNeXt-101-64x4d | 180k, jitter 480-960 | 45.6 46.8 | 1r17agiu76xtwKxn2oE_pK4R847k-Cu5m
"""
_ROOTS = {
    "mmdetection": "https://download.openmmlab.com/mmdetection/v2.0/",
    "torchvision": "https://download.pytorch.org/models/",
    "detectron2": "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/",
    "authors": "https://drive.google.com/uc?id=",
}
_SOURCES = {
    "mmdetection": "mmdetection's model zoo, val2017",
    "torchvision": "torchvision's weights, val2017",
    "detectron2": "detectron2's model zoo, val2017",
    "authors": "authors' README, minival",
}
# Both of one code base, which trained them alike: the pair to compare where nothing was trained here.
PAIR = ("mmdetection-retinanet-r50", "mmdetection-free-anchor-r50")


def _checkpoint(profile: str, data: DataSource, format: str, row: list[str]) -> PublishedCheckpoint:
    name, detector, backbone, schedule, aps, path = row
    published, *multiscale = ({"ap": round(float(ap) / 100, 4)} for ap in aps.split())
    digits = re.search(r"-([0-9a-f]{8})\.pth$", path)  # of the checksum, in mmdetection's and torchvision's names
    by_hand = "Google Drive answers programs with a page" if format == "authors" else ""
    return PublishedCheckpoint(
        profile=profile,
        name=f"{format}-{name}",
        detector=detector,
        data=data,
        backbone_label=backbone,
        schedule=schedule,
        file=f"authors-{name}.pth" if format == "authors" else path.rpartition("/")[2],
        url=_ROOTS[format] + path,
        sha256=digits[1] if digits else "",
        origin=Origin(
            format=format,
            detector=detector,  # type: ignore[arg-type]
            caffe="caffe" in name,
            norm_eps=0.0 if format == "torchvision" else None,  # its loader sets it for this very file
        ),
        published=published,
        source=_SOURCES[format],
        published_multiscale=multiscale[0] if multiscale else {},
        by_hand=by_hand,
    )


def published_checkpoints(profile: str, data: DataSource) -> tuple[PublishedCheckpoint, ...]:
    """All of them, in the order of the tables: RetinaNet and FreeAnchor by code base and backbone."""
    tables = {"mmdetection": _MMDETECTION, "torchvision": _TORCHVISION, "detectron2": _DETECTRON2, "authors": _AUTHORS}
    return tuple(_checkpoint(profile, data, format, row) for format, table in tables.items() for row in _lines(table))
