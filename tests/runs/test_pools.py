"""The pool of cut-outs of a recipe: what is checked before a run, and what the run pastes."""

import shutil
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image
from shapes_recipe import tiny_recipe

from composer_copypaste import CopyPaste
from composer_copypaste.data import coco_json
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.errors import DataError, OutputError, RecipeError
from composer_copypaste.files import read_json
from composer_copypaste.integrations.composer.from_recipe import build_algorithms, build_model, build_trainer
from composer_copypaste.recipes.schema import PoolSettings
from composer_copypaste.runs.data import category_names, copy_paste_settings, open_data, pool_digest
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.resume import begin_or_resume

PASTED = ("copy_paste.p=1", "copy_paste.p_pool=1", "data.batch_size=1", "data.workers=0")


@pytest.fixture
def cut_outs(tmp_path):
    """A folder with a cut-out of stars: a white square."""
    (tmp_path / "cutouts" / "star").mkdir(parents=True)
    Image.fromarray(np.full((9, 9, 4), 255, dtype=np.uint8)).save(tmp_path / "cutouts" / "star" / "a.png")
    return tmp_path / "cutouts"


def test_a_run_pastes_the_cut_outs_of_a_folder(cut_outs, tmp_path):
    recipe = tiny_recipe(tmp_path, f"data.pool.folder={cut_outs}", *PASTED)
    data = open_data(recipe)
    assert [category.name for category in data.train.annotations.categories][data.pool.labels[0] - 1] == "star"
    trainer = build_trainer(
        recipe,
        build_model(recipe, data.val.annotations),
        data.train,
        data.val,
        algorithms=build_algorithms(recipe, copy_paste_settings(recipe, category_names(data.train)), data.pool),
    )
    (algorithm,) = (algorithm for algorithm in trainer.state.algorithms if isinstance(algorithm, CopyPaste))
    assert algorithm.pool is data.pool
    trainer.fit(duration="1ba")
    assert data.pool.nbytes > 0


def test_a_run_takes_the_objects_of_a_coco_file(tmp_path):
    root = tmp_path / "shapes"
    val = open_data(tiny_recipe(tmp_path)).val
    files = f"data.pool={{annotations: {root}/annotations/instances_val.json, images: {root}/val}}"
    pool = open_data(tiny_recipe(tmp_path, files, *PASTED)).pool
    expected = [label for index in range(len(val)) for label in val[index][1]["labels"].tolist()]
    assert pool.labels.tolist() == expected


def test_each_annotation_file_is_parsed_once_though_evaluation_and_pool_name_that_of_the_training(
    tmp_path, monkeypatch
):
    root = draw_shapes(tiny_recipe(tmp_path).data.shapes)
    train = f"{{annotations: {root}/annotations/instances_train.json, images: {root}/train}}"
    parsed = []
    monkeypatch.setattr(coco_json, "read_json", lambda path, what: [parsed.append(path.name), read_json(path, what)][1])
    open_data(tiny_recipe(tmp_path))
    assert sorted(parsed) == ["instances_train.json", "instances_val.json"]
    parsed.clear()
    overrides = ["data.shapes=null", *(f"data.{key}={train}" for key in ("train", "val", "pool"))]
    data = open_data(tiny_recipe(tmp_path, *overrides, *PASTED))
    assert parsed == ["instances_train.json"]
    assert len(data.pool) == data.train.num_objects == data.val.num_objects


def test_without_a_pool_there_is_none(tmp_path):
    assert open_data(tiny_recipe(tmp_path)).pool is None


def test_a_folder_of_no_category_is_refused_before_the_run(cut_outs, tmp_path):
    (cut_outs / "star").rename(cut_outs / "satr")
    with pytest.raises(DataError, match="satr: is no category; did you mean 'star'"):
        open_data(tiny_recipe(tmp_path, f"data.pool.folder={cut_outs}", *PASTED))


def test_a_pool_of_which_nothing_may_be_copied_is_refused_before_the_run(cut_outs, tmp_path):
    recipe = tiny_recipe(tmp_path, f"data.pool.folder={cut_outs}", "copy_paste.area_range=[100, 200]", *PASTED)
    with pytest.raises(RecipeError, match=r"^data\.pool: none of its 1 cut-out may be copied; see categories"):
        open_data(recipe)


