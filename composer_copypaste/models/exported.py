"""What an exported file of a detector says of itself, and how far its detections are from those of the model."""

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
from composer_copypaste.models.single_image import OUTPUTS
from composer_copypaste.settings import DETECTOR_TITLES, DetectorName, ExportSettings, ImageSettings

SAME_OBJECT_IOU = 0.9
"""Boxes of one label that overlap by at least this much are taken for the same object; or whose edges are at most a
tenth of a pixel apart, since boxes without an extent, as FCOS may find them, overlap nothing."""


class ExportedOutputs(NamedTuple):
    """What an exported model gives for one image, best object first; see ``models/single_image.py``."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    masks: Shaped[Tensor, "n _h _w"] | None = None
    """None of a detector that finds boxes alone."""


# ---- metadata

MaskOutput = Literal["crops", "pasted"]
NO_MASKS = "none"
MASKS_OF_TEXTS: Mapping[str, MaskOutput | None] = {"crops": "crops", "pasted": "pasted", NO_MASKS: None}
DETECTORS: Mapping[str, DetectorName] = {name: name for name in DETECTOR_TITLES}
"""What the texts in a file's metadata stand for."""


@dataclass(frozen=True)
class ExportMetadata:
    """What is written into an exported file besides the model."""

    categories: Mapping[int, Category]
    """The category of each label."""

    masks: MaskOutput | None
    """None of a detector that finds boxes alone."""

    image_settings: ImageSettings = field(default_factory=ImageSettings)
    """How the images are read that the model is trained on."""

    style: Literal["torchvision", "detectron2"] = "torchvision"
    """How masks are resized to their boxes: by torchvision's rules or by Detectron2's."""

    detector: DetectorName = "mask_rcnn"

    @property
    def title(self) -> str:
        """The detector as messages name it."""
        return DETECTOR_TITLES[self.detector]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what the file gives."""
        return tuple(name for name in OUTPUTS if name != "masks" or self.masks is not None)

    def as_texts(self) -> dict[str, str]:
        """Texts by name, as ONNX stores them."""
        categories = {str(label): asdict(category) for label, category in self.categories.items()}
        return {
            "composer_copypaste": __version__,
            "categories": json.dumps(categories, ensure_ascii=False),
            "detector": self.detector,
            "masks": self.masks or NO_MASKS,
            "image_settings": json.dumps(asdict(self.image_settings)),
            "style": self.style,
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> "ExportMetadata | None":
        """The metadata in a file's texts; None where the file was written by something else."""
        if "composer_copypaste" not in texts:
            return None
        categories = json.loads(texts["categories"])
        return cls(
            {int(label): Category(**category) for label, category in categories.items()},
            MASKS_OF_TEXTS[texts["masks"]],
            ImageSettings(**json.loads(texts["image_settings"])),
            "detectron2" if texts.get("style") == "detectron2" else "torchvision",
            DETECTORS[texts.get("detector", "mask_rcnn")],
        )


def describe_outputs(metadata: ExportMetadata) -> str:
    """What the exported model takes and gives, in words for people who have only the file."""
    names = ", ".join(f"{label} {category.name} (id {category.id})" for label, category in metadata.categories.items())
    return (
        f"{metadata.title}. image: RGB, uint8 (height, width, 3), of any size. boxes: (x1, y1, x2, y2) in pixels of "
        f"the image, float32 (n, 4), best first. scores: float32 (n,). labels: int64 (n,). {_describe_masks(metadata)}"
        f"Labels: {names}."
    )


def _describe_masks(metadata: ExportMetadata) -> str:
    if metadata.masks is None:
        return ""
    if metadata.masks == "pasted":
        return "masks: masks of 0 and 1 at the image's size, uint8 (n, height, width). "
    masks = "probabilities inside the boxes, float32 (n, 28, 28), to be resized to the boxes and thresholded at 0.5"
    if metadata.style == "detectron2":
        masks += " (interpolated at the middles of pixels, boxes not rounded, as in Detectron2's paste_masks_in_image)"
    return f"masks: {masks}. "


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
    """The largest difference of a box's coordinate, in pixels."""
    score: float
    mask: float | None
    """The largest difference of a mask's probability; for pasted masks, the largest distance from 0.5 of a pixel that
    differs. None: there are no masks."""

    def __str__(self) -> str:
        masks = "" if self.mask is None else f", masks {self.mask:.2g}"
        unmatched = f"; {self.unmatched} found by only one of the two" if self.unmatched else ""
        return (
            f"{count_noun(self.objects, 'object')} in {count_noun(self.images, 'image')}; largest differences: boxes "
            f"{self.box:.2g} pixels, scores {self.score:.2g}{masks}{unmatched}"
        )

    def beyond(self, settings: ExportSettings) -> list[str]:
        """The differences that are larger than the settings allow, or not numbers, in words."""
        found = {
            "max_box_difference": self.box,
            "max_score_difference": self.score,
            "max_mask_difference": self.mask,
            "max_unmatched": self.unmatched / max(self.objects, 1),
        }
        limits = {name: getattr(settings, name) for name in found}
        return [
            f"{name} is {limits[name]:g}, got {value:.2g}"
            for name, value in found.items()
            if value is not None and not value <= limits[name]
        ]


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
    largest: dict[str, float] = {"box": 0.0, "score": 0.0}
    for expected, found, size in pairs:
        ours, theirs = match_objects(expected, found)
        images, objects = images + 1, objects + len(expected["boxes"])
        unmatched += len(expected["boxes"]) + len(found.boxes) - 2 * len(ours)
        values = {
            "box": (expected["boxes"][ours] - found.boxes[theirs]).abs(),
            "score": (expected["scores"][ours] - found.scores[theirs]).abs(),
        }
        if found.masks is not None:
            crops, masks = expected["masks"][ours], found.masks[theirs]
            values["mask"] = _mask_differences(crops, found.boxes[theirs], masks, size, paste)
        for name, value in values.items():
            # NumPy's, which keeps what is no number
            largest[name] = float(np.maximum(largest.get(name, 0.0), float(value.max()) if value.numel() else 0.0))
    return Differences(images, objects, unmatched, largest["box"], largest["score"], largest.get("mask"))


def match_objects(expected: RawDetectionDict, found: ExportedOutputs) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """The indices of the same objects in both: of one label, whose boxes are most alike, each in one pair.

    The order of objects is no criterion: it depends on rounding where scores are equal.
    """
    apart = (expected["boxes"][:, None] - found.boxes).abs().amax(-1)
    overlap = torch.maximum(box_iou(expected["boxes"], found.boxes).nan_to_num(0), 1 - apart)
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
