"""Resize images on any device to the very values that Pillow computes."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

PRECISION = 2**22
"""Pillow rounds weights of pixels to multiples of 1 / PRECISION."""


def resize_as_pillow(image: UInt8[Tensor, "c h w"], size: tuple[int, int]) -> Float[Tensor, "c _h _w"]:
    """The image at another (height, width), as Pillow's bilinear filter gives it: whole numbers from 0 to 255.

    Columns are resized first, then rows, each rounded. Sums of weighted pixels are whole numbers below 2^53, which
    float64 adds without rounding: the result is the same on each device.
    """
    pixels = image.double()
    height, width = image.shape[1:]
    if width != size[1]:
        pixels = _rounded(pixels @ _weights(width, size[1]).to(image.device).T)
    if height != size[0]:
        pixels = _rounded(_weights(height, size[0]).to(image.device) @ pixels)
    return pixels.float()


def _rounded(sums: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    return ((sums + PRECISION / 2) / PRECISION).floor().clamp(0, 255)


def _weights(before: int, after: int) -> Float[Tensor, "_after _before"]:
    """The weight of each pixel of a line for each pixel of the resized line, in units of 1 / PRECISION.

    A triangle as wide as two pixels, of the line before or after, whichever are larger.
    """
    scale = before / after
    support = max(scale, 1.0)
    centers = (torch.arange(after, dtype=torch.float64) + 0.5)[:, None] * scale
    pixels = torch.arange(before, dtype=torch.float64)
    inside = (pixels >= (centers - support + 0.5).trunc()) & (pixels < (centers + support + 0.5).trunc())
    weights = (1 - ((pixels - centers + 0.5) / support).abs()).clamp(min=0) * inside
    return (weights / weights.sum(dim=1, keepdim=True) * PRECISION + 0.5).floor()
