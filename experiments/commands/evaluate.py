"""The commands on detections in plain files: evaluate, compare, match, nms-recall, nms.

Each takes the parsed command line and prints a table, or json where asked.
"""

import argparse
import gzip
import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import analysis
from analysis.coco.reading import DataNote, read_detections, read_ground_truth, results_json
from analysis.evaluation.parted import match_part
from analysis.evaluation.suppression import Suppression, check_threshold, suppress, suppressions
from experiments.commands.evaluation_options import parts_of
from experiments.commands.formats import as_coco
from freeanchor.errors import FreeAnchorError, UsageError, printable
from freeanchor.files import write_bytes, write_csv

if TYPE_CHECKING:
    import pandas as pd


_OPTIONS = {
    "nms_iou": "nms", "size_cuts": "sizes", "aspect_cuts": "aspects", "crowd_edges": "crowds", "iou_thresholds": "ious",
    "working_point": "precision",
}  # fmt: skip


def evaluate(arguments: argparse.Namespace) -> None:
    """`freeanchor evaluate --gt G --detections D`."""
    with _as_a_command():
        gt, (detections,) = as_coco(arguments.gt, [arguments.detections], arguments.split)
        try:
            result = analysis.evaluate(
                gt,
                detections,
                area=arguments.area,
                resamples=arguments.resamples,
                check=arguments.check,
                ultralytics=arguments.ultralytics,
                candidates=arguments.candidates[0] if arguments.candidates else None,
                **parts_of(arguments),
            )
        except ArithmeticError as error:
            raise FreeAnchorError(f"--check: {error}") from None
    _answer(result, arguments)


def compare(arguments: argparse.Namespace) -> None:
    """`freeanchor compare --gt G A B`: B minus A, paired over images; or A after `--nms` minus A."""
    with _as_a_command():
        second = _second(arguments)
        files = [second] if isinstance(second, Path) else []
        gt, (first, *others) = as_coco(arguments.gt, [arguments.first, *files], arguments.split)
        result = analysis.compare(
            gt,
            first,
            others[0] if others else second,
            area=arguments.area,
            resamples=arguments.resamples,
            candidates=tuple(arguments.candidates) if arguments.candidates else None,
            names=tuple(arguments.names) if arguments.names else None,
            **parts_of(arguments),
        )
    _answer(result, arguments)


def match(arguments: argparse.Namespace) -> None:
    """`freeanchor match --gt G --detections D --part K/N --out DIR`: parts run anywhere, in any order."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", arguments.part)
    part, num_parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= num_parts:
        raise UsageError(
            f"--part must be K/N with K from 1 to N, got {arguments.part}; 3/16 is the third of sixteen parts"
        )
    with _as_a_command():
        gt, (detections,) = as_coco(arguments.gt, [arguments.detections], arguments.split)
        print(match_part(gt, detections, arguments.out, part=part, num_parts=num_parts))


def _second(arguments: argparse.Namespace) -> "Path | Suppression":
    """The other detector's file, or what is done to the first's detections."""
    has_nms = arguments.nms is not None or arguments.soft_nms is not None
    if has_nms == (arguments.second is not None):
        raise FreeAnchorError("compare: give either a second file, or --nms or --soft-nms for the first one after it")
    if arguments.second is not None:
        return arguments.second
    *_, suppression = suppressions(0.5 if arguments.nms is None else arguments.nms, arguments.soft_nms, arguments.sigma)
    return suppression


def nms_recall(arguments: argparse.Namespace) -> None:
    """`freeanchor nms-recall --gt G --candidates C`."""
    if arguments.max_candidates < 0:
        raise UsageError(f"--max-candidates must not be negative, got {arguments.max_candidates}; 0 takes all")
    with _as_a_command():
        gt, (candidates,) = as_coco(arguments.gt, [arguments.candidates], arguments.split)
        result = analysis.nms_recall(
            gt,
            candidates,
            nms=arguments.nms,
            soft_nms=arguments.soft_nms,
            sigma=arguments.sigma,
            score_threshold=arguments.score_threshold,
            max_candidates=arguments.max_candidates or None,
            include_crowd=arguments.include_crowd,
            inclusive=arguments.inclusive,
            resamples=arguments.resamples,
        )
    _answer(result, arguments)


def nms(arguments: argparse.Namespace) -> None:
    """`freeanchor nms --candidates C --out D.json`."""
    if not arguments.out.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--out must end with .json or .json.gz, got {arguments.out}; it holds COCO results")
    if arguments.max_detections < 0:
        raise UsageError(f"--max-detections must not be negative, got {arguments.max_detections}; 0 keeps all")
    with _as_a_command():
        *_, suppression = suppressions(arguments.nms, arguments.soft_nms, arguments.sigma)
        check_threshold(arguments.score_threshold)
        source, ground_truth = arguments.candidates, None
        if arguments.gt:
            gt, (source,) = as_coco(arguments.gt, [arguments.candidates], arguments.split)
            ground_truth = read_ground_truth(gt)
        candidates = read_detections(source, ground_truth)
    kept = suppress(
        candidates,
        suppression,
        score_threshold=arguments.score_threshold,
        max_detections=arguments.max_detections or None,
    )
    content = json.dumps(results_json(kept)).encode()
    write_bytes(arguments.out, gzip.compress(content, mtime=0) if arguments.out.suffix == ".gz" else content)
    print(f"{len(kept)} of {len(candidates)} candidates kept by {suppression.label}, in {arguments.out}")


@contextmanager
def _as_a_command() -> Iterator[None]:
    """Within it, notes on files stand on stderr, each once, and what is wrong with an option has the option's name."""
    told: set[str] = set()
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if not issubclass(category, DataNote):
            shown(message, category, *where)  # type: ignore[arg-type]
        elif str(message) not in told:
            told.add(str(message))
            print(f"freeanchor: {printable(str(message))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataNote)
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            yield
        except UsageError as error:
            name, _, rest = str(error).partition(" ")
            raise UsageError(f"--{_OPTIONS.get(name, name.replace('_', '-'))} {rest}") from None


def _answer(result: "analysis.Result", arguments: argparse.Namespace) -> None:
    """Prints the tables, or with `--json` their rows, undefined numbers as null; writes them where asked.

    `--csv FILE` takes the main table, and `FILE` with `-errors`, `-slices` … before its suffix the others. `--json` is
    a list of rows, or an object of such lists where other tables were asked for.
    """
    tables = {"": result.table, **{f"-{name}": table for name, table in result.parts.items()}}
    if arguments.csv:
        for name, table in tables.items():
            path = arguments.csv  # of the main table, which comes first and is refused if it is a folder
            write_csv(path.with_name(f"{path.stem}{name}{path.suffix}") if name else path, table)
    if getattr(arguments, "figures", None):
        _write_figures(result, arguments.figures)
    if getattr(arguments, "html", None):
        with _as_a_command():
            result.to_html(arguments.html, photos=arguments.photos, size_limit=round(arguments.page_size * 1e6))
        print(f"freeanchor: the page is in {arguments.html}", file=sys.stderr)
    if arguments.json:
        rows = {name.removeprefix("-") or "metrics": _records(table) for name, table in tables.items()}
        print(json.dumps(rows if result.parts else rows["metrics"], indent=1))
    else:
        print(result)


def _records(table: "pd.DataFrame") -> list[dict]:
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _write_figures(result: "analysis.Result", folder: Path) -> None:
    from analysis.figures.style import write_figure

    write_figure(result.figure(), result.table, folder / "metrics")
    for name, table in result.parts.items():
        write_figure(result.figure(name), table, folder / name)
