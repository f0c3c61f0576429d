"""Trainings on shards: as on files, killed in the middle of an epoch or not."""

import json
import time

import pytest
from forked_runs import start
from run_folders import assert_same_to_the_bit
from shapes_recipe import on_files, tiny, tiny_recipe

from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.streaming.write import write_shards
from composer_copypaste.errors import DataError
from composer_copypaste.runs.data import open_data
from composer_copypaste.runs.dry_run import describe_run
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train
from composer_copypaste.settings import ShapesSettings

pytest.importorskip("streaming")

IMAGES = 20
SETTINGS = ["data.batch_size=4", "data.workers=0", "training.duration=8ba", "training.eval_interval=8ba"]
"""Epochs of five batches."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Drawn shapes, their shards of two images each in ``train``, and all in one in ``one`` and ``val``."""
    place = tmp_path_factory.mktemp("runs")
    root = draw_shapes(ShapesSettings(folder=str(place / "files"), train=IMAGES, val=4, size=64))
    for name, split, size in (("train", "train", 20_000), ("one", "train", 10**6), ("val", "val", 10**6)):
        write_shards(place / name, root / split, root / "annotations" / f"instances_{split}.json", shard_size=size)
    return place


def on_shards(place, train, **more):
    keys = {"train.streaming": place / train, "val.streaming": place / "val"} | more
    return ["data.shapes=null", *(f"data.{key}={value}" for key, value in keys.items())]


def losses(folder):
    rows = map(json.loads, folder.metrics.read_text().splitlines())
    return [row["loss/train/total"] for row in rows if "loss/train/total" in row]


def test_a_training_on_one_shard_is_that_on_the_files(place):
    runs = []
    for name, data in (("files", on_files(place / "files")), ("shards", on_shards(place, "one"))):
        runs.append(RunFolder(place / "runs" / name))
        train(tiny_recipe(place, *SETTINGS, *data, f"output={runs[-1].root}"), runs[-1])
    assert losses(runs[0]) == losses(runs[1])
    assert len(losses(runs[0])) == 8
    assert runs[0].evaluation.read_bytes() == runs[1].evaluation.read_bytes()


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_goes_on_to_the_bit_with_other_workers_and_another_cache(place):
    def run(folder, *overrides):
        return start(*tiny(place, *SETTINGS, *overrides, f"output={folder.root}"), log=place / "log.txt")

    whole, killed = RunFolder(place / "whole"), RunFolder(place / "killed")
    process = run(whole, *on_shards(place, "train"))
    process.join()
    assert process.exitcode == 0, (place / "log.txt").read_text()

    moved = {"train.cache": place / "cache", "train.cache_gigabytes": 1}
    data = on_shards(place, "train", **{"train.cache": place / "former", "train.cache_gigabytes": 1})
    process = run(killed, *data)
    while not any("ba3" in path.name for path in killed.checkpoints.glob("*")):
        assert process.is_alive(), (place / "log.txt").read_text()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not killed.is_complete

    process = run(killed, *on_shards(place, "train", **moved), "data.workers=2")
    process.join()
    assert process.exitcode == 0, (place / "log.txt").read_text()
    assert f"resuming {killed.root} at batch" in (place / "log.txt").read_text()
    assert_same_to_the_bit(killed, whole)


def test_a_dry_run_says_what_the_shards_hold(place, tmp_path):
    recipe = tiny_recipe(place, *on_shards(place, "train"), f"output={tmp_path / 'run'}")
    objects = len(json.loads((place / "train" / "annotations.json").read_text())["annotations"])
    text = describe_run(recipe, RunFolder(tmp_path / "run"))
    assert f"20 images of {place / 'train'} with {objects} objects of 4 categories; evaluated on 4 images" in text


def test_shards_of_other_categories_than_those_evaluated_on_are_refused(place, tmp_path):
    source = json.loads((place / "files" / "annotations" / "instances_val.json").read_text())
    source["categories"][0]["name"] = "ring"
    (tmp_path / "val.json").write_text(json.dumps(source))
    write_shards(tmp_path / "val", place / "files" / "val", tmp_path / "val.json")
    overrides = on_shards(place, "train", **{"val.streaming": tmp_path / "val"})
    with pytest.raises(DataError, match=r'expected the categories of .*train, 1 "disc", .*got objects of .*1 "ring"'):
        open_data(tiny_recipe(place, *overrides))
