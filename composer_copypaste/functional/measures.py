"""How much is visible of each object, and the one transfer from the device that tells."""

from dataclasses import dataclass

import torch
from jaxtyping import Int32, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor


@dataclass(frozen=True)
class Measures:
    """The read-back of objects, on the host; a row for each."""

    area: Integer[ndarray, " n"]
    """Pixels that are visible."""
    former: Integer[ndarray, " n"]
    """Pixels that were, before anything was pasted; of a pasted object, pixels that it has where it lands before
    anything covers it, those beyond the image's edge included: if ``min_visibility`` asks, else 0."""
    boxes: Integer[ndarray, "n 4"]
    """The tight box (x1, y1, x2, y2) around what is visible; of no meaning where that is nothing."""

    def __getitem__(self, index: slice | Int64[ndarray, " k"]) -> "Measures":
        return Measures(self.area[index], self.former[index], self.boxes[index])


def read_back(numbers: Shaped[Tensor, "..."]) -> Shaped[ndarray, "..."]:
    """The numbers on the host: nowhere else does copy-paste wait for the device."""
    return numbers.cpu().numpy()


def profiles(masks: UInt8[Tensor, "n h w"]) -> Int32[Tensor, "n 5"]:
    """Of each mask the area and the box (x1, y1, x2, y2) around its pixels, on the device."""
    rows, columns = masks.sum(dim=2, dtype=torch.int32), masks.amax(dim=1)
    (x1, x2), (y1, y2) = extents(columns), extents(rows)
    return torch.stack([rows.sum(dim=1, dtype=torch.int32), x1, y1, x2, y2], dim=1)


def extents(occupied: Shaped[Tensor, "n s"]) -> tuple[Int32[Tensor, " n"], Int32[Tensor, " n"]]:
    """The first place of each row that is not 0, and one past the last."""
    size = occupied.shape[1]
    place, filled = torch.arange(size, dtype=torch.int32, device=occupied.device), occupied > 0
    return torch.where(filled, place, size).amin(dim=1), torch.where(filled, place + 1, 0).amax(dim=1)
