"""The colours of a pasted object: brighter or darker, of more or less contrast and saturation."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""The weights of red, green and blue in grey: ITU-R BT.601, as in torchvision."""


def adjust_colours(
    colours: Shaped[Tensor, "c h w"],
    alpha: UInt8[Tensor, "h w"] | Float[Tensor, "h w"],
    factors: Sequence[float],
    largest: float,
) -> Float[Tensor, "c h w"]:
    """The colours, from 0 to ``largest``, after brightness, contrast and saturation, as torchvision defines these.

    Contrast is about the mean grey of the object, which covers pixels by ``alpha``, saturation about each pixel's grey;
    that of pictures without red, green and blue is the mean of their channels.
    """
    brightness, contrast, saturation = factors
    colours = (colours.to(torch.promote_types(colours.dtype, torch.float32)) * brightness).clamp(0, largest)
    weights = alpha.to(colours.dtype)
    mean = (_grey(colours) * weights).sum() / weights.sum().clamp(min=1e-6)
    colours = torch.lerp(mean.expand_as(colours), colours, contrast).clamp(0, largest)
    return torch.lerp(_grey(colours).expand_as(colours), colours, saturation).clamp(0, largest)


def _grey(colours: Float[Tensor, "c h w"]) -> Float[Tensor, "1 h w"]:
    if len(colours) != len(LUMA):
        return colours.mean(dim=0, keepdim=True)
    return sum(weight * channel for weight, channel in zip(LUMA, colours, strict=True))[None]
