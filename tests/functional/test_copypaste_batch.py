"""The whole of copy-paste on drawn batches: equal to the slow reference, and what must hold for every batch."""

import copy
import warnings

import numpy as np
import pytest
import torch
from copypaste_cases import (
    COLORS_STAY,
    IDENTITY,
    SIDE,
    Case,
    Pool,
    block,
    carry_out,
    cases,
    make_images,
    many,
    plain,
    plan_of,
    target,
    with_plane_masks,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bank_crops, box_around, crowds, cut_outs, fixed, nearest, numpy, reference

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.carry_out import with_pasted_flags
from composer_copypaste.functional.copypaste import NothingPastedWarning, copypaste_batch, plan_batch
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.settings import CopyPasteSettings

TOLERANCE = {torch.uint8: 1, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def assert_equals_reference(case: Case):
    pasted = case.paste()
    crops = bank_crops(*case.earlier, case.settings, case.bank_size) if case.earlier else []
    crops += cut_outs(case.pool, case.images[0].dtype) if case.pool else []
    images, targets = reference(case.images, case.targets, pasted.plan, case.settings, crops)
    for image, expected in zip(pasted.images, images, strict=True):
        assert_same_colors(image, expected)
    for result, expected in zip(pasted.targets, targets, strict=True):
        assert_same_target(result, expected)
    assert_cut_outs_give_the_same(case, pasted)


def assert_same_colors(image, expected):
    assert image.dtype == expected.dtype
    difference = (image.detach().double() - expected.double()).abs().max().item()
    assert difference <= TOLERANCE[image.dtype]


def assert_cut_outs_give_the_same(case: Case, expected):
    """With masks as cut-outs, the batch is the same, colors up to rounding, and its masks are cut-outs again."""
    pasted = case.with_compact_masks().paste()
    for image, other in zip(pasted.images, expected.images, strict=True):
        assert_same_colors(image, other)
    for result, other in zip(pasted.targets, with_plane_masks(expected.targets), strict=True):
        assert ("masks" in result) == isinstance(result.get("masks"), CompactMasks)
        torch.testing.assert_close(with_plane_masks([result])[0], other, rtol=0, atol=0, equal_nan=True)
    assert (pasted.added, pasted.dropped, pasted.reason) == (expected.added, expected.dropped, expected.reason)


def assert_same_target(result, expected):
    assert list(result) == list(expected)
    for key, values in expected.items():
        values = numpy(values) if isinstance(values, torch.Tensor) else values
        assert numpy(result[key]).dtype == values.dtype
        if key == "masks":
            np.testing.assert_array_equal(numpy(result[key]), (values != 0).astype(values.dtype))
        elif key == "keypoints":
            np.testing.assert_allclose(numpy(result[key]), values, rtol=1e-4, atol=1e-3)
        else:
            np.testing.assert_array_equal(numpy(result[key]), values, err_msg=key)


@many(150)
@given(cases(bank=True))
def test_every_batch_equals_the_slow_reference(case):
    assert_equals_reference(case)


@many(12)
@given(cases(sides=st.integers(100, 2000), counts=st.integers(0, 2), blend_sigma=0.0, scale_range=(0.1, 0.6)))
def test_large_images_equal_the_slow_reference(case):
    assert_equals_reference(case)


@many(5)
@given(cases(sides=st.integers(1, 32), counts=st.integers(100, 300)))
def test_hundreds_of_objects_equal_the_slow_reference(case):
    assert_equals_reference(case)


@many(40)
@given(cases(masks=False, bank=True))
def test_batches_without_masks_equal_the_slow_reference(case):
    assert_equals_reference(case)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@settings(max_examples=4000)
@given(cases(bank=True))
def test_thousands_of_batches_equal_the_slow_reference(case):
    assert_equals_reference(case)


# What must hold for every batch


AS_IT_IS = {"placement": "source", "blend_sigma": 0.0, "aspect_range": (1.0, 1.0), "p_flip_vertical": 0.0, "erosion": 0}
AS_IT_IS |= {
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "label_weights": None,
    "source": "batch",
} | COLORS_STAY
SOME = {"sides": st.integers(1, 32), "counts": st.integers(0, 8), "p": 1.0}


@many(40)
@given(cases(**SOME))
def test_the_arguments_are_not_modified(case):
    before = copy.deepcopy((plain(case.images), plain(case.targets)))
    case.paste()
    assert (plain(case.images), plain(case.targets)) == before


@many(40)
@given(cases(**SOME))
def test_the_same_seed_gives_the_same_batch(case):
    first, second = case.paste(), case.paste()
    assert plain(first.images) == plain(second.images)
    assert plain(first.targets) == plain(second.targets)


@many(40)
@given(cases(blend_sigma=0.0, **SOME))
def test_pixels_on_which_nothing_was_pasted_are_untouched(case):
    pasted = case.paste()
    for i, (before, after) in enumerate(zip(case.images, pasted.images, strict=True)):
        covered = np.zeros(before.shape[1:], dtype=bool)
        for row in np.flatnonzero(pasted.plan.target.numpy() == i):
            mask = case.targets[int(pasted.plan.source[row])]["masks"][pasted.plan.instance[row]]
            covered |= nearest(numpy(mask) != 0, fixed(pasted.plan.to_source[row]), covered.shape)
        assert torch.equal(after[:, ~covered], before[:, ~covered])


@many(40)
@given(cases(**SOME))
def test_pasted_masks_share_no_pixel_with_any_other(case):
    pasted = case.paste()
    for i, fields in enumerate(pasted.targets):
        masks = numpy(fields["masks"]) != 0
        added = pasted.added[i]
        for j in range(len(masks) - added, len(masks)):
            assert not (masks[j] & np.delete(masks, j, axis=0).any(axis=0)).any()


@many(40)
@given(cases(**SOME))
def test_every_object_that_was_pasted_or_lost_pixels_has_a_tight_box_and_its_area(case):
    for before, after in zip(case.targets, case.paste().targets, strict=True):
        known = {mask.tobytes() for mask in numpy(before["masks"]) != 0}
        for j, mask in enumerate(numpy(after["masks"]) != 0):
            if mask.tobytes() not in known:
                assert after["boxes"][j].tolist() == box_around(mask)
                assert "area" not in after or after["area"][j] == mask.sum()


@many(40)
@given(cases(**SOME))
def test_all_fields_have_as_many_rows_as_there_are_labels(case):
    for fields in case.paste().targets:
        lengths = {key: len(values) for key, values in fields.items() if key != "image_id"}
        assert set(lengths.values()) == {len(fields["labels"])}


@many(40)
@given(cases(**SOME))
def test_no_object_loses_all_its_pixels_and_stays(case):
    for before, after in zip(case.targets, case.paste().targets, strict=True):
        empty = [int((masks.flatten(1).sum(1) == 0).sum()) for masks in (before["masks"], after["masks"])]
        assert empty[1] <= empty[0]


@many(40)
@given(cases(**SOME))
def test_crowds_are_never_copied(case):
    for before, after in zip(case.targets, case.paste().targets, strict=True):
        assert crowds(after).sum() <= crowds(before).sum()


@many(40)
@given(cases(p_instance=1.0, scale_range=(1.0, 1.0), p_flip=0.0, rotation=0.0, **AS_IT_IS, **SOME))
def test_without_jitter_pasted_pixels_are_the_sources_own_at_their_place(case):
    pasted = case.paste()
    for i, (before, after) in enumerate(zip(case.images, pasted.images, strict=True)):
        for source in set(pasted.plan.source[pasted.plan.target == i].tolist()):
            height, width = (min(a, b) for a, b in zip(before.shape[1:], case.images[source].shape[1:], strict=True))
            instances = pasted.plan.instance[pasted.plan.target == i]
            mask = (case.targets[source]["masks"][instances] != 0).any(0)[:height, :width]
            expected = torch.where(mask, case.images[source][:, :height, :width], before[:, :height, :width])
            assert torch.equal(after[:, :height, :width], expected)


@many(30)
@given(cases(**SOME))
def test_the_global_random_state_is_untouched_when_a_generator_is_given(case):
    before = torch.get_rng_state()
    case.paste()
    assert torch.equal(torch.get_rng_state(), before)


@many(30)
@given(cases(sides=st.integers(1, 32), counts=st.integers(0, 8), p=0.0))
def test_p_0_changes_nothing(case):
    pasted = case.paste()
    assert plain(pasted.images) == plain(case.images)
    assert (pasted.added, pasted.dropped) == ([0] * len(case.images), 0)
    for before, after in zip(case.targets, pasted.targets, strict=True):
        assert_same_target(after, before)


# Its edge: what it says


FULL = (0, 0, SIDE, SIDE)


def seeded():
    return torch.Generator().manual_seed(0)


def test_settings_come_as_one_value_by_name_or_both():
    targets = [target((0, 0, 4, 4)), target((4, 4, 8, 8))]
    knobs = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0)}
    one = copypaste_batch(make_images(), targets, generator=seeded(), settings=CopyPasteSettings(**knobs, p_flip=0.0))
    names = copypaste_batch(make_images(), targets, generator=seeded(), **knobs, p_flip=0.0)
    both = copypaste_batch(make_images(), targets, generator=seeded(), settings=CopyPasteSettings(**knobs), p_flip=0.0)
    assert plain(one) == plain(names) == plain(both)
    assert len(one[1][0]["labels"]) == 2


