"""From a folder of Pascal VOC's xml to a trained, tested detector, by the documented commands alone."""

import json
from pathlib import Path

import pandas as pd
import pytest
from oracles.voc_folder import CAT, DOG, voc_object, write_official

from experiments.cli import main


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC's own layout: six images that train, two that validate, two classes."""
    names = [f"p{number}" for number in range(8)]
    objects = {name: [voc_object(DOG if number % 2 else CAT, (3, 4, 25, 20))] for number, name in enumerate(names)}
    return write_official(tmp_path / "VOC2012", objects, {"train": names[:6], "val": names[6:]})


def test_voc_trains_and_evaluates(
    voc: Path,
    tmp_path: Path,
    small_backbone: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Convert, check, train, predict, evaluate: each ends well, and the last reads what the first wrote."""
    monkeypatch.setattr("experiments.registry.sizes.MOST_IMAGES", 96)
    folder = tmp_path / "pets"
    assert main(["data", "voc", str(voc), str(folder)]) == 0
    assert main(["data", "check", str(folder)]) == 0
    places = [f"--{name}={tmp_path / name}" for name in ("runs", "drawn", "reports")]
    options = ["--profile", "photos", "--data", str(folder), *places, *small_backbone]
    assert main(["train", "freeanchor-small-s0", *options]) == 0
    assert main(["predict", "freeanchor-small-s0", *options]) == 0
    found = next((tmp_path / "runs").rglob("detections.json"))
    capsys.readouterr()
    out = tmp_path / "answer.csv"
    command = ["evaluate", "--gt", str(folder / "val.json"), "--detections", str(found), "--resamples", "10"]
    assert main([*command, "--csv", str(out)]) == 0
    answer = pd.read_csv(out).set_index("metric")
    assert answer.loc["ap", "num_objects"] == 2
    measured = pd.read_csv(found.parent / "measurements.csv").set_index("metric")
    assert answer.loc["ap", "value"] == pytest.approx(measured.loc["ap", "value"], nan_ok=True)


def test_the_boxes_are_vocs(voc: Path, tmp_path: Path) -> None:
    """Pixels counted from 1, the last one inside: 3 to 25 is 2 and 23 wide."""
    assert main(["data", "voc", str(voc), str(tmp_path / "pets")]) == 0
    content = json.loads((tmp_path / "pets" / "train.json").read_text())
    assert {tuple(item["bbox"]) for item in content["annotations"]} == {(2, 3, 23, 17)}
    assert [item["name"] for item in content["categories"]] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "voc", "somewhere"], "required: destination"),
        (["data", "check", "somewhere", "elsewhere"], "unrecognized arguments: elsewhere"),
    ],
)
def test_the_number_of_folders_is_checked(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, the usage and one line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
