"""The instance bank: the objects seen last, each in a crop of its own."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.errors import counted
from composer_copypaste.functional.plan import ImageInfo, asks_for_areas, weights_of
from composer_copypaste.functional.tensors import on_device, read_back
from composer_copypaste.functional.windows import Window
from composer_copypaste.instances import Instances
from composer_copypaste.settings import CopyPasteSettings


@dataclass(frozen=True)
class CroppedObject:
    """One object, and the part of its image that shows it."""

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
                f"a remembered object or a cut-out: expected a uint8 mask of its image's size, got {self.mask.dtype} "
                f"of {tuple(self.mask.shape)} and an image of {tuple(self.image.shape)}"
            )
        if not np.isfinite(self.box).all():
            raise ValueError(f"a remembered object or a cut-out: expected a finite box, got {self.box.tolist()}")

    def beside(self, image: Shaped[Tensor, "c _h _w"], instances: Instances) -> "CroppedObject":
        """The crop on the device of a batch's image and of its objects; its fields keep their types.

        Raises:
            ValueError: where the crop's image is of another type or number of channels, or the object lacks a field.
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


@dataclass(frozen=True)
class BankImage:
    """What is left of an image: its size, and its objects, each in a crop of its own."""

    size: tuple[int, int]
    """Height and width of the image."""
    boxes: Float[ndarray, "n 4"]
    """In the image, on the host."""
    labels: Integer[ndarray, " n"]
    """On the host."""
    areas: Float[ndarray, " n"] | None
    """Of the masks, on the host; None where nobody has asked for them yet."""
    windows: Sequence[Window]
    """Where the crops lay in the image."""
    images: Sequence[Shaped[Tensor, "c _h _w"]]
    masks: Sequence[UInt8[Tensor, "_h _w"]]
    fields: Instances
    """All other fields of the objects, as they were in the image; the masks here have no size."""

    def __len__(self) -> int:
        return len(self.labels)

    def without_first(self, n: int) -> "BankImage":
        """The image without its first ``n`` objects."""
        return BankImage(
            size=self.size,
            boxes=self.boxes[n:],
            labels=self.labels[n:],
            areas=None if self.areas is None else self.areas[n:],
            windows=self.windows[n:],
            images=self.images[n:],
            masks=self.masks[n:],
            fields=self.fields[n:],
        )

    def to(self, device: torch.device) -> "BankImage":
        """The image with its crops on the device; the same where they are there."""
        if all(crop.device == device for crop in (*self.images, *self.masks)):
            return self
        return replace(
            self,
            images=[on_device(image, device) for image in self.images],
            masks=[on_device(mask, device) for mask in self.masks],
        )

    def scene(self, settings: CopyPasteSettings) -> ImageInfo:
        """The image as a plan sees it."""
        areas = self.areas
        if areas is None and asks_for_areas(settings):
            areas = read_back(torch.stack([mask.count_nonzero() for mask in self.masks])).astype(np.float64)
        return ImageInfo(*self.size, self.boxes, weights_of(self.labels, areas, math.prod(self.size), settings))

    def crop(self, k: int) -> CroppedObject:
        """The crop of one object; its fields are moved to the crop's coordinates."""
        corner = np.array([self.windows[k].x1, self.windows[k].y1])
        fields = self.fields[k : k + 1]
        return CroppedObject(
            self.images[k], self.masks[k], self.boxes[k] - np.tile(corner, 2), _moved(fields, corner.tolist())
        )

    @property
    def nbytes(self) -> int:
        """The memory that crops and fields take, in bytes."""
        fields = self.fields
        rows = (fields.boxes, fields.labels, fields.area, fields.iscrowd, *fields.extras.values())
        return sum(values.numel() * values.element_size() for values in (*self.images, *self.masks, *rows))


