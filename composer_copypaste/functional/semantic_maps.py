"""Class-id maps, in which each class of an image is one object: which classes an image has, their boxes and masks."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, Integer
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, Masks, window_areas
from composer_copypaste.functional.tensors import extents, on_device, read_back

LARGEST_SPAN = 4096
"""Ids that differ by more than this are numbered first, since every number takes a row in the table of boxes."""


@dataclass(frozen=True)
class Classes:
    """The classes of one map; a row for each."""

    ids: Integer[ndarray, " n"]
    """Ascending class ids."""
    boxes: Float[ndarray, "n 4"]
    """Tight boxes (x1, y1, x2, y2) around their pixels."""

    def __getitem__(self, numbers: Int64[ndarray, " k"]) -> "Classes":
        return Classes(self.ids[numbers], self.boxes[numbers])


def classes_in_maps(maps: Integer[Tensor, "n h w"]) -> list[Classes]:
    """The classes of each map.

    A device is waited for twice: for the range of the ids, and for their boxes; twice more if the ids span more than
    ``LARGEST_SPAN``.
    """
    if not len(maps):
        return []
    from composer_copypaste.functional.engines.compilation import can_compile  # 0.5 s to import

    low, high = read_back(torch.stack(maps.aminmax())).tolist()
    if high - low < LARGEST_SPAN:
        ids = np.arange(low, high + 1)
    else:
        values, maps = maps.unique(return_inverse=True)
        ids, low = read_back(values), 0
    boxes = (_boxes_on_host if maps.is_cpu and can_compile() else boxes_on_device)(maps, low, len(ids))
    present = boxes[:, :, 2] > 0
    return [Classes(ids[here], found[here].astype(np.float64)) for found, here in zip(boxes, present, strict=True)]


def masks_of_classes(ids: Integer[Tensor, "h w"], classes: Classes) -> Masks:
    """The mask of each of these classes; on the host cut to their boxes."""
    from composer_copypaste.functional.engines.compilation import can_compile  # 0.5 s to import

    if not (ids.is_cpu and can_compile()):
        return (ids == on_device(classes.ids, ids.device, ids.dtype)[:, None, None]).view(torch.uint8)
    from composer_copypaste.functional.engines.numba_semantic_maps import class_masks

    windows = classes.boxes[:, [1, 0, 3, 2]].astype(np.int64)
    pixels = np.empty(window_areas(windows).sum(), dtype=np.uint8)
    class_masks(ids.numpy(), classes.ids.astype(np.int64), windows, pixels)
    return CompactMasks.unchecked(torch.from_numpy(pixels), windows, (ids.shape[0], ids.shape[1]))


def _boxes_on_host(maps: Integer[Tensor, "n h w"], low: int, k: int) -> Int32[ndarray, "n k 4"]:
    """The boxes (x1, y1, x2, y2) of the ``k`` ids from ``low`` on; x2 is 0 for ids that do not occur."""
    from composer_copypaste.functional.engines.numba_semantic_maps import class_boxes  # 0.5 s to import

    boxes = np.tile(np.array([1 << 30, 1 << 30, 0, 0], dtype=np.int32), (len(maps), k, 1))
    class_boxes(maps.contiguous().numpy(), low, boxes)
    return boxes


def boxes_on_device(maps: Integer[Tensor, "n h w"], low: int, k: int) -> Int32[ndarray, "n k 4"]:
    """As :func:`_boxes_on_host`, in torch, from the rows and columns in which each id occurs."""
    n, height, width = maps.shape
    numbers, pixels = (maps.long() - low).reshape(n, -1), torch.arange(height * width, device=maps.device)
    rows, columns = (maps.new_zeros((n, k * side), dtype=torch.uint8) for side in (height, width))
    rows.scatter_(1, numbers * height + pixels // width, 1)
    columns.scatter_(1, numbers * width + pixels % width, 1)
    (y1, y2), (x1, x2) = extents(rows.view(-1, height)), extents(columns.view(-1, width))
    return read_back(torch.stack([x1, y1, x2, y2], dim=1)).reshape(n, k, 4)
