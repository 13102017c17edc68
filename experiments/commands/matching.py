"""`freeanchor match`: one part of the images matched, for `evaluate` and `compare` to put together.

    freeanchor match --gt G.json --detections D.json --part 3/16 --out parts
    freeanchor evaluate --gt G.json --detections parts

Parts run anywhere, in any order; a job array gives each its K. Sixteen parts equal one process to the bit.
"""

import argparse
import re

from analysis.evaluation.parted import match_part
from experiments.commands.evaluate import as_a_command
from experiments.commands.formats import as_coco
from freeanchor.errors import UsageError


def match(arguments: argparse.Namespace) -> None:
    """`freeanchor match --gt G --detections D --part K/N --out DIR`."""
    part, num_parts = _part_of(arguments.part)
    with as_a_command():
        gt, (detections,) = as_coco(arguments.gt, [arguments.detections], arguments.split)
        print(match_part(gt, detections, arguments.out, part=part, num_parts=num_parts))


def _part_of(text: str) -> tuple[int, int]:
    """K and N of `K/N`; raises `UsageError` for anything else."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, num_parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= num_parts:
        raise UsageError(f"--part must be K/N with K from 1 to N, got {text}; 3/16 is the third of sixteen parts")
    return part, num_parts
