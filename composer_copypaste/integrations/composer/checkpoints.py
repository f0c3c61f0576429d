"""Checkpoints of a run: written completely or not at all, read once, and read as data, never as code."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from composer import Algorithm, Callback, Event, Logger, State, Trainer
from composer.algorithms import EMA
from composer.algorithms.ema.ema import EMAParameters
from composer.utils import create_interval_scheduler, dist, reproducibility

from composer_copypaste.distributed import print_once
from composer_copypaste.errors import CheckpointError, DivergedError, count_noun
from composer_copypaste.files import atomic_link, atomic_write, remove_unfinished_files
from composer_copypaste.integrations.composer.best import StopsEarly
from composer_copypaste.integrations.composer.callbacks import StopsAtNonFiniteLoss
from composer_copypaste.integrations.composer.model import InstanceSegmentationModel
from composer_copypaste.models.weight_files import read_torch_file
from composer_copypaste.models.weights import load_tensors

KEPT_CHECKPOINTS = 2
"""The newest one may already give losses that are not finite, when the one before does not."""

CHECKPOINT_NAME = re.compile(r"ep(\d+)-ba(\d+)-rank0\.pt")
"""Composer's default name of a checkpoint."""

LATEST_LINK = "latest-rank0.pt"
"""The link to the newest checkpoint."""


class CheckpointWriter(Callback):
    """Saves checkpoints at an interval, before each evaluation, and on call, in Composer's form.

    Weights that are not finite are never saved, nor, before the end of the training, those after a loss that was not:
    good checkpoints stay. Composer's own saver writes to the final name; this one never leaves a part of a checkpoint
    under it, nor a moment without a link to the newest: a file gets its name when it is on the disk, then the link is
    set, then the oldest is removed.

    Args:
        folder: where the checkpoints are.
        interval: how often one is saved, such as "500ba".
        divergence: knows whether losses and weights are finite.
    """

    def __init__(self, folder: Path, interval: str, divergence: StopsAtNonFiniteLoss) -> None:
        self._folder = folder
        self._divergence = divergence
        self._is_due = create_interval_scheduler(interval, include_end_of_training=False)
        self._random_state: list[dict[str, Any]] = []
        self._has_warned = False
        self.evaluation_due = False
        """Whether an evaluation is about to begin, or has not ended; a checkpoint saved before it says so."""

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Saves, if it is due after a batch."""
        self._save_if_due(state, Event.BATCH_CHECKPOINT)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Saves, if it is due after an epoch."""
        self._save_if_due(state, Event.EPOCH_CHECKPOINT)

    def eval_before_all(self, state: State, logger: Logger) -> None:
        """Saves before an evaluation during the training: whatever happens in it, the weights are there."""
        self._random_state = reproducibility.get_rng_state()
        self.evaluation_due = True
        self._save_if_finite(state)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """Restores the random numbers, so that the training goes on as one that resumes from before the evaluation."""
        self.evaluation_due = False
        reproducibility.load_rng_state(self._random_state)

    def eval_standalone_end(self, state: State, logger: Logger) -> None:
        """Notes the end of an evaluation that is not part of ``fit``."""
        self.evaluation_due = False

    def state_dict(self) -> dict[str, bool]:
        """Whether an evaluation is due."""
        return {"evaluation_due": self.evaluation_due}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        """Takes it from a checkpoint; those of former versions, saved after evaluations, don't say it."""
        self.evaluation_due = state.get("evaluation_due", False)

    def _save_if_due(self, state: State, event: Event) -> None:
        if self._is_due(state, event) and not training_is_over(state):  # ``save`` is called at the end
            self._save_if_finite(state)

    def _save_if_finite(self, state: State) -> None:
        """Save, unless the last loss or the weights are not finite; say so once where the training goes on anyway."""
        try:
            self._divergence.check_weights(state)
        except DivergedError as error:
            if self._divergence.limit is not None:
                raise
            if not self._has_warned:
                print_once(f"{error}; no more is saved")
            self._has_warned = True
        else:
            if self._divergence.first is None:
                self.save(state)

    def save_before_evaluation(self, state: State) -> None:
        """Saves at the end of the training, before its evaluation.

        Raises:
            DivergedError: in all processes, where the weights are not finite.
        """
        self._divergence.check_weights(state)
        self.evaluation_due = True
        self.save(state)

    def save(self, state: State) -> None:
        """Saves now; every process takes part, the first writes. The weights must be finite.

        Where weights are averaged, the averaged ones are the model's in the checkpoint, so that whatever reads it uses
        them; those that are trained are in the state of Composer's ``EMA``, which takes them up again.
        """
        with averaged_weights(state):
            content = {"state": state.state_dict(), "rng": reproducibility.get_rng_state()}
            if dist.get_global_rank() == 0:
                now = state.timestamp
                self._folder.mkdir(exist_ok=True)
                _write_checkpoint(content, self._folder / f"ep{now.epoch.value}-ba{now.batch.value}-rank0.pt")
                delete_old_checkpoints(self._folder)
        dist.barrier()


@contextmanager
def averaged_weights(state: State) -> Iterator[None]:
    """Let the model have the averaged weights, where a training has ``EMA``, and then those it had before."""
    ema = next((algorithm for algorithm in state.algorithms if isinstance(algorithm, EMA)), None)
    if ema is None or ema.ema_model is None or not ema.ema_started or ema.ema_weights_active:
        yield
        return
    _swap_weights(ema, state, active=True)
    try:
        yield
    finally:
        _swap_weights(ema, state, active=False)


