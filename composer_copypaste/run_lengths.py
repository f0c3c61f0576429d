"""COCO's run-length codes of masks: their numbers, and the mask in the window around its pixels."""

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

_MOST_CHARACTERS = 12
"""That a number may have: enough for the pixels of any image."""


def decode_counts(code: bytes) -> Int64[ndarray, " runs"]:
    """The run lengths of a compressed code: alternately of zeros and of ones, zeros first.

    Each character holds five bits of a number and a flag that more follow. From the fourth run on, the number is the
    difference from the run two places before (``rleFrString`` in cocoapi's maskApi.c).

    Raises:
        ValueError: where it is not such a code.
    """
    bits = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    strange = (bits < 0) | (bits > 63)
    if strange.any():
        raise ValueError(f"unexpected character {chr(code[strange.argmax()])!r}")
    ends = np.flatnonzero(bits < 32)
    if len(bits) != (ends[-1] + 1 if len(ends) else 0):
        raise ValueError("the last number is cut off")
    if not len(ends):
        return ends
    characters = np.diff(ends, prepend=-1)
    if characters.max() > _MOST_CHARACTERS:
        raise ValueError(f"a number of {characters.max()} characters")
    starts = ends - characters + 1
    place = np.arange(len(bits)) - np.repeat(starts, characters)
    counts = np.add.reduceat((bits & 31) << (5 * place), starts)
    counts -= np.where(bits[ends] & 16, 1 << (5 * characters), 0)
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    return counts


def mask_in_window(
    counts: Int64[ndarray, " runs"], height: int
) -> tuple[tuple[int, int, int, int], UInt8[ndarray, "h w"]]:
    """The window (y1, x1, y2, x2) around a mask's pixels, ends excluded, and the mask of 0 and 1 in it; no copy.

    Only the columns of the image in which the mask has pixels are made. A mask without any has a window without area.
    """
    covered = np.flatnonzero(counts[1::2])
    if not len(covered):
        return (0, 0, 0, 0), np.zeros((0, 0), np.uint8)
    ends = np.cumsum(counts)
    left, right = int(ends[2 * covered[0]] // height), int((ends[2 * covered[-1] + 1] - 1) // height + 1)
    runs = np.diff(ends.clip(left * height, right * height), prepend=left * height)
    columns = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return (top, left, bottom, right), columns[:, top:bottom].T
