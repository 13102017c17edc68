"""The commands on data sets and model files: data, convert, export, replay."""

import argparse
import json
import sys
from pathlib import Path

from experiments.commands.runs import evaluation_of, store_of
from experiments.fetch.coco import fetch_coco
from experiments.runs.training import data_stage
from freeanchor.checkpoints.code_bases import CODE_BASES, Origin
from freeanchor.checkpoints.convert import convert_file, export_file
from freeanchor.data.coco import COCO_CATEGORIES, read_categories_file
from freeanchor.data.folder_check import report_folder
from freeanchor.data.voc import convert_voc
from freeanchor.data.yolo import convert_yolo
from freeanchor.errors import DataError, UsageError
from freeanchor.files import in_turn
from freeanchor.inference.onnx_graph import write_onnx
from freeanchor.shapes.dataset import write_shapes
from freeanchor.shapes.scene import ShapesConfig
from freeanchor.training.divergence import replay as replay_step


def data(arguments: argparse.Namespace) -> None:
    """`freeanchor data check DIR | voc DIR DIR | yolo DIR DIR | shapes DIR | coco DIR | draw RUN`."""
    target = arguments.target
    if arguments.action == "shapes":
        with in_turn(target):
            write_shapes(ShapesConfig(), target)
    elif arguments.action == "draw":
        print(data_stage(evaluation_of(arguments, target).training, store_of(arguments)))
    elif arguments.action == "voc":
        with in_turn(arguments.destination):
            convert_voc(target, arguments.destination)
    elif arguments.action == "yolo":
        with in_turn(arguments.destination):
            convert_yolo(target, arguments.destination)
    elif arguments.action == "coco":
        fetch_coco(target, splits=tuple(arguments.splits.split(",")))
    else:
        lines, is_fine = report_folder(target)
        print("\n".join(lines))
        if not is_fine:
            raise DataError(f"{target}: not fit for training as it is; each line above says what to fix")


def _categories(path: Path | None) -> dict[int, str]:
    return COCO_CATEGORIES if path is None else read_categories_file(path)


def convert(arguments: argparse.Namespace) -> None:
    """`freeanchor convert --from FORMAT SRC DST`."""
    if arguments.detector is None and CODE_BASES[arguments.format].has_free_anchor:
        raise UsageError(
            f"--from {arguments.format} does not say which detector it is; give --detector RetinaNet or FreeAnchor"
        )
    try:
        origin = Origin(
            format=arguments.format,
            detector=arguments.detector or "RetinaNet",
            caffe=arguments.caffe,
            norm_eps=arguments.norm_eps,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    detector = convert_file(arguments.source, origin, arguments.target, _categories(arguments.categories))
    backbone = getattr(detector.model.backbone, "label", "")
    print(f"{arguments.target}: {origin.detector}, {backbone}, {len(detector.category_ids)} classes, ready to use")


def export(arguments: argparse.Namespace) -> None:
    """`freeanchor export --to FORMAT SRC DST`."""
    source, target = arguments.source, arguments.target
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target}: would be overwritten by what is made of it; give another target")
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; give the file to write in it")
    if arguments.format == "onnx" and target.suffix.lower() != ".onnx" and (target.is_file() or not target.exists()):
        raise UsageError(f"{target}: detect knows an ONNX file by its name; give one that ends in .onnx")
    if arguments.format == "onnx":
        write_onnx(source, target)
    else:
        export_file(source, arguments.format, target)
    print(target)


def replay(arguments: argparse.Namespace) -> None:
    """`freeanchor replay FILE`."""
    lines = list(replay_step(arguments.file, arguments.precision))
    print(json.dumps(lines, indent=1) if arguments.json else "\n".join(lines), file=sys.stdout)
