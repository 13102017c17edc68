"""Photographs with a detector's boxes drawn on copies of them, turned as viewers show them. Nothing here needs torch.

draw_detections(upright(image), rows, category_ids).save("drawn.png")
"""

import colorsys
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SHOWN_SIDE = 960  # px, the least long side of a drawn picture


def _colour(label: int, num_labels: int) -> tuple[int, int, int]:
    """One of `num_labels` colours spread evenly over the hues."""
    red, green, blue = colorsys.hsv_to_rgb(label / num_labels, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(image: Image.Image, rows: Sequence[dict[str, Any]], category_ids: Sequence[int]) -> Image.Image:
    """A copy of the picture with each box in its class's colour, its name and score above it.

    A picture below `SHOWN_SIDE` is enlarged to it, so that the labels leave room for what they name.
    """
    zoom = max(1.0, SHOWN_SIDE / max(image.size))
    drawn = image.resize((round(image.width * zoom), round(image.height * zoom)), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(drawn)
    line = max(1, round(max(drawn.size) / 400))
    font = ImageFont.load_default(size=round(max(drawn.size) / 70))
    for row in sorted(rows, key=lambda row: row["score"]):  # the surest on top
        x, y, width, height = (value * zoom for value in row["bbox"])
        colour = _colour(category_ids.index(row["category_id"]), len(category_ids))
        canvas.rectangle((x, y, x + width, y + height), outline=colour, width=line)
        text = f"{row['category']} {row['score']:.2f}"
        left, top, right, bottom = canvas.textbbox((x, y), text, font=font, anchor="lb")
        shift = max(0, 1 - top)  # a label above the picture's edge moves inside
        canvas.rectangle((left - 1, top + shift - 1, right + 1, bottom + shift), fill=colour)
        canvas.text((x, y + shift), text, fill="black", font=font, anchor="lb")
    return drawn
