"""Names and labels of what may be copied, and the areas that decide it."""

import warnings

import numpy as np
import pytest
import torch
from copypaste_cases import Pool, block, make_images, target

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.copypaste import copypaste_batch, plan_batch
from composer_copypaste.integrations.composer.algorithms import CopyPaste
from composer_copypaste.settings import CopyPasteSettings

NAMES = ["cat", "dog", "cow"]
IN_PLACE = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}
GIVEN = target((0, 0, 2, 2), (3, 0, 6, 3), (0, 4, 4, 8), labels=[1, 2, 3])


def received(given=GIVEN, **settings):
    """The labels of what an empty image receives."""
    generator = torch.Generator().manual_seed(0)
    _, after = copypaste_batch(make_images(), [target(), given], generator=generator, **{**IN_PLACE, **settings})
    return after[0]["labels"].tolist()


@pytest.mark.parametrize(
    ("named", "labelled"),
    [
        ({"categories": ("cow", "cat")}, {"labels": (3, 1)}),
        ({"category_weights": {"dog": 0.0}}, {"label_weights": {2: 0.0}}),
        (
            {"categories": ("cow", "cat"), "category_weights": {"cat": 0.0}},
            {"labels": (1, 3), "label_weights": {1: 0.0}},
        ),
    ],
)
def test_names_choose_what_their_labels_choose(named, labelled):
    assert received(**named, category_names=NAMES) == received(**labelled) != [1, 2, 3]
    assert CopyPaste(**named, category_names=NAMES).settings.label_weights == labelled.get("label_weights")


def test_a_plan_of_names_is_that_of_labels():
    batch = make_images(), [target(), GIVEN]
    one, other = (
        plan_batch(*batch, generator=torch.Generator().manual_seed(3), p=1.0, **settings)
        for settings in ({"category_weights": {"dog": 9.0}, "category_names": NAMES}, {"label_weights": {2: 9.0}})
    )
    assert one.to_json() == other.to_json()


def test_categories_that_share_a_name_are_copied_alike():
    assert received(categories=("cat",), category_names=["cat", "dog", "cat"]) == [1, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"categories": ("bog",)},
            r"^categories: expected names .*\(cat, dog, cow\), got 'bog'; did you mean 'dog'\?",
        ),
        (
            {"category_weights": {"zebra": 1.0}},
            r"^category_weights: expected names of .*\(cat, dog, cow\), got 'zebra'$",
        ),
        ({"labels": (4,)}, r"^labels: expected labels, which .* \(1 cat, 2 dog, 3 cow\), got 4"),
        ({"label_weights": {0: 1.0}}, r"^label_weights: expected labels, .*, got 0"),
        ({"categories": ("cat",), "labels": (1,)}, r"^labels: expected None where categories is given"),
        (
            {"category_weights": {"cat": 1.0}, "label_weights": {1: 1.0}},
            r"^label_weights: expected None where category_w",
        ),
    ],
)
def test_what_is_no_category_is_refused(settings, message):
    for function in (lambda **named: received(**named), CopyPaste):
        with pytest.raises(ValueError, match=message):
            function(**settings, category_names=NAMES)


def test_names_need_the_names_of_the_data():
    with pytest.raises(ValueError, match=r"^categories: 'cat' is a name, .* give category_names=\[.*\], .* or labels"):
        received(categories=("cat",))


def test_category_names_are_a_list_of_names():
    with pytest.raises(TypeError, match=r"^category_names: expected a list of names"):
        received(category_names="cat")


@pytest.mark.parametrize("names", [None, NAMES])
def test_labels_in_place_of_names_still_work_and_are_said_to_be_old(names):
    with pytest.warns(DeprecationWarning, match=r"^categories: 2 is taken for a label, .* labels takes labels"):
        assert received(categories=(2, 3), category_names=names) == [2, 3]
    with pytest.warns(DeprecationWarning, match=r"^category_weights: 2 .* label_weights takes labels"):
        assert received(category_weights={2: 0.0}, category_names=names) == [1, 3]