def test_torchs_default_generator_draws_where_none_is_given():
    targets = [target((0, 0, 4, 4)), target((4, 4, 8, 8))]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = copypaste_batch(make_images(), targets)
        torch.manual_seed(3)
        assert plain(copypaste_batch(make_images(), targets)) == plain(first)


@pytest.mark.parametrize("images", [torch.zeros(0, 3, SIDE, SIDE), []])
@pytest.mark.parametrize("targets", [torch.zeros(0, SIDE, SIDE, dtype=torch.int64), []])
@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("beyond", [False, True])
def test_an_empty_batch_comes_back_empty(images, targets, p, beyond):
    sources = {"bank": InstanceBank(1), "pool": Pool((7, make_images(1)[0], block(0, 0, 4, 4)))} if beyond else {}
    images, targets = copypaste_batch(images, targets, p=p, **sources)
    assert len(images) == len(targets) == 0


@pytest.mark.parametrize(
    ("targets", "knobs", "reason"),
    [
        ([target(FULL)], {}, "a batch of one image has no other image to copy from; raise the batch size"),
        ([target(FULL)] * 2, {"labels": (7,)}, "none of the batch's 2 objects may be copied"),
        ([target(FULL, iscrowd=torch.ones(1))] * 2, {}, "none of the batch's 2 objects may be copied"),
    ],
)
def test_it_says_why_nothing_could_be_pasted(targets, knobs, reason):
    with pytest.warns(NothingPastedWarning, match=f"^copy-paste changed nothing: {reason}"):
        images, after = copypaste_batch(make_images(len(targets)), targets, generator=seeded(), **knobs)
    assert plain(images) == plain(make_images(len(targets)))
    assert plain(after) == plain(targets)


