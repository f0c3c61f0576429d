"""Ablation files: what they may say, and what each run's recipe then is."""

import json
import re
from pathlib import Path

import pytest

from composer_copypaste.errors import RecipeError
from composer_copypaste.recipes.ablation import ablation_schema, ablation_to_yaml, load_ablation
from composer_copypaste.recipes.load import describe_recipe, shipped_recipes
from composer_copypaste.recipes.yaml12 import parse_yaml

FOLDER = Path(__file__).parents[2] / "recipes" / "ablations"
RESULTS = Path(__file__).parents[2] / "docs" / "results"
NAMES = ["boxes", "low_data", "offline_or_online", "parts", "probability", "small_data"]
EXAMPLE = """
base: quickstart
common: {training: {duration: 20ba}}
runs:
  without: {copy_paste: null}
  often:
    copy_paste: {p: 0.9}
    training: {eval_interval: 10ba}
seeds: [3, 4]
"""


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "mine.yaml").write_text(EXAMPLE)
    return tmp_path / "mine.yaml"


def test_each_run_is_the_base_with_what_is_common_and_what_differs(file):
    ablation = load_ablation(file)
    without, often = ablation.recipes["without"], ablation.recipes["often"]
    assert without.copy_paste is None
    assert (often.copy_paste.p, often.training.eval_interval) == (0.9, "10ba")
    assert {recipe.training.duration for recipe in (without, often)} == {"20ba"}
    assert {recipe.model.backbone for recipe in (without, often)} == {"small"}


def test_the_first_run_is_the_baseline_unless_the_file_says_otherwise(file):
    assert load_ablation(file).baseline == "without"
    assert load_ablation(file, ["baseline=often"]).baseline == "often"


def test_overrides_change_the_ablation_its_base_and_its_runs(file, tmp_path):
    (tmp_path / "base.yaml").write_text("base: quickstart\nmodel: {backbone: resnet18}")
    overrides = [f"base={tmp_path / 'base.yaml'}", "seeds=[7]", "runs.often.copy_paste.p=0.1", "common.seed=null"]
    ablation = load_ablation(file, overrides[:3])
    assert ablation.settings.seeds == (7,)
    assert ablation.recipes["often"].copy_paste.p == 0.1
    assert ablation.recipes["without"].model.backbone == "resnet18"


def test_a_base_in_the_file_is_relative_to_it_and_one_of_the_command_line_to_the_working_directory(
    tmp_path, monkeypatch
):
    for folder, batches in (("here", 1), ("there", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "base.yaml").write_text(f"base: quickstart\ntraining: {{duration: {batches}ba}}")
    file = tmp_path / "there" / "mine.yaml"
    file.write_text("base: base.yaml\nruns: {only: {}}")
    monkeypatch.chdir(tmp_path / "here")
    assert load_ablation(file).recipes["only"].training.duration == "2ba"
    assert load_ablation(file, ["base=base.yaml"]).recipes["only"].training.duration == "1ba"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [1, 1]", "seeds: expected at least one value, and each once, got [1, 1] ({file}:1)"),
        ("runs: {a: {}}\nfractions: [0]", "fractions.0: expected more than 0, got 0 ({file}:2)"),
        ("runs: {a: {}}\nbaseline: b", "baseline: expected one of the runs a, got 'b' ({file}:2)"),
        ("runs: {a: {copy_paste: {pp: 1}}}", "copy_paste.pp: unknown key; did you mean 'copy_paste.p'?"),
        ("runs: {a: {seed: 1}}", "runs.a.seed: expected no such key, got 1; the ablation's seeds and output set it"),
        ("seeds: [1]", "{file}: runs: expected at least one run, such as 'baseline: {{copy_paste: null}}', got none"),
        ("runs: {a/b: {}}", "runs: expected a name of up to 50 letters, digits"),
        (
            "runs: {a: {offline: {per_imag: 2}}}",
            "runs.a.offline.per_imag: unknown key; did you mean 'per_image'? allowed: per_image, fraction",
        ),
        ("seedz: [1]", "seedz: unknown key; did you mean 'seeds'?"),
        ("base: nothing\nruns: {a: {}}", "nothing: no such recipe file; shipped recipes: boxes, finetune"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, text, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=re.escape(message.format(file=file))) as found:
        load_ablation(file)
    assert "\n" not in str(found.value)


def test_a_run_that_is_null_is_left_out_on_the_command_line_and_in_the_file(tmp_path):
    assert list(load_ablation("boxes").recipes) == [
        *load_ablation("boxes", ["runs.mask_rcnn=null"]).recipes,
        "mask_rcnn",
    ]
    file = tmp_path / "mine.yaml"
    file.write_text("runs: {a: {}, b: null, c: {copy_paste: null}}")
    assert list(load_ablation(file).recipes) == ["a", "c"]
    assert list(load_ablation(file, ["runs.b={}", "runs.a=null", "baseline=c"]).recipes) == ["b", "c"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["runs.a=null"],
            "runs.a: expected the baseline, which the others are compared with, got null; give it as {} ",
        ),
        (["baseline=b", "runs.b=null"], "runs.b: expected the baseline, "),
        (["runs.a=null", "runs.b=null"], "runs.a: expected at least one run that is not null, got none (command line)"),
        (["runs.bb=null"], "runs.bb: no such run to leave out; runs: a, b (command line)"),
        (["runs.b=5"], "runs.b: expected a mapping, {key: value}, got 5 (command line)"),
        (["runs.b.x=5", "common=3"], "common: expected a mapping, {key: value}, got 3 (command line)"),
    ],
)
def test_a_run_that_cannot_be_left_out_or_is_no_mapping_is_named_in_one_line(tmp_path, given, message):
    file = tmp_path / "mine.yaml"
    file.write_text("runs: {a: {}, b: {copy_paste: null}}")
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}") as found:
        load_ablation(file, given)
    assert "\n" not in str(found.value)


