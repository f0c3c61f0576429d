"""Pasting objects in torch, one after the other: their masks, which pixels stay visible, soft seams, and colors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from composer_copypaste.compact_masks import CompactMasks, window_areas
from composer_copypaste.functional.color_transfer import Pixels, around, surroundings, transferred
from composer_copypaste.functional.layout import Layout, PastedObject, PastedObjects
from composer_copypaste.functional.poisson import GROWTH, seamless
from composer_copypaste.functional.resample import resample_colors, resample_mask, size_of
from composer_copypaste.functional.tensors import Images, copied_to_paint, erode, on_device, rounded
from composer_copypaste.functional.windows import Window
from composer_copypaste.settings import CopyPasteSettings

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as in torchvision."""
GROUP_PIXELS = 1 << 18
"""Number of pixels from which on the colors of no further object are changed together with theirs."""


def adjust_colors(
    colors: Shaped[Tensor, "c h w"],
    alpha: UInt8[Tensor, "h w"] | Float[Tensor, "h w"],
    factors: Sequence[float],
    largest: float,
) -> Float[Tensor, "c h w"]:
    """Colors from 0 to ``largest``, multiplied by factors of brightness, contrast and saturation.

    These are defined as in torchvision: contrast moves colors from or towards the mean grey of the object, whose pixels
    count by their ``alpha``, saturation from or towards each pixel's own grey. In images that do not have three
    channels, grey is the mean of the channels.
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
    """The mask of one pasted object as its target sees it: the object has no pixel outside the window."""

    pasted: PastedObject
    window: Window
    mask: UInt8[Tensor, "h w"]


def warped_mask(pasted: PastedObject, masks: CompactMasks, erosion: int) -> WarpedMask:
    """The mask of a pasted object, given the masks of its source, eroded by that number of pixels of the target.

    Where the object goes on beyond the target's edge, it is not eroded there.
    """
    uncut, mask = resample_mask(masks.crop(pasted.instance), pasted.to_mask, pasted.window.grown(erosion))
    window = uncut & pasted.window
    if window.is_empty:  # no pixel of the object: any window of the target serves
        return WarpedMask(pasted, Window(0, 0, 1, 1), mask.new_zeros((1, 1)))
    mask = mask.clamp(max=1)  # any value but 0 belongs to the object
    if erosion:
        mask = erode(mask, erosion)[window.within(uncut).slices]
    return WarpedMask(pasted, window, mask)


def stack_masks(
    warped: Sequence[WarpedMask], below: CompactMasks
) -> tuple[list[UInt8[Tensor, "_h _w"]], UInt8[Tensor, "h w"]]:
    """The visible mask of each object pasted on one image, the last on top; and 1 where none of them lies, else 0."""
    free = below.pixels.new_ones(below.size)
    visible = []
    for each in reversed(warped):
        left = free[each.window.slices]
        seen = each.mask & left
        left ^= seen
        visible.append(seen)
    return visible[::-1], free


@dataclass(frozen=True)
class Patch:
    """What is painted of one object: its colors in a window of its target, and their opacity."""

    warped: WarpedMask
    window: Window
    """The window of the mask, grown as far as a soft seam reaches."""
    alpha: UInt8[Tensor, "h w"] | Float[Tensor, "h w"]
    colors: Shaped[Tensor, "c h w"]


def paint_objects(
    images: Images,
    sources: Sequence[Shaped[Tensor, "c _h _w"]],
    layout: Layout,
    warped: Sequence[WarpedMask],
    settings: CopyPasteSettings,
) -> Images:
    """New images with the objects painted on, one after the other."""
    targets = layout.pasted.target.tolist()
    painted = copied_to_paint(images, layout.pasted.receiving.tolist())
    for group in _groups(layout.pasted, many=settings.fits_colors):
        below = [images[targets[m]] for m in group]
        patches = [
            _patch(warped[m], sources, size_of(image), _Seam(settings.blend_mode, float(layout.blend_sigmas[m])))
            for m, image in zip(group, below, strict=True)
        ]
        if settings.color_transfer is not None:
            patches = _transferred(patches, below, layout, group, settings)
        patches = [_adjusted(patch, image) for patch, image in zip(patches, below, strict=True)]
        if settings.blend_mode == "poisson":
            patches = _seamless(patches, below, layout.backgrounds[group.start : group.stop].tolist())
        for m, patch in zip(group, patches, strict=True):
            _paint(painted[targets[m]], patch)
    return painted


def _groups(pasted: PastedObjects, *, many: bool) -> Iterator[range]:
    """The rows of pasted objects in their order: one by one, or many together, as far as they have few pixels."""
    first, pixels = 0, 0
    for m, area in enumerate(window_areas(pasted.windows).tolist()):
        pixels += area
        if not many or pixels > GROUP_PIXELS:
            yield range(first, m + 1)
            first, pixels = m + 1, 0
    if first < len(pasted.windows):
        yield range(first, len(pasted.windows))


class _Seam(NamedTuple):
    """How the seam of an object is painted."""

    mode: Literal["alpha", "poisson"]
    sigma: float


def _patch(
    warped: WarpedMask, sources: Sequence[Shaped[Tensor, "c _h _w"]], size: tuple[int, int], seam: _Seam
) -> Patch:
    """The patch of an object on a target of that size, in the colors of its source."""
    window, alpha = warped.window, warped.mask
    if seam.mode == "poisson":  # it needs the pixels beside the object
        window = warped.window.grown(GROWTH + 1) & Window(0, 0, *size)
        alpha = alpha.new_zeros(window.shape)
        alpha[warped.window.within(window).slices] = warped.mask
    elif seam.sigma:
        window, alpha = _soften(warped.mask, warped.window, seam.sigma, size)
    colors = resample_colors(sources[warped.pasted.source], warped.pasted.to_source, window, size)
    return Patch(warped, window, alpha, colors)


def _transferred(
    patches: Sequence[Patch],
    images: Sequence[Shaped[Tensor, "c _h _w"]],
    layout: Layout,
    group: range,
    settings: CopyPasteSettings,
) -> list[Patch]:
    """Patches whose colors are moved towards those of the images around the objects."""
    largest, covered, reaches, free = largest_color(images[0]), [], [], []
    for patch, image in zip(patches, images, strict=True):
        mask, window = patch.warped.mask, patch.warped.window
        whole = mask.new_zeros(patch.window.shape)
        whole[window.within(patch.window).slices] = mask
        covered.append(whole)
        reach = surroundings(patch.warped.pasted.window, size_of(image))
        reaches.append(image[:, *reach.slices])
        free.append(around(mask, window, reach))
    strengths = on_device(layout.transfer_strengths[group.start : group.stop], images[0].device)
    of = Pixels.of([patch.colors for patch in patches], covered, largest)
    method = cast(Literal["reinhard", "histogram"], settings.color_transfer)
    colors = transferred(of, Pixels.of(reaches, free, largest), method, strengths) * largest
    parts = colors.split(list(of.lengths), dim=1)
    return [replace(patch, colors=part.view_as(patch.colors)) for patch, part in zip(patches, parts, strict=True)]


def _adjusted(patch: Patch, below: Shaped[Tensor, "c h w"]) -> Patch:
    """The patch with brightness, contrast and saturation changed as its plan says."""
    factors = patch.warped.pasted.color.tolist()
    if all(factor == 1 for factor in factors):
        return patch
    return replace(patch, colors=adjust_colors(patch.colors, patch.alpha, factors, largest_color(below)))


def _seamless(
    patches: Sequence[Patch], images: Sequence[Shaped[Tensor, "c _h _w"]], has_background: Sequence[bool]
) -> list[Patch]:
    """Patches whose colors go over into those of the images below them, where there is a background to compare."""
    changed = list(patches)
    members = [k for k, has in enumerate(has_background) if has]
    if members:
        wide, largest = torch.promote_types(images[0].dtype, torch.float32), largest_color(images[0])
        below = [images[k][:, *patches[k].window.slices].to(wide) for k in members]
        colors = seamless([patches[k].colors.to(wide) for k in members], [patches[k].alpha for k in members], below)
        for k, new in zip(members, colors, strict=True):
            changed[k] = replace(patches[k], colors=new.clamp(0, largest))
    return changed


def _paint(painted: Shaped[Tensor, "c h w"], patch: Patch) -> None:
    """Paint one object."""
    below = painted[:, *patch.window.slices]
    if patch.alpha.is_floating_point():
        wide = torch.promote_types(below.dtype, patch.alpha.dtype)
        below.copy_(rounded(torch.lerp(below.to(wide), patch.colors.to(wide), patch.alpha.to(wide)), below))
    else:
        below.copy_(torch.where(patch.alpha.view(torch.bool), rounded(patch.colors, below), below))


def largest_color(image: Shaped[Tensor, "c h w"]) -> float:
    """The largest value of a color, where colors are changed."""
    return 1.0 if image.is_floating_point() else 255.0


def _soften(
    mask: UInt8[Tensor, "h w"], window: Window, sigma: float, size: tuple[int, int]
) -> tuple[Window, Float[Tensor, "h2 w2"]]:
    """The window reached by a soft seam, and the opacity there: the mask blurred by a Gaussian of ``sigma`` pixels."""
    radius = math.ceil(3 * sigma)
    reached = window.grown(radius) & Window(0, 0, *size)
    opacity = torch.zeros((1, 1, *reached.shape), device=mask.device)
    opacity[0, 0][window.within(reached).slices] = mask.float()
    weights = np.exp(-((np.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    weights /= weights.sum()
    padded = functional.pad(opacity, (radius,) * 4, mode="replicate")[0, 0]  # the image's edge is no seam
    return reached, _weighted(_weighted(padded, weights, 0), weights, 1).clamp(0, 1)


def _weighted(values: Float[Tensor, "_h _w"], weights: Float[ndarray, " k"], dim: int) -> Float[Tensor, "_h2 _w2"]:
    """The weighted sum of each run of ``k`` values along an axis.

    This is a convolution. Torch's own would, on a GPU, round to 10 bits (TF32) and prepare itself for each new size.
    """
    length = values.shape[dim] - len(weights) + 1
    total = values.narrow(dim, 0, length) * float(weights[0])
    for k, weight in enumerate(weights[1:].tolist(), start=1):
        total.add_(values.narrow(dim, k, length), alpha=weight)
    return total
