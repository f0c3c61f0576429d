"""Properties of drawn plans, over seeds."""

import json
import math
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from copypaste_cases import SEEDS, corners_in_target, knobs, many
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close as assert_equal

from composer_copypaste.functional.plan import ImageInfo, PastePlan
from composer_copypaste.functional.sampling import draw_plan
from composer_copypaste.settings import CopyPasteSettings


def image_info(height=40, width=60, objects=6, weights=1):
    corners = np.array([[5.0 * i, 3.0 * i, 5.0 * i + 8, 3.0 * i + 9] for i in range(objects)]).reshape(-1, 4)
    return ImageInfo(height, width, corners, np.broadcast_to(np.float64(weights), objects))


def drawn(infos, seed=0, **settings):
    return draw_plan(infos, CopyPasteSettings(**settings), torch.Generator().manual_seed(seed))


IMAGES = [image_info(), image_info(30, 20), image_info(10, 10, objects=0), image_info(64, 64, objects=12)]


def test_a_limit_of_objects_may_be_any_whole_number():
    without, limited = (drawn(IMAGES, max_copied_instances=most) for most in (None, 10**30))
    assert limited == without


@many(60)
@given(knobs(overlap_by="box"), SEEDS)
def test_the_same_seed_draws_the_same_plan(settings, seed):
    plans = [draw_plan(IMAGES, CopyPasteSettings(**settings), torch.Generator().manual_seed(seed)) for _ in range(2)]
    for field in fields(PastePlan):
        assert_equal(*(getattr(plan, field.name) for plan in plans), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("settings", "rows", "instances", "maps", "colors"),
    [
        ({}, 146, 658, 696.093, 438),
        ({"jitter": "instance", "rotation": 20.0, "p": 1.0}, 274, 1235, 5238.114, 822),
        ({"placement": "random", "p_instance": 0.7, "brightness": 0.3}, 186, 784, 5016.131, 554.725),
        ({"placement": "anywhere", "aspect_range": (0.5, 2.0), "max_copied_instances": 2}, 53, 207, 1050.414, 159),
        ({"placement": "random", "max_overlap": 0.2, "jitter": "instance"}, 146, 658, 4353.146, 438),
        ({"placement": "anywhere", "max_overlap": 0.2, "scale_distribution": "log_uniform"}, 146, 658, -1466.378, 438),
        ({"placement": "near", "max_shift": 0.3}, 146, 658, -537.220, 438),
    ],
)
def test_a_seed_draws_what_it_drew_in_earlier_versions(settings, rows, instances, maps, colors):
    plans = [drawn(IMAGES, seed, **settings) for seed in range(20)]
    assert sum(map(len, plans)) == rows
    assert sum(int(plan.instance.sum()) for plan in plans) == instances
    assert sum(float(plan.to_source.sum()) for plan in plans) == pytest.approx(maps, abs=1e-3)
    assert sum(float(plan.color.sum()) for plan in plans) == pytest.approx(colors, abs=1e-3)
    assert not any(plan.seed.any() for plan in plans)


def test_a_seed_draws_the_seeds_of_transforms_that_it_drew_in_earlier_versions():
    plan = drawn(IMAGES, object_transform=lambda image, alpha: (image, alpha))
    assert plan.seed[:4].tolist() == [954863080, 1659957521, 1729147268, 1932520490]


@many(60)
@given(knobs(source="batch", overlap_by="box"), SEEDS)
def test_no_image_is_its_own_source_and_each_has_one(settings, seed):
    plan = draw_plan(IMAGES, CopyPasteSettings(**settings), torch.Generator().manual_seed(seed))
    assert (plan.target != plan.source).all()
    assert all(len(plan.source[plan.target == image].unique()) <= 1 for image in range(len(IMAGES)))


@many(60)
@given(knobs(overlap_by="box"), SEEDS)
def test_rows_of_one_target_stand_together_and_no_object_comes_twice(settings, seed):
    plan = draw_plan(IMAGES, CopyPasteSettings(**settings), torch.Generator().manual_seed(seed))
    rows = list(zip(plan.target.tolist(), plan.instance.tolist(), strict=True))
    assert rows == sorted(set(rows))


