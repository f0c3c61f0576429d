"""A training that diverges, its loss or its weights no longer finite: it stops, and its good checkpoints stay."""

import math
from pathlib import Path

import torch
from composer import Logger, State
from composer.loggers import LoggerDestination
from torch import nn

from composer_copypaste.errors import DivergedError
from composer_copypaste.integrations.composer.distributed import decided
from composer_copypaste.integrations.composer.model import LOSSES
from composer_copypaste.recipes.schema import Recipe


class StopsAtNonFiniteLoss(LoggerDestination):
    """Ends a training whose loss was NaN or infinite in as many batches in a row as the recipe says.

    The loss is the mean over all processes, which Composer has read from the device already: nothing is waited for, and
    all processes stop at the same batch. It is a logger because loggers hear of a batch last, when its row is written.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._limit = recipe.training.stop_after_nonfinite_losses
        self._rate = math.nan
        self._began = ""
        self.first: int | None = None
        """The batch that began the row of losses that are not finite; None: the last one was finite."""

    def batch_start(self, state: State, logger: Logger) -> None:
        """Notes the learning rate, which the schedule changes before the batch's end."""
        self._rate = state.optimizers[0].param_groups[0]["lr"]

    def batch_end(self, state: State, logger: Logger) -> None:
        """Counts.

        Raises:
            DivergedError: in all processes, at the last batch of the row.
        """
        if math.isfinite(state.total_loss_dict["loss/train/total"]):
            self.first = None
            return
        batch = state.timestamp.batch.value
        if self.first is None:
            self.first, self._began = batch, self.where(state)
        if batch - self.first + 1 == self._limit:
            raise DivergedError(
                f"the loss was not finite (NaN or infinite) in {self._limit} batches in a row; the first: {self._began}"
                if self._limit > 1
                else f"the loss was not finite (NaN or infinite): {self._began}",
                self.first,
            )

    def check_weights(self, state: State) -> None:
        """Raise ``DivergedError``, in all processes, where the weights are not finite after a batch."""
        if not decided(lambda: weights_are_finite(state.model)):
            after = state.timestamp.batch.value + 1
            raise DivergedError(
                f"the weights are not finite (NaN or infinite) after {self.where(state)}", self.first or after
            )

    def where(self, state: State) -> str:
        """The last batch, the parts of its loss that are not finite, or else the largest, and its learning rate."""
        losses = {
            name: value for name in LOSSES if (value := state.total_loss_dict.get(f"loss/train/{name}")) is not None
        }
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        parts = ", ".join(f"loss {name} {losses[name]:g}" for name in bad or [max(losses, key=losses.__getitem__)])
        return f"batch {state.timestamp.batch.value}, {parts}, learning rate {self._rate:g}"


def weights_are_finite(model: nn.Module) -> bool:
    """Whether no weight, and no statistic of a normalisation, is NaN or infinite; the device is waited for once."""
    values = [values for values in model.state_dict().values() if values.is_floating_point()]
    return bool(torch.stack([each.isfinite().all() for each in values]).all())


def advice(recipe: Recipe, last_good: Path | None) -> str:
    """What is left of a training that has diverged, and what may keep the next one from it."""
    training = recipe.training
    kept = "There is no checkpoint from before" if last_good is None else f"The last good checkpoint is {last_good}"
    clip = "" if training.clip_norm is None else f" below {training.clip_norm:g}"
    tries = [
        f"optimizer.lr below {recipe.optimizer.lr:g}",
        f"training.clip_norm{clip}",
        f"schedule.warmup above {recipe.schedule.warmup}",
        *([] if training.precision == "fp32" else [f"training.precision=fp32 in place of {training.precision}"]),
    ]
    on = "" if training.stop_after_nonfinite_losses is None else "; training.stop_after_nonfinite_losses=null goes on"
    return f"{kept}. Try, with output=ANOTHER_FOLDER, {', '.join(tries[:-1])} or {tries[-1]}{on}"
