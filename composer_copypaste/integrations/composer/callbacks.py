"""Composer callbacks of a run: memory, evaluation file, resumption, sheets of training images, divergence."""

import math
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from composer import Callback, Logger, State
from composer.callbacks import LRMonitor, MemoryMonitor, SpeedMonitor
from composer.loggers import LoggerDestination
from composer.utils import dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from composer_copypaste.data.loaders import EpochSampler
from composer_copypaste.distributed import first_process_decides
from composer_copypaste.errors import DivergedError
from composer_copypaste.files import atomic_write
from composer_copypaste.instances import Target
from composer_copypaste.integrations.composer.algorithms import interval_is_due
from composer_copypaste.integrations.composer.model import LOSSES, ONE_STAGE_LOSSES
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision, CocoScalar
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.report import Report, evaluation_report, write_json
from composer_copypaste.settings import DURATION
from composer_copypaste.visualize.draw import save_png, training_sheet


def build_monitors(*, on_gpu: bool) -> list[Callback]:
    """Composer's monitors of learning rate, throughput and GPU memory, and ours of the process's memory."""
    always: list[Callback] = [LRMonitor(), SpeedMonitor(window_size=10), ProcessMemory()]
    return [*always, MemoryMonitor()] if on_gpu else always  # on a CPU Composer's memory monitor only warns


class ProcessMemory(Callback):
    """Logs ``memory/process_peak``: the most memory the process has held so far, in gigabytes."""

    def batch_end(self, state: State, logger: Logger) -> None:
        """Logs once a batch."""
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        logger.log_metrics({"memory/process_peak": peak / 1e9})


class EvaluationFiles(Callback):
    """Writes ``evaluation.json`` after each evaluation, with all its numbers, and ``matches.npz`` after the last one.

    Args:
        report: the path of ``evaluation.json``.
        matches: the path of ``matches.npz``.
    """

    def __init__(self, report: Path, matches: Path) -> None:
        self.report = report
        self.matches = matches

    def eval_end(self, state: State, logger: Logger) -> None:
        """Every process takes part; the first writes."""
        report = latest_report(state)
        is_last = state.max_duration is not None and state.timestamp >= state.max_duration
        matches = latest_matches(state) if is_last else None
        if dist.get_global_rank() == 0:
            if matches is not None:
                matches.save(self.matches)
            write_json(report, self.report)


def latest_report(state: State) -> Report:
    """The report of the last evaluation; in a distributed run, every process must call this."""
    return evaluation_report(evaluation_metric(state))


def latest_matches(state: State) -> EvaluationMatches:
    """The matches of the last evaluation; in a distributed run, every process must call this."""
    return evaluation_metric(state).matches()


def evaluation_metric(state: State) -> CocoMeanAveragePrecision:
    """The metric of the last evaluation, with all of its images."""
    return cast(CocoScalar, next(iter(state.eval_metrics["eval"].values()))).whole


class SkipTrainedSamples(Callback):
    """Lets a resumed training begin at once: samples that it was trained on before are not loaded again.

    Without it, Composer loads the interrupted epoch from its start, and drops the batches that are done. It works with
    loaders of `training_data_spec`; others are left as they are.
    """

    def fit_start(self, state: State, logger: Logger) -> None:
        """Tells the sampler how many samples of which epoch are done."""
        loader = state.dataloader
        if isinstance(loader, DataLoader) and isinstance(loader.sampler, EpochSampler) and loader.batch_size:
            now = state.timestamp
            loader.sampler.skip(now.epoch.value, now.batch_in_epoch.value * loader.batch_size)


class TrainingSheet(Callback):
    """Saves a sheet of the first training batch as the model gets it: after all algorithms have changed it."""

    def __init__(self, path: Path, category_names: Sequence[str]) -> None:
        self.path = path
        self.category_names = category_names

    def batch_start(self, state: State, logger: Logger) -> None:
        """Draws the first batch of a run, on the first process; a resumed run keeps its sheet."""
        if state.timestamp.batch == 0 and dist.get_global_rank() == 0:
            images, targets = state.batch
            save_png(training_sheet(images, targets, self.category_names), self.path)