def test_an_unknown_ablation_names_the_shipped_ones():
    with pytest.raises(RecipeError, match="low_dta: no such ablation file; did you mean the shipped 'low_data'"):
        load_ablation("low_dta")


def test_these_ablations_are_shipped_and_each_says_what_it_asks():
    assert sorted(shipped_recipes("ablations")) == NAMES
    assert all("?" in describe_recipe(file) for file in shipped_recipes("ablations").values())


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_ablation_loads_on_its_base_and_as_a_smoke_test(name):
    ablation, smoke = load_ablation(name), load_ablation(name, smoke=True)
    assert list(ablation.recipes) == list(smoke.recipes)
    assert len(ablation.settings.seeds) >= 5
    assert {recipe.data.shapes.folder for recipe in smoke.recipes.values()} == {"data/shapes-smoke"}
    assert {recipe.training.duration for recipe in smoke.recipes.values()} == {"30ba"}
    assert {(recipe.model.backbone, recipe.model.min_size) for recipe in smoke.recipes.values()} == {("small", 128)}
    assert len(smoke.settings.fractions) <= 2


def test_a_smoke_test_is_short_whatever_its_runs_say(tmp_path):
    (tmp_path / "heavy.yaml").write_text(
        "base: finetune\nruns:\n  heavy: {model: {backbone: resnet152, norm: frozen_batch, min_size: 800}, "
        "data: {batch_size: 64, p_flip: 0}, training: {duration: 90ep}}"
    )
    heavy = load_ablation(tmp_path / "heavy.yaml", smoke=True).recipes["heavy"]
    assert (heavy.model.backbone, heavy.model.min_size, heavy.data.batch_size) == ("small", 128, 4)
    assert (heavy.training.duration, heavy.data.p_flip) == ("30ba", 0)


@pytest.mark.parametrize("file", [path for path in RESULTS.glob("*.yaml") if "runs:" in path.read_text()])
def test_the_ablations_behind_the_published_results_load_and_are_the_commands_on_their_page(file):
    assert list(load_ablation(str(file)).recipes)
    assert f"copypaste ablate docs/results/{file.name} " in RESULTS.with_suffix(".md").read_text()


def test_the_exported_schema_is_current_and_knows_the_runs_keys():
    exported = json.loads((FOLDER / "schema.json").read_text())
    assert exported == ablation_schema(), "run: copypaste recipe schema --ablation > recipes/ablations/schema.json"
    keys = exported["properties"]["runs"]["additionalProperties"]["anyOf"][0]["properties"]
    assert {"data", "model", "copy_paste"} <= set(keys)
    assert not {"seed", "output", "base"} & set(keys)


def test_what_is_written_down_repeats_the_ablation_without_its_base(file, tmp_path):
    ablation = load_ablation(file, ["seeds=[9]"])
    values, _ = parse_yaml(ablation_to_yaml(ablation))
    assert values["seeds"] == [9]
    assert values["runs"]["often"]["copy_paste"]["p"] == 0.9
    assert values["runs"]["often"]["optimizer"]["name"] == "adamw"
