"""Checkpoints of a run: written completely or not at all, and read as data, never as code."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from composer import Algorithm, Callback, Event, Logger, State
from composer.utils import create_interval_scheduler, dist, reproducibility

from composer_copypaste.errors import CheckpointError, DivergedError, counted
from composer_copypaste.files import link_whole, remove_unfinished, written_whole
from composer_copypaste.integrations.composer.distributed import say
from composer_copypaste.integrations.composer.divergence import StopsAtNonFiniteLoss
from composer_copypaste.integrations.composer.model import MaskRCNN
from composer_copypaste.models.weights import load_tensors, plain_values_only, read_torch, tensors_in
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.folder import RunFolder

KEPT_CHECKPOINTS = 2
"""The newest may already give losses that are not finite, when the one before does not."""

NAME = re.compile(r"ep(\d+)-ba(\d+)-rank0\.pt")
"""What Composer calls checkpoints by default."""


class CheckpointWriter(Callback):
    """Saves Composer's checkpoints at an interval, before each evaluation, and when it is told to.

    Weights that are not finite are not saved, nor, on the way, those after a loss that was not, so that they never take
    the place of good ones. Unlike Composer's own
    saver, which writes to the final name, it never leaves a part of a checkpoint there, or no link to the newest: a
    file gets its name when it is on the disk, then the link, then the oldest is removed.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, divergence: StopsAtNonFiniteLoss) -> None:
        self._folder = folder
        self._recipe = recipe
        self._divergence = divergence
        self._due = create_interval_scheduler(recipe.training.checkpoint_interval, include_end_of_training=False)
        self._rng: list[dict[str, Any]] = []
        self._has_warned = False
        self.evaluation_due = False
        """Whether an evaluation was to follow, or has begun and not ended; a checkpoint saved before it says so."""

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Saves, if it is due after a batch."""
        self._save_if_due(state, Event.BATCH_CHECKPOINT)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Saves, if it is due after an epoch."""
        self._save_if_due(state, Event.EPOCH_CHECKPOINT)

    def eval_before_all(self, state: State, logger: Logger) -> None:
        """Saves before an evaluation during the training: whatever happens in it, the weights are there."""
        self._rng = reproducibility.get_rng_state()
        self.evaluation_due = True
        self._save_on_the_way(state)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """Restores the random numbers, so that the training goes on as one that resumes from before the evaluation."""
        self.evaluation_due = False
        reproducibility.load_rng_state(self._rng)

    def eval_standalone_end(self, state: State, logger: Logger) -> None:
        """Notes the end of an evaluation that is not part of ``fit``."""
        self.evaluation_due = False

    def state_dict(self) -> dict[str, bool]:
        """Whether an evaluation is due."""
        return {"evaluation_due": self.evaluation_due}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        """Takes it from a checkpoint; those of former versions, saved after evaluations, say nothing."""
        self.evaluation_due = state.get("evaluation_due", False)

    def _save_if_due(self, state: State, event: Event) -> None:
        if self._due(state, event) and not is_over(state):  # ``save`` is called then
            self._save_on_the_way(state)

    def _save_on_the_way(self, state: State) -> None:
        """Saves, unless the last loss was not finite; a training that is to go on in any case does so."""
        try:
            self._divergence.check_weights(state)
        except DivergedError as error:
            if self._recipe.training.stop_after_nonfinite_losses is not None:
                raise
            if not self._has_warned:
                say(f"{error}; no more is saved")
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
        """Saves now, weights that are finite; every process takes part, the first writes."""
        content = {"state": state.state_dict(), "rng": reproducibility.get_rng_state()}
        if dist.get_global_rank() == 0:
            now = state.timestamp
            self._folder.checkpoints.mkdir(exist_ok=True)
            _write(content, self._folder.checkpoints / f"ep{now.epoch.value}-ba{now.batch.value}-rank0.pt")
            tidy(self._folder)
        dist.barrier()


