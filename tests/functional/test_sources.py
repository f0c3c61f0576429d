"""Cut-outs of a pool as sources: 8 x 8 pixels, whose answer is visible."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    SEEDS,
    SIDE,
    Pool,
    block,
    carry_out,
    corners_in_target,
    make_images,
    many,
    plain,
    plan_of,
    target,
)
from hypothesis import given
from hypothesis import strategies as st

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.copypaste import NothingPastedWarning, copypaste_batch, plan_batch
from composer_copypaste.functional.sources import weighted_categories
from composer_copypaste.settings import CopyPasteSettings

AS_IT_IS = {"p": 1.0, "p_pool": 1.0, "pool_scale_range": (1.0, 1.0), "p_flip": 0.0}


def cut_out(label, height=2, width=3, color=200):
    """A rectangle of one color, whose first pixel is not the object's."""
    mask = torch.ones(height, width, dtype=torch.uint8)
    mask[0, 0] = 0
    return label, torch.full((3, height, width), color, dtype=torch.uint8), mask


def drawn(pool, seed=0, targets=None, **settings):
    targets = [target()] if targets is None else targets
    generator = torch.Generator().manual_seed(seed)
    return plan_batch(make_images(len(targets)), targets, generator=generator, pool=pool, **{**AS_IT_IS, **settings})


def labels_drawn(pool, seeds=300, **settings):
    plans = [drawn(pool, seed, pool_instances=(4, 4), **settings) for seed in range(seeds)]
    return Counter(int(pool.labels[source - 1]) for plan in plans for source in plan.source.tolist())


def test_of_one_pool_each_settings_know_their_own_categories_and_weights():
    pool = Pool(cut_out(7), cut_out(5), cut_out(7))

    def categories(**settings):
        found = weighted_categories(pool, CopyPasteSettings(**settings))
        return [(label, weight, numbers.tolist()) for label, weight, numbers in found]

    for _ in range(2):  # what was found is kept
        assert categories() == [(5, 1, [1]), (7, 1, [0, 2])]
        assert categories(labels=(7,)) == [(7, 1, [0, 2])]
        assert categories(labels=(5,)) == [(5, 1, [1])]
        assert categories(label_weights={5: 3}) == [(5, 3, [1]), (7, 1, [0, 2])]


def test_an_image_without_annotations_receives_a_cut_out():
    plan = plan_of((0, 1, 0, ((1, 0, -4), (0, 1, -3))))
    result = carry_out(plan, make_images(1), [target()], pool=Pool(cut_out(7)))
    mask = block(4, 3, 7, 5)
    mask[3, 4] = 0
    assert torch.equal(
        result.images[0], torch.where(mask.bool(), torch.tensor(200, dtype=torch.uint8), make_images()[0])
    )
    (after,) = result.targets
    assert torch.equal(after["masks"], mask[None])
    assert after["boxes"].tolist() == [[4, 3, 7, 5]]
    assert after["labels"].tolist() == [7]
    assert result.added == [1]


def test_in_floating_point_its_colors_lie_from_0_to_1():
    for dtype in (torch.float32, torch.bfloat16):
        images = (make_images(1) / 255).to(dtype)
        after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, [target()], pool=Pool(cut_out(7, color=51))).images
        assert after.dtype == dtype
        assert after[0, :, 1, 1].tolist() == [torch.tensor(0.2).to(dtype)] * 3


def test_its_sources_come_after_those_of_the_bank():
    bank = InstanceBank(3)
    copypaste_batch(make_images(1), [target((0, 0, 2, 2), (4, 4, 6, 6), labels=[1, 2])], bank=bank, p=0.0)
    rows = plan_of((0, 2, 0, ((1, 0, -2), (0, 1, -2))), (0, 3, 0, ((1, 0, 0), (0, 1, -6))))
    after = carry_out(rows, make_images(1), [target()], bank=bank, pool=Pool(cut_out(7), cut_out(8)))
    assert after.targets[0]["labels"].tolist() == [2, 7]
    plans = [drawn(Pool(cut_out(7), cut_out(8)), seed) for seed in range(20)]
    assert set(torch.cat([plan.source for plan in plans]).tolist()) == {1, 2}


def test_a_drawn_plan_numbers_cut_outs_after_the_banks_objects():
    bank = InstanceBank(4)
    copypaste_batch(make_images(1), [target((0, 0, 2, 2), (4, 4, 6, 6))], bank=bank, p=0.0)
    assert drawn(Pool(cut_out(7)), bank=bank, pool_instances=(1, 1)).source.tolist() == [1 + 2]


