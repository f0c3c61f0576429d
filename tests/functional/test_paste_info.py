"""What was done, given back: hand-written plans on 8 x 8 pixels, whose answer is visible, and drawn batches."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    Pool,
    block,
    cases,
    make_images,
    many,
    plain,
    plan_of,
    target,
    tritons_kernels,
    window_after_window,
)
from hypothesis import given
from reference import reference

from composer_copypaste import CompactMasks, InstanceBank, copypaste_batch, plan_batch

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning:triton")  # its interpreter

ENGINES = [nullcontext, window_after_window, tritons_kernels]
MOVED_RIGHT = ((1, 0, -6), (0, 1, 0))
"""What is pasted lies six pixels further right than in its source."""


def in_form(targets, form):
    if form == "planes":
        return targets
    return [own | {"masks": CompactMasks.from_dense(own["masks"])} for own in targets]


@pytest.mark.parametrize("form", ["planes", "cut_outs"])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_object_has_its_source_and_what_is_visible_of_it(form, engine):
    # of image 0's 4 x 4 square a pasted one covers half, and a 2 x 2 square lies on a quarter of that
    own = target((0, 0, 4, 4), (6, 6, 8, 8))
    given_ = target((5, 5, 7, 7), (2, 0, 6, 4), (4, 0, 6, 2))
    plan = plan_of((0, 1, 1, IDENTITY), (0, 1, 2, IDENTITY))
    with engine():
        _, after, info = copypaste_batch(make_images(), in_form([own, given_], form), plan=plan, return_info=True)

    assert info.plan == plan
    assert info.image.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert info.pasted.tolist() == [False, False, True, True, False, False, False]
    assert info.source.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert info.instance.tolist() == [0, 1, 1, 2, 0, 1, 2]
    assert info.visible.tolist() == [0.5, 1, 0.75, 1, 1, 1, 1]
    assert info.row[info.pasted].tolist() == [0, 1]
    assert info.boxes.tolist() == [row for each in after for row in each["boxes"].tolist()]
    assert (info.images, info.bank_objects, info.dropped, len(info)) == (2, 0, 0, 7)


@pytest.mark.parametrize("form", ["planes", "cut_outs"])
@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_beyond_the_edge_and_hidden_objects_count(form, engine):
    # of the 4 x 4 square one column stays inside; it hides a square of one pixel
    own, given_ = target((7, 1, 8, 2), (0, 7, 1, 8)), target((1, 0, 5, 4))
    plan = plan_of((0, 1, 0, MOVED_RIGHT))
    with engine():
        _, _, info = copypaste_batch(make_images(), in_form([own, given_], form), plan=plan, return_info=True)
    assert info.instance[info.image == 0].tolist() == [1, 0]
    assert info.visible[info.image == 0].tolist() == [1, 0.25]
    assert info.dropped == 1


def test_objects_of_bank_and_pool_have_their_numbers():
    bank, pool = InstanceBank(4), Pool((7, torch.zeros(3, 8, 8, dtype=torch.uint8), block(1, 1, 3, 3)))
    images, targets = make_images(), [target((0, 0, 4, 4)), target((4, 4, 8, 8), (0, 6, 2, 8))]
    copypaste_batch(images, targets, plan=plan_of(), bank=bank)
    assert len(bank) == 3
    beside = ((1, 0, -4), (0, 1, 0))
    plan = plan_of((0, 2, 0, beside), (0, 4, 0, IDENTITY), (1, 5, 0, IDENTITY))  # the bank's first and last, the pool's
    _, _, info = copypaste_batch(images, targets, plan=plan, bank=bank, pool=pool, return_info=True)
    assert info.source[info.pasted].tolist() == [2, 4, 5]
    assert info.from_bank.tolist() == [False, True, True, False, False, False]
    assert info.from_pool.tolist() == [False, False, False, False, False, True]
    assert (info.images, info.bank_objects) == (2, 3)


def test_an_empty_image_shows_all_of_the_one_pixel_that_it_receives_from_a_bank():
    bank = InstanceBank(1)
    copypaste_batch(make_images(1), [target((0, 0, 1, 1))], plan=plan_of(), bank=bank)
    plan = plan_of((0, 1, 0, IDENTITY))
    _, _, info = copypaste_batch(make_images(1), [target()], plan=plan, bank=bank, return_info=True)
    assert (info.source.tolist(), info.visible.tolist(), info.boxes.tolist()) == ([1], [1], [[0, 0, 1, 1]])


@pytest.mark.parametrize("engine", ENGINES)
def test_of_class_id_maps_the_pasted_classes_are_told(engine):
    maps = torch.zeros(2, 8, 8, dtype=torch.int64)
    maps[0, :4, :4], maps[1, :2, :2], maps[1, :4, 4:] = 3, 5, 7
    further_left = ((1, 0, 2), (0, 1, 0))  # of class 5 nothing is left then
    plan = plan_of((0, 1, 1, further_left), (0, 1, 2, further_left))
    with engine():
        _, after, info = copypaste_batch(make_images(), maps, plan=plan, return_info=True)
    assert after[0, 0].tolist() == [3, 3, 7, 7, 7, 7, 0, 0]
    assert (info.image.tolist(), info.source.tolist(), info.instance.tolist()) == ([0], [1], [2])
    assert info.row.tolist() == [1]
    assert info.visible.tolist() == [1]
    assert info.boxes.tolist() == [[2, 0, 6, 4]]
    assert info.dropped == 0


@pytest.mark.parametrize("settings", [{"p": 0.0}, {"p": 1.0, "labels": (77,)}])
@pytest.mark.filterwarnings("ignore::composer_copypaste.NothingPastedWarning")
def test_where_nothing_is_pasted_all_objects_are_their_image_s_own(settings):
    _, _, info = copypaste_batch(make_images(), [target((0, 0, 4, 4)), target()], return_info=True, **settings)
    assert (info.image.tolist(), info.source.tolist(), info.pasted.tolist()) == ([0], [0], [False])
    assert (info.visible.tolist(), info.dropped) == ([1], 0)
    _, _, info = copypaste_batch(make_images(), torch.zeros(2, 8, 8).long(), return_info=True, **settings)
    assert (len(info), info.dropped) == (0, 0)


@given(case=cases())
@many(20)
def test_drawn_batches_are_the_same_with_it_and_shares_are_those_of_the_reference(case):
    plan = plan_batch(
        case.images, case.targets, generator=torch.Generator().manual_seed(case.seed), settings=case.settings
    )
    images, targets = copypaste_batch(case.images, case.targets, plan=plan, settings=case.settings)
    images_too, targets_too, info = copypaste_batch(
        case.images, case.targets, plan=plan, settings=case.settings, return_info=True
    )
    assert plain([images, targets]) == plain([images_too, targets_too])
    expected = reference(case.images, case.targets, plan, case.settings)[1]
    for i, (target_, after) in enumerate(zip(expected, targets, strict=True)):
        rows = info.image == i
        assert rows.sum() == len(after["labels"])
        np.testing.assert_allclose(info.visible[rows], getattr(target_, "visible", 1.0), rtol=0, atol=1e-9)
        assert info.boxes[rows].float().tolist() == after["boxes"].float().tolist()
        for source, instance, label in zip(info.source[rows], info.instance[rows], after["labels"], strict=True):
            assert case.targets[source]["labels"][instance] == label
