"""The matching explorer's page: how large it is, how long making it takes, and how soon a browser has drawn it.

    rows = bench_explorer(repetitions=5)

The page is made by the command itself, of generated scenes and the example models of `reports/shapes`: their snapshots
and one between the last two are five stages of a detector, and the same with some noise in the weights those of a
second one. A second page has images of many objects. Both are opened from files in headless Chromium, if there is one.
"""

import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from experiments.bench.browser import Browser, find_chromium
from experiments.bench.rows import BenchRow
from experiments.registry.build import build_profile
from experiments.registry.config import DrawnData
from experiments.runs.store import ROOT
from freeanchor.checkpoints.native import describe, read_model, save_tensors
from freeanchor.shapes.dataset import write_shapes
from freeanchor.shapes.scene import ShapesConfig

MODELS = ROOT / "reports" / "shapes" / "models"
NOISE = 0.02  # of each weight's tensor's spread: enough that no number of the second detector is the first's
NUM_IMAGES, NUM_STAGES, NUM_OBJECTS = 40, 5, 60
DRAWN = "['explorer-drawn', 'first-contentful-paint'].every((name) => performance.getEntriesByName(name).length)"
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
FIRST_ANCHORS = "performance.getEntriesByName('explorer-drawn')[0].startTime / 1000"
# Every object of the fullest image picked in turn, with all that is drawn of each: seconds per object.
PICKING = """(async () => {
  const most = Math.max(...header.images.map((one) => one.objects.length));
  pickImage(header.images.findIndex((one) => one.objects.length === most));
  await showAll();
  const begun = performance.now();
  for (let i = 0; i < most; i++) { await pickObject(i); document.body.getBoundingClientRect(); }
  return [(performance.now() - begun) / 1000 / most, most];
})()"""


def bench_explorer(repetitions: int, num_images: int = NUM_IMAGES, num_objects: int = NUM_OBJECTS) -> list[BenchRow]:
    """Size, seconds of making, first paint and first anchors of one page; seconds to pick an object of a full one."""
    data = build_profile("shapes").data
    assert isinstance(data, DrawnData), "shapes are drawn"
    with TemporaryDirectory() as folder:
        root = Path(folder)
        models = [write_stages(root / name, noise) for name, noise in (("first", 0.0), ("second", NOISE))]
        usual = replace(data.shapes, num_train=0, num_val=num_images, empty_fraction=0.0)
        page, seconds, words = make_page(root / "usual", usual, models)
        size = 3 * data.shapes.image_size  # room for so many
        crowd = replace(usual, num_val=min(8, num_images), max_objects=num_objects, image_size=size)
        full, _, _ = make_page(root / "full", crowd, models)
        row = _row_of(repetitions, words)
        rows = [
            row("page", "MB", page.stat().st_size / 1e6, 5.0),
            row("making it, per image and stage, processor time", "s", seconds / (num_images * 2 * NUM_STAGES)),
        ]
        if find_chromium() is None:
            return rows
        with Browser() as browser:
            times = {it: _asked(browser, page, it, repetitions) for it in (FIRST_PAINT, FIRST_ANCHORS)}
            browser.open(full, ready=DRAWN)
            picking, most = browser.ask(PICKING)
    return [
        *rows,
        row("first paint in Chromium, from a file", "s", times[FIRST_PAINT], 1.0),
        row("first anchors drawn there", "s", times[FIRST_ANCHORS], 1.0),
        _row_of(1, f"{most} objects")("picking an object of the fullest image there", "s", picking, 0.1),
    ]


def _row_of(repetitions: int, note: str) -> Callable[..., BenchRow]:
    def row(what: str, unit: str, ours: float, aim: float = float("nan")) -> BenchRow:
        return BenchRow(
            subject="explorer", what=what, unit=unit, ours=ours, aim=aim, repetitions=repetitions, note=note
        )

    return row


def write_stages(folder: Path, noise: float) -> Path:
    """Five stages of FreeAnchor's example training, noise in their weights; the path of the last, the model."""
    source = next(path for path in sorted(MODELS.glob("*/model.safetensors")) if any(path.parent.glob("step-*")))
    files = [*sorted(source.parent.glob("step-*.safetensors")), source]
    kept, (_, detector) = [read_model(path)[0] for path in files], read_model(source)
    between = {key: (it + kept[-1][key]) / 2 if it.is_floating_point() else it for key, it in kept[-2].items()}
    stages = [*kept[:-1], between, kept[-1]][-NUM_STAGES:]
    generator = torch.Generator().manual_seed(0)
    for number, tensors in enumerate(stages, start=1):
        own = {key: _noisy(it, noise, generator) for key, it in tensors.items()}
        name = "model" if number == len(stages) else f"step-{number:06d}"
        save_tensors(folder / f"{name}.safetensors", own, describe(detector))
    return folder / "model.safetensors"


def _noisy(tensor: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or tensor.numel() < 2 or noise == 0:
        return tensor
    wide = tensor.float()
    return wide + noise * wide.std() * torch.randn(wide.shape, generator=generator)


def make_page(folder: Path, shapes: ShapesConfig, models: Sequence[Path]) -> tuple[Path, float, str]:
    """The page of all of a validation set's images, the seconds of processor time it took, and what it has in words."""
    write_shapes(shapes, folder)
    words = ["--gt", folder / "val.json", "--images", folder / "images", "--num-images", shapes.num_val, "--snapshots"]
    command = [sys.executable, "-m", "experiments.cli", "explore", *map(str, words), "--checkpoint", *map(str, models)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    page = folder / "explorer.html"
    answer = subprocess.run(
        [*command, "--out", str(page), "--threads", "1"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return page, seconds, answer.stdout.strip().split(": ", 1)[1]


def _asked(browser: Browser, page: Path, expression: str, repetitions: int) -> float:
    """The median of what the freshly opened page answers."""
    found = []
    for _ in range(repetitions):
        browser.open(page, ready=DRAWN)
        found.append(float(browser.ask(expression)))
    return median(found)
