"""All that needs a GPU, in one command of bounded time: tests, losses, steps, loops, then trainings to go on with.

    python -m experiments.bench.cuda --out DIR --minutes 9 --train photos --data data/aquarium
    python -m experiments.bench.cuda --out DIR --device cpu --minutes 2              # the same in miniature

What counts is written as it comes: `environment.json`, `tests.txt`, `results.csv` (a row per figure), `runs/` with the
trainings, and `results.md` last. The same command goes on with what is not there yet.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.ops import sigmoid_focal_loss

from experiments.bench.loss import loss_calls, loss_scene
from experiments.bench.main import as_frame, as_markdown
from experiments.bench.rate import bench_rate
from experiments.bench.rows import BenchRow, medians, peak_tensor_bytes
from experiments.bench.step import bench_shapes_step, bench_step
from experiments.runs.store import ROOT, provenance
from freeanchor.data.augmentation import AugmentConfig, TrainingStream
from freeanchor.data.coco import InputConfig, collate, read_split
from freeanchor.files import write_bytes, write_csv, write_json
from freeanchor.losses.focal import background_focal_loss, kernels_for
from freeanchor.runtime import Runtime, wait_for

PRECISIONS = ("float32", "bfloat16")
SPARE_SECONDS = 20.0  # for the state of interrupted trainings, and the table
LOADED_IMAGES = 400
TRAINED = ("freeanchor", "retinanet")
Stage = Callable[["_Session"], Iterator[list[BenchRow]]]


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What was asked for, and when it ends."""

    out: Path
    device: str
    ends: float  # of `time.monotonic`
    data: Path | None
    profile: str
    backbone: tuple[str, ...]
    workers: int
    seeds: int
    side_by_side: int

    @property
    def is_small(self) -> bool:
        """Whether this is the miniature on a CPU."""
        return torch.device(self.device).type == "cpu"

    @property
    def repetitions(self) -> int:
        """Of what is timed."""
        return 2 if self.is_small else 50

    def aim(self, value: float) -> float:
        """An aim for a GPU: none in miniature."""
        return math.nan if self.is_small else value

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - SPARE_SECONDS - time.monotonic()


def _environment(session: _Session) -> Iterator[list[BenchRow]]:
    found = provenance(session.device) | {"cuda": str(torch.version.cuda), "kernels": _kernels(session.device)}
    if not session.is_small:
        found |= {"gpu": str(torch.cuda.get_device_properties(session.device)), "driver": _driver()}
    write_json(session.out / "environment.json", found)
    yield []


def _kernels(device: str) -> str:
    """Whether the fused loss is in use, and if not, why."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fused = kernels_for(torch.device(device))
    return "fused" if fused else "; ".join(str(warning.message) for warning in said) or "eager: no CUDA device"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,power.limit", "--format=csv"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"not known: {error}"


def _tests(session: _Session) -> Iterator[list[BenchRow]]:
    """The tests marked gpu; in miniature those that stand for them without one."""
    chosen = ["tests/freeanchor/losses/test_asynchronous.py"] if session.is_small else ["-m", "gpu", "tests"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    begun = time.monotonic()
    with (session.out / "tests.txt").open("w") as file:
        try:
            limit = max(1.0, min(150.0, session.left))
            code = subprocess.run(command, cwd=ROOT, env=_surroundings(), stdout=file, stderr=file, timeout=limit,
                                  check=False).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = 124
    yield [BenchRow(subject="tests", what=f"exit status of {' '.join(chosen)}", unit="", ours=code, aim=0.0,
                    note=f"{time.monotonic() - begun:.0f} s; see tests.txt")]  # fmt: skip


def _surroundings() -> dict[str, str]:
    """Of processes started: the package is found without being installed."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def _bandwidth(session: _Session) -> float:
    """Bytes a second of a copy on the device, reading and writing counted."""
    size = 2**22 if session.is_small else 2**30
    source = torch.zeros(size, dtype=torch.uint8, device=session.device)
    target = torch.empty_like(source)
    seconds = medians({"copy": lambda: target.copy_(source)}, session.repetitions, session.device)["copy"]
    return 2 * size / seconds