class InstanceBank:
    """The last objects that batches showed, as sources for batches to come.

    Give one bank to every call of :func:`copypaste_batch`: each draws sources from it and then adds the batch's own
    objects, before anything was pasted on them: no crowds, and none that the settings do not let copy. Each is kept as
    a crop of image and mask that ends one pixel beyond its box, on the device that holds the batch. When the bank is
    full, the oldest image's objects leave first. So its memory is at most ``size`` x (channels x bytes per value + 1)
    x pixels of the largest crop, plus the objects' other fields.

    Args:
        size: so many objects are remembered, 1 or more.

    Raises:
        ValueError: where the size is less than 1.
        TypeError: where it is no whole number.

    Example:
        >>> bank = InstanceBank(256)
        >>> for images, targets in batches:
        ...     images, targets = copypaste_batch(images, targets, bank=bank)
    """

    def __init__(self, size: int) -> None:
        if not isinstance(size, int | np.integer):
            raise TypeError(f"size: expected a whole number of objects, 1 or more, got {size!r}")
        if size < 1:
            raise ValueError(f"size: expected at least 1 object, got {size}")
        self.size = size
        self._clear()

    def _clear(self) -> None:
        self._images: deque[BankImage] = deque()
        self._firsts: deque[int] = deque()
        """Of each image the number of its first object, counted from the first that was ever added."""
        self._end = 0
        """One past the number of the last object."""
        self._nbytes = 0
        self._device: torch.device | None = None
        """Where all crops are; None: perhaps elsewhere."""

    def __len__(self) -> int:
        """How many objects it holds."""
        return self._end - self._firsts[0] if self._firsts else 0

    def __repr__(self) -> str:
        return f"InstanceBank({self.size})"

    @property
    def nbytes(self) -> int:
        """The memory that its objects take, in bytes."""
        return self._nbytes

    @property
    def images(self) -> Sequence[BankImage]:
        """The images of which it remembers objects, oldest first."""
        return tuple(self._images)

    @property
    def newest(self) -> BankImage:
        """The image of which it remembers objects since last; there must be one."""
        return self._images[-1]

    def first(self, place: int) -> int:
        """The number of an image's first object, counted from the oldest; images are counted likewise."""
        return self._firsts[place] - self._firsts[0]

    def to(self, device: torch.device) -> None:
        """Move all crops to the device of the batches to come: those of a checkpoint are on the host."""
        if device != self._device:
            self._images = deque(image.to(device) for image in self._images)
            self._device = device

    def add(self, image: BankImage) -> None:
        """Remember an image's objects; what is too much leaves, oldest first.

        Its crops are where those of all others are: where ``to`` was told last.
        """
        if len(image):
            self._images.append(image)
            self._firsts.append(self._end)
            self._end += len(image)
            self._nbytes += image.nbytes
        while (surplus := len(self) - self.size) > 0:
            oldest, first = self._images.popleft(), self._firsts.popleft()
            self._nbytes -= oldest.nbytes
            if len(oldest) > surplus:
                rest = oldest.without_first(surplus)
                self._images.appendleft(rest)
                self._firsts.appendleft(first + surplus)
                self._nbytes += rest.nbytes

    def crop(self, number: int) -> CroppedObject:
        """The crop of an object, counted from the oldest."""
        if not 0 <= number < len(self):
            raise IndexError(f"the bank holds {counted(len(self), 'object')}")
        place = bisect_right(self._firsts, self._firsts[0] + number) - 1
        return self._images[place].crop(number - self.first(place))

    def state_dict(self) -> dict[str, object]:
        """All that it remembers, as tensors on the host: what a checkpoint stores."""
        return {"pictures": [_state_of(image) for image in self._images]}

    def load_state_dict(self, state: Mapping[str, list]) -> None:
        """Remember what ``state_dict`` gave; of more than ``size`` objects the newest.

        The objects are on the host then, until a batch comes.

        Raises:
            ValueError: where the state is another; what the bank remembered stays.
        """
        try:
            images = [_image_of(image) for image in state["pictures"]]
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                "bank: expected the state that state_dict gave, {'pictures': [...]}, got one that cannot be read "
                f"({type(error).__name__}: {error}); a new InstanceBank starts without one"
            ) from error
        self._clear()
        for image in images:
            self.add(image)


def _moved(fields: Instances, corner: Sequence[int]) -> Instances:
    """Fields of an image in the coordinates of a crop whose first pixel is (x, y) there."""
    keypoints = fields.extras.get("keypoints")
    if keypoints is None:
        return fields
    left_and_top = on_device([*corner, 0], keypoints.device, torch.float64)
    extras = {**fields.extras, "keypoints": keypoints.double() - left_and_top}  # a small type may hold none below 0
    return Instances(fields.boxes, fields.labels, fields.masks, fields.area, fields.iscrowd, extras)


def _state_of(remembered: BankImage) -> dict[str, object]:
    fields = remembered.fields.map(Tensor.cpu)
    return {
        "size": torch.tensor(remembered.size),
        "host_boxes": torch.from_numpy(remembered.boxes.copy()),
        "host_labels": torch.from_numpy(remembered.labels.copy()),
        "host_areas": None if remembered.areas is None else torch.from_numpy(remembered.areas.copy()),
        "windows": torch.tensor([tuple(window) for window in remembered.windows]),
        "images": [image.cpu() for image in remembered.images],
        "masks": [mask.cpu() for mask in remembered.masks],
        "fields": {"boxes": fields.boxes, "labels": fields.labels, "area": fields.area, "iscrowd": fields.iscrowd},
        "extras": dict(fields.extras),
    }


def _image_of(state: Mapping) -> BankImage:
    height, width = state["size"].tolist()
    labels, areas = state["host_labels"].numpy(), state.get("host_areas")
    no_masks = torch.zeros((len(labels), 0, 0), dtype=torch.uint8)
    return BankImage(
        size=(height, width),
        boxes=state["host_boxes"].numpy(),
        labels=labels,
        areas=None if areas is None else areas.numpy(),
        windows=[Window(*edges) for edges in state["windows"].tolist()],
        images=state["images"],
        masks=state["masks"],
        fields=Instances(**state["fields"], masks=no_masks, extras=state["extras"]),
    )
