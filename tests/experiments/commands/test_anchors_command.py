"""`freeanchor anchors`: a table, json, csv and a figure of how grids fit a data set's objects; bad input in one line."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from oracles.coco_folder import annotation, small_content

from experiments.cli import main
from experiments.reports import anchors
from experiments.reports.anchors import GIVEN, Grid, fit_frame, read_sample, recommended

FEW = [Grid(pyramid="P2-P6"), Grid(short_side=448, max_long_side=746)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two jsons without any image, of slender and square objects; compared with two grids alone."""
    monkeypatch.setattr(anchors, "grids", lambda given: [given, *(grid for grid in FEW if grid != given)])
    folder = tmp_path / "my ponds"
    folder.mkdir()
    content = small_content(4, size=(300, 200), num_objects=3)
    content["annotations"].append(annotation(99, 10, 5, [10, 10, 200, 20]))
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "val.json").write_text(json.dumps(small_content(2, size=(300, 200), seed=5)))
    return folder


def _json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["anchors", *map(str, words), "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_it_prints_the_given_grid_every_grid_and_a_recommendation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was looked at, the given grid by group of objects, the grids from the cheapest on, one sentence."""
    assert main(["anchors", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    heading, given, table, sentence = captured.out.strip().split("\n\n")
    assert heading == ("my ponds: train split, 4 of 4 images with objects, 13 objects; median image 300 x 200 px")
    lines = given.splitlines()
    assert lines[0] == "Given grid: P3-P7, 4 strides, 224 px (long side at most 336 px)"
    groups = {line.split()[0]: line.split()[1] for line in lines[2:]}
    assert groups["all"] == "13" and groups["slender"] == "1" and "large" not in groups
    assert [line[:24] for line in table.splitlines()[2:]] == [
        "P3-P7, 4 strides, 224 px", "P2-P6, 4 strides, 224 px", "P3-P7, 4 strides, 448 px",
    ]  # fmt: skip
    assert sentence.startswith("Recommended: P2-P6, 4 strides, 224 px (long side at most 336)")
    assert "cheapest of 3 grids under which the median object's 50th anchor reaches IoU 0.40" in sentence


def test_json_and_csv_hold_the_same_numbers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All groups and ranks; a rank that is not reached is null; the recommendation as a grid and as a sentence."""
    answer = _json(capsys, folder, "--csv", tmp_path / "fit.csv")
    frame = fit_frame(read_sample(folder), [GIVEN, *FEW])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "fit.csv"), frame)
    assert answer["recommended"] == vars(recommended(frame)) and answer["given"] == vars(GIVEN)
    assert (answer["data"], answer["split"], answer["num_images"], answer["num_objects"]) == (
        "my ponds",
        "train",
        4,
        13,
    )
    assert len(answer["grids"]) == 3
    for entry in answer["grids"]:
        grid = Grid(**{name: entry[name] for name in vars(GIVEN)})
        for group, metrics in entry["groups"].items():
            rows = frame[anchors.is_of(frame, grid) & (frame["group"] == group)].set_index("metric")["value"]
            assert metrics["median_iou"] == [rows[f"iou_{rank}"] for rank in range(1, 101)]
            assert metrics["share_50"] == rows["share_50"]
            assert (metrics["rank_44"] is None) == pd.isna(rows["rank_44"])
    assert answer["grids"][0]["groups"]["all"]["relative_cost"] == 1


def test_a_json_alone_and_the_other_split_will_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--gt` names no split; `--split val` reads the other file of the folder."""
    by_file = _json(capsys, "--gt", folder / "val.json")
    by_split = _json(capsys, folder, "--split", "val")
    assert by_file.pop("split") is None and by_split.pop("split") == "val"
    assert by_file.pop("data") == "val.json" and by_split.pop("data") == "my ponds"
    assert by_file == by_split and by_file["num_objects"] == 4


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["--short-side", "800"], Grid(short_side=800, max_long_side=1333)),
        (["--short-side", "512", "--max-long-side", "512"], Grid(short_side=512, max_long_side=512)),
        (["--max-long-side", "300"], Grid(max_long_side=300)),
        (["--pyramid", "P2-P6", "--anchor-strides", "2.5"], Grid(pyramid="P2-P6", anchor_strides=2.5)),
    ],
)
def test_the_given_grid_is_the_options(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], given: Grid
) -> None:
    """A short side alone takes COCO's ratio; costs are relative to the given grid."""
    answer = _json(capsys, folder, *options)
    assert answer["given"] == vars(given)
    assert {name: answer["grids"][0][name] for name in vars(given)} == vars(given)
    assert answer["grids"][0]["groups"]["all"]["relative_cost"] == 1


