"""torchvision's tv_tensors: tensors that know what they show. They are taken apart and made again here.

Without an import of torchvision: where nobody has imported it there are none.
"""

import sys
from typing import TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

FORMATS = ("XYXY", "XYWH", "CXCYWH")
"""Of boxes: two corners; a corner, width and height; the centre, width and height."""

Values = TypeVar("Values")


def is_tv_tensor(values: object) -> bool:
    """Whether it is an image, boxes, masks or keypoints of torchvision's."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    return tv_tensors is not None and isinstance(values, tv_tensors.TVTensor)


def plain(values: Values) -> Values:
    """A plain tensor with the same memory; anything but a tv_tensor as it is."""
    return values.as_subclass(Tensor) if is_tv_tensor(values) else values  # type: ignore[attr-defined]


def as_tv_tensor(
    values: Shaped[Tensor, "..."], former: object, size: tuple[int, int] | None = None
) -> Shaped[Tensor, "..."]:
    """The values as the tv_tensor that the former ones were, if they were one, in an image of another size if given."""
    if not is_tv_tensor(former):
        return values
    changed = {} if size is None else {"canvas_size": size}
    return sys.modules["torchvision.tv_tensors"].wrap(values, like=former, **changed)


def box_format(boxes: object) -> str:
    """The name of the boxes' format; that of plain tensors is XYXY."""
    return getattr(getattr(boxes, "format", None), "name", "XYXY")


def corners(boxes: Shaped[Tensor, "n 4"]) -> Shaped[Tensor, "n 4"]:
    """Boxes of any of ``FORMATS`` as plain (x1, y1, x2, y2), in float64 where they were of another, to lose nothing."""
    kind = box_format(boxes)
    if kind == "XYXY":
        return plain(boxes)
    start, side = plain(boxes).double().split(2, dim=1)
    first = start if kind == "XYWH" else start - side / 2
    return torch.cat([first, first + side], dim=1)


def in_format(boxes: Float[Tensor, "n 4"], kind: str) -> Float[Tensor, "n 4"]:
    """Boxes (x1, y1, x2, y2) in another format."""
    first, last = boxes.split(2, dim=1)
    return torch.cat([first if kind == "XYWH" else (first + last) / 2, last - first], dim=1)
