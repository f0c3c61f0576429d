"""Large-scale jitter of a batch: images of any sizes become one tensor, and their targets follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, Masks
from composer_copypaste.functional.arguments import check_batch
from composer_copypaste.functional.batch_objects import check_boxes
from composer_copypaste.functional.generators import generator_or_default, uniforms
from composer_copypaste.functional.geometry import crop_resized, hidden_by_crop, pixel_corners
from composer_copypaste.functional.keypoints import kept_inside, pairs_of, swapped, with_keypoints
from composer_copypaste.functional.object_keys import check_named_keys, object_keys_of, warn_of_unnamed_keys
from composer_copypaste.functional.panoptic import CLASS_MAP, INSTANCE_MAP, NO_INSTANCE, check_pairs, has_pairs
from composer_copypaste.functional.resample import (
    FRACTION_BITS,
    PIXEL,
    resample_colors,
    resample_mask,
    resample_planes,
    size_of,
)
from composer_copypaste.functional.tensors import (
    Images,
    areas_and_boxes,
    on_device,
    read_back,
    rounded,
    sequence_like,
)
from composer_copypaste.functional.windows import Window
from composer_copypaste.instances import (
    Instances,
    Target,
    as_tv_tensor,
    in_type,
    instances_of,
    plain,
    target_of,
)
from composer_copypaste.settings import LargeScaleJitterSettings, settings_from

PADDING = (124, 116, 104)
"""The color beyond the image: ImageNet's mean. Models subtract it, which leaves 0, torchvision's own padding."""


@dataclass(frozen=True)
class CropResize:
    """The part of an image that stays, and how it is resized.

    ``window``, (top, left, height, width) in whole pixels of the image, is resized to ``resized``, mirrored if
    ``flip``, and put into the top left corner of a canvas; sizes are (height, width). Cropping comes first, so that
    only pixels that stay are resized.
    """

    window: tuple[int, int, int, int]
    resized: tuple[int, int]
    canvas: tuple[int, int]
    flip: bool

    def part_of(self, image: Shaped[Tensor, "*_ h w"]) -> Shaped[Tensor, "*_ h2 w2"]:
        """The window of the image, or of its masks."""
        top, left, height, width = self.window
        return image[..., top : top + height, left : left + width]

    def boxes_of(self, boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "n 4"]:
        """Boxes (x1, y1, x2, y2) of the image in the coordinates of the canvas, cut to the part that stays."""
        top, left, height, width = self.window
        size = np.array([self.resized[1], self.resized[0]] * 2)
        shown = (boxes - np.array([left, top] * 2)) * (size / np.array([width, height] * 2))
        if self.flip:
            shown[:, [0, 2]] = self.resized[1] - shown[:, [2, 0]]
        return np.clip(shown, 0, size)

    def to_window(self) -> Int64[ndarray, "2 3"]:
        """The map from (x, y, 1) on the canvas to (x, y) in the window, in steps of 2**-32 pixels.

        Slopes are rounded up, so that for any sizes a centre on the border of two pixels belongs to the second.
        """
        down, across = (
            -(-(length << FRACTION_BITS) // shown) for length, shown in zip(self.window[2:], self.resized, strict=True)
        )
        if self.flip:
            return np.array([[-across, 0, self.resized[1] * across], [0, down, 0]])
        return np.array([[across, 0, 0], [0, down, 0]])


def draw_crop_resize(
    size: tuple[int, int], settings: LargeScaleJitterSettings, generator: torch.Generator
) -> CropResize:
    """Draw which part of an image of this (height, width) stays, and its new size."""
    scale, row, column, flip = uniforms((4,), generator).tolist()
    smallest, largest = settings.scale_range
    fit = min(canvas / side for canvas, side in zip(settings.size, size, strict=True))
    factor = fit * (smallest + scale * (largest - smallest))
    top, height, shown_height = _shown_part(size[0], settings.size[0], factor, row)
    left, width, shown_width = _shown_part(size[1], settings.size[1], factor, column)
    return CropResize(
        window=(top, left, height, width),
        resized=(shown_height, shown_width),
        canvas=settings.size,
        flip=flip < settings.p_flip,
    )


def _shown_part(side: int, canvas: int, factor: float, position: float) -> tuple[int, int, int]:
    """Start and length of the part of a side that stays, and its length after resizing.

    ``position`` in [0, 1) chooses among all places where the part fits.
    """
    if round(side * factor) <= canvas:
        return 0, side, max(1, round(side * factor))
    length = max(1, round(canvas / factor))  # at most the side, which does not fit
    return int(position * (side - length + 1)), length, canvas


ROUNDING = 1e-9
"""The largest relative error of a computed area."""

ClassIds = Integer[Tensor, "n h w"] | Sequence[Integer[Tensor, "_h _w"]]


def large_scale_jitter_batch(
    images: Images,
    targets: Sequence[Target] | ClassIds,
    *,
    generator: torch.Generator | None = None,
    settings: LargeScaleJitterSettings | None = None,
    **overrides: object,
) -> tuple[Shaped[Tensor, "n c h2 w2"], Sequence[Target] | Integer[Tensor, "n h2 w2"]]:
    """Images and targets of a batch after large-scale jitter (Ghiasi et al., CVPR 2021), all of one size.

    Each image is resized by a random factor, cropped or padded to ``size``, and perhaps mirrored, on the device that
    holds it; the same draw gives what `LargeScaleJitterTransform` gives in a loader. The arguments are not modified.

    Args:
        images: ``(N, C, H, W)``, or a list of ``(C, H_i, W_i)``; uint8, or floating point in [0, 1].
        targets: a detection dict of torchvision for each image, as :func:`copypaste_batch` takes it. Masks come back
            as 0 and 1, in the form that they had, with the boxes and areas of the pixels that are left. Where no target
            has masks, boxes are moved to a fraction of a pixel, and areas are those of the boxes. ``keypoints``
            move with the image; left and right are exchanged if it is mirrored (``keypoint_pairs``), and those outside
            become zeros. Other fields that torchvision or COCO give each object, and those that ``object_keys`` names,
            follow their objects; anything else passes through. Or ``class_map`` and ``instance_map`` in each target, as
            :func:`copypaste_batch` takes them; ``min_area`` does not count there. Or class ids: ``(N, H, W)``, or a
            list of ``(H_i, W_i)``. Types come back as from :func:`copypaste_batch`.
        generator: a CPU generator from which everything random is drawn; torch's default one if left out.
        settings: all settings in one value.
        **overrides: settings by name: the fields of :class:`LargeScaleJitterSettings`.

    Raises:
        ValueError: a setting out of its limits, or targets that do not fit their images; the message names the place.
        TypeError: a setting that does not exist, or masks of another type.

    Example:
        >>> images, targets = large_scale_jitter_batch(images, targets, size=(1024, 1024))
    """
    settings = settings_from(LargeScaleJitterSettings, settings, overrides)
    check_batch(images, targets)
    if not len(images):
        raise ValueError("expected at least one image, got none")
    generator = generator_or_default(generator)
    crop_resizes = [draw_crop_resize(size_of(image), settings, generator) for image in images]
    return crop_resize_batch(images, targets, crop_resizes, settings)


def crop_resize_batch(
    images: Images,
    targets: Sequence[Target] | ClassIds,
    crop_resizes: Sequence[CropResize],
    settings: LargeScaleJitterSettings,
) -> tuple[Shaped[Tensor, "n c h2 w2"], Sequence[Target] | Integer[Tensor, "n h2 w2"]]:
    """The batch after each image's crop and resize."""
    shown = as_tv_tensor(_images([plain(image) for image in images], crop_resizes), _example(images))
    if isinstance(targets[0], Tensor):
        ids = _class_ids(targets, images, crop_resizes, settings.ignore_index)  # type: ignore[arg-type]
        return shown, as_tv_tensor(ids, _example(targets))
    make = _pairs if has_pairs(targets) else _targets
    after = make(targets, images, crop_resizes, settings)  # type: ignore[arg-type]
    return shown, sequence_like(after, targets)


