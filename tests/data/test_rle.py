"""Run-length encodings of many masks at once, beside the same read one by one."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from composer_copypaste.data.rle import encoded_pixels, rle_counts


def drawn_codes(count=400):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, (count, 2))
    masks = [np.asfortranarray(rng.random(size) < rng.random(), dtype=np.uint8) for size in sizes.tolist()]
    return [coco_mask.encode(mask)["counts"] for mask in masks], sizes.prod(axis=1)


def one_by_one(code):
    try:
        counts = rle_counts(code)
    except ValueError:
        return -1
    return sum(counts) if counts and min(counts) >= 0 else -1


def test_encodings_have_the_pixels_of_their_masks():
    codes, pixels = drawn_codes()
    np.testing.assert_array_equal(encoded_pixels(codes), pixels)


def test_damaged_encodings_are_found_among_others_as_one_by_one():
    codes, _ = drawn_codes()
    rng = np.random.default_rng(1)
    for number in range(0, len(codes), 2):
        code = bytearray(codes[number])
        code[rng.integers(len(code))] = rng.integers(32, 127)
        codes[number] = bytes(code[: rng.integers(len(code) + 1)])
    found = encoded_pixels(codes)
    assert (found < 0).sum() > 20
    np.testing.assert_array_equal(found, list(map(one_by_one, codes)))


@pytest.mark.parametrize("code", [b"", b"o" * 40 + b"0", b"\xff", b"\x00"])
def test_text_that_is_no_encoding_has_no_pixels(code):
    assert encoded_pixels([code]).tolist() == [-1]
