"""Tables, protocols and pages of `evaluate` and `compare` from the command line, and what is refused there."""

import json
from pathlib import Path

import pandas as pd
import pytest
from oracles.plain_files import random_sets, write_files

from analysis import compare, evaluate
from analysis.evaluation.protocol import Protocol
from analysis.evaluation.suppression import GaussianSoftNms, HardNms
from experiments.cli import main

FEW = ["--resamples", "10"]
PARTS = ["errors", "working_points", "slices", "curves", "images", "confusion"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A ground truth, candidates and slices as files."""
    truth, found = random_sets()
    slices = tmp_path / "slices.csv"
    rows = [{"image_id": int(i), "half": "low" if i < 16 else "high", "metres": float(i)} for i in truth.image_ids]
    pd.DataFrame(rows).to_csv(slices, index=False)
    return (*write_files(tmp_path, truth, found), str(slices))


def printed(capsys, *words: str) -> str:
    """What a command prints; it must end well."""
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_every_table_is_printed_stored_and_drawn(tmp_path, files, capsys) -> None:
    """Text, json, csv and figures of one command hold what the function gives."""
    gt, found, slices = files
    words = ["evaluate", "--gt", gt, "--detections", found, "--errors", "--slices", slices, "--bins", "2", "--images"]
    words += ["--working-point", "--confusion-score", "0.3", "--candidates", found, *FEW]
    result = evaluate(
        gt, found, errors="coco", slices=slices, bins=2, per_image=True, working_point="f1", confusion=0.3,
        candidates=found, resamples=10,
    )  # fmt: skip
    assert list(result.parts) == PARTS
    assert printed(capsys, *words, "--csv", str(tmp_path / "t.csv")) == f"{result}\n"
    rows = json.loads(printed(capsys, *words, "--json"))
    assert list(rows) == ["metrics", *PARTS]
    for name, table in (("metrics", result.table), *result.parts.items()):
        stem = "t.csv" if name == "metrics" else f"t-{name}.csv"
        stored = pd.read_csv(tmp_path / stem, keep_default_na=False, na_values=[""])
        assert len(stored) == len(rows[name]) == len(table) and list(stored) == list(table)


def test_figures_are_written_beside_their_data(tmp_path, files, capsys, monkeypatch) -> None:
    """A png, a pdf and a csv of the main table and of every other one."""
    monkeypatch.setattr("analysis.figures.style.figure_bytes", lambda figure, suffix: suffix.encode())  # slow to render
    gt, found, _ = files
    printed(capsys, "evaluate", "--gt", gt, "--detections", found, "--errors", "--figures", str(tmp_path / "f"), *FEW)
    wanted = {f"{name}.{suffix}" for name in ("metrics", "errors") for suffix in ("png", "pdf", "csv")}
    assert {path.name for path in (tmp_path / "f").iterdir()} == wanted


def test_json_stays_a_list_where_nothing_more_is_asked(files, capsys) -> None:
    """Programs that read the main table go on reading it."""
    gt, found, _ = files
    rows = json.loads(printed(capsys, "evaluate", "--gt", gt, "--detections", found, "--json", "--resamples", "0"))
    assert isinstance(rows, list) and rows[0]["metric"] == "ap"


@pytest.mark.parametrize(
    ("options", "suppression"),
    [
        (["--nms", "0.3"], HardNms(nms_iou=0.3)),
        (["--soft-nms", "gaussian", "--sigma", "0.4"], GaussianSoftNms(sigma=0.4)),
    ],
)
def test_a_detector_is_compared_with_itself_after_nms(files, capsys, options, suppression) -> None:
    """One command: error types with paired intervals, fewer duplicates, all scores kept."""
    gt, found, _ = files
    result = compare(gt, found, suppression, resamples=10)
    assert printed(capsys, "compare", "--gt", gt, found, *options, *FEW) == f"{result}\n"
    errors = result.parts["errors"].set_index(["error", "measure"])
    duplicates = errors.loc[("duplicate", "num")]
    assert (duplicates["second"] < duplicates["first"]) == (options[0] == "--nms")  # soft-NMS keeps every box
    assert duplicates["low"] <= duplicates["difference"] <= duplicates["high"]
    assert "after" in result.title


def test_protocols_and_classes_are_taken_from_options(files, capsys) -> None:
    """Sizes, aspects, crowds, detections and thresholds; classes with differences."""
    gt, found, _ = files
    options = [
        "--sizes",
        "20",
        "60",
        "--aspects",
        "2",
        "--crowds",
        "1",
        "6",
        "--max-detections",
        "20",
        "--ious",
        "0.4",
        "0.6",
    ]
    protocol = Protocol(
        size_cuts=(20, 60), aspect_cuts=(2,), crowd_edges=(1, 6), max_detections=20, iou_thresholds=(0.4, 0.6)
    )
    result = compare(gt, found, found, protocol=protocol, per_category=True, resamples=10)
    names = set(result.table["metric"])
    assert {"ap_40", "ap_60", "ap_size_20_60", "ap_aspect_2_plus", "ap_objects_1_5", "ar_20", "ap_category"} <= names
    assert (result.table["label"] != "").sum() == 3
    assert printed(capsys, "compare", "--gt", gt, found, found, *options, "--per-category", *FEW) == f"{result}\n"


def test_a_page_is_written_with_everything_on_it(tmp_path, files, capsys) -> None:
    """`--html` alone asks for errors, curves and classes."""
    gt, found, _ = files
    page = tmp_path / "page.html"
    printed(capsys, "compare", "--gt", gt, found, found, "--html", str(page), *FEW)
    text = page.read_text(encoding="utf-8")
    for heading in ("Headline", "Error types", "Precision and recall", "Classes", "Images where the two differ most"):
        assert f">{heading}</h2>" in text
    printed(capsys, "evaluate", "--gt", gt, "--detections", found, "--html", str(page), *FEW)
    assert "Images that are worst</h2>" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["compare", "A"], "compare: give either a second file, or --nms or --soft-nms"),
        (["compare", "A", "A", "--nms", "0.5"], "compare: give either a second file, or --nms or --soft-nms"),
        (["compare", "A", "A", "--bins", "many"], "--bins must be a whole number or name=edge,edge"),
        (["compare", "A", "A", "--ious", "0.5", "2"], "--ious must lie below 1"),
        (["compare", "A", "A", "--sizes", "96", "32"], "--sizes must rise, all above 0, got 96 32"),
        (["compare", "A", "A", "--precision", "90"], "--precision must be"),
        (["compare", "A", "A", "--slices", "none.csv"], "none.csv: no such file"),
        (["evaluate", "--detections", "A", "--check", "--max-detections", "300"], "--check needs COCO's own"),
        (
            ["evaluate", "--detections", "A", "--html", "p.html", "--photos", "."],
            "--photos must be the folder of the images",
        ),
    ],
)
def test_options_that_mean_nothing_end_with_one_line(tmp_path, files, capsys, monkeypatch, options, message) -> None:
    """Exit status 2, the option's own name, nothing written."""
    monkeypatch.chdir(tmp_path)
    words = [files[1] if word == "A" else word for word in options]
    assert main([*words[:1], "--gt", files[0], *words[1:], *FEW]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "p.html").exists()