def _losses(session: _Session) -> Iterator[list[BenchRow]]:
    """Both losses and their peers on logits of both precisions, beside the floor; memory; waits for the device."""
    bandwidth = _bandwidth(session)
    yield [BenchRow(subject="copy", what="bandwidth, reading and writing", unit="GB/s", ours=bandwidth / 1e9)]
    scale = 0.1 if session.is_small else 1.0
    for precision in PRECISIONS:
        dtype: torch.dtype = getattr(torch, precision)
        for num_objects in (7, 60):
            scene = loss_scene(2, num_objects, session.device, scale)
            scene = scene._replace(logits=scene.logits.detach().to(dtype).requires_grad_())
            what = f"{precision} logits, 2 x {num_objects} objects"
            calls = loss_calls(scene)
            seconds = medians(calls, session.repetitions, session.device)
            num_bytes = scene.logits.numel() * scene.logits.element_size()
            floor = 3 * num_bytes / bandwidth  # read, read again and written
            row = partial(BenchRow, subject="loss", repetitions=session.repetitions)
            aims = {"torchvision's sigmoid_focal_loss": 1.0, "our RetinaNetLoss": 1.0, "authors' dense layout": 0.2}
            peak = peak_tensor_bytes(calls["ours"], session.device)
            yield [
                *(row(what=what, unit="ms", ours=1e3 * seconds["ours"], peer=name, theirs=1e3 * seconds[name],
                      aim=session.aim(aim)) for name, aim in aims.items()),
                row(what=f"{what}: peak beyond the inputs", unit="MB", ours=peak / 1e6, peer="the logits",
                    theirs=num_bytes / 1e6, aim=session.aim(1.2)),
            ]  # fmt: skip
            if not session.is_small:
                yield [row(what=f"{what}: waits for the device, {name}", unit="", ours=_waits(calls[name]), aim=2.0)
                       for name in ("ours", "our RetinaNetLoss")]  # fmt: skip
        yield [_sweep(scene.logits, precision, floor, session)]


