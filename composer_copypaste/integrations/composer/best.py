"""Callbacks that follow a metric over the evaluations of a training: the best checkpoint, and early stopping."""

import math
import os
import shutil
from pathlib import Path

from composer import Callback, Logger, State
from composer.core import Timestamp
from composer.utils import dist

from composer_copypaste.distributed import print_once
from composer_copypaste.errors import count_noun
from composer_copypaste.files import atomic_write
from composer_copypaste.recipes.schema import EarlyStopSettings
from composer_copypaste.settings import parse_time

BEST_PREFIX = "best-"
"""Begins the name of the best checkpoint, after which come epoch and batch."""


def latest_value(state: State, metric: str) -> float | None:
    """A metric of the evaluation that has just ended; None where nothing could be scored. All processes call this."""
    value = float(state.eval_metrics["eval"][metric].compute())
    return value if math.isfinite(value) and value >= 0 else None  # COCO's -1: no object counts


class BestCheckpoint(Callback):
    """Keeps the checkpoint whose evaluation gave the highest value of a metric; of equal ones the first.

    Before each evaluation a checkpoint is saved: it gets a second name, a hard link, when it is the best.

    Args:
        folder: where the checkpoints are.
        metric: a name such as "segm/AP".
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self._folder = folder
        self.metric = metric
        self.value: float | None = None
        self.batch = 0

    def eval_end(self, state: State, logger: Logger) -> None:
        """Gives the checkpoint that was evaluated its second name, if it is the best so far."""
        value, now = latest_value(state, self.metric), state.timestamp
        if value is None or (self.value is not None and value <= self.value):
            return
        saved = self._folder / f"ep{now.epoch.value}-ba{now.batch.value}-rank0.pt"
        if dist.get_global_rank() == 0 and saved.exists():  # it is not after a loss that was not finite
            self.value, self.batch = value, now.batch.value
            _keep_as_best(saved)

    def state_dict(self) -> dict[str, float | int | None]:
        """The highest value, and after how many batches it was found."""
        return {"value": self.value, "batch": self.batch}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        """Restores them."""
        self.value, self.batch = state["value"], int(state["batch"] or 0)

    def describe(self) -> str | None:
        """Which checkpoint is the best, in words; None where there is none yet."""
        best = next(self._folder.glob(f"{BEST_PREFIX}*.pt"), None)
        if self.value is None or best is None:
            return None
        return f"best {self.metric} {self.value:.3f} after {count_noun(self.batch, 'batch', 'batches')}: {best}"


def _keep_as_best(checkpoint: Path) -> None:
    """Give a checkpoint the name of the best, and remove the one that was the best before."""
    best = checkpoint.with_name(BEST_PREFIX + checkpoint.name.replace("-rank0", ""))
    with atomic_write(best) as unfinished:
        try:
            os.link(checkpoint, unfinished)
        except OSError:  # a disk without hard links
            shutil.copyfile(checkpoint, unfinished)
    for former in set(checkpoint.parent.glob(f"{BEST_PREFIX}*.pt")) - {best}:
        former.unlink()


class StopsEarly(Callback):
    """Ends a training when a metric has not risen for some time; it decides after evaluations.

    Unlike Composer's ``EarlyStopper``, it is saved in checkpoints, so a resumed training ends where one without an
    interruption does.
    """

    def __init__(self, settings: EarlyStopSettings) -> None:
        self._settings = settings
        self.value: float | None = None
        self.at = (0, 0)
        """Batches and epochs trained when the metric had risen last."""
        self.has_stopped = False

    def eval_end(self, state: State, logger: Logger) -> None:
        """Stops the training, in all processes, if the metric has not risen for the patience."""
        settings, now = self._settings, state.timestamp
        value = latest_value(state, settings.metric)
        if value is not None and (self.value is None or value > self.value + settings.min_gain):
            self.value, self.at = value, (now.batch.value, now.epoch.value)
        elif self._waited(now) and (state.max_duration is None or now < state.max_duration):
            self.has_stopped = True
            state.stop_training()
            reached = "nothing" if self.value is None else f"{self.value:.3f}"
            print_once(
                f"stopped early after {count_noun(now.batch.value, 'batch', 'batches')}: {settings.metric} has not "
                f"risen above {reached}, reached after {self.at[0]}, for {settings.patience}"
            )

    def _waited(self, now: Timestamp) -> bool:
        patience, unit = parse_time(self._settings.patience)
        batches, epochs = self.at
        return (now.batch.value - batches if unit == "ba" else now.epoch.value - epochs) >= patience

    def stop_if_stopped(self, state: State) -> None:
        """Ends a resumed training that had been stopped before its last checkpoint was saved."""
        if self.has_stopped:
            state.stop_training()

    def state_dict(self) -> dict[str, object]:
        """The highest value, when it was reached, and whether the training has been stopped."""
        return {"value": self.value, "at": list(self.at), "has_stopped": self.has_stopped}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores them."""
        value, at = state["value"], state["at"]
        self.value = float(value) if isinstance(value, int | float) else None
        self.at = (int(at[0]), int(at[1])) if isinstance(at, list) else (0, 0)
        self.has_stopped = bool(state["has_stopped"])