@pytest.mark.parametrize("seed", range(8))
def test_rows_of_a_target_stand_together_wherever_its_objects_come_from(seed):
    targets = [target((0, 0, 2, 2), (4, 4, 6, 6))] * 4
    plan = drawn(Pool(cut_out(7)), seed, targets, p_pool=0.5, p_instance=1.0)
    assert plan.target.tolist() == sorted(plan.target.tolist())


@many(60)
@given(SEEDS, st.integers(1, 3), st.integers(0, 3))
def test_as_many_cut_outs_are_drawn_as_the_settings_say(seed, low, more):
    pool = Pool(cut_out(1), cut_out(2))
    assert low <= len(drawn(pool, seed, pool_instances=(low, low + more))) <= low + more
    assert len(drawn(pool, seed, pool_instances=(low + 2, low + 2), max_copied_instances=2)) == 2


def test_the_same_seed_draws_the_same_cut_outs():
    pool = Pool(cut_out(1), cut_out(2))
    assert drawn(pool, 3, pool_instances=(1, 99)) == drawn(pool, 3, pool_instances=(1, 99))


def test_every_number_of_cut_outs_is_as_likely_as_another():
    counts = Counter(len(drawn(Pool(cut_out(1)), seed, pool_instances=(2, 3))) for seed in range(300))
    assert set(counts) == {2, 3}
    assert min(counts.values()) > 125


def test_the_pool_is_the_source_with_its_probability():
    targets = [target((0, 0, 2, 2)), target((0, 0, 2, 2))]
    plans = [drawn(Pool(cut_out(1)), seed, targets, p_pool=0.3, p_instance=1.0) for seed in range(300)]
    from_pool = sum(bool((plan.source[plan.target == image] > 1).any()) for plan in plans for image in (0, 1))
    assert 0.24 < from_pool / 600 < 0.36
    assert all(len(plan.source[plan.target == image]) for plan in plans for image in (0, 1))


def test_categories_are_as_likely_as_each_other_however_many_cut_outs_they_have():
    counts = labels_drawn(Pool(*[cut_out(1)] * 9, cut_out(2)))
    assert abs(counts[1] / counts.total() - 0.5) < 0.05


def test_cut_outs_of_a_category_are_as_likely_as_each_other():
    pool = Pool(cut_out(2), *[cut_out(1)] * 3)
    plans = [drawn(pool, seed, pool_instances=(4, 4)) for seed in range(300)]
    counts = Counter(torch.cat([plan.source for plan in plans]).tolist())
    assert all(abs(counts[source] / 600 - 1 / 3) < 0.06 for source in (2, 3, 4))


@pytest.mark.parametrize(("setting", "column"), [("brightness", 0), ("contrast", 1), ("saturation", 2)])
def test_one_factor_of_color_is_drawn_alone_for_cut_outs_too(setting, column):
    pool = Pool(cut_out(1))
    color = torch.cat([drawn(pool, seed, **{setting: 0.25}).color for seed in range(20)])
    assert 0.75 <= color[:, column].min() < 0.85
    assert 1.15 < color[:, column].max() <= 1.25
    assert (color[:, [k for k in range(3) if k != column]] == 1).all()


def test_weights_of_categories_say_how_often_each_is_drawn():
    counts = labels_drawn(Pool(*[cut_out(1)] * 9, cut_out(2), cut_out(3)), label_weights={2: 3.0, 3: 0.0})
    assert set(counts) == {1, 2}
    assert abs(counts[2] / counts.total() - 0.75) < 0.05


def test_only_cut_outs_that_may_be_copied_are_drawn():
    pool = Pool(cut_out(1, 2, 2), cut_out(2, 3, 3), cut_out(3, 4, 4))
    assert set(labels_drawn(pool, 20, labels=(2, 3))) == {2, 3}
    assert set(labels_drawn(pool, 20, area_range=(5.0, 12.0))) == {2}
    assert set(labels_drawn(pool, 20, area_range=(5.0, 20.0), labels=(1, 3))) == {3}
    pool.image_pixels = np.array([40, 40, 16])
    other = Pool(*pool.cut_outs)
    other.image_pixels = np.array([40, 40, 16])
    assert set(labels_drawn(other, 20, relative_area_range=(0.2, 0.9))) == {2}


@pytest.mark.parametrize("function", [copypaste_batch, plan_batch])
def test_a_pool_of_which_nothing_may_be_copied_is_an_error(function):
    with pytest.raises(ValueError, match=r"^pool: none of its 1 cut-out may be copied; see categories, category_w"):
        function(make_images(), [target()] * 2, pool=Pool(cut_out(1)), labels=(2,))
    with pytest.raises(ValueError, match=r"^pool: none of its 1 cut-out may be copied"):
        function(make_images(), [target()] * 2, pool=Pool(cut_out(1)), label_weights={1: 0.0})


