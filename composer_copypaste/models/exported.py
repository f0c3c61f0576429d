"""What an exported file of a Mask R-CNN says of itself, and how far its detections are from those of the model."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_iou

from composer_copypaste import __version__
from composer_copypaste.data.annotation_json import Category
from composer_copypaste.errors import count_noun
from composer_copypaste.models.detectron2_style import paste_probabilities
from composer_copypaste.models.postprocess import RawDetectionDict
from composer_copypaste.settings import ExportSettings, ImageSettings

SAME_OBJECT_IOU = 0.9
"""Boxes of one label that overlap by at least this much are taken for the same object."""


class ExportedOutputs(NamedTuple):
    """What an exported model gives for one image, best object first; see ``SingleImageMaskRCNN``."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    masks: Shaped[Tensor, "n _h _w"]


# ---- metadata


@dataclass(frozen=True)
class ExportMetadata:
    """What is written into an exported file besides the model."""

    categories: Mapping[int, Category]
    """The category of each label."""

    masks: Literal["crops", "pasted"]

    image_settings: ImageSettings = field(default_factory=ImageSettings)
    """How the images are read that the model is trained on."""

    style: Literal["torchvision", "detectron2"] = "torchvision"
    """Whose rules say how masks are resized to their boxes."""

    def as_texts(self) -> dict[str, str]:
        """Texts by name, as ONNX stores them."""
        categories = {str(label): asdict(category) for label, category in self.categories.items()}
        return {
            "composer_copypaste": __version__,
            "categories": json.dumps(categories, ensure_ascii=False),
            "masks": self.masks,
            "image_settings": json.dumps(asdict(self.image_settings)),
            "style": self.style,
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> "ExportMetadata | None":
        """The metadata in a file's texts; None where the file was written by something else."""
        if "composer_copypaste" not in texts:
            return None
        categories = json.loads(texts["categories"])
        masks: Literal["crops", "pasted"] = "pasted" if texts["masks"] == "pasted" else "crops"
        return cls(
            {int(label): Category(**category) for label, category in categories.items()},
            masks,
            ImageSettings(**json.loads(texts["image_settings"])),
            "detectron2" if texts.get("style") == "detectron2" else "torchvision",
        )


def describe_outputs(metadata: ExportMetadata) -> str:
    """What the exported model takes and gives, in words for people who have only the file."""
    names = ", ".join(f"{label} {category.name} (id {category.id})" for label, category in metadata.categories.items())
    masks = (
        "masks of 0 and 1 at the image's size, uint8 (n, height, width)"
        if metadata.masks == "pasted"
        else "probabilities inside the boxes, float32 (n, 28, 28), to be resized to the boxes and thresholded at 0.5"
    )
    if metadata.masks == "crops" and metadata.style == "detectron2":
        masks += " (interpolated at the middles of pixels, boxes not rounded, as in Detectron2's paste_masks_in_image)"
    return (
        "Mask R-CNN. image: RGB, uint8 (height, width, 3), of any size. boxes: (x1, y1, x2, y2) in pixels of the "
        f"image, float32 (n, 4), best first. scores: float32 (n,). labels: int64 (n,). masks: {masks}. "
        f"Labels: {names}."
    )


# ---- differences


@dataclass(frozen=True)
class Differences:
    """The largest differences between what a model and its exported file find in some images."""

    images: int
    objects: int
    """The number of objects that the model finds."""
    unmatched: int
    """The number of objects that only one of the two finds."""
    box: float
    """In pixels."""
    score: float
    mask: float
    """Of probabilities; for pasted masks, how far they are from 0.5 at the pixels that differ."""

    def __str__(self) -> str:
        unmatched = f"; {self.unmatched} found by only one of the two" if self.unmatched else ""
        return (
            f"{count_noun(self.objects, 'object')} in {count_noun(self.images, 'image')}; largest differences: boxes "
            f"{self.box:.2g} pixels, scores {self.score:.2g}, masks {self.mask:.2g}{unmatched}"
        )

    def beyond(self, settings: ExportSettings) -> list[str]:
        """Those that are larger than the settings allow, or no numbers, in words."""
        found = {
            "max_box_difference": self.box,
            "max_score_difference": self.score,
            "max_mask_difference": self.mask,
            "max_unmatched": self.unmatched / max(self.objects, 1),
        }
        limits = {name: getattr(settings, name) for name in found}
        beyond = [name for name, value in found.items() if not value <= limits[name]]
        return [f"{name} is {limits[name]:g}, got {found[name]:.2g}" for name in beyond]


def largest_differences(
    pairs: Iterable[tuple[RawDetectionDict, ExportedOutputs, tuple[int, int]]],
    *,
    pasted: bool,
    between_pixels: bool = False,
) -> Differences:
    """The largest differences over several images.

    Args:
        pairs: for each image, what the model finds, what the exported file finds, and its (height, width).
        pasted: whether the file gives masks at the image's size.
        between_pixels: whether they are resized by the rules of Detectron2's style.
    """
    paste = (paste_probabilities if between_pixels else paste_masks_in_image) if pasted else None
    images = objects = unmatched = 0
    largest = np.zeros(3)
    for expected, found, size in pairs:
        ours, theirs = match_objects(expected, found)
        images, objects = images + 1, objects + len(expected["boxes"])
        unmatched += len(expected["boxes"]) + len(found.boxes) - 2 * len(ours)
        values = [
            (expected["boxes"][ours] - found.boxes[theirs]).abs(),
            (expected["scores"][ours] - found.scores[theirs]).abs(),
            _mask_differences(expected["masks"][ours], found.boxes[theirs], found.masks[theirs], size, paste),
        ]
        largest = np.maximum(largest, [float(value.max()) if value.numel() else 0.0 for value in values])
    return Differences(images, objects, unmatched, *largest.tolist())


def match_objects(expected: RawDetectionDict, found: ExportedOutputs) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """The indices of the same objects in both: of one label, whose boxes overlap most, each in one pair.

    The order of objects is no criterion: it depends on rounding where scores are equal.
    """
    overlap = box_iou(expected["boxes"], found.boxes)
    overlap[expected["labels"][:, None] != found.labels] = 0
    ours, theirs = (overlap >= SAME_OBJECT_IOU).nonzero(as_tuple=True)
    pairs, taken = [], (set[int](), set[int]())
    for index in overlap[ours, theirs].argsort(descending=True, stable=True).tolist():
        one, other = int(ours[index]), int(theirs[index])
        if one not in taken[0] and other not in taken[1]:
            pairs.append((one, other))
            taken[0].add(one)
            taken[1].add(other)
    indices = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return indices[:, 0], indices[:, 1]


def _mask_differences(
    expected: Float[Tensor, "n _m _m"],
    boxes: Float[Tensor, "n 4"],
    found: Shaped[Tensor, "n _h _w"],
    size: tuple[int, int],
    paste: Callable[[Tensor, Tensor, tuple[int, int]], Tensor] | None,
) -> Float[Tensor, "..."]:
    """The differences between probabilities; for masks that ``paste`` makes, at the pixels that are not as it says.

    The expected crops are pasted into the boxes that were found: a box whose border moves past the middle of a pixel
    by rounding would else give a mask that is a pixel wider.
    """
    if paste is None:
        return (expected - found).abs()
    differences = [
        _difference_of_pasted_mask(paste(crop[None, None], box[None], size)[0, 0], mask)
        for crop, box, mask in zip(expected, boxes, found, strict=True)
    ]
    return torch.tensor(differences)


def _difference_of_pasted_mask(probabilities: Float[Tensor, "h w"], found: UInt8[Tensor, "h w"]) -> float:
    """How far the probability is from 0.5 where the mask is not what it says."""
    wrong = probabilities[(probabilities > 0.5) != found]
    return float((wrong - 0.5).abs().max()) if wrong.numel() else 0.0
