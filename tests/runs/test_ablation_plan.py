"""The trainings of an ablation: equal work, nested fractions, and folders that change with what is trained."""

import re

import pytest
from ablation_cases import small_ablation
from shapes_recipe import on_files, remove_outlines, tiny_recipe

from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.errors import DataError, RecipeError
from composer_copypaste.recipes.ablation import load_ablation
from composer_copypaste.recipes.load import load_recipe, recipe_differences, recipe_schema, recipe_to_yaml
from composer_copypaste.runs.ablation.plan import describe_equal_work, in_batches, iou_types_of, plan_runs
from composer_copypaste.settings import DURATION, TIME


def planned(folder, *overrides, **keys):
    runs = plan_runs(small_ablation(folder, *overrides, **keys))
    return {(run.name, run.fraction, run.seed): run for run in runs}


def test_every_run_is_planned_for_every_fraction_and_seed_seed_by_seed(tmp_path):
    runs = plan_runs(small_ablation(tmp_path))
    assert [(run.seed, run.fraction, run.name) for run in runs] == [
        (seed, fraction, name) for seed in (1, 2) for fraction in (0.5, 1.0) for name in ("baseline", "pasted")
    ]
    assert {(run.fraction, run.images) for run in runs} == {(0.5, 4), (1.0, 8)}


def test_the_runs_of_a_seed_and_a_fraction_differ_in_what_the_file_says_only(tmp_path):
    runs = planned(tmp_path)
    for fraction in (0.5, 1.0):
        differences = recipe_differences(runs["baseline", fraction, 1].recipe, runs["pasted", fraction, 1].recipe)
        assert set(differences) == {"name", "output", "copy_paste"}
    assert runs["baseline", 1.0, 1].recipe.seed == 1


def test_fractions_are_the_same_for_all_runs_of_a_seed_and_nested(tmp_path):
    runs = planned(tmp_path, "common.data.batch_size=2", fractions=[0.25, 0.5, 1.0])
    subsets = {key: run.subset for key, run in runs.items()}
    assert subsets["baseline", 0.5, 1] == subsets["pasted", 0.5, 1]
    assert subsets["baseline", 0.5, 1] != subsets["baseline", 0.5, 2]
    assert subsets["baseline", 1.0, 1] is None
    assert set(subsets["baseline", 0.25, 1].image_ids) < set(subsets["baseline", 0.5, 1].image_ids)


def test_times_in_epochs_become_the_batches_of_all_images_at_every_fraction(tmp_path):
    times = {"training": {"duration": "3ep", "eval_interval": "1ep", "checkpoint_interval": "2ep"}}
    schedule = {"name": "multistep", "warmup": "1ep", "milestones": ["2ep", "0.9dur"]}
    keys = {"runs": {"only": times | {"schedule": schedule, "copy_paste": {"stop": "2ep", "warmup": "1ba"}}}}
    for run in planned(tmp_path, **keys).values():
        assert run.steps == 6  # 3 epochs of 8 images in batches of 4
        assert (run.recipe.training.eval_interval, run.recipe.training.checkpoint_interval) == ("2ba", "4ba")
        assert (run.recipe.schedule.warmup, run.recipe.schedule.milestones) == ("2ba", ("4ba", "0.9dur"))
        assert (run.recipe.copy_paste.stop, run.recipe.copy_paste.warmup) == ("4ba", "1ba")


def test_no_time_of_a_recipe_stays_in_epochs():
    keys = {
        "schedule": ("warmup",),
        "copy_paste": ("stop", "warmup", "histogram_interval"),
        "training": ("duration", "eval_interval", "checkpoint_interval", "picture_interval"),
        "training.ema": ("half_life",),
        "training.early_stop": ("patience",),
    }
    given = [f"{section}.{name}=3ep" for section, names in keys.items() for name in names]
    recipe = load_recipe("quickstart", [*given, "schedule={name: multistep, milestones: [3ep]}"])
    assert count_times(recipe_schema()) == len(given) + 1  # a new key has to be converted too
    text = recipe_to_yaml(recipe)
    assert recipe_to_yaml(in_batches(recipe, 5)) == text.replace("3ep", "15ba")
    assert text.count("3ep") == len(given) + 1


def count_times(schema):
    """The number of a schema's keys that are times or durations."""
    if isinstance(schema, list):
        return sum(map(count_times, schema))
    if not isinstance(schema, dict):
        return 0
    return (schema.get("pattern") in (TIME.pattern, DURATION.pattern)) + sum(map(count_times, schema.values()))


def test_nothing_but_the_drawn_shapes_is_written(tmp_path):
    ablation = small_ablation(tmp_path)
    plan_runs(ablation)
    assert not ablation.output.exists()


