"""The number of images at which a baseline reaches another's average precision."""

import numpy as np
import pytest

from composer_copypaste.metrics.image_savings import image_factor, needed_images

IMAGES = [10.0, 40.0, 160.0]


def needed(curve, reached):
    return needed_images(np.array(curve, dtype=float)[:, None], np.array([reached], dtype=float), IMAGES)[0]


@pytest.mark.parametrize(
    ("curve", "reached", "expected"),
    [
        ((0.1, 0.3, 0.5), 0.3, 40),
        ((0.1, 0.3, 0.5), 0.2, 20),  # half of the way from log 10 to log 40
        ((0.1, 0.3, 0.5), 0.45, 40 * 4**0.75),
        ((0.1, 0.3, 0.5), 0.1, 10),
        ((0.1, 0.3, 0.5), 0.09, 0),
        ((0.1, 0.3, 0.5), 0.5, 160),
        ((0.1, 0.3, 0.5), 0.51, np.inf),
        ((0.1, 0.3, 0.2), 0.2, 20),  # where it is reached first
        ((0.2, 0.1, 0.3), 0.15, 0),
        ((0.1, 0.1, 0.3), 0.2, 80),
        ((0.3, 0.3, 0.5), 0.2, 0),
        ((0.5, 0.3 + 1e-9, 0.3), 0.1, 0),  # far beyond what the last two points differ by
        ((0.1, np.nan, 0.3), 0.2, np.nan),
        ((0.1, 0.3, np.nan), 0.2, np.nan),
        ((0.1, 0.2, 0.3), np.nan, np.nan),
    ],
)
def test_the_number_of_images_is_interpolated_on_the_logarithmic_axis(curve, reached, expected):
    assert needed(curve, reached) == pytest.approx(expected, nan_ok=True)


def test_the_factor_is_that_of_all_images_and_its_interval_that_of_the_resamples():
    seeds = np.zeros((5, 1), dtype=np.int64)
    baseline = np.array([[0.1] * 6, [0.3] * 6, [0.5] * 6])[:, None]
    other = np.array([[0.2, 0.09, 0.1, 0.3, 0.5, 0.6]])

    found = image_factor(baseline, other, IMAGES, 10.0, seeds)

    assert (found.value, found.smallest, found.largest) == pytest.approx((2, 1, 16))
    assert (found.low, found.high) == (0, np.inf)


def test_the_interval_reaches_from_the_resample_of_rank_2_5_in_100_to_that_of_97_5():
    baseline = np.stack([np.full((1, 101), 0.0), np.full((1, 101), 1.0)])  # with 1 and with 100 images
    other = np.log([50, *range(100, 0, -1)])[None] / np.log(100)  # as good as with 50, 100, 99, ..., 1 images

    found = image_factor(baseline, other, [1.0, 100.0], 1.0, np.zeros((100, 1), dtype=np.int64))

    assert (found.value, found.low, found.high) == pytest.approx((50, 3, 98))


def test_the_seeds_of_a_resample_are_the_same_for_both():
    baseline = np.array([[[0.1, 0.1], [0.3, 0.3]], [[0.3, 0.3], [0.5, 0.5]]])  # two sizes, two seeds
    other = np.array([[0.2, 0.2], [0.4, 0.4]])

    for drawn in ([0, 0], [1, 1], [0, 1]):
        found = image_factor(baseline, other, [10.0, 40.0], 10.0, np.array([drawn]))
        assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
