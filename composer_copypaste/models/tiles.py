"""Large images, cut into overlapping tiles: objects are found in each tile, and those at the seams are joined.

In the part of an image that two tiles share, both should find the same objects. So two detections are of one object
where their masks agree inside that part, also where an object is larger than it: then each tile has a piece.

SAHI, the usual library, compares whole masks: pieces that share less than half of the smaller stay apart, and small
objects that touch are joined. It also needs OpenCV and Shapely, and its masks have no holes.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.ops import box_iou

from composer_copypaste.data.outlines import mask_of_rle, rle_of_mask
from composer_copypaste.data.rle import CroppedMask
from composer_copypaste.models.postprocess import DetectionDict
from composer_copypaste.models.predictor import Predictor

Window = tuple[int, int, int, int]
"""A part of an image: x1, y1, x2, y2."""

SAME_OBJECT = 0.5
"""Masks that overlap at least so much, in the part of the image that their tiles share, are of one object."""

_EDGE = 0.01
"""A detection is cut off where its box comes as close to an edge of its tile as this share of the tile's side."""


def with_tiles(predictor: Predictor, side: int, overlap: float, batch_size: int) -> Predictor:
    """A predictor that cuts images that are larger than a tile into tiles.

    Args:
        predictor: what finds objects in a tile.
        side: of a tile, in pixels.
        overlap: the share of a tile's side by which neighbors overlap, at least.
        batch_size: the number of tiles that are given to the predictor at once.
    """

    def find(images: Sequence[Tensor]) -> list[DetectionDict]:
        return [_detect_in_tiles(predictor, image, side, overlap, batch_size) for image in images]

    return replace(predictor, detect=find)