def test_another_recipe_is_another_folder(tmp_path):
    before = {run.folder.root for run in plan_runs(small_ablation(tmp_path))}
    changed = load_ablation(tmp_path / "mine.yaml", ["runs.pasted.copy_paste.blend_sigma=1"])
    after = {run.folder.root for run in plan_runs(changed)}
    assert {folder.name.split("-")[0] for folder in after - before} == {"pasted"}
    assert {folder.name.split("-")[0] for folder in after & before} == {"baseline"}


def test_other_annotations_are_another_folder_and_more_loading_processes_are_not(tmp_path):
    def names(*overrides):
        runs = planned(tmp_path, *(f"common.{override}" for override in (*on_files(shapes), *overrides)))
        return {run.folder.root.name for run in runs.values()}

    shapes = draw_shapes(tiny_recipe(tmp_path).data.shapes)
    before = names()
    assert names("data.workers=2") == before
    file = shapes / "annotations" / "instances_val.json"
    file.write_text(file.read_text() + " ")
    assert not names() & before


def test_a_fraction_of_less_than_a_batch_is_one_line(tmp_path):
    message = "fractions: 0.25 of the training images is 2 images, expected at least a batch (data.batch_size=4)"
    with pytest.raises(RecipeError, match=re.escape(message)):
        plan_runs(small_ablation(tmp_path, fractions=[0.25]))


def test_a_group_that_the_images_lack_is_one_line(tmp_path):
    with pytest.raises(DataError, match='8 of 8 images have no "patient" to group them by'):
        plan_runs(small_ablation(tmp_path, group="patient"))


def test_an_unknown_category_is_found_before_anything_runs(tmp_path):
    runs = {"baseline": {"copy_paste": None}, "pasted": {"copy_paste": {"categories": ["cat"]}}}
    with pytest.raises(RecipeError, match=r"^copy_paste\.categories: expected names of the data"):
        plan_runs(small_ablation(tmp_path, runs=runs))


def test_equal_work_is_said_and_what_breaks_it(tmp_path):
    runs = {
        "baseline": {"copy_paste": None},
        "dropout": {"model": {"box_dropout": 0.2}},
        "doubled": {"offline": {}},
        "longer": {"training": {"duration": "4ba"}},
        "larger": {"model": {"backbone": "resnet18"}},
        "pasted": {"copy_paste": {}},
    }
    ablation = small_ablation(tmp_path, runs=runs, seeds=[1], fractions=[1.0])
    first, *others = describe_equal_work(ablation, plan_runs(ablation))
    assert first.startswith("Equal work: each run trains 2 batches of 4 images")
    assert others == [
        "Not equal: doubled trains on other images (data.train.images, data.train.annotations).",
        "Not equal: longer trains another number of batches (training.duration).",
        "Not equal: larger starts from other weights (model.backbone).",
    ]


def test_a_run_with_an_offline_data_set_trains_on_it(tmp_path):
    runs = {"baseline": {"copy_paste": None}, "doubled": {"copy_paste": None, "offline": {"per_image": 1}}}
    found = planned(tmp_path, runs=runs)
    half = found["doubled", 0.5, 1]
    assert half.offline.files.annotations == found["baseline", 0.5, 1].subset.path
    assert half.offline.settings.seed == 1
    assert half.recipe.data.train.annotations.parent == half.offline.folder
    assert half.steps == found["baseline", 0.5, 1].steps


def test_runs_are_compared_by_box_ap_where_any_finds_boxes_alone(tmp_path):
    runs = {"baseline": {"model": {"name": "fcos"}}, "masks": {}, "two_stages": {"model": {"name": "faster_rcnn"}}}
    mixed = small_ablation(tmp_path, runs=runs, seeds=[1], fractions=[1.0])
    assert iou_types_of(mixed) == ("bbox",)
    assert describe_equal_work(mixed, plan_runs(mixed))[1:] == [
        "Not equal: masks trains another detector (model.name).",
        "Not equal: two_stages trains another detector (model.name).",
        "Runs are compared by box AP alone, as baseline, two_stages find no masks.",
    ]
    of_boxes = small_ablation(tmp_path, "common.model.name=fcos", seeds=[1], fractions=[1.0])
    assert iou_types_of(of_boxes) == ("bbox",)
    assert len(describe_equal_work(of_boxes, plan_runs(of_boxes))) == 1
    assert iou_types_of(small_ablation(tmp_path)) == ("bbox", "segm")


def test_fractions_are_drawn_of_annotations_that_have_boxes_alone(tmp_path):
    shapes = draw_shapes(tiny_recipe(tmp_path).data.shapes)
    remove_outlines(shapes)
    files = [f"common.{override}" for override in (*on_files(shapes), "model.name=fcos")]
    runs = {"baseline": {"copy_paste": None}, "longer": {"copy_paste": None, "training": {"duration": "4ba"}}}
    found = planned(tmp_path, *files, runs=runs)
    assert found["baseline", 0.5, 1].subset == found["longer", 0.5, 1].subset
    assert len(found["baseline", 0.5, 1].subset.image_ids) == 4
