"""The instance bank: the objects of the last batches, each in a crop of its own."""

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

from composer_copypaste.compact_masks import CompactMasks, as_compact
from composer_copypaste.errors import count_noun
from composer_copypaste.functional.batch_objects import ImageObjects, asks_for_areas, copy_weights
from composer_copypaste.functional.layout import MARGIN, SourceObjects, box_windows
from composer_copypaste.functional.plan import ImageInfo
from composer_copypaste.functional.tensors import copied, on_device, read_back
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
    """All its other fields; the mask here has size 0 x 0."""
    has_background: bool = True
    """Whether the image shows what is around the object."""

    def __post_init__(self) -> None:
        # a checkpoint or a pool may hold anything, and kernels read memory by these numbers
        if self.image.shape[1:] != self.mask.shape or self.mask.dtype != torch.uint8:
            raise ValueError(
                f"a remembered object or a cut-out: expected a uint8 mask of its image's size, got {self.mask.dtype} "
                f"of {tuple(self.mask.shape)} and an image of {tuple(self.image.shape)}"
            )
        if not np.isfinite(self.box).all():
            raise ValueError(f"a remembered object or a cut-out: expected a finite box, got {self.box.tolist()}")

    def moved_to(self, image: Shaped[Tensor, "c _h _w"], instances: Instances) -> "CroppedObject":
        """The crop on the devices of a batch's image and of its objects; its fields keep their types.

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
                boxes=on_device(fields.boxes, instances.boxes.device),
                labels=on_device(fields.labels, instances.labels.device),
                masks=on_device(fields.masks, instances.labels.device),
                area=on_device(fields.area, instances.area.device),
                iscrowd=on_device(fields.iscrowd, instances.iscrowd.device),
                extras={
                    name: on_device(fields.extras[name], values.device) for name, values in instances.extras.items()
                },
            ),
        )


def object_of_crop(crop: CroppedObject) -> SourceObjects:
    """The crop as a source of one object."""
    return SourceObjects(CompactMasks.of_planes(crop.mask[None]), crop.box[None], crop.has_background)


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
    """What the bank keeps of one image: its size, and its objects, each in a crop of its own."""

    size: tuple[int, int]
    """Height and width of the image."""
    boxes: Float[ndarray, "n 4"]
    """In the image, on the host."""
    labels: Integer[ndarray, " n"]
    """On the host."""
    areas: Float[ndarray, " n"] | None
    """Of the masks, on the host; None until the settings ask for them."""
    windows: Sequence[Window]
    """Where the crops lay in the image."""
    crops: Sequence[Shaped[Tensor, "c _h _w"]]
    masks: Sequence[UInt8[Tensor, "_h _w"]]
    fields: Instances
    """All other fields of the objects, as they were in the image; the masks here have size 0 x 0."""

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
            crops=self.crops[n:],
            masks=self.masks[n:],
            fields=self.fields[n:],
        )

    def to(self, device: torch.device) -> "BankImage":
        """The image with its crops on the device."""
        return replace(
            self,
            crops=[on_device(crop, device) for crop in self.crops],
            masks=[on_device(mask, device) for mask in self.masks],
        )

    def info(self, settings: CopyPasteSettings) -> ImageInfo:
        """The image's size, and its objects' boxes and weights."""
        areas = self.areas
        if areas is None and asks_for_areas(settings):
            areas = read_back(torch.stack([mask.count_nonzero() for mask in self.masks])).astype(np.float64)
        return ImageInfo(*self.size, self.boxes, copy_weights(self.labels, areas, math.prod(self.size), settings))

    def cropped_object(self, k: int) -> CroppedObject:
        """Object ``k`` in its crop, in the crop's coordinates."""
        corner = np.array([self.windows[k].x1, self.windows[k].y1])
        fields = self.fields[k : k + 1]
        if (keypoints := fields.extras.get("keypoints")) is not None:
            shift = on_device([*corner.tolist(), 0], keypoints.device, torch.float64)
            moved = keypoints.double() - shift  # a small type may hold no negative numbers
            fields = replace(fields, extras={**fields.extras, "keypoints": moved})
        return CroppedObject(self.crops[k], self.masks[k], self.boxes[k] - np.tile(corner, 2), fields)

    @property
    def nbytes(self) -> int:
        """The memory that crops and fields take, in bytes."""
        fields = self.fields
        rows = (fields.boxes, fields.labels, fields.area, fields.iscrowd, *fields.extras.values())
        return sum(values.numel() * values.element_size() for values in (*self.crops, *self.masks, *rows))