def _sweep(logits: Tensor, precision: str, floor: float, session: _Session) -> BenchRow:
    """The background pass alone, forward and backward, against what memory allows."""
    exceptions = torch.arange(0, logits.numel(), max(1, logits.numel() // 10_000), device=session.device)
    peer = torch.zeros_like(logits)

    def sweep() -> None:
        torch.autograd.grad(background_focal_loss(logits, exceptions, 2.0)[0], logits)

    def theirs() -> None:
        torch.autograd.grad(sigmoid_focal_loss(logits, peer, reduction="sum"), logits)

    seconds = medians({"ours": sweep, "peer": theirs}, session.repetitions, session.device)
    what, note = (
        f"{logits.numel():,} {precision} logits, both ways",
        f"sigmoid_focal_loss: {1e3 * seconds['peer']:.3g} ms",
    )
    return BenchRow(subject="sweep", what=what, unit="ms", ours=1e3 * seconds["ours"], peer="bytes over bandwidth",
                    theirs=1e3 * floor, aim=session.aim(2.0), repetitions=session.repetitions, note=note)  # fmt: skip


def _waits(call: Callable[[], object]) -> float:
    """How often a call waits for the GPU, as torch's own watch counts."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return float(sum("synchroniz" in str(warning.message) for warning in said))


def _steps(session: _Session) -> Iterator[list[BenchRow]]:
    """Training steps of both detectors and of torchvision's, in turn."""
    if session.is_small:
        yield bench_shapes_step(Runtime(device=session.device, precision="float32"), 1)
        return
    for precision in reversed(PRECISIONS):
        for num_images in (2, 8):
            runtime = Runtime(device=session.device, precision=precision)  # type: ignore[arg-type]
            yield bench_step(runtime, 10, num_images)


def _loading(session: _Session) -> Iterator[list[BenchRow]]:
    """Images a second from files to the device, at the paper's size, by number of loading processes."""
    if session.data is None:
        return
    split = read_split(session.data, "train")
    inputs = InputConfig(short_side=64, max_long_side=107) if session.is_small else InputConfig()
    stream = TrainingStream(split, inputs, AugmentConfig(), 0, 1)
    for workers in (0,) if session.is_small else (4, 8, session.workers):
        count = 8 if session.is_small else LOADED_IMAGES
        batches = [range(first, first + 2) for first in range(0, count, 2)]
        is_pinned = not session.is_small
        loader = DataLoader(stream, batch_sampler=batches, collate_fn=collate, num_workers=workers,  # type: ignore[arg-type]
                            pin_memory=is_pinned)  # fmt: skip
        begun, num_images = time.perf_counter(), 0
        for batch in loader:
            images = batch.images.to(session.device, non_blocking=True, memory_format=torch.channels_last)
            num_images += len(images)
        wait_for(session.device)
        rate = num_images / (time.perf_counter() - begun)
        what = f"{session.data.name}, short side {inputs.short_side}, {workers} processes"
        yield [BenchRow(subject="loading", what=what, unit="images/s", ours=rate)]


def _rates(session: _Session) -> Iterator[list[BenchRow]]:
    """Whole training loops, from files to the update, ours and torchvision's."""
    if session.data is None:
        return
    for precision in PRECISIONS[:1] if session.is_small else reversed(PRECISIONS):
        runtime = Runtime(device=session.device, precision=precision)  # type: ignore[arg-type]
        measure = partial(bench_rate, session.data, runtime, num_workers=session.workers, aim=session.aim(0.9))
        if session.is_small:
            yield measure(num_images=4, batch_size=2, sizes=(64, 107))
        else:
            yield measure(num_images=160, batch_size=8)


def _trainings(session: _Session) -> Iterator[list[BenchRow]]:
    """Both detectors, seed by seed, several side by side; what is not done in time goes on with the next call."""
    if not session.profile:
        return
    waiting = [f"{detector}-small-s{seed}" for seed in range(session.seeds) for detector in TRAINED]
    running: dict[str, subprocess.Popen[bytes]] = {}
    while (waiting or running) and session.left > 0:
        while waiting and len(running) < session.side_by_side:
            name = waiting.pop(0)
            running[name] = _start(name, session)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            yield [_ended(name, running.pop(name))]
        time.sleep(0.2)
    for process in running.values():
        process.send_signal(signal.SIGINT)  # it ends its step and saves its state
    for name, process in running.items():
        try:
            process.wait(timeout=SPARE_SECONDS / 2)
        except subprocess.TimeoutExpired:
            process.kill()  # it goes on from its last checkpoint
            process.wait()
        yield [_ended(name, process)]


def _start(name: str, session: _Session) -> "subprocess.Popen[bytes]":
    options = ["--profile", session.profile, "--runs", str(session.out / "runs"), "--seeds", str(session.seeds)]
    options += ["--drawn", str(session.out / "drawn"), "--device", session.device, "--workers", str(session.workers)]
    options += ["--data", str(session.data)] if session.data else []
    options += session.backbone
    command = [sys.executable, "-m", "experiments.cli", "train", name, *options]
    with (session.out / f"{name}.txt").open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=_surroundings(), stdout=file, stderr=file)


def _ended(name: str, process: "subprocess.Popen[bytes]") -> BenchRow:
    return BenchRow(subject="training", what=f"{name}: exit status", unit="", ours=float(process.returncode),
                    note=f"0 is done; other than that see {name}.txt: the same command goes on")  # fmt: skip


STAGES: dict[str, tuple[Stage, float]] = {  # and the least seconds it is begun with
    "environment": (_environment, 0.0),
    "tests": (_tests, 20.0),
    "losses": (_losses, 10.0),
    "steps": (_steps, 30.0),
    "loading": (_loading, 15.0),
    "rates": (_rates, 30.0),
    "trainings": (_trainings, 10.0),
}


def _backbone(options: argparse.Namespace) -> tuple[str, ...]:
    name = ("--backbone", options.backbone) if options.backbone else ()
    weights = options.backbone_weights
    return (*name, "--backbone-weights", str(weights.absolute())) if weights else name


def run_stages(session: _Session, names: Sequence[str]) -> None:
    """Each stage in turn while there is time; rows are on disk before the next one is measured."""
    session.out.mkdir(parents=True, exist_ok=True)
    path = session.out / "results.csv"
    origin = provenance(session.device)
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["group"])
    broken = set(frame.loc[frame["group"] == "failed", "what"]) if len(frame) else set()
    done = set(frame["group"]) - {"trainings"} - broken
    for name in names:
        stage, least = STAGES[name]
        if name in done or session.left < least:
            continue
        is_old = (frame["group"] == name) | (frame["group"].eq("failed") & frame.get("what", frame["group"]).eq(name))
        frame, fault = frame[~is_old], ""
        try:
            for rows in stage(session):
                frame = pd.concat([frame, as_frame(name, rows, origin)], ignore_index=True) if rows else frame
                write_csv(path, frame)
                if session.left < 0 and name != "trainings":
                    fault = "ended for want of time; the same command does it anew"
                    break
        except Exception as error:  # one stage that fails takes no other with it: time on a card is short
            fault = f"{error!r:.300}"
        if fault:
            rows = [BenchRow(subject="failed", what=name, unit="", ours=1.0, aim=0.0, note=fault)]
            frame = pd.concat([frame, as_frame("failed", rows, origin)], ignore_index=True)
            write_csv(path, frame)
    if len(frame):
        write_bytes(session.out / "results.md", as_markdown(frame).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages that are asked for, within the minutes given."""
    parser = argparse.ArgumentParser(prog="experiments.bench.cuda", description="All that needs a GPU, in one command.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to end (default: 9)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for a miniature (default: cuda)")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, with commas (default: all)")
    parser.add_argument("--train", default="", metavar="PROFILE", help="profile whose trainings fill the rest")
    parser.add_argument("--data", type=Path, help="folder of images to load and train on")
    parser.add_argument("--backbone", help="of profile photos")
    parser.add_argument("--backbone-weights", type=Path, help="file of its weights: there may be no network")
    parser.add_argument("--workers", type=int, default=0 if (os.cpu_count() or 1) < 8 else 8)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each detector (default: 3)")
    parser.add_argument("--side-by-side", type=int, default=2, help="trainings at once (default: 2)")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := set(names) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error(f"no CUDA device answers to {options.device}; --device cpu runs a miniature")
    if options.train == "photos" and options.data is None:
        parser.error("profile photos trains on a folder of images; give it with --data DIR")
    run_stages(
        _Session(
            out=options.out.absolute(),
            device=options.device,
            ends=time.monotonic() + 60 * options.minutes,
            data=options.data.absolute() if options.data else None,
            profile=options.train,
            backbone=_backbone(options),
            workers=options.workers,
            seeds=options.seeds,
            side_by_side=options.side_by_side,
        ),
        names,
    )
    print(json.dumps({"results": str(options.out / "results.md")}))


if __name__ == "__main__":
    main()
