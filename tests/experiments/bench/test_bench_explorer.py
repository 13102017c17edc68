"""The measurement of the matching explorer: its stages are five different models, its rows are all there."""

from pathlib import Path

import pytest
import torch

from experiments.bench.browser import find_chromium
from experiments.bench.explorer import NOISE, NUM_STAGES, bench_explorer, write_stages
from freeanchor.checkpoints.native import read_model


def test_five_stages_of_two_detectors_differ(tmp_path: Path) -> None:
    """Every file is a model of its own, those of the noisy detector too."""
    weights = []
    for name, noise in (("first", 0.0), ("second", NOISE)):
        path = write_stages(tmp_path / name, noise)
        files = sorted(path.parent.iterdir())
        assert len(files) == NUM_STAGES and path in files
        weights += [read_model(file)[0]["cls_head.output.weight"] for file in files]
    assert not any(torch.equal(a, b) for place, a in enumerate(weights) for b in weights[:place])


@pytest.mark.slow
def test_a_page_is_measured() -> None:
    """Size and time of making, and what a browser says, where there is one; aims are not judged at this size."""
    rows = bench_explorer(repetitions=1, num_images=4, num_objects=6)
    assert len(rows) == (5 if find_chromium() else 2)
    assert all(row.ours > 0 and row.note for row in rows)
