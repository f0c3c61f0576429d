"""Settings classes: what their constructors check, and what is said of wrong values."""

import re
import subprocess
import sys
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from annotated_types import Ge, Le

from composer_copypaste.settings import CopyPasteSettings
from composer_copypaste.validation import settings_class


@settings_class
class Knobs:
    """Settings of every type."""

    kind: Literal["round", "square"] = "round"
    other: Literal["a", "b"] | None = None
    span: tuple[Annotated[float, Ge(0)], Annotated[float, Le(9)]] = (0.0, 9.0)
    number: Annotated[float, Ge(0), Le(1)] = 0.5
    count: Annotated[int | None, Ge(1)] = None
    numbers: tuple[int, ...] | None = None
    weights: dict[int, Annotated[float, Ge(0)]] | None = None
    either: int | str | None = None
    text: str = ""
    flag: bool = True


def test_the_elements_of_a_list_have_the_limits_too():
    with pytest.raises(ValueError, match=r"^span: expected at least 0, got -1$"):
        Knobs(span=[-1, 3])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("number", "0.5", "a number, got '0.5'"),
        ("number", None, "a number, got None"),
        ("number", True, "a number, got True"),
        ("number", np.True_, f"a number, got {np.True_!r}"),
        ("number", torch.tensor(0.5), "a number, got tensor(0.5000)"),
        ("count", 1.5, "a whole number, got 1.5"),
        ("span", 0.5, "a list or tuple, got 0.5"),
        ("span", (0.5,), "a list of at least 2, got (0.5,)"),
        ("span", (0.5, 1, 2), "a list of at most 2, got (0.5, 1, 2)"),
        ("span", (0.5, None), "a number, got None"),
        ("span", np.array([0.5, 1.0]), "a list or tuple, got array([0.5, 1. ])"),
        ("numbers", 1, "a list or tuple, got 1"),
        ("numbers", {1, 2}, "a list or tuple, got {1, 2}"),
        ("numbers", ("cat",), "a whole number, got 'cat'"),
        ("numbers", (2.0,), "a whole number, got 2.0"),
        ("weights", [1, 2], "a dict, got (1, 2)"),
        ("weights", {"cat": 2}, "a whole number, got 'cat'"),
        ("weights", {1: "2"}, "a number, got '2'"),
        ("either", 2.5, "a whole number or text, got 2.5"),
        ("text", 3, "text, got 3"),
        ("flag", 1, "True or False, got 1"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_setting(name, value, expected):
    with pytest.raises(TypeError, match=f"^{re.escape(f'{name}: expected {expected}')}$"):
        Knobs(**{name: value})


def test_lists_and_numpys_numbers_have_the_types_too():
    knobs = Knobs(number=np.float32(0.5), count=np.int64(3), span=[0, 9], numbers=[np.int32(3)])
    assert knobs == Knobs(number=0.5, count=3, span=(0.0, 9.0), numbers=(3,))


def test_numpys_numbers_have_the_limits_too():
    with pytest.raises(ValueError, match=r"^number: expected at most 1, got 1\.5$"):
        Knobs(number=np.float32(1.5))


@pytest.mark.parametrize(("name", "choices"), [("kind", "'round', 'square'"), ("other", "'a', 'b'")])
def test_a_name_that_is_no_choice_is_an_error_that_lists_them(name, choices):
    with pytest.raises(ValueError, match=f"^{name}: expected one of {choices}, got 'rund'$"):
        Knobs(**{name: "rund"})


def test_none_is_no_choice_where_it_is_not_listed():
    with pytest.raises(ValueError, match=r"^kind: expected one of 'round', 'square', got None$"):
        Knobs(kind=None)


def test_an_unknown_setting_is_an_error_with_the_likely_one():
    with pytest.raises(TypeError, match=r"^rotaton: CopyPasteSettings has no such setting; did you mean 'rotation'\?$"):
        CopyPasteSettings(rotaton=5)


def test_names_that_begin_with_the_wrong_one_are_proposed_before_similar_ones():
    with pytest.raises(TypeError, match=r"no such setting; did you mean 'scale_range', 'scale_\w+' or 'scale_map'\?$"):
        CopyPasteSettings(scale=2)


def test_a_settings_class_is_imported_without_pydantic():
    code = "import sys; from composer_copypaste import CopyPasteSettings; print('pydantic' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
