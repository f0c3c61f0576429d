"""One new image of an offline data set: pasted by the engine of the trainings, and written, with its objects.

Only the masks that matter are drawn: of the objects that are pasted, and of those that one may cover. All others keep
their annotation.
"""

import zlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.data.cutouts import CutOut
from composer_copypaste.data.images import read_image
from composer_copypaste.data.outlines import annotation_fields, mask_of_rle
from composer_copypaste.data.rle import CroppedMask, Segmentation, compact_masks, rle_of_segmentation
from composer_copypaste.files import UNFINISHED, name_path_in_errors
from composer_copypaste.functional.bank import object_of_crop
from composer_copypaste.functional.engines.kernel_engine import KernelEngine, KernelStack
from composer_copypaste.functional.engines.kernels import NOBODY
from composer_copypaste.functional.engines.numba_engine import NumbaKernels
from composer_copypaste.functional.keypoints import place_keypoints
from composer_copypaste.functional.layout import Layout, SourceObjects, UndrawnMasks, layout_of
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.transformed_objects import TransformSource, transformed_objects
from composer_copypaste.functional.visibility import KeptObjects, decide_kept_objects
from composer_copypaste.instances import Instances, empty_masks
from composer_copypaste.object_transform import ObjectTransform
from composer_copypaste.settings import AugmentSettings, CopyPasteSettings, ImageSettings

Masks = Literal["polygons", "rle"]
Json = dict[str, Any]

_KEPT_BYTES = 256 * 10**6
"""Decoded images that a process keeps, those used last: small data sets fit, and a base image has several copies."""


@dataclass(frozen=True)
class ImageFile:
    """An image file, and its (height, width) in the annotations."""

    path: Path
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class OutlinedObjects:
    """Some objects of one image: their boxes (x1, y1, x2, y2), outlines and keypoints (none: k = 0)."""

    boxes: Float[ndarray, "n 4"]
    segmentations: tuple[Segmentation, ...]
    iscrowd: Int64[ndarray, " n"]
    keypoints: Float[ndarray, "n k 3"]

    def take(self, numbers: Int64[ndarray, " _m"]) -> "OutlinedObjects":
        """The objects with these indices."""
        outlines = tuple(self.segmentations[number] for number in numbers.tolist())
        return OutlinedObjects(self.boxes[numbers], outlines, self.iscrowd[numbers], self.keypoints[numbers])

    def masks(self, size: tuple[int, int], only: Collection[int] | None = None) -> CompactMasks:
        """Their masks in their image, which has this (height, width); those not among ``only`` have no pixel."""
        drawn = [
            mask_of_rle(rle_of_segmentation(outline, size)) if only is None or number in only else None
            for number, outline in enumerate(self.segmentations)
        ]
        return compact_masks(drawn, size)


@dataclass(frozen=True, eq=False)
class NewImage:
    """All that a new image is made of; the same in any process."""

    path: Path
    """The file to be written."""
    base: ImageFile
    objects: OutlinedObjects
    """The base image's objects."""
    source: ImageFile | None
    copied: OutlinedObjects
    """The source image's objects that are pasted, one for each row of the plan that pastes one."""
    cut_outs: tuple[CutOut, ...]
    """The pool's cut-outs that are pasted, one for each row of the plan that pastes one."""
    plan: PastePlan
    """Row by row: source 1 is the source image, with ``copied`` as its objects, the next ones are ``cut_outs``."""


@dataclass(frozen=True)
class MadeImage:
    """A new image that is written, and its objects."""

    checksum: int
    """CRC-32 of the file's bytes."""
    covered: Mapping[int, Json | None]
    """What changes in the annotation of each object of the base image that is covered, by the object's index; None: too
    little of it is visible."""
    pasted: Sequence[tuple[int, Json]]
    """For each visible object, bottom to top, the row of the plan, and what changes in its annotation."""


def make_new_image(
    new: NewImage, settings: AugmentSettings, copy_paste: CopyPasteSettings, reading: ImageSettings
) -> MadeImage | None:
    """Write a new image; None, and no file, where nothing that the plan pastes would be visible.

    Args:
        new: what it is made of.
        settings: how files and masks are written.
        copy_paste: how objects are pasted, with labels in place of names.
        reading: how image files are read.

    Raises:
        DataError: naming the file, where an image cannot be decoded.
        OSError: where the file cannot be written.
    """
    if not len(new.plan):
        return MadeImage(encode_and_write(new.path, _decoded(new.base, reading), settings), {}, [])
    of_transform = copy_paste.object_transform is not None
    pasting = (_transformed_pasting if of_transform else _plain_pasting)(new, copy_paste, reading)
    if pasting is None:
        return None
    stack = KernelEngine(NumbaKernels()).stack(pasting.layout, copy_paste)
    found = _objects_after(new, pasting, stack, settings.masks, copy_paste)
    if found is None:
        return None
    images = [_decoded(file, reading) for file in (new.base, *pasting.files)]
    painted = stack.paint(images, pasting.colors)[0]
    return MadeImage(encode_and_write(new.path, painted, settings), *found)


