"""Options about where data come from: the command `data`, one part of a matching, and the split of a folder.

add_data(commands.add, add_profile)
add_match(commands.add)
add_split(evaluate)
"""

import argparse
from collections.abc import Callable
from pathlib import Path

AddCommand = Callable[[str, str, str], argparse.ArgumentParser]  # name, what it does, an example


def add_split(parser: argparse.ArgumentParser) -> None:
    """Which images of a folder are measured."""
    parser.add_argument(
        "--split", default="val", choices=("train", "val", "test"), help="of a folder as --gt (default: val)"
    )


def add_match(add_command: AddCommand) -> None:
    """The command `match`."""
    match = add_command(
        "match",
        "match one part of the images, for evaluate and compare to put together: for clusters",
        "freeanchor match --gt G.json --detections D.json --part 3/16 --out parts",
    )
    match.add_argument("--gt", type=Path, required=True, help="ground truth, as of evaluate")
    match.add_argument("--detections", type=Path, required=True, help="detections, as of evaluate")
    match.add_argument("--part", default="1/1", metavar="K/N", help="the Kth of N parts of the images (default: 1/1)")
    match.add_argument("--out", type=Path, required=True, help="the folder to write the part to")
    add_split(match)


def add_data(add_command: AddCommand, add_profile: Callable[[argparse.ArgumentParser], None]) -> None:
    """The command `data` and its actions."""
    data = add_command("data", "check, convert, fetch or generate a data set", "freeanchor data check photos")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, what: str, example: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=what, description=what, epilog=f"example: freeanchor data {name} {example}"
        )

    check = add("check", "list what is wrong with a folder of images and COCO json", "photos")
    check.add_argument("target", type=Path, help="a folder with train.json, val.json and images/, or COCO's own layout")
    voc = add("voc", "convert Pascal VOC xml into our layout", "VOC2007 photos")
    voc.add_argument("target", type=Path, help="a folder with Annotations/ and JPEGImages/, or xml beside images")
    voc.add_argument("destination", type=Path, help="the folder to write")
    yolo = add("yolo", "convert YOLO's txt and data.yaml into our layout", "dataset photos")
    yolo.add_argument("target", type=Path, help="a data.yaml, or the folder that holds it")
    yolo.add_argument("destination", type=Path, help="the folder to write")
    shapes = add("shapes", "generate the synthetic data set", "shapes")
    shapes.add_argument("target", type=Path, help="the folder to write")
    coco = add("coco", "fetch COCO 2017 (20 GB), verify and unpack it", "data/coco --splits val")
    coco.add_argument("target", type=Path, help="the folder to write")
    coco.add_argument("--splits", default="train,val", help="the splits to fetch (default: train,val)")
    drawn = add("draw", "generate the data set of a registered run", "freeanchor-small-s0")
    drawn.add_argument("target", help="registry name; see freeanchor list")
    add_profile(drawn)