class TrainingPictures(Callback):
    """Shows training batches as the model gets them, with masks and boxes; what was pasted is dashed and counted.

    A sheet of up to 16 images goes, as ``training_pictures``, to each of the trainer's loggers that takes images
    (TensorBoard, Weights & Biases, MLflow, Comet ML and Neptune), and into a folder. The first process draws its own
    part of the batch. The batch is ``(images, targets)`` as :class:`CopyPaste` takes them, with detection targets.

    Args:
        category_names: the name of label 1, of label 2 and so on; a label without one is written as a number.
        interval: how often, beginning with the first batch: "500ba" or "1ep".
        folder: where ``ba500.png`` and so on are saved; None: nowhere.
        input_key: index or key of the images in the batch.
        target_key: index or key of the targets in the batch.

    Raises:
        ValueError: for an interval in another form.

    Example:
        >>> callbacks = [TrainingPictures(["cat", "dog"], interval="500ba")]
    """

    def __init__(
        self,
        category_names: Sequence[str],
        *,
        interval: str = "1ep",
        folder: str | Path | None = None,
        input_key: int | str = 0,
        target_key: int | str = 1,
    ) -> None:
        DURATION.check(interval)
        self.category_names = category_names
        self.interval = interval
        self.folder = None if folder is None else Path(folder)
        self.input_key = input_key
        self.target_key = target_key

    def batch_start(self, state: State, logger: Logger) -> None:
        """Draws the batch, if it is due, after all algorithms have changed it."""
        if dist.get_global_rank() != 0 or not interval_is_due(self.interval, state.timestamp):
            return
        images = cast(Tensor | list[Tensor], state.batch_get_item(self.input_key))
        targets = cast(list[Target], state.batch_get_item(self.target_key))
        sheet = training_sheet(images, targets, self.category_names)
        if self.folder is not None:
            with atomic_write(self.folder / f"ba{int(state.timestamp.batch)}.png") as unfinished:
                save_png(sheet, unfinished)
        # all loggers take NumPy's bytes; TensorBoard's turns torch's into noise
        pixels = sheet.permute(1, 2, 0).numpy()
        logger.log_images(pixels, name="training_pictures", channels_last=True, use_table=False)


class StopsAtNonFiniteLoss(LoggerDestination):
    """Ends a training whose loss is NaN or infinite in several batches in a row.

    The loss is the mean over all processes, which Composer has read from the device already: nothing waits for the
    device, and all processes stop at the same batch. It is a logger because Composer calls loggers last after a batch,
    when the batch's row of metrics is written.

    Args:
        limit: the number of batches in a row; None: the training goes on in any case.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.first: int | None = None
        """The first batch of the current row of non-finite losses; None: the last loss was finite."""
        self._first_described = ""
        self._learning_rate = math.nan

    def batch_start(self, state: State, logger: Logger) -> None:
        """Notes the learning rate, which the schedule changes before the batch's end."""
        self._learning_rate = state.optimizers[0].param_groups[0]["lr"]

    def batch_end(self, state: State, logger: Logger) -> None:
        """Counts the batches whose loss is not finite.

        Raises:
            DivergedError: in all processes, at the last batch of the row.
        """
        if math.isfinite(state.total_loss_dict["loss/train/total"]):
            self.first = None
            return
        batch = state.timestamp.batch.value
        if self.first is None:
            self.first, self._first_described = batch, self._describe_last_batch(state)
        if batch - self.first + 1 == self.limit:
            raise DivergedError(
                f"the loss was not finite (NaN or infinite) in {self.limit} batches in a row; "
                f"the first: {self._first_described}"
                if self.limit > 1
                else f"the loss was not finite (NaN or infinite): {self._first_described}",
                self.first,
            )

    def check_weights(self, state: State) -> None:
        """Raise ``DivergedError``, in all processes, where the weights are not finite after a batch."""
        if not first_process_decides(lambda: weights_are_finite(state.model)):
            after = state.timestamp.batch.value + 1
            raise DivergedError(
                f"the weights are not finite (NaN or infinite) after {self._describe_last_batch(state)}",
                self.first or after,
            )

    def _describe_last_batch(self, state: State) -> str:
        """The last batch, the parts of its loss that are not finite, or else the largest, and its learning rate."""
        losses = {
            name: value
            for name in {**LOSSES, **ONE_STAGE_LOSSES}
            if (value := state.total_loss_dict.get(f"loss/train/{name}")) is not None
        }
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        parts = ", ".join(f"loss {name} {losses[name]:g}" for name in bad or [max(losses, key=losses.__getitem__)])
        return f"batch {state.timestamp.batch.value}, {parts}, learning rate {self._learning_rate:g}"


def weights_are_finite(model: nn.Module) -> bool:
    """Whether no weight, and no statistic of a normalisation, is NaN or infinite; waits for the device once."""
    values = [values for values in model.state_dict().values() if values.is_floating_point()]
    return bool(torch.stack([each.isfinite().all() for each in values]).all())