@dataclass(frozen=True)
class _Pasting:
    """Where the objects of a new image lie, and what it is painted from."""

    layout: Layout
    files: Sequence[ImageFile]
    """The images besides the base image that objects are copied from."""
    colors: Sequence[UInt8[Tensor, "3 _h _w"]]
    """The colors of the cut-outs."""
    keypoints: Float[Tensor, "g k 3"]
    """The keypoints of all objects of the layout."""


def _plain_pasting(new: NewImage, settings: CopyPasteSettings, reading: ImageSettings) -> _Pasting | None:
    """What is pasted as its source has it; None where nothing of it lies on the new image."""
    layout = layout_of(new.plan.completed(settings), _places(new))
    if not len(layout.pasted.target):
        return None
    pixels = [cut_out.read(cut_out.window) for cut_out in new.cut_outs]
    layout = _with_masks(layout, new, [CompactMasks.of_planes(mask[None]) for _, mask in pixels])
    files = [] if new.source is None else [new.source]
    return _Pasting(layout, files, [colors for colors, _ in pixels], _keypoints_in(layout, new, new.copied.keypoints))


def _transformed_pasting(new: NewImage, settings: CopyPasteSettings, reading: ImageSettings) -> _Pasting | None:
    """What is pasted after a transform of its own for each object; None where nothing of it lies on the new image."""
    base, *places = _places(new)
    sources = []
    if new.source is not None:
        fields = _fields_with(torch.from_numpy(new.copied.keypoints))
        sources.append(TransformSource(_decoded(new.source, reading), places.pop(0), fields))
    none = _fields_with(torch.zeros((1, *new.objects.keypoints.shape[1:])))
    for cut_out, place in zip(new.cut_outs, places, strict=True):
        colors, mask = cut_out.read(cut_out.window)
        place = replace(place, masks=CompactMasks.of_planes(mask[None]))
        sources.append(TransformSource(colors, place, none))
    transform = cast(ObjectTransform, settings.object_transform)
    plan, crops = transformed_objects(new.plan, [sources[0], *sources], 1, transform)  # source 0 is the base
    layout = layout_of(plan.completed(settings), [base, *map(object_of_crop, crops)])
    if not len(layout.pasted.target):
        return None
    copied = torch.cat([crop.fields.extras["keypoints"] for crop in crops]).numpy()
    layout = _with_masks(layout, new, [])
    return _Pasting(layout, [], [crop.image for crop in crops], _keypoints_in(layout, new, copied))


def _fields_with(keypoints: Float[Tensor, "n k 3"]) -> Instances:
    """Fields of objects of which nothing but keypoints is needed."""
    n = len(keypoints)
    areas, labels = torch.zeros(n), torch.zeros(n, dtype=torch.int64)
    return Instances(torch.zeros((n, 4)), labels, empty_masks(labels), areas, labels, {"keypoints": keypoints})


def _places(new: NewImage) -> list[SourceObjects]:
    """Where the objects of all sources lie, with the masks of those of the source image."""
    places = [SourceObjects(UndrawnMasks.anywhere(len(new.objects.boxes), new.base.size), new.objects.boxes)]
    if new.source is not None:
        places.append(SourceObjects(new.copied.masks(new.source.size), new.copied.boxes))
    return [*places, *(cut_out.place for cut_out in new.cut_outs)]


def _with_masks(layout: Layout, new: NewImage, cut_outs: Sequence[CompactMasks]) -> Layout:
    """The layout with the masks that are needed: of what is pasted, and of the base image's overlapped objects."""
    own = new.objects.masks(new.base.size, only=set(layout.overlapped.tolist()))
    return layout.with_masks_of_first(own, [*layout.masks, *cut_outs])


