"""Bags by loops: what `analysis.bags` computes, in the words of its docstrings and with no numpy or pandas."""

import math


def entropy(weights):
    """Entropy of one bag, in nats."""
    return -sum(weight * math.log(weight) for weight in weights if weight > 0)


def effective(weights):
    """1 / sum of squared weights of one bag."""
    return 1 / sum(weight * weight for weight in weights)


def group_bags(rows):
    """Rows (dicts) by bag, in the order of first appearance."""
    bags = {}
    for row in rows:
        key = tuple(
            row[name] for name in ("run", "detector", "step", "num_steps", "image_id", "annotation_id", "category")
        )
        bags.setdefault(key, []).append(row)
    return bags


def chosen(bag):
    """The row of greatest weight; of equal ones the one of lowest rank."""
    best = bag[0]
    for row in bag[1:]:
        if row["weight"] > best["weight"] or (row["weight"] == best["weight"] and row["rank"] < best["rank"]):
            best = row
    return best


def nearest_by_iou(bag):
    """The row of lowest rank."""
    best = bag[0]
    for row in bag[1:]:
        if row["rank"] < best["rank"]:
            best = row
    return best


def distances(row):
    """From the anchor's centre to the part and to the object's centre, in diagonals of the object."""
    diagonal = math.hypot(row["gt_x2"] - row["gt_x1"], row["gt_y2"] - row["gt_y1"])
    if diagonal == 0:
        return math.nan, math.nan
    x, y = (row["x1"] + row["x2"]) / 2, (row["y1"] + row["y2"]) / 2
    centre = (row["gt_x1"] + row["gt_x2"]) / 2, (row["gt_y1"] + row["gt_y2"]) / 2
    to_part = math.hypot(x - row["part_x"], y - row["part_y"]) / diagonal
    return to_part, math.hypot(x - centre[0], y - centre[1]) / diagonal
