"""Colors of pasted objects moved towards those around them: by mean and deviation in CIELAB, or by histogram.

The pixels of several objects stand in a row, so that each step is done once for all: colors are (c, p), and beside them
are the number of pixels of each object and the weight of each pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.tensors import Images, on_device
from composer_copypaste.functional.windows import Window
from composer_copypaste.settings import CopyPasteSettings

RGB = 3
SMALLEST_MARGIN = 8
"""Pixels that the box of the surroundings is larger than the object's on each side, at least."""
LARGEST_CHANGE = 2.0
"""The largest factor of deviations: flat objects would turn into noise, objects before a plain wall would get flat."""
LEVELS = 256
"""Of a channel's histogram."""
LINEAR_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""From linear sRGB to XYZ for D65: http://www.brucelindbloom.com/Eqn_RGB_XYZ_Matrix.html."""
WHITE = (0.95047, 1.0, 1.08883)
"""X, Y and Z of D65's white, which divide them in CIELAB."""
TO_XYZ = np.array(LINEAR_TO_XYZ) / np.array(WHITE)[:, None]
FROM_XYZ = np.linalg.inv(TO_XYZ)
BEND = 6 / 29
"""CIELAB's cube root goes over into a straight line here."""


@dataclass(frozen=True)
class Pixels:
    """The pixels of several objects, or of what surrounds them, one object after the other."""

    colors: Float[Tensor, "c p"]
    """From 0 to 1."""
    weights: Float[Tensor, " p"]
    lengths: Sequence[int]
    """Number of pixels of each object."""

    @classmethod
    def of(cls, colors: Sequence[Shaped[Tensor, "c _h _w"]], weights: Sequence[Tensor], largest: float) -> "Pixels":
        """The pixels of these windows, whose colors are from 0 to ``largest``."""
        dtype = torch.promote_types(colors[0].dtype, torch.float32)
        row = torch.cat([each.flatten(1) for each in colors], dim=1).to(dtype) / largest
        return cls(row.clamp(0, 1), torch.cat([w.flatten() for w in weights]).to(dtype), [w.numel() for w in weights])

    def sums(self, values: Float[Tensor, "c p"]) -> Float[Tensor, "c n"]:
        """The weighted sums of values for each object."""
        return torch.stack([part.sum(dim=1) for part in (values * self.weights).split(list(self.lengths), 1)], dim=1)

    def means(self, values: Float[Tensor, "c p"]) -> Float[Tensor, "c n"]:
        """The weighted means of values for each object; 0 for objects without pixels."""
        return self.sums(values) / self.sums(torch.ones_like(values[:1])).clamp(min=1e-6)

    def spread(self, values: Float[Tensor, "c n"]) -> Float[Tensor, "c p"]:
        """The value of its object for each pixel."""
        return values[:, self.objects()]

    def objects(self) -> Int64[Tensor, " p"]:
        """The object that each pixel belongs to."""
        return on_device(np.repeat(np.arange(len(self.lengths)), self.lengths), self.colors.device)


def check_colors(images: Images, settings: CopyPasteSettings) -> None:
    """Raise ``ValueError`` where colors are to be changed as only those of RGB images can be."""
    if settings.color_transfer == "reinhard" and len(images) and images[0].shape[0] != RGB:
        raise ValueError(
            f'color_transfer: expected images of {RGB} channels for "reinhard", whose colors are RGB, got '
            f'{images[0].shape[0]}; "histogram" takes any number'
        )


