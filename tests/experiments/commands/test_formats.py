"""YOLO's and VOC's folders as ground truth and detections: the table of the same data in COCO's files."""

import json
from pathlib import Path

import numpy as np
import pytest
from oracles.voc_folder import draw, voc_object, voc_xml

from experiments.cli import main

SIZES = ((512, 256), (256, 256), (1024, 512))  # powers of two, so that fractions of them are exact
NAMES = ("cat", "dog", "zebra")
CROP = 9  # images


class Data:
    """The same boxes in three formats; boxes are whole numbers of pixels, xyxy from 0."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.sizes = [SIZES[i % len(SIZES)] for i in range(CROP)]
        self.objects = [(i, *self._box(generator, i)) for i in range(CROP) for _ in range(generator.integers(0, 5))]
        self.found = []
        for i, name, box in self.objects:
            for _ in range(2):
                moved = np.array(box) + generator.integers(-6, 7, 4)
                moved = np.clip(moved, 0, [*self.sizes[i], *self.sizes[i]])
                if (moved[2:] > moved[:2]).all():
                    label = name if generator.random() < 0.8 else str(generator.choice(NAMES))
                    self.found.append((i, label, tuple(moved.tolist()), round(float(generator.random()), 4)))
        self.found.sort(key=lambda row: row[:2])

    def _box(self, generator: np.random.Generator, image: int) -> tuple[str, tuple[int, ...]]:
        width, height = self.sizes[image]
        x, y = generator.integers(0, width - 90), generator.integers(0, height - 90)
        w, h = generator.integers(8, 90, 2)
        return str(generator.choice(NAMES)), (int(x), int(y), int(x + w), int(y + h))

    def coco(self, folder: Path) -> list[str]:
        """Two json files."""
        folder.mkdir()
        images = [
            {"id": i + 1, "file_name": f"p{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(self.sizes)
        ]
        annotations = [
            {"id": number, "image_id": i + 1, "category_id": NAMES.index(name) + 1, "bbox": _xywh(box), "iscrowd": 0}
            for number, (i, name, box) in enumerate(self.objects, start=1)
        ]
        for item in annotations:
            item["area"] = item["bbox"][2] * item["bbox"][3]
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        rows = [
            {"image_id": i + 1, "category_id": NAMES.index(name) + 1, "bbox": _xywh(box), "score": score}
            for i, name, box, score in self.found
        ]
        (folder / "gt.json").write_text(json.dumps(content))
        (folder / "found.json").write_text(json.dumps(rows))
        return [str(folder / "gt.json"), str(folder / "found.json")]

    def yolo(self, folder: Path) -> list[str]:
        """A data.yaml with images and labels, and a folder of predicted labels."""
        for i, size in enumerate(self.sizes):
            draw(folder / "images" / "val" / f"p{i}.png", size=size)
        self._write_labels(folder / "labels" / "val", [(*row, None) for row in self.objects])
        self._write_labels(folder / "predicted", self.found)
        names = "".join(f"  {k}: {name}\n" for k, name in enumerate(NAMES))
        (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
        return [str(folder), str(folder / "predicted")]

    def _write_labels(self, folder: Path, rows) -> None:
        folder.mkdir(parents=True)
        for i, name, (x1, y1, x2, y2), score in rows:
            width, height = self.sizes[i]
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            values += [] if score is None else [score]
            with (folder / f"p{i}.txt").open("a") as file:
                file.write(" ".join([str(NAMES.index(name)), *map(repr, values)]) + "\n")

    def voc(self, folder: Path) -> list[str]:
        """One folder of xml beside images, and the development kit's result files."""
        for i, size in enumerate(self.sizes):
            own = [voc_object(name, (x1 + 1, y1 + 1, x2, y2)) for j, name, (x1, y1, x2, y2) in self.objects if j == i]
            draw(folder / "JPEGImages" / f"p{i}.png", size=size)
            (folder / "Annotations").mkdir(exist_ok=True)
            (folder / "Annotations" / f"p{i}.xml").write_text(voc_xml(own, filename=f"p{i}.png", size=size))
        results = folder / "results"
        results.mkdir()
        for i, name, (x1, y1, x2, y2), score in self.found:
            with (results / f"comp4_det_val_{name}.txt").open("a") as file:
                file.write(f"p{i} {score} {x1 + 1} {y1 + 1} {x2} {y2}\n")
        return [str(folder), str(results)]


def _xywh(box) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.fixture(scope="module")
def data() -> Data:
    """One made-up data set."""
    return Data()


