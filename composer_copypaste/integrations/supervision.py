"""Masks as cut-outs, to and from supervision's ``CompactMask``, which keeps run lengths of each object's window."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.errors import UserError

if TYPE_CHECKING:
    from supervision.detection.compact_mask import CompactMask


def to_supervision(masks: CompactMasks) -> "CompactMask":
    """The masks as supervision's ``CompactMask``, for ``Detections(mask=...)``.

    Raises:
        UserError: where supervision is not installed, or of a release without it.
    """
    try:
        from supervision.detection.compact_mask import CompactMask
    except ImportError as error:
        raise UserError("to_supervision() needs another package: pip install 'supervision>=0.30'") from error
    crops = [crop.cpu().numpy() for crop in masks.crops()]
    return CompactMask(
        rles=[_run_lengths(crop) for crop in crops],
        crop_shapes=np.array([crop.shape for crop in crops], dtype=np.int32).reshape(-1, 2),
        offsets=masks.windows[:, [1, 0]].astype(np.int32),
        image_shape=masks.size,
    )


def from_supervision(masks: "CompactMask") -> CompactMasks:
    """The masks of a ``CompactMask`` of supervision, on the host."""
    crops = [masks.crop(number) for number in range(len(masks))]
    corners = np.asarray(masks.offsets, dtype=np.int64).reshape(-1, 2)[:, ::-1]
    sizes = np.array([crop.shape for crop in crops], dtype=np.int64).reshape(-1, 2)
    pixels = np.concatenate([crop.reshape(-1) for crop in crops] or [np.zeros(0, dtype=bool)])
    height, width = masks.image_shape
    windows = np.concatenate([corners, corners + sizes], axis=1)
    return CompactMasks(torch.from_numpy(pixels), windows, (height, width))


def _run_lengths(crop: np.ndarray) -> np.ndarray:
    """How many zeros, ones, zeros and so on follow each other, column by column."""
    columns = crop.T.reshape(-1)
    changes = np.flatnonzero(np.diff(columns)) + 1
    ends = np.concatenate([[0] if len(columns) and columns[0] else [], changes, [len(columns)]])
    return np.diff(ends, prepend=0).astype(np.int32)
