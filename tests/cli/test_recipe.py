"""``copypaste recipe``."""

import json

from click.testing import CliRunner

from composer_copypaste.cli import main
from composer_copypaste.recipes.load import load_recipe, recipe_schema, shipped_recipes


def copypaste(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_show_prints_a_recipe_that_loads_to_the_same(tmp_path):
    result = copypaste("recipe", "show", "quickstart", "training.duration=100ba", "copy_paste=null")
    (tmp_path / "quickstart.yaml").write_text(result.output)
    assert result.exit_code == 0
    assert load_recipe(tmp_path / "quickstart.yaml") == load_recipe(
        "quickstart", ["training.duration=100ba", "copy_paste=null"]
    )


def test_show_states_defaults_too():
    assert "max_dets: [1, 10, 100]" in copypaste("recipe", "show", "quickstart").output


def test_show_says_what_is_wrong_on_stderr_with_exit_code_2():
    result = copypaste("recipe", "show", "quickstart", "optimizer.name=adm")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: optimizer.name: expected one of 'sgd', 'adamw', got 'adm' (command line)\n"


def test_schema_prints_the_json_schema():
    assert json.loads(copypaste("recipe", "schema").output) == recipe_schema()


def test_list_gives_each_shipped_recipe_and_ablation_a_line_that_says_what_it_is_for():
    lines = copypaste("recipe", "list").output.splitlines()
    described = [line for line in lines if line.startswith("  ")]
    assert [line for line in lines if line not in described] == ["copypaste train:", "copypaste ablate:"]
    assert [line.split()[0] for line in described] == [*shipped_recipes(), *shipped_recipes("ablations")]
    assert all(line[-1] in ".?" and len(line.split()) > 5 for line in described)