@many(60)
@given(SEEDS, st.integers(1, 3))
def test_no_image_receives_more_than_the_maximum(seed, maximum):
    plan = drawn(IMAGES, seed, p=1.0, p_instance=1.0, max_copied_instances=maximum)
    assert plan.target.bincount(minlength=len(IMAGES)).max() <= maximum


@many(50)
@given(SEEDS)
def test_objects_that_may_not_be_copied_are_not(seed):
    infos = [image_info(weights=np.arange(6) % 2 == 0)] * 3
    plan = drawn(infos, seed, p=1.0)
    assert (plan.instance % 2 == 0).all()


@many(50)
@given(SEEDS)
def test_p_0_draws_nothing_and_p_1_reaches_every_image(seed):
    assert len(drawn(IMAGES, seed, p=0.0)) == 0
    infos = [image_info()] * 4
    assert set(drawn(infos, seed, p=1.0, p_instance=1.0).target.tolist()) == {0, 1, 2, 3}


@many(50)
@given(SEEDS, st.sampled_from(["image", "instance"]))
def test_no_jitter_gives_the_identity(seed, jitter):
    plan = drawn([image_info()] * 3, seed, p=1.0, scale_range=(1.0, 1.0), p_flip=0.0, jitter=jitter)
    assert torch.equal(plan.to_source, torch.eye(2, 3, dtype=torch.float64).expand(len(plan), 2, 3))


@many(50)
@given(SEEDS)
def test_one_jitter_for_the_image_moves_all_its_objects_alike(seed):
    plan = drawn([image_info()] * 3, seed, p=1.0, rotation=30.0)
    for image in range(3):
        assert len(plan.to_source[plan.target == image].unique(dim=0)) <= 1


def test_a_jitter_for_each_instance_moves_objects_differently():
    plan = drawn([image_info()] * 2, p=1.0, p_instance=1.0, jitter="instance")
    assert len(plan.to_source[:, :, :2].unique(dim=0)) == len(plan) == 12


@many(60)
@given(SEEDS, st.sampled_from(["image", "instance"]))
def test_scales_stay_in_their_range(seed, jitter):
    plan = drawn(IMAGES, seed, p=1.0, scale_range=(0.5, 1.5), rotation=90.0, jitter=jitter)
    scales = 1 / plan.to_source[:, :, :2].det().abs().sqrt()
    assert ((scales > 0.499) & (scales < 1.501)).all()


def test_scales_are_spread_over_their_range():
    plans = [
        drawn([image_info(objects=1)] * 2, seed, p=1.0, p_instance=1.0, scale_range=(0.5, 1.5)) for seed in range(300)
    ]
    scales = torch.cat([1 / plan.to_source[:, :, :2].det().abs().sqrt() for plan in plans])
    counts = torch.histc(scales.float(), bins=5, min=0.5, max=1.5)
    assert counts.min() > 0.7 * counts.mean()


def test_half_of_the_images_are_flipped():
    plans = [drawn([image_info(objects=1)] * 2, seed, p=1.0, p_instance=1.0) for seed in range(300)]
    flipped = torch.cat([plan.to_source[:, :, :2].det() < 0 for plan in plans])
    assert 0.44 < flipped.double().mean() < 0.56


@many(50)
@given(SEEDS)
def test_rotation_stays_within_its_degrees(seed):
    plan = drawn([image_info()] * 2, seed, p=1.0, p_flip=0.0, rotation=25.0, jitter="instance")
    angles = torch.atan2(plan.to_source[:, 1, 0], plan.to_source[:, 0, 0]).rad2deg().abs()
    assert (angles <= 25.001).all()


@many(60)
@given(SEEDS, st.sampled_from([0.0, 180.0]))
def test_random_placement_puts_what_fits_inside(seed, rotation):
    infos = [image_info()] * 2
    plan = drawn(infos, seed, p=1.0, placement="random", scale_range=(0.5, 1.5), rotation=rotation)
    for row in range(len(plan)):
        corners = corners_in_target(plan, row, infos[0].boxes[plan.instance[row]])
        assert corners.min() > -0.51  # shifts are rounded to whole pixels
        assert (corners < np.array([60, 40]) + 0.51).all()


