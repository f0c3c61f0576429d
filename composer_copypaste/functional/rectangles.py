"""Data without masks: each object's box stands for its mask."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from composer_copypaste.functional.planes import on_device
from composer_copypaste.functional.warp import size_of
from composer_copypaste.instances import Target


def with_masks(targets: Sequence[Target], images: Sequence[Shaped[Tensor, "c _h _w"]]) -> Sequence[Target]:
    """The targets; if none of them has masks, with full rectangles for masks.

    Raises:
        ValueError: some targets have masks and others have none.
    """
    lacking = [i for i, target in enumerate(targets) if "masks" not in target]
    if not lacking:
        return targets
    if len(lacking) < len(targets):
        raise ValueError(
            f"targets[{lacking[0]}]: has no 'masks', which other targets of the batch have. "
            "Give masks to all of them, or to none: then boxes are pasted."
        )
    return [
        {**target, "masks": _rectangles(target.get("boxes"), image)}
        for target, image in zip(targets, images, strict=True)
    ]


def _rectangles(boxes: object, image: Shaped[Tensor, "c h w"]) -> UInt8[Tensor, "n h w"]:
    """The pixels whose centre lies in each box, beside the image; none for what are no boxes, which others report."""
    height, width = size_of(image)
    if not isinstance(boxes, Tensor) or boxes.ndim != 2 or boxes.shape[1] != 4:
        return torch.zeros((0, height, width), dtype=torch.uint8, device=image.device)
    x1, y1, x2, y2 = on_device(boxes.detach(), image.device).T[:, :, None]
    x, y = (torch.arange(side, device=image.device) + 0.5 for side in (width, height))
    across, down = (x1 <= x) & (x < x2), (y1 <= y) & (y < y2)
    return (down[:, :, None] & across[:, None, :]).view(torch.uint8)
