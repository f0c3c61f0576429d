"""Trainings whose loss is no longer finite: they stop in time, and what was good stays."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from composer import Trainer
from composer.models import ComposerModel
from shapes_recipe import tiny, tiny_recipe
from torch.utils.data import DataLoader

from composer_copypaste.cli import main
from composer_copypaste.errors import CheckpointError, DivergedError
from composer_copypaste.integrations.composer.callbacks import StopsAtNonFiniteLoss, weights_are_finite
from composer_copypaste.integrations.composer.checkpoints import (
    CheckpointWriter,
    delete_old_checkpoints,
    last_good_checkpoint,
    saved_checkpoints,
)
from composer_copypaste.models.weights import read_weights
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import divergence_advice, train

NAN, INF = math.nan, math.inf


class Given(ComposerModel):
    """A model whose losses are given: of each batch those of two parts."""

    def __init__(self, losses):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.losses = iter(losses)

    def forward(self, batch):
        return self.weight

    def loss(self, outputs, batch):
        mask, box = next(self.losses)
        return {"mask": outputs * 0 + mask, "box": outputs * 0 + box}


def trained(losses, tmp_path, *overrides):
    """How many batches were trained, and the error that stopped the training."""
    model = Given(losses)
    recipe, folder = tiny_recipe(tmp_path, *overrides), RunFolder(tmp_path)
    divergence = StopsAtNonFiniteLoss(recipe.training.stop_after_nonfinite_losses)
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader(torch.zeros(len(losses)), batch_size=1),
        optimizers=torch.optim.SGD(model.parameters(), lr=0.125),
        max_duration="1ep",
        loggers=[divergence],
        callbacks=[CheckpointWriter(folder.checkpoints, recipe.training.checkpoint_interval, divergence)],
        progress_bar=False,
        device="cpu",
    )
    try:
        trainer.fit()
    except DivergedError as error:
        return trainer.state.timestamp.batch.value, error
    finally:
        trainer.close()
    return trainer.state.timestamp.batch.value, None


def batches_trained(losses, tmp_path, *overrides):
    """How many batches were trained, and what is said where the training was stopped."""
    batches, error = trained(losses, tmp_path, *overrides)
    return batches, error and str(error)


GOOD, BAD = (1.0, 2.0), (NAN, 2.0)


def test_three_losses_in_a_row_that_are_not_finite_stop_a_training_and_the_first_is_described(tmp_path):
    batches, message = batches_trained([GOOD, (INF, 2.0), BAD, (NAN, NAN), GOOD], tmp_path)
    assert batches == 4
    assert message == (
        "the loss was not finite (NaN or infinite) in 3 batches in a row; "
        "the first: batch 2, loss mask inf, learning rate 0.125"
    )


def test_a_finite_loss_in_between_begins_the_count_anew(tmp_path):
    assert batches_trained([BAD, BAD, GOOD, BAD, BAD, GOOD], tmp_path) == (6, None)


def test_nothing_is_saved_while_losses_are_not_finite_and_the_last_good_checkpoint_gave_one_that_was(tmp_path):
    _, error = trained([GOOD, GOOD, GOOD, BAD, BAD, BAD], tmp_path)
    saved = saved_checkpoints(RunFolder(tmp_path).checkpoints)
    assert error.batch == 4
    assert [path.name for path in saved] == ["ep0-ba2-rank0.pt", "ep0-ba3-rank0.pt"]  # that of 3 gave the bad loss
    assert last_good_checkpoint(RunFolder(tmp_path).checkpoints, error.batch) == saved[0]
    assert last_good_checkpoint(RunFolder(tmp_path).checkpoints, 3) is None


def test_a_checkpoint_from_the_end_of_an_epoch_takes_the_place_of_the_one_of_the_same_batch_alone(tmp_path):
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    names = ["ep0-ba1-rank0.pt", "ep0-ba2-rank0.pt", "ep0-ba3-rank0.pt", "ep1-ba3-rank0.pt"]
    for name in names:
        (folder.checkpoints / name).touch()
    delete_old_checkpoints(folder.checkpoints)
    assert [path.name for path in saved_checkpoints(folder.checkpoints)] == [names[1], names[3]]


def test_the_number_is_a_setting_and_null_goes_on(tmp_path):
    key = "training.stop_after_nonfinite_losses"
    assert batches_trained([GOOD, BAD, GOOD], tmp_path, f"{key}=1") == (
        2,
        "the loss was not finite (NaN or infinite): batch 2, loss mask nan, learning rate 0.125",
    )
    assert batches_trained([BAD] * 5, tmp_path, f"{key}=null") == (5, None)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_value_that_is_not_finite_is_found_among_weights_and_statistics(value):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    model[0].weight.data.fill_(torch.finfo(torch.float32).max)
    assert weights_are_finite(model)
    model[1].running_var[1] = value
    assert not weights_are_finite(model)


def test_the_advice_names_only_what_the_recipe_can_change(tmp_path):
    assert divergence_advice(tiny_recipe(tmp_path, "optimizer.lr=0.5"), None) == (
        "There is no checkpoint from before. Try, with output=ANOTHER_FOLDER, optimizer.lr below 0.5, "
        "training.clip_norm or schedule.warmup above 1ba; training.stop_after_nonfinite_losses=null goes on"
    )
    recipe = tiny_recipe(
        tmp_path,
        "training.device=auto",
        "training.precision=amp_fp16",
        "training.clip_norm=3",
        "training.stop_after_nonfinite_losses=null",
    )
    assert divergence_advice(recipe, tmp_path / "a.pt").endswith(
        "training.clip_norm below 3, schedule.warmup above 1ba or training.precision=fp32 in place of amp_fp16"
    )


DIVERGES = ["optimizer.name=sgd", "optimizer.lr=1000", "schedule.warmup=0ba", "data.workers=0", "training.duration=9ba"]


def test_a_diverged_training_ends_in_one_line_and_keeps_its_good_checkpoint(tmp_path):
    folder = RunFolder(tmp_path / "run")
    arguments = [*tiny(tmp_path, *DIVERGES), "training.eval_interval=9ba", f"output={folder.root}"]
    result = CliRunner().invoke(main, ["train", *arguments])
    rows = list(map(json.loads, folder.metrics.read_text().splitlines()))
    losses = [*(row["loss/train/total"] for row in rows), None]
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {folder.root}: ")
    assert re.search(r"batch \d, loss (\w+) (\S+), (loss .*, )?learning rate [\d.]+\. The last", result.stderr)
    [good] = re.findall(r"The last good checkpoint is (\S+)\. Try, ", result.stderr)
    assert last_good_checkpoint(folder.checkpoints, 1 + losses.index(None)) == Path(good)
    assert all(tensor.isfinite().all() for tensor in read_weights(Path(good)).values())
    assert len(rows) < 9
    assert rows[-1]["loss/train/total"] is None or "weights are not finite" in result.stderr


def test_a_training_that_goes_on_in_any_case_keeps_its_good_checkpoint_too(tmp_path, capfd):
    recipe = tiny_recipe(tmp_path, *DIVERGES, "training.stop_after_nonfinite_losses=null")
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"not finite .* after batch 9, .* The last good checkpoint is"):
        train(recipe, folder)
    assert len(folder.metrics.read_text().splitlines()) >= 9
    assert capfd.readouterr().err.count("; no more is saved") == 1
    assert all(tensor.isfinite().all() for tensor in read_weights(saved_checkpoints(folder.checkpoints)[-1]).values())


def test_weights_that_are_not_finite_are_not_loaded(tmp_path):
    torch.save({"a.weight": torch.ones(2), "b.weight": torch.tensor([1.0, NAN])}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt: holds weights that are not finite \(b\.weight\), as a tr"):
        read_weights(tmp_path / "bad.pt")
