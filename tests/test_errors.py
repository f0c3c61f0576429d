"""How messages are worded."""

import pytest

from composer_copypaste.errors import count_noun, did_you_mean, either, first_line, format_problems


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("object",), "0 objects"),
        (1, ("object",), "1 object"),
        (2, ("object",), "2 objects"),
        (1, ("category", "categories"), "1 category"),
        (21, ("category", "categories"), "21 categories"),
    ],
)
def test_one_of_a_thing_is_singular(number, words, text):
    assert count_noun(number, *words) == text


def test_a_choice_of_several_has_one_or():
    assert [either(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a or b", "a, b or c"]


def test_names_that_begin_with_the_wrong_one_are_proposed_before_a_similar_one():
    names = ["max_shift", "mix", "max_overlap", "max_size", "max_side"]
    assert did_you_mean("max", names) == "did you mean 'max_shift', 'max_overlap' or 'max_size'?"
    assert did_you_mean("max_shfit", names, "; ") == "; did you mean 'max_shift'?"
    assert did_you_mean("m", names, "; ") == ""


def test_problems_that_differ_in_values_alone_are_one_line():
    problems = [f'annotation {n} (image {n}): box ["{n}", {n}.5, -1e-05, null] is not 4 numbers' for n in range(2000)]
    assert format_problems("a.json", problems) == (
        'a.json: annotation 0 (image 0): box ["0", 0.5, -1e-05, null] is not 4 numbers; likewise '
        "annotation 1 (image 1), annotation 2 (image 2), annotation 3 (image 3) and 1996 more"
    )


def test_values_that_were_cut_and_problems_without_a_place_are_one_line_as_well():
    places = [f"annotation {n}: expected numbers, got [[[{n}.5, {n}], [{n}..." for n in range(5)]
    names = [f'file_name "http://host/{n}.png" is a URL' for n in range(5)]
    assert format_problems("a.json", places).endswith("; likewise annotation 1, annotation 2, annotation 3 and 1 more")
    assert format_problems("a.json", names) == 'a.json: file_name "http://host/0.png" is a URL; likewise 4 more'


def test_a_few_problems_alike_and_different_ones_have_a_line_each():
    problems = [*(f"image {n}: has no width" for n in range(3)), "image 4: has no height"]
    assert format_problems("a.json", problems).splitlines() == [
        "a.json: 4 problems",
        *(f"  {problem}" for problem in problems),
    ]


def test_the_first_twenty_lines_of_problems_are_listed_and_the_rest_counted():
    lines = format_problems(
        "a.json", [f"image 1: has no {letter}" for letter in "abcdefghijklmnopqrstuvwxy"]
    ).splitlines()
    assert lines[0] == "a.json: 25 problems"
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].strip() == "... and 5 more"


def test_of_another_librarys_error_one_line_is_quoted_whatever_it_holds():
    assert first_line(RuntimeError(" not in latest\x0c/84\x1b[1m \nmore")) == r"not in latest\x0c/84\x1b[1m "
    assert first_line(KeyError()) == "KeyError"
