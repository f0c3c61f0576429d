"""A source that is no image of the batch: a small picture of one object."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.planes import on_device
from composer_copypaste.instances import Instances


@dataclass(frozen=True)
class Crop:
    """One object, and the part of its picture that shows it."""

    image: Shaped[Tensor, "c h w"]
    mask: UInt8[Tensor, "h w"]
    box: Float[ndarray, "4"]
    """In the crop, on the host."""
    fields: Instances
    """All its other fields; the mask here has no size."""

    def __post_init__(self) -> None:
        # a checkpoint or a pool may hold anything, and kernels read memory by these numbers
        if self.image.shape[1:] != self.mask.shape or self.mask.dtype != torch.uint8:
            raise ValueError(
                f"a remembered object or a cut-out: expected a uint8 mask of its picture's size, got {self.mask.dtype} "
                f"of {tuple(self.mask.shape)} and a picture of {tuple(self.image.shape)}"
            )
        if not np.isfinite(self.box).all():
            raise ValueError(f"a remembered object or a cut-out: expected a finite box, got {self.box.tolist()}")

    def beside(self, image: Shaped[Tensor, "c _h _w"], instances: Instances) -> "Crop":
        """The crop on the device of a batch's image and of its objects; its fields keep their types.

        Raises:
            ValueError: where the crop's picture is of another type or number of channels, or the object lacks a field.
        """
        if (self.image.dtype, len(self.image)) != (image.dtype, len(image)):
            raise ValueError(
                f"expected images of the type and number of channels that the bank remembers, {self.image.dtype} and "
                f"{len(self.image)}, got {image.dtype} and {len(image)}; give other images a bank of their own"
            )
        check_extras(self.fields, instances)
        fields = self.fields
        return replace(
            self,
            image=on_device(self.image, image.device),
            mask=on_device(self.mask, instances.masks.device),
            fields=Instances(
                boxes=_like(fields.boxes, instances.boxes),
                labels=_like(fields.labels, instances.labels),
                masks=on_device(fields.masks, instances.labels.device),
                area=_like(fields.area, instances.area),
                iscrowd=_like(fields.iscrowd, instances.iscrowd),
                extras={name: _like(fields.extras[name], values) for name, values in instances.extras.items()},
            ),
        )


def _like(values: Tensor, others: Tensor) -> Tensor:
    return on_device(values, others.device)


def check_extras(fields: Instances, instances: Instances) -> None:
    """Raise ``ValueError`` where remembered objects and those of a batch do not have the same further fields."""
    for here, there, found in ((instances, fields, "has"), (fields, instances, "lacks")):
        if lacking := sorted(set(here.extras) - set(there.extras)):
            other = "lack" if found == "has" else "have"
            raise ValueError(
                f"targets: the batch {found} {lacking[0]!r} of its objects, which those of earlier batches, that the "
                f"bank remembers, {other}. Give it in every batch or in none, or such batches a bank of their own"
            )
