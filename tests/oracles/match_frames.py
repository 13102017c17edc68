"""Made-up frames of matches: bags of anchors around objects, as a trained detector would give them."""

import numpy as np
import pandas as pd

RATIOS = (0.5, 1.0, 2.0)


def make_matches(seed=0, *, steps=(250, 1000), objects=((11, (20.0, 30.0, 80.0, 70.0)),), bag_size=50, ratios=RATIOS):
    """A frame of matches of one image; objects are (annotation id, xyxy box), the part lies near the left edge."""
    rng = np.random.default_rng(seed)
    rows = []
    for annotation_id, box in objects:
        anchors = list(_anchors(rng, box, bag_size, ratios))
        iou = np.sort(rng.uniform(0.2, 0.9, bag_size))[::-1]
        for step in steps:
            cls_prob, loc_prob = rng.uniform(0.01, 0.99, (2, bag_size))
            confidence = cls_prob * loc_prob
            weight = (1 / (1 - confidence)) / (1 / (1 - confidence)).sum()
            for rank, (level, ratio, octave, x1, y1, x2, y2) in enumerate(anchors):
                rows.append(
                    {
                        "run": "free_anchor", "detector": "FreeAnchor", "step": step, "num_steps": 1000, "image_id": 3,
                        "annotation_id": annotation_id, "category": "wand", "rank": rank, "level": level,
                        "ratio": ratio, "octave": octave, "x1": x1, "y1": y1, "x2": x2, "y2": y2, "iou": iou[rank],
                        "cls_prob": cls_prob[rank], "loc_prob": loc_prob[rank], "confidence": confidence[rank],
                        "weight": weight[rank], "assigned": bool(iou[rank] >= 0.5), "gt_x1": box[0], "gt_y1": box[1],
                        "gt_x2": box[2], "gt_y2": box[3], "part_x": box[0] + 5, "part_y": box[1] + 5,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _anchors(rng, box, bag_size, ratios):
    """Anchors on a grid of 8 pixels about the object, several to a centre."""
    for number in range(bag_size):
        x = 8 * round((box[0] + box[2]) / 16 + rng.integers(-3, 4)) + 4
        y = 8 * round((box[1] + box[3]) / 16 + rng.integers(-2, 3)) + 4
        octave, ratio = number % 3, ratios[number % len(ratios)]
        side = 32 * 2 ** (octave / 3)
        width, height = side / ratio**0.5, side * ratio**0.5
        yield 3, ratio, octave, x - width / 2, y - height / 2, x + width / 2, y + height / 2


def bag_columns(matches, num_objects=5):
    """The same bags as arrays [G, n], by the names of `analysis.bag_arrays.BagArrays`; anchors by rank."""
    keys = ["run", "step", "image_id", "annotation_id"]
    bags = [bag.sort_values("rank") for _, bag in matches.groupby(keys, sort=False)]
    first = pd.concat([bag.iloc[:1] for bag in bags])
    columns = {
        name: np.stack([bag[name].to_numpy() for bag in bags]) for name in ("level", "iou", "confidence", "weight")
    }
    return columns | {
        "assigned": np.stack([bag["assigned"].to_numpy(dtype=bool) for bag in bags]),
        "boxes": np.stack([bag[["x1", "y1", "x2", "y2"]].to_numpy() for bag in bags]),
        "image_id": first["image_id"].to_numpy(),
        "annotation_id": first["annotation_id"].to_numpy(),
        "category": first["category"].to_numpy(dtype=object),
        "num_objects": np.full(len(bags), num_objects),
        "gt_boxes": first[["gt_x1", "gt_y1", "gt_x2", "gt_y2"]].to_numpy(),
        "parts": first[["part_x", "part_y"]].to_numpy(dtype=float),
    }