def _swap_weights(ema: EMA, state: State, *, active: bool) -> None:
    cast(EMAParameters, ema.ema_model).swap_params(model=state.model)
    ema.ema_weights_active = active


def train_and_evaluate(trainer: Trainer, writer: CheckpointWriter, stopper: StopsEarly | None = None) -> None:
    """Train to the end, evaluate, and save after both; go on from where the loaded checkpoint was saved."""
    try:
        if writer.evaluation_due:  # the run was interrupted during an evaluation
            trainer.eval()
        if stopper is not None:
            stopper.stop_if_stopped(trainer.state)
        if not training_is_over(trainer.state):  # a trainer at the end would refuse to fit
            with warnings.catch_warnings():  # a checkpoint at the end of an epoch leaves no batches of it
                warnings.filterwarnings("ignore", "No batches were trained")
                trainer.fit()
            if stopper is None or not stopper.has_stopped:  # else the last weights have just been evaluated
                writer.save_before_evaluation(trainer.state)
                trainer.eval()
        writer.save(trainer.state)
    except Exception:
        trainer.engine.close()  # not the trainer, which would wait for the other processes
        raise


def training_is_over(state: State) -> bool:
    """Whether the training has reached its duration."""
    return state.max_duration is not None and state.timestamp >= state.max_duration


def _write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch closes its archive after a failed write, which fails again
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def saved_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted((path for path in folder.glob("*") if CHECKPOINT_NAME.fullmatch(path.name)), key=_batch_and_epoch)


def last_good_checkpoint(folder: Path, batch: int) -> Path | None:
    """The newest checkpoint whose weights gave a finite loss; None where there is none.

    Weights can be finite, and so large that they give no finite loss.

    Args:
        folder: where the checkpoints are.
        batch: the first whose loss was not finite.
    """
    return next((path for path in reversed(saved_checkpoints(folder)) if batch_of_checkpoint(path) + 1 < batch), None)


def batch_of_checkpoint(checkpoint: Path) -> int:
    """How many batches were trained when it was saved."""
    return _batch_and_epoch(checkpoint)[0]


def _batch_and_epoch(checkpoint: Path) -> tuple[int, int]:
    """Batches and epochs trained; the end of an epoch may be saved twice, before and after the epoch is counted."""
    epoch, batch = map(int, cast(re.Match[str], CHECKPOINT_NAME.fullmatch(checkpoint.name)).groups())
    return batch, epoch


def delete_old_checkpoints(folder: Path) -> None:
    """Let the link point to the newest checkpoint; remove unfinished files, and all checkpoints but two batches'."""
    remove_unfinished_files(folder)
    saved = saved_checkpoints(folder)
    if saved:
        _sync_folder(folder)
        atomic_link(folder / LATEST_LINK, saved[-1].name)
    # where a batch ends an epoch, of the two with equal weights
    newest = {batch_of_checkpoint(path): path for path in saved}
    for outdated in set(saved).difference(list(newest.values())[-KEPT_CHECKPOINTS:]):
        outdated.unlink()


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Checkpoint = dict[str, Any]
"""The content of a checkpoint: Composer's ``state``, and under ``rng`` each process's random state."""


def load_checkpoint(path: Path, model: InstanceSegmentationModel, algorithms: Sequence[Algorithm]) -> Checkpoint:
    """A checkpoint to resume from, whose weights are now the model's.

    Raises:
        CheckpointError: where a run of this model and these algorithms, with this number of processes, cannot have
            left it. No code in it is run.
    """
    try:
        content = read_torch_file(path)
        tensors = model.tensors_of_content(content, path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Remove this file, and the same command goes on from the checkpoint before, or from the beginning"
        ) from error
    load_tensors(model.module, tensors, path)
    if not (
        isinstance(content, dict) and isinstance(content.get("rng"), list) and "timestamp" in content.get("state", ())
    ):
        raise CheckpointError(f"{path}: expected the whole state of a training, found weights only")
    processes = len(content["rng"])
    if processes != dist.get_world_size():
        raise CheckpointError(
            f"{path}: left by a run of {count_noun(processes, 'process', 'processes')}, which can be resumed with as "
            f"many only; found {count_noun(dist.get_world_size(), 'process', 'processes')}"
        )
    saved = [name for name, _ in content["state"].get("algorithms", [])]
    expected = [type(algorithm).__qualname__ for algorithm in algorithms]
    if saved != expected:
        raise CheckpointError(f"{path}: expected the state of the algorithms {expected}, found {saved}")
    return content


class CheckpointLoader(Callback):
    """Restores the state of a training, when Composer's trainer would load it from a file itself.

    The trainer would read the file a second time, as code, and evaluate the text of each algorithm in it. The weights
    are the model's already, and so are left out here.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint: Checkpoint | None = checkpoint
        self._random_state = checkpoint["rng"]

    def before_load(self, state: State, logger: Logger) -> None:
        """Restores all but the weights and the random numbers."""
        if self._checkpoint is None:
            return
        saved = {key: value for key, value in self._checkpoint["state"].items() if key not in ("model", "run_name")}
        # what has no state needs none; Composer would warn of each callback that the run has since it was resumed
        saved["callbacks"] = {type(callback).__qualname__: {} for callback in state.callbacks} | saved["callbacks"]
        state.load_state_dict(saved, logger)
        self._checkpoint = None  # frees its memory

    def fit_start(self, state: State, logger: Logger) -> None:
        """Restores the random numbers; what the trainer does until the first batch draws none."""
        if self._random_state:
            reproducibility.load_rng_state(self._random_state)
            self._random_state = []
