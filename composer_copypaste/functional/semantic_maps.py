"""Class-id maps, in which each class of an image is one object: which classes an image has, their boxes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32, Integer, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, window_areas
from composer_copypaste.functional.tensors import extents, on_device, read_back

LARGEST_SPAN = 4096
"""Ids that differ by more than this are numbered first, since every number takes a row in the table of boxes."""
BYTE = 256
"""The number of ids that a byte can be."""
NARROW_TYPES = (torch.uint8, torch.int16)
WIDEST_READ = 2
"""Bytes of an id, of maps that are read as they are."""

ClassMasks = UInt8[Tensor, "_k h w"] | CompactMasks
"""The masks of one map's classes, which may be more or fewer than those of another."""


@dataclass(frozen=True)
class Classes:
    """The classes of one map; a row for each."""

    ids: Integer[ndarray, " n"]
    """Ascending class ids."""
    boxes: Float[ndarray, "n 4"]
    """Tight boxes (x1, y1, x2, y2) around their pixels."""


@dataclass(frozen=True)
class IdMaps:
    """Class-id maps as they are read: in bytes, or else in int16, where these hold the ids, an eighth of the memory."""

    ids: Integer[Tensor, "n h w"]
    low: int
    """No id is lower."""
    high: int
    """No id is higher."""

    @classmethod
    def of(cls, maps: Integer[Tensor, "n h w"]) -> "IdMaps":
        """The maps as they are read. A device is waited for, to learn the range of ids that are not bytes."""
        if maps.element_size() > WIDEST_READ and _on_host(maps):
            maps = _narrowed_on_host(maps)
        if maps.dtype == torch.uint8:
            return cls(maps, 0, BYTE - 1)
        low, high = read_back(torch.stack(maps.aminmax())).tolist()
        if maps.element_size() > WIDEST_READ:
            held = (dtype for dtype in NARROW_TYPES if _holds(dtype, low) and _holds(dtype, high))
            maps = maps.to(next(held, maps.dtype))
        return cls(maps, low, high)

    def classes(self) -> list[Classes]:
        """The classes of each map.

        A device is waited for, to learn their boxes; before that for the ids, if these span more than ``LARGEST_SPAN``.
        """
        if self.high - self.low < LARGEST_SPAN:
            maps, low, ids = self.ids, self.low, np.arange(self.low, self.high + 1)
        else:
            values, maps = self.ids.unique(return_inverse=True)
            ids, low = read_back(values), 0
        boxes = _boxes_on_host(maps, low, len(ids)) if _on_host(maps) else boxes_on_device(maps, low, len(ids))
        image, number = np.nonzero(boxes[:, :, 2])
        ends = np.cumsum(np.bincount(image, minlength=len(maps))).tolist()
        ids, boxes = ids[number], boxes[image, number].astype(np.float64)
        return [Classes(ids[begin:end], boxes[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def _narrowed_on_host(maps: Integer[Tensor, "n h w"]) -> Integer[Tensor, "n h w"]:
    """The maps in the first of ``NARROW_TYPES`` that holds their ids, or as they are."""
    from composer_copypaste.functional.engines.numba_semantic_maps import narrow  # 0.5 s to import

    for dtype in NARROW_TYPES:
        narrowed = torch.empty(maps.shape, dtype=dtype)
        if narrow(maps.contiguous().numpy(), narrowed.numpy()):
            return narrowed
    return maps


def _holds(dtype: torch.dtype, number: int) -> bool:
    limits = torch.iinfo(dtype)
    return limits.min <= number <= limits.max


def check_ids(ids: Sequence[Integer[ndarray, " _n"]], ignore_index: int | None, background: int = 0) -> None:
    """Raise ``ValueError`` where an image has objects of a negative class, as elsewhere unlabelled pixels have.

    It is no mistake if it is the background or the ignored class, or if no class is ignored (None).
    """
    for i, own in enumerate(ids):
        wrong = own[(own < 0) & (own != background) & (own != ignore_index)]
        if len(wrong) and ignore_index is not None:
            raise ValueError(
                f"targets[{i}]: expected class ids of 0 or more, got {wrong[0]}; ignore_index={wrong[0]} says that "
                "these pixels have no class"
            )


def masks_of_classes(maps: Integer[Tensor, "n h w"], classes: Sequence[Classes]) -> list[ClassMasks]:
    """The masks of these classes of each map; on the host cut to their boxes."""
    if not _on_host(maps):
        chosen = [on_device(each.ids, maps.device, maps.dtype)[:, None, None] for each in classes]
        return [(ids == own).view(torch.uint8) for ids, own in zip(maps, chosen, strict=True)]
    from composer_copypaste.functional.engines.numba_semantic_maps import class_masks  # 0.5 s to import

    windows = np.concatenate([each.boxes for each in classes])[:, [1, 0, 3, 2]].astype(np.int64)
    image = np.repeat(np.arange(len(classes)), [len(each.ids) for each in classes])
    ends = np.concatenate([[0], np.cumsum(window_areas(windows))])
    pixels = np.empty(ends[-1], dtype=np.uint8)
    ids = np.concatenate([each.ids for each in classes]).astype(np.int64)
    class_masks(maps.contiguous().numpy(), image, ids, windows, pixels)
    joined, size, first = torch.from_numpy(pixels), (maps.shape[1], maps.shape[2]), 0
    masks: list[ClassMasks] = []
    for each in classes:
        end = first + len(each.ids)
        masks.append(CompactMasks.unchecked(joined[ends[first] : ends[end]], windows[first:end], size))
        first = end
    return masks


def _on_host(maps: Integer[Tensor, "n h w"]) -> bool:
    """Whether Numba's kernels read these maps."""
    from composer_copypaste.functional.engines.compilation import can_compile  # 0.5 s to import

    return maps.is_cpu and can_compile()


def _boxes_on_host(maps: Integer[Tensor, "n h w"], low: int, k: int) -> Int32[ndarray, "n k 4"]:
    """The boxes (x1, y1, x2, y2) of the ``k`` ids from ``low`` on; x2 is 0 for ids that do not occur."""
    from composer_copypaste.functional.engines.numba_semantic_maps import class_boxes  # 0.5 s to import

    boxes = np.empty((len(maps), k, 4), dtype=np.int32)
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