def test_a_grid_that_obeys_is_recommended_as_it_is_and_a_poor_one_as_the_nearest(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says which of the two it is."""
    own = _json(capsys, folder, "--pyramid", "P2-P6")["recommendation"]
    assert own.startswith("Recommended: P2-P6, 4 strides, 224 px") and own.endswith(", the given grid.")
    monkeypatch.setattr(anchors, "grids", lambda given: [given])
    poor = _json(capsys, folder, "--anchor-strides", "40")["recommendation"]
    assert "under none of 1 grids" in poor and "comes nearest (0.0" in poor


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_figure_is_written_as_its_name_says(folder: Path, tmp_path: Path, suffix: str, start: bytes) -> None:
    """In any of three formats, and folders are made."""
    path = tmp_path / "new" / f"fit.{suffix}"
    assert main(["anchors", str(folder), "--figure", str(path)]) == 0
    assert path.read_bytes().startswith(start)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["{folder}", "--short-side", "0"], "--short-side must be 1 to 10,000 pixels, got 0"),
        (["{folder}", "--max-long-side", "99999"], "--max-long-side must be 1 to 10,000 pixels, got 99999"),
        (["{folder}", "--short-side", "300", "--max-long-side", "200"], "at least the short side, 300, got 200"),
        (["{folder}", "--anchor-strides", "0"], "--anchor-strides must be above 0 and at most 64, got 0.0"),
        (["{folder}", "--anchor-strides", "nan"], "--anchor-strides must be above 0"),
        (["{folder}", "--anchor-strides", "inf"], "--anchor-strides must be above 0"),
        (["{folder}", "--max-images", "-1"], "--max-images must not be negative, got -1; 0 takes all"),
        (["{folder}", "--figure", "fit.bmp"], "--figure must end in .png, .pdf, .svg, got fit.bmp"),
        (["{folder}", "--gt", "{folder}/train.json"], "give either a folder with train.json, or a COCO json by --gt"),
        ([], "give either a folder with train.json, or a COCO json by --gt"),
        (["--gt", "{folder}"], "is a folder; give the json in it"),
        (["{folder}/nowhere"], "no such data folder; give one that holds train.json"),
        (["--gt", "{folder}/nowhere.json"], "nowhere.json: no such"),
        (["{folder}/.."], "holds no train.json; give a folder that does"),
        (["--gt", "{folder}/list.json"], "not a COCO object; is it a results file? give the ground truth"),
        (["--gt", "{folder}/crowd.json"], "holds no object, so no anchor can fit one; give a file with boxes"),
        (["--gt", "{folder}/text.json"], "not valid json"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], part: str
) -> None:
    """Status 2, what is wrong and how to fix it; nothing is written."""
    crowd = small_content(1)
    for item in crowd["annotations"]:
        item["iscrowd"] = 1
    (folder / "list.json").write_text("[]")
    (folder / "crowd.json").write_text(json.dumps(crowd))
    (folder / "text.json").write_text("no json")
    out = tmp_path / "out.csv"
    command = [word.format(folder=folder) for word in words]
    assert main(["anchors", *command, "--csv", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("freeanchor: ") and part in captured.err
    assert not out.exists()


def test_a_folder_with_the_other_split_alone_is_told_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The remedy names the option."""
    (folder / "train.json").unlink()
    assert main(["anchors", str(folder)]) == 2
    assert "holds no train.json; give --split val" in capsys.readouterr().err
