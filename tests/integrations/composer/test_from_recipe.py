"""Each logger that a recipe can name, for real and offline, in a training of two batches with all of them."""

import io
import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from shapes_recipe import tiny_recipe

from composer_copypaste.errors import RecipeError
from composer_copypaste.integrations.composer import from_recipe as loggers
from composer_copypaste.integrations.composer.from_recipe import LOGGERS, check_loggers
from composer_copypaste.runs.dry_run import describe_run
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train

INSTALLED = [name for name in LOGGERS if find_spec(name)]
NUMBERS = ["copy_paste/instances_per_image", "copy_paste/share_of_images", "copy_paste/dropped", "loss/train/total"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a training that drew every batch."""
    place = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("MLFLOW_TRACKING_URI", f"file:{place / 'mlruns'}")
        patch.setenv("GIT_PYTHON_REFRESH", "quiet")
        overrides = [f"training.loggers=[{','.join(INSTALLED)}]", "training.picture_interval=1ba", "copy_paste.p=1"]
        train(tiny_recipe(place, *overrides), folder := RunFolder(place / "run"))
    return folder


@pytest.fixture(scope="module")
def rows(run):
    """The rows of the batches, in which each number is known to be."""
    found = [row for row in map(json.loads, run.metrics.read_text().splitlines()) if "loss/train/total" in row]
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def images(run):
    """What was drawn of the two batches."""
    assert {path.name for path in run.more_training_pictures.iterdir()} == {"ba0.png", "ba1.png"}
    return [opened(run.more_training_pictures / f"ba{number}.png") for number in (0, 1)]


def opened(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_first_image_is_that_of_the_first_batch(run, images):
    assert np.array_equal(opened(run.training_pictures), images[0])


def test_tensorboard_gets_numbers_and_images(run, rows, images):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = {}
    for file in (run.root / "tensorboard" / "quickstart").glob("events*"):
        part = accumulator.EventAccumulator(str(file), size_guidance={"images": 0, "scalars": 0}).Reload()
        for name in NUMBERS:
            if name in part.Tags()["scalars"]:
                events.setdefault(name, []).extend(part.Scalars(name))
        if "training_pictures" in part.Tags()["images"]:
            events.setdefault("pictures", []).extend(part.Images("training_pictures"))
    for name in NUMBERS:
        assert [event.value for event in sorted(events[name], key=lambda event: event.step)] == pytest.approx(
            [row[name] for row in rows]
        )
    drawn = sorted(events["pictures"], key=lambda event: event.step)
    assert [event.step for event in drawn] == [0, 1]
    assert np.array_equal(opened(io.BytesIO(drawn[1].encoded_image_string)), images[1])


def test_weights_and_biases_gets_numbers_and_images(run, rows, images):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (folder,) = (run.root / "wandb").glob("offline-run-*")
    store, logged = DataStore(), {}
    store.open_for_scan(str(next(folder.glob("*.wandb"))))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            logged.setdefault("/".join(item.nested_key) or item.key, []).append(json.loads(item.value_json))
    for name in NUMBERS:
        assert logged[name] == pytest.approx([row[name] for row in rows])
    for (name,), expected in zip(logged["training_pictures/filenames"], images, strict=True):
        assert np.array_equal(opened(folder / "files" / name), expected)


def test_mlflow_gets_numbers_and_images(run, rows, images):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"file:{run.root.parent / 'mlruns'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (logged,) = client.search_runs(experiments)
    assert logged.info.run_name == "run"
    assert logged.info.status == "FINISHED"
    for name in NUMBERS:
        values = [metric.value for metric in client.get_metric_history(logged.info.run_id, name)]
        first, second = (row[name] for row in rows)
        assert values == pytest.approx([first] if first == second else [first, second])  # Composer logs changes
    folder = run.root.parent / "mlruns" / logged.info.experiment_id / logged.info.run_id / "artifacts" / "images"
    drawn = sorted(folder.glob("training_pictures_0*.png"), key=lambda path: "step%1" in path.name)
    for path, expected in zip(drawn, images, strict=True):
        assert np.array_equal(opened(path), expected)


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_without_its_package_is_refused_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None if package == name else find_spec(package))
    recipe = tiny_recipe(tmp_path, f"training.loggers=[{name}]")
    message = rf"training.loggers: '{name}' needs the package {name}.*: pip install 'composer-copypaste\[loggers\]'"
    for refused in (train, describe_run):
        with pytest.raises(RecipeError, match=message):
            refused(recipe, RunFolder(tmp_path / "run"))
    assert not [*tmp_path.iterdir()]


def test_a_recipe_without_loggers_needs_no_package(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    check_loggers(tiny_recipe(tmp_path))


def test_an_unknown_logger_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(RecipeError, match="expected one of 'tensorboard', 'wandb', 'mlflow', got 'visdom'"):
        tiny_recipe(tmp_path, "training.loggers=[visdom]")
