"""YAML is read by version 1.2, no key twice, and written so that both versions read it alike."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_copypaste.recipes.yaml12 import YamlError, dump_yaml, parse_yaml


def value_of(text):
    value, _ = parse_yaml(text)
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("7", 7),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text, value):
    assert value_of(f"key: {text}") == {"key": value}
    assert type(value_of(f"key: {text}")["key"]) is type(value)


def test_infinity_and_nan_are_numbers():
    assert value_of("[.inf, -.inf]") == [math.inf, -math.inf]
    assert math.isnan(value_of(".nan"))


def test_a_repeated_key_is_an_error_that_names_both_lines():
    with pytest.raises(YamlError, match="key 'lr' is given twice, first in line 2") as caught:
        parse_yaml("optimizer:\n  lr: 1\n  name: sgd\n  lr: 2\n")
    assert caught.value.line == 4


def test_the_same_key_in_two_sections_is_no_error():
    assert value_of("a: {p: 1}\nb: {p: 2}\n") == {"a": {"p": 1}, "b": {"p": 2}}


def test_a_key_that_is_not_text_is_an_error():
    with pytest.raises(YamlError, match="expected text or a whole number as key, got 'true'"):
        parse_yaml("true: a")


def test_a_colon_without_a_space_in_braces_is_an_error_that_shows_how_to_write_it():
    with pytest.raises(YamlError, match=r"no space after the colon in 'fig:3'; write \{fig: 3\}") as caught:
        parse_yaml("weights: {date: 1,\n  fig:3}")
    assert caught.value.line == 2
    assert value_of("{'fig:3': , a:b: 1}") == {"fig:3": None, "a:b": 1}


def test_broken_yaml_is_an_error_with_its_line():
    with pytest.raises(YamlError, match="not valid YAML") as caught:
        parse_yaml("a: 1\nb: [1\nc: 2\n")
    assert caught.value.line == 3


def test_python_objects_are_not_made():
    with pytest.raises(YamlError, match="not valid YAML"):
        parse_yaml("a: !!python/object/apply:os.getcwd []")


def test_every_nested_key_has_its_line():
    _, lines = parse_yaml("# comment\na:\n  b: 1\n  c: {d: 2}\n")
    assert lines == {("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("a", "c", "d"): 4}


def test_merge_keys_work():
    assert value_of("a: &x {p: 1}\nb: {<<: *x, q: 2}") == {"a": {"p": 1}, "b": {"p": 1, "q": 2}}


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
YAML_1_1_WORDS = [
    "no",
    "on",
    "1e-4",
    "010",
    "12:30",
    "2024-01-31",
    "~",
    "",
    "null",
    "1_000",
    "=",
    "<<",
    "- a",
    "a: b",
    "#",
]


@settings(max_examples=60)
@given(st.dictionaries(texts, leaves | st.lists(leaves) | st.dictionaries(texts, leaves)))
def test_what_is_written_is_read_again_as_it_was(value):
    assert value_of(dump_yaml(value)) == value


@pytest.mark.parametrize("word", YAML_1_1_WORDS)
def test_text_is_written_so_that_both_versions_of_yaml_read_it_as_text(word):
    assert value_of(dump_yaml({"key": word})) == yaml.safe_load(dump_yaml({"key": word})) == {"key": word}


def test_a_key_that_is_a_whole_number_is_text():
    assert parse_yaml("weights: {3: 5, 10: 1}")[0] == {"weights": {"3": 5, "10": 1}}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{inner}'] * 10)}]\n" for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "stands for more than 100000 values or for itself; write it without aliases"),
        ("a: &a {inside: *a}", "stands for more than 100000 values or for itself; write it without aliases"),
        ("a: &a [*a]", "stands for more than 100000 values or for itself; write it without aliases"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "not valid YAML here: Exceeds the limit (4300 digits)"),
        ("a: \0", "not valid YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
    ids=["many", "itself", "list", "deep", "digits", "nul"],
)
def test_a_text_that_would_take_all_memory_or_stop_the_reader_is_one_line(text, message):
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_aliases_stand_for_what_they_name():
    assert value_of("a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
    }
