"""Images resized on any device as Pillow does."""

import numpy as np
import pytest
import torch
from PIL import Image

from composer_copypaste.models.pillow_resize import resize_as_pillow, resize_by_weights

SIZES = [((97, 131), (160, 210)), ((97, 131), (40, 33)), ((50, 60), (50, 80)), ((50, 60), (25, 60)), ((1, 7), (5, 3))]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_each_value_is_that_of_pillow(before, after):
    pixels = np.random.default_rng(3).integers(0, 256, (*before, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(after[::-1], Image.Resampling.BILINEAR))

    resized = resize_as_pillow(torch.from_numpy(pixels).permute(2, 0, 1), after)

    assert resized.dtype == torch.float32
    np.testing.assert_array_equal(resized.permute(1, 2, 0).numpy(), expected)


def test_an_image_of_that_size_stays_as_it_is():
    image = torch.arange(0, 48, dtype=torch.uint8).view(3, 4, 4)
    assert torch.equal(resize_as_pillow(image, (4, 4)), image.float())


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_where_pillow_cannot_run_each_value_is_the_same(before, after):
    image = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (3, *before), dtype=np.uint8))
    computed = resize_by_weights(image.double(), torch.tensor(before), torch.tensor(after))

    assert torch.equal(computed.float(), resize_as_pillow(image, after))
