"""A detector as a TorchScript file, which runs where there is no Python, on the CPU or a GPU."""

import warnings
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from composer_copypaste.models.exported import ExportedOutputs, ExportMetadata
from composer_copypaste.models.single_image import SingleImage


def write_torchscript(module: SingleImage, metadata: ExportMetadata, path: Path) -> None:
    """Write a module as a TorchScript file; its extra files ``categories`` and ``masks`` are those of the metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns of annotations in torchvision
        compiled = torch.jit.script(module)
    torch.jit.save(compiled, path, _extra_files=metadata.as_texts())


class TorchScriptDetector:
    """A TorchScript file that ``write_torchscript`` wrote, ready to run on the CPU."""

    def __init__(self, path: Path) -> None:
        self._module = torch.jit.load(path, map_location="cpu")

    def __call__(self, image: UInt8[Tensor, "3 h w"]) -> ExportedOutputs:
        """What the model finds in an image: RGB, on the host."""
        with torch.no_grad():
            return ExportedOutputs(*self._module(image.permute(1, 2, 0)))
