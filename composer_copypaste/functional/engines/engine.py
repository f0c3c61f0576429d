"""Which engine carries out a layout on a device, and the phases in which any engine does it.

1. ``Engine.stack`` finds which pasted object lies on top of each pixel.
2. ``ObjectStack.measure`` counts what is visible of each object. From these numbers the host decides which objects
   stay (``decide_kept_objects`` of ``visibility.py``).
3. ``ObjectStack.write_masks`` makes the masks of the objects that stay; for maps of class ids, ``class_ids`` takes
   the place of phases 2 and 3.
4. ``ObjectStack.paint`` makes the images.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64, Integer, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.engines.kernels import Kernels
from composer_copypaste.functional.engines.torch_engine import TorchEngine
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.tensors import Images
from composer_copypaste.functional.visibility import KeptObjects, Measures
from composer_copypaste.settings import CopyPasteSettings


@runtime_checkable
class ObjectStack(Protocol):
    """The objects of a layout, stacked on their images: what phase 1 gives, and the phases that build on it."""

    def measure(self, pixels: Int64[Tensor, " p"] | None) -> tuple[Measures, Int64[ndarray, " p"]]:
        """The measures of each pasted object, then of each overlapped one. This waits for the device.

        Given pixels, counted through the images that receive any object, also the owner of each: the level of the
        pasted object on top of it, -1 where there is none.
        """

    def write_masks(self, kept: KeptObjects) -> dict[int, CompactMasks]:
        """The masks of the objects that stay, of 0 and 1, in their windows, for each image that receives any."""

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """New class-id maps with the labels of the pasted objects, given those of all objects of the layout."""

    def paint(self, images: Images, extra_sources: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """New images with the objects painted on; those of a list that receive none are the same tensors.

        The layout's sources are first the images, then the extra sources.
        """


@runtime_checkable
class Engine(Protocol):
    """What carries out a layout that pastes at least one object."""

    def stack(self, layout: Layout, settings: CopyPasteSettings) -> ObjectStack:
        """Phase 1: stack the pasted objects on their images."""


def engine_for(device: torch.device) -> Engine:
    """The engine that runs kernels, where the device has some, else the one that takes steps in torch."""
    kernels = kernels_for(device)
    if kernels is None:
        return TorchEngine()
    from composer_copypaste.functional.engines.kernel_engine import KernelEngine  # imports Numba, which takes a while

    return KernelEngine(kernels)


def kernels_for(device: torch.device) -> Kernels | None:
    """The kernels that run on the device: Numba's on a CPU, Triton's on a GPU, where these can compile them.

    Either is imported here alone: that takes Numba half a second, and Triton one.
    """
    if device.type == "cpu":
        from composer_copypaste.functional.engines.compilation import can_compile

        if not can_compile():
            return None
        from composer_copypaste.functional.engines.numba_engine import NumbaKernels

        return NumbaKernels()
    if device.type == "cuda" and find_spec("triton") is not None:
        from composer_copypaste.functional.engines.triton_engine import TritonKernels, can_run

        return TritonKernels(device) if can_run(device) else None
    return None
