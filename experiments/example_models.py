"""Two small trained models, one of each detector, to be committed with the reports: for notebooks and first tries.

Weights are rounded to half precision, which makes the files small; they are float32 again once loaded.

    write_models(profile, store, Path("reports/shapes/models"))     # models/<run>/*.safetensors, models.csv
"""

from pathlib import Path

import pandas as pd

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

    AP, of the finished models before rounding, is that of their run. What was not run is not there. Files of an earlier
    report stay where a run was unpacked, without weights; raises CheckpointError where it has none of that run.
    """
    evidence, listing = Evidence(profile, store), stem.with_suffix(".csv")
    known = set(pd.read_csv(listing)["fingerprint"]) if listing.exists() else set()
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
            if source.exists():
                _write_halved(source, stem / name)
            elif training.fingerprint not in known:  # else those of the earlier report stay
                raise store.gone(training, "its weights")
            tensors, _ = read_model(stem / name)
            row: dict[str, object] = {"file": f"{stem.name}/{name}", "run": run, "fingerprint": training.fingerprint}
            row |= {"detector": training.detector, "step": step, "bytes": (stem / name).stat().st_size}
            row |= {"parameters": sum(it.numel() for it in tensors.values() if it.is_floating_point())}
            rows.append({**row, **(quality if is_finished else {})})
    write_csv(listing, pd.DataFrame(rows, columns=list(COLUMNS)))


def _write_halved(source: Path, target: Path) -> None:
    """A model file with its weights in half precision."""
    tensors, detector = read_model(source)
    halved = {key: it.half() if it.is_floating_point() else it for key, it in tensors.items()}
    save_tensors(target, halved, describe(detector))


def _stages(training: Training, store: Store) -> list[tuple[int, Path]]:
    """(step, file) of the finished model and, of a FreeAnchor, of what it was at its snapshots."""
    directory = training.directory(store.runs)
    end = (training.recipe.num_steps, directory / "model.safetensors")
    if training.detector != "FreeAnchor":
        return [end]
    steps = [step for step in training.recipe.snapshot_steps if step < end[0]]
    return [*((step, directory / "snapshots" / f"step-{step:06d}.safetensors") for step in sorted(steps)), end]
