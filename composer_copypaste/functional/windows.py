"""Windows: rectangles of whole pixels, one by one or as rows y1, x1, y2, x2 of an array, ends excluded."""

from typing import NamedTuple


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