@pytest.mark.parametrize(
    ("targets", "p"),
    [
        ([target(FULL)] * 2, 0.0),
        ([target(FULL)], 0.0),
        ([{"boxes": torch.zeros(1, 4), "labels": torch.ones(1).long()}] * 2, 0.0),
        ([target()] * 2, 1.0),
        ([target(FULL), target(FULL)], 1e-9),
    ],
)
def test_it_says_nothing_where_nothing_was_to_be_expected(targets, p):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copypaste_batch(make_images(len(targets)), targets, generator=seeded(), p=p)


def test_it_says_nothing_where_p_is_0_or_a_plan_leaves_out_what_could_be_copied_or_puts_it_outside():
    crowd = target(FULL, iscrowd=torch.ones(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copypaste_batch(make_images(), [crowd] * 2, bank=InstanceBank(1), p=0.0)
        copypaste_batch(make_images(), [crowd, target(FULL)], plan=plan_of())
        copypaste_batch(make_images(1), [crowd], plan=plan_of((0, 0, 0, ((1, 0, 99), (0, 1, 0)))))


def test_images_and_targets_of_different_number_are_an_error():
    with pytest.raises(ValueError, match=r"^expected a target for each image, got 2 images and 1 target$"):
        copypaste_batch(make_images(), [target()])


def test_a_setting_that_does_not_exist_is_an_error_that_names_it():
    with pytest.raises(TypeError, match="probability"):
        copypaste_batch(make_images(), [target()] * 2, probability=0.5)


def test_a_setting_out_of_its_limits_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"^p: expected at most 1, got 1\.5$"):
        copypaste_batch(make_images(), [target()] * 2, p=1.5)


def test_images_of_several_types_are_an_error():
    images = [torch.zeros(3, SIDE, SIDE), torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)]
    with pytest.raises(ValueError, match="expected images of one type and number of channels"):
        copypaste_batch(images, [target(), target()])


