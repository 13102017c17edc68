"""`freeanchor compare`: anybody's two detectors on the same images, with paired intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
from miniature import Mini

from experiments.cli import main
from experiments.runs.measured import measurements
from freeanchor.data.coco import locate_split


@pytest.fixture
def files(mini: Mini) -> list[str]:
    """Ground truth, RetinaNet's detections, FreeAnchor's."""
    runs = [mini.profile.evaluations[name] for name in mini.profile.pair]
    gt = locate_split(mini.store.data(runs[0].training), "val")[0]
    return [str(gt), *(str(run.directory(mini.store.runs) / "detections.json") for run in runs)]


def _rows(capsys: pytest.CaptureFixture[str], gt: str, first: str, second: str, *options: str) -> dict[str, dict]:
    assert main(["compare", "--gt", gt, first, second, "--resamples", "60", "--json", *options]) == 0
    return {row["metric"]: row for row in json.loads(capsys.readouterr().out)}


def test_both_sides_and_their_difference(mini: Mini, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each side is what was measured on that run, the difference is second minus first, inside its interval."""
    rows = _rows(capsys, *files)
    ours = [measurements(mini.profile.evaluations[name], mini.store).set_index("metric") for name in mini.profile.pair]
    assert {"ap", "ap_50", "ap_slender", "ap_square", "ap_objects_1_3", "ap_small"} <= set(rows)
    for name, row in rows.items():
        if row["difference"] is None:
            continue
        assert row["first"] == pytest.approx(ours[0].loc[name, "value"], abs=1e-9)
        assert row["second"] == pytest.approx(ours[1].loc[name, "value"], abs=1e-9)
        assert row["difference"] == pytest.approx(row["second"] - row["first"], abs=1e-12)
        assert row["low"] <= row["high"]
    assert any(row["difference"] for row in rows.values())


def test_a_detector_against_itself_is_nothing(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Paired: every resampling takes the same images for both."""
    rows = _rows(capsys, files[0], files[1], files[1])
    differences = np.array([[row["difference"], row["low"], row["high"]] for row in rows.values()], dtype=float)
    assert np.nanmax(np.abs(differences)) == 0


def test_turned_round_the_signs_turn(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """B against A is A against B with the other sign, intervals too."""
    one, other = _rows(capsys, *files), _rows(capsys, files[0], files[2], files[1])
    for name, row in one.items():
        if row["difference"] is not None:
            assert other[name]["difference"] == pytest.approx(-row["difference"], abs=1e-12)
            assert other[name]["low"] == pytest.approx(-row["high"], abs=1e-9)


def test_a_table_for_people(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json, one line per metric under headings."""
    assert main(["compare", "--gt", *files, "--resamples", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "first", "second", "difference", "low", "high"]
    assert len(lines) > 10


@pytest.mark.parametrize(("place", "part"), [(0, "none.json"), (1, "none.json"), (2, "none.json")])
def test_a_missing_file_is_one_line(
    files: list[str], tmp_path: Path, place: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever of the three it is."""
    files[place] = str(tmp_path / "none.json")
    assert main(["compare", "--gt", *files]) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1


def test_too_few_resamples_are_refused(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An interval of one resampling is none."""
    assert main(["compare", "--gt", *files, "--resamples", "1"]) == 2
    assert "--resamples" in capsys.readouterr().err