def _example(values: object) -> object:
    """The batch's tensor, or the first of a list of tensors, all of one type."""
    return values[0] if isinstance(values, list | tuple) else values


def _images(images: Images, crop_resizes: Sequence[CropResize]) -> Shaped[Tensor, "n c h2 w2"]:
    """The images, antialiased where they shrink, in the top left corners of a padded tensor."""
    like, channels = images[0], len(images[0])
    color = np.array(PADDING if channels == len(PADDING) else [np.mean(PADDING)] * channels)
    color = color / 255 if like.is_floating_point() else np.rint(color)
    canvas = like.new_empty((len(images), channels, *crop_resizes[0].canvas))
    canvas.copy_(on_device(color, like.device, like.dtype)[:, None, None])
    for number, (image, crop_resize) in enumerate(zip(images, crop_resizes, strict=True)):
        shown, everything = _filled_part(canvas[number], crop_resize), Window(0, 0, *crop_resize.resized)
        colors = resample_colors(crop_resize.part_of(image), crop_resize.to_window(), everything, crop_resize.resized)
        shown.copy_(rounded(colors, shown))
    return canvas


def _class_ids(
    ids: ClassIds, images: Images, crop_resizes: Sequence[CropResize], ignore_index: int
) -> Integer[Tensor, "n h2 w2"]:
    for i, (own, image) in enumerate(zip(ids, images, strict=True)):
        if tuple(own.shape) != size_of(image):
            raise ValueError(
                f"targets[{i}]: expected class ids of the image's size {size_of(image)}, got {tuple(own.shape)}"
            )
    dtype = reduce(torch.promote_types, [own.dtype for own in ids])
    if not torch.iinfo(dtype).min <= ignore_index <= torch.iinfo(dtype).max:
        raise ValueError(f"ignore_index: expected a class id that {dtype} can hold, got {ignore_index}")
    canvas = plain(ids[0]).new_full((len(ids), *crop_resizes[0].canvas), ignore_index, dtype=dtype)
    for shown, own, crop_resize in zip(canvas, ids, crop_resizes, strict=True):
        seen = resample_planes(crop_resize.part_of(plain(own))[None], crop_resize.to_window(), crop_resize.resized)
        _filled_part(shown, crop_resize).copy_(seen[0])
    return canvas


