"""A run that is killed at any moment, and started again by the same command, ends as one that never was."""

import random
import shutil
import time
from contextlib import contextmanager
from unittest import mock

import pytest
from forked_runs import start
from run_folders import assert_same_to_the_bit
from shapes_recipe import tiny, tiny_recipe

from composer_copypaste.integrations.composer.callbacks import EvaluationFiles
from composer_copypaste.integrations.composer.checkpoints import CheckpointWriter, saved_checkpoints
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train

KILLS = 20
LONG = [
    "data.shapes.train=20",
    "data.batch_size=4",
    "copy_paste.bank_size=16",
    "model.box_dropout=0.2",
    "model.mask_dropout=0.1",
    "data.workers=0",
    "training.duration=11ba",
    "training.eval_interval=3ba",
    "training.checkpoint_interval=2ba",
    "schedule.warmup=4ba",
]
"""Epochs of five batches, so that evaluations, checkpoints and epochs never end at once."""

IN_EPOCHS = [*LONG, "training.duration=2ep", "training.eval_interval=1ep", "training.checkpoint_interval=1ba"]


def run(place, folder, *overrides, kill_after=None):
    """Whether the run came to its end before it was killed."""
    process = start(*tiny(place, *LONG, *overrides, f"output={folder.root}"), log=place / "log.txt")
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0, (place / "log.txt").read_text()
    return True


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    chance = random.Random(0)
    reference, repeated = RunFolder(tmp_path / "reference"), RunFolder(tmp_path / "repeated")
    assert run(tmp_path, reference)  # draws the shapes, and waits for the imports
    began = time.monotonic()
    assert run(tmp_path, repeated)
    duration = time.monotonic() - began
    kills = number = 0
    while kills < KILLS:
        folder = RunFolder(tmp_path / f"run{number}")
        while not run(
            tmp_path,
            folder,
            f"data.workers={chance.choice((0, 2))}",
            kill_after=chance.uniform(0, 0.7 * duration) if kills < KILLS else None,
        ):
            kills += 1
        assert_same_to_the_bit(folder, reference)
        number += 1
    assert_same_to_the_bit(repeated, reference)


@pytest.fixture(scope="module")
def in_epochs(tmp_path_factory):
    """A run of two epochs that was never stopped; beside it lie copies, each as a kill after a checkpoint leaves it."""
    place = tmp_path_factory.mktemp("epochs")
    folder = RunFolder(place / "reference")
    with copied_when_saved(folder):
        train(tiny_recipe(place, *IN_EPOCHS), folder)
    return folder


@contextmanager
def copied_when_saved(folder):
    """Copies a run's folder after each checkpoint of its training; the copy has the checkpoint's name."""

    def save(writer, state):
        whole(writer, state)
        copy = folder.root.parent / saved_checkpoints(folder.checkpoints)[-1].name
        if not copy.exists():  # the last batch of an epoch is saved twice, before and after its evaluation
            shutil.copytree(folder.root, copy, symlinks=True)

    whole = CheckpointWriter.save
    with mock.patch.object(CheckpointWriter, "save", save):
        yield


@pytest.mark.parametrize(("failing", "interval"), [(1, "1ep"), (2, "1ba")], ids=["on the way", "at the end"])
def test_a_run_whose_evaluation_fails_has_saved_its_weights_and_goes_on_with_that_evaluation(
    in_epochs, failing, interval, monkeypatch
):
    place, folder = in_epochs.root.parent, RunFolder(in_epochs.root.parent / f"evaluation{failing}")
    ended = []

    def eval_end(callback, state, logger):
        ended.append(state.timestamp.batch.value)
        if len(ended) == failing:
            raise ZeroDivisionError
        whole(callback, state, logger)

    whole = EvaluationFiles.eval_end
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationFiles, "eval_end", eval_end)
        with pytest.raises(ZeroDivisionError) as caught:
            train(tiny_recipe(place, *IN_EPOCHS, f"training.checkpoint_interval={interval}"), folder)
    [note] = caught.value.__notes__
    assert note.endswith(f" then the same command with output={folder.root} goes on")
    assert saved_checkpoints(folder.checkpoints)[-1].name == f"ep{failing}-ba{5 * failing}-rank0.pt"
    train(tiny_recipe(place, *IN_EPOCHS), folder)
    assert_same_to_the_bit(folder, in_epochs)


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param("ep0-ba3-rank0.pt", id="in the first epoch"),
        pytest.param("ep0-ba5-rank0.pt", id="after its last batch"),
        pytest.param("ep1-ba5-rank0.pt", id="after it"),
        pytest.param("ep1-ba7-rank0.pt", id="in the second epoch"),
    ],
)
def test_a_run_of_epochs_killed_in_one_or_between_two_ends_as_one_that_never_was(in_epochs, checkpoint, capfd):
    place, folder = in_epochs.root.parent, RunFolder(in_epochs.root.parent / checkpoint)
    train(tiny_recipe(place, *IN_EPOCHS), folder)
    assert "at batch " + checkpoint.split("-")[1].removeprefix("ba") in capfd.readouterr().err
    assert_same_to_the_bit(folder, in_epochs)
