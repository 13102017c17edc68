"""`freeanchor explore`: which stages it shows, of files and of a profile, and one line for every wrong input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from exploring import content, explore_words, exploring_folder, header_of
from miniature import Mini
from tiny import tiny_detector, tiny_model

from experiments.cli import main
from experiments.registry.build import build_profile
from experiments.reports.page import build_page
from freeanchor.checkpoints.native import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exploring_folder(tmp_path_factory.mktemp("command"), steps=(90,))


def _steps(page: Path) -> list[list[int | None]]:
    return [one["steps"] for one in header_of(page.read_text(encoding="utf-8"))["detectors"]]


def test_stages_are_spread_over_the_logarithm_of_steps(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model last, under the step of the snapshot that equals it; of many snapshots as many as asked for."""
    root = tmp_path / "models"
    shutil.copytree(folder / "freeanchor", root / "freeanchor")
    for step in (1, 10, 11, 12, 80, 100):
        save_model(
            root / f"freeanchor/snapshots/step-{step:06d}.safetensors", tiny_model(step), _detector("FreeAnchor")
        )
    (root / "freeanchor/snapshots/step-000090.safetensors").rename(
        root / "freeanchor/snapshots/step-000900.safetensors"
    )
    shutil.copy(root / "freeanchor/model.safetensors", root / "freeanchor/snapshots/step-000900.safetensors")
    words = explore_words(
        folder, "--snapshots", "--num-stages", 4, "--num-images", 1, detectors=(str(root / "freeanchor"),)
    )
    page = tmp_path / "page.html"
    assert main([*words, "--out", str(page)]) == 0
    assert _steps(page) == [[1, 10, 100, 900]]
    assert f"{page}: 1 image(s)" in capsys.readouterr().out


def _detector(name: str, **model: object) -> object:
    names = header_categories()
    return replace(tiny_detector(**model), detector=name, category_names=names)


def header_categories() -> tuple[str, ...]:
    """Names by rising id, as a detector has them."""
    return tuple(one["name"] for one in sorted(content()["categories"], key=lambda one: one["id"]))


def test_a_profile_shows_its_two_runs(mini: Mini, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both detectors by their names with their snapshots; the report's page links to it."""
    where = ["--runs", mini.store.runs, "--drawn", mini.store.drawn, "--reports", tmp_path, "--threads", 1]
    words = ["explore", "--profile", "mini", "--num-images", 2, "--precision", "float32", *where]
    assert main([str(word) for word in words]) == 0
    page = tmp_path / "mini" / "explorer.html"
    assert str(page) in capsys.readouterr().out
    detectors = header_of(page.read_text(encoding="utf-8"))["detectors"]
    assert [(one["name"], one["kind"]) for one in detectors] == [("RetinaNet", "hard"), ("FreeAnchor", "soft")]
    assert all(len(one["steps"]) > 1 and None not in one["steps"] for one in detectors)
    build_page(page.parent, {"profile": "mini"}, [])
    assert '<a href="explorer.html">' in (page.parent / "index.html").read_text(encoding="utf-8")


def test_a_profile_without_models_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither trained nor kept: one line, and nothing is generated."""
    where = ["--runs", tmp_path / "runs", "--drawn", tmp_path / "data", "--reports", tmp_path]
    assert main(["explore", "--profile", "mini", *map(str, where)]) == 2
    said = capsys.readouterr().err
    assert all(run in said for run in build_profile("mini").pair) and "make demo" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-images", "0"], "--num-images must be at least 1, got 0"),
        (["--num-stages", "0"], "--num-stages must be at least 1"),
        (["--bag-size", "0"], "--bag-size must be at least 1"),
        (["--seed", "-1"], "--seed must not be negative, got -1"),
        (["--images", "nowhere"], "nowhere: no such folder"),
        (["--gt", "nothing.json"], "nothing.json"),
        (["--checkpoint", "gone.safetensors"], "gone.safetensors: no such checkpoint"),
        (["--checkpoint", "a.safetensors", "a.safetensors"], "a file is given twice"),
        (["--checkpoint", *(f"{i}.safetensors" for i in range(9))], "a page holds 8 detectors, got 9"),
    ],
)
def test_wrong_options_are_refused_in_a_line(
    folder: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, the option and what is wrong with it, no page."""
    page = tmp_path / "page.html"
    assert main([*explore_words(folder, "--out", page), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not page.exists()


def test_models_and_data_come_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them alone is refused."""
    assert main(["explore", "--checkpoint", "a.safetensors"]) == 2
    assert "--gt val.json --images DIR" in capsys.readouterr().err
    assert main(["explore", "--gt", "val.json"]) == 2
    assert "give --checkpoint" in capsys.readouterr().err


def test_an_unknown_category_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that has no class of that name."""
    made = content()
    made["categories"] = [{**one, "name": f"new {one['name']}"} for one in made["categories"]]
    (tmp_path / "val.json").write_text(json.dumps(made))
    assert main([*explore_words(folder, "--out", tmp_path / "page.html"), "--gt", str(tmp_path / "val.json")]) == 2
    assert "knows no category 'new " in capsys.readouterr().err


def test_images_that_none_may_show_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where every image's licence forbids derivatives, the option that blurs them is named."""
    made = content(licenses=[{"id": 4, "name": "CC BY-ND 2.0"}])
    for image in made["images"]:
        image["license"] = 4
    (tmp_path / "val.json").write_text(json.dumps(made))
    words = [*explore_words(folder, "--out", tmp_path / "page.html"), "--gt", str(tmp_path / "val.json")]
    assert main(words) == 2
    assert "give --blur restricted" in capsys.readouterr().err


def test_stages_of_different_networks_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A snapshot with other anchors is no stage of the model's training."""
    root = tmp_path / "other"
    shutil.copytree(folder / "freeanchor", root)
    anchors = replace(tiny_detector().model.anchors, ratios=(1.0,))
    detector = _detector("FreeAnchor", anchors=anchors)
    save_model(root / "snapshots/step-000010.safetensors", tiny_model(anchors=anchors), detector)
    words = explore_words(folder, "--snapshots", "--out", tmp_path / "page.html", detectors=(str(root),))
    assert main(words) == 2
    assert "has other anchors or inputs than" in capsys.readouterr().err
