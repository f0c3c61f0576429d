"""How times are written, and what they stand for."""

from fractions import Fraction

import pytest

from composer_copypaste import CopyPasteSettings
from composer_copypaste.errors import RecipeError
from composer_copypaste.integrations.composer.from_recipe import composer_time
from composer_copypaste.recipes.load import load_recipe, recipe_schema
from composer_copypaste.settings import DURATION, TIME, parse_time


@pytest.mark.parametrize(
    ("time", "value", "unit"),
    [
        ("12ep", 12, "ep"),
        ("0ba", 0, "ba"),
        ("800ba", 800, "ba"),
        ("0.9dur", Fraction(9, 10), "dur"),
        (".05dur", Fraction(1, 20), "dur"),
        ("1dur", 1, "dur"),
        ("90%dur", Fraction(9, 10), "dur"),
        ("97.5%dur", Fraction(39, 40), "dur"),
        ("100%dur", 1, "dur"),
    ],
)
def test_a_time_is_exact_and_composer_reads_it_the_same(time, value, unit):
    from composer.core import Time

    assert TIME.check(time) == time
    assert parse_time(time) == (value, unit)
    composers = Time.from_timestring(composer_time(time))
    assert (composers.value, composers.unit.value) == (float(value), unit)


@pytest.mark.parametrize(
    "time", ["12", "12 ep", "ep", "1.5ep", "-1ep", "2dur", "101%dur", "-5%dur", "%dur", "50%", "12epochs", "12ep\n"]
)
def test_what_is_no_time_is_refused_by_settings_and_recipes(time):
    with pytest.raises(ValueError, match=r"^stop: expected a time such as '8ep', '500ba', '0.9dur' or '90%dur'"):
        CopyPasteSettings(stop=time)
    with pytest.raises(ValueError, match=r"^warmup: expected a time such as"):
        CopyPasteSettings(warmup=time)


@pytest.mark.parametrize("key", ["copy_paste.stop", "copy_paste.warmup", "schedule.warmup"])
@pytest.mark.parametrize(("given", "shown"), [("half", "'half'"), ("12", "12")])
def test_what_is_no_time_is_refused_in_a_recipe_with_its_place(key, given, shown):
    with pytest.raises(RecipeError) as raised:
        load_recipe("quickstart", [f"{key}={given}"])
    expected = "expected a time such as '8ep', '500ba', '0.9dur' or '90%dur' (of the duration), of at most 9 digits"
    assert f"{key}: {expected}, got {shown}" in str(raised.value)


def test_a_recipe_takes_both_spellings():
    recipe = load_recipe("quickstart", ["copy_paste.stop=90%dur", "copy_paste.warmup=50ba", "schedule.warmup=10%dur"])
    assert (recipe.copy_paste.stop, recipe.copy_paste.warmup) == ("90%dur", "50ba")
    assert recipe.schedule.warmup == "10%dur"


def test_editors_know_how_a_time_is_written():
    stop = recipe_schema()["$defs"]["CopyPasteSettings"]["properties"]["stop"]
    assert {"type": "string", "pattern": TIME.pattern} in stop["anyOf"]


def test_a_duration_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected epochs or batches"):
        DURATION.check("0ep")
