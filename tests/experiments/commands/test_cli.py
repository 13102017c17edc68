"""The front door: exit statuses, one line for bad input, examples for the lost, json for programs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from miniature import Mini
from oracles.coco_folder import small_content, write_both
from PIL import Image
from tiny import tiny_detector, tiny_model

from analysis.coco.reading import read_detections, read_ground_truth
from analysis.coco.record import coco_statistics
from analysis.evaluation.nms_recall import NmsRecallDefinition, nms_recall_table, object_recall
from analysis.evaluation.suppression import HardNms
from experiments.cli import main
from freeanchor.checkpoints.native import save_model

COMMANDS = (
    "train", "predict", "show", "report", "list", "plan", "data", "detect", "evaluate", "compare", "nms-recall", "nms",
    "anchors",
)  # fmt: skip
WEIGHT_COMMANDS = ("convert", "export", "replay")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A small folder of images, good as yet."""
    return write_both(tmp_path / "photos")


@pytest.fixture
def where(tmp_path: Path, photos: Path, small_backbone: list[str]) -> list[str]:
    """Options that keep everything in a folder of the test's own."""
    options = {"--profile": "photos", "--data": photos}
    options |= {f"--{name}": tmp_path / name for name in ("runs", "drawn", "reports")}
    return [*(str(part) for option in options.items() for part in option), *small_backbone]


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A model file of ours."""
    save_model(tmp_path / "model.safetensors", tiny_model(prior_prob=0.5), tiny_detector(prior_prob=0.5))
    return str(tmp_path / "model.safetensors")


def _refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *parts: str) -> None:
    """The command ends with status 2 and a single line on stderr that holds `parts`."""
    status = main(arguments)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "it/s" not in line and "?step" not in line]
    lines = [line for line in lines if "learning rate" not in line]  # what a training prints before it starts
    assert status == 2
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("freeanchor: ")
    assert captured.out == "" or arguments[:2] == ["data", "check"]  # which lists what it found
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`freeanchor COMMAND --help` shows how to call it."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example: freeanchor {command}" in capsys.readouterr().out


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`freeanchor --help` names each with what it does."""
    with pytest.raises(SystemExit):
        main(["--help"])
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert {*COMMANDS, *WEIGHT_COMMANDS} <= set(first_words)


def test_the_front_door_opens_without_torch() -> None:
    """Help must not wait for the seconds that torch takes to load."""
    code = "import sys; from experiments.cli import build_parser; build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["paint"], ["train"], ["detect", "a.jpg"], ["list", "--profle", "mini"]])
def test_misspelt_command_lines_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown commands and options, and missing ones; one line says which, and where all are listed or what is near."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("freeanchor") and ("--help has all" in said or "did you mean" in said)