@pytest.mark.parametrize("names", [None, NAMES])
def test_such_labels_may_be_text_as_a_recipe_has_it(names):
    with pytest.warns(DeprecationWarning, match=r"^category_weights: '2' is taken for a label"):
        assert received(category_weights={"2": 0.0}, category_names=names) == [1, 3]


@pytest.mark.filterwarnings("ignore::composer_copypaste.errors.OldSettingWarning")
def test_such_labels_are_those_of_the_names():
    with pytest.raises(ValueError, match=r"^categories: expected labels, which .* \(1 cat, 2 dog, 3 cow\), got 4"):
        received(categories=(4,), category_names=NAMES)
    assert received(categories=(1,), category_names=NAMES) == received(labels=(1,), category_names=NAMES) == [1]


def test_a_category_may_be_called_by_a_number():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert received(categories=("1",), category_names=["cat", "1", "cow"]) == [2]


def with_area(*values):
    return {**GIVEN, "area": torch.tensor(values)}


def test_areas_are_those_that_targets_give():
    assert received(with_area(100.0, 1.0, 5.0), area_range=(5.0, 100.0)) == [1, 3]
    assert received(with_area(32.0, 1.0, 5.0), relative_area_range=(0.5, 1.0)) == [1]  # of 64 pixels


def test_areas_that_targets_do_not_give_are_those_of_masks_not_of_boxes():
    holed = {**GIVEN, "masks": GIVEN["masks"].clone()}
    holed["masks"][2, 5:, :] = 0  # 4 of its box's 16 pixels are left
    assert received(holed, area_range=(4.0, 4.0)) == [1, 3]


def test_areas_of_classes_are_their_pixels():
    ids = torch.zeros(2, 8, 8, dtype=torch.int64)
    ids[1, 0, 0] = ids[1, 7, 7] = 1  # a box of 64 pixels
    ids[1, 2:4, 2:4] = 2
    _, after = copypaste_batch(make_images(), ids, **IN_PLACE, area_range=(2.0, 3.0))
    assert sorted(after[0].unique().tolist()) == [0, 1]


@pytest.mark.parametrize("given", [with_area(100.0, 1.0, 5.0), GIVEN])
def test_a_bank_knows_the_areas_of_what_it_remembers(given):
    settings = {"area_range": (5.0, 100.0)}
    bank = InstanceBank(9)
    copypaste_batch(make_images(1), [given], bank=bank, p=0.0, **settings)
    restored = InstanceBank(9)
    restored.load_state_dict(bank.state_dict())
    fields = {key: given[key][:0] for key in given}
    labels = {"area": [1, 3]}.get("area" if "area" in given else "", [2, 3])
    for each in (bank, restored):
        _, after = copypaste_batch(make_images(1), [fields], bank=each, **IN_PLACE, **settings)
        assert after[0]["labels"].tolist() == labels


def test_a_bank_that_was_filled_without_asking_for_areas_finds_them_in_its_masks():
    bank = InstanceBank(9)
    copypaste_batch(make_images(1), [GIVEN], bank=bank, p=0.0)
    _, after = copypaste_batch(make_images(1), [target()], bank=bank, **IN_PLACE, area_range=(5.0, 10.0))
    assert after[0]["labels"].tolist() == [2]


def test_areas_of_cut_outs_are_those_of_their_masks():
    mask = block(0, 0, 4, 4, size=(4, 4))
    mask[1:] = 0
    mask[3, 3] = 1  # 5 pixels of a box of 16
    pool = Pool((1, torch.zeros(3, 4, 4, dtype=torch.uint8), mask), (2, torch.zeros(3, 4, 4).byte(), mask * 0 + 1))
    for areas, label in ((None, 1), (np.array([99.0, 5.0]), 2)):
        if areas is not None:
            pool = Pool(*pool.cut_outs)
            pool.areas = areas
        settings = CopyPasteSettings(p=1.0, p_pool=1.0, area_range=(5.0, 5.0), pool_scale_range=(1.0, 1.0))
        _, after = copypaste_batch(make_images(), [target()] * 2, pool=pool, settings=settings)
        assert set(after[0]["labels"].tolist()) == {label}