def _pairs(
    targets: Sequence[Target], images: Images, crop_resizes: Sequence[CropResize], settings: LargeScaleJitterSettings
) -> list[Target]:
    """Pairs of maps, of which every pixel that stays keeps its class and its instance."""
    check_pairs(images, targets)
    after = [dict(target) for target in targets]
    for key, padding in ((CLASS_MAP, settings.ignore_index), (INSTANCE_MAP, NO_INSTANCE)):
        maps = [cast(Tensor, target[key]) for target in targets]
        for changed, shown, former in zip(after, _class_ids(maps, images, crop_resizes, padding), maps, strict=True):
            changed[key] = as_tv_tensor(shown, former)
    return after


def _targets(
    targets: Sequence[Target], images: Images, crop_resizes: Sequence[CropResize], settings: LargeScaleJitterSettings
) -> list[Target]:
    sizes, canvas = [size_of(image) for image in images], crop_resizes[0].canvas
    declared = settings.geometry or {}
    object_keys = object_keys_of(targets, (*settings.object_keys, *declared))
    batch = instances_of(targets, sizes, object_keys, canvas)
    check_named_keys(batch, settings.object_keys, declared)
    warn_of_unnamed_keys(targets, object_keys)
    has_masks = any("masks" in target for target in targets)
    after = (_by_pixels if has_masks else _by_boxes)(batch, crop_resizes, settings)
    height, width = map(max, zip(*sizes, canvas, strict=True))
    return [
        target_of(target, objects, (height, width), canvas, fractions=not has_masks)
        for target, objects in zip(targets, after, strict=True)
    ]


def _by_pixels(
    batch: Sequence[Instances], crop_resizes: Sequence[CropResize], settings: LargeScaleJitterSettings
) -> list[Instances]:
    """The objects that stay, with the masks, boxes and areas of their pixels."""
    shown = [_shown_masks(own.masks, each) for own, each in zip(batch, crop_resizes, strict=True)]
    rows = [
        torch.cat([_measured(masks), on_device(own.iscrowd, masks.device, torch.int32)[:, None]], dim=1)
        for masks, own in zip(shown, batch, strict=True)
    ]
    numbers = _by_image(read_back(torch.cat(rows)), batch)
    after = []
    for own, masks, measured, crop_resize in zip(batch, shown, numbers, crop_resizes, strict=True):
        kept = _kept(measured, settings.min_area)
        objects = _kept_objects(own, measured[kept], kept, crop_resize, settings)
        objects = replace(objects, masks=_kept_masks(masks, kept, measured[kept, 1:5], crop_resize))
        hidden = _cut_objects(own, objects.masks, measured[kept], kept, crop_resize, settings)
        after.append(_with_geometry(objects, crop_resize, settings, hidden))
    return after


