"""The masks of an image's objects as cut-outs: only the bytes of a window around each object are kept."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from pycocotools import mask as coco_mask
from torch import Tensor

from composer_copypaste.errors import count_noun
from composer_copypaste.run_lengths import decode_counts, masks_in_windows

SHORTEST_POLYGON = 6
"""Numbers of a triangle."""


class CompactMasks:
    """The masks of the ``n`` objects of one image, each cut to a window outside which it is 0.

    It takes the place of ``masks`` in torchvision's targets: functions that are given it return it. Of a COCO-like
    image 3 % of the pixels lie in the windows. Indexed with a slice, a list or a tensor, it gives those objects.
    Loaders move it between processes and pin it, ``to`` moves its pixels to a device; the windows stay on the host.

    Args:
        pixels: the windows' pixels, one window after the other, row by row; bool, or uint8 of 0 and 1.
        windows: (y1, x1, y2, x2) of each object in whole pixels of the image, ends excluded.
        size: height and width of the image.

    Raises:
        ValueError: where a window does not lie in the image, or the pixels are not as many as the windows have.
        TypeError: where the pixels are of another type.

    Example:
        >>> masks = CompactMasks.from_dense(target["masks"])
        >>> masks.dense().shape
        torch.Size([20, 512, 512])
    """

    def __init__(
        self,
        pixels: Tensor,
        windows: Integer[ndarray, "n 4"] | Sequence[Sequence[int]],
        size: tuple[int, int],
    ) -> None:
        if pixels.dtype not in (torch.bool, torch.uint8):
            raise TypeError(f"pixels: expected bool or uint8, got {pixels.dtype}")
        self.pixels: UInt8[Tensor, " p"] = pixels.view(torch.uint8)
        self.windows: Int64[ndarray, "n 4"] = np.asarray(windows, dtype=np.int64).reshape(-1, 4)
        self.size = size
        if pixels.ndim != 1 or not pixels.is_contiguous() or len(pixels) != self.ends[-1]:
            raise ValueError(
                f"pixels: expected {self.ends[-1]} in a row, as the windows have, got shape {tuple(pixels.shape)}"
            )
        # kernels read memory by these numbers
        first, last = self.windows[:, :2], self.windows[:, 2:]
        if (first < 0).any() or (first > last).any() or (last > size).any():
            raise ValueError(f"windows: expected (y1, x1, y2, x2) in an image of {size}, got {self.windows.tolist()}")

    @classmethod
    def unchecked(
        cls, pixels: UInt8[Tensor, " p"], windows: Int64[ndarray, "n 4"], size: tuple[int, int]
    ) -> "CompactMasks":
        """As the constructor, for windows and pixels that fit for certain; checking takes as long as a small batch."""
        masks = cls.__new__(cls)
        masks.pixels, masks.windows, masks.size = pixels, windows, size
        return masks

    @classmethod
    def of_planes(cls, masks: Shaped[Tensor, "n h w"]) -> "CompactMasks":
        """The masks, each with the whole image as its window: no pixel is read, nor copied if they are contiguous."""
        n, height, width = masks.shape
        pixels = masks.reshape(-1).view(torch.uint8)
        return cls.unchecked(pixels, np.tile([0, 0, height, width], (n, 1)), (height, width))

    @classmethod
    def from_dense(cls, masks: UInt8[Tensor, "n h w"] | Bool[Tensor, "n h w"]) -> "CompactMasks":
        """The masks, each cut to its pixels. A device is waited for once, to learn where they lie.

        Args:
            masks: of an image's objects; uint8 (all but 0 is the object), or bool.
        """
        n, height, width = masks.shape
        if not masks.numel():
            return cls(masks.new_zeros(0), np.zeros((n, 4), dtype=np.int64), (height, width))
        places = [(masks != 0).any(dim=dim).to(torch.uint8) for dim in (2, 1)]
        edges = []
        for occupied in places:
            some = occupied.amax(dim=1)
            first = occupied.argmax(dim=1)
            edges += [first * some, (occupied.shape[1] - occupied.flip(1).argmax(dim=1)) * some]
        y1, y2, x1, x2 = torch.stack(edges).cpu().numpy().astype(np.int64)
        windows = np.stack([y1, x1, y2, x2], axis=1)
        found = cls.of_planes(masks).in_windows(windows)
        return cls(found.pixels != 0, windows, (height, width))

    @classmethod
    def from_rle(cls, rles: Sequence[Mapping[str, Any]], size: tuple[int, int] | None = None) -> "CompactMasks":
        """The masks of COCO's run-length codes, as bytes, text or lists of numbers.

        They equal what ``pycocotools.mask.decode`` gives of them, but no mask of the whole image is made.

        Args:
            rles: one for each object, with ``size`` and ``counts``.
            size: height and width of the image; where there is no object, nothing else says it.

        Raises:
            ValueError: where a code cannot be read, or is that of another size.
        """
        if size is None and not rles:
            raise ValueError("size: expected the image's height and width, since there is no code to say it")
        height, width = map(int, size or rles[0]["size"])
        found = masks_in_windows([_counts(rle, (height, width), number) for number, rle in enumerate(rles)], height)
        pixels = np.concatenate([np.zeros(0, np.uint8), *(mask.reshape(-1) for _, mask in found)])
        windows = np.array([window for window, _ in found], dtype=np.int64).reshape(-1, 4)
        return cls.unchecked(torch.from_numpy(pixels), windows, (height, width))

    @classmethod
    def from_polygons(cls, polygons: Sequence[Sequence[Sequence[Any]]], size: tuple[int, int]) -> "CompactMasks":
        """The masks of polygons, as pycocotools draws them; no mask of the whole image is made.

        Args:
            polygons: for each object the polygons of its parts, each x1, y1, x2, y2, ... in pixels, as COCO has them.
            size: height and width of the image.

        Raises:
            ValueError: where a polygon has fewer than three points, or an odd number of coordinates.
        """
        for number, part in ((number, part) for number, parts in enumerate(polygons) for part in parts):
            if len(part) < SHORTEST_POLYGON or len(part) % 2:
                raise ValueError(f"polygons[{number}]: expected x and y of 3 points or more, got {len(part)} numbers")
        rles = [
            coco_mask.merge(coco_mask.frPyObjects([list(part) for part in parts], *size))
            if len(parts)
            else {"size": size, "counts": [size[0] * size[1]]}
            for parts in polygons
        ]
        return cls.from_rle(rles, size)

    @cached_property
    def ends(self) -> Int64[ndarray, " m"]:
        """Where the pixels of each object begin, and at last where they end; n + 1 numbers."""
        return np.concatenate([[0], np.cumsum(window_areas(self.windows))])

    def __len__(self) -> int:
        return len(self.windows)

    def __repr__(self) -> str:
        height, width = self.size
        return f"CompactMasks({count_noun(len(self), 'object')} of {height} x {width}, on {self.device})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the dense masks: (n, height, width)."""
        return (len(self), *self.size)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    @property
    def nbytes(self) -> int:
        """The memory of pixels and windows, in bytes."""
        return self.pixels.numel() + self.windows.nbytes

    @property
    def areas(self) -> Int64[Tensor, " n"]:
        """The number of pixels of each object, on the device."""
        counts = [crop.count_nonzero() for crop in self.crops()]
        return torch.stack(counts) if counts else torch.zeros(0, dtype=torch.int64, device=self.device)

    def crop(self, number: int) -> UInt8[Tensor, "h w"]:
        """An object's mask in its window; a view."""
        y1, x1, y2, x2 = self.windows[number].tolist()
        return self.pixels[self.ends[number] : self.ends[number + 1]].view(y2 - y1, x2 - x1)

    def crops(self) -> list[UInt8[Tensor, "_h _w"]]:
        """The mask of each object in its window; views."""
        return [self.crop(number) for number in range(len(self))]

    def __getitem__(self, index: Any) -> "CompactMasks":
        """The selected objects; ``index`` holds booleans or integers, or is a slice."""
        numbers = np.arange(len(self))[index.cpu().numpy() if isinstance(index, Tensor) else index]
        if numbers.ndim != 1:
            raise TypeError("expected a slice or a list of objects' numbers; masks.crop(k) gives one object's mask")
        parts = [self.pixels[self.ends[k] : self.ends[k + 1]] for k in numbers.tolist()]
        return CompactMasks.unchecked(torch.cat(parts) if parts else self.pixels[:0], self.windows[numbers], self.size)

    def part(self, number: int, window: Sequence[int]) -> UInt8[Tensor, "h w"]:
        """An object's mask in any window (y1, x1, y2, x2) of the image; a copy."""
        y1, x1, y2, x2 = window
        top, left, bottom, right = self.windows[number].tolist()
        rows, columns = (max(y1, top), min(y2, bottom)), (max(x1, left), min(x2, right))
        found = self.pixels.new_zeros((y2 - y1, x2 - x1))
        if rows[0] < rows[1] and columns[0] < columns[1]:
            shown = self.crop(number)[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
            found[rows[0] - y1 : rows[1] - y1, columns[0] - x1 : columns[1] - x1] = shown
        return found

    def planes(self) -> Iterator[UInt8[Tensor, "h w"]]:
        """The mask of each object in the whole image, one at a time."""
        return (self.part(number, (0, 0, *self.size)) for number in range(len(self)))

    def in_windows(self, windows: Int64[ndarray, "n 4"]) -> "CompactMasks":
        """The same objects in other windows; what lies outside these is left out."""
        parts = [self.part(number, window).reshape(-1) for number, window in enumerate(windows.tolist())]
        return CompactMasks(torch.cat(parts) if parts else self.pixels[:0], windows, self.size)

    def dense(self) -> UInt8[Tensor, "n h w"]:
        """The masks in their image; the same memory where each window is the whole image."""
        if (self.windows == (0, 0, *self.size)).all():
            return self.pixels.view(self.shape)
        planes = self.pixels.new_zeros(self.shape)
        for plane, crop, (y1, x1, y2, x2) in zip(planes, self.crops(), self.windows.tolist(), strict=True):
            plane[y1:y2, x1:x2] = crop
        return planes

    def to(self, *args: object, **options: object) -> "CompactMasks":
        """The masks with their pixels on another device; arguments as of ``torch.Tensor.to``."""
        moved = self.pixels.to(*args, **options)  # type: ignore[call-overload]
        if moved.dtype != torch.uint8:
            raise TypeError(f"masks are kept as uint8, expected a device, got {moved.dtype}; .dense() gives a tensor")
        return self if moved is self.pixels else CompactMasks.unchecked(moved, self.windows, self.size)

    def pin_memory(self) -> "CompactMasks":
        """The masks in page-locked memory, from which they are copied to a device beside other work."""
        return CompactMasks.unchecked(self.pixels.pin_memory(), self.windows, self.size)


def _counts(rle: Mapping[str, Any], size: tuple[int, int], number: int) -> Int64[ndarray, " runs"]:
    """The run lengths of a code.

    Raises:
        ValueError: where it cannot be read, or is that of another size.
    """
    if tuple(rle["size"]) != size:
        raise ValueError(f"rles[{number}]: expected a mask of {size} (height, width), got {tuple(rle['size'])}")
    code = rle["counts"]
    try:
        counts = (
            decode_counts(code.encode() if isinstance(code, str) else code)
            if isinstance(code, str | bytes)
            else (np.asarray(code, dtype=np.int64))
        )
    except ValueError as error:
        raise ValueError(f"rles[{number}]: expected a run-length code, got {error}") from None
    if (counts < 0).any() or counts.sum() != size[0] * size[1]:
        raise ValueError(f"rles[{number}]: expected runs of {size[0] * size[1]} pixels in all, got {counts.sum()}")
    return counts


def window_areas(windows: Int64[ndarray, "n 4"]) -> Int64[ndarray, " n"]:
    """The number of pixels of each window (y1, x1, y2, x2)."""
    return (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])


Masks = UInt8[Tensor, "n h w"] | CompactMasks
"""The masks of an image's objects, as planes or as cut-outs."""


def as_planes(masks: Tensor | CompactMasks) -> Tensor:
    """The masks as planes."""
    return masks.dense() if isinstance(masks, CompactMasks) else masks


def as_compact(masks: Masks) -> CompactMasks:
    """The masks as cut-outs; of planes each window is the whole image, and nothing is copied."""
    return masks if isinstance(masks, CompactMasks) else CompactMasks.of_planes(masks)