def _objects_after(
    new: NewImage, pasting: _Pasting, stack: KernelStack, masks: Masks, settings: CopyPasteSettings
) -> tuple[dict[int, Json | None], list[tuple[int, Json]]] | None:
    """What changes in the annotations of covered and of pasted objects, as in `MadeImage`; None: nothing was pasted."""
    layout, keypoints, placed = pasting.layout, pasting.keypoints, None
    if keypoints.shape[1]:
        whole = np.array([bool((keypoints == keypoints.round()).all())])
        placed = place_keypoints(keypoints, layout, whole, settings)
    measures, owners = stack.measure(None if placed is None else placed.pixels)
    iscrowd = np.zeros(len(layout.objects.source), np.int64)
    iscrowd[: len(new.objects.iscrowd)] = new.objects.iscrowd
    kept = decide_kept_objects(layout, measures, iscrowd, settings, cut_out=True)
    if not (kept.pasted >= 0).any():
        return None
    rows = layout.pasted.row.tolist()
    points = None if placed is None else placed.fields_after({"keypoints": keypoints}, kept, owners)["keypoints"]
    dropped = np.setdiff1d(np.arange(len(new.objects.boxes)), kept.origin[kept.pasted < 0])
    covered: dict[int, Json | None] = dict.fromkeys(dropped.tolist())
    pasted = []
    for place in range(len(kept.target)) if points is not None else np.flatnonzero(kept.measure >= 0).tolist():
        changes: Json = {}
        if kept.measure[place] >= 0:
            mask = _visible_mask(layout, stack, kept, place, measures.boxes[kept.measure[place]].tolist())
            style: Masks = "rle" if iscrowd[kept.origin[place]] else masks
            changes = annotation_fields(mask, new.base.size, polygons=style == "polygons")
        if points is not None:
            changes["keypoints"] = points[place].flatten().tolist()
        if kept.pasted[place] >= 0:
            pasted.append((rows[kept.pasted[place]], changes))
        else:
            covered[int(kept.origin[place])] = changes
    return covered, pasted


def _visible_mask(layout: Layout, stack: KernelStack, kept: KeptObjects, place: int, box: Sequence[int]) -> CroppedMask:
    """What is visible of an object that stays, in the tight box (x1, y1, x2, y2) around it."""
    x1, y1, x2, y2 = box
    owners = stack.owners.view(*layout.sizes[0].tolist()).numpy()[y1:y2, x1:x2]
    if kept.pasted[place] >= 0:
        visible = owners == layout.pasted.level[kept.pasted[place]] + 1
    else:
        former = layout.masks[0].part(int(kept.origin[place]), (y1, x1, y2, x2)).numpy()
        visible = (owners == NOBODY) & (former != 0)
    return CroppedMask(y1, x1, visible.view(np.uint8))


def _keypoints_in(layout: Layout, new: NewImage, copied: Float[ndarray, "m k 3"]) -> Float[Tensor, "g k 3"]:
    """The keypoints of all objects of a layout; cut-outs have none, that is zeros."""
    known = np.concatenate([new.objects.keypoints, copied])
    none = np.zeros((len(layout.objects.source) - len(known), *known.shape[1:]))
    return torch.from_numpy(np.concatenate([known, none]))


class _ImageCache:
    """Decoded images, as long as their files do not change, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[object, ...], UInt8[Tensor, "3 h w"]] = OrderedDict()
        self._nbytes = 0

    def clear(self) -> None:
        """Keep none of the images."""
        self._kept.clear()
        self._nbytes = 0

    def read(self, file: ImageFile, reading: ImageSettings) -> UInt8[Tensor, "3 h w"]:
        """The image, which is not to be modified."""
        stat = file.path.stat() if file.path.exists() else None
        key = (file, reading, stat and (stat.st_size, stat.st_mtime_ns))
        if key not in self._kept:
            self._kept[key] = read_image(file.path, file.size, settings=reading).contiguous()  # as engines need it
            self._nbytes += self._kept[key].numel()
        self._kept.move_to_end(key)
        while self._nbytes > self._limit and len(self._kept) > 1:
            self._nbytes -= self._kept.popitem(last=False)[1].numel()
        return self._kept[key]


_DECODED = _ImageCache(_KEPT_BYTES)


def forget_decoded_images() -> None:
    """Decode images anew from now on."""
    _DECODED.clear()


def _decoded(file: ImageFile, reading: ImageSettings) -> UInt8[Tensor, "3 h w"]:
    return _DECODED.read(file, reading)


def encode_and_write(path: Path, image: UInt8[Tensor, "3 h w"], settings: AugmentSettings) -> int:
    """Write an image file, complete or not at all; return a checksum of its bytes.

    It is not forced to the disk, which can take longer than all else: whoever relies on it compares the checksum.
    """
    encoded = BytesIO()
    picture = Image.merge("RGB", [Image.fromarray(channel) for channel in image.numpy()])  # 3 times as fast as torch
    if settings.format == "jpeg":
        picture.save(encoded, format="JPEG", quality=settings.quality)
    else:
        picture.save(encoded, format="PNG")
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with name_path_in_errors(path):
            unfinished.write_bytes(encoded.getvalue())
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return zlib.crc32(encoded.getvalue())
