"""How what is copied is resized, flipped and turned, and how its colours change: the draw."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from composer_copypaste.functional.draw import uniforms
from composer_copypaste.settings import CopyPasteSettings


@dataclass(frozen=True)
class Copies:
    """What is drawn for objects that are copied, a row for each."""

    number: Int64[ndarray, " m"]
    """Which of its source's objects it is."""
    to_source: Float[ndarray, "m 2 3"]
    """Affine map from (x, y, 1) in the target to (x, y) in the source."""
    colour: Float[ndarray, "m 3"]
    """Factors of brightness, contrast and saturation."""

    def __getitem__(self, rows: Bool[ndarray, " m"]) -> "Copies":
        return Copies(self.number[rows], self.to_source[rows], self.colour[rows])


def draw_linear(
    n: int, scale_range: tuple[float, float], settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Float[ndarray, "n 2 2"], Float[ndarray, "n 2 2"]]:
    """Draw ``n`` times flip, resize and rotation, as a map from source to target, and its inverse."""
    scale, flip, angle = uniforms((3, n), generator)
    scale = _scales(scale, scale_range, settings.scale_distribution)
    wide, high = _draw_stretch(n, settings, generator)
    x = scale * wide * np.where(flip < settings.p_flip_or_default, -1.0, 1.0)
    y = scale * high
    radians = (2 * angle - 1) * math.radians(settings.rotation)
    cos, sin = np.cos(radians), np.sin(radians)
    linear = np.stack([x * cos, -y * sin, x * sin, y * cos], axis=1)
    inverse = np.stack([cos / x, sin / x, -sin / y, cos / y], axis=1)
    return linear.reshape(n, 2, 2), inverse.reshape(n, 2, 2)


def draw_colours(n: int, settings: CopyPasteSettings, generator: torch.Generator) -> Float[ndarray, "n 3"]:
    """Draw ``n`` times the factors of brightness, contrast and saturation; 1 is none."""
    reach = np.array([settings.brightness, settings.contrast, settings.saturation])
    if not reach.any():
        return np.ones((n, 3))
    return 1 + reach * (2 * uniforms((n, 3), generator) - 1)


def _scales(u: Float[ndarray, " n"], scale_range: tuple[float, float], distribution: str) -> Float[ndarray, " n"]:
    low, high = scale_range
    if distribution == "log_uniform":
        return np.clip(low * (high / low) ** u, low, high)
    return low + (high - low) * u


def _draw_stretch(
    n: int, settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Draw factors of width and height that leave the area; a negative height is a vertical flip."""
    low, high = settings.aspect_range
    if low == high == 1 and settings.p_flip_vertical == 0:
        return np.ones(n), np.ones(n)
    ratio, flip = uniforms((2, n), generator)
    wide = np.sqrt(low * (high / low) ** ratio)
    return wide, np.where(flip < settings.p_flip_vertical, -1.0, 1.0) / wide
