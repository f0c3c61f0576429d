"""The kernels that Numba compiles for a CPU, as :class:`KernelEngine` calls them."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Int64, Integer, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import window_areas
from composer_copypaste.functional.engines import numba_masks, numba_paint, numba_semantic_maps
from composer_copypaste.functional.engines.kernels import BY_X, BY_Y, OFFSET, RESULT_ROW, TO_X, TO_Y, Table
from composer_copypaste.functional.engines.numba_tables import share_rows
from composer_copypaste.functional.resample import PIXEL

LARGEST_CACHED = 2**22
"""Bytes of masks that a processor's caches may still hold when they are next read."""


class NumbaKernels:
    """The :class:`Kernels` of a CPU.

    Each kind of map has kernels of its own, since a kernel is compiled when it is first called, which takes seconds.
    """

    dtypes: Sequence[torch.dtype] = (torch.uint8, torch.float32)

    def stack(self, images: Table, pasted: Table, owners: torch.dtype) -> None:
        """As of :class:`Kernels`."""
        stack = numba_masks.stack_rotated if pasted["rotated"].any() else numba_masks.stack_axis_aligned
        stack(images, pasted, _example(owners))

    def measure(self, objects: Table, uncovered: Table, owners: torch.dtype) -> Int64[Tensor, "n 6"]:
        """As of :class:`Kernels`."""
        results = np.zeros(len(objects), RESULT_ROW)
        numba_masks.measure(objects, results, _example(owners))
        if len(uncovered):
            count = numba_masks.count_rotated if uncovered["rotated"].any() else numba_masks.count_axis_aligned
            count(uncovered, results)
        return torch.from_numpy(results.view(np.int64).reshape(len(results), -1))

    def write_masks(self, masks: Table, owners: torch.dtype) -> None:
        """As of :class:`Kernels`."""
        streams = window_areas(masks["kept_in"]).sum() > LARGEST_CACHED
        numba_masks.write_masks(masks, streams, _example(owners))

    def paint_ids(self, images: Table, pasted: Table, labels: Integer[Tensor, " m"], owners: torch.dtype) -> None:
        """As of :class:`Kernels`."""
        numba_semantic_maps.paint_ids(images, pasted, labels.numpy(), _example(owners))

    def paint(self, images: Table, pasted: Table, owners: torch.dtype, dtype: torch.dtype, channels: int) -> None:
        """As of :class:`Kernels`."""
        pasted = pasted.copy()
        pasted = pasted[: share_rows(pasted)]
        maps, rotated = pasted["to_source"], pasted["rotated"] != 0
        moved = ~rotated & (np.abs(maps[:, [TO_X, TO_Y], [BY_X, BY_Y]]) == PIXEL).all(axis=1)
        if moved.any():
            moved &= (maps[:, :, OFFSET] % PIXEL == 0).all(axis=1)
        kinds = {
            numba_paint.paint_moved: moved,
            numba_paint.paint_resized: ~(rotated | moved),
            numba_paint.paint_rotated: rotated,
        }
        for paint, rows in kinds.items():
            if rows.any():
                paint(images, pasted[rows], channels, _example(dtype), _example(owners))


@cache
def _example(dtype: torch.dtype) -> Shaped[ndarray, "0"]:
    """An array of the type, which tells kernels what lies at an address."""
    example = torch.empty(0, dtype=dtype).numpy()
    example.flags.writeable = False  # of the same type as examples that are global
    return example
