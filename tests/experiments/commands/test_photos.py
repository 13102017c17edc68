"""The profile of photographs: its recipe, what a user may choose, which runs wait to be asked for, a small set whole."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from oracles.coco_folder import write_both
from safetensors.torch import save_file

from experiments.cli import main
from experiments.commands.options import build_parser
from experiments.commands.runs import evaluation_of
from experiments.fetch.backbones import backbone_download, weights_of
from experiments.registry.build import build_profile
from experiments.registry.sizes import MOST_IMAGES, NUM_EPOCHS, Photographs, Size
from experiments.reports.matching import image_of
from experiments.reports.plan import make_rules
from experiments.runs.store import Store
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.detector.timm import TimmBackbone
from freeanchor.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set."""
    return write_both(tmp_path / "ponds")


def recipe_of(folder: Path, **chosen: object):
    """The registered recipe for a folder."""
    return (
        build_profile("photos", photographs=Photographs(folder=folder, **chosen))
        .evaluations["retinanet-small-s0"]
        .training
    )


def enlarge(path: Path, factor: int) -> None:
    """Every image and object of a json so many times over, under new ids."""
    content = json.loads(path.read_text())
    images, objects = content["images"], content["annotations"]
    content["images"] = [{**it, "id": it["id"] + 10_000 * n} for n in range(factor) for it in images]
    content["annotations"] = [
        {**it, "id": it["id"] + 10_000 * n, "image_id": it["image_id"] + 10_000 * n}
        for n in range(factor)
        for it in objects
    ]
    path.write_text(json.dumps(content))


def test_a_training_sees_each_image_with_an_object_as_often(folder: Path) -> None:
    """The number of steps follows the data set: sixty epochs of the images that take part."""
    content = json.loads((folder / "train.json").read_text())
    trained = len({item["image_id"] for item in content["annotations"] if not item.get("iscrowd")})
    recipe = recipe_of(folder).recipe
    assert NUM_EPOCHS * trained <= recipe.num_samples < NUM_EPOCHS * trained + recipe.batch_size
    enlarge(folder / "train.json", 40)
    assert recipe_of(folder).recipe.num_samples >= 40 * NUM_EPOCHS * trained