def surroundings(window: Window, size: tuple[int, int]) -> Window:
    """The part of an image of that (height, width) that tells which colors are around an object in a window of it."""
    down, across = (max(SMALLEST_MARGIN, -(-side // 2)) for side in window.shape)
    grown = Window(window.y1 - down, window.x1 - across, window.y2 + down, window.x2 + across)
    return grown & Window(0, 0, *size)


def around(mask: UInt8[Tensor, "h w"], window: Window, reach: Window) -> UInt8[Tensor, "h2 w2"]:
    """1 for the pixels of ``reach`` that are around an object whose mask lies in ``window``; else the object's own."""
    free, shared = mask.new_ones(reach.shape), window & reach
    if not shared.is_empty:  # else the object has no pixel
        free[shared.within(reach).slices] -= mask[shared.within(window).slices]
    return torch.where(free.any() != 0, free, 1)


def transferred(
    of: Pixels, surrounding: Pixels, method: Literal["reinhard", "histogram"], strengths: Float[Tensor, " n"]
) -> Float[Tensor, "c p"]:
    """The objects' colors, from 0 to 1, moved towards those that surround each by its strength, from 0 to 1."""
    matched = match_lab(of, surrounding) if method == "reinhard" else match_histograms(of, surrounding)
    return torch.lerp(of.colors, matched, of.spread(strengths[None].to(matched.dtype)))


# By mean and deviation


def match_lab(of: Pixels, surrounding: Pixels) -> Float[Tensor, "3 p"]:
    """The objects' colors with the means and deviations that those around them have in CIELAB.

    The paper (Reinhard et al., "Color Transfer between Images", 2001) uses another space of the same kind, whose
    logarithms have no value for black.
    """
    own, other = to_lab(of.colors), to_lab(surrounding.colors)
    mean, deviation = _mean_and_deviation(of, own)
    new_mean, new_deviation = _mean_and_deviation(surrounding, other)
    change = (new_deviation / deviation.clamp(min=1e-6)).clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE)
    return from_lab((own - of.spread(mean)) * of.spread(change) + of.spread(new_mean))


def _mean_and_deviation(pixels: Pixels, values: Float[Tensor, "c p"]) -> tuple[Tensor, Tensor]:
    mean = pixels.means(values)
    return mean, pixels.means((values - pixels.spread(mean)) ** 2).sqrt()


def to_lab(colors: Float[Tensor, "3 p"]) -> Float[Tensor, "3 p"]:
    """Colors of sRGB, from 0 to 1, as CIELAB for D65: L from 0 to 100, a and b from about -100 to 100."""
    linear = torch.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    xyz = _weighted_sums(linear, TO_XYZ)
    x, y, z = torch.where(xyz > BEND**3, xyz.clamp(min=BEND**3) ** (1 / 3), xyz / (3 * BEND**2) + 4 / 29)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def from_lab(lab: Float[Tensor, "3 p"]) -> Float[Tensor, "3 p"]:
    """CIELAB as colors of sRGB, from 0 to 1; others become the nearest values of each channel."""
    y = (lab[0] + 16) / 116
    roots = torch.stack([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = torch.where(roots > BEND, roots**3, (roots - 4 / 29) * (3 * BEND**2))
    linear = _weighted_sums(xyz, FROM_XYZ).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92)


def _weighted_sums(values: Float[Tensor, "3 p"], weights: Float[ndarray, "3 3"]) -> Float[Tensor, "3 p"]:
    """A product with a matrix, which a GPU would round to 10 bits (TF32) in ``@``."""
    return torch.stack([sum(values[k] * weight for k, weight in enumerate(row)) for row in weights.tolist()])


# By histogram


def match_histograms(of: Pixels, surrounding: Pixels) -> Float[Tensor, "c p"]:
    """The objects' colors, each channel with the distribution that it has around each object.

    A level becomes the one below which as large a share of the other pixels lies, interpolated between the levels that
    they have, as in scikit-image's ``match_histograms``; levels are 256, and colors between two are interpolated.
    """
    share, other = _cumulated(of).clamp(min=1e-12), _cumulated(surrounding)  # of 0 the first level has as much
    upper = torch.searchsorted(other, share)  # the last level has a share of 1
    # the level below it that the other pixels have: the first that reaches the share below the upper one
    below = torch.where(upper > 0, other.gather(2, (upper - 1).clamp(min=0)), 0)
    lower = torch.where(below > 0, torch.searchsorted(other, below), upper)
    between = (share - below) / (other.gather(2, upper) - below)
    levels = torch.lerp(lower.to(share.dtype), upper.to(share.dtype), between)
    return _looked_up(of, levels / (LEVELS - 1))


def _cumulated(pixels: Pixels) -> Float64[Tensor, "n c 256"]:
    """For each object and channel the share of pixels at or below each level."""
    channels, n = len(pixels.colors), len(pixels.lengths)
    levels = (pixels.colors * (LEVELS - 1)).round().long()
    rows = pixels.objects() * channels + torch.arange(channels, device=levels.device)[:, None]
    counts = torch.zeros(n * channels * LEVELS, dtype=torch.float64, device=levels.device)
    counts.index_add_(0, (rows * LEVELS + levels).flatten(), pixels.weights.double().expand_as(levels).flatten())
    sums = counts.view(n, channels, LEVELS).cumsum(dim=2)  # of whole numbers, exact in any order
    return sums / sums[:, :, -1:].clamp(min=1)


def _looked_up(pixels: Pixels, tables: Float64[Tensor, "n c 256"]) -> Float[Tensor, "c p"]:
    """The colors that tables give for each level, interpolated between levels."""
    channels = len(pixels.colors)
    place = pixels.colors.double() * (LEVELS - 1)  # rounded in float32, it would miss the level
    level = place.detach().floor().clamp(max=LEVELS - 2).long()
    rows = (pixels.objects() * channels + torch.arange(channels, device=level.device)[:, None]) * LEVELS + level
    flat = tables.flatten()
    return torch.lerp(flat[rows], flat[rows + 1], place - level).to(pixels.colors.dtype)
