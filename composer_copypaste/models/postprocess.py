"""Detections of a detector at the images' original sizes, with masks as COCO run-length encodings."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from pycocotools import mask as coco_masks
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.models.detection.transform import resize_boxes

from composer_copypaste.data.rle import Rle
from composer_copypaste.models.detectron2_style import (
    boxes_in_image,
    draws_between_pixels,
    is_detectron2_style,
    sample_mask,
)
from composer_copypaste.models.inputs import float_images


class DetectionDict(TypedDict):
    """The detections in one image, at the image's own size, best first; on the host.

    ``boxes`` are (x1, y1, x2, y2) in pixels, float32 (m, 4); ``scores`` (m,) lie in [0, 1]; ``labels`` (m,) are int64.
    ``rles`` are the masks; detectors that find boxes alone give none.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rles: NotRequired[list[Rle]]


class RawDetectionDict(TypedDict):
    """As ``DetectionDict``, but with the masks as the model computes them.

    ``masks`` are probabilities inside the boxes, float32 (m, 28, 28); detectors that find boxes alone give none.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: NotRequired[Tensor]


def detect(model: nn.Module, images: Tensor | Sequence[Tensor]) -> list[DetectionDict]:
    """The detections of a detector in evaluation mode in each image.

    Args:
        model: as ``build_detector`` makes it.
        images: RGB, (n, 3, h, w) or a list of (3, h, w), uint8 or floating point in [0, 1], on the model's device.
    """
    between_pixels = draws_between_pixels(model)
    return [
        encode_detection(detected, (image.shape[1], image.shape[2]), between_pixels=between_pixels)
        for detected, image in zip(detect_raw(model, images), images, strict=True)
    ]


@torch.no_grad()
def detect_raw(model: nn.Module, images: Tensor | Sequence[Tensor]) -> list[RawDetectionDict]:
    """The same as ``detect``, with masks as the model computes them."""
    given = float_images(images)
    if not isinstance(model, TorchvisionMaskRCNN):
        return [_without_background(found) for found in model(given)]
    batch, _ = model.transform(given)
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    found, _ = model.roi_heads(features, proposals, batch.image_sizes)
    return [
        _in_image(detected, resized, (image.shape[1], image.shape[2]), clip=is_detectron2_style(model))
        for detected, resized, image in zip(found, batch.image_sizes, given, strict=True)
    ]


def _without_background(found: Mapping[str, Tensor]) -> RawDetectionDict:
    """The detections of objects: RetinaNet and FCOS of torchvision score the background as any other class."""
    boxes, scores, labels = (found[key].cpu() for key in ("boxes", "scores", "labels"))
    kept = labels > 0
    return RawDetectionDict(boxes=boxes[kept], scores=scores[kept], labels=labels[kept])


def _in_image(
    detected: Mapping[str, Tensor], resized: tuple[int, int], size: tuple[int, int], *, clip: bool
) -> RawDetectionDict:
    """The detections in a resized image, in pixels of the image; with ``clip``, those that have an area inside it."""
    kept: Tensor | slice = slice(None)
    if clip:
        boxes, kept = boxes_in_image(detected["boxes"], resized, size)
    else:
        boxes = resize_boxes(detected["boxes"], resized, size)
    return RawDetectionDict(
        boxes=boxes.cpu(),
        scores=detected["scores"][kept].cpu(),
        labels=detected["labels"][kept].cpu(),
        masks=detected["masks"][kept, 0].cpu(),
    )


def with_labels_of(found: DetectionDict, labels: Mapping[int, int | None]) -> DetectionDict:
    """The detections with another label for each of the model's classes; those of a class without one are left out."""
    given = [labels.get(label) for label in found["labels"].tolist()]
    kept = [number for number, label in enumerate(given) if label is not None]
    chosen = DetectionDict(
        boxes=found["boxes"][kept],
        scores=found["scores"][kept],
        labels=torch.tensor([given[number] for number in kept], dtype=torch.int64),
    )
    if "rles" in found:
        chosen["rles"] = [found["rles"][number] for number in kept]
    return chosen


def encode_detection(
    detected: RawDetectionDict, size: tuple[int, int], *, between_pixels: bool = False
) -> DetectionDict:
    """The detections with their masks encoded, for an image of this (height, width); see ``encode_masks``."""
    boxes = detected["boxes"]
    encoded = DetectionDict(boxes=boxes, scores=detected["scores"], labels=detected["labels"])
    if "masks" in detected:
        encoded["rles"] = encode_masks(detected["masks"][:, None], boxes, size, between_pixels=between_pixels)
    return encoded


def encode_masks(
    probabilities: Float[Tensor, "n 1 m m"],
    boxes: Float[Tensor, "n 4"],
    size: tuple[int, int],
    *,
    between_pixels: bool = False,
) -> list[Rle]:
    """Masks of ``m`` x ``m`` probabilities, resized to their boxes and thresholded at 0.5, for an image of ``size``.

    The bytes equal those of torchvision's ``paste_masks_in_image``, or with ``between_pixels``, where boxes are not
    rounded, of Detectron2's, and pycocotools, but only the part of the image inside a box is computed.
    """
    if between_pixels:
        crops = [sample_mask(mask, box, size) for mask, box in zip(probabilities, boxes, strict=True)]
        return _compress([_rle_of_crop(crop.numpy(), corner, size) for crop, corner in crops], size)
    padded, scale = expand_masks(probabilities, padding=1)
    corners = expand_boxes(boxes, scale).long().tolist()
    runs = [_uncompressed_rle(mask, box, size) for mask, box in zip(padded, corners, strict=True)]
    return _compress(runs, size)


def _compress(runs: list[dict[str, object]], size: tuple[int, int]) -> list[Rle]:
    encoded: list[Rle] = coco_masks.frPyObjects(runs, *size) if runs else []
    return encoded


def _uncompressed_rle(mask: Tensor, box: list[int], size: tuple[int, int]) -> dict[str, object]:
    """The uncompressed encoding of a mask in a box of whole pixels."""
    height, width = size
    x, y = box[0], box[1]
    shape = (max(box[3] - y + 1, 1), max(box[2] - x + 1, 1))
    resized = functional.interpolate(mask[None], size=shape, mode="bilinear", align_corners=False)[0, 0]
    visible = resized[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)] > 0.5
    return _rle_of_crop(visible.numpy(), (max(y, 0), max(x, 0)), size)


def _rle_of_crop(crop: Bool[ndarray, "h w"], corner: tuple[int, int], size: tuple[int, int]) -> dict[str, object]:
    """The uncompressed encoding: lengths of runs down the image's columns, beginning with a run outside the mask.

    ``crop`` is the part of the mask whose top left pixel is ``corner``, (row, column).
    """
    height, width = size
    edges = _run_edges(crop, corner, height)
    lengths = np.diff(edges, prepend=0, append=height * width)
    return {"size": [height, width], "counts": lengths[: len(lengths) - (lengths[-1] == 0)].tolist()}


def _run_edges(crop: Bool[ndarray, "h w"], corner: tuple[int, int], height: int) -> Int[ndarray, " edges"]:
    """The pixels, counted down the image's columns, at which the mask's runs begin and end, in turn.

    ``crop`` is a part of the mask whose top left pixel is ``corner``, (row, column).
    """
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=bool)
    columns[:, 1:-1] = crop.T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    edges = (column + corner[1]) * height + row + corner[0]
    # a run that ends at the bottom of a column continues at the top of the next one
    joined = np.flatnonzero(edges[1:] == edges[:-1])
    return np.delete(edges, np.concatenate([joined, joined + 1]))