def test_random_placement_reaches_all_of_the_image():
    plans = [drawn([image_info(objects=1)] * 2, seed, p=1.0, p_instance=1.0, placement="random") for seed in range(300)]
    middles = np.array([corners_in_target(plan, 0, image_info().boxes[0]).mean(axis=0) for plan in plans])
    for axis, side in ((0, 60), (1, 40)):
        assert middles[:, axis].min() < side / 4
        assert middles[:, axis].max() > side * 3 / 4


@many(50)
@given(SEEDS)
def test_a_small_jittered_source_stays_inside_its_own_canvas_and_a_large_one_covers_it(seed):
    for low, high in ((0.2, 0.9), (1.1, 2.0)):
        plan = drawn([image_info()] * 2, seed, p=1.0, p_instance=1.0, scale_range=(low, high))
        corners = corners_in_target(plan, 0, (0, 0, 60, 40))
        gaps = np.concatenate([corners.min(axis=0), np.array([60, 40]) - corners.max(axis=0)])
        assert (gaps >= -0.51).all() if high < 1 else (gaps <= 0.51).all()


@many(50)
@given(SEEDS)
def test_jittered_instances_stay_around_their_middle(seed):
    infos = [image_info()] * 2
    plan = drawn(infos, seed, p=1.0, jitter="instance", rotation=45.0)
    for row in range(len(plan)):
        box = infos[0].boxes[plan.instance[row]]
        np.testing.assert_allclose(corners_in_target(plan, row, box).mean(axis=0), (box[:2] + box[2:]) / 2, atol=0.51)


def test_every_number_of_objects_is_as_likely_as_another():
    counts = Counter(len(drawn([image_info(objects=3), image_info(objects=0)], seed, p=1.0)) for seed in range(400))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 0.7 * 100


def test_every_other_image_is_as_likely_a_source():
    plans = [drawn([image_info()] * 4, seed, p=1.0, p_instance=1.0, max_copied_instances=1) for seed in range(200)]
    pairs = Counter((t, s) for plan in plans for t, s in zip(plan.target.tolist(), plan.source.tolist(), strict=True))
    assert len(pairs) == 12
    assert min(pairs.values()) > 35


def test_each_object_is_copied_with_its_probability():
    plans = [drawn([image_info()] * 2, seed, p=1.0, p_instance=0.3) for seed in range(200)]
    assert 0.26 < sum(map(len, plans)) / (200 * 2 * 6) < 0.34


def test_the_first_object_chosen_is_so_with_a_chance_proportional_to_its_weight():
    infos = [image_info(objects=3, weights=[1, 2, 5]), image_info(objects=0)]
    first = Counter(
        drawn(infos, seed, p=1.0, max_copied_instances=1).instance.tolist()[0]
        for seed in range(1100)
        if len(drawn(infos, seed, p=1.0)) > 0
    )
    for instance, share in enumerate([1 / 8, 2 / 8, 5 / 8]):
        assert abs(first[instance] / first.total() - share) < 0.06


def test_with_weights_every_number_of_objects_is_as_likely_as_another():
    infos = [image_info(objects=3, weights=[1, 2, 50]), image_info(objects=0)]
    counts = Counter(len(drawn(infos, seed, p=1.0)) for seed in range(400))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 0.7 * 100


def test_the_probability_of_an_instance_is_multiplied_by_its_weight():
    infos = [image_info(objects=3, weights=[1, 3, 9]), image_info(objects=0)]
    plans = [drawn(infos, seed, p=1.0, p_instance=0.2) for seed in range(400)]
    shares = torch.cat([plan.instance for plan in plans]).bincount(minlength=3) / 400
    assert (shares - torch.tensor([0.2, 0.6, 1.0])).abs().max() < 0.07


def test_of_the_objects_that_their_probability_chose_a_limit_keeps_each_as_often():
    infos = [image_info(objects=2, weights=[1, 1000]), image_info(objects=0)]
    plans = [drawn(infos, seed, p=1.0, p_instance=1.0, max_copied_instances=1) for seed in range(100)]
    assert 0.3 < sum(plan.instance.tolist() == [0] for plan in plans) / 100 < 0.7


