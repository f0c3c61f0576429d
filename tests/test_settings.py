"""Limits of settings, and what is said where a value is outside them."""

import ast
import inspect
import math
from dataclasses import fields
from itertools import pairwise

import pytest

from composer_copypaste.settings import (
    AugmentSettings,
    CopyPasteSettings,
    LargeScaleJitterSettings,
    MaskRCNNSettings,
    OfflineCopyPasteSettings,
    ShapesSettings,
    settings_from,
)


@pytest.mark.parametrize("settings", [CopyPasteSettings, LargeScaleJitterSettings, MaskRCNNSettings, ShapesSettings])
def test_defaults_are_within_their_limits(settings):
    defaults = {field.name: field.default for field in fields(settings)}
    assert settings(**defaults) == settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("p", -0.1, "at least 0"),
        ("p", 1.1, "at most 1"),
        ("p", float("nan"), "a finite number"),
        ("max_copied_instances", 0, "at least 1"),
        ("p_instance", 1.5, "at most 1"),
        ("rotation", 181.0, "at most 180"),
        ("blend_sigma", -1.0, "at least 0"),
        ("min_visibility", 2.0, "at most 1"),
        ("min_area", 0, "at least 1"),
    ],
)
def test_a_number_outside_its_limits_is_an_error_that_names_the_setting(name, value, expected):
    with pytest.raises(ValueError, match=f"^{name}: expected {expected}, got {value}$"):
        CopyPasteSettings(**{name: value})


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((0.0, 1.0), "at least 0.01, got 0.0"),
        ((1.0, 11.0), "at most 10, got 11.0"),
        ((0.0, 11.0), "at least 0.01, got 0.0"),
    ],
)
def test_each_end_of_a_range_has_the_limits(scales, expected):
    with pytest.raises(ValueError, match=f"^scale_range: expected {expected}$"):
        CopyPasteSettings(scale_range=scales)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"category_weights": {3: -1.0}}, "category_weights: expected at least 0, got -1.0"),
        ({"category_weights": {3: math.inf}}, "category_weights: expected a finite number, got inf"),
        ({"blend_sigma": (1.0, 60.0)}, "blend_sigma: expected at most 50, got 60.0"),
        ({"blend_sigma": (3.0, 1.0)}, r"blend_sigma: expected \(smallest, largest\), got \(3.0, 1.0\)"),
        ({"area_range": (9.0, 1.0)}, r"area_range: expected \(smallest, largest\), got \(9.0, 1.0\)"),
        ({"area_range": (1.0, math.inf)}, "area_range: expected a finite number, got inf"),
        ({"relative_area_range": (0.0, 2.0)}, "relative_area_range: expected at most 1, got 2.0"),
    ],
)
def test_a_selection_outside_its_limits_is_an_error(knobs, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        CopyPasteSettings(**knobs)


@pytest.mark.parametrize("settings", [LargeScaleJitterSettings(), {"p": 0.5}])
def test_settings_of_another_kind_are_an_error(settings):
    with pytest.raises(TypeError, match=r"^settings: expected CopyPasteSettings, got .*; give single"):
        settings_from(CopyPasteSettings, settings, {})


@pytest.mark.parametrize("settings", [CopyPasteSettings, LargeScaleJitterSettings])
def test_a_range_from_large_to_small_is_an_error(settings):
    with pytest.raises(ValueError, match=r"^scale_range: expected \(smallest, largest\), got \(2.0, 1.0\)$"):
        settings(scale_range=(2.0, 1.0))


def test_every_setting_of_copy_paste_is_described():
    body = ast.parse(inspect.getsource(CopyPasteSettings)).body[0].body
    described = [
        node.target.id
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr)
    ]
    assert described == [field.name for field in fields(CopyPasteSettings)]


def test_offline_every_new_image_receives_objects_unless_told_otherwise():
    assert AugmentSettings().copy_paste.p == 1
    assert AugmentSettings(copy_paste=OfflineCopyPasteSettings(rotation=30)).copy_paste.p == 1
    assert AugmentSettings(copy_paste=OfflineCopyPasteSettings(p=0.25)).copy_paste.p == 0.25


@pytest.mark.parametrize(
    ("name", "value", "left_out"), [("stop", "1ep", None), ("warmup", "1ba", None), ("bank_size", 8, 0)]
)
def test_what_only_a_training_has_is_refused_offline(name, value, left_out):
    with pytest.raises(ValueError, match=f"^{name}: expected {left_out}, as it is for trainings only, got {value!r}$"):
        OfflineCopyPasteSettings(**{name: value})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"backgrounds": "empty"}, "^backgrounds: expected a Path, got 'empty'$"),
        ({"copy_paste": {"p": 1}}, "^copy_paste: expected a value of OfflineCopyPasteSettings, got {'p': 1}$"),
    ],
)
def test_a_value_of_another_class_is_an_error_that_names_the_class(setting, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AugmentSettings(**setting)
