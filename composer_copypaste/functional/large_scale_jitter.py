"""Large-scale jitter on a batch: pictures of any sizes become one tensor, and their targets follow."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int, Int32, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.arguments import check_batch
from composer_copypaste.functional.draw import given_or_default
from composer_copypaste.functional.framing import PADDING, Framing, draw_framing
from composer_copypaste.functional.keypoints import exchanged, kept_inside, pairs_of
from composer_copypaste.functional.measures import profiles, read_back
from composer_copypaste.functional.object_keys import object_keys_of, warn_of_unnamed_keys
from composer_copypaste.functional.planes import Images, on_device, rounded
from composer_copypaste.functional.rectangles import with_masks
from composer_copypaste.functional.warp import resample_colours, resample_planes, size_of
from composer_copypaste.functional.windows import Window
from composer_copypaste.instances import Instances, Target, instances_of, target_of
from composer_copypaste.settings import LargeScaleJitterSettings, settings_from

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
            hold 0 and 1, boxes and areas are those of the pixels that are left; ``keypoints`` move, left and right
            exchanged where the picture is mirrored (``keypoint_pairs``), and zeros for those outside; what
            torchvision and COCO have of each object, and what ``object_keys`` names, follows its object, and anything
            else passes through. Or class ids: ``(N, H, W)``,
            or a list of ``(H_i, W_i)``.
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
    return frame(images, targets, [draw_framing(size_of(image), settings, generator) for image in images], settings)


def frame(
    images: Images,
    targets: Sequence[Target] | ClassIds,
    framings: Sequence[Framing],
    settings: LargeScaleJitterSettings,
) -> tuple[Shaped[Tensor, "n c h2 w2"], Sequence[Target] | Integer[Tensor, "n h2 w2"]]:
    """The batch as its framings show it."""
    pictures = _pictures(images, framings)
    if isinstance(targets[0], Tensor):
        return pictures, _class_ids(targets, images, framings, settings.ignore_index)  # type: ignore[arg-type]
    return pictures, _targets(targets, images, framings, settings)  # type: ignore[arg-type]


def _pictures(images: Images, framings: Sequence[Framing]) -> Shaped[Tensor, "n c h2 w2"]:
    """The pictures, antialiased where they are made smaller, in the top left corners of the padding."""
    like, channels = images[0], len(images[0])
    colour = np.array(PADDING if channels == len(PADDING) else [np.mean(PADDING)] * channels)
    colour = colour / 255 if like.is_floating_point() else np.rint(colour)
    canvas = like.new_empty((len(images), channels, *framings[0].canvas))
    canvas.copy_(on_device(colour, like.device, like.dtype)[:, None, None])
    for number, (image, framing) in enumerate(zip(images, framings, strict=True)):
        shown, everything = _shown_part(canvas[number], framing), Window(0, 0, *framing.resized)
        colours = resample_colours(framing.part_of(image), framing.to_window(), everything, framing.resized)
        shown.copy_(rounded(colours, shown))
    return canvas


def _class_ids(
    ids: ClassIds, images: Images, framings: Sequence[Framing], ignore_index: int
) -> Integer[Tensor, "n h2 w2"]:
    for i, (own, image) in enumerate(zip(ids, images, strict=True)):
        if tuple(own.shape) != size_of(image):
            raise ValueError(
                f"targets[{i}]: expected class ids of the image's size {size_of(image)}, got {tuple(own.shape)}"
            )
    if not torch.iinfo(ids[0].dtype).min <= ignore_index <= torch.iinfo(ids[0].dtype).max:
        raise ValueError(f"ignore_index: expected a class id that {ids[0].dtype} can hold, got {ignore_index}")
    canvas = ids[0].new_full((len(ids), *framings[0].canvas), ignore_index)
    for shown, own, framing in zip(canvas, ids, framings, strict=True):
        seen = resample_planes(framing.part_of(own)[None], framing.to_window(), framing.resized)
        _shown_part(shown, framing).copy_(seen[0])
    return canvas


def _targets(
    targets: Sequence[Target], images: Images, framings: Sequence[Framing], settings: LargeScaleJitterSettings
) -> list[Target]:
    object_keys = object_keys_of(targets, settings.object_keys)
    batch = instances_of(with_masks(targets, list(images)), [size_of(image) for image in images], object_keys)
    warn_of_unnamed_keys(targets, object_keys)
    shown = [_resampled(own.masks, framing) for own, framing in zip(batch, framings, strict=True)]
    profiles = [_profiles(masks, own.iscrowd) for masks, own in zip(shown, batch, strict=True)]
    numbers = np.split(read_back(torch.cat(profiles)), np.cumsum([len(own) for own in batch])[:-1])
    return [
        target_of(target, _left_over(replace(own, masks=masks), measured, framing, settings))
        for target, own, masks, measured, framing in zip(targets, batch, shown, numbers, framings, strict=True)
    ]


def _resampled(masks: UInt8[Tensor, "n h w"], framing: Framing) -> UInt8[Tensor, "n h2 w2"]:
    """Masks, then of 0 and 1, at the size they are shown at: the pixel under each one's centre."""
    return resample_planes(framing.part_of(masks), framing.to_window(), framing.resized).clamp(max=1)


