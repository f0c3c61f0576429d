"""Large-scale jitter on a batch: images of any sizes become one tensor, and their targets follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.batch_objects import (
    check_boxes,
    object_keys_of,
    refuse_positions,
    warn_of_unnamed_keys,
)
from composer_copypaste.functional.copypaste import check_batch
from composer_copypaste.functional.keypoints import kept_inside, pairs_of, swapped, with_keypoints
from composer_copypaste.functional.resample import FRACTION_BITS, resample_colors, resample_planes, size_of
from composer_copypaste.functional.sampling import given_or_default, uniforms
from composer_copypaste.functional.tensors import (
    Images,
    on_device,
    profiles,
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
    largest_of,
    plain,
    target_of,
)
from composer_copypaste.settings import LargeScaleJitterSettings, settings_from

PADDING = (124, 116, 104)
"""Color of what lies beyond the image: ImageNet's mean. Models subtract it, so that padding becomes the 0 with which
torchvision fills up its batches."""


@dataclass(frozen=True)
class CropResize:
    """A window of an image, and the size it is shown at.

    The window, (top, left, height, width) in whole pixels of the image, is resized to ``resized``, mirrored if
    ``flip``, and laid into the top left corner of a ``canvas``; sizes are (height, width). Cropping comes first because
    it is cheaper: only pixels that stay are resized.
    """

    window: tuple[int, int, int, int]
    resized: tuple[int, int]
    canvas: tuple[int, int]
    flip: bool

    def part_of(self, image: Shaped[Tensor, "*_ h w"]) -> Shaped[Tensor, "*_ h2 w2"]:
        """The window of an image, or of its masks."""
        top, left, height, width = self.window
        return image[..., top : top + height, left : left + width]

    def boxes_of(self, boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "n 4"]:
        """Boxes (x1, y1, x2, y2) of the image where they are shown, cut to what is shown of it."""
        top, left, height, width = self.window
        size = np.array([self.resized[1], self.resized[0]] * 2)
        shown = (boxes - np.array([left, top] * 2)) * (size / np.array([width, height] * 2))
        if self.flip:
            shown[:, [0, 2]] = self.resized[1] - shown[:, [2, 0]]
        return np.clip(shown, 0, size)

    def to_window(self) -> Int64[ndarray, "2 3"]:
        """The map from (x, y, 1) on the canvas to (x, y) in the window, in steps of 2**-32 pixels.

        Slopes are rounded up: a centre that lies on the border of two pixels then belongs to the latter, for any sizes.
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
    """Draw what is shown of an image of this (height, width)."""
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
    """Start and length of the part of a side that is shown, and the length it is shown at.

    ``position`` in [0, 1) chooses among all places where the part fits.
    """
    if round(side * factor) <= canvas:
        return 0, side, max(1, round(side * factor))
    length = min(side, max(1, round(canvas / factor)))
    return int(position * (side - length + 1)), length, canvas


ROUNDING = 1e-9
"""By so small a part may a computed area miss the exact one."""

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
        targets: for each image torchvision's detection dict, as :func:`copypaste_batch` takes it. Masks that come out
            hold 0 and 1, boxes and areas are those of the pixels that are left; where no target has masks, boxes are
            moved to a fraction of a pixel, and areas are theirs. ``keypoints`` move, left and right exchanged where the
            image is mirrored (``keypoint_pairs``), and zeros for those outside; what torchvision and COCO have of
            each object, and what ``object_keys`` names, follows its object, and anything else passes through. Or class
            ids: ``(N, H, W)``, or a list of ``(H_i, W_i)``. Types come back as from :func:`copypaste_batch`.
        generator: a CPU generator from which everything random is drawn; torch's default one where it is left out.
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
    generator = given_or_default(generator)
    return frame(images, targets, [draw_crop_resize(size_of(image), settings, generator) for image in images], settings)


def frame(
    images: Images,
    targets: Sequence[Target] | ClassIds,
    crop_resizes: Sequence[CropResize],
    settings: LargeScaleJitterSettings,
) -> tuple[Shaped[Tensor, "n c h2 w2"], Sequence[Target] | Integer[Tensor, "n h2 w2"]]:
    """The batch as its crop_resizes show it."""
    plain_images = [plain(image) for image in images]
    framed = _images(plain_images, crop_resizes)
    framed = as_tv_tensor(framed, _example(images))
    if isinstance(targets[0], Tensor):
        ids = _class_ids(targets, images, crop_resizes, settings.ignore_index)  # type: ignore[arg-type]
        return framed, as_tv_tensor(ids, _example(targets))
    after = _targets(targets, images, crop_resizes, settings)  # type: ignore[arg-type]
    return framed, sequence_like(after, targets)


def _example(values: object) -> object:
    """A batch in one tensor, or the first of several: it has the type of all."""
    return values[0] if isinstance(values, list | tuple) else values


def _images(images: Images, crop_resizes: Sequence[CropResize]) -> Shaped[Tensor, "n c h2 w2"]:
    """The images, antialiased where they are made smaller, in the top left corners of the padding."""
    like, channels = images[0], len(images[0])
    color = np.array(PADDING if channels == len(PADDING) else [np.mean(PADDING)] * channels)
    color = color / 255 if like.is_floating_point() else np.rint(color)
    canvas = like.new_empty((len(images), channels, *crop_resizes[0].canvas))
    canvas.copy_(on_device(color, like.device, like.dtype)[:, None, None])
    for number, (image, crop_resize) in enumerate(zip(images, crop_resizes, strict=True)):
        shown, everything = _shown(canvas[number], crop_resize), Window(0, 0, *crop_resize.resized)
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
        _shown(shown, crop_resize).copy_(seen[0])
    return canvas


