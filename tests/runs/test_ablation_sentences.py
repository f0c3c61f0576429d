"""What is said of a comparison: no more than its interval allows."""

import pytest

from composer_copypaste.metrics.bootstrap import Difference
from composer_copypaste.metrics.image_savings import ImageFactor
from composer_copypaste.runs.ablation.results import EvaluationSet
from composer_copypaste.runs.ablation.sentences import (
    describe_comparison,
    describe_limits,
    describe_needed_images,
    describe_reading,
    format_points,
    verdict_of,
)
from composer_copypaste.runs.ablation.summary import AblationSummary, Comparison

NAN = float("nan")


def comparison(value=0.012, low=0.003, high=0.02, **fields):
    given = {"images": 50.0, "seeds": (1, 2, 3, 4, 5), "left_out": (), "needed": None} | fields
    difference = Difference(value, low, high, 2000)
    return Comparison(
        name="copy_paste",
        fraction=0.1,
        differences={"segm": {"AP": difference}},
        per_category={"segm": {}},
        **given,
    )


def summary(groups=None, comparisons=1):
    return AblationSummary(
        title="low_data",
        baseline="plain",
        iou_type="segm",
        evaluation=EvaluationSet(166, groups, (1, 10, 100), {"nucleus": 900}),
        resamples=2000,
        confidence=0.95,
        runs=[],
        comparisons=[comparison()] * comparisons,
        not_compared=[],
        equal_work=[],
        failed=[],
        missing=[],
    )


def said(*given, groups=None, **fields):
    return describe_comparison(comparison(*given, **fields), summary(groups))


def test_an_interval_above_0_is_a_gain():
    assert said() == (
        "copy_paste at 10 % (50 images): mask AP is 1.2 points above that of plain (95 % interval 0.3 to 2.0; 5 seeds, "
        "166 evaluation images): a gain."
    )


def test_an_interval_below_0_is_a_loss():
    assert said(-0.012, -0.02, -0.003).endswith(
        "is 1.2 points below that of plain (95 % interval -2.0 to -0.3; 5 seeds, 166 evaluation images): a loss."
    )


def test_an_interval_with_0_names_no_difference_but_what_it_excludes():
    assert said(0.008, -0.004, 0.019).endswith(
        "5 seeds, 166 evaluation images): the interval includes 0, so no difference can be named; it excludes gains "
        "above 1.9 and losses of more than 0.4."
    )


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.01), (-0.01, 0.0), (0.0, 0.0)])
def test_an_interval_that_ends_at_0_includes_it(low, high):
    assert verdict_of(Difference(0.0, low, high, 2000)) == "unclear"


def test_an_end_near_0_is_not_shown_as_0():
    assert "0.03 to 2.00" in said(0.012, 0.0003, 0.02)
    assert "-0.04 to 1.90" in said(0.012, -0.0004, 0.019)


def test_no_difference_at_all_is_the_same():
    assert "mask AP is the same as that of plain (95 % interval 0.0 to 0.0" in said(0.0, 0.0, 0.0)


def test_with_one_seed_a_gain_is_one_of_this_seed():
    assert said(seeds=(3,)).endswith("1 seed, 166 evaluation images): a gain of this seed.")


def test_groups_are_counted():
    assert "5 seeds, 166 evaluation images in 16 groups" in said(groups=16)


def test_without_objects_nothing_is_known():
    assert said(NAN, NAN, NAN).endswith("no object counts in the evaluation images, so nothing is known.")


def test_a_mean_number_of_images_is_about_that():
    assert "copy_paste at 10 % (about 50 images)" in said(images=50.4)


@pytest.mark.parametrize(
    ("seeds", "left_out", "expected"),
    [
        ((1, 2, 3, 4, 5), (), []),
        ((1, 2), (), ["2 seeds are few: if scores differ more by seed than by image, up to 50 % of"]),
        ((4,), (), ["One seed: the interval is over evaluation images only"]),
        ((1, 2, 3, 4, 5), (6, 7), ["only one of copy_paste and plain has finished are left out: 6, 7."]),
        ((1, 2), (6,), ["2 seeds are few: ", "left out: 6."]),
    ],
)
def test_few_and_missing_seeds_are_said(seeds, left_out, expected):
    found = describe_limits(comparison(seeds=seeds, left_out=left_out), "plain")

    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


def needs(value, low, high):
    return describe_needed_images(comparison(needed=ImageFactor(value, low, high, 0.5, 4.0)), summary())


def test_a_saving_is_named_with_its_interval():
    assert needs(1.8, 1.2, float("inf")) == (
        "plain needs 1.8x the images to reach the mask AP of copy_paste at 10 % (95 % interval 1.2x to more than 4x)."
    )


def test_a_saving_whose_interval_includes_1_is_not_named():
    assert needs(1.3, 0.8, 2.1).endswith("(95 % interval 0.8x to 2.1x); the interval includes 1x, so no saving can be "
                                         "named.")  # fmt: skip


def test_what_lies_beyond_the_baselines_images_is_said_so():
    assert needs(float("inf"), 3.1, float("inf")) == (
        "plain does not reach the mask AP of copy_paste at 10 % with the most images it was trained on, 4x as many "
        "(95 % interval 3.1x to more than 4x)."
    )
    assert needs(0.0, 0.0, 0.0) == (
        "plain is above the mask AP of copy_paste at 10 % with the fewest images it was trained on, 0.5x as many "
        "(95 % of the resamples: less than 0.5x)."
    )
    assert describe_needed_images(comparison(), summary()) is None


@pytest.mark.parametrize(("value", "smallest", "largest"), [(float("inf"), 0.1, 1.0), (0.0, 1.0, 10.0)])
def test_that_more_or_fewer_images_than_there_are_would_be_needed_is_not_said(value, smallest, largest):
    needed = ImageFactor(value, value, value, smallest, largest)
    assert describe_needed_images(comparison(needed=needed), summary()) is None


def test_the_number_of_comparisons_is_said_and_how_many_miss_by_chance():
    how, many = describe_reading(summary(groups=16, comparisons=12))

    assert "2,000 resamples: each draws as many evaluation groups of images" in how
    assert "makes 12 comparisons of mask AP" in many
    assert "if no run differed from plain, 0.6 of 12 would exclude 0. With 5 seeds," in many
    assert "up to 16 % of such intervals exclude 0 by chance, not 5 %" in many
    _, one = describe_reading(summary(groups=16, comparisons=1))
    assert "of mask AP. Even of exact intervals, one in twenty misses the truth by chance. With" in one


@pytest.mark.parametrize(("value", "text"), [(-0.0004, "0.0"), (0.0, "0.0"), (-0.0106, "-1.1"), (0.0106, "+1.1")])
def test_points_have_a_sign_but_for_0(value, text):
    assert format_points(value, sign=True) == text
