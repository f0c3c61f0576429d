"""The forms that masks have in Detectron2's batches, their planes, and the form that Detectron2's heads take."""

from collections.abc import Sequence

import torch
from detectron2.structures import BitMasks, PolygonMasks
from jaxtyping import Bool, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.data.annotation_json import SegmentationError, parse_segmentation
from composer_copypaste.data.rle import cropped_mask, draw_cropped_masks
from composer_copypaste.errors import DataError

PADDING_COLOR = 128
"""The color that Detectron2's FixedSizeCrop pads images with where none is asked for."""
PADDING_ADVICE = (
    "as Detectron2's FixedSizeCrop pads masks with 255 where none is asked for "
    "(github.com/facebookresearch/detectron2/issues/5107); give it seg_pad_value=0"
)


def mask_planes(masks: object, size: tuple[int, int], place: str) -> Bool[Tensor, "n h w"]:
    """A plane for each mask. Polygons and run lengths are drawn as pycocotools draws them.

    Args:
        masks: of one image: BitMasks, PolygonMasks, an array, or a list with COCO's segmentation of each object.
        size: (height, width) of the image.
        place: the image in messages.

    Raises:
        DataError: masks of another size or form, or with values that are no masks.
    """
    if isinstance(masks, PolygonMasks):
        drawn = [cropped_mask(parts, size) if parts else None for parts in masks.polygons]
        return draw_cropped_masks(drawn, size).view(torch.bool)
    if isinstance(masks, list):
        return _planes_of_segmentations(masks, size, place)
    if isinstance(masks, BitMasks):
        planes = masks.tensor
    elif isinstance(masks, Tensor | ndarray):
        planes = _binary_planes(torch.as_tensor(masks), place)
    else:
        raise DataError(
            f"{place}: expected gt_masks as BitMasks, PolygonMasks, a tensor, or a list of polygons or run lengths, "
            f"got {type(masks).__name__}"
        )
    if planes.ndim != 3 or tuple(planes.shape[1:]) != size:
        raise DataError(f"{place}: expected gt_masks of the image's size {size}, got shape {tuple(planes.shape)}")
    return planes


def _planes_of_segmentations(masks: Sequence[object], size: tuple[int, int], place: str) -> Bool[Tensor, "n h w"]:
    drawn = []
    for number, value in enumerate(masks):
        try:
            drawn.append(cropped_mask(parse_segmentation(value, size), size))
        except SegmentationError as error:
            raise DataError(f"{place}: gt_masks[{number}]: {error}") from None
    return draw_cropped_masks(drawn, size).view(torch.bool)


def _binary_planes(planes: Shaped[Tensor, "..."], place: str) -> Bool[Tensor, "..."]:
    """The planes as bool. Values of 0 and 255 alone are masks as image files have them; beside 1, 255 is padding."""
    if planes.dtype == torch.bool:
        return planes
    high = (planes != 0) & (planes != 1)
    if (wrong := planes[high].unique()).numel() and (wrong.tolist() != [255] or bool((planes == 1).any())):
        raise DataError(
            f"{place}: expected gt_masks of 0 and 1, got also {', '.join(f'{value:g}' for value in wrong[:3].tolist())}"
            f", {PADDING_ADVICE}"
        )
    return planes != 0


def check_padding(planes: Bool[Tensor, "n h w"], image: Shaped[Tensor, "c h w"], place: str) -> None:
    """Raise ``DataError`` where all masks contain the padding of their image.

    ``BitMasks`` do not tell 255 from 1. But padding is at the right or at the bottom, has one color, and is part of
    every mask. A single object may be all there is in the last row; then the color must be that of the padding, too.
    Not done on a device, which would have to be waited for.
    """
    if not (len(planes) and planes.is_cpu and image.is_cpu):
        return
    for edge, colors in ((planes[:, -1], image[:, -1]), (planes[:, :, -1], image[:, :, -1])):
        color = colors[:, :1] if len(planes) > 1 else PADDING_COLOR
        if bool(edge.all()) and bool((colors == color).all()):
            raise DataError(
                f"{place}: the image's border of one color is part of each mask ({len(planes)}), {PADDING_ADVICE}"
            )


def masks_like(planes: Shaped[Tensor, "n h w"], former: object) -> BitMasks | Tensor:
    """Masks of 0 and 1 in the form in which Detectron2's heads take those that were given as ``former``.

    That is a tensor of the same type where a tensor was given, and ``BitMasks`` for all others.
    """
    if isinstance(former, Tensor):
        return planes.to(former.dtype)
    return BitMasks(planes.view(torch.bool) if planes.dtype == torch.uint8 else planes)
