"""The kernels that Triton compiles for a GPU, as :class:`KernelEngine` calls them, and whether a device runs them.

With TRITON_INTERPRET=1 in the environment they run on any device, slowly.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from subprocess import CalledProcessError

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Int64, Integer
from numpy import ndarray
from torch import Tensor
from triton.runtime.errors import TritonError

from composer_copypaste.compact_masks import window_areas
from composer_copypaste.functional.engines import triton_kernels as kernels
from composer_copypaste.functional.engines.kernels import (
    BY_X,
    BY_Y,
    MASK_ROW,
    RESULT_ROW,
    X1,
    X2,
    Y1,
    Y2,
    Table,
)
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.tensors import on_device

WARPS = 8
"""Warps of a program that paints or writes. With the usual 4, each thread needs too many registers to run many."""
MOST = 65535
"""The largest size of a grid of programs along its second axis."""
OWNER_TYPES = {torch.uint8: tl.uint8, torch.int16: tl.int16}
ID_TYPES = {**OWNER_TYPES, torch.int8: tl.int8, torch.int32: tl.int32, torch.int64: tl.int64}
IMAGE_TYPES = {
    torch.uint8: tl.uint8,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
}


class TritonKernels:
    """The :class:`Kernels` of a CUDA device."""

    dtypes: Sequence[torch.dtype] = tuple(IMAGE_TYPES)

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stack(self, images: Table, pasted: Table, owners: torch.dtype) -> None:
        """As of :class:`Kernels`."""
        self._on_tiles(kernels.stack, images, pasted, OWNERS=OWNER_TYPES[owners])

    def measure(self, objects: Table, uncovered: Table, owners: torch.dtype) -> Int64[Tensor, "n 6"]:
        """As of :class:`Kernels`."""
        found = np.zeros(len(objects), RESULT_ROW)
        found["x1"] = found["y1"] = kernels.FAR.value
        results = self._table(found)
        self._on_windows(kernels.measure, objects, results, OWNERS=OWNER_TYPES[owners])
        if len(uncovered):
            self._on_windows(kernels.count_uncovered, uncovered, results)
        return results

    def _on_windows(self, kernel: object, rows: Table, results: Tensor, **constants: object) -> None:
        """Run a kernel on each tile of the window of each row."""
        window = rows["window"]
        heights, widths = (window[:, Y2] - window[:, Y1]).clip(0), (window[:, X2] - window[:, X1]).clip(0)
        tiles = -(-heights // kernels.TILE_HEIGHT.value) * -(-widths // kernels.TILE_WIDTH.value)
        ends = np.cumsum(tiles)
        if programs := int(ends[-1]):
            tiles_, first = on_device(tiles, self._device), on_device(ends - tiles, self._device)
            which = torch.repeat_interleave(tiles_, output_size=programs)  # told how many, it does not wait
            with self._current():
                kernel[(programs,)](self._table(rows), which, first, results, **constants)  # type: ignore[index]

    def write_masks(self, masks: Table, owners: torch.dtype) -> None:
        """As of :class:`Kernels`."""
        for first in range(0, len(masks), MOST):
            part = masks[first : first + MOST]
            areas = window_areas(part["kept_in"])
            copied = part["former"] * part["is_copy"]
            aligned = not any((numbers % 16).any() for numbers in (part["written"], copied, areas))
            with self._current():
                kernels.write_masks[(triton.cdiv(int(areas.max()), kernels.RUN.value), len(part))](
                    self._table(part), OWNERS=OWNER_TYPES[owners], ALIGNMENT=16 if aligned else 1, num_warps=WARPS
                )

    def paint_ids(self, images: Table, pasted: Table, labels: Integer[Tensor, " m"], owners: torch.dtype) -> None:
        """As of :class:`Kernels`."""
        types = {"OWNERS": OWNER_TYPES[owners], "TYPE": ID_TYPES[labels.dtype]}
        with self._current():
            kernels.paint_ids[(_tiles(images), len(images))](self._table(images), labels, **types)

    def paint(self, images: Table, pasted: Table, owners: torch.dtype, dtype: torch.dtype, channels: int) -> None:
        """As of :class:`Kernels`."""
        tents = self._table(_tents(pasted["to_source"]))
        types = {"OWNERS": OWNER_TYPES[owners], "TYPE": IMAGE_TYPES[dtype]}
        self._on_tiles(kernels.paint, images, pasted, tents, **types, CHANNELS=channels, num_warps=WARPS)

    def _on_tiles(self, kernel: object, images: Table, pasted: Table, *further: Tensor, **constants: object) -> None:
        """Run a kernel on each tile of each image."""
        with self._current():
            kernel[(_tiles(images), len(images))](  # type: ignore[index]
                self._table(images), self._table(pasted), *further, **constants
            )

    def _table(self, rows: Table) -> Int64[Tensor, "n _k"]:
        """The table as kernels read it."""
        return on_device(rows.view(np.int64).reshape(len(rows), -1), self._device)

    def _current(self) -> AbstractContextManager[object]:
        """Kernels are launched on the current device."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


@lru_cache  # only whether it does: each batch would else compile, or fail to, anew
def can_run(device: torch.device) -> bool:
    """Whether Triton can compile kernels here and the device runs them; where not, the first call warns.

    Raises:
        RuntimeError: where the device is out of memory, which says nothing of its kernels: the next call tries again.
    """
    plane = torch.ones(1, dtype=torch.uint8, device=device)
    mask = np.zeros(1, MASK_ROW)
    mask["written"], mask["kept_in"] = plane.data_ptr(), [0, 0, 1, 1]
    try:
        TritonKernels(device).write_masks(mask, torch.uint8)
    except (RuntimeError, OSError, AssertionError, CalledProcessError, TritonError) as error:
        if "out of memory" in str(error).lower():  # torch and Triton have each an error of their own for it
            raise
        warnings.warn(
            f"copy-paste takes steps in torch for each object on {device}, many times slower, because Triton runs no "
            f"kernel there: {error}. It needs a C compiler, such as gcc, and the headers of Python (python3-dev)",
            stacklevel=2,
        )
        return False
    return True


def _tiles(images: Table) -> int:
    """The number of tiles of the largest image."""
    height, width = int(images["height"].max()), int(images["width"].max())
    return triton.cdiv(height, kernels.TILE_HEIGHT.value) * triton.cdiv(width, kernels.TILE_WIDTH.value)


def _tents(maps: Int64[ndarray, "m 2 3"]) -> Table:
    """How far the tents of each map reach: rows of ``TENT_ROW``."""
    tents = np.zeros(len(maps), kernels.TENT_ROW)
    reach = np.maximum(1.0, np.hypot(maps[:, :, BY_X] / PIXEL, maps[:, :, BY_Y] / PIXEL)).T
    tents["reach_x"], tents["reach_y"] = np.rint(reach * 2 * PIXEL)
    tents["taps_x"], tents["taps_y"] = np.ceil(2 * reach)
    return tents
