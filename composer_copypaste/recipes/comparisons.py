"""Recipes that a preview compares: one, and the same with other keys.

Importing this module imports no framework.
"""

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.recipes.schema import Recipe


def recipes_to_compare(
    recipe: str | Path, overrides: Sequence[str], compare: Sequence[str]
) -> list[tuple[str, Recipe]]:
    """The recipe, by the name "recipe", and the recipe of each comparison, by its text.

    Raises:
        RecipeError: listing the problems of the first that has some.
    """
    settings = [("recipe", []), *((each, split_comparison(each)) for each in compare)]
    return [(name, load_recipe(recipe, [*overrides, *changes])) for name, changes in settings]


def split_comparison(text: str) -> list[str]:
    """The overrides of a comparison such as "p=0.5 data.batch_size=4"; settings of copy-paste need no section."""
    parts = re.split(r"\s+(?=\w+(?:\.\w+)*=)", text.strip())
    keys = {field.name for field in fields(Recipe)}
    return [part if "=" not in part or re.split(r"[.=]", part)[0] in keys else f"copy_paste.{part}" for part in parts]
