"""Laying copied objects over an image: their colors, and which of their pixels stay visible."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from composer_copypaste.functional.layout import PastedObject, PastedObjects
from composer_copypaste.functional.resample import resample_colors, resample_mask, size_of
from composer_copypaste.functional.tensors import Images, copied_to_paint, erode, rounded
from composer_copypaste.functional.windows import Window

LUMA = (0.2989, 0.587, 0.114)
"""The weights of red, green and blue in grey: ITU-R BT.601, as in torchvision."""


def adjust_colors(
    colors: Shaped[Tensor, "c h w"],
    alpha: UInt8[Tensor, "h w"] | Float[Tensor, "h w"],
    factors: Sequence[float],
    largest: float,
) -> Float[Tensor, "c h w"]:
    """The colors, from 0 to ``largest``, after brightness, contrast and saturation, as torchvision defines these.

    Contrast is about the mean grey of the object, which covers pixels by ``alpha``, saturation about each pixel's grey;
    that of images without red, green and blue is the mean of their channels.
    """
    brightness, contrast, saturation = factors
    colors = (colors.to(torch.promote_types(colors.dtype, torch.float32)) * brightness).clamp(0, largest)
    weights = alpha.to(colors.dtype)
    mean = (_grey(colors) * weights).sum() / weights.sum().clamp(min=1e-6)
    colors = torch.lerp(mean.expand_as(colors), colors, contrast).clamp(0, largest)
    return torch.lerp(_grey(colors).expand_as(colors), colors, saturation).clamp(0, largest)


def _grey(colors: Float[Tensor, "c h w"]) -> Float[Tensor, "1 h w"]:
    if len(colors) != len(LUMA):
        return colors.mean(dim=0, keepdim=True)
    return sum(weight * channel for weight, channel in zip(LUMA, colors, strict=True))[None]


@dataclass(frozen=True)
class WarpedMask:
    """One copied object, resampled to where it lands; where its window is narrower, there is nothing of it beyond."""

    landing: PastedObject
    window: Window
    mask: UInt8[Tensor, "h w"]


def warped_mask(landing: PastedObject, masks: UInt8[Tensor, "n _h _w"], erosion: int) -> WarpedMask:
    """The object's mask as the target sees it.

    Its border is eroded by so many pixels; the target's edge is no border, what lies beyond it counts.
    """
    beyond, mask = resample_mask(masks[landing.instance], landing.to_source, landing.window.grown(erosion))
    window = beyond & landing.window
    if window.is_empty:  # any pixel of the target, which is not the object's
        return WarpedMask(landing, Window(0, 0, 1, 1), mask.new_zeros((1, 1)))
    mask = mask.clamp(max=1)  # anything but 0 is the object
    if erosion:
        mask = erode(mask, erosion)[window.within(beyond).slices]
    return WarpedMask(landing, window, mask)


def stack(
    cut_outs: Sequence[WarpedMask], below: UInt8[Tensor, "n h w"]
) -> tuple[list[UInt8[Tensor, "_h _w"]], UInt8[Tensor, "h w"]]:
    """What is visible of each object when they lie on each other, the last on top; and where none lies: 1, else 0."""
    free = below.new_ones(size_of(below))
    visible = []
    for cut in reversed(cut_outs):
        left = free[cut.window.slices]
        seen = cut.mask & left
        left ^= seen
        visible.append(seen)
    return visible[::-1], free


def painted_by_windows(
    images: Images,
    sources: Sequence[Shaped[Tensor, "c _h _w"]],
    landings: PastedObjects,
    cut_outs: Sequence[WarpedMask],
    blend_sigma: float,
) -> Images:
    """New images with the objects painted on, one after the other."""
    painted = copied_to_paint(images, landings.targets.tolist())
    for target, cut in zip(landings.target.tolist(), cut_outs, strict=True):
        _paint(painted[target], cut, sources[cut.landing.source], blend_sigma)
    return painted


def _paint(
    painted: Shaped[Tensor, "c h w"], cut: WarpedMask, source: Shaped[Tensor, "c _h _w"], blend_sigma: float
) -> None:
    """Paint one object, whose colors may change, and whose seam may be soft."""
    size, color = size_of(painted), cut.landing.color.tolist()
    window, alpha = _soften(cut.mask, cut.window, blend_sigma, size) if blend_sigma else (cut.window, cut.mask)
    below = painted[:, *window.slices]
    colors = resample_colors(source, cut.landing.to_source, window, size)
    if any(factor != 1 for factor in color):
        colors = adjust_colors(colors, alpha, color, 1.0 if painted.is_floating_point() else 255.0)
    if blend_sigma:
        wide = torch.promote_types(below.dtype, alpha.dtype)
        below.copy_(rounded(torch.lerp(below.to(wide), colors.to(wide), alpha.to(wide)), below))
    else:
        below.copy_(torch.where(alpha.view(torch.bool), rounded(colors, below), below))


def _soften(
    mask: UInt8[Tensor, "h w"], window: Window, sigma: float, size: tuple[int, int]
) -> tuple[Window, Float[Tensor, "h2 w2"]]:
    """The mask under a Gaussian of ``sigma`` pixels, which fades across the seam, and the window it reaches."""
    radius = math.ceil(3 * sigma)
    reached = window.grown(radius) & Window(0, 0, *size)
    opacity = torch.zeros((1, 1, *reached.shape), device=mask.device)
    opacity[0, 0][window.within(reached).slices] = mask.float()
    weights = np.exp(-((np.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    weights /= weights.sum()
    padded = functional.pad(opacity, (radius,) * 4, mode="replicate")[0, 0]  # no fading along the image's edge
    return reached, _weighted(_weighted(padded, weights, 0), weights, 1).clamp(0, 1)


def _weighted(values: Float[Tensor, "_h _w"], weights: Float[ndarray, " k"], dim: int) -> Float[Tensor, "_h2 _w2"]:
    """The weighted sum of each run of ``k`` values along an axis.

    A convolution, but a GPU's would round to 10 bits (TF32) and be prepared anew for each size of window.
    """
    length = values.shape[dim] - len(weights) + 1
    total = values.narrow(dim, 0, length) * float(weights[0])
    for k, weight in enumerate(weights[1:].tolist(), start=1):
        total.add_(values.narrow(dim, k, length), alpha=weight)
    return total