@pytest.mark.parametrize("infos", [[], [image_info()], [image_info(objects=0)] * 3])
def test_where_there_is_no_source_the_plan_is_empty(infos):
    plan = drawn(infos, p=1.0)
    assert len(plan) == 0
    assert plan.to_source.shape == (0, 2, 3)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    drawn(IMAGES, p=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plan_survives_json():
    plan = PastePlan.from_rows([(0, 1, 2, ((0.5, 0.0, 3.0), (0.0, 0.5, 0.25))), (1, 0, 0, ((1, 0, 0), (0, 1, 0)))])
    again = PastePlan.from_json(plan.to_json())
    for field in fields(PastePlan):
        assert_equal(getattr(again, field.name), getattr(plan, field.name), rtol=0, atol=0, equal_nan=True)


@many(20)
@given(SEEDS, st.sampled_from([0.0, 45.0]))
def test_what_settings_let_be_drawn_in_large_images_can_be_replayed(seed, rotation):
    infos = [image_info(8192, 8192)] * 2
    tiny = {"scale_range": (0.01, 0.01), "aspect_range": (0.1, 0.1), "placement": "random", "rotation": rotation}
    drawn(infos, seed, p=1.0, **tiny).check(infos, 0)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"target": 0}]'])
def test_json_that_is_no_plan_is_an_error(text):
    with pytest.raises(ValueError, match="expected a JSON list of objects with target, source, instance, to_source"):
        PastePlan.from_json(text)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"to_source": 3}, ""),  # whose words are beartype's in tests
        ({"target": 0.5}, ""),
        (
            {"to_source": [[1, 0], [0, 1]]},
            r"ValueError: plan: row 0: expected to_source to be 2 x 3 numbers, got \[\[1, 0\], \[0, 1\]\]",
        ),
        (
            {"to_source": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]},
            r"ValueError: plan: row 0: expected to_source to be 2 x 3 numbers, got \[",
        ),
        ({"color": [1, 1]}, r"ValueError: plan: row 0: expected color to be 3 numbers, got \[1, 1\]"),
        ({"target": 10**30}, "ValueError: plan: row 0: expected target to be a whole number, got 1000"),
        ({"target": 2**63}, "ValueError: plan: row 0: expected target to be a whole number, got 9223372036854775808"),
        ({"hue": [1, 1, 1]}, "unknown key 'hue'"),
    ],
)
def test_json_whose_row_is_wrong_is_an_error_that_says_how(change, problem):
    row = {"target": 0, "source": 1, "instance": 0, "to_source": [[1, 0, 0], [0, 1, 0]]}
    with pytest.raises(ValueError, match=rf"expected a JSON list of objects.*: {problem}"):
        PastePlan.from_json(json.dumps([row | change]))


def test_a_printed_plan_says_what_each_image_receives():
    plan = PastePlan.from_rows([(0, 1, 2, ((1, 0, 0), (0, 1, 0)))])
    assert str(plan) == "image 0 receives object 2 of source 1, by [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]"


def test_a_printed_plan_says_how_colors_change():
    plan = PastePlan.from_rows([(0, 1, 2, ((1, 0, 0), (0, 1, 0)), (0.5, 1, 1))])
    assert str(plan).endswith("[0.0, 1.0, 0.0]], colors times [0.5, 1.0, 1.0]")


def test_a_row_of_json_may_spell_its_color_as_before():
    (row,) = json.loads(PastePlan.from_rows([(0, 1, 0, [[1, 0, 0], [0, 1, 0]], (0.5, 2.0, 1.0))]).to_json())
    assert row.pop("color") == [0.5, 2.0, 1.0]
    assert PastePlan.from_json(json.dumps([{**row, "colour": [0.5, 2.0, 1.0]}])).color.tolist() == [[0.5, 2.0, 1.0]]


def test_a_row_of_json_may_leave_out_its_color():
    plan = PastePlan.from_json('[{"target": 0, "source": 1, "instance": 0, "to_source": [[1, 0, 0], [0, 1, 0]]}]')
    assert plan.color.tolist() == [[1, 1, 1]]


def test_what_is_drawn_of_seams_and_colors_survives_json_and_nothing_is_written_where_nothing_is():
    plain = (0, 1, 2, ((1, 0, 0), (0, 1, 0)))
    plan = PastePlan.from_rows([plain, (*plain, (1, 1, 1), 1.5, 0.25, 7)])
    first, second = json.loads(plan.to_json())
    assert set(first) == {"target", "source", "instance", "to_source", "color"}
    assert (second["blend_sigma"], second["transfer_strength"], second["seed"]) == (1.5, 0.25, 7)
    assert PastePlan.from_json(plan.to_json()) == plan
    assert str(plan).splitlines()[1].endswith(", blend_sigma 1.5, transfer_strength 0.25, seed 7")


