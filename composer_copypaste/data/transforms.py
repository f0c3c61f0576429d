"""The transforms of a training's images and objects in the loader: large-scale jitter, or a flip alone.

A transform draws its random numbers into a `SampledJitter` or a `SampledFlip`, whose use is deterministic.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from composer_copypaste.compact_masks import Masks
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

    def transform_instances(self, objects: AnnotatedObjects, *, masks: bool = True) -> Instances:
        """All objects, with annotated boxes and areas; without ``masks``, these are of size 0 x 0."""
        boxes, width = objects.boxes, objects.size[1]
        if self.horizontal:
            boxes = _mirror_boxes(boxes, width)
        drawn: Masks = _no_masks(len(boxes))
        if masks:
            cropped_masks = cropped_masks_of(objects)
            if self.horizontal:
                cropped_masks = [mask and mask.mirrored(width) for mask in cropped_masks]
            drawn = compact_masks(cropped_masks, objects.size)
        return Instances(boxes=boxes, labels=objects.labels, masks=drawn, area=objects.area, iscrowd=objects.iscrowd)


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

    def transform_boxes(self, objects: AnnotatedObjects, min_area: int) -> Instances:
        """As ``transform_instances``, of boxes alone: annotated boxes are moved and cut, masks are of size 0 x 0.

        Areas are the annotated ones, by the share of the box that is left. That share also decides which objects stay.
        """
        _, _, height, width = self.window
        factor = math.prod(self.resized) / (height * width)
        boxes = self.boxes_of(objects.boxes.double().numpy())
        shown = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        whole = np.prod((objects.boxes[:, 2:] - objects.boxes[:, :2]).double().numpy(), axis=1) * factor
        least = np.where(objects.iscrowd.numpy() != 0, 1, min_area)
        kept = torch.from_numpy(np.flatnonzero(shown >= least))
        share = torch.from_numpy(shown / whole.clip(min=1e-9)) * factor
        return Instances(
            boxes=torch.from_numpy(boxes).float()[kept],
            labels=objects.labels[kept],
            masks=_no_masks(len(kept)),
            area=(objects.area * share).float()[kept],
            iscrowd=objects.iscrowd[kept],
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
        self,
        image: UInt8[Tensor, "3 h w"],
        objects: AnnotatedObjects,
        generator: torch.Generator,
        *,
        masks: bool = True,
    ) -> tuple[UInt8[Tensor, "3 h w"], Instances]:
        """Draw and apply; without ``masks``, these are of size 0 x 0."""
        flip = self.draw(generator)
        return flip.transform_image(image), flip.transform_instances(objects, masks=masks)


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
        self,
        image: UInt8[Tensor, "3 h w"],
        objects: AnnotatedObjects,
        generator: torch.Generator,
        *,
        masks: bool = True,
    ) -> tuple[UInt8[Tensor, "3 h2 w2"], Instances]:
        """Draw and apply; objects with fewer than ``min_area`` pixels left are dropped, and crowds without a pixel.

        Without ``masks``, the annotated boxes stand for the objects.
        """
        crop = self.draw(objects.size, generator)
        transform = crop.transform_instances if masks else crop.transform_boxes
        return crop.transform_image(image), transform(objects, self.settings.min_area)


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


def _no_masks(count: int) -> UInt8[Tensor, "n 0 0"]:
    return torch.zeros((count, 0, 0), dtype=torch.uint8)


def _mirror_boxes(boxes: Float[Tensor, "n 4"], width: int) -> Float[Tensor, "n 4"]:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)