def _shown_part(canvas: Shaped[Tensor, "*_ h w"], framing: Framing) -> Shaped[Tensor, "*_ h2 w2"]:
    return canvas[..., : framing.resized[0], : framing.resized[1]]


def _profiles(masks: UInt8[Tensor, "n h w"], iscrowd: Shaped[Tensor, " n"]) -> Int32[Tensor, "n 6"]:
    """Of each object its visible area, the box (x1, y1, x2, y2) around it, and whether it is a crowd."""
    return torch.cat([profiles(masks), on_device(iscrowd, masks.device, torch.int32)[:, None]], dim=1)


def _left_over(
    own: Instances, measured: Int32[ndarray, "n 6"], framing: Framing, settings: LargeScaleJitterSettings
) -> Instances:
    """The objects with enough pixels left, ``min_area``, or of a crowd one. Their masks come in without padding."""
    area, crowd = measured[:, 0], measured[:, 5] != 0
    kept: Int[ndarray, " k"] = np.flatnonzero((area > 0) & (crowd | (area >= settings.min_area)))
    objects = own.map(lambda values: values.index_select(0, on_device(kept, values.device)))
    masks = objects.masks.new_zeros((len(kept), *framing.canvas))
    _shown_part(masks, framing).copy_(objects.masks)
    return replace(
        objects,
        boxes=on_device(measured[kept, 1:5], own.boxes.device, own.boxes.dtype),
        area=on_device(area[kept], own.area.device, own.area.dtype),
        masks=masks,
        extras={name: _moved(name, values, framing, settings) for name, values in objects.extras.items()},
    )


def _moved(
    name: str, values: Shaped[Tensor, "k ..."], framing: Framing, settings: LargeScaleJitterSettings
) -> Shaped[Tensor, "k ..."]:
    """Keypoints (x, y, visibility) where the picture has them; zeros for those outside or not labelled."""
    if name != "keypoints":
        return values
    top, left, window_height, window_width = framing.window
    height, width = framing.resized
    x, y, visibility = values.double().unbind(dim=-1)
    x, y = (x - left) * (width / window_width), (y - top) * (height / window_height)
    x = width - x if framing.flip else x
    moved = torch.stack([x, y, visibility], dim=-1)
    pairs = pairs_of(values.shape[1], settings.keypoint_pairs, settings.p_flip)
    moved = exchanged(moved, np.full(len(values), framing.flip), pairs)
    ends = on_device([width, height], values.device)
    return kept_inside(moved, ends, values).to(values.dtype)
