"""Test-time augmentation: objects found in an image and in its mirror image, averaged."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

from composer_copypaste.data.outlines import mask_of_rle, rle_of_mask
from composer_copypaste.data.rle import Rle
from composer_copypaste.models.postprocess import DetectionDict
from composer_copypaste.models.predictor import Predictor

SAME_OBJECT = 0.5
"""Detections of a label whose boxes overlap (IoU) at least so much are of one object."""


def with_flips(predictor: Predictor) -> Predictor:
    """A predictor that finds objects in each image and in its mirror image, and averages what it finds.

    A detection that is found in both has the mean of both scores, and a box weighted by them; its mask is that of the
    image. One that is found in one of them alone has half its score.
    """

    def find(images: Sequence[Tensor]) -> list[DetectionDict]:
        plain = predictor.detect(images)
        mirrored = predictor.detect([image.flip(2) for image in images])
        return [
            average_detections(one, mirror_detections(other, image.shape[2]))
            for image, one, other in zip(images, plain, mirrored, strict=True)
        ]

    return replace(predictor, detect=find)


def mirror_detections(found: DetectionDict, width: int) -> DetectionDict:
    """The detections in the mirror image of an image of this width."""
    x1, y1, x2, y2 = found["boxes"].unbind(1)
    mirrored = DetectionDict({**found, "boxes": torch.stack([width - x2, y1, width - x1, y2], dim=1)})
    if "rles" in found:
        mirrored["rles"] = [_mirror_rle(rle, width) for rle in found["rles"]]
    return mirrored


def _mirror_rle(rle: Rle, width: int) -> Rle:
    mask = mask_of_rle(rle)
    return rle if mask is None else rle_of_mask(mask.mirrored(width), (rle["size"][0], rle["size"][1]))


def average_detections(one: DetectionDict, other: DetectionDict) -> DetectionDict:
    """The mean of two sets of detections in an image, best first; masks are those of ``one`` where both have one."""
    pairs = _pairs(one, other)
    scores = torch.cat([one["scores"], other["scores"]]) / 2
    boxes = torch.cat([one["boxes"], other["boxes"]])
    for first, second in pairs:
        weights = torch.stack([one["scores"][first], other["scores"][second]])
        scores[first] = weights.mean()
        boxes[first] = (torch.stack([one["boxes"][first], other["boxes"][second]]) * weights[:, None]).sum(0)
        boxes[first] /= weights.sum()
    kept = torch.ones(len(scores), dtype=torch.bool)
    kept[[len(one["scores"]) + second for _, second in pairs]] = False
    order = torch.nonzero(kept)[:, 0]
    order = order[scores[order].argsort(descending=True, stable=True)]
    labels = torch.cat([one["labels"], other["labels"]])
    average = DetectionDict(boxes=boxes[order], scores=scores[order], labels=labels[order])
    if "rles" in one:
        rles = [*one["rles"], *other["rles"]]
        average["rles"] = [rles[index] for index in order.tolist()]
    return average


def _pairs(one: DetectionDict, other: DetectionDict) -> list[tuple[int, int]]:
    """The indices of detections of the same object; best first, each takes the one that overlaps it most."""
    overlaps = box_iou(one["boxes"], other["boxes"]) * (one["labels"][:, None] == other["labels"])
    pairs = []
    for first in range(len(overlaps)) if overlaps.numel() else ():
        overlap, second = overlaps[first].max(0)
        if overlap >= SAME_OBJECT:
            pairs.append((first, int(second)))
            overlaps[:, second] = 0
    return pairs
