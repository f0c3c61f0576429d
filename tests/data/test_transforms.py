"""Large-scale jitter and flips: hand-written plans whose answer is visible, and properties of the drawn ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from composer_copypaste.data.rle import AnnotatedObjects, draw_planes
from composer_copypaste.data.transforms import (
    PADDING,
    FlipTransform,
    LargeScaleJitterTransform,
    SampledFlip,
    SampledJitter,
    seeded_generator,
)
from composer_copypaste.settings import LargeScaleJitterSettings

SIZE = (8, 12)
BOX = (2, 1, 6, 5)


def polygon_of(x1: int, y1: int, x2: int, y2: int) -> list[np.ndarray]:
    return [np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=np.float64)]


def rle_of(x1: int, y1: int, x2: int, y2: int) -> dict:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return coco_mask.encode(mask)


def objects(*segmentations: object, size: tuple[int, int] = SIZE) -> AnnotatedObjects:
    """Objects with labels 1, 2, ..., whose annotated boxes and areas are off on purpose."""
    count = len(segmentations)
    return AnnotatedObjects(
        size=size,
        annotated_boxes=np.tile([1.0, 0, 7, 7], (count, 1)),
        labels=torch.arange(1, count + 1),
        area=torch.full((count,), 0.5),
        iscrowd=torch.zeros(count, dtype=torch.int64),
        segmentations=segmentations,
    )


def image_of(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=seeded_generator(0))


def whole(size: tuple[int, int] = SIZE, **changes: object) -> SampledJitter:
    fields: dict[str, object] = {"window": (0, 0, *size), "resized": size, "canvas": size, "flip": False}
    return SampledJitter(**(fields | changes))


@pytest.fixture(params=[polygon_of, rle_of], ids=["polygon", "rle"])
def outline(request):
    """How an object is annotated."""
    return request.param


def test_a_window_shows_its_part_of_the_image():
    image = image_of(*SIZE)
    crop = SampledJitter(window=(1, 2, 4, 5), resized=(4, 5), canvas=(4, 5), flip=False)
    assert torch.equal(crop.transform_image(image), image[:, 1:5, 2:7])


def test_an_image_is_mirrored_and_lies_in_the_top_left_corner_of_the_padding():
    image = image_of(*SIZE)
    shown = whole(canvas=(10, 15), flip=True).transform_image(image)
    assert torch.equal(shown[:, :8, :12], image.flip(-1))
    assert (shown[:, 8:] == torch.tensor(PADDING)[:, None, None]).all()
    assert (shown[:, :, 12:] == torch.tensor(PADDING)[:, None, None]).all()


def test_making_an_image_smaller_averages_its_pixels():
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::4] = 200
    shown = whole((64, 64), resized=(16, 16), canvas=(16, 16)).transform_image(stripes)
    assert (shown[:, :, 1:-1].int() - 50).abs().max() <= 1


def test_cropping_first_equals_resizing_first_away_from_the_window_s_edge():
    image = image_of(32, 48)
    first = SampledJitter(window=(4, 8, 16, 20), resized=(32, 40), canvas=(32, 40), flip=False).transform_image(image)
    last = whole((32, 48), resized=(64, 96), canvas=(64, 96)).transform_image(image)[:, 8:40, 16:56]
    assert torch.equal(first[:, 2:-2, 2:-2], last[:, 2:-2, 2:-2])


def test_masks_boxes_and_areas_follow_a_window(outline):
    crop = SampledJitter(window=(2, 3, 5, 5), resized=(5, 5), canvas=(6, 7), flip=False)
    shown = crop.transform_instances(objects(outline(*BOX)), min_area=1)
    expected = torch.zeros(1, 6, 7, dtype=torch.uint8)
    expected[0, 0:3, 0:3] = 1
    assert torch.equal(shown.masks.dense(), expected)
    assert shown.boxes.tolist() == [[0, 0, 3, 3]]
    assert shown.area.tolist() == [9]


def test_masks_boxes_and_areas_follow_a_mirrored_enlargement(outline):
    crop = SampledJitter(window=(0, 1, 8, 10), resized=(16, 20), canvas=(16, 24), flip=True)
    shown = crop.transform_instances(objects(outline(*BOX)), min_area=1)
    expected = torch.zeros(1, 16, 24, dtype=torch.uint8)
    expected[0, 2:10, 10:18] = 1  # columns 2..10 of 20, mirrored
    assert torch.equal(shown.masks.dense(), expected)
    assert shown.boxes.tolist() == [[10, 2, 18, 10]]
    assert shown.area.tolist() == [64]


def test_objects_keep_their_order_where_polygons_and_run_lengths_alternate():
    given_objects = objects(
        rle_of(0, 0, 2, 2), polygon_of(2, 2, 5, 5), [], rle_of(7, 5, 9, 8), polygon_of(20, 20, 22, 22)
    )
    shown = whole().transform_instances(given_objects, min_area=1)
    assert shown.labels.tolist() == [1, 2, 4]
    assert shown.boxes.tolist() == [[0, 0, 2, 2], [2, 2, 5, 5], [7, 5, 9, 8]]


def test_masks_boxes_and_areas_follow_a_reduction(outline):
    shown = whole(resized=(4, 6)).transform_instances(objects(outline(2, 2, 6, 6)), min_area=1)
    expected = torch.zeros(1, *SIZE, dtype=torch.uint8)
    expected[0, 1:3, 1:3] = 1
    assert torch.equal(shown.masks.dense(), expected)


def test_an_object_one_pixel_wide_has_a_box_one_pixel_wide(outline):
    shown = whole().transform_instances(objects(outline(3, 2, 4, 7)), min_area=1)
    assert shown.boxes.tolist() == [[3, 2, 4, 7]]


def test_objects_outside_the_window_are_dropped_with_all_their_fields(outline):
    crop = SampledJitter(window=(0, 6, 8, 6), resized=(8, 6), canvas=SIZE, flip=False)
    shown = crop.transform_instances(objects(outline(*BOX), outline(7, 1, 9, 3), outline(0, 0, 6, 8)), min_area=1)
    assert shown.labels.tolist() == [2]
    assert {len(shown), len(shown.boxes), len(shown.masks), len(shown.area), len(shown.iscrowd)} == {1}


def test_all_objects_may_be_outside(outline):
    crop = SampledJitter(window=(0, 6, 8, 6), resized=(8, 6), canvas=SIZE, flip=False)
    shown = crop.transform_instances(objects(outline(*BOX)), min_area=1)
    assert (tuple(shown.boxes.shape), tuple(shown.masks.dense().shape)) == ((0, 4), (0, *SIZE))


def test_objects_stay_from_min_area_pixels_on(outline):
    crop = SampledJitter(window=(0, 5, 8, 7), resized=(8, 7), canvas=SIZE, flip=False)
    cut = objects(outline(*BOX))  # 1 x 4 pixels of it are left
    assert len(crop.transform_instances(cut, min_area=4)) == 1
    assert len(crop.transform_instances(cut, min_area=5)) == 0


def test_a_part_outside_leaves_the_other_parts():
    crop = SampledJitter(window=(0, 0, 8, 6), resized=(8, 6), canvas=SIZE, flip=False)
    shown = crop.transform_instances(objects(polygon_of(8, 1, 10, 3) + polygon_of(1, 1, 3, 4)), min_area=1)
    assert shown.boxes.tolist() == [[1, 1, 3, 4]]


def test_an_empty_mask_is_dropped():
    assert len(whole().transform_instances(objects(rle_of(0, 0, 0, 0)), min_area=1)) == 0


def test_a_flip_mirrors_image_masks_and_annotated_boxes(outline):
    image = image_of(*SIZE)
    flip = SampledFlip(horizontal=True)
    shown = flip.transform_instances(objects(outline(*BOX)))
    assert torch.equal(flip.transform_image(image), image.flip(-1))
    assert torch.equal(shown.masks.dense()[0, 1:5, 6:10], torch.ones(4, 4, dtype=torch.uint8))
    assert shown.masks.dense().sum() == 16
    assert shown.boxes.tolist() == [[5, 0, 11, 7]]
    assert shown.area.tolist() == [0.5]


def test_no_flip_leaves_the_annotated_boxes(outline):
    given_objects = objects(outline(*BOX))
    assert torch.equal(SampledFlip(horizontal=False).transform_instances(given_objects).boxes, given_objects.boxes)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_flip_happens_with_its_probability(p):
    flips = [FlipTransform(p).draw(seeded_generator(seed)).horizontal for seed in range(20)]
    assert flips == [p == 1] * 20


def test_a_probability_above_one_is_refused():
    with pytest.raises(ValueError, match=r"p: expected a probability from 0 to 1, got 1\.5"):
        FlipTransform(1.5)


sides = st.integers(1, 3000)


@given(height=sides, width=sides, seed=st.integers(0, 10**6))
def test_a_drawn_window_lies_in_the_image_and_fits_the_canvas(height, width, seed):
    crop = LargeScaleJitterTransform().draw((height, width), seeded_generator(seed))
    top, left, shown_height, shown_width = crop.window
    assert 0 <= top < top + shown_height <= height
    assert 0 <= left < left + shown_width <= width
    assert 1 <= crop.resized[0] <= 1024
    assert 1 <= crop.resized[1] <= 1024


@given(seed=st.integers(0, 10**6), size=st.sampled_from([(480, 640), (640, 480), (1000, 1000)]))
def test_a_drawn_scale_lies_in_its_range_and_keeps_the_aspect(seed, size):
    crop = LargeScaleJitterTransform().draw(size, seeded_generator(seed))
    fit = 1024 / max(size)
    vertical, horizontal = crop.resized[0] / crop.window[2], crop.resized[1] / crop.window[3]
    assert 0.1 * fit - 0.01 <= vertical <= 2 * fit + 0.01
    assert vertical == pytest.approx(horizontal, rel=0.02)


def test_windows_cover_the_whole_image_and_scales_their_whole_range():
    transform = LargeScaleJitterTransform()
    crops = [transform.draw((1024, 1024), seeded_generator(seed)) for seed in range(2000)]
    scales = [crop.resized[0] / crop.window[2] for crop in crops]
    enlarged = [crop for crop in crops if crop.window[2] < 1024]
    assert min(scales) < 0.11
    assert max(scales) > 1.99
    assert min(crop.window[0] for crop in enlarged) == 0
    assert max(crop.window[0] + crop.window[2] for crop in enlarged) == 1024
    assert 0.45 < sum(crop.flip for crop in crops) / len(crops) < 0.55


def test_a_scale_of_one_shows_the_whole_image_as_large_as_it_fits():
    transform = LargeScaleJitterTransform(LargeScaleJitterSettings(size=(64, 96), scale_range=(1.0, 1.0), p_flip=0.0))
    crop = transform.draw((50, 100), seeded_generator(0))
    assert crop == SampledJitter(window=(0, 0, 50, 100), resized=(48, 96), canvas=(64, 96), flip=False)


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_covers_its_object_s_pixels_after_any_jitter(outline, seed):
    size = (96, 128)
    x1, y1, x2, y2 = 40, 30, 90, 70
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    mask = image[0].numpy() // 255
    drawn = polygon_of(x1, y1, x2, y2) if outline is polygon_of else coco_mask.encode(np.asfortranarray(mask))
    transform = LargeScaleJitterTransform(LargeScaleJitterSettings(size=(128, 128), scale_range=(0.4, 2.0)))
    crop = transform.draw(size, seeded_generator(seed))
    shown, instances = crop.transform_image(image), crop.transform_instances(objects(drawn, size=size), min_area=1)
    bright = shown[0, : crop.resized[0], : crop.resized[1]] > 127
    mask_shown = instances.masks.dense()[0, : crop.resized[0], : crop.resized[1]].bool()
    assert (bright ^ mask_shown).sum() <= 2 * (bright.shape[0] + bright.shape[1])  # at most a line along the outline
    assert (bright & mask_shown).sum() > 0.95 * bright.sum()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("horizontal", [False, True])
def test_masks_of_a_large_image_take_memory_only_where_objects_are(horizontal):
    many = objects(*[polygon_of(*BOX)] * 40, size=(3000, 4000))
    before = resident_bytes()
    shown = SampledFlip(horizontal).transform_instances(many)
    assert resident_bytes() - before < 60e6
    planes = draw_planes(shown.masks)
    assert resident_bytes() - before < 170e6  # an object takes one or two pages, and NumPy asks for some of 2 MB each
    assert planes.shape == (40, 3000, 4000)  # 480 MB where all of it is written
