"""One image's objects, every field in step: what a torchvision detection target becomes inside the package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

TARGET_FIELDS = ("boxes", "labels", "masks", "area", "iscrowd")
Target = dict[str, Tensor | object]


@dataclass(frozen=True)
class Instances:
    """The ``n`` objects of one image.

    ``boxes`` are (x1, y1, x2, y2) in pixels with x2 one past the last pixel; ``area`` is in pixels; ``masks`` hold 0 and 1.
    ``extras`` are further per-object tensors, first axis ``n``.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    masks: UInt8[Tensor, "n h w"] | Bool[Tensor, "n h w"]
    area: Float[Tensor, " n"]
    iscrowd: Int[Tensor, " n"]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: Tensor | slice) -> "Instances":
        """All fields of the objects that ``index`` (booleans, integers or a slice) selects."""
        return self.map(lambda values: values[index])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Instances":
        """The function applied to each field."""
        return Instances(
            boxes=function(self.boxes),
            labels=function(self.labels),
            masks=function(self.masks),
            area=function(self.area),
            iscrowd=function(self.iscrowd),
            extras={name: function(values) for name, values in self.extras.items()},
        )

    def replace(self, **fields: Tensor) -> "Instances":
        """The same objects with other values in some fields."""
        return replace(self, **fields)  # type: ignore[arg-type]
