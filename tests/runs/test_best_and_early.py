"""The best checkpoint, averaged weights and early stopping, and runs with all three that are interrupted."""

import shutil

import pytest
import torch
from click.testing import CliRunner
from forked_runs import start
from run_folders import assert_same_to_the_bit, rows, same, state
from shapes_recipe import tiny, tiny_recipe
from test_killed_runs import copied_when_saved

from composer_copypaste.cli import main
from composer_copypaste.errors import RecipeError
from composer_copypaste.integrations.composer import best
from composer_copypaste.integrations.composer.callbacks import EvaluationFiles
from composer_copypaste.models.weights import read_weights
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train

SCORES = [0.1, 0.3, 0.2, 0.3, 0.25, 0.9, 0.9, 0.9]
"""What an evaluation after 2, 4, 6, ... batches is taken to give: the best after 4, and no rise for 4 batches at 8."""
ALL = [
    "data.shapes.train=20",
    "data.batch_size=4",
    "data.workers=0",
    "training.duration=14ba",
    "training.eval_interval=2ba",
    "training.checkpoint_interval=3ba",
    "training.best_checkpoint=segm/AP",
    "training.early_stop={patience: 4ba}",
    "training.ema={half_life: 2ba}",
]
"""Epochs of five batches; it stops in the second."""


@pytest.fixture(autouse=True)
def scores(monkeypatch):
    """A tiny model scores nothing: the scores are given by the batch."""
    monkeypatch.setattr(best, "latest_value", lambda state, metric: SCORES[state.timestamp.batch.value // 2 - 1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with all three that was not interrupted; beside it copies, each as a kill after a checkpoint leaves it."""
    place = tmp_path_factory.mktemp("whole")
    folder = RunFolder(place / "reference")
    with pytest.MonkeyPatch.context() as patch, copied_when_saved(folder):
        patch.setattr(best, "latest_value", lambda state, metric: SCORES[state.timestamp.batch.value // 2 - 1])
        train(tiny_recipe(place, *ALL), folder)
    return folder


def names(folder):
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_the_checkpoint_of_the_first_best_evaluation_is_kept_besides_the_newest(whole):
    assert names(whole) == ["best-ep0-ba4.pt", "ep1-ba6-rank0.pt", "ep1-ba8-rank0.pt", "latest-rank0.pt"]
    assert whole.best_checkpoint.name == "best-ep0-ba4.pt"


def test_a_run_stops_when_its_evaluations_have_not_risen_for_the_patience(whole):
    evaluations = [row["batch"] for row in rows(whole) if "metrics/eval/segm/AP" in row]
    assert evaluations == [2, 4, 6, 8]  # the last one is not repeated
    assert rows(whole)[-1]["batch"] == 8
    assert whole.is_complete
    assert whole.matches.exists()


def test_checkpoints_hold_the_averaged_weights_as_the_models_and_those_that_are_trained(whole, tmp_path):
    """Without an average, the same batches train the same weights; of these the average is made by hand."""
    place, plain = whole.root.parent, RunFolder(tmp_path / "plain")
    found = []
    with copied_weights_after_each_batch(found):
        train(tiny_recipe(place, *ALL, "training.ema=null"), plain)
    name = "module.rpn.head.cls_logits.weight"
    average = found[0][name].clone()
    for weights in found:
        average = average * 0.5**0.5 + weights[name] * (1 - 0.5**0.5)
    saved = state(whole)
    [(_, ema)] = [entry for entry in saved["algorithms"] if entry[0] == "EMA"]

    assert len(found) == 8
    assert not torch.equal(average, found[-1][name])
    torch.testing.assert_close(saved["model"][name], average)
    assert torch.equal(ema["ema_model"]["named_parameters_dict"][name], found[-1][name])
    assert torch.equal(read_weights(whole.latest_checkpoint)[name.removeprefix("module.")], saved["model"][name])


def copied_weights_after_each_batch(found):
    patch = pytest.MonkeyPatch.context()

    class Copies:
        def __enter__(self):
            context = patch.__enter__()
            whole = EvaluationFiles.batch_end

            def batch_end(callback, state, logger):
                whole(callback, state, logger)
                found.append({name: tensor.clone() for name, tensor in state.model.state_dict().items()})

            context.setattr(EvaluationFiles, "batch_end", batch_end)

        def __exit__(self, *error):
            return patch.__exit__(*error)

    return Copies()


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param("ep0-ba3-rank0.pt", id="before the best evaluation"),
        pytest.param("ep0-ba4-rank0.pt", id="in it"),
        pytest.param("ep1-ba8-rank0.pt", id="in the one that stops it"),
    ],
)
def test_an_interrupted_run_with_all_three_ends_as_one_that_was_not(checkpoint, whole):
    folder = RunFolder(whole.root.parent / checkpoint)
    train(tiny_recipe(whole.root.parent, *ALL), folder)
    assert_same_to_the_bit(folder, whole)
    assert same(state(folder)["algorithms"][-1][1], state(whole)["algorithms"][-1][1])
    assert same(read_weights(folder.best_checkpoint), read_weights(whole.best_checkpoint))


def test_a_run_that_stopped_before_its_predictions_were_drawn_trains_no_further(whole, tmp_path):
    folder = RunFolder(tmp_path / "stopped")
    shutil.copytree(whole.root, folder.root, symlinks=True)
    folder.predictions.unlink()
    train(tiny_recipe(whole.root.parent, *ALL), folder)
    assert_same_to_the_bit(folder, whole)


def test_the_metric_must_be_one_of_the_evaluation(tmp_path):
    for override, message in (
        ("training.best_checkpoint=segm/ap", "training.best_checkpoint: expected a number of the evaluation such as"),
        ("training.early_stop={metric: segm/AR7}", "training.early_stop.metric: expected AR at one of"),
        ("training.early_stop={patience: 5}", "training.early_stop.patience: expected epochs or batches"),
        ("training.ema={half_life: 0ba}", "training.ema.half_life: expected epochs or batches"),
    ):
        with pytest.raises(RecipeError, match=message):
            tiny_recipe(tmp_path, override)


def test_eval_scores_the_best_checkpoint_of_a_run(whole, tmp_path):
    done = CliRunner().invoke(main, ["eval", str(whole.root), "--best", "--output", str(tmp_path / "scores")])
    assert done.exit_code == 0, done.output
    assert f"Model: {whole.best_checkpoint}." in (tmp_path / "scores" / "report.html").read_text()


def test_best_of_a_run_that_kept_none_says_which_key_keeps_one(tmp_path):
    done = CliRunner().invoke(main, ["eval", str(tmp_path), "--best"])
    assert done.exit_code != 0
    assert "training.best_checkpoint=segm/AP" in done.stderr


@pytest.mark.slow
def test_a_run_with_all_three_that_is_killed_at_random_moments_ends_as_one_that_was_not(tmp_path):
    reference = RunFolder(tmp_path / "reference")
    run(tmp_path, reference)
    folder = RunFolder(tmp_path / "killed")
    for seconds in (14, 15, 16, 17, 18):
        if run(tmp_path, folder, kill_after=seconds):
            break
    run(tmp_path, folder)
    assert_same_to_the_bit(folder, reference)


def run(place, folder, kill_after=None):
    """Whether the run came to its end before it was killed."""
    process = start(*tiny(place, *ALL, f"output={folder.root}"), log=place / "log.txt")
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0, (place / "log.txt").read_text()
    return True
