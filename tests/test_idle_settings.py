"""Settings that would change nothing are refused, in Python, for each kind of targets, and in recipes."""

from dataclasses import fields

import pytest
import torch
from copypaste_cases import make_images, target

from composer_copypaste import CopyPaste, CopyPasteTransform, copypaste_batch, plan_batch
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.runs.data import copy_paste_settings
from composer_copypaste.settings import (
    AugmentSettings,
    CopyPasteSettings,
    LargeScaleJitterSettings,
    OfflineCopyPasteSettings,
    PredictSettings,
)
from composer_copypaste.settings.idle import OF_COPY_PASTE, WITHOUT_POOL

IDLE = [
    ({"max_shift": 0.3}, {"placement": "near"}),
    ({"overlap_by": "mask"}, {"max_overlap": 0.5}),
    ({"placement_tries": 99}, {"least_overlap_first": True}),
    ({"placement_tries": 99}, {"placement": "anywhere", "vanishing_line": 0.5}),
    ({"place_point": "bottom"}, {"placement": "anywhere", "place_map": [[1.0, 2.0]]}),
    ({"transfer_strength": 1.0}, {"color_transfer": "histogram"}),
    ({"transfer_strength": (0.0, 1.0)}, {"color_transfer": "reinhard"}),
    ({"repeat_threshold": 0.1}, {"category_weights": "repeat_factor"}),
    ({"hidden_geometry": "whole"}, {"geometry": {"obb": "corners"}}),
]
"""A setting, and what it needs."""


@pytest.mark.parametrize("kind", [CopyPasteSettings, OfflineCopyPasteSettings])
@pytest.mark.parametrize(("idle", "needed"), IDLE)
def test_a_setting_is_refused_in_one_line_without_what_it_needs_and_taken_with_it(kind, idle, needed):
    (name,) = idle
    with pytest.raises(ValueError, match=rf"^{name}: .* changes nothing without .*; give that too, or leave it out$"):
        kind(**idle)
    assert getattr(kind(**idle, **needed), name) == idle[name]


def test_a_setting_at_its_default_is_taken_as_not_given():
    defaults = {name: getattr(CopyPasteSettings, name) for name in (*OF_COPY_PASTE, *WITHOUT_POOL)}
    assert CopyPaste(**defaults).settings == CopyPasteSettings()


def test_how_factors_are_distributed_is_refused_where_none_is_drawn():
    fixed = {"scale_range": (1.0, 1.0), "scale_distribution": "log_uniform"}
    with pytest.raises(ValueError, match=r"^scale_distribution: .* changes nothing without a scale_range or"):
        CopyPasteSettings(pool_scale_range=(2.0, 2.0), **fixed)
    with pytest.raises(ValueError, match=r"^scale_distribution: .* changes nothing without a scale_range of"):
        CopyPaste(**fixed)
    assert CopyPasteSettings(**fixed).after_jitter().scale_distribution == "log_uniform"  # there may be a pool


@pytest.mark.parametrize("make", [CopyPaste, CopyPasteTransform])
@pytest.mark.parametrize(
    "idle",
    [
        {"p_pool": 1.0},
        {"pool_instances": (2, 2)},
        {"pool_scale_range": (1.0, 1.0)},
        {"placement_tries": 5, "max_overlap": 0.0},
    ],
)
def test_what_is_of_a_pool_is_refused_without_one(make, idle):
    name = next(iter(idle))
    with pytest.raises(ValueError, match=rf"^{name}: .* changes nothing without .*a pool of cut-outs"):
        make(**idle)
    with pytest.raises(ValueError, match=rf"^{name}: "):
        copypaste_batch(make_images(), [target()] * 2, **idle)


@pytest.mark.parametrize("call", [copypaste_batch, plan_batch])
@pytest.mark.parametrize("idle", [{"stop": "1ep"}, {"warmup": "1ep"}, {"histogram_interval": "9ba"}])
def test_times_of_a_training_are_refused_by_name_and_passed_over_in_a_recipes_settings(call, idle):
    with pytest.raises(ValueError, match=rf"^{next(iter(idle))}: .* in a function, which knows no time of a training"):
        call(make_images(), [target()] * 2, **idle)
    call(make_images(), [target()] * 2, settings=CopyPasteSettings(**idle))


PAIR = {"class_map": torch.ones(8, 8).long(), "instance_map": torch.ones(8, 8).long()}


@pytest.mark.parametrize(
    ("targets", "idle"),
    [
        ([target()] * 2, {"background": 3}),
        ([target()] * 2, {"ignore_index": None}),
        ([PAIR] * 2, {"background": 3}),
        (torch.ones(2, 8, 8).long(), {"min_visibility": 0.5}),
        (torch.ones(2, 8, 8).long(), {"min_area": 9}),
        (torch.ones(2, 8, 8).long(), {"object_keys": ("depth",)}),
        (torch.ones(2, 8, 8).long(), {"geometry": {"obb": "corners"}}),
        (torch.ones(2, 8, 8).long(), {"keypoint_pairs": ()}),
        (torch.ones(2, 8, 8).long(), {"keep_masks": False}),
    ],
)
def test_what_is_of_another_kind_of_targets_is_refused(targets, idle):
    for call in (copypaste_batch, plan_batch):
        with pytest.raises(ValueError, match=rf"^{next(iter(idle))}: .* changes nothing .*; leave it out$"):
            call(make_images(), targets, p=0.0, **idle)


def test_panoptic_pairs_have_an_ignored_class():
    copypaste_batch(make_images(), [PAIR] * 2, ignore_index=7)


@pytest.mark.parametrize(
    ("kind", "idle", "needed"),
    [
        (LargeScaleJitterSettings, {"hidden_geometry": "whole"}, {"geometry": {"obb": "corners"}}),
        (AugmentSettings, {"quality": 80, "format": "png"}, {"format": "jpeg"}),
        (PredictSettings, {"overlap": 0.5}, {"tiles": 512}),
    ],
)
def test_other_settings_are_refused_alike(kind, idle, needed):
    with pytest.raises(ValueError, match=rf"^{next(iter(idle))}: .* changes nothing without"):
        kind(**idle)
    kind(**{**idle, **needed})


def test_a_recipe_without_a_pool_refuses_what_is_of_one():
    recipe = load_recipe("quickstart", ["copy_paste.p_pool=1"])
    with pytest.raises(ValueError, match=r"^copy_paste\.p_pool: 1\.0 changes nothing without .*data\.pool"):
        copy_paste_settings(recipe, ["disc", "star", "rectangle"])


def test_every_setting_of_the_tables_exists():
    assert {*OF_COPY_PASTE, *WITHOUT_POOL} <= {field.name for field in fields(CopyPasteSettings)}
