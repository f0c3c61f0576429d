"""Data without masks: each object's box stands for its mask."""

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from composer_copypaste.functional.planes import on_device
from composer_copypaste.functional.warp import size_of


def rectangles(boxes: Shaped[Tensor, "n 4"], image: Shaped[Tensor, "c h w"]) -> UInt8[Tensor, "n h w"]:
    """The pixels whose centre lies in each box (x1, y1, x2, y2), on the device of the image."""
    height, width = size_of(image)
    x1, y1, x2, y2 = on_device(boxes.detach(), image.device).T[:, :, None]
    x, y = (torch.arange(side, device=image.device) + 0.5 for side in (width, height))
    across, down = (x1 <= x) & (x < x2), (y1 <= y) & (y < y2)
    return (down[:, :, None] & across[:, None, :]).view(torch.uint8)
