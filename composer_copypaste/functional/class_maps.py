"""Class-id maps: each class of an image is one object. Which there are, around what, and their masks."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, Integer, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.tensors import extents, on_device, read_back

LARGEST_SPAN = 4096
"""Where ids differ by more, they are numbered first: each number takes a row in the table of boxes."""


@dataclass(frozen=True)
class Classes:
    """The classes of one map."""

    ids: Integer[ndarray, " n"]
    """Ascending."""
    boxes: Float[ndarray, "n 4"]
    """Tight."""

    def __getitem__(self, numbers: Int64[ndarray, " k"]) -> "Classes":
        return Classes(self.ids[numbers], self.boxes[numbers])


def classes_of(maps: Integer[Tensor, "n h w"]) -> list[Classes]:
    """The classes of each map.

    A device is waited for once to learn the range of the ids, and once for their boxes; to number ids that lie far from
    each other, twice more.
    """
    if not len(maps):
        return []
    low, high = read_back(torch.stack(maps.aminmax())).tolist()
    if high - low < LARGEST_SPAN:
        ids = np.arange(low, high + 1)
    else:
        values, maps = maps.unique(return_inverse=True)
        ids, low = read_back(values), 0
    boxes = (_boxes_on_host if maps.is_cpu else boxes_on_device)(maps, low, len(ids))
    present = boxes[:, :, 2] > 0
    return [Classes(ids[here], found[here].astype(np.float64)) for found, here in zip(boxes, present, strict=True)]


def masks_of(ids: Integer[Tensor, "h w"], classes: Classes) -> UInt8[Tensor, "n h w"]:
    """Where the map has each of these classes."""
    if not ids.is_cpu:
        return (ids == on_device(classes.ids, ids.device, ids.dtype)[:, None, None]).view(torch.uint8)
    from composer_copypaste.functional.engines.numba_class_maps import (
        class_masks,  # Numba takes half a second to import
    )

    masks = np.zeros((len(classes.ids), *ids.shape), dtype=np.uint8)  # pages that nothing is written to take no memory
    class_masks(ids.numpy(), classes.ids.astype(np.int64), masks)
    return torch.from_numpy(masks)


def _boxes_on_host(maps: Integer[Tensor, "n h w"], low: int, k: int) -> Int32[ndarray, "n k 4"]:
    """The boxes (x1, y1, x2, y2) around the ids from the lowest on, ``k`` numbers; all 0 to the right of nothing."""
    from composer_copypaste.functional.engines.numba_class_maps import (
        class_boxes,  # Numba takes half a second to import
    )

    boxes = np.tile(np.array([1 << 30, 1 << 30, 0, 0], dtype=np.int32), (len(maps), k, 1))
    class_boxes(maps.contiguous().numpy(), low, boxes)
    return boxes


def boxes_on_device(maps: Integer[Tensor, "n h w"], low: int, k: int) -> Int32[ndarray, "n k 4"]:
    """The same by steps in torch, which note the rows and the columns that each id is found in."""
    n, height, width = maps.shape
    numbers, pixels = (maps.long() - low).reshape(n, -1), torch.arange(height * width, device=maps.device)
    rows, columns = (maps.new_zeros((n, k * side), dtype=torch.uint8) for side in (height, width))
    rows.scatter_(1, numbers * height + pixels // width, 1)
    columns.scatter_(1, numbers * width + pixels % width, 1)
    (y1, y2), (x1, x2) = extents(rows.view(-1, height)), extents(columns.view(-1, width))
    return read_back(torch.stack([x1, y1, x2, y2], dim=1)).reshape(n, k, 4)
