"""What large-scale jitter draws for one picture: which part of it is shown, how large, and whether it is mirrored."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.draw import uniforms
from composer_copypaste.functional.warp import FRACTION_BITS
from composer_copypaste.settings import LargeScaleJitterSettings

PADDING = (124, 116, 104)
"""Colour of what lies beyond the picture: ImageNet's mean. Models subtract it, so that padding becomes the 0 with which
torchvision fills up its batches."""


@dataclass(frozen=True)
class Framing:
    """A window of a picture, and the size it is shown at.

    The window, (top, left, height, width) in whole pixels of the picture, is resized to ``resized``, mirrored if
    ``flip``, and laid into the top left corner of a ``canvas``; sizes are (height, width). Cropping comes first because
    it is cheaper: only pixels that stay are resized.
    """

    window: tuple[int, int, int, int]
    resized: tuple[int, int]
    canvas: tuple[int, int]
    flip: bool

    def part_of(self, picture: Shaped[Tensor, "*_ h w"]) -> Shaped[Tensor, "*_ h2 w2"]:
        """The window of a picture, or of its masks."""
        top, left, height, width = self.window
        return picture[..., top : top + height, left : left + width]

    def boxes_of(self, boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "n 4"]:
        """Boxes (x1, y1, x2, y2) of the picture where they are shown, cut to what is shown of it."""
        top, left, height, width = self.window
        size = np.array([self.resized[1], self.resized[0]] * 2)
        shown = (boxes - np.array([left, top] * 2)) * (size / np.array([width, height] * 2))
        if self.flip:
            shown[:, [0, 2]] = self.resized[1] - shown[:, [2, 0]]
        return np.clip(shown, 0, size)

    def to_window(self) -> Int64[ndarray, "2 3"]:
        """The map from (x, y, 1) on the canvas to (x, y) in the window, in steps of 2**-32 pixels.

        Slopes are rounded up: a centre that lies on the border of two pixels then belongs to the latter, for any sizes.
        """
        down, across = (
            -(-(length << FRACTION_BITS) // shown) for length, shown in zip(self.window[2:], self.resized, strict=True)
        )
        if self.flip:
            return np.array([[-across, 0, self.resized[1] * across], [0, down, 0]])
        return np.array([[across, 0, 0], [0, down, 0]])


def draw_framing(size: tuple[int, int], settings: LargeScaleJitterSettings, generator: torch.Generator) -> Framing:
    """Draw the framing of a picture of this (height, width)."""
    scale, row, column, flip = uniforms((4,), generator).tolist()
    smallest, largest = settings.scale_range
    fit = min(canvas / side for canvas, side in zip(settings.size, size, strict=True))
    factor = fit * (smallest + scale * (largest - smallest))
    top, height, shown_height = _shown_part(size[0], settings.size[0], factor, row)
    left, width, shown_width = _shown_part(size[1], settings.size[1], factor, column)
    return Framing(
        window=(top, left, height, width),
        resized=(shown_height, shown_width),
        canvas=settings.size,
        flip=flip < settings.p_flip,
    )


def _shown_part(side: int, canvas: int, factor: float, position: float) -> tuple[int, int, int]:
    """Start and length of the part of a side that is shown, and the length it is shown at.

    ``position`` in [0, 1) chooses among all places where the part fits.
    """
    if round(side * factor) <= canvas:
        return 0, side, max(1, round(side * factor))
    length = min(side, max(1, round(canvas / factor)))
    return int(position * (side - length + 1)), length, canvas
