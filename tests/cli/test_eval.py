"""``copypaste eval`` as its users meet it."""

import json
import os
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_errors import refused
from metric_scenes import random_scene
from shapes_recipe import on_files, tiny, tiny_recipe

from composer_copypaste import distributed as processes
from composer_copypaste.cli import main
from composer_copypaste.errors import DataWarning
from composer_copypaste.integrations.composer.from_recipe import build_model
from composer_copypaste.integrations.composer.model import MaskRCNN
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.report import score_tables
from composer_copypaste.runs.data import open_data
from composer_copypaste.runs.evaluation import output
from composer_copypaste.runs.folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished training."""
    place = tmp_path_factory.mktemp("eval")
    result = CliRunner().invoke(main, ["train", *tiny(place), f"output={place / 'run'}"])
    assert result.exit_code == 0, result.output
    return RunFolder(place / "run")


@pytest.fixture
def files(run, tmp_path):
    """A copy of the drawn files, as a user's own."""
    return shutil.copytree(run.root.parent / "shapes", tmp_path / "mine")


def evaluate(*arguments):
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def own(files):
    return ["--images", files / "val", "--annotations", files / "annotations" / "instances_val.json"]


def test_a_run_is_scored_as_it_was_at_its_end_and_left_as_it_is(run):
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    result = evaluate(run.root)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == score_tables(json.loads(run.evaluation.read_text())).strip()
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_own_images_are_scored_and_the_results_named(run, files, tmp_path):
    result = evaluate(run.latest_checkpoint, *own(files), "--output", tmp_path / "scores")
    assert result.exit_code == 0, result.output
    for name in ("evaluation.json", "matches.npz", "predictions.png", "report.html"):
        assert str(tmp_path / "scores" / name) in result.stdout
    assert json.loads((tmp_path / "scores" / "evaluation.json").read_text()) == json.loads(run.evaluation.read_text())


@pytest.mark.parametrize("given", [slice(0, 2), slice(2, 4)], ids=["images", "annotations"])
def test_images_without_annotations_or_the_reverse_are_refused(run, files, given):
    refused(evaluate(run.root, *own(files)[given]), "expected --images and --annotations, or neither")


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_a_checkpoint_that_does_not_exist_is_named(tmp_path, name):
    refused(evaluate(tmp_path / name), f"{tmp_path}", "expected a checkpoint, or the folder of a run; there is none")


def test_a_checkpoint_outside_a_run_needs_a_recipe(run, tmp_path):
    shutil.copyfile(run.latest_checkpoint, tmp_path / "my.pt")
    refused(evaluate(tmp_path / "my.pt"), "my.pt: is not in the folder of a run", "--recipe RECIPE")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_that_would_run_code_is_refused_unread(run, files, tmp_path):
    torch.save({"state": Hostile(str(tmp_path / "hacked"))}, tmp_path / "evil.pt")
    refused(evaluate(tmp_path / "evil.pt", "--recipe", run.recipe), "evil.pt: refused", "mkdir")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile(str(tmp_path / "hacked"))))
    refused(evaluate(tmp_path / "plain.pt", "--recipe", run.recipe), "plain.pt: refused")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("size", "message"),
    [(0, "expected weights, got an empty file"), (100_000, "expected weights, got a file that is cut off")],
)
def test_a_damaged_checkpoint_is_named_and_nothing_drawn_for_it(run, tmp_path, size, message):
    (tmp_path / "half.pt").write_bytes(run.latest_checkpoint.read_bytes()[:size])
    shapes = f"data.shapes.folder={tmp_path / 'shapes'}"
    result = evaluate(tmp_path / "half.pt", "--recipe", run.recipe, shapes)
    refused(result, f"half.pt: {message}")
    assert not result.stderr.endswith(": \n")
    assert not (tmp_path / "shapes").exists()


def test_a_mistake_in_an_override_is_one_line(run):
    refused(evaluate(run.root, "evaluation.max_det=[1]"), "error: evaluation.max_det: unknown key; did you mean")