def test_images_on_several_devices_are_an_error():
    targets = [target(), {**target(), "masks": target()["masks"].to("meta")}]
    with pytest.raises(ValueError, match=r"^expected images on one device, got some on cpu and some on meta$"):
        copypaste_batch([make_images()[0], make_images()[1].to("meta")], targets)


def test_masks_must_be_where_their_image_is():
    targets = [
        target(),
        {**target((0, 0, 4, 4)), "masks": torch.zeros(1, SIDE, SIDE, dtype=torch.uint8, device="meta")},
    ]
    with pytest.raises(ValueError, match=r"targets\[1\]: expected masks where their image is, on cpu, got meta"):
        copypaste_batch(make_images(), targets)
    with pytest.raises(ValueError, match="expected masks where their image is"):
        copypaste_batch(make_images(), torch.zeros(2, SIDE, SIDE, dtype=torch.int64, device="meta"))


def test_a_plan_that_was_drawn_before_gives_the_same_batch():
    images, targets = make_images(3), [target((0, 0, 4, 4)), target((2, 2, 8, 8)), target((1, 1, 3, 6))]
    drawn = copypaste_batch(images, targets, p=1.0, generator=torch.Generator().manual_seed(3))
    plan = plan_batch(images, targets, p=1.0, generator=torch.Generator().manual_seed(3))
    replayed = copypaste_batch(images, targets, plan=plan)
    torch.testing.assert_close(replayed, drawn, rtol=0, atol=0)
    assert len(plan)


@pytest.mark.parametrize(
    ("row", "message"),
    [((5, 1, 0), "plan: expected target among the batch's 2 images, got 5"), ((0, 1, 3), "got 3")],
)
def test_a_plan_for_another_batch_is_an_error(row, message):
    plan = PastePlan.from_rows([(*row, ((1, 0, 0), (0, 1, 0)))])
    with pytest.raises(ValueError, match=message):
        copypaste_batch(make_images(), [target((0, 0, 4, 4))] * 2, plan=plan)


def test_a_plan_of_more_objects_for_an_image_than_kernels_can_number_is_an_error():
    plan = PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 0)))] * 32_768)
    with pytest.raises(ValueError, match=r"^plan: expected at most 32767 objects for one image, got 32768$"):
        copypaste_batch(make_images(), [target((0, 0, 4, 4))] * 2, plan=plan)


def test_a_plan_is_carried_out_whatever_p_is():
    plan = plan_of((0, 1, 0, IDENTITY))
    _, after = copypaste_batch(make_images(), [target(), target((0, 0, 4, 4))], plan=plan, p=0.0)
    assert len(after[0]["labels"]) == 1


def test_flags_say_of_each_object_whether_it_was_pasted():
    targets = target((0, 0, 2, 2)), target((4, 4, 6, 6), (6, 0, 8, 2)), target()
    plan = plan_of((0, 1, 0, IDENTITY), (0, 1, 1, IDENTITY), (1, 0, 0, IDENTITY))
    flagged = with_pasted_flags(carry_out(plan, make_images(3), targets))
    assert isinstance(flagged, tuple)
    assert [fields["pasted"].tolist() for fields in flagged] == [[False, True, True], [False, False, True], []]
    assert [len(fields["labels"]) for fields in flagged] == [3, 3, 0]


def test_maps_get_no_flags():
    maps, row = torch.zeros(2, SIDE, SIDE, dtype=torch.int64), (0, 1, 1, IDENTITY)
    maps[1, :2, :2] = 7
    result = carry_out(plan_of(row), make_images(), maps)
    assert result.added == [1, 0]
    assert with_pasted_flags(result) is result.targets
    pairs = [{"class_map": ids, "instance_map": ids} for ids in maps]
    result = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(), pairs)
    assert result.added == [1, 0]
    assert with_pasted_flags(result) is result.targets


def test_an_empty_plan_pastes_nothing():
    images, targets = make_images(), [target((0, 0, 4, 4)), target((2, 2, 8, 8))]
    pasted, _ = copypaste_batch(images, targets, plan=PastePlan.from_rows([]), p=1.0, p_instance=1.0)
    assert torch.equal(pasted, images)
