"""Run-length encodings of many masks at once, and how far masks reach."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.data.rle import (
    count_encoded_pixels,
    cropped_mask,
    mask_boxes,
    widen_boxes_to_masks,
)
from composer_copypaste.run_lengths import decode_all_counts, decode_counts, masks_in_windows

# ---- encodings of many masks, next to the same read one by one


def drawn_codes(count=400):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, (count, 2))
    masks = [np.asfortranarray(rng.random(size) < rng.random(), dtype=np.uint8) for size in sizes.tolist()]
    return [coco_mask.encode(mask)["counts"] for mask in masks], sizes.prod(axis=1)


def one_by_one(code):
    try:
        counts = decode_counts(code).tolist()
    except ValueError:
        return -1
    return sum(counts) if counts and min(counts) >= 0 else -1


def test_encodings_have_the_pixels_of_their_masks():
    codes, pixels = drawn_codes()
    np.testing.assert_array_equal(count_encoded_pixels(codes), pixels)


def test_damaged_encodings_are_found_among_others_as_one_by_one():
    codes, _ = drawn_codes()
    rng = np.random.default_rng(1)
    for number in range(0, len(codes), 2):
        code = bytearray(codes[number])
        code[rng.integers(len(code))] = rng.integers(32, 127)
        codes[number] = bytes(code[: rng.integers(len(code) + 1)])
    found = count_encoded_pixels(codes)
    assert (found < 0).sum() > 20
    np.testing.assert_array_equal(found, list(map(one_by_one, codes)))


@pytest.mark.parametrize("code", [b"", b"o" * 40 + b"0", b"\xff", b"\x00"])
def test_text_that_is_no_encoding_has_no_pixels(code):
    assert count_encoded_pixels([code]).tolist() == [-1]


# ---- masks in the windows around their pixels


@given(height=st.integers(1, 9), width=st.integers(1, 9), data=st.data())
def test_masks_decoded_together_are_those_that_pycocotools_decodes_one_by_one(height, width, data):
    drawn = data.draw(st.lists(st.lists(st.booleans(), min_size=height * width, max_size=height * width), max_size=5))
    masks = [np.array(pixels, dtype=np.uint8).reshape(height, width) for pixels in drawn]
    counts = decode_all_counts([coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks])
    found = masks_in_windows(counts, height)
    assert len(found) == len(masks)
    for mask, ((y1, x1, y2, x2), cut) in zip(masks, found, strict=True):
        np.testing.assert_array_equal(cut, mask[y1:y2, x1:x2])
        assert cut.sum() == mask.sum()
        if mask.any():  # the window is tight
            assert cut[[0, -1]].any(axis=1).all()
            assert cut[:, [0, -1]].any(axis=0).all()


def test_a_code_without_runs_among_others_is_a_mask_without_pixels():
    other = coco_mask.encode(np.asfortranarray([[0, 1], [0, 1]], dtype=np.uint8))["counts"]
    (empty, none), (window, mask) = masks_in_windows(decode_all_counts([b"", other]), 2)
    assert (empty, none.size) == ((0, 0, 0, 0), 0)
    assert (window, mask.tolist()) == ((0, 1, 2, 2), [[1], [1]])


# ---- how far masks reach, and boxes that enclose them


SIZE = (48, 64)
REAL = Path(__file__).parents[3] / "shared" / "data"


def square(x1: float, y1: float, x2: float, y2: float) -> list[np.ndarray]:
    return [np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=np.float64)]


def code(x1: int, y1: int, x2: int, y2: int) -> dict:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return coco_mask.encode(mask)


def test_polygons_of_several_parts_and_run_lengths_have_extents_side_by_side():
    outlines = [square(2, 1, 6, 5) + square(9.5, 0, 11, 3), code(3, 4, 10, 20), square(-5, 2, 4, 99), code(0, 0, 0, 0)]
    assert mask_boxes(outlines).tolist() == [[2, 0, 11, 5], [3, 4, 10, 20], [-5, 2, 4, 99], [0, 0, 0, 0]]


def test_no_masks_have_no_extents():
    assert mask_boxes([]).shape == (0, 4)


def test_a_box_cut_to_whole_pixels_is_widened_to_its_mask():
    boxes = np.array([[10, 5, 30, 25], [10, 5, 30, 25]], dtype=np.float64)
    widened = widen_boxes_to_masks(boxes, [square(10.9, 5.2, 31.8, 26.8), code(8, 5, 31, 25)], SIZE)
    assert widened.tolist() == [[10, 5, 32, 27], [8, 5, 31, 25]]


def test_a_box_that_encloses_its_mask_s_pixels_stays_as_annotated():
    boxes = np.array([[10.25, 5.5, 30.75, 25.01], [0, 0, 60, 40]], dtype=np.float64)
    outlines = [square(10.2, 5.4, 30.8, 25.4), square(3, 3, 9, 9)]
    assert np.array_equal(widen_boxes_to_masks(boxes, outlines, SIZE), boxes)


@given(points=st.lists(st.tuples(st.floats(-5, 70), st.floats(-5, 55)), min_size=3, max_size=9))
def test_no_pixel_of_a_polygon_lies_outside_its_box(points):
    outline = [np.array(points, dtype=np.float64).ravel()]
    drawn = cropped_mask(outline, SIZE)
    box = np.round(mask_boxes([outline]))  # cut to whole pixels
    (x1, y1), (x2, y2) = (
        np.floor(widen_boxes_to_masks(box, [outline], SIZE)[0, :2]),
        np.ceil(widen_boxes_to_masks(box, [outline], SIZE)[0, 2:]),
    )
    if drawn is not None:
        left, top, right, bottom = drawn.box
        assert x1 <= left
        assert y1 <= top
        assert right <= x2
        assert bottom <= y2


@pytest.mark.parametrize("name", ["coco_smoke", "fruits_nuts", "nuclei_dsb2018"])
def test_boxes_of_real_data_stay_as_annotated(name):
    path = REAL / name / "annotations" / "instances_val.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    annotations = CocoAnnotations.load(path)
    for image in annotations.images:
        group = annotations.annotations[image.id]
        expected = np.array([entry["bbox"] for entry in group], dtype=np.float64).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        limits = [image.width, image.height] * 2
        assert np.allclose(annotations.objects_of(image).boxes.numpy(), expected.clip(0, limits), atol=1e-4)


def test_the_data_set_s_boxes_enclose_their_masks(coco_file, gradient):
    outline = {"segmentation": [[2.2, 1.1, 6.8, 1.1, 6.8, 5.9, 2.2, 5.9]], "bbox": [2, 1, 4, 4]}
    path = coco_file({"id": 1, "image_id": 7, "category_id": 5, **outline})
    _, target = CocoInstances(path.parent, path)[0]
    rows, columns = target["masks"][0].nonzero().T
    assert (int(columns.max()) + 1, int(rows.max()) + 1) == (7, 6)
    assert target["boxes"].tolist() == [[2, 1, 7, 6]]
