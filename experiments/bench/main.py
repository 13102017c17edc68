"""`make bench`: every speed and memory figure of the toolkit against a peer, into one table, page and figure.

python -m experiments.bench.main --out reports --only loss,inference
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from analysis.figures.comparisons import benchmarks_figure
from analysis.figures.style import write_figure
from experiments.bench.evaluation import bench_evaluation
from experiments.bench.explorer import bench_explorer
from experiments.bench.inference import bench_inference, bench_nms
from experiments.bench.large import bench_large
from experiments.bench.loss import bench_loss
from experiments.bench.rows import BenchRow
from experiments.bench.step import bench_shapes_step, bench_step
from experiments.runs.store import provenance
from freeanchor.files import write_bytes
from freeanchor.runtime import Runtime

ORIGIN = ("hardware", "system", "torch", "torchvision", "commit", "date")  # of a row, from its provenance
Subject = Callable[[Runtime, argparse.Namespace], list[BenchRow]]
SUBJECTS: dict[str, Subject] = {
    "loss": lambda runtime, options: bench_loss(runtime.device, options.repetitions),
    "step": lambda runtime, options: bench_step(runtime, max(3, options.repetitions // 2)),
    "shapes": lambda runtime, options: bench_shapes_step(runtime, 4 * options.repetitions),
    "inference": lambda runtime, options: [
        *bench_inference(runtime, options.repetitions),
        *bench_nms(runtime, 20 * options.repetitions),
    ],
    "evaluation": lambda runtime, options: bench_evaluation(options.gt),
    "explorer": lambda runtime, options: bench_explorer(options.repetitions),
    "large": lambda runtime, options: bench_large(),
}
USUAL = ",".join(subject for subject in SUBJECTS if subject != "large")  # which takes ten minutes and 1 GB of disk


def as_frame(subject: str, rows: Sequence[BenchRow], origin: dict[str, str]) -> pd.DataFrame:
    """One line per row of one subject, with its ratio, whether the aim was met, and what it was measured on."""
    where = {name: origin[name] for name in ORIGIN}
    return pd.DataFrame(
        [{"group": subject, **asdict(row), "ratio": row.ratio, "met": row.met, **where} for row in rows]
    )


def as_markdown(frame: pd.DataFrame) -> str:
    """The table for a reader, with what it was measured on."""
    rows = _rows(frame)
    lines = ["| | Ours | Peer | Ratio | Aim | Met |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        peer = f"{row.peer}: {_number(row.theirs)} {row.unit}" if row.peer else "–"
        aim = "–" if math.isnan(row.aim) else f"≤ {row.aim:g}"
        met = "–" if row.met is None else "yes" if row.met else "**no**"
        ours, ratio = f"{_number(row.ours)} {row.unit}".strip(), "–" if math.isnan(row.ratio) else f"{row.ratio:.2f}"
        lines.append(f"| {row.subject}: {row.what} | {ours} | {peer} | {ratio} | {aim} | {met} |")
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    head = (
        "Ratios are ours over the peer's, lower is better; an aim bounds the ratio, or our figure where there is no "
        "peer. Seconds are medians, repetitions in turn with the peer's in one run, by the clock but for evaluation "
        "(processor time, one process each). Memory is the peak of what is held beyond the inputs."
    )
    wheres = [
        f"- {', '.join(names)}: {'; '.join(map(str, origin))}."
        for origin, names in frame.groupby(list(ORIGIN), sort=False)["group"].unique().items()
        if isinstance(origin, tuple)
    ]
    return "\n\n".join(["**Benchmarks**", head, "\n".join(lines), "\n".join([*notes, *wheres])]) + "\n"


def _rows(frame: pd.DataFrame) -> list[BenchRow]:
    names = [field.name for field in fields(BenchRow)]
    texts = {"unit": "", "peer": "", "note": ""}
    return [BenchRow(**row) for row in frame[names].fillna(texts).to_dict("records")]  # type: ignore[arg-type]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for; rows of other subjects already in the table stay."""
    parser = argparse.ArgumentParser(description="Speed and memory against peers.")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder to write to (default: reports)")
    parser.add_argument("--only", default=USUAL, help="subjects, with commas (default: all but large)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--precision", default="float32", help="of the network (default: float32)")
    parser.add_argument("--repetitions", type=int, default=5, help="of what is timed (default: 5)")
    parser.add_argument("--gt", type=Path, help="COCO json whose objects the evaluation is timed on (default: made up)")
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - set(SUBJECTS):
        parser.error(f"no such subject: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    runtime = Runtime(device=options.device, threads=options.threads, precision=options.precision)
    runtime.prepare()
    path = options.out / "benchmarks.csv"
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["group"])
    for subject in tqdm(options.only.split(","), desc="bench", unit="subject", disable=None):
        measured = as_frame(subject, SUBJECTS[subject](runtime, options), provenance(runtime.device))
        parts = {str(group): rows for group, rows in frame.groupby("group")} | {subject: measured}
        frame = pd.concat([parts[group] for group in SUBJECTS if group in parts], ignore_index=True)
        # after every subject, since the whole takes long
        write_bytes(options.out / "benchmarks.md", as_markdown(frame).encode())
        write_figure(benchmarks_figure(frame), frame, options.out / "benchmarks")
    print(options.out / "benchmarks.md")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
