"""The shipped recipes: each loads, is current with the schema, and says what its source says."""

import json
import re
from pathlib import Path

import pytest

from composer_copypaste.recipes.load import describe_recipe, load_recipe, recipe_schema, recipe_to_yaml, shipped_recipes

FOLDER = Path(__file__).parents[2] / "recipes"
DETECTRON2 = [f"detectron2/{name}" for name in ("finetune", "mask_rcnn_R_101_FPN_3x_eval", "mask_rcnn_R_50_FPN_1x")]
NAMES = [
    "boxes",
    *DETECTRON2,
    *("finetune", "finetune_imagenet", "mask_rcnn_r50", "mask_rcnn_r50_copy_paste", "quickstart", "tiny_voc"),
]


def test_these_recipes_are_shipped():
    assert sorted(shipped_recipes()) == NAMES


def test_the_exported_schema_is_current():
    exported = json.loads((FOLDER / "schema.json").read_text())
    assert exported == recipe_schema(), "run: copypaste recipe schema > recipes/schema.json"


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_survives_being_written_out(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / f"{recipe.name}.yaml").write_text(recipe_to_yaml(recipe))
    assert load_recipe(tmp_path / f"{recipe.name}.yaml") == recipe


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_begins_with_its_schema_its_purpose_and_a_command_that_loads(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    schema = "../schema.json" if name in DETECTRON2 else "schema.json"
    assert text.startswith(f"# yaml-language-server: $schema={schema}\n")
    assert describe_recipe(FOLDER / f"{name}.yaml").endswith(".")
    commands = re.findall(rf"(?:train|eval --recipe) {name}((?: [\w.]+=\w+)*)", text)
    assert commands
    for overrides in commands:
        load_recipe(name, overrides.split())


def test_a_recipe_states_only_what_differs_from_its_base():
    for name in ("tiny_voc", "mask_rcnn_r50_copy_paste"):
        assert load_recipe(name) != load_recipe("mask_rcnn_r50")


def test_mask_rcnn_r50_gives_each_number_of_devices_torchvisions_learning_rate():
    recipe = load_recipe("mask_rcnn_r50")
    for devices in (1, 4, 8):
        rate = recipe.optimizer.lr_for(devices * recipe.data.batch_size)
        assert rate == pytest.approx(0.02 / 8 * devices)  # references/detection/train.py: "0.02/8*$NGPU"


def test_the_papers_recipe_jitters_target_and_source_once_and_never_resizes_again():
    recipe = load_recipe("mask_rcnn_r50_copy_paste")
    assert recipe.data.jitter.size == (1024, 1024)
    assert recipe.data.jitter.scale_range == (0.1, 2.0)
    assert recipe.copy_paste.scale_range == (1, 1)
    assert recipe.copy_paste.p_flip == 0
    assert recipe.model.resize_training is False


def test_detectron2s_schedule_for_batches_of_2_trains_as_many_images_at_as_many_times_the_rate():
    recipe, former = load_recipe("detectron2/mask_rcnn_R_50_FPN_1x"), {"images": 16, "lr": 0.02}
    times = former["images"] / recipe.data.batch_size
    assert recipe.optimizer.lr == former["lr"] / times
    schedule = recipe.schedule
    assert [schedule.warmup, *schedule.milestones, recipe.training.duration] == [
        f"{iterations * times:.0f}ba" for iterations in (1000, 60_000, 80_000, 90_000)
    ]
    assert schedule.gamma == 0.1


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "resnet152"])
def test_tiny_voc_takes_each_of_its_backbones_from_imagenet_only(backbone):
    model = load_recipe("tiny_voc", [f"model.backbone={backbone}"]).model
    assert (model.backbone, model.weights) == (backbone, "imagenet")
    assert model.box_dropout > 0
    assert model.mask_dropout > 0


def test_the_quickstart_needs_no_file_no_download_and_no_gpu():
    recipe = load_recipe("quickstart")
    assert recipe.data.shapes is not None
    assert recipe.model.weights == "none"
    assert recipe.training.precision == "fp32"
