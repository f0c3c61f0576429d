"""How messages are worded."""

import pytest

from composer_copypaste.errors import counted


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
    assert counted(number, *words) == text
