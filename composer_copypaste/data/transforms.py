"""The transforms of a training's images and objects in the loader: large-scale jitter, or a flip alone.

A transform draws its random numbers into a `SampledJitter` or a `SampledFlip`, whose use is deterministic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from composer_copypaste.compact_masks import Masks
from composer_copypaste.data.images import StoredImage
from composer_copypaste.data.rle import (
    AnnotatedObjects,
    CroppedMask,
    Polygons,
    Rle,
    Segmentation,
    compact_masks,
    cropped_masks_of,
    cropped_masks_of_rles,
    rle_of_polygons,
)
from composer_copypaste.functional.large_scale_jitter import PADDING, CropResize, draw_crop_resize
from composer_copypaste.instances import Instances
from composer_copypaste.settings import Fraction, LargeScaleJitterSettings

NO_PIXEL: Rle = {"size": [0, 0], "counts": b""}
"""The code of a mask that is not seen."""


def seeded_generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with these numbers, such as (seed, epoch, index)."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@dataclass(frozen=True)
class SampledFlip:
    """The random part of `FlipTransform`."""

    horizontal: bool

    def transform_image(self, image: UInt8[Tensor, "3 h w"] | StoredImage) -> UInt8[Tensor, "3 h w"]:
        """The image, mirrored or unchanged."""
        image = image.read() if isinstance(image, StoredImage) else image
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

    def transform_image(self, image: UInt8[Tensor, "3 h w"] | StoredImage) -> UInt8[Tensor, "3 h2 w2"]:
        """The resized image on its canvas, antialiased where it was made smaller.

        Of a file that shows a JPEG image at a quarter of its size or less, not all pixels are decoded.
        """
        if isinstance(image, StoredImage):
            reduced = image.read_reduced(self.window, self.resized)
            if reduced is not None:
                return self._on_canvas(reduced.flip(-1) if self.flip else reduced)
            image = image.read()
        part = self.part_of(image)
        part = part.flip(-1) if self.flip else part  # before it is resized: most images are enlarged
        shrinks = any(shown < side for shown, side in zip(self.resized, part.shape[1:], strict=True))
        return self._on_canvas(interpolate(part[None], self.resized, mode="bilinear", antialias=shrinks)[0])

    def transform_instances(self, objects: AnnotatedObjects, min_area: int) -> Instances:
        """The objects with at least ``min_area`` pixels left, and crowds with at least one.

        Boxes and areas are those of the pixels.
        """
        cropped_masks = self._shown_masks(objects.segmentations)
        areas = [0 if drawn is None else drawn.area for drawn in cropped_masks]
        enough = [1 if crowd else max(1, min_area) for crowd in objects.iscrowd.tolist()]
        kept = [number for number, (area, least) in enumerate(zip(areas, enough, strict=True)) if area >= least]
        masks = compact_masks([cropped_masks[number] for number in kept], self.canvas)
        index = torch.tensor(kept, dtype=torch.int64)
        return Instances(
            boxes=torch.from_numpy(masks.windows[:, [1, 0, 3, 2]]).float(),
            labels=objects.labels[index],
            masks=masks,
            area=torch.tensor([areas[number] for number in kept], dtype=torch.float32),
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

    def _on_canvas(self, resized: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h2 w2"]:
        """The resized image in the top left corner of its canvas."""
        height, width = self.resized
        canvas = torch.empty((3, *self.canvas), dtype=torch.uint8)
        canvas[:, :height, :width] = resized
        for plane, color in zip(canvas, PADDING, strict=True):
            plane[height:] = color
            plane[:height, width:] = color
        return canvas

    def _shown_masks(self, outlines: Sequence[Segmentation]) -> list[CroppedMask | None]:
        """The mask of each object on the canvas, cut to its pixels; None for objects that have none there."""
        polygons = self._masks_of_polygons([outline for outline in outlines if isinstance(outline, list)])
        codes = self._masks_of_rles([outline for outline in outlines if not isinstance(outline, list)])
        of_polygons, of_codes = iter(polygons), iter(codes)
        return [next(of_polygons if isinstance(outline, list) else of_codes) for outline in outlines]

    def _masks_of_polygons(self, outlines: Sequence[Polygons]) -> list[CroppedMask | None]:
        """The mask of each object, drawn from its resized polygons."""
        if not any(outlines):
            return [None] * len(outlines)
        top, left, height, width = self.window
        flat = np.concatenate([polygon for outline in outlines for polygon in outline])
        points = (flat.reshape(-1, 2) - (left, top)) * (self.resized[1] / width, self.resized[0] / height)
        if self.flip:
            points[:, 0] = self.resized[1] - points[:, 0]
        ends = np.cumsum([len(polygon) // 2 for outline in outlines for polygon in outline])
        starts = np.concatenate([[0], ends[:-1]])
        least, most = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
        is_shown = ((most > 0) & (least < self.resized[::-1])).all(axis=1).tolist()
        parts = iter(zip(is_shown, starts.tolist(), ends.tolist(), strict=True))
        shown = [[points[a:b].ravel() for seen, a, b in islice(parts, len(outline)) if seen] for outline in outlines]
        rles = [rle_of_polygons(visible, self.resized) if visible else NO_PIXEL for visible in shown]
        return cropped_masks_of_rles(rles, self.resized[0])

    def _masks_of_rles(self, rles: Sequence[Rle]) -> list[CroppedMask | None]:
        """The mask of each object, resized by taking the nearest pixel."""
        if not rles:
            return []
        return [drawn and self._resized_mask(drawn) for drawn in cropped_masks_of_rles(rles, rles[0]["size"][0])]

    def _resized_mask(self, cropped_mask: CroppedMask) -> CroppedMask | None:
        top, left, height, width = self.window
        y1, x1, y2, x2 = cropped_mask.window
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
        image: UInt8[Tensor, "3 h w"] | StoredImage,
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
    and the rest has the mean color of ImageNet. The model that receives such images must not resize them again.
    A JPEG file that becomes four times as small or more is not decoded in full: its colors differ from those of the
    whole image by one level on average.
    """

    settings: LargeScaleJitterSettings = field(default_factory=LargeScaleJitterSettings)

    def draw(self, size: tuple[int, int], generator: torch.Generator) -> SampledJitter:
        """Draw the random part for an image of this (height, width)."""
        return SampledJitter(**vars(draw_crop_resize(size, self.settings, generator)))

    def __call__(
        self,
        image: UInt8[Tensor, "3 h w"] | StoredImage,
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