def bank_image(image: Shaped[Tensor, "c h w"], objects: ImageObjects, at_most: int) -> BankImage:
    """What the bank keeps of an image: its objects that may be copied, the last ones if they are more than that."""
    size = objects.info.height, objects.info.width
    rows = box_windows(objects.info.boxes + MARGIN, size)
    kept = np.flatnonzero((objects.info.weights > 0) & (rows[:, :2] < rows[:, 2:]).all(axis=1)).tolist()
    kept = kept[max(0, len(kept) - at_most) :]
    windows = [Window(*rows[k].tolist()) for k in kept]
    if objects.class_ids is None:
        own = as_compact(objects.instances.masks)
        masks = [own.part(k, window) for k, window in zip(kept, windows, strict=True)]
    else:
        labelled = zip(objects.labels[kept].tolist(), windows, strict=True)
        masks = [(objects.class_ids[window.slices] == label).view(torch.uint8) for label, window in labelled]
    return BankImage(
        size=size,
        boxes=objects.info.boxes[kept],
        labels=objects.labels[kept],
        areas=None if objects.areas is None else objects.areas[kept],
        windows=windows,
        crops=[copied(image[:, *window.slices]) for window in windows],
        masks=masks,
        fields=objects.instances.take(kept).map(copied),
    )


class InstanceBank:
    """The last objects that batches showed, as sources for later batches.

    Give one bank to every call of :func:`copypaste_batch`: each call draws sources from it, and then adds the batch's
    own objects as they were before anything was pasted on them; no crowds, and only objects that the settings allow to
    be copied. Each is kept as a crop of image and mask that ends one pixel beyond its box, on the device of the batch.
    When the bank is full, the oldest objects leave first. It takes at most ``size`` x (channels x bytes per value + 1)
    x pixels of the largest crop, plus the objects' other fields.

    Args:
        size: the largest number of objects to remember, 1 or more.

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
        """The number of each image's first object, counted from the first object ever added."""
        self._end = 0
        """One past the number of the last object."""
        self._nbytes = 0
        self._device: torch.device | None = None
        """Where all crops are; None if they may be in different places."""

    def __len__(self) -> int:
        """The number of objects in the bank."""
        return self._end - self._firsts[0] if self._firsts else 0

    def __repr__(self) -> str:
        return f"InstanceBank({self.size})"

    @property
    def nbytes(self) -> int:
        """The memory that its objects take, in bytes."""
        return self._nbytes

    @property
    def images(self) -> Sequence[BankImage]:
        """The images whose objects it remembers, oldest first."""
        return tuple(self._images)

    @property
    def newest(self) -> BankImage:
        """The image added last; the bank must not be empty."""
        return self._images[-1]

    def first(self, place: int) -> int:
        """The number of the first object of the image at ``place``, both counted from the oldest."""
        return self._firsts[place] - self._firsts[0]

    def to(self, device: torch.device) -> None:
        """Move all crops to the device of the batches to come; a checkpoint's are on the host."""
        if device != self._device:
            self._images = deque(image.to(device) for image in self._images)
            self._device = device

    def add_batch(self, images: Sequence[Shaped[Tensor, "c _h _w"]], batch: Sequence[ImageObjects]) -> None:
        """Add a batch's objects; those that would leave at once are not even cropped."""
        added, room = [], self.size
        for image, objects in reversed(list(zip(images, batch, strict=True))):
            added.append(bank_image(image, objects, at_most=room))
            room -= len(added[-1])
        for remembered in reversed(added):
            self.add(remembered)

    def add(self, image: BankImage) -> None:
        """Add an image's objects, and drop the oldest of more than ``size``.

        Its crops must lie on the device that ``to`` was called with last.
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

    def cropped_object(self, number: int) -> CroppedObject:
        """An object in its crop; ``number`` is counted from the oldest."""
        if not 0 <= number < len(self):
            raise IndexError(f"the bank holds {count_noun(len(self), 'object')}")
        place = bisect_right(self._firsts, self._firsts[0] + number) - 1
        return self._images[place].cropped_object(number - self.first(place))

    def state_dict(self) -> dict[str, object]:
        """All that it remembers, as tensors on the host: what a checkpoint stores."""
        return {"pictures": [_state_of(image) for image in self._images]}

    def load_state_dict(self, state: Mapping[str, list]) -> None:
        """Remember what ``state_dict`` returned; the newest objects if they are more than ``size``.

        The objects stay on the host until a batch comes.

        Raises:
            ValueError: where the state cannot be read; the bank's objects then stay as they were.
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


def _state_of(image: BankImage) -> dict[str, object]:
    """An image as a checkpoint stores it, under the keys of the first release."""
    fields = image.fields.map(Tensor.cpu)
    return {
        "size": torch.tensor(image.size),
        "host_boxes": torch.from_numpy(image.boxes),
        "host_labels": torch.from_numpy(image.labels),
        "host_areas": None if image.areas is None else torch.from_numpy(image.areas),
        "windows": torch.tensor([tuple(window) for window in image.windows]),
        "images": [crop.cpu() for crop in image.crops],
        "masks": [mask.cpu() for mask in image.masks],
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
        crops=state["images"],
        masks=state["masks"],
        fields=Instances(**state["fields"], masks=no_masks, extras=state["extras"]),
    )
