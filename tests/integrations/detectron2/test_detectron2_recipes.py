"""Recipes with a model of Detectron2, from training to predictions, on the command line."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from click.testing import CliRunner
from small_detectron2 import NAME, SMALL, small_cfg

from composer_copypaste import Detectron2Model, load_predictor, predict
from composer_copypaste.cli import main
from composer_copypaste.metrics.detectron2_tables import detectron2_tables
from composer_copypaste.runs.folder import RunFolder

LIMITS = {"TEST.DETECTIONS_PER_IMAGE", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"}
MODEL = {
    "detectron2": NAME,
    "detections_per_image": 10,
    "box_score_thresh": 0.0,
    "overrides": {key: value for key, value in SMALL.items() if key not in LIMITS},
}


def recipe_file(place, **model):
    recipe = {
        "data": {
            "shapes": {"folder": str(place / "shapes"), "train": 8, "val": 4, "size": 64},
            "batch_size": 2,
            "workers": 0,
        },
        "model": MODEL | model,
        "copy_paste": {},
        "optimizer": {"lr": 0.001},
        "training": {
            "duration": "4ba",
            "device": "cpu",
            "cpu_threads": 1,
            "eval_interval": "4ba",
            "checkpoint_interval": "1ba",
        },
    }
    file = place / "mine.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))
    return file


def called(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished training."""
    place = tmp_path_factory.mktemp("recipes")
    called("train", recipe_file(place), f"output={place / 'run'}")
    return RunFolder(place / "run")


def test_a_run_is_scored_as_it_was_at_its_end(run):
    report = json.loads(run.evaluation.read_text())
    assert set(report) >= {"bbox", "segm"}
    assert called("eval", run.root, "--style", "detectron2").strip() == detectron2_tables(report).strip()


def test_each_batch_has_every_part_of_the_loss(run):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    parts = {name for row in rows for name in row if name.startswith("loss/train/")}
    assert parts == {f"loss/train/{part}" for part in ("classifier", "box", "mask", "objectness", "rpn_box", "total")}


def test_objects_are_found_by_the_run_and_by_the_model(run):
    images = sorted((run.root.parent / "shapes" / "val").glob("*"))[:2]
    of_run = predict(run.root, images)
    model = Detectron2Model(
        NAME, 5, overrides={**SMALL, "TEST.DETECTIONS_PER_IMAGE": 10}, weights=run.latest_checkpoint
    )
    model.train()
    of_model = predict(model, images)
    assert model.training
    for one, other in zip(of_run, of_model, strict=True):
        assert len(one.scores) > 0
        assert torch.allclose(torch.as_tensor(one.boxes), torch.as_tensor(other.boxes), atol=1e-3)
        assert torch.equal(torch.as_tensor(one.labels), torch.as_tensor(other.labels))


def test_it_is_described_and_not_exported(run, tmp_path):
    assert f"model of Detectron2   {NAME}" in called("info", run.root)
    result = CliRunner().invoke(main, ["export", str(run.root), str(tmp_path / "model.onnx")])
    assert result.exit_code == 1
    assert "a model of Detectron2" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_killed_training_goes_on_to_the_same_weights(run, tmp_path):
    shutil.copytree(run.root.parent / "shapes", tmp_path / "shapes")
    arguments = ["train", str(recipe_file(tmp_path)), f"output={tmp_path / 'run'}"]
    killed = subprocess.Popen([sys.executable, "-m", "composer_copypaste.cli", *arguments], stderr=subprocess.DEVNULL)
    folder = RunFolder(tmp_path / "run")
    while not list(folder.checkpoints.glob("ep*-ba[123]-rank0.pt")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not folder.is_complete
    called(*arguments)
    whole, resumed = (
        torch.load(each.latest_checkpoint, weights_only=False)["state"]["model"] for each in (run, folder)
    )
    assert list(whole) == list(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_training_that_diverges_ends_in_one_line(tmp_path):
    overrides = [f"output={tmp_path / 'run'}", "optimizer.lr=1000", "training.duration=8ba"]
    result = CliRunner().invoke(main, ["train", str(recipe_file(tmp_path)), *overrides])
    assert result.exit_code == 1
    error = next(line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "Try, with output=ANOTHER_FOLDER, optimizer.lr below 1000" in error


def test_weights_of_80_categories_are_scored_by_name_without_a_model(tmp_path, run):
    source = run.root.parent / "shapes"
    truth = json.loads((source / "annotations" / "instances_val.json").read_text())
    for category, name in zip(truth["categories"], ("dog", "person", "zebra", "cat"), strict=True):
        category["name"] = name
    (tmp_path / "val.json").write_text(json.dumps(truth))
    torch.save({"model": Detectron2Model(small_cfg(80)).module.state_dict()}, tmp_path / "model.pth")
    file = recipe_file(tmp_path, weights=str(tmp_path / "model.pth"))

    places = [f"data.val.annotations={tmp_path / 'val.json'}", f"data.val.images={source / 'val'}"]
    same = [f"data.train.annotations={tmp_path / 'val.json'}", f"data.train.images={source / 'val'}"]
    printed = called("eval", "--recipe", file, "data.shapes=null", *places, *same, "--style", "detectron2")
    assert {"dog", "person", "zebra", "cat"} <= {*printed.split()}
    categories = load_predictor(tmp_path / "model.pth", recipe=file).categories
    assert (categories[1].name, categories[17].name, categories[17].id) == ("person", "dog", 18)


def test_a_dry_run_says_what_would_be_trained(run):
    said = called("train", run.root.parent / "mine.yaml", "--dry-run", "output=new")
    assert f"Detectron2's {NAME}, weights none: everything starts at random" in said
    said = called("train", run.root.parent / "mine.yaml", "--dry-run", "output=new", "model.weights=coco")
    assert "to be downloaded from https://dl.fbaipublicfiles.com/detectron2/COCO-Inst" in said
