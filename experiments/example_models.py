"""Two small trained models, one of each detector, to be committed with the reports: for notebooks and first tries.

Weights are rounded to half precision, which makes the files small; they are float32 again once loaded.

    write_models(profile, store, Path("reports/shapes/models"))     # models/<run>/*.safetensors, models.csv
"""

from pathlib import Path

import pandas as pd
import torch

from experiments.config import Training
from experiments.evidence import Evidence
from experiments.files import write_csv
from experiments.frames import measurements
from experiments.profiles import Profile
from experiments.store import Store
from freeanchor.checkpoints import describe, read_model, save_tensors

COLUMNS = ("file", "run", "fingerprint", "detector", "step", "parameters", "bytes", "ap", "low", "high")


def write_models(profile: Profile, store: Store, stem: Path) -> None:
    """Write the example models into the folder `stem`, FreeAnchor's snapshots beside it, and `stem`.csv.

    AP, of the finished models before rounding, is that of their run. What was not run is not there.
    """
    evidence = Evidence(profile, store)
    rows = []
    for run in profile.examples:
        training = profile.evaluations[run].training
        if not (evidence.is_done(run) and isinstance(training, Training)):
            continue
        measured = measurements(profile.evaluations[run], store).set_index("metric").loc["ap"]
        quality = {"ap": measured["value"], "low": measured["low"], "high": measured["high"]}
        for step, source in _stages(training, store):
            is_finished = step == training.recipe.num_steps
            name = f"{run}/model.safetensors" if is_finished else f"{run}/step-{step:06d}.safetensors"
            tensors, detector = read_model(source)
            halved = {key: it.half() if it.is_floating_point() else it for key, it in tensors.items()}
            save_tensors(stem / name, halved, describe(detector))
            row: dict[str, object] = {"file": f"{stem.name}/{name}", "run": run, "fingerprint": training.fingerprint}
            row |= {"detector": training.detector, "step": step, "bytes": (stem / name).stat().st_size}
            row |= {"parameters": sum(it.numel() for it in tensors.values() if it.dtype == torch.float32)}
            rows.append({**row, **(quality if is_finished else {})})
    write_csv(stem.with_suffix(".csv"), pd.DataFrame(rows, columns=list(COLUMNS)))


def _stages(training: Training, store: Store) -> list[tuple[int, Path]]:
    """(step, file) of the finished model and, of a FreeAnchor, of what it was at its snapshots."""
    directory = training.directory(store.runs)
    end = (training.recipe.num_steps, directory / "model.safetensors")
    if training.detector != "FreeAnchor":
        return [end]
    steps = [step for step in training.recipe.snapshot_steps if step < end[0]]
    return [*((step, directory / "snapshots" / f"step-{step:06d}.safetensors") for step in sorted(steps)), end]