def tile_windows(size: tuple[int, int], side: int, overlap: float) -> list[Window]:
    """The windows of the tiles of an image of this (height, width), evenly spread, row by row."""
    height, width = size
    rows, columns = (_starts(length, side, overlap) for length in size)
    return [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    tiles = math.ceil((length - side) / max(1, side * (1 - overlap))) + 1
    return [round(number * (length - side) / (tiles - 1)) for number in range(tiles)]


def _detect_in_tiles(
    predictor: Predictor, image: UInt8[Tensor, "3 h w"], side: int, overlap: float, batch_size: int
) -> DetectionDict:
    size = image.shape[1], image.shape[2]
    windows = tile_windows(size, side, overlap)
    if len(windows) == 1:
        return predictor.detect([image])[0]
    found: list[DetectionDict] = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        found += predictor.detect([image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in batch])
    return join_tiles(found, windows, size)


@dataclass(frozen=True)
class _Found:
    """A detection in a tile, in the coordinates of the image."""

    tile: int
    box: Float[Tensor, " 4"]
    score: float
    label: int
    mask: CroppedMask
    is_cut: bool
    """Whether it reaches an edge of its tile inside the image, so that it may be a piece of an object."""


def join_tiles(found: Sequence[DetectionDict], windows: Sequence[Window], size: tuple[int, int]) -> DetectionDict:
    """The detections in an image of this (height, width), from those in its tiles; best first.

    Of several detections of one object, that of the best score is kept among those that lie in their tile completely.
    Where there is none, the pieces are joined: the union of their masks, a box around them, the best of their scores.
    A detection whose mask has no pixel is left out. Detections without masks are compared by their boxes.
    """
    all_found = [
        each
        for tile, (detections, window) in enumerate(zip(found, windows, strict=True))
        for each in _in_image(tile, detections, window, size)
    ]
    joined = [_joined([all_found[index] for index in group]) for group in _groups(all_found, windows)]
    joined.sort(key=lambda each: -each.score)
    boxes = torch.stack([each.box for each in joined]) if joined else torch.zeros(0, 4)
    in_image = DetectionDict(
        boxes=boxes,
        scores=torch.tensor([each.score for each in joined], dtype=torch.float32),
        labels=torch.tensor([each.label for each in joined], dtype=torch.int64),
    )
    if all("rles" in detections for detections in found):
        in_image["rles"] = [rle_of_mask(each.mask, size) for each in joined]
    return in_image


def _in_image(tile: int, detections: DetectionDict, window: Window, size: tuple[int, int]) -> Iterator[_Found]:
    x1, y1, x2, y2 = window
    margin = _EDGE * max(x2 - x1, y2 - y1)
    inner = [edge not in (0, length) for edge, length in zip(window, (size[1], size[0]) * 2, strict=True)]
    boxes = detections["boxes"] + torch.tensor([x1, y1, x1, y1])
    distances = (boxes - torch.tensor(window)).abs()
    cut = ((distances <= margin) & torch.tensor(inner)).any(1)
    masks = [mask_of_rle(rle) for rle in detections["rles"]] if "rles" in detections else _boxes_as_masks(detections)
    columns = zip(boxes, detections["scores"].tolist(), detections["labels"].tolist(), masks, strict=True)
    for (box, score, label, mask), is_cut in zip(columns, cut.tolist(), strict=True):
        if mask is not None:
            yield _Found(tile, box, score, label, replace(mask, top=mask.top + y1, left=mask.left + x1), is_cut)


def _boxes_as_masks(detections: DetectionDict) -> list[CroppedMask | None]:
    """The pixels that each box covers by half or more; None for a box without one."""
    masks: list[CroppedMask | None] = []
    for left, top, right, bottom in detections["boxes"].round().long().tolist():
        pixels = np.ones((max(bottom - top, 0), max(right - left, 0)), np.uint8)
        masks.append(CroppedMask(top, left, pixels) if pixels.size else None)
    return masks


def _groups(found: Sequence[_Found], windows: Sequence[Window]) -> list[list[int]]:
    """The indices of the detections of each object: at most one from each tile, those that overlap most first."""
    group_of = {index: [index] for index in range(len(found))}
    for _, first, second in sorted(_overlaps(found, windows), reverse=True):
        one, other = group_of[first], group_of[second]
        if one is not other and not {found[i].tile for i in one} & {found[i].tile for i in other}:
            one += other
            group_of.update(dict.fromkeys(other, one))
    return [group for index, group in group_of.items() if group[0] == index]


def _overlaps(found: Sequence[_Found], windows: Sequence[Window]) -> Iterator[tuple[float, int, int]]:
    """The pairs of detections of one object, with how much they overlap."""
    in_tile = defaultdict(list)
    for index, each in enumerate(found):
        in_tile[each.tile].append(index)
    boxes = {tile: torch.stack([found[index].box for index in indices]) for tile, indices in in_tile.items()}
    for one, other in combinations(in_tile, 2):
        shared = _intersection(windows[one], windows[other])
        if shared is None:
            continue
        for i, j in torch.nonzero(box_iou(boxes[one], boxes[other]) > 0).tolist():
            first, second = in_tile[one][i], in_tile[other][j]
            if found[first].label == found[second].label:
                overlap = _overlap_in(shared, found[first], found[second])
                if overlap >= SAME_OBJECT:
                    yield overlap, first, second


def _intersection(one: Window, other: Window) -> Window | None:
    x1, y1 = max(one[0], other[0]), max(one[1], other[1])
    x2, y2 = min(one[2], other[2]), min(one[3], other[3])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _overlap_in(window: Window, one: _Found, other: _Found) -> float:
    """How much two masks overlap inside a window: of their union, or of the smaller if one of them is cut off."""
    first, second = _pixels_in(window, one.mask), _pixels_in(window, other.mask)
    both = _intersection(one.mask.box, other.mask.box)
    both = None if both is None else _intersection(both, window)
    if both is None:
        return 0.0
    common = int(np.count_nonzero(_part(one.mask, both) & _part(other.mask, both)))
    whole = min(first, second) if one.is_cut or other.is_cut else first + second - common
    return common / whole if common else 0.0


def _pixels_in(window: Window, mask: CroppedMask) -> int:
    part = _intersection(window, mask.box)
    return 0 if part is None else int(np.count_nonzero(_part(mask, part)))


def _part(mask: CroppedMask, window: Window) -> UInt8[np.ndarray, "h w"]:
    """The pixels of a mask inside a window, which lies inside the mask's box."""
    x1, y1, x2, y2 = window
    return mask.mask[y1 - mask.top : y2 - mask.top, x1 - mask.left : x2 - mask.left]


def _joined(group: Sequence[_Found]) -> _Found:
    """One detection of an object that several tiles found."""
    best = max(group, key=lambda each: (not each.is_cut, each.score))
    if not best.is_cut or len(group) == 1:
        return best
    boxes = torch.stack([each.box for each in group])
    box = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])
    return replace(best, box=box, score=max(each.score for each in group), mask=_union([each.mask for each in group]))


def _union(masks: Sequence[CroppedMask]) -> CroppedMask:
    lefts, tops, rights, bottoms = zip(*(mask.box for mask in masks), strict=True)
    left, top, right, bottom = min(lefts), min(tops), max(rights), max(bottoms)
    pixels = np.zeros((bottom - top, right - left), np.uint8)
    for mask in masks:
        x1, y1, x2, y2 = mask.box
        pixels[y1 - top : y2 - top, x1 - left : x2 - left] |= mask.mask
    return CroppedMask(top, left, pixels)
