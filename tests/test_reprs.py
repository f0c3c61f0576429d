"""What a notebook shows of the package's values: a short line, and no wall of numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from copypaste_cases import IDENTITY, make_images, plan_of, target

from composer_copypaste import (
    AugmentSettings,
    CompactMasks,
    CopyPasteSettings,
    EvaluationMatches,
    Instances,
    OfflineCopyPasteSettings,
    PastePlan,
    Prediction,
    copypaste_batch,
)
from composer_copypaste.data.annotation_json import Category


def test_what_was_done_is_shown_in_counts():
    plan = plan_of((0, 1, 0, IDENTITY), (1, 0, 0, IDENTITY))
    targets = [target((0, 0, 4, 4)), target((2, 2, 4, 4), (5, 5, 7, 7))]
    *_, info = copypaste_batch(make_images(), targets, plan=plan, return_info=True)
    # the second image's first object is covered by what is pasted on it
    assert repr(info) == "PasteInfo(2 images: 4 objects, of which 2 pasted; 1 dropped)"
    assert repr(plan) == "PastePlan(2 objects for 2 images; print shows each)"
    assert repr(plan_of(*[(0, 1, 0, IDENTITY)] * 2)) == "PastePlan(2 objects for 1 image; print shows each)"
    assert repr(PastePlan.from_rows([])) == "PastePlan(0 objects for 0 images; print shows each)"


def test_settings_show_what_is_not_their_default():
    assert repr(CopyPasteSettings()) == "CopyPasteSettings()"
    assert repr(CopyPasteSettings(p=0.5, rotation=20)) == "CopyPasteSettings(rotation=20.0)"
    settings = AugmentSettings(copy_paste=OfflineCopyPasteSettings(geometry={"obb": "corners"}))
    assert repr(settings) == "AugmentSettings(copy_paste=OfflineCopyPasteSettings(geometry={'obb': 'corners'}))"
    assert eval(repr(settings)) == settings


@pytest.mark.parametrize("masks", [torch.zeros(2, 8, 6).byte(), CompactMasks.from_dense(torch.zeros(2, 8, 6).byte())])
def test_objects_are_counted(masks):
    numbers = torch.zeros(2)
    found = Instances(torch.zeros(2, 4), numbers.long(), masks, numbers, numbers.long(), {"depth": numbers})
    assert repr(found) == "Instances(2 objects of 8 x 6, on cpu, with depth)"


def test_predictions_show_the_best():
    scores, labels = torch.tensor([0.9, 0.75, 0.5, 0.25]), torch.tensor([1, 2, 1, 1])
    categories = {1: Category(7, "cat"), 2: Category(9, "dog")}
    found = Prediction((480, 640), torch.zeros(4, 4), scores, labels, None, categories, Path("a.jpg"))
    assert repr(found) == "Prediction(4 objects in a.jpg of 480 x 640: cat 0.90, dog 0.75, cat 0.50 and 1 more)"
    empty = Prediction((480, 640), torch.zeros(0, 4), scores[:0], labels[:0], None, categories)
    assert repr(empty) == "Prediction(0 objects in an image of 480 x 640)"


def test_matches_are_counted():
    found = EvaluationMatches(np.arange(3), (1,), ("cat",), (100,), {})
    assert repr(found) == "EvaluationMatches(3 images, 1 category)"
