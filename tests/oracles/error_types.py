"""TIDE's kinds of error and dAP in plain loops, from the paper's definitions; shares nothing with `analysis`.

errors = errors_of(ground_truth, detections, convention="coco")
errors.num["missed"], errors.dap["missed"], errors.ap
"""

from dataclasses import dataclass, field

from oracles.detection_metrics import average_precision, iou, match_all

NAMES = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass
class Errors:
    """Counts and dAP by name, and the AP50 that they are relative to."""

    ap: float = float("nan")
    num: dict[str, int] = field(default_factory=dict)
    dap: dict[str, float] = field(default_factory=dict)


@dataclass
class Found:
    """One detection that counts: its row, what it takes, whether AP leaves it out, its error, where, and its fix."""

    row: int
    takes: int
    left_out: bool
    error: str = ""
    at: int = -1
    finds_after_fix: bool = False


def errors_of(truth, detections, *, convention: str, inside=None) -> Errors:
    """Counts and dAP, about the objects that `inside` flags (all plain ones when None; `coco` alone)."""
    counting = [not crowd and (inside is None or inside[g]) for g, crowd in enumerate(truth.iscrowd)]
    found = _coco(truth, detections, counting) if convention == "coco" else _tide(truth, detections)
    taken = {one.takes for one in found if one.takes >= 0}
    for one in found:
        if one.takes < 0 and (not one.left_out or convention == "tide"):
            one.error, one.at = _error(truth, detections, one.row, taken)
    _choose_fixes(found, detections, taken)
    usable = {one.at for one in found if one.error in ("classification", "localisation") and one.at not in taken}
    objects = [g for g in range(len(counting)) if counting[g]]
    missed = [g for g in objects if g not in taken and g not in usable]
    unfound = [g for g in objects if g not in taken]
    wrong = [one for one in found if one.takes < 0 and not one.left_out]
    num = {name: sum(one.error == name and (one.at < 0 or counting[one.at]) for one in found) for name in NAMES} | {
        "missed": len(missed),
        "false_positives": len(wrong),
        "false_negatives": len(unfound),
    }

    def ap(fixed: str = "", without=()) -> float:
        return _ap(truth, detections, found, [g for g in objects if g not in without], counting, fixed, convention)

    base = ap()
    dap = {name: ap(name) - base for name in NAMES[:-1]} | {"missed": ap(without=missed) - base}
    if convention == "tide":
        dap = {name: max(value, 0.0) for name, value in dap.items()}
    dap |= {"false_positives": ap("false_positives") - base, "false_negatives": ap(without=unfound) - base}
    return Errors(ap=base, num=num, dap=dap)


def _coco(truth, detections, counting) -> list[Found]:
    matches = match_all(truth, detections, 0.5, [not own for own in counting])
    return [Found(row=row, takes=takes, left_out=takes >= 0 and not counting[takes]) for row, takes in matches.items()]


def _tide(truth, detections) -> list[Found]:
    found = []
    for image in truth.image_ids:
        rows = [row for row in range(len(detections.scores)) if detections.image_id[row] == image]
        gone: set[int] = set()
        for row in sorted(rows, key=lambda row: -detections.scores[row])[:100]:
            best, best_iou = -1, 0.0
            left_out = False
            for g in range(len(truth.boxes)):
                if truth.image_id[g] != image or truth.category_id[g] != detections.category_id[row]:
                    continue
                overlap = iou(truth.boxes[g], detections.boxes[row], crowd=bool(truth.iscrowd[g]))
                if truth.iscrowd[g]:
                    left_out = left_out or overlap > 0.5
                elif g not in gone and overlap >= 0.5 and overlap > best_iou:
                    best, best_iou = g, overlap
            if best >= 0:
                gone.add(best)
            found.append(Found(row=row, takes=best, left_out=left_out and best < 0))
    return found


def _error(truth, detections, row: int, taken) -> tuple[str, int]:
    own, other, again = (0.0, -1), (0.0, -1), (0.0, -1)
    for g in range(len(truth.boxes)):
        if truth.image_id[g] == detections.image_id[row] and not truth.iscrowd[g]:
            overlap = iou(truth.boxes[g], detections.boxes[row])
            if truth.category_id[g] != detections.category_id[row]:
                other = (overlap, g) if overlap > other[0] else other
            else:
                own = (overlap, g) if overlap > own[0] else own
                again = (overlap, g) if overlap > again[0] and g in taken else again
    if 0.1 <= own[0] <= 0.5:
        return "localisation", own[1]
    if other[0] >= 0.5:
        return "classification", other[1]
    if again[0] >= 0.5:
        return "duplicate", again[1]
    return ("background", -1) if max(own[0], other[0]) <= 0.1 else ("both", -1)


def _choose_fixes(found: list[Found], detections, taken) -> None:
    best: dict[int, Found] = {}
    for one in sorted(found, key=lambda one: (-detections.scores[one.row], one.row)):
        if one.error in ("classification", "localisation") and one.at not in taken:
            best.setdefault(one.at, one)
    for one in best.values():
        one.finds_after_fix = True


def _ap(truth, detections, found, objects, counting, fixed: str, convention: str) -> float:
    outcomes: dict[int, list] = {int(category): [] for category in truth.category_ids}
    for one in found:
        key = (-detections.scores[one.row], detections.image_id[one.row], one.row)
        category, is_right = int(detections.category_id[one.row]), one.takes >= 0
        if one.error and one.error == fixed:
            gains = one.finds_after_fix and counting[one.at]
            if gains:
                category = int(truth.category_id[one.at])
                outcomes[category].append((key, True))
        elif not one.left_out:
            late = fixed == "false_positives" and not is_right
            outcomes[category].append(((1.0,) if late else key, is_right))
    values = []
    for category, rows in outcomes.items():
        num_objects = sum(int(truth.category_id[g]) == category for g in objects)
        if num_objects:
            ordered = sorted(rows, key=lambda row: row[0])
            values.append(average_precision([(0.0, right) for _, right in ordered], num_objects))
        elif rows and convention == "tide":
            values.append(0.0)
    return sum(values) / len(values) if values else float("nan")