def test_a_huge_set_is_seen_no_more_often_than_the_paper_saw_coco(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty epochs of a huge set would be weeks."""
    assert MOST_IMAGES == 90_000 * 16
    monkeypatch.setattr("experiments.registry.sizes.MOST_IMAGES", 40)
    assert recipe_of(folder).recipe.num_samples == 40


def test_backbones_are_normalised_as_their_weights_want(folder: Path) -> None:
    """timm says for its own; torchvision's have ImageNet's statistics."""
    lite, resnet = recipe_of(folder), recipe_of(folder, backbone="resnet18")
    assert lite.backbone == TimmBackbone(name="tf_efficientnet_lite0") and lite.inputs.std == (127.5, 127.5, 127.5)
    assert resnet.backbone == TorchvisionResNet(name="resnet18")
    assert resnet.inputs.mean == pytest.approx((123.675, 116.28, 103.53))
    assert (lite.backbone_weights, resnet.backbone_weights) == (
        "timm/tf_efficientnet_lite0.in1k",
        "resnet18-f37072fd.pth",
    )
    assert backbone_download(lite.backbone_weights).sha256 == "0aa007d2"


def test_weights_of_a_file_are_known_by_what_it_holds(tmp_path: Path, folder: Path) -> None:
    """The same file elsewhere is the same run; another file of that name is another; a missing one is refused."""
    first, second = tmp_path / "a" / "w.safetensors", tmp_path / "b" / "w.safetensors"
    for path in (first, second):
        path.parent.mkdir()
        save_file({"x": torch.ones(2)}, path)
    one, two = (recipe_of(folder, weights=path) for path in (first, second))
    assert one.fingerprint == two.fingerprint != recipe_of(folder).fingerprint
    save_file({"x": torch.zeros(2)}, second)
    assert recipe_of(folder, weights=second).fingerprint != one.fingerprint
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file of backbone weights"):
        weights_of("resnet18", tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"publish resnext101_32x8d; give a file with --backbone-weights FILE"):
        weights_of("resnext101_32x8d", None)


def test_classes_name_the_run_and_the_report(folder: Path) -> None:
    """Other classes are other data: another fingerprint, a report folder of their own, a network of as many classes."""
    own = build_profile("photos", photographs=Photographs(folder=folder))
    one = build_profile("photos", photographs=Photographs(folder=folder, classes="one"))
    name = "freeanchor-small-s0"
    assert one.evaluations[name].training.model.num_classes == 1 < own.evaluations[name].training.model.num_classes
    assert one.evaluations[name].training.fingerprint != own.evaluations[name].training.fingerprint
    assert (own.report_name, one.report_name) == (Path("photos/ponds"), Path("photos/ponds-one"))
    assert json.loads(one.evaluations[name].training.describe())["data"]["classes"] == "one"


def test_another_backbone_has_reports_of_its_own(folder: Path) -> None:
    """Or they would replace those of the default backbone on the same images."""
    other = build_profile("photos", photographs=Photographs(folder=folder, backbone="resnet18"))
    assert other.report_name == Path("photos/ponds-resnet18")


def needs(folder: Path, chosen: str) -> dict[str, str]:
    """What each report's csv waits for, by its name."""
    profile = build_profile("photos", photographs=Photographs(folder=folder))
    rules = make_rules(profile, Store(folder=folder), reports=Path("reports"), chosen=chosen)
    lines = [line for line in rules.splitlines() if line.startswith("reports/") and ".csv" in line]
    parts = [line.replace(" &:", ":").partition(":") for line in lines]
    return {Path(target).stem: wanted for targets, _, wanted in parts for target in targets.split()}


def test_trials_and_models_wait_to_be_asked_for(folder: Path) -> None:
    """`make paper` trains neither; `make trials` and `make models` train what they show, and not each other's."""
    paper, trials, models, bags = (needs(folder, chosen) for chosen in ("paper", "trials", "models", "ablations"))
    assert "runs/" not in paper["models"]
    assert "runs/" not in paper["trials"] and trials["trials"].count("runs/") == 6
    assert "-lr0.01-s0" not in "".join(paper.values()) and "-tiny-s0" not in "".join(paper.values())
    assert "-tiny-s0" not in "".join(trials.values())
    assert paper["ablations"].count("runs/") == 1 and bags["ablations"].count("runs/") == 2
    assert models["models"].count("runs/") == 2 and "-lr0.01-s0" not in "".join(models.values())
    assert "retinanet-small-torchvision-s0" in paper["table2"]


def test_options_of_photographs_are_for_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    """On another profile they would be passed over in silence."""
    assert main(["list", "--profile", "shapes", "--classes", "one"]) == 2
    assert "--classes is for your own images; give --profile photos --data DIR" in capsys.readouterr().err


def test_an_unknown_backbone_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its name, before anything is done."""
    assert main(["list", "--profile", "photos", "--data", str(folder), "--backbone", "resnet19"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("freeanchor: ") and "resnet19" in error and error.count("\n") == 1


def test_a_small_set_whole(
    folder: Path, tmp_path: Path, small_backbone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both detectors trained and tested on a set with all classes as one; tables, curves, figures without images."""
    monkeypatch.setattr("experiments.registry.sizes.MOST_IMAGES", 96)  # steps enough for its snapshots
    places = [f"--{name}={tmp_path / name}" for name in ("runs", "drawn", "reports")]
    options = ["--profile", "photos", "--data", str(folder), "--classes", "one", *places, *small_backbone]
    for run in ("retinanet-small-s0", "freeanchor-small-s0"):
        assert main(["train", run, *options]) == 0
        assert main(["predict", run, *options]) == 0
    directory = tmp_path / "reports" / "photos" / "ponds-one-test_efficientnet"
    for report in ("table2", "convergence", "figure1"):
        assert main(["report", report, *options, "--hide-images"]) == 0
    table = pd.read_csv(directory / "table2.csv")
    ap = table[(table["metric"] == "ap") & (table["measured_as"] == "here")]
    assert ap["value"].notna().sum() == 2  # torchvision's loss was not run
    curve = pd.read_csv(directory / "convergence.csv")
    assert set(curve["detector"]) == {"RetinaNet", "FreeAnchor"}
    last = curve[(curve["metric"] == "ap") & (curve["step"] == curve["num_steps"])].set_index("run")["value"]
    measured = ap.dropna(subset="value").set_index("run")["value"]
    assert last.to_dict() == pytest.approx(measured.to_dict())


def test_hidden_images_are_grey(folder: Path) -> None:
    """What figures of matches are drawn over has the image's size, and nothing of it."""
    profile = build_profile("photos", data=folder)
    image = json.loads((folder / "val.json").read_text())["images"][0]
    frame = pd.DataFrame({"image_id": [image["id"]]})
    shown, credit = image_of(frame, profile, Store(folder=folder, credit="me"))
    hidden, none = image_of(frame, profile, Store(folder=folder, images=False, credit="me"))
    assert (credit, none) == ("me", "")
    assert shown.shape == hidden.shape == (image["height"], image["width"], 3)
    assert shown.std() > 0 and hidden.std() == 0


def test_another_file_than_the_run_was_named_for_is_refused(
    folder: Path, tmp_path: Path, small_backbone: list[str]
) -> None:
    """The name in the configuration holds the file's digest; the training looks again before it starts."""
    places = [f"--{name}={tmp_path / name}" for name in ("runs", "drawn", "reports")]
    options = ["--profile", "photos", "--data", str(folder), *places, *small_backbone]
    arguments = build_parser().parse_args(["train", "retinanet-small-s0", *options])
    training = evaluation_of(arguments, "retinanet-small-s0").training
    from experiments.runs.training import backbone_file

    with pytest.raises(CheckpointError, match="not the weights that retinanet-small-s0 starts from"):
        backbone_file(training, Store(folder=folder, backbone_weights=folder / "train.json"))


def test_the_size_is_that_of_a_profile(folder: Path) -> None:
    """A size asks for nothing that the registry does not know."""
    from experiments.registry.sizes import photos

    assert isinstance(photos(Photographs(folder=folder)), Size)
