"""COCO's run-length codes of masks: their numbers, and the mask in the window around its pixels."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

_MOST_CHARACTERS = 12
"""The most characters of a number, enough for the pixels of any image."""


Window = tuple[int, int, int, int]
"""(y1, x1, y2, x2) in whole pixels of the image, ends excluded."""


def decode_counts(code: bytes) -> Int64[ndarray, " runs"]:
    """The run lengths of a compressed code: alternately of zeros and of ones, zeros first.

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
    if len(ends) and (longest := np.diff(ends, prepend=-1).max()) > _MOST_CHARACTERS:
        raise ValueError(f"a number of {longest} characters")
    return decode_all_counts([code])[0]


def decode_all_counts(codes: Sequence[bytes]) -> list[Int64[ndarray, " _runs"]]:
    """The run lengths of each of several codes that were checked or come from pycocotools; views of one array.

    Each character holds five bits of a number and a flag that more follow. From the fourth run on, the number is the
    difference from the run two places before (``rleFrString`` in cocoapi's maskApi.c).
    """
    bits = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(bits < 32)
    if not len(ends):
        return [ends for _ in codes]
    starts = np.concatenate([[0], ends[:-1] + 1])
    characters = ends - starts + 1
    place = np.arange(len(bits)) - np.repeat(starts, characters)
    numbers = np.add.reduceat((bits & 31) << (5 * place), starts)
    numbers -= np.where(bits[ends] & 16, 1 << (5 * characters), 0)
    borders = [0, *np.searchsorted(ends, np.cumsum([len(code) for code in codes])).tolist()]
    each = [numbers[begin:end] for begin, end in pairwise(borders)]
    for counts in each:
        counts[1::2].cumsum(out=counts[1::2])
        counts[2::2].cumsum(out=counts[2::2])
    return each


def masks_in_windows(
    each: Sequence[Int64[ndarray, " _runs"]], height: int
) -> list[tuple[Window, UInt8[ndarray, "_h _w"]]]:
    """The window around the pixels of each mask of an image, and the mask of 0 and 1 in it; no copy.

    Only the columns of the image in which a mask has pixels are made. A mask without any has a window without area.
    """
    counts = np.concatenate([*each, np.zeros(0, np.int64)])
    borders = np.array([0, *accumulate(map(len, each))])
    owners = np.repeat(np.arange(len(each)), np.diff(borders))
    is_object = ((np.arange(len(counts)) - borders[owners]) & 1).astype(np.uint8)
    sums = np.concatenate([[0], counts.cumsum()])
    ends = sums[1:] - sums[borders[owners]]
    starts = ends - counts
    filled = np.flatnonzero(is_object & (counts > 0))
    windows = _windows_around(starts[filled], ends[filled], owners[filled], len(each), height)
    left, right = windows[owners][:, [1, 3]].T * height
    runs = np.minimum(np.maximum(ends, left), right) - np.minimum(np.maximum(starts, left), right)
    found = []
    for (top, x1, bottom, x2), (begin, end) in zip(windows.tolist(), pairwise(borders.tolist()), strict=True):
        columns = is_object[begin:end].repeat(runs[begin:end]).reshape(x2 - x1, height)
        found.append(((top, x1, bottom, x2), columns[:, top:bottom].T))
    return found


def _windows_around(
    starts: Int64[ndarray, " r"], ends: Int64[ndarray, " r"], owners: Int64[ndarray, " r"], masks: int, height: int
) -> Int64[ndarray, "masks 4"]:
    """The window around each mask, given the runs of its pixels, column after column; zeros for masks without any."""
    windows = np.zeros((masks, 4), np.int64)
    if len(starts):
        first = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))  # run of each mask that has any
        last = np.append(first[1:], len(owners)) - 1
        (columns, rows), (last_columns, last_rows) = np.divmod(starts, height), np.divmod(ends - 1, height)
        is_wider = columns != last_columns  # these go on at the top of the next column
        top = np.minimum.reduceat(np.where(is_wider, 0, rows), first)
        bottom = np.maximum.reduceat(np.where(is_wider, height - 1, last_rows), first) + 1
        windows[owners[first]] = np.stack([top, columns[first], bottom, last_columns[last] + 1], axis=1)
    return windows
