"""A predictor whose answer is visible: each color of an image, but for black, is an object."""

import torch

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.outlines import rle_of_mask
from composer_copypaste.data.rle import CroppedMask
from composer_copypaste.models.predictor import Predictor

FIG, NUT = Category(3, "fig"), Category(5, "nut")


def colors_predictor(batches=None, **fields):
    """Red is the object's score in percent, green its label; sizes of batches are appended to ``batches``."""

    def detect(images):
        if batches is not None:
            batches.append(len(images))
        return [_objects(image) for image in images]

    return Predictor(detect, {1: FIG, 2: NUT}, **fields)


def _objects(image):
    packed = image[0].int() * 65536 + image[1].int() * 256 + image[2].int()
    found = sorted(set(packed.unique().tolist()) - {0}, reverse=True)  # by red, so best first
    colors, masks = [divmod(color, 65536) for color in found], [packed == color for color in found]
    return {
        "boxes": torch.tensor([box_of(mask) for mask in masks], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([color[0] / 100 for color in colors], dtype=torch.float32),
        "labels": torch.tensor([color[1] // 256 for color in colors], dtype=torch.int64),
        "rles": [rle_of_mask(CroppedMask(0, 0, mask.numpy().astype("uint8")), tuple(mask.shape)) for mask in masks],
    }


def box_of(mask):
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def image_of(height, width, *objects):
    """A black image with rectangles: (x1, y1, x2, y2), color (percent, label, anything)."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for (x1, y1, x2, y2), color in objects:
        image[:, y1:y2, x1:x2] = torch.tensor(color, dtype=torch.uint8)[:, None, None]
    return image
