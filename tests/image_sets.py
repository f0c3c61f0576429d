"""Small data sets whose images are files of a few bytes, which commands compare but never decode."""

import json
from pathlib import Path

from coco_files import annotation


def write_set(folder: Path, name: str, files: dict[str, bytes], **keys: list[object]) -> Path:
    """Writes ``name``.json and the images in a folder of that name; image i, from 1, has an object of category 5.

    ``keys`` are further keys of the images: one value for each.
    """
    images = []
    for number, (file_name, content) in enumerate(files.items(), start=1):
        path = folder / name / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        others = {key: values[number - 1] for key, values in keys.items()}
        images.append({"id": number, "file_name": file_name, "height": 8, "width": 12} | others)
    content = {
        "images": images,
        "annotations": [annotation(number, image_id=number) for number in range(1, len(files) + 1)],
        "categories": [{"id": 5, "name": "nut"}],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path
