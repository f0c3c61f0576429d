"""The kernels of ``host_masks.py`` and ``host_colors.py``, called with a batch's tables."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.engines.kernels import nothing_seen
from composer_copypaste.functional.engines.numba_kernels import count_uncovered, measure, stack, write_masks
from composer_copypaste.functional.engines.numba_paint import paint

LARGEST_CACHED = 2**22
"""Bytes of masks that may be in a processor's caches when they are next read."""


class NumbaKernels:
    """The kernels as :class:`KernelEngine` calls them."""

    dtypes: Sequence[torch.dtype] = (torch.uint8, torch.float32)

    def stack(self, images: Int64[ndarray, "t i"], landings: Int64[ndarray, "m l"]) -> None:
        """As of :class:`Kernels`."""
        stack(images, landings)

    def measure(self, tasks: Int64[ndarray, "k t"], uncovered: Int64[ndarray, "u l"], n: int) -> Int64[Tensor, "n 6"]:
        """As of :class:`Kernels`."""
        results = nothing_seen(n)
        measure(tasks, results)
        if len(uncovered):
            count_uncovered(uncovered, results)
        return torch.from_numpy(results)

    def write_masks(self, planes: Int64[ndarray, "r p"]) -> None:
        """As of :class:`Kernels`."""
        write_masks(planes, (planes[:, 3] * planes[:, 4]).sum() > LARGEST_CACHED)

    def paint(
        self, images: Int64[ndarray, "t i"], landings: Int64[ndarray, "m l"], dtype: torch.dtype, channels: int
    ) -> None:
        """As of :class:`Kernels`."""
        paint(images, landings, channels, torch.empty(0, dtype=dtype).numpy())
