"""Names that nobody knows and values out of range, on the command line and in the configurations themselves."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from oracles.bad_annotations import changed
from oracles.coco_folder import small_content
from oracles.odd_images import scene
from tiny import tiny_detector, tiny_model

from bad_input.outcome import refused, run
from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints.native import save_model
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.training.recipe import TrainConfig

RUN = "freeanchor-small-s0"
MISSPELT = {
    "a profile": (["list", "--profile", "shaeps"], "'shaeps'", "did you mean shapes?"),
    "a run": (["train", "freeancor-small-s0"], "'freeancor-small-s0'", f"did you mean {RUN}"),
    "a run to show": (["show", "retinanet-smal-s0"], "'retinanet-smal-s0'", "did you mean retinanet-small-s0"),
    "a report": (["report", "tabel1"], "'tabel1'", "did you mean table1"),
    "a backbone": (["cost", "smal"], "'smal'", "choose one of small"),
    "a command": (["evalute", "--gt", "a"], "'evalute'", "did you mean evaluate?"),
    "an option": (["list", "--profle", "mini"], "--profle", "did you mean --profile?"),
    "a precision": (["train", RUN, "--precision", "float-32"], "--precision", "did you mean float32?"),
    "a format": (["convert", "--from", "mmdet", "a", "b"], "--from", "did you mean mmdetection?"),
    "an action": (["data", "chek", "folder"], "'chek'", "did you mean check?"),
    "a split": (["data", "coco", "folder", "--splits", "vall"], "vall", "give train, val or both"),
    "a device": (["train", RUN, "--profile", "mini", "--device", "gpu"], "--device gpu", "give cpu, cuda or cuda:1"),
    "a data set's run": (["data", "draw", "freeanchor-small-s9"], "'freeanchor-small-s9'", f"did you mean {RUN}"),
}
OUT_OF_RANGE = {
    "no seeds": (["list", "--seeds", "0"], "--seeds must be at least 1"),
    "a negative batch": (["list", "--batch-size", "-2"], "--batch-size -2"),
    "no batch": (["list", "--batch-size", "0"], "--batch-size 0"),
    "negative threads": (["train", RUN, "--profile", "mini", "--threads", "-1"], "--threads must not be negative"),
    "negative workers": (["train", RUN, "--profile", "mini", "--workers", "-1"], "--workers must not be negative"),
    "seeds in words": (["list", "--seeds", "two"], "'two'"),
    "an eps below 0": (["convert", "--from", "torchvision", "--norm-eps", "-1", "a", "b"], "--norm-eps"),
    "an eps of nan": (["convert", "--from", "torchvision", "--norm-eps", "nan", "a", "b"], "--norm-eps"),
}
FILES = ["--gt", "{gt}", "--candidates", "{found}"]
NUMBERS = {
    "an IoU in per cent": (["nms-recall", *FILES, "--nms", "50"], "--nms must lie in [0, 1]", "pass a fraction"),
    "an IoU of nan": (["nms-recall", *FILES, "--nms", "nan"], "--nms must lie in [0, 1]", "pass a fraction"),
    "a sigma of 0": (["nms-recall", *FILES, "--soft-nms", "gaussian", "--sigma", "0"], "--sigma", "0.5 is usual"),
    "a score of nan": (["nms-recall", *FILES, "--score-threshold", "nan"], "--score-threshold", "0.05"),
    "one resampling": (["nms-recall", *FILES, "--resamples", "1"], "--resamples", "1000 is usual"),
    "fewer than no detections": (
        ["nms", *FILES, "--out", "{out}/a.json", "--max-detections", "-1"], "--max-detections", "0 keeps all",
    ),
    "results of another kind": (["nms", *FILES, "--out", "{out}/a.csv"], "a.csv", "it holds COCO results"),
    "a score above 1": (["detect", "{image}", "--checkpoint", "{model}", "--min-score", "1.5"], "--min-score", "fraction"),
    "an empty bag": (
        ["matches", "{image}", "--checkpoint", "{model}", "--bag-size", "0"], "--bag-size", "the paper's is 50",
    ),
    "a box without a category": (
        ["matches", "{image}", "--checkpoint", "{model}", "--box", "1", "2", "3", "4"], "--category", "give --box",
    ),
    "a category that is misspelt": (
        ["matches", "{image}", "--checkpoint", "{model}", "--box", "1", "2", "9", "9", "--category", "boxx"],
        "'boxx'", "box",
    ),
}  # fmt: skip
CONFIGURATIONS: dict[str, tuple[Callable[[], object], str]] = {
    "a learning rate of 0": (lambda: TrainConfig(loss=RetinaNetLoss(), lr=0.0), "lr must be positive"),
    "a learning rate of nan": (lambda: TrainConfig(loss=RetinaNetLoss(), lr=float("nan")), "lr must be positive"),
    "no steps": (lambda: TrainConfig(loss=RetinaNetLoss(), num_steps=0), "num_steps"),
    "groups that do not fill a batch": (lambda: TrainConfig(loss=RetinaNetLoss(), group_size=3), "groups of 3"),
    "no classes": (lambda: ModelConfig(num_classes=0), "num_classes"),
    "a prior above 1": (lambda: ModelConfig(num_classes=3, prior_prob=2.0), "prior_prob"),
    "an unknown backbone": (lambda: TorchvisionResNet(name="resnet51"), "resnet50"),
    "a threshold in per cent": (lambda: InferenceConfig(nms_iou=50.0), "pass a fraction"),
    "anchors of no size": (lambda: AnchorConfig(sizes=(0.0, 1.0, 2.0, 3.0, 4.0)), "positive"),
    "sizes without strides": (lambda: AnchorConfig(sizes=(32.0,)), "pair up"),
    "an empty bag": (lambda: FreeAnchorLoss(bag_size=0), "bag_size"),
    "an image of no size": (lambda: InputConfig(short_side=0), "short_side"),
    "a deviation of 0": (lambda: InputConfig(std=(1.0, 0.0, 1.0)), "std"),
}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Good files of every kind, by the names that the tables use."""
    content = small_content(2)
    found = [
        {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for item in content["annotations"]
    ]
    for name, value in (("gt", content), ("found", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    scene().save(tmp_path / "image.png")
    save_model(tmp_path / "model.safetensors", tiny_model(), tiny_detector())
    paths = {name: str(tmp_path / f"{name}.json") for name in ("gt", "found")}
    return {
        **paths,
        "out": str(tmp_path),
        "image": str(tmp_path / "image.png"),
        "model": str(tmp_path / "model.safetensors"),
    }


@pytest.mark.parametrize("name", MISSPELT)
def test_the_nearest_name_is_suggested(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, options, choices, profiles, runs and reports."""
    monkeypatch.chdir(tmp_path)
    arguments, item, remedy = MISSPELT[name]
    refused(tmp_path, arguments, "", item, remedy)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_values_out_of_range_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is drawn, read or written."""
    monkeypatch.chdir(tmp_path)
    arguments, item = OUT_OF_RANGE[name]
    outcome = run(arguments)
    assert outcome.status == 2 and outcome.out == ""
    assert len(outcome.complaints) == 1 and item in outcome.complaints[0]
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == []


@pytest.mark.parametrize("name", NUMBERS)
def test_values_that_mean_nothing_are_named(
    name: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with what it should be, though every file is good."""
    monkeypatch.chdir(tmp_path)
    arguments, item, remedy = NUMBERS[name]
    refused(tmp_path, [argument.format(**places) for argument in arguments], "", item, remedy)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_refuse_what_makes_no_sense(name: str) -> None:
    """When they are made, by name and value."""
    make, words = CONFIGURATIONS[name]
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
    assert replace(TrainConfig(loss=RetinaNetLoss()), seed=3).seed == 3  # and good ones are made


@pytest.mark.parametrize("kind", ["detections", "checkpoint"])
def test_a_real_process_says_one_line(kind: str, places: dict[str, str], tmp_path: Path) -> None:
    """Nothing but that line stands on stderr, and the exit status is 2."""
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(changed("a negative width", small_content(2))))
    commands = {
        "detections": ["evaluate", "--gt", places["gt"], "--detections", str(bad)],
        "checkpoint": ["detect", places["image"], "--checkpoint", str(bad), "--out", str(tmp_path / "out")],
    }
    code = "import sys; from experiments.cli import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, *commands[kind]], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "; " in result.stderr
    assert result.stderr.startswith("freeanchor: ") and "bad.json" in result.stderr
    assert not (tmp_path / "out").exists()
