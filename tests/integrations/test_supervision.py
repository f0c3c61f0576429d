"""Masks as cut-outs in supervision's form, and back."""

import numpy as np
import pytest
import torch

from composer_copypaste import CompactMasks
from composer_copypaste.integrations.supervision import from_supervision, to_supervision

compact_mask = pytest.importorskip("supervision.detection.compact_mask")


def drawn(n, size=(40, 60)):
    rng = np.random.default_rng(0)
    masks = torch.zeros(n, *size, dtype=torch.uint8)
    for mask in masks:
        y, x = rng.integers(0, 30, 2)
        mask[y : y + 9, x : x + 20] = torch.from_numpy(rng.random((min(9, 40 - y), min(20, 60 - x))) < 0.5)
    return masks


@pytest.mark.parametrize("n", [0, 1, 6])
def test_supervision_sees_the_same_pixels(n):
    masks = drawn(n)
    given = to_supervision(CompactMasks.from_dense(masks))
    assert given.shape == tuple(masks.shape)
    assert np.array_equal(given.to_dense(), masks.bool().numpy())
    assert given.area.tolist() == masks.sum((1, 2)).tolist()


@pytest.mark.parametrize("n", [0, 1, 6])
def test_what_supervision_makes_of_planes_has_the_same_pixels_here(n):
    masks = drawn(n)
    corners = np.array([[0, 0, 59, 39]] * n, dtype=np.float32).reshape(-1, 4)
    theirs = compact_mask.CompactMask.from_dense(masks.bool().numpy(), xyxy=corners, image_shape=(40, 60))
    assert torch.equal(from_supervision(theirs).dense(), masks)
    assert torch.equal(from_supervision(to_supervision(CompactMasks.from_dense(masks))).dense(), masks)