@pytest.mark.parametrize(
    ("further", "problem"),
    [
        ((-1.0,), "blend_sigma to be from 0 to 50, got -1.0"),
        ((None, 1.5), "transfer_strength to be from 0 to 1, got 1.5"),
        ((None, None, -1), "seed to be from 0 to 2147483647, got -1"),
    ],
)
def test_drawn_numbers_out_of_their_limits_are_an_error(further, problem):
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 4.0, 4.0]]), np.ones(1))
    plan = PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 0)), None, *further)])
    with pytest.raises(ValueError, match=f"^plan: expected {problem}$"):
        plan.check([info, info], 0)


def test_ranges_of_seams_and_strengths_are_drawn_for_each_object_and_change_no_other_number():
    both = {"blend_sigma": (1.0, 3.0), "transfer_strength": (0.2, 0.4), "color_transfer": "histogram"}
    for settings in ({}, {"jitter": "instance", "brightness": 0.3}):
        without, plan = drawn(IMAGES, **settings), drawn(IMAGES, **settings, **both)
        for name in ("target", "source", "instance", "to_source", "color"):
            assert torch.equal(getattr(plan, name), getattr(without, name))
        assert without.blend_sigma.isnan().all()
        assert without.transfer_strength.isnan().all()
        for column, low, high in ((plan.blend_sigma, 1.0, 3.0), (plan.transfer_strength, 0.2, 0.4)):
            assert len(column.unique()) == len(plan) > 5
            assert low <= column.min() < low + (high - low) / 3
            assert high - (high - low) / 3 < column.max() < high


@pytest.mark.parametrize("jitter", ["image", "instance"])
@pytest.mark.parametrize(("setting", "column"), [("brightness", 0), ("contrast", 1), ("saturation", 2)])
def test_one_factor_of_color_is_drawn_alone(setting, column, jitter):
    color = torch.cat([drawn(IMAGES, seed, jitter=jitter, **{setting: 0.25}).color for seed in range(10)])
    changed = color[:, column]
    assert 0.75 <= changed.min() < 0.85
    assert 1.15 < changed.max() <= 1.25
    assert (color[:, [k for k in range(3) if k != column]] == 1).all()


def test_a_number_for_the_seam_leaves_the_generator_as_it_was():
    states = []
    for sigma in (0.0, 2.0):
        generator = torch.Generator().manual_seed(0)
        draw_plan(IMAGES, CopyPasteSettings(blend_sigma=sigma), generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_a_plan_without_what_the_settings_have_a_range_of_is_an_error():
    plan = PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 0)), None, 1.0), (0, 1, 0, ((1, 0, 0), (0, 1, 0)))])
    with pytest.raises(ValueError, match=r"^plan: row 1: expected blend_sigma, since the settings have a range, .*"):
        plan.completed(CopyPasteSettings(blend_sigma=(0.0, 2.0)))
    assert plan.completed(CopyPasteSettings(blend_sigma=2.0)).blend_sigma.tolist() == [1.0, 2.0]
    drawn_ = PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 0)), None, 1.0)])
    assert drawn_.completed(CopyPasteSettings(blend_sigma=(0.0, 2.0))).blend_sigma.tolist() == [1.0]


def test_a_whole_number_of_64_bits_is_read_as_it_is():
    largest = 2**63 - 1
    plan = PastePlan.from_rows([(largest, -largest, 127, ((1, 0, 0), (0, 1, 0)))])
    assert (plan.target.tolist(), plan.source.tolist(), plan.instance.tolist()) == ([largest], [-largest], [127])


@pytest.mark.parametrize("to_source", [((0, 0, 1), (0, 1, 0)), ((1, 2, 0), (2, 4, 0)), ((0.01, 0, 0), (0, 0.0099, 0))])
def test_a_map_that_has_no_way_back_is_an_error(to_source):
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 4.0, 4.0]]), np.ones(1))
    with pytest.raises(ValueError, match="expected a to_source that can be inverted"):
        PastePlan.from_rows([(0, 1, 0, to_source)]).check([info, info], 0)


