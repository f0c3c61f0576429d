"""The embedded data set: pictures of shapes, drawn on first use and written as any COCO data set is."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image
from pycocotools import mask as coco_mask

from composer_copypaste.data.scenes import CATEGORIES, draw_scene, render
from composer_copypaste.errors import DataError
from composer_copypaste.settings import ShapesSettings

STAMP = "shapes.json"
"""The file in the folder that says with which settings it was drawn."""
EDITION = 2
"""Raise it when the same settings draw other pictures: folders of former editions are then not taken for new ones."""


def draw_shapes(settings: ShapesSettings) -> Path:
    """Draws the data set unless it is there already, and gives back its folder.

    The folder holds ``train/*.png``, ``val/*.png``, ``annotations/instances_{train,val}.json`` and a stamp of the
    settings. It appears all at once: an interrupted drawing leaves nothing behind. The same seed draws the same bytes.

    Raises:
        DataError: if the folder holds something else, or other shapes; nothing is changed then.
    """
    folder = Path(settings.folder)
    if _is_drawn(folder, settings):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
            _write(Path(unfinished) / folder.name, settings)
            (Path(unfinished) / folder.name).rename(folder)
    except OSError as error:
        if not _is_drawn(folder, settings):  # another process may have been faster
            raise DataError(f"{folder}: the shapes cannot be drawn there: {error.strerror}") from error
    return folder


def _is_drawn(folder: Path, settings: ShapesSettings) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    wanted = _stamp(settings)
    found = _read_stamp(folder / STAMP)
    if found is None:
        raise DataError(f"{folder}: expected drawn shapes or nothing, found something else. Name another folder.")
    if found != wanted:
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        raise DataError(
            f"{folder}: holds shapes drawn with {_listing(found, differing)}, "
            f"asked for are {_listing(wanted, differing)}. "
            "Name another folder, or delete this one to have it drawn anew."
        )
    return True


def _stamp(settings: ShapesSettings) -> dict[str, int]:
    return {"edition": EDITION} | {name: value for name, value in asdict(settings).items() if name != "folder"}


def _read_stamp(path: Path) -> dict[str, object] | None:
    try:
        stamp = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def _listing(stamp: Mapping[str, object], names: list[str]) -> str:
    return ", ".join(f"{name}={stamp.get(name)}" for name in names)


def _write(folder: Path, settings: ShapesSettings) -> None:
    (folder / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate((("train", settings.train), ("val", settings.val))):
        (folder / split).mkdir()
        dataset = _write_split(folder / split, count, settings, number)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(dataset))
    (folder / STAMP).write_text(json.dumps(_stamp(settings), indent=2) + "\n")


def _write_split(folder: Path, count: int, settings: ShapesSettings, number: int) -> dict[str, object]:
    """Writes the pictures of a split; gives back its COCO annotations."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        # a stream of its own for each picture: a larger set begins with the pictures of a smaller one
        seed = np.random.SeedSequence(settings.seed, spawn_key=(number, index))
        pixels, masks, categories = render(draw_scene(np.random.default_rng(seed), settings.size))
        file_name = f"{index + 1:06}.png"
        Image.fromarray(pixels).save(folder / file_name)
        images.append({"id": index + 1, "file_name": file_name, "height": settings.size, "width": settings.size})
        for mask, category in zip(masks, categories, strict=True):
            identity = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category + 1}
            annotations.append(identity | _geometry(mask))
    names = [{"id": label, "name": name} for label, name in enumerate(CATEGORIES, start=1)]
    info = {"description": "Drawn shapes of composer-copypaste, dedicated to the public domain (CC0)"}
    return {"info": info, "images": images, "categories": names, "annotations": annotations}


def _geometry(mask: Bool[ndarray, "h w"]) -> dict[str, object]:
    """The fields of an annotation that describe a mask."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": 0,
    }
