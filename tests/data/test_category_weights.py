"""Weights of categories that are counted in a data set."""

import numpy as np
import pytest
from coco_files import annotation

from composer_copypaste import CocoAnnotations, CopyPasteSettings, copypaste_batch, rare_category_weights
from composer_copypaste.data.category_weights import with_counted_weights

IMAGES = [{"id": number, "file_name": f"{number}.png", "height": 8, "width": 12} for number in range(100)]
CATEGORIES = [{"id": 3, "name": "fig"}, {"id": 5, "name": "nut"}, {"id": 6, "name": "pea"}]


def square_at(x):
    """A square of 4 x 4 pixels at the left edge, or beside it."""
    return {"bbox": [x, 1, 4, 4], "segmentation": [[x, 1, x + 4, 1, x + 4, 5, x, 5]]}


@pytest.fixture
def counted(coco_file):
    """100 images: 80 nuts in 40 of them, two figs in one, a crowd of figs in another, and no pea."""
    nuts = [annotation(number, image_id=number // 2, **square_at(number % 2)) for number in range(80)]
    figs = [annotation(number, image_id=50, category_id=3, **square_at(number % 2)) for number in (80, 81)]
    crowd = annotation(82, image_id=51, category_id=3, iscrowd=1, segmentation={"size": [8, 12], "counts": [0, 96]})
    return CocoAnnotations.load(coco_file(*nuts, *figs, crowd, images=IMAGES, categories=CATEGORIES), crowds="ignore")


def test_the_inverse_frequency_makes_all_categories_equally_frequent(counted):
    assert rare_category_weights(counted, "inverse_frequency") == {"fig": 40, "nut": 1, "pea": 80}


def test_the_repeat_factor_is_that_of_lvis(counted):
    """sqrt(0.25 / 0.01) is 5; 40 of 100 images are more than a quarter."""
    assert rare_category_weights(counted, "repeat_factor", threshold=0.25) == {"fig": 5, "nut": 1, "pea": 5}
    found = rare_category_weights(counted, threshold=0.9)
    assert found["nut"] == pytest.approx(1.5)
    assert rare_category_weights(counted) == {"fig": 1, "nut": 1, "pea": 1}


def test_settings_that_ask_for_counts_get_numbers(counted):
    settings = CopyPasteSettings(category_weights="repeat_factor", repeat_threshold=0.25)
    found = with_counted_weights(settings, lambda: counted)
    assert found.category_weights == {"fig": 5, "nut": 1, "pea": 5}
    given = CopyPasteSettings(category_weights={"nut": 2.0})
    assert with_counted_weights(given, lambda: pytest.fail("nothing is to be counted")) is given


def test_categories_that_share_a_name_are_counted_together(coco_file):
    twice = [{"id": 3, "name": "nut"}, {"id": 5, "name": "nut"}, {"id": 6, "name": "pea"}]
    path = coco_file(*(annotation(n, category_id=(3, 5, 6, 5)[n], **square_at(n)) for n in range(4)), categories=twice)
    assert rare_category_weights(CocoAnnotations.load(path), "inverse_frequency") == {"nut": 1, "pea": 3}


def test_a_data_set_without_objects_has_equal_weights(coco_file):
    nothing = CocoAnnotations.load(coco_file(categories=CATEGORIES))
    assert set(rare_category_weights(nothing, "inverse_frequency").values()) == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "rare"}, "how: expected one of 'inverse_frequency', 'repeat_factor', got 'rare'"),
        ({"threshold": 0}, "threshold: expected a fraction above 0, at most 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(counted, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        rare_category_weights(counted, **arguments)


@pytest.mark.parametrize("value", ["rare", "inverse_frequncy", 3])
def test_another_text_is_no_weight(value):
    with pytest.raises((TypeError, ValueError), match=r"^category_weights: expected .*'inverse_frequency'") as raised:
        CopyPasteSettings(category_weights=value)
    assert "\n" not in str(raised.value)


def test_a_function_that_knows_no_data_set_says_what_to_give():
    targets = [{"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}]
    message = (
        "^category_weights: 'repeat_factor' is counted in a data set, which is not known here; give "
        r"category_weights=rare_category_weights\(annotations, 'repeat_factor'\) and category_names$"
    )
    with pytest.raises(ValueError, match=message):
        copypaste_batch([], targets, category_weights="repeat_factor")
