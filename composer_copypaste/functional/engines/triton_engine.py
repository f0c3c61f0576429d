"""The Triton kernels of ``triton_kernels.py``, launched on a CUDA device, or in Triton's interpreter on any other."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from subprocess import CalledProcessError

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor
from triton.runtime.errors import TritonError

from composer_copypaste.functional.engines import triton_kernels as kernels
from composer_copypaste.functional.engines.kernels import NOBODY, nothing_seen
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.tensors import on_device

WARPS = 8
"""Of a program that paints or writes: with the usual 4, each thread needs so many registers that few run at once."""
MOST = 65535
"""A grid of programs reaches no further along its second axis."""
TYPES = {torch.uint8: tl.uint8, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


class TritonKernels:
    """The kernels as :class:`KernelEngine` calls them."""

    dtypes: Sequence[torch.dtype] = tuple(TYPES)

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stack(self, images: Int64[ndarray, "t i"], landings: Int64[ndarray, "m l"]) -> None:
        """As of :class:`Kernels`."""
        self._on_tiles(kernels.stack, images, landings)

    def measure(self, tasks: Int64[ndarray, "k t"], uncovered: Int64[ndarray, "u l"], n: int) -> Int64[Tensor, "n 6"]:
        """As of :class:`Kernels`."""
        results = on_device(nothing_seen(n), self._device)
        self._on_windows(kernels.measure, tasks, tasks[:, 1:5], results)
        if len(uncovered):
            self._on_windows(kernels.count_uncovered, uncovered, uncovered[:, 6:10], results)
        return results

    def _on_windows(
        self, kernel: object, rows: Int64[ndarray, "k t"], windows: Int64[ndarray, "k 4"], results: Tensor
    ) -> None:
        """Run a kernel on each tile of the window of each row."""
        heights, widths = (windows[:, 2:] - windows[:, :2]).clip(0).T
        tiles = -(-heights // kernels.TILE_HEIGHT.value) * -(-widths // kernels.TILE_WIDTH.value)
        ends = np.cumsum(tiles)
        if programs := int(ends[-1]):
            table = np.column_stack([rows, ends - tiles])
            which = torch.repeat_interleave(self._table(tiles), output_size=programs)  # told how many, it does not wait
            with self._current():
                kernel[(programs,)](self._table(table), which, results, WIDTH=table.shape[1])  # type: ignore[index]

    def write_masks(self, planes: Int64[ndarray, "r p"]) -> None:
        """As of :class:`Kernels`."""
        for first in range(0, len(planes), MOST):
            self._write_masks(planes[first : first + MOST])

    def _write_masks(self, planes: Int64[ndarray, "r p"]) -> None:
        areas = planes[:, 3] * planes[:, 4]
        aligned = not (np.column_stack([planes[:, :2], areas]) % 16).any()
        with self._current():
            kernels.write_masks[(triton.cdiv(int(areas.max()), kernels.RUN.value), len(planes))](
                self._table(planes), WIDTH=planes.shape[1], ALIGNMENT=16 if aligned else 1, num_warps=WARPS
            )

    def paint(
        self, images: Int64[ndarray, "t i"], landings: Int64[ndarray, "m l"], dtype: torch.dtype, channels: int
    ) -> None:
        """As of :class:`Kernels`."""
        with_tents = np.column_stack([landings, _tents(landings[:, :6])])
        self._on_tiles(kernels.paint, images, with_tents, TYPE=TYPES[dtype], CHANNELS=channels, num_warps=WARPS)

    def _on_tiles(
        self, kernel: object, images: Int64[ndarray, "t i"], landings: Int64[ndarray, "m l"], **constants: object
    ) -> None:
        """Run a kernel on each tile of each image."""
        height, width = images[:, 1:3].max(axis=0).tolist()
        tiles = triton.cdiv(height, kernels.TILE_HEIGHT.value) * triton.cdiv(width, kernels.TILE_WIDTH.value)
        with self._current():
            kernel[(tiles, len(images))](  # type: ignore[index]
                self._table(images),
                self._table(landings),
                IMAGE_WIDTH=images.shape[1],
                LANDING_WIDTH=landings.shape[1],
                **constants,
            )

    def _table(self, rows: Int64[ndarray, "n ..."]) -> Tensor:
        return on_device(rows, self._device)

    def _current(self) -> AbstractContextManager[object]:
        """Kernels are launched on the current device."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


@lru_cache
def can_run(device: torch.device) -> bool:
    """Whether Triton can compile kernels here and the device runs them; where not, the first call warns.

    Raises:
        RuntimeError: where the device is out of memory, which says nothing of its kernels: the next call tries again.
    """
    plane = torch.ones(1, dtype=torch.uint8, device=device)
    row = np.array([[plane.data_ptr(), 0, 0, 1, 1, 0, 0, 0, 0, NOBODY]])
    try:
        TritonKernels(device).write_masks(row)
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


def _tents(maps: Int64[ndarray, "m 6"]) -> Int64[ndarray, "m 4"]:
    """How far the tents of each map reach along x, in half steps, and in pixels; and the same along y."""
    reach = np.maximum(1.0, np.hypot(maps[:, [0, 3]] / PIXEL, maps[:, [1, 4]] / PIXEL))
    return np.stack([np.rint(reach * 2 * PIXEL), np.ceil(2 * reach)], axis=2).reshape(-1, 4).astype(np.int64)
