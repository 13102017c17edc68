"""One measured piece of evaluation in a process of its own, for `evaluation.py`: prints one line of json.

    python -m experiments.bench.task ours gt.json detections.json
    python -m experiments.bench.task pycocotools gt.json detections.json        # or hotcoco, …
    python -m experiments.bench.task intervals gt.json first.json second.json 1000
    python -m experiments.bench.task intervals gt.json first.json second.json 1000 --all   # errors and slices, too

`reading` and `evaluating` are seconds of processor time (of `intervals`, by the clock), imports left out; `peak` is the
most memory in bytes over what the imports hold. Each task imports what it needs, lest one pay for the other.
"""

import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
_PAGE = 4096  # bytes: the least that can be seen


class Meter:
    """Seconds of each part of a task by a clock, and the most memory held meanwhile; starts when made."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        _forget_peak()
        self._held = _memory("VmRSS")
        self._seconds: dict[str, float] = {}
        self._begun = clock()

    def lap(self, part: str) -> None:
        """The part ends here, and the next one begins."""
        now = self._clock()
        self._seconds[part] = now - self._begun
        self._begun = now

    def answer(self, **found: object) -> Answer:
        """The seconds, the peak, and what was found."""
        return {**self._seconds, "peak": max(_PAGE, _memory("VmHWM") - self._held), **found}


def ours(gt: str, found: str) -> Answer:
    """Twelve statistics and all breakdowns, by our own matcher."""
    from analysis.coco.reading import read_detections, read_ground_truth
    from analysis.coco.record import STATISTICS
    from analysis.evaluation.evaluate import evaluation_frame

    meter = Meter(time.process_time)
    ground_truth = read_ground_truth(Path(gt))
    detections = read_detections(Path(found), ground_truth)
    meter.lap("reading")
    frame = evaluation_frame(ground_truth, detections, num_resamples=0).set_index("metric")
    meter.lap("evaluating")
    return meter.answer(statistics=frame["value"].reindex(list(STATISTICS)).tolist())


def _peer(module: str, evaluator: str) -> Callable[[str, str], Answer]:
    """A package with pycocotools' interface, used as its manual says."""

    def run(gt: str, found: str) -> Answer:
        peer = import_module(module)
        meter = Meter(time.process_time)
        objects = peer.COCO(gt)
        evaluation = getattr(peer, evaluator)(objects, objects.loadRes(found), "bbox")
        meter.lap("reading")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        meter.lap("evaluating")
        return meter.answer(
            statistics=[value if value > -1 else float("nan") for value in map(float, evaluation.stats[:12])]
        )

    return run


def _pycocotools(gt: str, found: str) -> Answer:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    meter = Meter(time.process_time)
    objects = COCO(gt)
    evaluation = COCOeval(objects, objects.loadRes(found), "bbox")
    meter.lap("reading")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    meter.lap("evaluating")
    return meter.answer(statistics=[value if value > -1 else float("nan") for value in evaluation.stats.tolist()])


# name of the package -> its module, its evaluator; what `make bench` runs beside ours where it is installed
PEERS = {
    "hotcoco": ("hotcoco", "COCOeval"),
    "ultrafast-pycocotools": ("ultrafast_pycocotools", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCOeval_faster"),
}


def intervals(gt: str, first: str, second: str, num_resamples: str, more: str = "") -> Answer:
    """Paired intervals of every metric, by the clock: several processes share the work.

    With `more` those of error types, too, and of two slices of the images into five parts each.
    """
    from analysis.coco.reading import read_detections, read_ground_truth
    from analysis.evaluation.evaluate import Wanted, comparison_frames, contexts_of
    from analysis.evaluation.slices import read_slices

    meter = Meter(time.perf_counter)
    ground_truth = read_ground_truth(Path(gt))
    one, two = (read_detections(Path(path), ground_truth) for path in (first, second))
    wanted = Wanted()
    if more:
        ids = ground_truth.image_ids.tolist()
        rows = [{"image_id": i, "one": f"{k % 5}", "other": f"{k // 5 % 5}"} for k, i in enumerate(ids)]
        wanted = Wanted(errors="coco", slices=read_slices(rows, ground_truth))
    meter.lap("reading")
    before = os.times()
    contexts = contexts_of(ground_truth, (one, two), wanted)
    frames = comparison_frames(ground_truth, one, two, wanted, num_resamples=int(num_resamples), contexts=contexts)
    meter.lap("evaluating")
    processor = sum(os.times()[:4]) - sum(before[:4])  # of this process and of those that it waited for
    return meter.answer(num_metrics=sum(map(len, frames.values())), processor=processor)


def main(arguments: list[str]) -> None:
    """Does the task and prints its answer."""
    tasks: dict[str, Callable[..., Answer]] = {"ours": ours, "intervals": intervals}
    tasks["pycocotools"] = _pycocotools
    tasks |= {name: _peer(*where) for name, where in PEERS.items()}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        answer = tasks[arguments[0]](*arguments[1:])
    print(json.dumps(answer))


def _forget_peak() -> None:
    """Lets the peak begin anew, so that what imports needed for a moment hides nothing; Linux alone can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory(name: str) -> int:
    """Bytes held now (`VmRSS`) or at most (`VmHWM`); elsewhere than on Linux always the most so far."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
