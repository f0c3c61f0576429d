"""Where objects lie before and after their masks are drawn: windows of 8 x 8 pixels, whose answer is visible."""

import numpy as np
import pytest
import torch
from copypaste_cases import IDENTITY, block, plan_of

from composer_copypaste import CompactMasks
from composer_copypaste.functional.layout import MARGIN, SourceObjects, UndrawnMasks, box_windows, layout_of


@pytest.mark.parametrize(
    ("size", "windows"),
    [
        (None, [[2, 1, 5, 4], [-1, -2, 9, 10]]),
        ((8, 8), [[2, 1, 5, 4], [0, 0, 8, 8]]),
        (np.array([[4, 3], [8, 9]]), [[2, 1, 4, 3], [0, 0, 8, 9]]),
    ],
)
def test_a_box_touches_all_pixels_that_it_has_a_part_of(size, windows):
    boxes = np.array([[1.9, 2.0, 3.1, 4.5], [-1.5, -0.1, 9.5, 8.5]])
    assert box_windows(boxes, size).tolist() == windows


def test_one_pixel_is_read_beyond_each_side_of_a_box():
    assert box_windows(np.array([[3.0, 2, 5, 6]]) + MARGIN).tolist() == [[1, 2, 7, 6]]


def test_masks_drawn_later_narrow_the_windows_of_their_objects_in_a_new_layout():
    boxes = np.array([[1.0, 1, 4, 4], [5, 5, 8, 8], [0, 0, 2, 2]])
    pasted = CompactMasks.from_dense(block(2, 2, 4, 4)[None])
    places = [
        SourceObjects(UndrawnMasks.anywhere(3, (8, 8)), boxes),
        SourceObjects(pasted, np.array([[2.0, 2, 4, 4]])),
    ]
    undrawn = layout_of(plan_of((0, 1, 0, IDENTITY)), places)
    windows = [[2, 2, 3, 4], [0, 0, 8, 8], [6, 6, 8, 8]]
    masks = CompactMasks(torch.ones(2 + 64 + 4, dtype=torch.uint8), windows, (8, 8))

    drawn = undrawn.with_masks_of_first(masks, undrawn.masks)

    assert (drawn.masks[0], drawn.masks[1]) == (masks, pasted)
    assert drawn.objects.mask_windows.tolist() == [*windows, [2, 2, 4, 4]]
    assert drawn.objects.windows.tolist() == [[2, 2, 3, 4], [4, 4, 8, 8], [6, 6, 6, 6], [2, 2, 4, 4]]
    assert undrawn.objects.mask_windows[:3].tolist() == [[0, 0, 8, 8]] * 3
    assert undrawn.objects.windows[:3].tolist() == [[0, 0, 5, 5], [4, 4, 8, 8], [0, 0, 3, 3]]