def test_an_evaluation_that_needs_a_gpu_is_refused_without_one(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(evaluate(run.root, "training.device=gpu"), "error: training.device: expected a GPU, found none")


def test_a_checkpoint_with_another_number_of_classes_is_refused(run, files, tmp_path):
    torch.save(MaskRCNN(9, tiny_recipe(tmp_path).model).state_dict(), tmp_path / "nine.pt")
    scores = tmp_path / "scores"
    result = evaluate(tmp_path / "nine.pt", "--recipe", run.recipe, "--output", scores)
    refused(
        result, "nine.pt: made for another model, or another number of classes: it has 8 labels, ", "has 4 categories"
    )
    assert not scores.exists()


def test_other_categories_than_the_runs_are_refused(run, files, tmp_path):
    path = files / "annotations" / "instances_val.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"categories": [c | {"name": "x"} for c in data["categories"]]}))
    refused(evaluate(run.root, *own(files)), "instances_val.json: expected the categories of ", '1 "x"')


def test_an_evaluation_that_is_there_already_is_kept(run, tmp_path):
    before = run.evaluation.read_bytes()
    refused(evaluate(run.root, "--output", run.root), "evaluation.json: is there already; name another folder")
    assert run.evaluation.read_bytes() == before


def test_results_that_cannot_be_written_end_in_one_line_below_the_scores(run, tmp_path, monkeypatch):
    def full(report, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(output, "write_json", full)
    result = evaluate(run.root, "--output", tmp_path / "results")
    assert result.exit_code == 2, result.output
    assert "mask AP" in result.stderr
    *_, last = result.stderr.splitlines()
    expected = "evaluation.json: cannot be written: No space left on device; give another --output"
    assert last == f"error: {tmp_path / 'results'}/{expected}"


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_says_that_there_is_no_checkpoint(tmp_path, monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(processes, "TIME_TO_PRINT", 0.0)
    result = evaluate(tmp_path)
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == 1 - rank


def test_the_recipe_of_a_run_can_be_changed(run, files, tmp_path):
    result = evaluate(run.root, *on_files(files), "evaluation.max_dets=[1,5]")
    assert result.exit_code == 0, result.output
    assert "at most 5 detections per image" in result.stdout


def test_weights_alone_are_a_checkpoint(run, tmp_path):
    recipe = tiny_recipe(run.root.parent)
    data = open_data(recipe)
    torch.save(build_model(recipe, data.val.annotations).module.state_dict(), tmp_path / "weights.pt")
    assert evaluate(tmp_path / "weights.pt", "--recipe", run.recipe).exit_code == 0


# ---- results in place of a model


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """A scene's annotations and results as files, without images."""
    place = tmp_path_factory.mktemp("predictions")
    scene = random_scene(1)
    results = [{**r, "segmentation": {**r["segmentation"], "counts": r["segmentation"]["counts"].decode()}}
               for r in scene.results]  # fmt: skip
    (place / "val.json").write_text(json.dumps(scene.dataset))
    (place / "results.json").write_text(json.dumps(results))
    boxes = [{key: value for key, value in r.items() if key != "segmentation"} for r in results]
    (place / "boxes.json").write_text(json.dumps(boxes))
    return place


def test_results_are_scored_without_a_model_and_without_images(predictions, tmp_path):
    arguments = ["--predictions", predictions / "results.json", "--annotations", predictions / "val.json"]
    result = evaluate(*arguments, "--crowds", "ignore", "--output", tmp_path / "scores")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert score_tables(report) in result.stdout
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "the evaluation did not have the images" in page


def test_the_tables_of_detectron2_are_printed_where_asked_for(predictions):
    files = ["--predictions", predictions / "results.json", "--annotations", predictions / "val.json"]
    result = evaluate(*files, "--crowds", "ignore", "--style", "detectron2")
    assert result.exit_code == 0, result.output
    assert "Evaluation results for bbox:\n|" in result.stdout
    assert result.stdout.count("\ncopypaste: AP,AP50,AP75,APs,APm,APl\n") == 2


def test_results_whose_ids_stand_for_other_images_are_refused(predictions, tmp_path):
    shutil.copytree(predictions, tmp_path, dirs_exist_ok=True)
    images = json.loads((tmp_path / "val.json").read_text())["images"]
    (tmp_path / "copypaste.json").write_text("{}")  # as copypaste predict leaves it
    arguments = [
        "--predictions",
        tmp_path / "results.json",
        "--annotations",
        tmp_path / "val.json",
        "--crowds",
        "ignore",
    ]
    (tmp_path / "images.json").write_text(json.dumps({"images": [images[0]]}))
    assert evaluate(*arguments).exit_code == 0
    (tmp_path / "images.json").write_text(json.dumps({"images": [images[0] | {"file_name": "sub/other.jpg"}]}))
    refused(evaluate(*arguments), f"images.json: image {images[0]['id']} is other.jpg, but", "have other ids")


def test_results_on_a_few_images_are_refused_unless_that_is_allowed_or_the_images_were_looked_at(predictions, tmp_path):
    shutil.copytree(predictions, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "val.json").read_text())
    objects = {entry["image_id"] for entry in content["annotations"]}
    results = json.loads((tmp_path / "results.json").read_text())
    first = results[0]["image_id"]
    (tmp_path / "results.json").write_text(json.dumps([each for each in results if each["image_id"] == first]))
    arguments = ["--predictions", tmp_path / "results.json", "--annotations", tmp_path / "val.json"]
    arguments += ["--crowds", "ignore"]
    found = f"results.json: no result on {len(objects - {first})} of {len(objects)} images with objects"
    refused(evaluate(*arguments), found, "--allow-missing")
    with pytest.warns(DataWarning, match=f"{found}: their objects count as missed"):
        allowed = evaluate(*arguments, "--allow-missing")
    assert allowed.exit_code == 0
    ids = [[image["file_name"], image["id"]] for image in content["images"]]
    source = {"images": [[name, 1, 1] for name, _ in ids], "ids": ids}
    (tmp_path / "copypaste.json").write_text(json.dumps({"source": source}))  # as copypaste predict leaves it
    with warnings.catch_warnings(action="error"):
        looked_at = evaluate(*arguments)
    assert (looked_at.exit_code, looked_at.stdout) == (0, allowed.stdout)
    refused(evaluate("runs/x", "--allow-missing"), "expected --allow-missing with --predictions, got a model")


def test_results_of_boxes_alone_are_scored_by_boxes(predictions):
    arguments = ["--predictions", predictions / "boxes.json", "--annotations", predictions / "val.json"]
    result = evaluate(*arguments, "--crowds", "ignore", "--max-dets", "1,5")
    assert result.exit_code == 0, result.output
    assert "boxes" in result.stdout
    assert "masks" not in result.stdout
    assert "at most 5 detections" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected MODEL, a run's folder or a checkpoint, or --recipe RECIPE, whose weights are scored, or --pred"),
        (["--recipe", "quickstart"], "model.weights: expected a file to evaluate, got 'none'; or give MODEL"),
        (["--predictions", __file__], "expected --annotations FILE, by which the predictions are scored"),
        (
            ["runs/x", "--predictions", __file__],
            "expected --predictions without a model, recipe and its keys, got runs/x",
        ),
        (["--max-dets", "100,10", "x"], "--max-dets: expected ascending numbers such as 1,10,100, got '100,10'"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    refused(evaluate(*arguments), message)


def test_results_that_cannot_be_read_leave_nothing(predictions, tmp_path):
    (tmp_path / "bad.json").write_text('[{"image_id": 10, "category_id": 3, "score": "high", "bbox": [1, 1, 2, 2]}]')
    arguments = ["--predictions", tmp_path / "bad.json", "--annotations", predictions / "val.json"]
    result = evaluate(*arguments, "--crowds", "ignore", "--output", tmp_path / "scores")
    refused(result, 'bad.json: result number 1: score is "high" (text), expected a number')
    assert not (tmp_path / "scores").exists()


def test_a_model_of_torchvisions_91_classes_is_scored_by_the_names_of_coco(run, files, tmp_path):
    """The drawn categories are given names of COCO's; the classifier finds a dog everywhere."""
    path = files / "annotations" / "instances_val.json"
    data = json.loads(path.read_text())
    names = ["person", "zebra", "dog", "cat"]
    categories = [c | {"name": name} for c, name in zip(data["categories"], names, strict=True)]
    path.write_text(json.dumps(data | {"categories": categories}))
    model = MaskRCNN(91, tiny_recipe(tmp_path).model)
    torch.nn.init.constant_(model.module.roi_heads.box_predictor.cls_score.bias[18:19], 50.0)
    torch.save(model.module.state_dict(), tmp_path / "coco.pt")
    result = evaluate(tmp_path / "coco.pt", "--recipe", run.recipe, *own(files), "--output", tmp_path / "scores")
    assert result.exit_code == 0, result.output
    matches = EvaluationMatches.load(tmp_path / "scores" / "matches.npz")
    found = dict(zip(matches.category_names, np.diff(matches.tables["bbox"].detection_starts), strict=True))
    assert found["dog"] > 0
    assert found["person"] == found["zebra"] == found["cat"] == 0
