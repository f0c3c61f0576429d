"""Categories whose objects lie inside those of another."""

import numpy as np
import pytest
from coco_files import annotation

from composer_copypaste import CocoAnnotations, CopyPasteSettings
from composer_copypaste.runs import nested_categories as nesting
from composer_copypaste.runs.nested_categories import Nesting, nested_categories, nesting_advice


def square(number: int, category: int, x1: float, y1: float, side: float, **changes: object) -> dict[str, object]:
    x2, y2 = x1 + side, y1 + side
    outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return annotation(number, category_id=category, bbox=[x1, y1, side, side], segmentation=outline, **changes)


@pytest.fixture
def street(coco_file):
    """An image of 100 x 100 with a facade, category 5, of which half is cut out; windows are category 3."""

    def write(*windows: tuple[float, float], **changes: object) -> CocoAnnotations:
        images = [{"id": 7, "file_name": "7.png", "height": 100, "width": 100}]
        corners = [0, 0, 100, 0, 100, 100, 50, 100, 50, 50, 0, 50]  # all but the lower left quarter
        facade = annotation(1, category_id=5, bbox=[0, 0, 100, 100], segmentation=[corners])
        inner = [square(number, 3, x, y, 4, **changes) for number, (x, y) in enumerate(windows, start=2)]
        return CocoAnnotations.load(coco_file(facade, *inner, images=images))

    return write


INSIDE = [(float(x), 10.0) for x in range(0, 80, 8)]
CUT_OUT = [(float(x), float(y)) for x in (4, 14, 24) for y in (60, 70, 80)]


def test_windows_are_nested_in_their_facade(street):
    assert nested_categories(street(*INSIDE)) == [Nesting("nut", "fig", 1.0)]


def test_it_is_the_mask_that_counts_not_the_box(street):
    assert nested_categories(street(*CUT_OUT, *INSIDE[:2])) == []


def test_most_objects_of_a_category_must_be_inside(street):
    assert nested_categories(street(*INSIDE, *CUT_OUT[:2])) == [Nesting("nut", "fig", 10 / 12)]
    assert nested_categories(street(*INSIDE, *CUT_OUT)) == []


def test_few_objects_tell_nothing_and_crowds_neither(street):
    assert nested_categories(street(*INSIDE[:9])) == []
    assert nested_categories(street(*INSIDE, iscrowd=1)) == []


def test_objects_of_one_category_are_not_nested(coco_file):
    images = [{"id": 7, "file_name": "7.png", "height": 100, "width": 100}]
    objects = [square(1, 5, 0, 0, 100), *(square(n, 5, 8.0 * n, 10, 4) for n in range(2, 13))]
    annotations = CocoAnnotations.load(coco_file(*objects, images=images))
    assert np.size(annotations.annotations[7]) == 12
    assert nested_categories(annotations) == []


def test_nested_categories_are_said_with_the_key_where_objects_are_pasted(street, monkeypatch):
    found = [Nesting("facade", "window", 0.97)]
    monkeypatch.setattr(nesting, "nested_categories", lambda annotations: found)
    (line,) = nesting_advice(street(), CopyPasteSettings())
    assert line.startswith("97% of 'window' lie inside 'facade': a pasted 'facade' hides what lies under it")
    assert "copy_paste.categories without 'facade'" in line
    assert list(nesting_advice(street(), None)) == []
    assert list(nesting_advice(street(), CopyPasteSettings(labels=(1,)))) == []  # chosen already