ShownMasks = UInt8[Tensor, "_n _h _w"] | CompactMasks
"""Planes of the part of the canvas that the image takes, or cut-outs in the whole canvas."""


def _shown_masks(masks: ShownMasks, crop_resize: CropResize) -> ShownMasks:
    """All masks, of 0 and 1, as the canvas shows them in the part that the image takes."""
    if not isinstance(masks, CompactMasks):
        part, resized = crop_resize.part_of(masks), crop_resize.resized
        return resample_planes(part, crop_resize.to_window(), resized).clamp(max=1)
    top, left, *_ = crop_resize.window
    shown = []
    for crop, (y1, x1, *_) in zip(masks.crops(), masks.windows.tolist(), strict=True):
        to_mask = crop_resize.to_window() - np.array([[0, 0, x1 - left], [0, 0, y1 - top]]) * PIXEL
        shown.append(resample_mask(crop, to_mask, Window(0, 0, *crop_resize.resized)))
    parts = [mask.reshape(-1) for _, mask in shown]
    windows = np.array([window for window, _ in shown], dtype=np.int64).reshape(-1, 4)
    return CompactMasks(torch.cat(parts) if parts else masks.pixels[:0], windows, crop_resize.canvas)


def _measured(masks: ShownMasks) -> Int[Tensor, "n 5"]:
    """The area of each mask, and the box around its pixels."""
    if not isinstance(masks, CompactMasks):
        return areas_and_boxes(masks)
    none = torch.zeros((1, 5), dtype=torch.int32, device=masks.device)
    found = torch.cat([none[:0], *(areas_and_boxes(crop[None]) if crop.numel() else none for crop in masks.crops())])
    found[:, 1:] += on_device(masks.windows[:, [1, 0, 1, 0]], masks.device, found.dtype)
    return found


def _kept_masks(
    masks: ShownMasks, kept: Int[ndarray, " k"], boxes: Int[ndarray, "k 4"], crop_resize: CropResize
) -> ShownMasks:
    """The masks of the objects that stay, on the canvas; cut-outs in the boxes around their pixels."""
    if isinstance(masks, CompactMasks):
        return masks[kept].in_windows(boxes[:, [1, 0, 3, 2]].astype(np.int64))
    canvas = masks.new_zeros((len(kept), *crop_resize.canvas))
    _filled_part(canvas, crop_resize).copy_(masks.index_select(0, on_device(kept, masks.device)))
    return canvas


def _by_boxes(
    batch: Sequence[Instances], crop_resizes: Sequence[CropResize], settings: LargeScaleJitterSettings
) -> list[Instances]:
    """The objects that stay, without masks: boxes to a fraction of a pixel, and the boxes' areas."""
    rows = [torch.cat([own.boxes.detach().double(), own.iscrowd[:, None]], dim=1) for own in batch]
    numbers = read_back(torch.cat(rows))
    check_boxes(numbers[:, :4], np.cumsum([len(own) for own in batch]))
    after = []
    for each, given, crop_resize in zip(batch, _by_image(numbers, batch), crop_resizes, strict=True):
        own = replace(each, boxes=each.boxes.double(), area=each.area.double())  # whole numbers would be rounded
        boxes = crop_resize.boxes_of(given[:, :4])
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        measured = np.column_stack([area, boxes, given[:, 4]])
        kept = _kept(measured, settings.min_area)
        objects = _kept_objects(own, measured[kept], kept, crop_resize, settings)
        after.append(_with_geometry(objects, crop_resize, settings, None))
    return after


def _by_image(rows: Shaped[ndarray, "g k"], batch: Sequence[Instances]) -> list[Shaped[ndarray, "_n k"]]:
    """The rows of each image's objects, from those of the whole batch."""
    return np.split(rows, np.cumsum([len(own) for own in batch])[:-1])


def _filled_part(canvas: Shaped[Tensor, "*_ h w"], crop_resize: CropResize) -> Shaped[Tensor, "*_ h2 w2"]:
    """The part of a canvas that the image takes, a view."""
    return canvas[..., : crop_resize.resized[0], : crop_resize.resized[1]]