def repainted(cut_outs):
    Image.fromarray(np.full((9, 9, 4), 254, dtype=np.uint8)).save(cut_outs / "star" / "a.png")


def joined(cut_outs):
    shutil.copyfile(cut_outs / "star" / "a.png", cut_outs / "star" / "b.png")


def renamed(cut_outs):
    (cut_outs / "star" / "a.png").rename(cut_outs / "star" / "b.png")


def enter_and_leave(folder, recipe):
    with ExitStack() as lock:
        begin_or_resume(folder, recipe, open_data(recipe), lock)


@pytest.mark.parametrize("change", [repainted, joined, renamed])
def test_a_run_does_not_go_on_with_other_cut_outs(cut_outs, tmp_path, change):
    recipe, folder = tiny_recipe(tmp_path, f"data.pool.folder={cut_outs}", *PASTED), RunFolder(tmp_path / "run")
    enter_and_leave(folder, recipe)
    enter_and_leave(folder, recipe)
    change(cut_outs)
    with pytest.raises(
        OutputError, match=r"run: the files of data\.pool have changed since this run began; give output="
    ):
        enter_and_leave(folder, recipe)


def test_a_run_does_not_go_on_with_other_annotations_of_its_pool(tmp_path):
    mine = shutil.copytree(draw_shapes(tiny_recipe(tmp_path).data.shapes), tmp_path / "mine")
    annotations = mine / "annotations" / "instances_val.json"
    files = f"data.pool={{annotations: {annotations}, images: {mine / 'val'}}}"
    recipe, folder = tiny_recipe(tmp_path, files, *PASTED), RunFolder(tmp_path / "run")
    enter_and_leave(folder, recipe)
    annotations.write_text(annotations.read_text() + " ")
    with pytest.raises(OutputError, match=r"the files of data\.pool have changed"):
        enter_and_leave(folder, recipe)


def test_cut_outs_that_were_copied_elsewhere_are_the_same(cut_outs, tmp_path):
    (cut_outs / "star" / ".hidden").touch()
    elsewhere = shutil.copytree(cut_outs, tmp_path / "elsewhere", ignore=shutil.ignore_patterns(".*"))
    assert pool_digest(PoolSettings(folder=elsewhere)) == pool_digest(PoolSettings(folder=cut_outs))


def test_the_training_images_own_objects_can_be_the_pool(tmp_path):
    data = open_data(tiny_recipe(tmp_path, "data.pool.training_images=true", *PASTED))
    assert len(data.pool) == data.train.num_objects


def test_a_pool_has_one_source(tmp_path, cut_outs):
    with pytest.raises(RecipeError, match="expected either folder, or annotations and images, or training_images=true"):
        tiny_recipe(tmp_path, f"data.pool={{training_images: true, folder: {cut_outs}}}", *PASTED)


def test_the_training_images_fill_a_pool_within_its_memory(tmp_path):
    pool = ("data.pool={training_images: true, fill: true, megabytes: 0.02}", "copy_paste.labels=[1, 2]")
    data = open_data(tiny_recipe(tmp_path, *pool, *PASTED))
    counts = np.bincount(data.pool.labels, minlength=5)
    assert counts[1] > 0
    assert abs(counts[1] - counts[2]) <= 2
    assert counts[3:].sum() == 0
    assert 0.5 * 20_000 < data.pool.nbytes <= 20_000
    shutil.rmtree(tmp_path / "shapes" / "train")
    assert data.pool.read(len(data.pool) - 1)[1].any()


@pytest.mark.parametrize("how", ["inverse_frequency", "repeat_factor"])
def test_a_recipe_counts_the_weights_of_categories_in_its_training_data(tmp_path, how):
    threshold = ["copy_paste.repeat_threshold=1"] if how == "repeat_factor" else []
    recipe = tiny_recipe(tmp_path, f"copy_paste.category_weights={how}", *threshold)
    train = open_data(recipe).train
    labels = [train[index][1]["labels"].numpy() for index in range(len(train))]
    counts = np.bincount(np.concatenate(labels), minlength=5)[1:]
    images = np.array([sum(label in each for each in labels) for label in range(1, 5)])
    expected = counts.max() / counts if how == "inverse_frequency" else np.sqrt(len(train) / images)
    found = copy_paste_settings(recipe, category_names(train), train).label_weights
    assert [found[label] for label in range(1, 5)] == pytest.approx(expected.tolist())
