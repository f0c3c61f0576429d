"""The transforms of a training's images and objects in the loader: large-scale jitter, or a flip alone.

A transform draws its random numbers into a `SampledJitter` or a `SampledFlip`, whose use is deterministic.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from composer_copypaste.data.rle import (
    AnnotatedObjects,
    CroppedMask,
    Polygons,
    Rle,
    compact_masks,
    cropped_mask_of_rle,
    cropped_masks_of,
    rle_of_polygons,
)
from composer_copypaste.functional.large_scale_jitter import PADDING, CropResize, draw_crop_resize
from composer_copypaste.instances import Instances
from composer_copypaste.settings import Fraction, LargeScaleJitterSettings


def seeded_generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with these numbers, such as (seed, epoch, index)."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@dataclass(frozen=True)
class SampledFlip:
    """The random part of `FlipTransform`."""

    horizontal: bool

    def transform_image(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
        """The image, mirrored or unchanged."""
        return image.flip(-1) if self.horizontal else image.contiguous()

    def transform_instances(self, objects: AnnotatedObjects) -> Instances:
        """All objects, with annotated boxes and areas."""
        boxes, cropped_masks = objects.boxes, cropped_masks_of(objects)
        if self.horizontal:
            width = objects.size[1]
            boxes = _mirror_boxes(boxes, width)
            cropped_masks = [drawn and drawn.mirrored(width) for drawn in cropped_masks]
        masks = compact_masks(cropped_masks, objects.size)
        return Instances(boxes=boxes, labels=objects.labels, masks=masks, area=objects.area, iscrowd=objects.iscrowd)


@dataclass(frozen=True)
class SampledJitter(CropResize):
    """The random part of `LargeScaleJitterTransform`; it applies to a decoded image and to annotated outlines."""

    def transform_image(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h2 w2"]:
        """The resized image on its canvas, antialiased where it was made smaller."""
        window = self.part_of(image)
        resized = interpolate(window[None], self.resized, mode="bilinear", antialias=True)[0]
        canvas = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, *self.canvas)
        canvas[:, : self.resized[0], : self.resized[1]] = resized.flip(-1) if self.flip else resized
        return canvas

    def transform_instances(self, objects: AnnotatedObjects, min_area: int) -> Instances:
        """The objects with at least ``min_area`` pixels left, and crowds with at least one.

        Boxes and areas are those of the pixels.
        """
        cropped_masks = [
            self._mask_of_polygons(outline) if isinstance(outline, list) else self._mask_of_rle(outline)
            for outline in objects.segmentations
        ]
        enough = [1 if crowd else min_area for crowd in objects.iscrowd.tolist()]
        kept = {
            number: drawn
            for number, drawn in enumerate(cropped_masks)
            if drawn is not None and drawn.area >= enough[number]
        }
        index = torch.tensor(list(kept), dtype=torch.int64)
        return Instances(
            boxes=torch.tensor([drawn.box for drawn in kept.values()], dtype=torch.float32).reshape(-1, 4),
            labels=objects.labels[index],
            masks=compact_masks(list(kept.values()), self.canvas),
            area=torch.tensor([drawn.area for drawn in kept.values()], dtype=torch.float32),
            iscrowd=objects.iscrowd[index],
        )

    def _mask_of_polygons(self, polygons: Polygons) -> CroppedMask | None:
        """The object's mask, drawn from the resized polygons."""
        top, left, height, width = self.window
        visible = []
        for polygon in polygons:
            points = (polygon.reshape(-1, 2) - (left, top)) * (self.resized[1] / width, self.resized[0] / height)
            if self.flip:
                points[:, 0] = self.resized[1] - points[:, 0]
            if (points.max(axis=0) > 0).all() and (points.min(axis=0) < self.resized[::-1]).all():
                visible.append(points.ravel())
        return cropped_mask_of_rle(rle_of_polygons(visible, self.resized)) if visible else None

    def _mask_of_rle(self, rle: Rle) -> CroppedMask | None:
        """The object's mask, resized by taking the nearest pixel."""
        cropped_mask = cropped_mask_of_rle(rle)
        if cropped_mask is None:
            return None
        top, left, height, width = self.window
        x1, y1, x2, y2 = cropped_mask.box
        rows = _nearest_source_pixels(top - y1, height, self.resized[0])
        columns = _nearest_source_pixels(left - x1, width, self.resized[1])
        if self.flip:
            columns = columns[::-1]
        rows_shown = np.flatnonzero((rows >= 0) & (rows < y2 - y1))
        columns_shown = np.flatnonzero((columns >= 0) & (columns < x2 - x1))
        mask = cropped_mask.mask[rows[rows_shown]][:, columns[columns_shown]]
        return _trim_mask(mask, rows_shown, columns_shown)


@dataclass(frozen=True)
class FlipTransform:
    """Mirror an image with probability ``p``. Its size stays, for models that resize by themselves."""

    p: Fraction = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p: expected a probability from 0 to 1, got {self.p}")

    def draw(self, generator: torch.Generator) -> SampledFlip:
        """Draw the random part."""
        return SampledFlip(horizontal=float(torch.rand((), generator=generator)) < self.p)

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], objects: AnnotatedObjects, generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "3 h w"], Instances]:
        """Draw and apply."""
        flip = self.draw(generator)
        return flip.transform_image(image), flip.transform_instances(objects)


@dataclass(frozen=True)
class LargeScaleJitterTransform:
    """Large-scale jitter (Ghiasi et al., 2021): resize by a random factor, crop or pad to a fixed size, mirror.

    The factor is relative to the largest size at which the image fits the canvas with its aspect ratio kept. If the
    resized image is larger than the canvas, a random part of it is shown; if smaller, it lies in the top left corner
    and the rest is `PADDING`. The model that receives such images must not resize them again.
    """

    settings: LargeScaleJitterSettings = field(default_factory=LargeScaleJitterSettings)

    def draw(self, size: tuple[int, int], generator: torch.Generator) -> SampledJitter:
        """Draw the random part for an image of this (height, width)."""
        return SampledJitter(**vars(draw_crop_resize(size, self.settings, generator)))

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], objects: AnnotatedObjects, generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "3 h2 w2"], Instances]:
        """Draw and apply; objects with fewer than ``min_area`` pixels left are dropped, and crowds without a pixel."""
        crop = self.draw(objects.size, generator)
        return crop.transform_image(image), crop.transform_instances(objects, self.settings.min_area)


def _nearest_source_pixels(offset: int, length: int, shown: int) -> Int[np.ndarray, " shown"]:
    """For each of the ``shown`` pixels along one axis, the source pixel under its centre.

    The part that is shown has ``length`` source pixels and begins at ``offset``.
    """
    return offset + (2 * np.arange(shown) + 1) * length // (2 * shown)


def _trim_mask(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> CroppedMask | None:
    """The mask without empty borders; ``rows`` and ``columns`` are the image coordinates of its pixels."""
    filled_rows, filled_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(filled_rows):
        return None
    y1, y2, x1, x2 = filled_rows[0], filled_rows[-1] + 1, filled_columns[0], filled_columns[-1] + 1
    return CroppedMask(int(rows[y1]), int(columns[x1]), mask[y1:y2, x1:x2])


def _mirror_boxes(boxes: Float[Tensor, "n 4"], width: int) -> Float[Tensor, "n 4"]:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)
