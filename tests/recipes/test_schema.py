"""The recipe's sections: defaults, limits, and what may not be combined."""

import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass

import pytest

from composer_copypaste.recipes import schema
from composer_copypaste.recipes.load import recipe_schema
from composer_copypaste.recipes.schema import OptimizerSettings

SECTIONS = [kind for kind in vars(schema).values() if is_dataclass(kind) and kind.__module__ == schema.__name__]


def test_validating_a_recipe_imports_neither_torch_nor_composer():
    code = (
        "import sys; from composer_copypaste.recipes.load import load_recipe; load_recipe('quickstart');"
        "print(sorted({'torch', 'composer', 'torchvision', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_refuses_unknown_keys_and_describes_its_fields(section):
    described = recipe_schema()["$defs"].get(section.__name__) or recipe_schema()
    assert described["additionalProperties"] is False
    undescribed = [name for name, field in described["properties"].items() if "description" not in field]
    assert all("$ref" in described["properties"][name] for name in undescribed)


def test_the_learning_rate_follows_the_total_batch_it_is_meant_for():
    assert OptimizerSettings(lr=0.02, lr_batch_size=16).lr_for(2) == pytest.approx(0.0025)
    assert OptimizerSettings(lr=0.02, lr_batch_size=16).lr_for(16) == 0.02
    assert OptimizerSettings(lr=0.02).lr_for(2) == 0.02


def test_the_editors_schema_knows_base_and_requires_nothing():
    def keys(node):
        if isinstance(node, dict):
            return {*node, *(key for inner in node.values() for key in keys(inner))}
        return {key for inner in node for key in keys(inner)} if isinstance(node, list) else set()

    assert "base" in recipe_schema()["properties"]
    assert "required" not in keys(recipe_schema())


def test_only_what_has_no_sensible_default_must_be_given():
    required = {
        f"{section.__name__}.{field.name}"
        for section in SECTIONS
        for field in fields(section)
        if field.default is MISSING and field.default_factory is MISSING
    }
    assert required == {"Recipe.name", "Recipe.data"}


def test_descriptions_are_shown_without_the_sources_line_breaks():
    described = recipe_schema()["$defs"]["CopyPasteSettings"]
    assert "Raises" not in described["description"]
    assert "\n" not in described["properties"]["scale_range"]["description"]
