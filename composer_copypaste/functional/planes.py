"""Masks and images as arrays: NumPy views of tensors on the host, the tensors themselves on a device.

Both are indexed, combined and assigned by the same expressions. On the host one such expression on a small window takes
NumPy a fifth of the time it takes torch, and copy-paste is made of hundreds of them.
"""

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

Index = slice | Int64[ndarray, "..."]
BITS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
Array = TypeVar("Array", Tensor, ndarray)

if TYPE_CHECKING:  # what both can do, a tensor can; mypy would have every expression proven for each
    Plane = Tensor
    Planes = Tensor
    Raster = Tensor
else:
    Raster = Shaped[Tensor, "_c _h _w"] | Shaped[ndarray, "_c _h _w"]
    Plane = UInt8[Tensor, "_h _w"] | UInt8[ndarray, "_h _w"]
    Planes = UInt8[Tensor, "_n _h _w"] | UInt8[ndarray, "_n _h _w"]


def as_planes(masks: UInt8[Tensor, "n h w"]) -> Planes:
    """The masks in the form in which they are fastest to work with; it shares their memory."""
    return masks.numpy() if masks.device.type == "cpu" else masks  # type: ignore[return-value]


def as_rasters(images: Sequence[Shaped[Tensor, "c _h _w"]]) -> list[Raster]:
    """The images in the form, one for all, in which they are fastest to work with; they share their memory."""
    if all(map(_is_for_numpy, images)):
        return [image.numpy() for image in images]  # type: ignore[misc]
    return list(images)


def _is_for_numpy(image: Shaped[Tensor, "c h w"]) -> bool:
    """NumPy follows no gradients and knows no bfloat16."""
    return image.device.type == "cpu" and not image.requires_grad and image.dtype != torch.bfloat16


def as_tensor(values: Array) -> Shaped[Tensor, "..."]:
    """The values as a tensor, where possible in the same memory."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(values.copy() if min(values.strides, default=0) < 0 else values)  # torch cannot count down


def copied(values: Array) -> Shaped[Tensor, "..."]:
    """The values as a tensor in memory of its own, which is not larger than they are."""
    if isinstance(values, Tensor):
        return values.detach().clone(memory_format=torch.contiguous_format)
    return torch.from_numpy(values.copy())


def select(below: Raster, above: Raster, mask: Plane) -> None:
    """Put ``above`` where the mask is 1, in place."""
    if isinstance(below, Tensor):
        below.copy_(torch.where(as_tensor(mask).view(torch.bool), above, below))
        return
    bits = BITS[
        below.itemsize
    ]  # of whole numbers, half the bits come and go: three times as fast as NumPy's own choice
    changes = below.view(bits) ^ above.view(bits)
    changes &= -mask.view(np.int8) if bits == np.int8 else -mask.astype(bits)
    below.view(bits)[...] ^= changes


def rounded(colours: Raster, like: Raster) -> Raster:
    """The colours in another's type: to the nearest, where it holds whole numbers."""
    if isinstance(colours, Tensor):
        whole = colours.is_floating_point() and not like.is_floating_point()
        return (colours.round() if whole else colours).to(like.dtype)
    whole = colours.dtype.kind == "f" and like.dtype.kind != "f"
    return (np.rint(colours) if whole else colours).astype(like.dtype, copy=False)


def full(shape: tuple[int, int], value: int, like: Plane | Planes) -> Plane:
    """A new plane of one value, beside another one."""
    return np.full(shape, value, np.uint8) if isinstance(like, ndarray) else like.new_full(shape, value)


def erode(plane: Plane, pixels: int) -> Plane:
    """1 where the whole square that reaches so many pixels to each side is 1; outside the plane lies 0."""
    height, width = plane.shape
    wide = full((height + 2 * pixels, width + 2 * pixels), 0, like=plane)
    wide[pixels : pixels + height, pixels : pixels + width] = plane
    rows = reduce(and_, (wide[k : k + height] for k in range(2 * pixels + 1)))
    return reduce(and_, (rows[:, k : k + width] for k in range(2 * pixels + 1)))


def on_device(values: object, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of the host as a tensor on the device, without waiting for it."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)


def beside(values: Shaped[ndarray, "..."], other: Array) -> Array:
    """The host's numbers in the form, and on the device, of the other array."""
    return on_device(values, other.device) if isinstance(other, Tensor) else values


def as_float(image: Raster) -> Raster:
    """The image as float32, or float64 where it is that."""
    if isinstance(image, Tensor):
        return image.to(torch.promote_types(image.dtype, torch.float32))
    return image.astype(np.promote_types(image.dtype, np.float32))


def take(values: Array, index: Index, dim: int) -> Array:
    """The values at the indices along an axis; a view where they are a slice, which may count down."""
    if isinstance(index, ndarray):
        if isinstance(values, ndarray):
            return values.take(index, axis=dim)
        return values.index_select(dim, on_device(index, values.device))
    if isinstance(values, Tensor) and index.step == -1:  # torch cannot count down
        low = 0 if index.stop is None else index.stop + 1
        return values.narrow(dim, low, index.start + 1 - low).flip(dim)
    return values[(slice(None),) * dim + (index,)]