def _targets(
    targets: Sequence[Target], images: Images, crop_resizes: Sequence[CropResize], settings: LargeScaleJitterSettings
) -> list[Target]:
    sizes, canvas = [size_of(image) for image in images], crop_resizes[0].canvas
    object_keys = object_keys_of(targets, settings.object_keys)
    batch = instances_of(targets, sizes, object_keys, canvas)
    refuse_positions(targets, object_keys)
    warn_of_unnamed_keys(targets, object_keys)
    has_masks = any("masks" in target for target in targets)
    after = (_by_pixels if has_masks else _by_boxes)(batch, crop_resizes, settings)
    largest = largest_of([*sizes, canvas])
    return [
        target_of(target, objects, largest, canvas, fractions=not has_masks)
        for target, objects in zip(targets, after, strict=True)
    ]


def _by_pixels(
    batch: Sequence[Instances], crop_resizes: Sequence[CropResize], settings: LargeScaleJitterSettings
) -> list[Instances]:
    """The objects that are left, with the masks, boxes and areas of their pixels."""
    shown = [_resampled(own.masks, crop_resize) for own, crop_resize in zip(batch, crop_resizes, strict=True)]
    profiles = [_profiles(masks, own.iscrowd) for masks, own in zip(shown, batch, strict=True)]
    numbers = _by_image(read_back(torch.cat(profiles)), batch)
    after = []
    for own, masks, measured, crop_resize in zip(batch, shown, numbers, crop_resizes, strict=True):
        kept = _kept(measured, settings.min_area)
        canvas = masks.new_zeros((len(kept), *crop_resize.canvas))
        _shown(canvas, crop_resize).copy_(masks.index_select(0, on_device(kept, masks.device)))
        after.append(replace(_left_over(own, measured[kept], kept, crop_resize, settings), masks=canvas))
    return after


def _by_boxes(
    batch: Sequence[Instances], crop_resizes: Sequence[CropResize], settings: LargeScaleJitterSettings
) -> list[Instances]:
    """The objects that are left, without masks: their boxes to a fraction of a pixel, and the areas of these."""
    rows = [torch.cat([own.boxes.detach().double(), own.iscrowd[:, None]], dim=1) for own in batch]
    numbers = read_back(torch.cat(rows))
    check_boxes(numbers[:, :4], np.cumsum([len(own) for own in batch]))
    after = []
    for each, given, crop_resize in zip(batch, _by_image(numbers, batch), crop_resizes, strict=True):
        own = replace(each, boxes=each.boxes.double(), area=each.area.double())  # a type of whole numbers would round
        boxes = crop_resize.boxes_of(given[:, :4])
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        measured = np.column_stack([area, boxes, given[:, 4]])
        kept = _kept(measured, settings.min_area)
        after.append(_left_over(own, measured[kept], kept, crop_resize, settings))
    return after


def _by_image(rows: Shaped[ndarray, "g k"], batch: Sequence[Instances]) -> list[Shaped[ndarray, "_n k"]]:
    return np.split(rows, np.cumsum([len(own) for own in batch])[:-1])


def _resampled(masks: UInt8[Tensor, "n h w"], crop_resize: CropResize) -> UInt8[Tensor, "n h2 w2"]:
    """Masks, then of 0 and 1, at the size they are shown at: the pixel under each one's centre."""
    return resample_planes(crop_resize.part_of(masks), crop_resize.to_window(), crop_resize.resized).clamp(max=1)


def _shown(canvas: Shaped[Tensor, "*_ h w"], crop_resize: CropResize) -> Shaped[Tensor, "*_ h2 w2"]:
    return canvas[..., : crop_resize.resized[0], : crop_resize.resized[1]]


def _profiles(masks: UInt8[Tensor, "n h w"], iscrowd: Shaped[Tensor, " n"]) -> Int32[Tensor, "n 6"]:
    """Of each object its visible area, the box (x1, y1, x2, y2) around it, and whether it is a crowd."""
    return torch.cat([profiles(masks), on_device(iscrowd, masks.device, torch.int32)[:, None]], dim=1)


def _kept(measured: Shaped[ndarray, "n 6"], min_area: int) -> Int[ndarray, " k"]:
    """The objects with enough pixels left, ``min_area``, or of a crowd one."""
    area, crowd = measured[:, 0], measured[:, 5] != 0
    return np.flatnonzero((area > 0) & (crowd | (area >= min_area * (1 - ROUNDING))))


def _left_over(
    own: Instances,
    measured: Shaped[ndarray, "k 6"],
    kept: Int[ndarray, " k"],
    crop_resize: CropResize,
    settings: LargeScaleJitterSettings,
) -> Instances:
    """The objects that stay, by what was measured of them, and still without masks."""
    objects = own.without_masks().map(lambda values: values.index_select(0, on_device(kept, values.device)))
    return replace(
        objects,
        boxes=_like(own.boxes, measured[:, 1:5]),
        area=_like(own.area, measured[:, 0]),
        extras=_moved(objects.extras, crop_resize, settings),
    )


def _like(values: Shaped[Tensor, "..."], numbers: Shaped[ndarray, "..."]) -> Shaped[Tensor, "..."]:
    """Numbers of the host in the type of the values, and where they are."""
    return on_device(in_type(torch.from_numpy(numbers), values.dtype), values.device)


def _moved(
    extras: Mapping[str, Shaped[Tensor, "k ..."]], crop_resize: CropResize, settings: LargeScaleJitterSettings
) -> Mapping[str, Shaped[Tensor, "k ..."]]:
    """Keypoints where the image has them; zeros for those outside or not labelled."""
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
