"""Carrying out a layout: painting the images, and finding out what is visible of each object."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.engines.kernels import KernelEngine, Kernels
from composer_copypaste.functional.engines.torch_engine import TorchEngine
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.tensors import Images
from composer_copypaste.functional.visibility import KeptObjects, Measures
from composer_copypaste.settings import CopyPasteSettings


@runtime_checkable
class Engine(Protocol):
    """A layout in which something lands, carried out."""

    def measures(self, pixels: Int64[Tensor, " p"] | None) -> tuple[Measures, Int64[ndarray, " p"]]:
        """Of each landing, then of each object that is overlapped; this is where the device is waited for.

        And of each of the pixels, counted through the images that receive any, the place among those of its image of
        the landing that lies on top, -1 where none does.
        """

    def masks(self, outcome: KeptObjects) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """The masks of the objects that the images have, for each that received any."""

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """Class-id maps with the labels of what landed; those given are of all objects in the row."""

    def images(self, images: Images, further: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """New images with the objects painted on; of a list, those that receive none are the same.

        Numbers of sources go on from the images to the further images.
        """


def engine_for(layout: Layout, device: torch.device, settings: CopyPasteSettings) -> Engine:
    """Kernels where the device has some, else window after window."""
    kernels = kernels_for(device)
    if kernels is None:
        return TorchEngine(layout, settings)
    return KernelEngine(layout, kernels, settings)


def kernels_for(device: torch.device) -> Kernels | None:
    """The kernels that run on the device, if any do."""
    if device.type == "cpu":
        from composer_copypaste.functional.engines.numba_engine import (
            NumbaKernels,  # Numba takes half a second to import
        )

        return NumbaKernels()
    if device.type == "cuda" and find_spec("triton") is not None:
        from composer_copypaste.functional.engines.triton_engine import (
            TritonKernels,  # Triton takes a second to import
            can_run,  # Triton takes a second to import
        )

        return TritonKernels(device) if can_run(device) else None
    return None
