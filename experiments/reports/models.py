"""Two small trained models, one of each detector, to be committed with the reports: for notebooks and first tries.

Weights are rounded to half precision, which makes the files small; they are float32 again once loaded.

    write_models(profile, store, Path("reports/shapes/models"))     # models/<run>/*.safetensors, models.csv
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.claims.evidence import Evidence
from experiments.registry.config import Training
from experiments.registry.profile import Profile
from experiments.runs.measured import measurements
from experiments.runs.store import Store
from freeanchor.checkpoints.native import describe, read_model, save_tensors
from freeanchor.files import write_csv

COLUMNS = ("file", "run", "fingerprint", "detector", "step", "parameters", "bytes", "ap", "low", "high")


def write_models(profile: Profile, store: Store, stem: Path) -> None:
    """Write the example models into the folder `stem`, FreeAnchor's snapshots beside it, and `stem`.csv.

    AP, of the finished models before rounding, is that of their run. What was not run is not there. Of a run that was
    unpacked, without weights, the files of an earlier report stay, where that was of the same measurement.
    """
    evidence, listing = Evidence(profile, store), stem.with_suffix(".csv")
    rows: list[dict[str, Any]] = []
    for run in profile.examples:
        training = profile.evaluations[run].training
        if not (evidence.is_done(run) and isinstance(training, Training)):
            continue
        measured = measurements(profile.evaluations[run], store)
        ap = measured.loc[measured["metric"] == "ap", ["value", "low", "high"]].to_numpy()[0].tolist()
        quality = dict(zip(("ap", "low", "high"), ap, strict=True))
        stages = _stages(training, store)
        if all(source.exists() for _, source in stages):
            rows += [_row(stem, training, step, source, quality) for step, source in stages]
        elif listing.exists():
            rows += _earlier(pd.read_csv(listing), training, quality["ap"])
    write_csv(listing, pd.DataFrame(rows, columns=list(COLUMNS)))


def _row(stem: Path, training: Training, step: int, source: Path, quality: dict[str, float]) -> dict[str, Any]:
    """Write one model file; its line of the list."""
    is_finished = step == training.recipe.num_steps
    name = f"{training.name}/model.safetensors" if is_finished else f"{training.name}/step-{step:06d}.safetensors"
    tensors, detector = read_model(source)
    halved = {key: it.half() if it.is_floating_point() else it for key, it in tensors.items()}
    save_tensors(stem / name, halved, describe(detector))
    return {
        "file": f"{stem.name}/{name}",
        "run": training.name,
        "fingerprint": training.fingerprint,
        "detector": training.detector,
        "step": step,
        "parameters": sum(it.numel() for it in tensors.values() if it.dtype == torch.float32),
        "bytes": (stem / name).stat().st_size,
        **(quality if is_finished else {}),
    }


def _earlier(listing: pd.DataFrame, training: Training, ap: float) -> list[dict[str, Any]]:
    """A run's lines of an earlier list; none where its files are of other weights than were measured."""
    own = listing[(listing["run"] == training.name) & (listing["fingerprint"] == training.fingerprint)]
    is_same = bool(np.isclose(own["ap"].dropna(), ap, rtol=0, atol=1e-9).any())
    return [{str(key): it for key, it in row.items()} for row in own.to_dict("records")] if is_same else []


def _stages(training: Training, store: Store) -> list[tuple[int, Path]]:
    """(step, file) of the finished model and, of a FreeAnchor, of what it was at its snapshots."""
    directory = training.directory(store.runs)
    end = (training.recipe.num_steps, directory / "model.safetensors")
    if training.detector != "FreeAnchor":
        return [end]
    steps = [step for step in training.recipe.snapshot_steps if step < end[0]]
    return [*((step, directory / "snapshots" / f"step-{step:06d}.safetensors") for step in sorted(steps)), end]
