"""`freeanchor matches`: figures and numbers of one image's bags, for objects from three places."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import tiny_detector, tiny_model

from analysis.bags.matches import MATCH_COLUMNS
from experiments.cli import main
from experiments.commands.matches import checkpoint_names, stage_labels
from freeanchor.checkpoints.native import save_model
from freeanchor.data.images import open_image

NAN = float("nan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, its ground truth, and two runs' files, of networks that find something everywhere."""
    root = tmp_path_factory.mktemp("explore")
    pixels = np.random.default_rng(0).integers(0, 255, (100, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "photo.png")
    for seed, name in enumerate(("one-0123456789/model", "one-0123456789/snapshots/step-000010", "two/model")):
        model = tiny_model(seed, prior_prob=0.5)
        with torch.no_grad():
            model.cls_head.output.weight.mul_(30)
        save_model(root / f"{name}.safetensors", model, tiny_detector(prior_prob=0.5))
    _write_gt(root / "gt.json")
    return root


def _write_gt(path: Path, **image: Any) -> None:
    """Two objects and a crowd in the image, one object in another, under other category ids than the detector's."""
    boxes = ((7, 3, 1, [10, 20, 60, 30], 0), (7, 4, 2, [80.5, 10, 100, 95], 0), (7, 5, 1, [0, 0, 90, 90], 1))
    annotations = [
        {"image_id": image_id, "id": number, "category_id": category, "bbox": box, "iscrowd": crowd, "area": 9.0}
        for image_id, number, category, box, crowd in (*boxes, (8, 6, 1, [1, 1, 20, 20], 0))
    ]
    annotations[0]["part"] = [15.0, 25.0]
    content = {
        "info": {"description": "freeanchor shapes"},
        "images": [{"id": 7, "file_name": "sub/photo.png", **image}, {"id": 8, "file_name": "other.png"}],
        "categories": [{"id": 1, "name": "bar"}, {"id": 2, "name": "dot"}],
        "annotations": annotations,
    }
    path.write_bytes(
        gzip.compress(json.dumps(content).encode()) if path.suffix == ".gz" else json.dumps(content).encode()
    )


def _run(folder: Path, out: Path, *words: object, checkpoints: tuple[str, ...] = ("two/model",)) -> int:
    """The exit status of the command on the image."""
    files = [str(folder / f"{name}.safetensors") for name in checkpoints]
    options = [str(word) for word in words]
    common = ["matches", str(folder / "photo.png"), "--bag-size", "9", "--precision", "float32", "--out", str(out)]
    return main([*common, "--checkpoint", *files, *options])


def test_annotated_objects_have_a_figure_each(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Crowd regions and other images' objects left out, boxes cut at the border, categories found by their names."""
    assert _run(folder, tmp_path / "out", "--gt", folder / "gt.json", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["object"], row["image_id"], row["annotation_id"], row["category"]) for row in rows] == [
        (1, 7, 3, "bar"), (2, 7, 4, "dot"),
    ]  # fmt: skip
    assert [row["box"] for row in rows] == [[10, 20, 60, 30], [80.5, 10, 69.5, 90]]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["matches.csv", "photo-1.png", "photo-2.png"]
    for row in rows:
        assert min(open_image(Path(row["figure"])).size) > 300
    frame = pd.read_csv(tmp_path / "out" / "matches.csv")
    assert list(frame.columns) == [*MATCH_COLUMNS, "stride_x", "stride_y"]
    assert frame.groupby("annotation_id").size().to_dict() == {3: 9, 4: 9}
    assert frame.groupby("annotation_id").part_x.first().fillna(-1).to_dict() == {3: 15.0, 4: -1}
    for row in rows:
        bag = frame[frame.annotation_id == row["annotation_id"]]
        best = bag.loc[bag.weight.idxmax()]
        assert row["effective_anchors"] == pytest.approx(1 / (bag.weight**2).sum(), rel=1e-4)
        assert (row["chosen_rank"], row["chosen_level"]) == (best["rank"], best["level"])
        assert row["chosen_iou"] == pytest.approx(best["iou"])
        assert row["best_iou"] == pytest.approx(bag.iou.max())
        assert row["num_anchors"] == 9 and row["step"] is None


def test_compressed_ground_truth_and_one_object(folder: Path, tmp_path: Path) -> None:
    """The second object alone keeps its number."""
    _write_gt(tmp_path / "gt.json.gz", width=150, height=100)
    assert _run(folder, tmp_path / "out", "--gt", tmp_path / "gt.json.gz", "--object", 2) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["matches.csv", "photo-2.png"]
    assert set(pd.read_csv(tmp_path / "out" / "matches.csv").annotation_id) == {4}


def test_a_box_by_hand(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object of the named category, and a line of numbers."""
    assert _run(folder, tmp_path, "--box", 5, 5, 40, 30, "--category", "box") == 0
    frame = pd.read_csv(tmp_path / "matches.csv")
    assert set(frame.category) == {"box"}
    assert frame[["gt_x1", "gt_y1", "gt_x2", "gt_y2"]].drop_duplicates().to_numpy().tolist() == [[5, 5, 45, 35]]
    assert "1 figure(s) and matches.csv" in capsys.readouterr().out


def test_the_detectors_own_detections(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an object given, those that the last detector finds, the best-scoring first."""
    assert _run(folder, tmp_path / "out", "--min-score", 0.6, "--object", 1, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    main(["detect", str(folder / "photo.png"), "--checkpoint", str(folder / "two/model.safetensors"), "--min-score", "0.6",
          "--out", str(tmp_path / "detected"), "--json", "--precision", "float32"])  # fmt: skip
    best = json.loads(capsys.readouterr().out)[0]
    assert (row["category"], row["box"]) == (best["category"], pytest.approx(best["bbox"], abs=0.02))


def test_several_checkpoints_are_asked_about_the_same_objects(folder: Path, tmp_path: Path) -> None:
    """Runs and steps by the files' names; every one's bag of every object in the csv."""
    names = ("one-0123456789/snapshots/step-000010", "one-0123456789/model", "two/model")
    assert _run(folder, tmp_path, "--gt", folder / "gt.json", checkpoints=names) == 0
    frame = pd.read_csv(tmp_path / "matches.csv")
    bags = frame.groupby(["run", "step", "annotation_id"], dropna=False).size()
    assert len(bags) == 6 and set(bags) == {9}
    assert set(zip(frame.run, frame.step.fillna(-1), strict=True)) == {("one", 10), ("one", -1), ("two", -1)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--box", 5, 5, 40, 30, "--category", "bix"), "knows no category 'bix'; of those it knows: box"),
        (("--box", 5, 5, 400, 30, "--category", "box"), "leaves the image, which is 150x100 pixels"),
        (("--box", -9, 5, 40, 30, "--category", "box"), "leaves the image"),
        (("--box", 5, 5, 0, 30, "--category", "box"), "width and height must be above 0"),
        (("--box", 5, "nan", 9, 30, "--category", "box"), "width and height must be above 0; give X Y W H in pixels"),
        (("--box", 5, 5, 40, 30), "--box and --category belong together"),
        (("--category", "box"), "--box and --category belong together"),
        (("--bag-size", 0), "--bag-size must be at least 1 anchor, got 0"),
        (("--min-score", 1), "nothing scores above 1; lower --min-score"),
        (("--min-score", 50), "--min-score must lie in [0, 1], got 50.0"),
        (("--gt", "GT", "--object", 3), "photo.png has 2 object(s), numbered from 1"),
        (("--gt", "nowhere.json"), "nowhere.json: no such file"),
    ],
)
def test_wrong_input_is_one_clear_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple, message: str
) -> None:
    """Exit status 2, the remedy on stderr, and nothing written."""
    given = [folder / "gt.json" if word == "GT" else word for word in words]
    assert _run(folder, tmp_path / "out", *given) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("freeanchor")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_one_clear_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image that is missing, checkpoints that are missing, given twice or too many, another image's ground truth."""
    checkpoint = str(folder / "two" / "model.safetensors")
    for arguments, message in (
        (["nowhere.png", "--checkpoint", checkpoint], "nowhere.png: no such image"),
        ([str(folder / "photo.png"), "--checkpoint", "nowhere.safetensors"], "no such checkpoint"),
        ([str(folder / "photo.png"), "--checkpoint", checkpoint, checkpoint], "a file is given twice"),
        (
            [str(folder / "photo.png"), "--checkpoint", *(f"{n}.safetensors" for n in range(9))],
            "holds 8 detectors, got 9",
        ),
    ):
        assert main(["matches", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.png")
    _write_gt(tmp_path / "sized.json", width=150, height=100)
    for name, gt, message in (
        ("photo.png", tmp_path / "sized.json", "is 20x20 pixels"),
        ("third.png", folder / "gt.json", "lists no image third.png"),
    ):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
        words = [
            "matches",
            str(tmp_path / name),
            "--checkpoint",
            checkpoint,
            "--gt",
            str(gt),
            "--out",
            str(tmp_path / "o"),
        ]
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/fa-0123456789/model.safetensors"], [("fa", NAN)]),
        (["runs/fa-0123456789/snapshots/step-000070.safetensors"], [("fa", 70)]),
        (["model.safetensors", "step-5.safetensors"], [("model", NAN), ("step-5", 5)]),
        (["mine/door.safetensors"], [("door", NAN)]),
        (["a/run/model.safetensors", "b/run/model.safetensors"], [("a/run/model.safetensors", NAN), ("b/run/model.safetensors", NAN)]),
    ],
)  # fmt: skip
def test_checkpoints_are_named_by_their_paths(paths: list[str], names: list[tuple[str, float]]) -> None:
    """By the run's folder without its fingerprint, or the file; by the whole path where names would be the same."""
    assert str(checkpoint_names([Path(path) for path in paths])) == str([(run, float(step)) for run, step in names])


def test_labels_tell_stages_apart() -> None:
    """By step within a run, by run otherwise, and by both where needed."""
    assert stage_labels([("a", 70), ("a", 3500), ("a", NAN)]) == ["step 70", "step 3,500", "last step"]
    assert stage_labels([("a", NAN), ("b", NAN)]) == ["a", "b"]
    assert stage_labels([("a", 70), ("b", 70), ("b", NAN)]) == ["a, step 70", "b, step 70", "b"]
