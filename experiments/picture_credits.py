"""Whose picture is it: the licence and source of each picture of a data set, as a line to stand below it.

What it is: the fields `license`, `flickr_url` and `coco_url` of a COCO json, looked up in its `licenses`. What it is
not: leave to show a data set's pictures at all, which its user gives.

    credits = picture_credits(Path("photos/val.json"), overall="Aquarium, Roboflow, CC BY 4.0")
    credits[776]        # "Attribution License, http://farm2…"; no entry: must not be shown
"""

import json
import re
from pathlib import Path
from typing import Any

from freeanchor.errors import printable

# Boxes drawn on a picture make a derivative of it. "Attribution-NoDerivs License", "CC BY-ND 2.0", ".../by-nd/2.0/"
_NO_DERIVATIVES = re.compile(r"no[- ]?deriv|\bnd\b|bynd|all rights reserved", re.IGNORECASE)


def picture_credits(annotations: Path, overall: str) -> dict[int, str]:
    """The credit line of every picture that may be shown, by image id.

    "<licence name>, <flickr_url or coco_url>" where the picture has a licence of its own that the json lists,
    `overall` (the whole data set's) where not. Pictures whose licence, by its name or address, forbids derivatives
    have no entry.
    """
    content = json.loads(annotations.read_text(encoding="utf-8"))
    licences = content.get("licenses")
    # ids as text: a picture that says "3" where the list says 3 means that licence all the same
    known = {str(item["id"]): item for item in licences or [] if isinstance(item, dict) and "id" in item}
    credits = {
        image["id"]: _credit(image, known.get(str(image.get("license"))), overall) for image in content["images"]
    }
    return {image_id: credit for image_id, credit in credits.items() if credit is not None}


def _credit(image: dict[str, Any], licence: dict[str, Any] | None, overall: str) -> str | None:
    """One picture's line; None where it must not be shown."""
    if licence is None:
        return overall
    name, address = str(licence.get("name", "")), str(licence.get("url", ""))
    if _NO_DERIVATIVES.search(f"{name} {address}".replace("_", " ")):
        return None
    source = image.get("flickr_url") or image.get("coco_url")
    return printable(", ".join(str(part) for part in (name or address, source) if part))
