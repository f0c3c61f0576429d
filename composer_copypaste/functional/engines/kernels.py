"""The tables that kernels get, their columns by name, and what the kernels of a device do with them.

Masks and images have many sizes, so kernels get tables of 64-bit integers, with sizes, fixed-point maps and the
addresses of tensors. Numba's and Triton's kernels read the same tables. Positions are integers, the same everywhere, so
masks, boxes and areas equal those of :class:`TorchEngine` to the bit, and colors up to rounding.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, Integer, Shaped
from numpy import ndarray
from torch import Tensor

NOBODY = 0
"""The owner of a pixel that no pasted object covers; pasted objects have their level plus 1 as their number."""
NO_TENSOR = 0
"""The address of a tensor that does not exist."""


def _row_type(**columns: int | tuple[int, ...]) -> np.dtype:
    """The type of a table's rows: the names of its columns, and how many 64-bit integers each has."""
    return np.dtype([(name, np.int64, shape) for name, shape in columns.items()], align=True)


Y1, X1, Y2, X2 = range(4)
"""The columns of a window."""
TO_X, TO_Y = range(2)
"""The rows of a map."""
BY_X, BY_Y, OFFSET = range(3)
"""The columns of a map: what it multiplies a target pixel's x and y by, and what it adds."""

IMAGE_ROW = _row_type(owners=(), height=(), width=(), first=(), end=(), masks=(), pixels=())
"""An image that receives objects: the address of its pixels' owners, its size, the range of its rows in the
table of pasted objects, and the addresses of the masks to write and of the image to paint on, channel after channel."""
PASTED_ROW = _row_type(
    image=(), number=(), last=(), to_source=(2, 3), rotated=(), window=4, pixels=(), height=(), width=()
)
"""A pasted object: the row of its image, its number there, its map (rows for x and y, in steps of 2**-32 pixels), 1 if
rows of the image are not rows of the source, its window, and the address and the size of what is read: the mask or the
image of its source. Objects of one map may share a row: with numbers from ``number`` to ``last``, in the window around
theirs."""
MEASURE_ROW = _row_type(window=4, number=(), owners=(), owners_width=(), mask=(), mask_width=())
"""An object to measure in a window. Visible pixels of a pasted object, which has a number, are those that it owns. Any
other object has a mask, whose pixels are counted as former ones, and those without an owner as visible."""
MASK_ROW = _row_type(
    written=(), kept_in=4, is_copy=(), former=(), former_width=(), owners=(), owners_width=(), window=4, number=()
)
"""A mask to write: its address, and the window of the image that it is kept in. A copy is 1 where the mask of the same
window, at the address ``former``, is not 0. Any other is 0 outside ``window``, which lies in the window that it is kept
in. Inside, the mask of a pasted object, which has a number, is 1 at the pixels that it owns; that of an image's own is
1 where the former mask is not 0 and no pasted object covers the pixel, and ``former`` is where that mask would have
pixel (0, 0) of the image."""
RESULT_ROW = _row_type(area=(), former=(), x1=(), y1=(), x2=(), y2=())
"""What is visible of an object: the area, the former area, and the box, of no meaning where the area is 0."""

Table = Shaped[ndarray, " _n"]
"""An array of rows of one of these types."""


@runtime_checkable
class Kernels(Protocol):
    """The kernels of one kind of device; ``owners`` is the type in which the owners of pixels are kept."""

    dtypes: Sequence[torch.dtype]
    """The types of images that they can paint."""

    def stack(self, images: Table, pasted: Table, owners: torch.dtype) -> None:
        """Write the owner of each pixel: the number of the topmost pasted object whose mask covers it, or NOBODY."""

    def measure(self, objects: Table, uncovered: Table, owners: torch.dtype) -> Int64[Tensor, "n 6"]:
        """Rows of ``RESULT_ROW`` for objects of ``MEASURE_ROW``.

        ``uncovered`` is empty or holds pasted objects, the first of the objects measured. Their former pixels are those
        of their masks in these windows, which may go on beyond the image, whatever lies on top.
        """

    def write_masks(self, masks: Table, owners: torch.dtype) -> None:
        """Write masks of 0 and 1."""

    def paint_ids(self, images: Table, pasted: Table, labels: Integer[Tensor, " m"], owners: torch.dtype) -> None:
        """Write the label of each pixel's owner on maps of the labels' type, in place, where there is an owner."""

    def paint(self, images: Table, pasted: Table, owners: torch.dtype, dtype: torch.dtype, channels: int) -> None:
        """Paint each pixel that has an owner with that object's color, in place."""
