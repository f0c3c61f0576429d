"""Predicted masks as COCO run-length encodings, built from the box's part of the image alone."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from pycocotools import mask as coco_masks
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks


class RLE(TypedDict):
    """A mask as COCO's compressed run-length encoding; ``size`` is (height, width)."""

    size: list[int]
    counts: bytes


def encode_masks(
    probabilities: Float[Tensor, "n 1 m m"], boxes: Float[Tensor, "n 4"], size: tuple[int, int]
) -> list[RLE]:
    """Each mask of ``m`` x ``m`` probabilities, resized to its box in an image of ``size`` and thresholded at 0.5.

    The same bytes as pasting it with torchvision's ``paste_masks_in_image`` and encoding the image with pycocotools.
    """
    padded, scale = expand_masks(probabilities, padding=1)
    corners = expand_boxes(boxes, scale).long().tolist()
    runs = [_runs(mask, box, size) for mask, box in zip(padded, corners, strict=True)]
    encoded: list[RLE] = coco_masks.frPyObjects(runs, *size) if runs else []
    return encoded


def _runs(mask: Tensor, box: list[int], size: tuple[int, int]) -> dict[str, object]:
    """The uncompressed encoding: lengths of runs down the columns of the image, the first one outside the mask."""
    height, width = size
    x, y = box[0], box[1]
    shape = (max(box[3] - y + 1, 1), max(box[2] - x + 1, 1))
    resized = functional.interpolate(mask[None], size=shape, mode="bilinear", align_corners=False)[0, 0]
    visible = resized[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)] > 0.5
    edges = _edges(visible.numpy(), (max(y, 0), max(x, 0)), height)
    lengths = np.diff(edges, prepend=0, append=height * width)
    return {"size": [height, width], "counts": lengths[: len(lengths) - (lengths[-1] == 0)].tolist()}


def _edges(crop: npt.NDArray[np.bool_], corner: tuple[int, int], height: int) -> npt.NDArray[np.int64]:
    """Where, down the columns of the image, each run of the mask begins and ends, in turn."""
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=bool)
    columns[:, 1:-1] = crop.T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    edges = (column + corner[1]) * height + row + corner[0]
    # a run that ends at the bottom goes on where the next column begins at the top
    joined = np.flatnonzero(edges[1:] == edges[:-1])
    return np.delete(edges, np.concatenate([joined, joined + 1]))