def _kept(measured: Shaped[ndarray, "n 6"], min_area: int) -> Int[ndarray, " k"]:
    """Indices of the objects that have ``min_area`` pixels left, or one if they are crowds."""
    area, crowd = measured[:, 0], measured[:, 5] != 0
    return np.flatnonzero((area > 0) & (crowd | (area >= min_area * (1 - ROUNDING))))


def _kept_objects(
    own: Instances,
    measured: Shaped[ndarray, "k 6"],
    kept: Int[ndarray, " k"],
    crop_resize: CropResize,
    settings: LargeScaleJitterSettings,
) -> Instances:
    """The objects that stay, with measured boxes and areas and moved keypoints, without masks."""
    objects = own.without_masks().map(lambda values: values.index_select(0, on_device(kept, values.device)))
    return replace(
        objects,
        boxes=_like(own.boxes, measured[:, 1:5]),
        area=_like(own.area, measured[:, 0]),
        extras=_moved_keypoints(objects.extras, crop_resize, settings),
    )


def _cut_objects(
    own: Instances,
    masks: Masks,
    measured: Shaped[ndarray, "k 6"],
    kept: Int[ndarray, " k"],
    crop_resize: CropResize,
    settings: LargeScaleJitterSettings,
) -> dict[int, Float[ndarray, "_p 2"]] | None:
    """The corners of the pixels of each object that is cut at the edge, by its row; None where nothing needs them."""
    if not settings.geometry or settings.hidden_geometry == "whole":
        return None
    boxes, cut = read_back(own.boxes.detach().double())[kept], {}
    for row in np.flatnonzero(hidden_by_crop(boxes, crop_resize.window)).tolist():
        x1, y1, x2, y2 = measured[row, 1:5].astype(int).tolist()
        # cut-outs lie in the box around their pixels
        crop = masks.crop(row) if isinstance(masks, CompactMasks) else masks[row, y1:y2, x1:x2]
        cut[row] = pixel_corners(read_back(crop), x1, y1)
    return cut


def _with_geometry(
    objects: Instances,
    crop_resize: CropResize,
    settings: LargeScaleJitterSettings,
    hidden: Mapping[int, Float[ndarray, "_p 2"]] | None,
) -> Instances:
    """The objects with their declared geometry in the coordinates of the canvas."""
    kinds = {key: kind for key, kind in (settings.geometry or {}).items() if key in objects.extras}
    if not kinds:
        return objects
    top, left, window_height, window_width = crop_resize.window
    height, width = crop_resize.resized
    linear = np.diag([width / window_width, height / window_height])
    shift = -linear @ np.array([left, top], dtype=np.float64)
    if crop_resize.flip:
        linear, shift = np.diag([-1.0, 1.0]) @ linear, np.array([width - shift[0], shift[1]])
    extras = dict(objects.extras)
    for key, kind in kinds.items():
        values = read_back(extras[key].detach().double())
        extras[key] = _like(extras[key], crop_resized(kind, values, linear, shift, (height, width), hidden))
    return replace(objects, extras=extras)


def _like(values: Shaped[Tensor, "..."], numbers: Shaped[ndarray, "..."]) -> Shaped[Tensor, "..."]:
    """Numbers of the host in the type and on the device of the values."""
    return on_device(in_type(torch.from_numpy(numbers), values.dtype), values.device)


def _moved_keypoints(
    extras: Mapping[str, Shaped[Tensor, "k ..."]], crop_resize: CropResize, settings: LargeScaleJitterSettings
) -> Mapping[str, Shaped[Tensor, "k ..."]]:
    """The fields with keypoints in the coordinates of the canvas; zeros for those outside or not labelled."""
    values = extras.get("keypoints")
    if values is None:
        return extras
    top, left, window_height, window_width = crop_resize.window
    height, width = crop_resize.resized
    x, y, visibility = values.double().unbind(dim=-1)
    x, y = (x - left) * (width / window_width), (y - top) * (height / window_height)
    x = width - x if crop_resize.flip else x
    moved = torch.stack([x, y, visibility], dim=-1)
    pairs = pairs_of(values.shape[1], settings.keypoint_pairs, settings.p_flip)
    mirrored = np.full(len(values), crop_resize.flip)
    moved = swapped(moved, mirrored, pairs)
    ends = on_device([width, height], values.device)
    whole = on_device(not values.is_floating_point(), values.device)
    shown = kept_inside(moved, ends, whole).to(values.dtype)
    return {**extras, **with_keypoints(extras, shown, np.full(len(values), True), mirrored, pairs)}
