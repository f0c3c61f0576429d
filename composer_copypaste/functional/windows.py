"""Windows: rectangles of whole pixels, one by one or as rows y1, x1, y2, x2 of an array, ends excluded."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray


class Window(NamedTuple):
    """The rows y1 to y2 and the columns x1 to x2 of an image, ends excluded."""

    y1: int
    x1: int
    y2: int
    x2: int

    @property
    def is_empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.y1 >= self.y2 or self.x1 >= self.x2

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.y2 - self.y1, self.x2 - self.x1

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index the last two axes of an image with."""
        return slice(self.y1, self.y2), slice(self.x1, self.x2)

    def __and__(self, other: "Window") -> "Window":
        return Window(max(self.y1, other.y1), max(self.x1, other.x1), min(self.y2, other.y2), min(self.x2, other.x2))

    def within(self, other: "Window") -> "Window":
        """The same pixels, counted from the corner of ``other``."""
        return Window(self.y1 - other.y1, self.x1 - other.x1, self.y2 - other.y1, self.x2 - other.x1)

    def grown(self, pixels: int) -> "Window":
        """The window with this number of pixels more on each side, even beyond the image."""
        return Window(self.y1 - pixels, self.x1 - pixels, self.y2 + pixels, self.x2 + pixels)


def box_windows(
    boxes: Float[ndarray, "n 4"], size: tuple[int, int] | Int64[ndarray, "n 2"] | None = None
) -> Int64[ndarray, "n 4"]:
    """The windows of the pixels that boxes (x1, y1, x2, y2) touch.

    They are cut to an image of that size (height, width), or to one image each; without a size they go on beyond it.
    """
    windows = np.concatenate([np.floor(boxes[:, 1::-1]), np.ceil(boxes[:, :1:-1])], axis=1).astype(np.int64)
    return windows if size is None else np.clip(windows, 0, np.tile(size, 2))


def are_empty(windows: Int64[ndarray, "n 4"]) -> Bool[ndarray, " n"]:
    """Which of the windows hold no pixel."""
    return (windows[:, :2] >= windows[:, 2:]).any(axis=1)


def box_corners(boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4 2"]:
    """The four corners (x, y) of boxes (x1, y1, x2, y2)."""
    return boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2)
