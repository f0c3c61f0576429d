"""Tiny COCO data sets on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_files import annotation
from PIL import Image


@pytest.fixture
def coco_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes annotations.json: a picture 7, 12 wide and 8 high, categories 5 and 3, unless told otherwise."""

    def write(*annotations: object, **changes: object) -> Path:
        data: dict[str, object] = {
            "images": [{"id": 7, "file_name": "7.png", "height": 8, "width": 12}],
            "categories": [{"id": 5, "name": "nut"}, {"id": 3, "name": "fig"}],
            "annotations": list(annotations) or [annotation()],
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps({key: value for key, value in (data | changes).items() if value is not None}))
        return path

    return write


@pytest.fixture
def gradient(tmp_path: Path) -> np.ndarray:
    """The pixels of 7.png, every one different, written beside the annotations."""
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    Image.fromarray(pixels).save(tmp_path / "7.png")
    return pixels
