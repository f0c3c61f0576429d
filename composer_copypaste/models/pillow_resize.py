"""Images resized to the very values that Pillow computes (bilinear), on any device and in exported files.

Pillow averages over the pixels that a new pixel covers, first along rows and then along columns, and rounds after each.
It rounds the weights of pixels to 22 bits: sums of weighted pixels are whole numbers, which float64 adds exactly.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor


def resize_as_pillow(image: Shaped[Tensor, "c h w"], size: tuple[int, int]) -> Float[Tensor, "c _h _w"]:
    """The image at another (height, width): whole numbers from 0 to 255, float32. Those of ``image`` are whole too."""
    if tuple(image.shape[1:]) == size:
        return image.float()
    if image.device.type == "cpu":
        resized = [np.array(_resize_plane(plane, size)) for plane in image.byte()]
        return torch.from_numpy(np.stack(resized)).float()
    return resize_by_weights(image.double(), torch.tensor(image.shape[1:]), torch.tensor(size)).float()


def _resize_plane(plane: Tensor, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(plane.contiguous().numpy()).resize((size[1], size[0]), Image.Resampling.BILINEAR)


@no_type_check  # TorchScript compiles it and ONNX traces it
def resize_by_weights(pixels: Tensor, size: Tensor, resized: Tensor) -> Tensor:
    """The same for float64 pixels; sizes before and after are int64 (height, width), so that they can be traced."""
    rows = _rounded(pixels @ _weights(size[1:], resized[1:]).to(pixels.device).t())
    return _rounded(_weights(size[:1], resized[:1]).to(pixels.device) @ rows)


@no_type_check
def _rounded(sums: Tensor) -> Tensor:
    return torch.floor(sums / 4194304.0 + 0.5).clamp(0, 255)


@no_type_check
def _weights(length: Tensor, resized: Tensor) -> Tensor:
    """The weight of each pixel of a line in each pixel of the resized line: float64 (resized, length).

    Weights are whole numbers whose sum is about 4,194,304, 22 bits, as Pillow's PRECISION_BITS say. They fall off as a
    triangle as wide as two pixels of the line before or after, whichever are larger. Both lengths are vectors of one
    number: torch.onnx computes in float32 with float64 numbers that are no vectors.
    """
    scale = length.double() / resized.double()
    reach = scale.clamp(min=1.0)
    centre = ((torch.arange(resized[0]).double() + 0.5) * scale)[:, None]
    pixel = torch.arange(length[0]).double()[None]
    first = torch.floor(centre - reach + 0.5)
    end = torch.floor(centre + reach + 0.5)
    weights = (1 - ((pixel - centre + 0.5) * (1 / reach)).abs()).clamp(min=0)
    weights = weights * ((pixel >= first) & (pixel < end)).double()
    return torch.floor(weights / weights.sum(1, keepdim=True) * 4194304.0 + 0.5)