def table(capsys, command: str, *arguments: str) -> list[dict]:
    """The rows that a command prints."""
    assert main([command, *arguments, "--resamples", "20", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_evaluate_gives_the_table_of_the_coco_pair(tmp_path, capsys, data, form):
    """Every number and bound, classes included, is the same to the bit."""
    sources = {name: getattr(data, name)(tmp_path / name) for name in ("coco", form)}
    tables = [
        table(capsys, "evaluate", "--gt", gt, "--detections", found, "--per-category") for gt, found in sources.values()
    ]
    assert tables[0] == tables[1]
    assert 0.05 < tables[0][0]["value"] < 0.95


def test_compare_takes_formats_in_any_mix(tmp_path, capsys, data):
    """COCO's ground truth beside YOLO's and VOC's detections: a detector against itself differs in nothing."""
    gt, found = data.coco(tmp_path / "coco")
    others = [data.yolo(tmp_path / "yolo")[1], data.voc(tmp_path / "voc")[1]]
    for other in others:
        rows = table(capsys, "compare", "--gt", gt, found, other)
        assert all(row["difference"] in (0, None) for row in rows)


def test_data_yolo_makes_a_folder_of_ours(tmp_path, capsys, data):
    """`data yolo` writes what `evaluate` then takes as COCO's."""
    folder, found = data.yolo(tmp_path / "yolo")
    for name in ("images", "labels"):
        (tmp_path / "yolo" / name / "train").mkdir()
        for path in (tmp_path / "yolo" / name / "val").iterdir():
            (tmp_path / "yolo" / name / "train" / path.name).write_bytes(path.read_bytes())
    assert main(["data", "yolo", folder, str(tmp_path / "ours")]) == 0
    assert f"val: {CROP} images and {len(data.objects)} objects" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "ours")]) == 0
    capsys.readouterr()
    tables = [
        table(capsys, "evaluate", "--gt", gt, "--detections", found)
        for gt in (folder, str(tmp_path / "ours" / "val.json"))
    ]
    assert tables[0] == tables[1]


def test_match_writes_parts_that_evaluate_takes(tmp_path, capsys, data):
    """From YOLO's folders too."""
    gt, found = data.yolo(tmp_path / "yolo")
    parts = tmp_path / "parts"
    for part in (1, 2, 3):
        assert main(["match", "--gt", gt, "--detections", found, "--part", f"{part}/3", "--out", str(parts)]) == 0
    capsys.readouterr()
    tables = [table(capsys, "evaluate", "--gt", gt, "--detections", own) for own in (found, str(parts))]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_part_that_means_nothing_is_refused(tmp_path, capsys, data, part):
    """One line, exit status 2, nothing written."""
    gt, found = data.coco(tmp_path / "coco")
    arguments = ["match", "--gt", gt, "--detections", found, "--part", part, "--out", str(tmp_path / "parts")]
    assert main(arguments) == 2
    assert "--part must be K/N" in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()


def _no_scores(folder: Path) -> None:
    path = next((folder / "predicted").iterdir())
    path.write_text(" ".join(path.read_text().split()[:5]) + "\n")


def _unknown_class(folder: Path) -> None:
    next((folder / "labels" / "val").iterdir()).write_text("7 0.5 0.5 0.1 0.1\n")


def _pixels(folder: Path) -> None:
    next((folder / "labels" / "val").iterdir()).write_text("1 50 60 10 10\n")


def _no_image(folder: Path) -> None:
    (folder / "images" / "val" / "p1.png").write_bytes(b"not an image")


def _no_names(folder: Path) -> None:
    (folder / "data.yaml").write_text("val: images/val\n")


def _no_split(folder: Path) -> None:
    (folder / "data.yaml").write_text("train: images/val\nnames: [a, b, c]\n")


BROKEN = {
    "has 5 numbers, not six": _no_scores,
    "is of class 7; classes are counted from 0, here to 2": _unknown_class,
    "has a value outside 0 to 1": _pixels,
    "not an image": _no_image,
    'has no list "names"': _no_names,
    'has no split "val", but train': _no_split,
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_folder_is_refused_in_one_line(tmp_path, capsys, data, line):
    """What, where and how to fix it; exit status 2."""
    gt, found = data.yolo(tmp_path / "yolo")
    BROKEN[line](tmp_path / "yolo")
    assert main(["evaluate", "--gt", gt, "--detections", found, "--resamples", "0"]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_files_of_no_image_are_told(tmp_path, capsys, data):
    """A txt that no image has is left out, and said once."""
    gt, found = data.yolo(tmp_path / "yolo")
    (Path(found) / "classes.txt").write_text("cat dog\n")
    assert main(["evaluate", "--gt", gt, "--detections", found, "--resamples", "0"]) == 0
    assert "1 txt of no image left out: classes.txt" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_nms_commands_take_the_same_folders(tmp_path, capsys, data, form):
    """`nms-recall` and `nms` read what `evaluate` reads, and answer alike."""
    sources = {name: getattr(data, name)(tmp_path / name) for name in ("coco", form)}
    tables = [table(capsys, "nms-recall", "--gt", gt, "--candidates", found) for gt, found in sources.values()]
    assert tables[0] == tables[1]
    kept = []
    for name, (gt, found) in sources.items():
        out = tmp_path / f"{name}.json"
        assert main(["nms", "--gt", gt, "--candidates", found, "--out", str(out)]) == 0
        kept.append(sorted((row["score"], *row["bbox"]) for row in json.loads(out.read_text())))
    assert kept[0] and np.allclose(kept[0], kept[1], rtol=0, atol=1e-6)
