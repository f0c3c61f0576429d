"""Laying copied objects over an image: their colours, and which of their pixels stay visible."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from composer_copypaste.functional.colours import adjust_colours
from composer_copypaste.functional.compose import Landing
from composer_copypaste.functional.planes import Plane, Planes, Raster, as_tensor, erode, full, rounded, select
from composer_copypaste.functional.warp import resample_colours, resample_mask, size_of
from composer_copypaste.functional.windows import Window


@dataclass(frozen=True)
class CutOut:
    """One copied object, resampled to where it lands; where its window is narrower, there is nothing of it beyond."""

    landing: Landing
    window: Window
    mask: Plane


def cut_out(landing: Landing, masks: Planes, erosion: int) -> CutOut:
    """The object's mask as the target sees it.

    Its border is eroded by so many pixels; the target's edge is no border, what lies beyond it counts.
    """
    beyond, mask = resample_mask(masks[landing.instance], landing.to_source, landing.window.grown(erosion))
    window = beyond & landing.window
    if erosion and not window.is_empty:
        mask = erode(mask, erosion)[window.within(beyond).slices]
    return CutOut(landing, window, mask)


def stack(cut_outs: Sequence[CutOut], below: Planes) -> tuple[list[Plane], Plane]:
    """What is visible of each object when they lie on each other, the last on top; and where none lies: 1, else 0."""
    free = full(size_of(below), 1, like=below)
    visible = []
    for cut in reversed(cut_outs):
        left = free[cut.window.slices]
        seen = cut.mask & left
        left ^= seen
        visible.append(seen)
    return visible[::-1], free


def paste_colours(painted: Raster, cut_outs: Sequence[CutOut], sources: Sequence[Raster], blend_sigma: float) -> None:
    """Paint the objects' colours over the image, in place, one after the other."""
    for cut in cut_outs:
        paint = _paint_softly if blend_sigma or any(factor != 1 for factor in cut.landing.colour) else _paint
        paint(painted, cut, sources[cut.landing.source], blend_sigma)


def _paint(painted: Raster, cut: CutOut, source: Raster, _: float) -> None:
    """Paint one object as it is."""
    below = painted[:, *cut.window.slices]
    colours = resample_colours(source, cut.landing.to_source, cut.window, size_of(painted))
    select(below, rounded(colours, below), cut.mask)


def _paint_softly(painted: Raster, cut: CutOut, source: Raster, blend_sigma: float) -> None:
    """Paint one object whose colours change, or whose seam is soft."""
    mask, image = as_tensor(cut.mask), as_tensor(painted)
    window, alpha = _soften(mask, cut.window, blend_sigma, size_of(image)) if blend_sigma else (cut.window, mask)
    below = image[:, *window.slices]
    colours = as_tensor(resample_colours(source, cut.landing.to_source, window, size_of(image)))
    if any(factor != 1 for factor in cut.landing.colour):
        colours = adjust_colours(colours, alpha, cut.landing.colour, 1.0 if image.is_floating_point() else 255.0)
    if blend_sigma:
        wide = torch.promote_types(below.dtype, alpha.dtype)
        below.copy_(rounded(torch.lerp(below.to(wide), colours.to(wide), alpha.to(wide)), below))
    else:
        select(below, rounded(colours, below), alpha)


def _soften(
    mask: UInt8[Tensor, "h w"], window: Window, sigma: float, size: tuple[int, int]
) -> tuple[Window, Float[Tensor, "h2 w2"]]:
    """The mask under a Gaussian of ``sigma`` pixels, which fades across the seam, and the window it reaches."""
    radius = math.ceil(3 * sigma)
    reached = window.grown(radius) & Window(0, 0, *size)
    opacity = torch.zeros((1, 1, *reached.shape), device=mask.device)
    opacity[0, 0][window.within(reached).slices] = mask.float()
    offsets = torch.arange(-radius, radius + 1, device=mask.device)
    weights = torch.exp(-((offsets / sigma) ** 2) / 2)
    weights = weights / weights.sum()
    padded = functional.pad(opacity, (radius,) * 4, mode="replicate")  # no fading along the picture's edge
    opacity = functional.conv2d(functional.conv2d(padded, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return reached, opacity[0, 0].clamp(0, 1)
