"""What a training and an evaluation leave, and what they refuse."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from composer import Callback
from composer.optim import (
    ConstantScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingScheduler,
    CosineAnnealingWithWarmupScheduler,
    MultiStepScheduler,
    MultiStepWithWarmupScheduler,
)
from forked_runs import start
from PIL import Image
from run_folders import rows
from shapes_recipe import on_files, tiny, tiny_recipe

from composer_copypaste import LargeScaleJitter
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.errors import CheckpointError, DataError, OutputError, RecipeError
from composer_copypaste.files import write_if_absent
from composer_copypaste.integrations.composer.from_recipe import (
    build_algorithms,
    build_model,
    build_schedule,
    build_trainer,
    check_device,
)
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.weighted_precision import weighted_average_precisions
from composer_copypaste.recipes.load import load_recipe, recipe_to_yaml
from composer_copypaste.runs import resume
from composer_copypaste.runs.data import category_names, coco_files, copy_paste_settings, open_data
from composer_copypaste.runs.dry_run import describe_run
from composer_copypaste.runs.evaluation.run import evaluate_checkpoint
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.resume import begin_or_resume, check_run_folder, write_recipe
from composer_copypaste.runs.train import train

NUMBERS = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def recipe(place):
    return tiny_recipe(place)


@pytest.fixture(scope="module")
def run(place, recipe):
    """The folder of a finished training."""
    folder = RunFolder(place / "run")
    train(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def data(recipe):
    return open_data(recipe)


@pytest.fixture
def other_shapes(recipe, tmp_path):
    """A copy of the drawn files that a test may change."""
    return shutil.copytree(draw_shapes(recipe.data.shapes), tmp_path / "other")


def change(path, **lists):
    path.write_text(json.dumps(json.loads(path.read_text()) | lists))


def test_a_run_leaves_what_is_promised_and_nothing_else(run):
    assert {path.name for path in run.root.iterdir()} == {
        "recipe.yaml",
        "categories.json",
        "data.json",
        "checkpoints",
        "metrics.jsonl",
        "evaluation.json",
        "matches.npz",
        "curves.png",
        "training_pictures.png",
        "predictions.png",
    }
    assert {path.name for path in run.checkpoints.iterdir()} == {
        "ep0-ba1-rank0.pt",
        "ep1-ba2-rank0.pt",
        "latest-rank0.pt",
    }


def test_the_images_of_a_run_open(run):
    for path in (run.curves, run.training_pictures, run.predictions):
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 64


def test_the_recipe_of_a_run_loads_back_equal(run, recipe):
    assert load_recipe(run.recipe) == recipe


def test_the_categories_of_a_run_are_those_of_its_data(run, data):
    named = [(category["id"], category["name"]) for category in json.loads(run.categories.read_text())]
    assert named == [(category.id, category.name) for category in data.train.annotations.categories]


def test_a_run_logs_every_batch_with_all_parts_of_the_loss(run):
    trained = [row for row in map(json.loads, run.metrics.read_text().splitlines()) if "loss/train/total" in row]
    assert [row["batch"] for row in trained] == [1, 2]
    for row in trained:
        parts = [row[f"loss/train/{name}"] for name in ("classifier", "box", "mask", "objectness", "rpn_box")]
        assert row["loss/train/total"] == pytest.approx(sum(parts), rel=1e-5)
        assert "copy_paste/instances_per_image" in row
        assert any(key.startswith("lr-") for key in row)


def test_the_evaluation_of_a_run_has_cocos_numbers_of_boxes_and_masks_and_of_each_category(run, data):
    report = json.loads(run.evaluation.read_text())
    assert report["images"] == 4
    for kind in ("bbox", "segm"):
        assert set(report[kind]) == NUMBERS | {"per_category"}
        assert set(report[kind]["per_category"]) == set(category_names(data.val))
        for numbers in report[kind]["per_category"].values():
            assert set(numbers) == NUMBERS | {"instances"}


def test_a_recipe_repeats_itself_in_another_folder_whatever_was_drawn_before(run, recipe, place):
    torch.rand(3)
    again = RunFolder(place / "again")
    train(recipe, again)
    assert rows(again) == rows(run)


def test_rows_repeat_also_with_large_scale_jitter_on_the_device(place):
    recipe = tiny_recipe(place, "data.jitter.size=[64,64]", "data.jitter_on=device", "data.workers=0")
    one, other = RunFolder(place / "jittered"), RunFolder(place / "jittered again")
    for folder in (one, other):
        train(recipe, folder)
    assert rows(one) == rows(other)


def test_an_evaluation_of_the_checkpoint_gives_the_numbers_of_the_training(run, recipe, tmp_path):
    _, val = coco_files(recipe.data)
    report = evaluate_checkpoint(run.latest_checkpoint, recipe, val, tmp_path / "scores")
    assert report == json.loads(run.evaluation.read_text())
    assert json.loads((tmp_path / "scores" / "evaluation.json").read_text()) == report
    assert (tmp_path / "scores" / "matches.npz").read_bytes() == run.matches.read_bytes()
    names = {"evaluation.json", "matches.npz", "predictions.png", "report.html"}
    assert {path.name for path in (tmp_path / "scores").iterdir()} == names


def test_average_precision_of_the_stored_matches_is_that_of_the_training(run):
    matches, report = EvaluationMatches.load(run.matches), json.loads(run.evaluation.read_text())
    once = np.ones((len(matches.image_ids), 1), dtype=np.int32)
    for kind in ("bbox", "segm"):
        precisions = weighted_average_precisions(matches, kind, once)
        assert precisions.number("AP")[0] == pytest.approx(report[kind]["AP"], abs=1e-12)
    assert list(matches.category_names) == list(report["segm"]["per_category"])


def test_an_evaluation_writes_nothing_unless_told_where(run, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, val = coco_files(recipe.data)
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    evaluate_checkpoint(run.latest_checkpoint, recipe, val)
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


@pytest.mark.parametrize("name", ["evaluation.json", "matches.npz", "predictions.png"])
def test_an_evaluation_does_not_replace_another(run, recipe, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name}: is there already; name another folder"):
        evaluate_checkpoint(run.latest_checkpoint, recipe, coco_files(recipe.data)[1], tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_an_evaluation_refuses_a_file_as_folder(run, recipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="expected a folder for the results, found a file"):
        evaluate_checkpoint(run.latest_checkpoint, recipe, coco_files(recipe.data)[1], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_evaluation_on_other_categories_than_those_of_the_run_is_refused(run, recipe, other_shapes):
    files = coco_files(tiny_recipe(other_shapes.parent, *on_files(other_shapes)).data)[1]
    categories = json.loads(files.annotations.read_text())["categories"]
    change(files.annotations, categories=[category | {"name": category["name"] + "s"} for category in categories])
    with pytest.raises(DataError, match=r"expected the categories of .*latest-rank0\.pt"):
        evaluate_checkpoint(run.latest_checkpoint, recipe, files)


def test_an_evaluation_refuses_a_checkpoint_of_another_model(recipe, data, tmp_path):
    resnet = tiny_recipe(tmp_path, "model.backbone=resnet18", "model.weights=none")
    torch.save(build_model(resnet, data.val.annotations).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: made for another model"):
        evaluate_checkpoint(tmp_path / "other.pt", recipe, coco_files(recipe.data)[1])


def test_a_checkpoint_that_lies_in_no_run_is_scored_by_the_recipe_alone(run, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "categories.json").write_text("of something else")
    shutil.copyfile(run.latest_checkpoint, "my.pt")
    report = evaluate_checkpoint((tmp_path / "my.pt").relative_to(tmp_path), recipe, coco_files(recipe.data)[1])
    assert report == json.loads(run.evaluation.read_text())


def test_categories_that_differ_between_training_and_evaluation_are_refused(other_shapes, tmp_path):
    recipe = tiny_recipe(tmp_path, *on_files(other_shapes))
    change(recipe.data.val.annotations, categories=[{"id": number, "name": f"c{number}"} for number in range(1, 9)])
    with pytest.raises(DataError, match=r"instances_val\.json: expected the categories of .*instances_train\.json"):
        train(recipe, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_read_stop_a_run_before_its_folder_is_made(place, tmp_path):
    recipe = tiny_recipe(place, f"model.weights={tmp_path / 'missing.pt'}")
    with pytest.raises(CheckpointError, match=r"missing\.pt"):
        train(recipe, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def contents(folder):
    return {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def test_a_complete_run_is_left_as_it_is_which_is_said(run, recipe, capsys):
    before = contents(run)
    train(recipe, run)
    assert contents(run) == before
    assert f"{run.root}: this run is complete; give output=ANOTHER_FOLDER" in capsys.readouterr().err


def test_a_run_of_another_recipe_is_refused_and_kept(run, place):
    before = contents(run)
    with pytest.raises(OutputError, match=r"run of another recipe: optimizer\.lr was 0\.002, is 0\.1\. Give output="):
        train(tiny_recipe(place, "optimizer.lr=0.1"), run)
    assert contents(run) == before


@pytest.mark.parametrize("exists", [False, True])
def test_describe_says_what_would_be_drawn_and_draws_nothing(tmp_path, exists):
    if exists:
        (tmp_path / "shapes").mkdir()
    text = describe_run(tiny_recipe(tmp_path), RunFolder(tmp_path / "run"))
    assert f"8 images, drawn into {tmp_path / 'shapes'} first; evaluated on 4" in text
    assert "backbone small" in text
    assert "on, p=0.5" in text
    assert "2ba on 1 CPU, batches of 4 on each" in text
    assert str(tmp_path / "run") in text
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["shapes"] * exists


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["copy_paste=null"], "off"),
        (["copy_paste.p=0.25"], "on, p=0.25"),
        (["copy_paste.warmup=5ba", "copy_paste.stop=90%dur"], "on, p=0.5, rising from 0 over 5ba, off from 90%dur on"),
    ],
)
def test_describe_says_when_objects_are_pasted(tmp_path, overrides, said):
    lines = describe_run(tiny_recipe(tmp_path, *overrides), RunFolder(tmp_path / "run")).splitlines()
    assert f"copy-paste  {said}" in lines


def test_describe_counts_what_is_there(recipe, data, tmp_path):
    objects = len(json.loads(data.train.annotations.path.read_text())["annotations"])
    names = category_names(data.train)
    text = describe_run(recipe, RunFolder(tmp_path / "run"))
    assert f"data        8 images of {data.train.images} with {objects} objects of {len(names)} categories;" in text
    assert text.count(str(data.train.images)) == 1


def algorithms_of(recipe, data):
    return build_algorithms(recipe, copy_paste_settings(recipe, category_names(data.train)), data.pool)


def trainer_of(recipe, data, model=None):
    model = model or build_model(recipe, data.val.annotations)
    return build_trainer(recipe, model, data.train, data.val, algorithms=algorithms_of(recipe, data))


def test_sgd_is_built_as_the_recipe_says_and_its_rate_follows_the_batch(place, data):
    names = {"name": "sgd", "lr": "0.02", "lr_batch_size": "16", "momentum": "0.8", "weight_decay": "0.001"}
    recipe = tiny_recipe(place, *(f"optimizer.{key}={value}" for key, value in names.items()))
    (optimizer,) = trainer_of(recipe, data).state.optimizers
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert group["initial_lr"] == pytest.approx(0.02 * 4 / 16)
    assert (group["momentum"], group["weight_decay"]) == (0.8, 0.001)


def test_adamw_is_built_as_the_recipe_says(place, data):
    recipe = tiny_recipe(place, "optimizer.name=adamw", "optimizer.lr=0.003", "optimizer.weight_decay=0.05")
    (optimizer,) = trainer_of(recipe, data).state.optimizers
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.003, 0.05)


def test_frozen_layers_are_not_the_optimizers(recipe, data):
    model = build_model(recipe, data.val.annotations)
    frozen = next(model.parameters()).requires_grad_(False)
    (optimizer,) = trainer_of(recipe, data, model).state.optimizers
    given = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert given == {id(weight) for weight in model.parameters()} - {id(frozen)}


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["schedule.name=multistep", "schedule.milestones=[1ba]"], MultiStepWithWarmupScheduler),
        (["schedule.name=cosine"], CosineAnnealingWithWarmupScheduler),
        (["schedule.name=constant"], ConstantWithWarmupScheduler),
    ],
)
def test_the_schedule_is_that_of_the_recipe(place, overrides, kind):
    assert type(build_schedule(tiny_recipe(place, *overrides).schedule)) is kind


@pytest.mark.parametrize("warmup", ["0ba", "0ep", "0dur", "0%dur"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("multistep", MultiStepScheduler), ("cosine", CosineAnnealingScheduler), ("constant", ConstantScheduler)],
)
def test_a_schedule_without_warmup_is_one_that_composer_does_not_warn_of(place, name, kind, warmup):
    overrides = [f"schedule.name={name}", f"schedule.warmup={warmup}", "schedule.milestones=[90%dur]"]
    settings = tiny_recipe(place, *overrides, "schedule.gamma=0.25", "schedule.final=0.125").schedule
    schedule = build_schedule(settings)
    assert type(schedule) is kind
    assert getattr(schedule, "milestones", ["0.9dur"]) == ["0.9dur"]
    assert getattr(schedule, "gamma", 0.25) == 0.25
    assert getattr(schedule, "alpha_f", 0.125) == 0.125


def test_the_schedule_takes_percent_of_the_duration(place):
    overrides = ["schedule.name=multistep", "schedule.milestones=[90%dur]", "schedule.warmup=5%dur"]
    schedule = build_schedule(tiny_recipe(place, *overrides).schedule)
    assert schedule.milestones == ["0.9dur"]
    assert schedule.t_warmup == "0.05dur"


def test_gradients_are_clipped_and_objects_pasted_only_where_the_recipe_says_so(place, data):
    def algorithms(*overrides):
        found = trainer_of(tiny_recipe(place, *overrides), data).state.algorithms
        return {type(algorithm).__name__ for algorithm in found}

    assert algorithms() == {"CopyPaste"}
    assert algorithms("copy_paste=null", "training.clip_norm=1.0") == {"GradientClipping"}


def test_large_scale_jitter_moves_from_the_loader_to_the_device(place):
    on_device = ["data.jitter.size=[96,80]", "data.jitter.p_flip=0.25", "data.jitter_on=device", "training.clip_norm=9"]
    for overrides, expected in ((on_device[:2], (96, 80)), (on_device, (64, 64))):
        data = open_data(recipe := tiny_recipe(place, *overrides))
        images, _ = next(iter(trainer_of(recipe, data).state.train_dataloader))
        assert tuple(images.shape[2:]) == expected
    trainer = trainer_of(recipe, data)
    (jitter,) = (algorithm for algorithm in trainer.state.algorithms if isinstance(algorithm, LargeScaleJitter))
    assert jitter.settings == recipe.data.jitter
    listed = [type(algorithm) for algorithm in algorithms_of(recipe, data)]
    assert [type(algorithm) for algorithm in trainer.state.algorithms] == listed  # what a resumed run compares
    shapes = []

    class Look(Callback):
        def batch_start(self, state, logger):
            shapes.append(tuple(state.batch[0].shape))

    trainer.state.callbacks.append(Look())
    trainer.fit(duration="1ba")
    assert shapes == [(recipe.data.batch_size, 3, 96, 80)]
    trainer.close()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=gpu"], "training.device: expected a GPU, found none; give training.device=cpu"),
        (["device=auto", "precision=amp_bf16"], "training.precision: amp_bf16 needs a GPU, found none; give fp32"),
        (["device=auto", "microbatch=auto"], "training.microbatch: 'auto' needs a GPU, found none; give a number"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(place, monkeypatch, overrides, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError) as caught:
        check_device(tiny_recipe(place, *(f"training.{override}" for override in overrides)))
    assert str(caught.value).startswith(message)


def test_the_files_of_the_recipe_are_taken_as_they_are(place, tmp_path):
    train_files, val_files = coco_files(tiny_recipe(place, *on_files(tmp_path)).data)
    assert train_files.images == tmp_path / "train"
    assert val_files.annotations == tmp_path / "annotations" / "instances_val.json"
    assert list(tmp_path.iterdir()) == []


def test_shapes_are_drawn_where_the_recipe_says(tmp_path):
    for files, count in zip(coco_files(tiny_recipe(tmp_path).data), (8, 4), strict=True):
        assert len(json.loads(files.annotations.read_text())["images"]) == count
        assert len(list(files.images.iterdir())) == count


def begun(recipe, folder):
    with ExitStack() as lock:
        return begin_or_resume(folder, recipe, open_data(recipe), lock)


def test_a_run_goes_on_with_the_data_it_began_with_only(other_shapes, tmp_path):
    recipe, folder = tiny_recipe(tmp_path, *on_files(other_shapes)), RunFolder(tmp_path / "run")
    assert begun(recipe, folder) is None
    assert begun(recipe, folder) is None
    former = recipe.data.train.annotations.read_bytes()
    change(recipe.data.train.annotations, info={"version": "2"})
    with pytest.raises(OutputError, match=r"run: the files of data\.train have changed since this run began"):
        begun(recipe, folder)
    recipe.data.train.annotations.write_bytes(former)
    assert begun(recipe, folder) is None


def test_a_run_goes_on_with_repaired_data_where_it_is_told_to_and_says_so_once(other_shapes, tmp_path, capfd):
    first, folder = tiny_recipe(tmp_path, *on_files(other_shapes)), RunFolder(tmp_path / "run")
    accepting = tiny_recipe(tmp_path, *on_files(other_shapes), "data.accept_changes=true")
    assert begun(first, folder) is None
    change(first.data.val.annotations, info={"version": "2"})
    with pytest.raises(OutputError, match=r"go on with them as they are by data\.accept_changes=true"):
        begun(first, folder)
    assert "from the beginning" in describe_run(accepting, folder)
    assert capfd.readouterr().err == ""
    assert begun(accepting, folder) is None
    assert capfd.readouterr().err == (
        f"{folder.root}: goes on with changed files of data.val, as data.accept_changes says\n"
    )
    assert begun(first, folder) is None
    assert begun(accepting, folder) is None
    assert capfd.readouterr().err == ""


def test_a_process_that_finds_another_recipe_where_it_writes_its_own_is_refused(recipe, place, tmp_path, monkeypatch):
    folder, other = RunFolder(tmp_path / "run"), tiny_recipe(place, "seed=5")

    def first(path, text):
        path.write_text(recipe_to_yaml(recipe))  # of the other process, a moment before
        return write_if_absent(path, text)

    monkeypatch.setattr(resume, "write_if_absent", first)
    with pytest.raises(OutputError, match="holds a run of another recipe: seed was 17, is 5"):
        write_recipe(folder, other)
    assert [path.name for path in folder.root.iterdir()] == ["recipe.yaml"]
    assert load_recipe(folder.recipe) == recipe


def test_a_dry_run_refuses_what_the_run_would_not_go_on_with_and_writes_nothing(other_shapes, tmp_path):
    recipe, folder = tiny_recipe(tmp_path, *on_files(other_shapes)), RunFolder(tmp_path / "run")
    assert begun(recipe, folder) is None
    assert "from the beginning" in describe_run(recipe, folder)
    change(recipe.data.val.annotations, info={"version": "2"})
    before = contents(folder)
    with pytest.raises(OutputError, match=r"run: the files of data\.val have changed since this run began"):
        describe_run(recipe, folder)
    assert contents(folder) == before


def test_a_dry_run_has_nothing_against_other_data_beside_a_complete_run(other_shapes, tmp_path):
    recipe, folder = tiny_recipe(tmp_path, *on_files(other_shapes)), RunFolder(tmp_path / "run")
    assert begun(recipe, folder) is None
    folder.predictions.touch()
    change(recipe.data.val.annotations, info={"version": "2"})
    assert "complete: nothing to do" in describe_run(recipe, folder)


def test_a_run_does_not_go_on_with_other_categories(other_shapes, tmp_path):
    recipe, folder = tiny_recipe(tmp_path, *on_files(other_shapes)), RunFolder(tmp_path / "run")
    assert begun(recipe, folder) is None
    folder.categories.write_text("[]")
    with pytest.raises(OutputError, match=r"categories\.json: the data has other categories than when this run began"):
        begun(recipe, folder)


def test_a_second_training_in_the_same_folder_is_refused_and_leaves_the_first_one_alone(place, data, recipe, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with ExitStack() as lock:
        begin_or_resume(folder, recipe, data, lock)
        dry = start(*tiny(place), f"output={folder.root}", "--dry-run", log=tmp_path / "dry.txt")
        dry.join()
        (folder.root / ".evaluation.json.unfinished").write_text("hal")  # what the first one is about to write
        second = start(*tiny(place), f"output={folder.root}", log=tmp_path / "log.txt")
        second.join()
    assert "refused as long as another process trains there, as one does now\n" in (tmp_path / "dry.txt").read_text()
    assert second.exitcode == 2
    assert (tmp_path / "log.txt").read_text() == (
        f"error: {folder.root}: another process trains there; wait for it, or give output=ANOTHER_FOLDER\n"
    )
    assert (folder.root / ".evaluation.json.unfinished").exists()
    train(recipe, folder)
    assert folder.is_complete


def test_a_folder_that_cannot_be_read_is_one_line(recipe, tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(OutputError) as caught:
        check_run_folder(RunFolder(tmp_path), recipe)
    expected = f"{tmp_path}: cannot be read: Permission denied; make it readable, or give output=ANOTHER_FOLDER"
    assert str(caught.value) == expected
