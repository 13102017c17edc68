"""How often the paired interval of a difference holds the true difference: ours, and hotcoco's where it is installed.

    python -m experiments.bench.coverage --out reports/benchmarks      # coverage.csv, coverage.png; about an hour

Each world is so many images of made-up objects, and two detectors that find them with a known gap in quality: their
true difference in AP is that of a population of many images drawn alike. An interval of 95 % should hold it in 95 of
100 worlds. The drawn images are the same for both methods.
"""

import argparse
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation import precision as ap
from analysis.evaluation.matching import match_detections
from analysis.evaluation.statistics import paired_bootstrap
from analysis.figures.style import styled, write_figure
from freeanchor.workers import map_in_processes, usable_processors

NUM_CLASSES = 3
JITTERS = (0.10, 0.085)  # of a found object's box, of both detectors: the second is a little sharper
RECALLS = (0.78, 0.80)  # share of the objects that each finds
POPULATION = 40_000  # images
HOTCOCO = "hotcoco"


@dataclass(frozen=True, kw_only=True)
class World:
    """Some images with the detections of both detectors, as the content of COCO's files."""

    content: dict[str, Any]
    found: tuple[list[dict[str, Any]], list[dict[str, Any]]]


def made_up_world(num_images: int, generator: np.random.Generator) -> World:
    """Images of 640 x 480 with 0 to about 15 objects, as crowded as photographs are unlike each other."""
    counts = generator.poisson(generator.gamma(1.5, 3.0, num_images))
    image = np.repeat(np.arange(1, num_images + 1), counts)
    hardness = np.repeat(generator.normal(0, 0.6, num_images), counts)  # images differ, and both detectors feel it
    category = generator.integers(1, NUM_CLASSES + 1, len(image))
    sizes = np.exp(generator.normal(4.2, 0.7, (len(image), 2))).clip(8, 300)
    corners = generator.random((len(image), 2)) * ([640, 480] - sizes)
    boxes = np.hstack([corners, sizes])
    annotations = [
        {"id": i, "image_id": j, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (j, k, box) in enumerate(zip(image.tolist(), category.tolist(), boxes.tolist(), strict=True), start=1)
    ]
    return World(
        content={
            "images": [{"id": i, "width": 640, "height": 480} for i in range(1, num_images + 1)],
            "categories": [{"id": k, "name": f"class {k}"} for k in range(1, NUM_CLASSES + 1)],
            "annotations": annotations,
        },
        found=tuple(  # type: ignore[arg-type]
            _found(image, category, boxes, hardness, jitter, recall, num_images, generator)
            for jitter, recall in zip(JITTERS, RECALLS, strict=True)
        ),
    )


def _found(
    image: np.ndarray,
    category: np.ndarray,
    boxes: np.ndarray,
    hardness: np.ndarray,
    jitter: float,
    recall: float,
    num_images: int,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Objects found with jittered boxes, and false positives that score less on the whole."""
    hit = np.flatnonzero(generator.random(len(image)) < recall - 0.1 * np.tanh(hardness))
    shifts = generator.normal(size=(len(hit), 4)) * (jitter * np.exp(0.4 * hardness[hit]))[:, None]
    own = np.hstack([boxes[hit, :2] + shifts[:, :2] * boxes[hit, 2:], boxes[hit, 2:] * np.exp(shifts[:, 2:])])
    count = generator.poisson(2.0 * num_images)
    sides = np.exp(generator.normal(4.2, 0.7, (count, 2))).clip(8, 300)
    wrong = np.hstack([generator.random((count, 2)) * ([640, 480] - sides), sides])
    columns = (
        np.append(image[hit], generator.integers(1, num_images + 1, count)),
        np.append(category[hit], generator.integers(1, NUM_CLASSES + 1, count)),
        np.vstack([own, wrong]),
        np.append(generator.beta(4, 2, len(hit)), generator.beta(2, 4, count)),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in rows]


def true_difference(seed: int, num_images: int = POPULATION) -> float:
    """Second minus first in AP, over a population."""
    one, two, _ = _curves(made_up_world(num_images, np.random.default_rng(seed)))
    return float(ap.average_precision(two) - ap.average_precision(one))


def intervals(world: World, num_resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """The bounds of AP's difference by each method that there is."""
    one, two, num_images = _curves(world)
    own = paired_bootstrap(
        lambda weights: ap.average_precision(one, weights),
        lambda weights: ap.average_precision(two, weights),
        num_images=num_images,
        generator=np.random.default_rng(seed),
        num_resamples=num_resamples,
    )
    found = {"ours": (float(own.low), float(own.high))}
    if find_spec(HOTCOCO) is not None:
        found[HOTCOCO] = _by_hotcoco(world, num_resamples, seed)
    return found


def _by_hotcoco(world: World, num_resamples: int, seed: int) -> tuple[float, float]:
    import hotcoco

    objects = hotcoco.COCO(world.content)
    evaluations = []
    for rows in world.found:
        evaluation = hotcoco.COCOeval(objects, objects.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluations.append(evaluation)
    bounds = hotcoco.compare(*evaluations, n_bootstrap=num_resamples, seed=seed)["ci"]["AP"]
    return float(bounds["lower"]), float(bounds["upper"])


def _curves(world: World) -> tuple[ap.PrecisionCurves, ap.PrecisionCurves, int]:
    ground_truth: GroundTruth = read_ground_truth(world.content)
    found: list[Detections] = [read_detections(rows, ground_truth) for rows in world.found]
    one, two = (ap.precision_curves(match_detections(ground_truth, own)) for own in found)
    return one, two, len(ground_truth.image_ids)


def coverage_frame(
    sizes: tuple[int, ...], num_worlds: int, num_resamples: int, seed: int = 0, num_population: int = POPULATION
) -> pd.DataFrame:
    """One row per size of world and method: coverage with its own 95 % bounds (Wilson), and the median width."""
    truth = true_difference(seed, num_population)
    rows = []

    def measured(world: tuple[int, int]) -> dict[str, tuple[float, float]]:
        num_images, number = world
        generator = np.random.default_rng([seed, num_images, number])
        return intervals(made_up_world(num_images, generator), num_resamples, number)

    # all at once: a process that has run hotcoco's threads cannot be forked again
    worlds = [(num_images, number) for num_images in sizes for number in range(num_worlds)]
    every = map_in_processes(measured, worlds, num_processes=usable_processors())
    for place, num_images in enumerate(sizes):
        found = every[place * num_worlds : (place + 1) * num_worlds]
        for method in found[0]:
            bounds = np.array([one[method] for one in found])
            hits = int(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).sum())
            low, high = _wilson(hits, num_worlds)
            width = float(np.median(bounds[:, 1] - bounds[:, 0]))
            name = method if method == "ours" else f"{method} {version(method)}"
            rows.append((name, num_images, num_worlds, num_resamples, truth, hits / num_worlds, low, high, width))
    columns = ["method", "num_images", "num_worlds", "num_resamples", "difference", "coverage", "low", "high", "width"]
    return pd.DataFrame(rows, columns=columns)


def _wilson(hits: int, count: int) -> tuple[float, float]:
    share, z = hits / count, 1.96
    middle, reach = share + z**2 / (2 * count), z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float((middle - reach) / (1 + z**2 / count)), float((middle + reach) / (1 + z**2 / count))


@styled
def coverage_figure(frame: pd.DataFrame) -> Figure:
    """Coverage by number of images, a line per method, the nominal 95 % as a rule."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, (method, own) in enumerate(frame.groupby("method", sort=False)):
        x = np.arange(len(own)) + 0.12 * (place - 0.5)
        errors = [own["coverage"] - own["low"], own["high"] - own["coverage"]]
        axes.errorbar(x, own["coverage"], yerr=errors, fmt="o", capsize=3, label=str(method))
    axes.axhline(0.95, color="0.3", linewidth=1.2, linestyle="--", label="nominal", zorder=1)
    sizes = frame["num_images"].unique()
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set(xlabel="images", ylabel="hold the true difference")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Measure and write csv and figure."""
    parser = argparse.ArgumentParser(description="Coverage of the paired interval of a difference.")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="folder to write to")
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 300, 1000])
    options = parser.parse_args(arguments)
    frame = coverage_frame(tuple(options.images), options.worlds, options.resamples)
    write_figure(coverage_figure(frame), frame, options.out / "coverage")
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