def test_an_option_of_another_command_is_not_proposed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--out` is known to others alone: proposing it would send the reader in a circle; `--precison` has a neighbour."""
    for given, near in (("--out", None), ("--precison", "--precision")):
        with pytest.raises(SystemExit):
            main(["cost", "small", given, "x"])
        said = capsys.readouterr().err
        assert f"unrecognized arguments: {given} x" in said
        assert ("did you mean" in said) == (near is not None)
        assert near is None or f"did you mean {near}?" in said


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["list", "--profile", "shape"], ["unknown profile 'shape'", "did you mean shapes?"]),
        (["list", "--profile", "xyz"], ["choose one of shapes, photos, coco"]),
        (["train", "freeanchor-smal-s0"], ["no run 'freeanchor-smal-s0'", "freeanchor-small-s0"]),
        (["show", "freeanchor-small-s1"], ["did you mean freeanchor-small-s0"]),
        (["report", "tabel2"], ["no report 'tabel2'", "did you mean table2"]),
        (["list", "--profile", "photos"], ["--data DIR"]),
        (["list", "--seeds", "0"], ["--seeds must be at least 1"]),
        (["predict", "freeanchor-small-s0", "--runs", "/nowhere"], ["not trained yet", "freeanchor train"]),
        (["data", "draw", "nothing"], ["no run 'nothing'"]),
        (["train", "freeanchor-small-s0", "--profile", "mini", "--device", "cuda:99"], ["cuda:99"]),
        (["train", "freeanchor-small-s0", "--profile", "mini", "--device", "gpu"], ["gpu"]),
        (["train", "freeanchor-small-s0", "--profile", "mini", "--threads", "-1"], ["threads"]),
        (["train", "freeanchor-small-s0", "--profile", "mini", "--workers", "-1"], ["workers"]),
    ],
)
def test_wrong_names_and_numbers_get_a_suggestion(
    arguments: list[str],
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
    mini: Mini,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Profiles, runs, reports, devices and counts that mean nothing."""
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train":
        arguments = [*arguments, "--drawn", str(mini.store.drawn)]
    _refused(capsys, arguments, *parts)


@pytest.mark.parametrize("command", [["train", "freeanchor-small-s0"], ["list"], ["plan"], ["report", "table2"]])
def test_a_wrong_folder(
    command: list[str], where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is not there, and one that holds no data set."""
    place = where.index("--data") + 1
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        _refused(capsys, [*command, *where[:place], str(folder), *where[place + 1 :]], folder.name)


def test_a_json_without_images(photos: Path, where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list, and no list at all."""
    content = small_content(2)
    for broken in ({**content, "images": []}, {key: content[key] for key in ("annotations", "categories")}):
        (photos / "train.json").write_text(json.dumps(broken))
        _refused(capsys, ["train", "freeanchor-small-s0", *where], "train.json", "images")


def test_a_category_without_an_id(photos: Path, where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the front door reads first is checked as well as the rest."""
    content = small_content(2)
    (photos / "train.json").write_text(json.dumps({**content, "categories": [{"name": "dot"}]}))
    _refused(capsys, ["train", "freeanchor-small-s0", *where], "train.json")


@pytest.mark.parametrize("bad", ["missing", "truncated"])
@pytest.mark.parametrize("command", [["train", "retinanet-small-s0"], ["data", "check"]])
def test_a_bad_image(
    command: list[str], bad: str, photos: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing or truncated, the image is named, in training and in a check of the folder."""
    for path in (photos / "images").glob("train-*.png"):
        content = path.read_bytes()
        path.unlink()
        if bad == "truncated":
            path.write_bytes(content[:-500])
    if command[0] == "train":
        _refused(capsys, [*command, *where], "train-p", ".png")
        return
    assert main([*command, str(photos)]) == 2
    captured = capsys.readouterr()
    assert "error: images/train-p0.png" in captured.out
    assert captured.err.startswith(f"freeanchor: {photos}: not fit for training")


def test_a_good_folder_passes_the_check(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both splits, with their numbers."""
    assert main(["data", "check", str(photos)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "train: 6 images, 12 objects, 3 categories: fine",
        "val: 4 images, 8 objects, 3 categories: fine",
    ]


def test_bad_input_of_detect(tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No checkpoint, a file that is none, a bad score, a missing and a broken image."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(photo)
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:60])
    base = ["detect", str(photo), "--out", str(tmp_path / "out"), "--checkpoint"]
    _refused(capsys, [*base, str(tmp_path / "none.safetensors")], "none.safetensors", "no such checkpoint")
    _refused(capsys, [*base, str(photo)], "photo.png", "safetensors")
    for score in ("1.5", "-0.1", "nan"):
        _refused(capsys, [*base, checkpoint, f"--min-score={score}"], "--min-score")
    for name in ("none.png", "broken.png"):
        _refused(capsys, ["detect", str(tmp_path / name), *base[2:], checkpoint], name)
    assert not (tmp_path / "out").exists()


def test_detect_prints_json(tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows as in the file it writes; without --json one line per detection."""
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(photo)
    command = ["detect", str(photo), "--checkpoint", checkpoint, "--out", str(tmp_path / "out"), "--min-score", "0.4"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == json.loads((tmp_path / "out" / "detections.json").read_text())
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1


def _files(mini: Mini) -> tuple[Path, Path]:
    """Ground truth and detections of the miniature's FreeAnchor."""
    run = mini.profile.evaluations["freeanchor-small-s0"]
    return mini.store.data(run.training) / "val.json", run.directory(mini.store.runs) / "detections.json"


def test_evaluate_is_pycocotools(mini: Mini, capsys: pytest.CaptureFixture[str]) -> None:
    """All twelve statistics and the breakdowns; what is undefined is null."""
    gt, found = _files(mini)
    command = ["evaluate", "--gt", str(gt), "--detections", str(found), "--resamples", "20"]
    assert main([*command, "--json"]) == 0
    values = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    truth = read_ground_truth(gt)
    for name, value in coco_statistics(truth, read_detections(found, truth)).items():
        assert values[name] == (None if np.isnan(value) else pytest.approx(value))
    assert {"ap_slender", "ap_square", "ap_objects_1_3"} <= set(values)
    assert main(command) == 0
    assert "ap_50" in capsys.readouterr().out


@pytest.mark.parametrize("nms", ["0.5", "0.3", "1"])
def test_nms_recall_is_the_analysis(mini: Mini, nms: str, capsys: pytest.CaptureFixture[str]) -> None:
    """First one row per tau and their mean as the authors define it; with a threshold of 1 nothing is lost."""
    gt, found = _files(mini)
    command = ["nms-recall", "--gt", str(gt), "--candidates", str(found), "--nms", nms, "--resamples", "0", "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)[:10]
    truth = read_ground_truth(gt)
    definition = NmsRecallDefinition(nms=HardNms(nms_iou=float(nms)))
    recall = object_recall(truth, read_detections(found, truth), definition=definition)
    expected = nms_recall_table(recall).to_dict("records")
    assert [row["metric"] for row in rows] == [*(row["metric"] for row in expected), "nr"]
    for row, other in zip(rows, expected, strict=False):
        for key in ("tau", "recall_before", "recall_after", "nr"):
            assert row[key] == (None if np.isnan(other[key]) else pytest.approx(other[key]))
    if nms == "1":
        assert all(row["nr"] in (None, 1.0) for row in rows)


def test_bad_input_of_the_analyses(mini: Mini, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing files, files in each other's place, thresholds that are percentages."""
    gt, found = map(str, _files(mini))
    none = str(tmp_path / "none.json")
    _refused(capsys, ["evaluate", "--gt", none, "--detections", found], "none.json")
    _refused(capsys, ["evaluate", "--gt", gt, "--detections", none], "none.json")
    _refused(capsys, ["evaluate", "--gt", found, "--detections", gt], "detections.json")
    for nms in ("50", "-1", "nan"):
        _refused(capsys, ["nms-recall", "--gt", gt, "--candidates", found, f"--nms={nms}"], "--nms must lie in [0, 1]")


def test_list_says_what_is_done(mini: Mini, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table and as json: two runs of the miniature are done, the others not run."""
    command = ["list", "--profile", "mini", "--runs", str(mini.store.runs)]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows if row["done"]} == set(mini.profile.pair)
    assert len(rows) == len(mini.profile.evaluations)
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" done " in line for line in lines) == 2
    assert sum(" not run " in line for line in lines) == len(rows) - 2


def test_bugs_show_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not about the input is not dressed up as one."""

    def fail(_arguments: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("experiments.commands.runs.show", fail)
    with pytest.raises(ValueError, match="ours"):
        main(["show", "freeanchor-small-s0"])


def test_an_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As shells expect it, with a line on how to go on."""

    def interrupt(_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.commands.runs.show", interrupt)
    assert main(["show", "freeanchor-small-s0"]) == 130
    assert "goes on" in capsys.readouterr().err