@many(60)
@given(SEEDS, st.sampled_from(["source", "random", "near"]), st.sampled_from([0.0, 90.0]))
def test_cut_outs_are_put_inside_each_at_a_place_of_its_own(seed, placement, rotation):
    pool = Pool(cut_out(1))
    plan = drawn(pool, seed, pool_instances=(3, 3), placement=placement, rotation=rotation)
    for row in range(3):
        corners = corners_in_target(plan, row, pool.boxes[0])
        assert corners.min() > -0.51
        assert (corners < SIDE + 0.51).all()


def test_each_cut_out_is_jittered_on_its_own_and_reaches_all_of_the_image():
    plans = [drawn(Pool(cut_out(1)), seed, pool_instances=(5, 5), pool_scale_range=(0.5, 2.0)) for seed in range(60)]
    assert all(len(plan.to_source[:, :, :2].unique(dim=0)) == 5 for plan in plans)
    scales = torch.cat([1 / plan.to_source[:, :, :2].det().abs().sqrt() for plan in plans])
    assert (scales.min() > 0.499) & (scales.max() < 2.001)
    middles = np.array([corners_in_target(plan, row, (0, 0, 3, 2)).mean(axis=0) for plan in plans for row in range(5)])
    assert (middles.min(axis=0) < 2.5).all()
    assert (middles.max(axis=0) > 5.5).all()


def test_cut_outs_may_be_put_partly_outside_and_kept_from_what_is_there():
    placed = drawn(Pool(cut_out(1, 6, 6)), pool_instances=(50, 50), placement="anywhere")
    corners = np.array([corners_in_target(placed, row, (0, 0, 6, 6)) for row in range(50)])
    assert corners.min() < -1
    full = [target((0, 0, SIDE, SIDE))]
    assert len(drawn(Pool(cut_out(1)), targets=full, placement="random", max_overlap=0.5)) == 0


def test_a_batch_of_one_with_a_pool_is_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingPastedWarning)
        copypaste_batch(make_images(1), [target()], pool=Pool(cut_out(1)), p_pool=0.1)


def test_class_id_maps_receive_the_labels_of_cut_outs():
    ids = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    result = carry_out(plan_of((0, 1, 0, ((1, 0, -4), (0, 1, -3)))), make_images(1), ids, pool=Pool(cut_out(7)))
    expected = block(4, 3, 7, 5) * 7
    expected[3, 4] = 0
    assert torch.equal(result.targets[0], expected)


def test_targets_of_boxes_alone_receive_the_box_of_a_cut_out():
    alone = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int32)}
    result = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), [alone], pool=Pool(cut_out(7)))
    assert plain(result.targets) == [
        {"boxes": (torch.float32, (1, 4), [[0, 0, 3, 2]]), "labels": plain(torch.tensor([7], dtype=torch.int32))}
    ]


def test_cut_outs_have_no_labelled_keypoints_and_no_other_field():
    given_ = target(keypoints=torch.zeros(0, 17, 3))
    result = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), [given_], pool=Pool(cut_out(7)))
    assert torch.equal(result.targets[0]["keypoints"], torch.zeros(1, 17, 3))
    for plan in (plan_of((0, 1, 0, IDENTITY)), plan_of()):
        with pytest.raises(ValueError, match=r"^targets: 'scores' has a row for each object, but cut-outs of the pool"):
            carry_out(plan, make_images(1), [target(scores=torch.zeros(0))], pool=Pool(cut_out(7)))


def test_a_label_that_the_batchs_type_just_holds_comes_in_it():
    given_ = {**target((4, 4, 6, 6)), "labels": torch.tensor([1], dtype=torch.uint8)}
    (after,) = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), [given_], pool=Pool(cut_out(255))).targets
    assert plain(after["labels"]) == plain(torch.tensor([1, 255], dtype=torch.uint8))


def test_a_batch_is_told_of_fields_that_its_bank_lacks_though_nothing_is_copied():
    bank = InstanceBank(3)
    copypaste_batch(make_images(1), [target((0, 0, 2, 2))], bank=bank, p=0.0)
    with pytest.raises(ValueError, match=r"^targets: the batch has 'scores' of its objects, which those of earlier"):
        carry_out(plan_of(), make_images(1), [target(scores=torch.zeros(0))], bank=bank)


def test_images_that_are_not_rgb_are_an_error():
    with pytest.raises(ValueError, match=r"^pool: its cut-outs are RGB, expected images of 3 channels, got 1$"):
        carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1)[:, :1], [target()], pool=Pool(cut_out(7)))


def test_a_cut_out_without_a_finite_box_is_an_error():
    pool = Pool(cut_out(1))
    pool.boxes = np.full((1, 4), np.nan)
    with pytest.raises(ValueError, match="expected a finite box, got"):
        carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), [target()], pool=pool)
