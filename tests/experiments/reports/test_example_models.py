"""The small models that are committed: rounded, and still the detectors they were."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from miniature import Mini

from experiments.reports.models import write_models
from freeanchor.checkpoints.native import load_model


def test_rounded_models_load_and_agree(mini: Mini, tmp_path: Path) -> None:
    """Finished models and FreeAnchor's snapshots are there, of half the size, and predict the same within rounding."""
    profile = replace(mini.profile, examples=mini.profile.pair)
    write_models(profile, mini.store, tmp_path / "models")
    frame = pd.read_csv(tmp_path / "models.csv")
    retinanet, freeanchor = profile.pair
    assert list(frame["run"].value_counts().loc[[retinanet, freeanchor]]) == [1, 4]
    for row in frame.itertuples():
        assert (tmp_path / row.file).stat().st_size == row.bytes
    finished = frame[frame["ap"].notna()]
    assert list(finished["file"]) == [f"models/{run}/model.safetensors" for run in profile.pair]
    ours, detector = load_model(tmp_path / f"models/{freeanchor}/model.safetensors")
    theirs, same = load_model(profile.evaluations[freeanchor].training.directory(mini.store.runs) / "model.safetensors")
    assert detector == same
    assert next(ours.parameters()).dtype == torch.float32
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(images).logits, theirs(images).logits, atol=0.02)
    largest = profile.evaluations[freeanchor].training.directory(mini.store.runs) / "model.safetensors"
    assert finished["bytes"].max() < 0.6 * largest.stat().st_size


def test_what_was_not_trained_is_not_there(mini: Mini, tmp_path: Path) -> None:
    """The miniature's own example runs were never made: an empty list, no files."""
    write_models(mini.profile, mini.store, tmp_path / "models")
    assert pd.read_csv(tmp_path / "models.csv").empty
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_unpacked_run_leaves_its_earlier_files(mini: Mini, tmp_path: Path) -> None:
    """Without weights the lines and files of an earlier list stay, if they are of what was measured; else none do."""
    profile = replace(mini.profile, examples=mini.profile.pair)
    write_models(profile, mini.store, tmp_path / "models")
    before = (tmp_path / "models.csv").read_text()
    bare = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(mini.store.runs, bare.runs, ignore=shutil.ignore_patterns("*.safetensors"))
    write_models(profile, bare, tmp_path / "models")
    assert (tmp_path / "models.csv").read_text() == before
    assert len(list((tmp_path / "models").rglob("*.safetensors"))) == len(pd.read_csv(tmp_path / "models.csv"))
    measured = profile.evaluations[profile.pair[0]].directory(bare.runs) / "measurements.csv"
    frame = pd.read_csv(measured)
    frame.loc[frame["metric"] == "ap", "value"] += 0.01
    frame.to_csv(measured, index=False)
    write_models(profile, bare, tmp_path / "models")
    assert set(pd.read_csv(tmp_path / "models.csv")["run"]) == {profile.pair[1]}
    write_models(profile, bare, tmp_path / "nowhere")
    assert pd.read_csv(tmp_path / "nowhere.csv").empty
