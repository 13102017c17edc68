"""A small COCO as the archives it is handed out in, in memory.

files = coco_files()                    # archive -> name in it -> content
content = zipped(files["val2017"])
"""

import io
import json
import zipfile

from oracles.coco_folder import draw, small_content


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip, its images stored and its json deflated, as COCO's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content, zipfile.ZIP_DEFLATED if name.endswith("json") else zipfile.ZIP_STORED)
    return buffer.getvalue()


def coco_files() -> dict[str, dict[str, bytes]]:
    """The files of a small COCO by archive: the json of both splits with one that is not wanted, and the images."""
    files: dict[str, dict[str, bytes]] = {"annotations": {"annotations/captions_val2017.json": b"{}"}}
    for split, num_images in (("val", 4), ("train", 6)):
        content = small_content(num_images, seed=num_images, num_objects=4)
        content["annotations"] = [{**item, "iscrowd": 0} for item in content["annotations"]]
        for image in content["images"]:
            image["file_name"] = f"{split}{image['id']:04}.png"
        files["annotations"][f"annotations/instances_{split}2017.json"] = json.dumps(content).encode()
        files[f"{split}2017"] = {}
        for image in content["images"]:
            buffer = io.BytesIO()
            draw(image, content["annotations"]).save(buffer, "png")
            files[f"{split}2017"][f"{split}2017/{image['file_name']}"] = buffer.getvalue()
    return files
