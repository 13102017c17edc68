"""What the front door refuses before anything starts: GPUs that are not there, a zoo of nothing."""

import pytest
import torch

from experiments.cli import main


@pytest.mark.parametrize("profile", ["shapes", "coco-mmdetection"])
def test_a_zoo_where_nobody_published_anything_is_refused(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rather than the figures waiting for trainings of ours."""
    assert main(["plan", "--profile", profile, "--chosen", "zoo"]) == 2
    assert f"profile {profile} has no published checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "processes", "words"),
    [
        ("cuda:1", "1", "1 process(es) on a host with 1 GPU(s)"),
        ("cuda", "2", "2 process(es) on a host with 1 GPU(s)"),
        ("cuda:0", "2", "2 processes cannot share one GPU; give --device cuda"),
    ],
)
def test_gpus_that_are_not_there_are_named(
    device: str, processes: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started on them, by torchrun or without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert main(["train", "freeanchor-small-s0", "--profile", "mini", "--device", device]) == 2
    assert words in capsys.readouterr().err