def is_over(state: State) -> bool:
    """Whether all is trained that the trainer was asked for."""
    return state.max_duration is not None and state.timestamp >= state.max_duration


def _write(content: Mapping[str, Any], path: Path) -> None:
    with written_whole(path) as unfinished, unfinished.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch closes its archive after a failed write, which fails again
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def saved_checkpoints(folder: RunFolder) -> list[Path]:
    """The checkpoints of a run, oldest first; each is whole."""
    return sorted((path for path in folder.checkpoints.glob("*") if NAME.fullmatch(path.name)), key=_moment)


def last_good_checkpoint(folder: RunFolder, batch: int) -> Path | None:
    """The newest checkpoint of a run whose weights gave a finite loss; None where there is none.

    Weights can be finite, and so large that they give no finite loss.

    Args:
        folder: where the run is.
        batch: the first whose loss was not finite.
    """
    return next((path for path in reversed(saved_checkpoints(folder)) if batch_of(path) + 1 < batch), None)


def batch_of(checkpoint: Path) -> int:
    """How many batches were trained when it was saved."""
    return _moment(checkpoint)[0]


def _moment(checkpoint: Path) -> tuple[int, int]:
    """Batches and epochs; at the end of an epoch there may be a checkpoint before and one after it was counted."""
    epoch, batch = map(int, cast(re.Match[str], NAME.fullmatch(checkpoint.name)).groups())
    return batch, epoch


def tidy(folder: RunFolder) -> None:
    """Let the link point to the newest checkpoint; remove what killed processes left and all but two batches'."""
    remove_unfinished(folder.checkpoints)
    saved = saved_checkpoints(folder)
    if saved:
        _sync(folder.checkpoints)
        link_whole(folder.latest_checkpoint, saved[-1].name)
    newest = {batch_of(path): path for path in saved}  # where a batch ends an epoch, of the two with equal weights
    for outdated in set(saved).difference(list(newest.values())[-KEPT_CHECKPOINTS:]):
        outdated.unlink()


def _sync(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_resumable(path: Path, model: MaskRCNN, algorithms: Sequence[Algorithm]) -> None:
    """Raise ``CheckpointError`` where a run of this model, with as many processes, cannot have left a checkpoint."""
    try:
        content = read_torch(path)
        tensors = tensors_in(content, path)
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
            f"{path}: left by a run of {counted(processes, 'process', 'processes')}, which can be resumed with as many "
            f"only; found {counted(dist.get_world_size(), 'process', 'processes')}"
        )
    saved = [name for name, _ in content["state"].get("algorithms", [])]
    if saved != _names(algorithms):
        raise CheckpointError(f"{path}: expected the state of the algorithms {_names(algorithms)}, found {saved}")


def _names(algorithms: Sequence[Algorithm]) -> list[str]:
    return [type(algorithm).__qualname__ for algorithm in algorithms]


def with_own_algorithms(algorithms: Sequence[Algorithm]) -> Callable[[dict[str, Any]], None]:
    """For ``load_ignore_keys``: puts our algorithms' text for the one in the checkpoint, which Composer evaluates."""

    def replace(content: dict[str, Any]) -> None:
        saved = content["state"].get("algorithms", [])
        # those of former versions lack it, of which Composer would warn
        content["state"]["callbacks"].setdefault(StopsAtNonFiniteLoss.__qualname__, {})
        content["state"]["algorithms"] = [
            (name, {**state, "repr": repr(own)}) for (name, state), own in zip(saved, algorithms, strict=True)
        ]

    return replace


@contextmanager
def loading_data_only() -> Iterator[None]:
    """Inside, Composer's trainer cannot load code with a checkpoint, though it asks torch for that."""
    forced, former = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ[forced] = "1"
    try:
        with plain_values_only():
            yield
    finally:
        os.environ.pop(forced)
        if former is not None:
            os.environ[forced] = former