@pytest.mark.parametrize(
    ("place", "number"),
    [
        *(((0, 0), number) for number in (math.nan, math.inf, -1e30, 65537)),
        *(((1, 2), number) for number in (math.nan, -math.inf, 1e30, 4194305)),
    ],
)
def test_a_map_of_numbers_that_are_none_or_too_large_is_an_error(place, number):
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 4.0, 4.0]]), np.ones(1))
    plan = PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 0)))])
    plan.to_source[0][place] = number
    with pytest.raises(ValueError, match="plan: expected a to_source of numbers up to 65536, and shifts up to 4194304"):
        plan.check([info, info], 0)


@pytest.mark.parametrize(
    ("to_source", "color"),
    [
        (((65536, 0, 4194304), (0, -65536, -4194304)), (0, 1024, 1)),
        (((0, 65536, 0), (-65536, 0, 0)), (1, 1, 1024)),
        (((0.01, 0, 0), (0, 0.01, 0)), (1, 1, 1)),  # an object becomes 100 times as wide and as high
    ],
)
def test_the_largest_numbers_of_a_plan_are_taken(to_source, color):
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 4.0, 4.0]]), np.ones(1))
    PastePlan.from_rows([(0, 1, 0, to_source, color, 50.0, 1.0, 2**31 - 1)]).check([info, info], 0)


@pytest.mark.parametrize(
    ("row", "extra", "problem"),
    [
        ((-1, 1, 0), 0, "target among the batch's 2 images, got -1"),
        ((2, 1, 0), 0, "target among the batch's 2 images, got 2"),
        (
            (0, -1, 0),
            0,
            "source among the batch's 2 images and 0 sources beyond it, got -1; a plan",
        ),
        ((0, 3, 0), 1, "source among the batch's 2 images and 1 source beyond it, got 3; a plan"),
        ((0, 1, -1), 0, "instance among the 1 object of source 1, got -1"),
        ((0, 2, 1), 1, "instance among the 1 object of source 2, got 1"),
    ],
)
def test_a_plan_may_only_name_images_and_objects_that_are_there(row, extra, problem):
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 4.0, 4.0]]), np.ones(1))
    with pytest.raises(ValueError, match=f"^plan: expected {problem}"):
        PastePlan.from_rows([(*row, ((1, 0, 0), (0, 1, 0)))]).check([info, info], extra)


@pytest.mark.parametrize("factor", [-1, math.nan, math.inf])
def test_factors_of_color_that_are_none_are_an_error(factor):
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 4.0, 4.0]]), np.ones(1))
    plan = PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 0)), (1, factor, 1))])
    with pytest.raises(ValueError, match="plan: expected factors of color from 0 to 1024, got"):
        plan.check([info, info], 0)


def test_plans_are_equal_when_their_rows_are():
    row = (0, 1, 2, ((1, 0, 0), (0, 1, 0)))
    plan = PastePlan.from_rows([row])
    assert plan == PastePlan.from_json(plan.to_json())
    assert len({plan, PastePlan.from_rows([row])}) == 1
    others = [[], [row, row], [(1, *row[1:])], [(*row[:3], ((1, 0, 0.5), (0, 1, 0)))], [(*row, (1, 0.9, 1))]]
    assert all(plan != PastePlan.from_rows(rows) for rows in others)
    assert plan != plan.to_json()


def test_an_image_may_receive_as_many_objects_as_kernels_can_number_beside_others():
    info, to_source = ImageInfo(8, 8, np.array([[0.0, 0.0, 4.0, 4.0]]), np.ones(1)), ((1, 0, 0), (0, 1, 0))
    rows = [(1, 0, 0, to_source), *[(0, 1, 0, to_source)] * 32_767]
    PastePlan.from_rows(rows).check([info, info], 0)
    with pytest.raises(ValueError, match=r"^plan: expected at most 32767 objects for one image, got 32768$"):
        PastePlan.from_rows([*rows, rows[-1]]).check([info, info], 0)


def test_sources_beyond_the_batch_are_named_ascending_and_once():
    plan = PastePlan.from_rows([(0, source, 0, ((1, 0, 0), (0, 1, 0))) for source in (8, 1, 8, 3, 0)])
    assert plan.sources_from(1) == [1, 3, 8]
