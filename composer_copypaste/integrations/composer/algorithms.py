"""Copy-paste and large-scale jitter as algorithms of Composer."""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, ClassVar, cast

import numpy as np
import torch
from composer.algorithms import (
    AugMix,
    ColOut,
    CutMix,
    LabelSmoothing,
    MixUp,
    ProgressiveResizing,
    RandAugment,
    SelectiveBackprop,
)
from composer.core import Algorithm, Event, State, Timestamp, TimeUnit
from composer.devices import Device
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.arguments import checked_settings
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.carry_out import with_pasted_flags
from composer_copypaste.functional.generators import JITTER_STREAM, batch_generator
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch
from composer_copypaste.functional.sources import Pool
from composer_copypaste.functional.tensors import sequence_like
from composer_copypaste.instances import Target
from composer_copypaste.integrations.composer.model import InstanceSegmentationModel
from composer_copypaste.integrations.pasting import BatchPaster, Images, Targets, scheduled_p
from composer_copypaste.settings import CopyPasteSettings, LargeScaleJitterSettings, parse_time, settings_from
from composer_copypaste.visualize.paste_histograms import COLUMNS, PasteHistograms

INCOMPATIBLE: dict[type[Algorithm], str] = {
    LabelSmoothing: "it smooths a tensor of class labels, and the losses of a detector take none; leave it out",
    MixUp: "it mixes images by the class label of each, and they have boxes and masks; leave it out",
    CutMix: "it mixes images by the class label of each, and they have boxes and masks; leave it out",
    AugMix: "it turns and shears the loader's images, and boxes and masks would not follow; leave it out",
    RandAugment: "it turns and shears the loader's images, and boxes and masks would not follow; leave it out",
    ColOut: "it takes rows and columns out of images, and boxes and masks would not follow; leave it out",
    ProgressiveResizing: "it resizes images, and boxes and masks would not follow; LargeScaleJitter resizes them too",
    SelectiveBackprop: "it chooses images by the loss of each, and a detector has one for the batch; leave it out",
}
"""Composer's algorithms that cannot run on detection targets, and why."""


def check_compatible(algorithms: Sequence[Algorithm]) -> None:
    """Raise ``ValueError`` where one of them cannot run on detection targets."""
    for kind, reason in INCOMPATIBLE.items():
        if any(isinstance(algorithm, kind) for algorithm in algorithms):
            raise ValueError(f"algorithms: {kind.__name__} does not go with detection targets: {reason}")


class BatchAlgorithm(Algorithm):
    """Replaces each training batch of ``(images, targets)`` by another, on the training device.

    Runs on ``Event.AFTER_DATALOADER``, before the batch is split into microbatches, and before all algorithms of other
    classes, wherever it stands in the trainer's list.
    """

    settings: object

    name: ClassVar[str]
    """Its name in the log."""

    priority: ClassVar[int]
    """Algorithms with a higher number run earlier."""

    duplicate_error: ClassVar[str]
    """What a second one in the trainer would do wrong."""

    def __init__(self, seed: int | None, input_key: int | str, target_key: int | str) -> None:
        if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
            raise ValueError(f"seed: expected a whole number, 0 or more, or None for that of the Trainer, got {seed!r}")
        self.seed = seed
        self.input_key = input_key
        self.target_key = target_key

    def __repr__(self) -> str:
        keys = f"input_key={self.input_key!r}, target_key={self.target_key!r}"
        return f"{type(self).__name__}({self.settings!r}, seed={self.seed}, {keys})"

    def match(self, event: Event, state: State) -> bool:
        """Whether a batch has just come from the data loader, or the trainer has just been made."""
        return event in (Event.INIT, Event.AFTER_DATALOADER)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Replace the batch, and log what was done.

        Raises:
            ValueError: where the trainer has a second algorithm of this class or one that cannot run on detection
                targets, or the batch is no batch of images and targets.
        """
        if event == Event.INIT:
            self._check_and_order(state)
            return
        start = time.perf_counter()
        images = state.device.batch_to_device(state.batch_get_item(self.input_key))
        targets = _masks_to_device(state.batch_get_item(self.target_key), state.device)
        if not isinstance(targets, Tensor):
            check_compatible(state.algorithms)
        images, targets, metrics = self._new_batch(images, targets, state, logger)
        state.batch_set_item(self.input_key, images)
        state.batch_set_item(self.target_key, targets)
        logger.log_metrics({**metrics, f"{self.name}/seconds": time.perf_counter() - start})

    @abstractmethod
    def _new_batch(
        self, images: Images, targets: Targets, state: State, logger: Logger
    ) -> tuple[Images, Targets, Mapping[str, float]]:
        """The images and targets in place of these, and metrics for the log."""

    def _check_and_order(self, state: State) -> None:
        """Check the trainer's algorithms, and bring them into the order of their priorities."""
        kind = type(self)
        count = sum(isinstance(other, kind) for other in state.algorithms)
        if count > 1:
            raise ValueError(
                f"algorithms: expected {kind.__name__} once, got it {count} times: each would {self.duplicate_error}; "
                "give its settings to one"
            )
        # of another model, only a batch shows whether targets are detections
        if isinstance(state.model, InstanceSegmentationModel):
            check_compatible(state.algorithms)
        # Composer runs algorithms in the reverse of their order on events that are called "after" something
        state.algorithms = sorted(
            state.algorithms, key=lambda other: other.priority if isinstance(other, BatchAlgorithm) else 0
        )


def _moved_masks(target: Target, device: Device) -> Target:
    """The target's masks on the device, if it has any; Composer itself moves tensors alone."""
    masks = target.get("masks")
    if isinstance(masks, CompactMasks):
        return {"masks": CompactMasks(device.tensor_to_device(masks.pixels), masks.windows, masks.size)}
    return {"masks": device.batch_to_device(masks)} if masks is not None else {}


def _masks_to_device(targets: Targets, device: Device) -> Targets:
    """Targets whose masks are on the device; boxes and labels stay on the host, where plans are drawn from them."""
    if isinstance(targets, Tensor):
        return device.batch_to_device(targets)
    moved: list[Any] = []
    for target in targets:
        if isinstance(target, Tensor):
            moved.append(device.batch_to_device(target))
        else:
            moved.append({**target, **_moved_masks(target, device)})
    return cast(Targets, sequence_like(moved, targets))


def current_batch_generator(state: State, seed: int | None, *stream: int) -> torch.Generator:
    """The random numbers of this rank's current batch; algorithms with different ``stream`` numbers share none."""
    seed = state.rank_zero_seed if seed is None else seed
    return batch_generator(seed, dist.get_global_rank(), int(state.timestamp.batch), *stream)


class LargeScaleJitter(BatchAlgorithm):
    """Resize, crop or pad, and flip each training image on the training device, to one size for the whole batch.

    The loader's processes then need not do it, and send images as they are. The batch is ``(images, targets)``
    as :func:`large_scale_jitter_batch` takes them. Runs on ``Event.AFTER_DATALOADER`` before all other algorithms,
    wherever it stands in the trainer's list. `CopyPaste` after it does not resize and flip a second time, unless
    its ``scale_range`` and ``p_flip`` are given. Every batch is drawn from the seed, the rank and the number of the
    batch, so a resumed run repeats itself with nothing stored.

    Args:
        settings: all settings in one value.
        seed: what the drawn numbers depend on; left out, the seed of the ``Trainer``.
        input_key: index or key of the images in the batch.
        target_key: index or key of the targets in the batch.
        **overrides: settings by name: the fields of :class:`LargeScaleJitterSettings`.

    Raises:
        ValueError: a setting out of its limits, or a seed below 0.
        TypeError: a setting that does not exist.

    Example:
        >>> algorithms = [LargeScaleJitter(size=(1024, 1024)), CopyPaste(p=0.5)]
    """

    name = "large_scale_jitter"
    priority = 2
    duplicate_error = "resize what the others resized"

    def __init__(
        self,
        settings: LargeScaleJitterSettings | None = None,
        *,
        seed: int | None = None,
        input_key: int | str = 0,
        target_key: int | str = 1,
        **overrides: object,
    ) -> None:
        super().__init__(seed, input_key, target_key)
        self.settings: LargeScaleJitterSettings = settings_from(LargeScaleJitterSettings, settings, overrides)

    def _new_batch(
        self, images: Images, targets: Targets, state: State, logger: Logger
    ) -> tuple[Images, Targets, Mapping[str, float]]:
        generator = current_batch_generator(state, self.seed, JITTER_STREAM)
        return *large_scale_jitter_batch(images, targets, generator=generator, settings=self.settings), {}


def without_second_jitter(settings: CopyPasteSettings, algorithms: Sequence[Algorithm]) -> CopyPasteSettings:
    """Copy-paste's settings; after ``LargeScaleJitter``, those of resizing and flipping are off unless given."""
    if not any(isinstance(algorithm, LargeScaleJitter) for algorithm in algorithms):
        return settings
    if settings.place_key is not None:
        raise ValueError(
            f"place_key: LargeScaleJitter resizes and crops the images, and not what targets have under "
            f"{settings.place_key!r}; jitter both in the loader, or leave one out"
        )
    return settings.after_jitter()


def fraction_passed(time: str, state: State) -> Fraction:
    """How much of a time, counted from the training's start, has passed: from 0 to 1, and 1 for no time.

    Within an epoch, time passes with its batches, where the loader has a length: Composer's own duration moves once an
    epoch.
    """
    value, unit = parse_time(time)
    if not value:
        return Fraction(1)
    now, duration = state.timestamp, state.max_duration
    batches, epochs = Fraction(int(now.batch)), Fraction(int(now.epoch))
    if state.dataloader_len is not None:
        epochs += Fraction(int(now.batch_in_epoch), int(state.dataloader_len))
    if unit == "ba":
        passed = batches
    elif unit == "ep":
        passed = epochs
    elif duration is not None and duration.unit == TimeUnit.EPOCH:
        passed = epochs / int(duration)
    elif duration is not None and duration.unit == TimeUnit.BATCH:
        passed = batches / int(duration)
    else:
        passed = Fraction(float(state.get_elapsed_duration() or 0))
    return min(passed / value, Fraction(1))


def interval_is_due(interval: str, now: Timestamp) -> bool:
    """Whether a batch is one of those at an interval, such as "500ba" or "1ep", beginning with the first."""
    count, unit = parse_time(interval)
    if unit == "ba":
        return int(now.batch) % count == 0
    return now.batch_in_epoch == 0 and int(now.epoch) % count == 0


def log_histograms(found: PasteHistograms, logger: Logger, batch: int) -> dict[str, float]:
    """Give the histograms to all loggers, as an image and, where pandas is installed, as a table; their scalars.

    Of Composer's loggers, W&B, MLflow and Comet take both, the console and files tables, TensorBoard and Neptune
    images. Most of them raise an error for any table where pandas is missing, which Composer does not bring.
    """
    name = f"{CopyPaste.name}/histograms"
    if find_spec("pandas") is not None:
        logger.log_table(list(COLUMNS), found.rows(), name=name, step=batch)
    logger.log_images(found.draw(), name=name, channels_last=True, use_table=False)
    return {f"{CopyPaste.name}/{key}": value for key, value in found.scalars().items()}


class CopyPaste(BatchAlgorithm):
    """Copy objects between the images of each training batch, on the training device.

    Runs on ``Event.AFTER_DATALOADER``, before the batch is split into microbatches: what an image receives does not
    depend on their size. :class:`LargeScaleJitter` runs before it and all other algorithms after it, wherever they
    stand in the trainer's list. The batch is ``(images, targets)`` as :func:`copypaste_batch` takes them. Every batch
    is drawn from the seed, the rank and the number of the batch, so a resumed run repeats itself; checkpoints hold the
    banks of all ranks. ``p`` follows the training's time, from ``warmup`` to ``stop``. Detection targets get a field
    ``pasted``, which tells for each object whether it was pasted.

    Args:
        settings: all settings in one value.
        seed: what the drawn numbers depend on; left out, the seed of the ``Trainer``.
        input_key: index or key of the images in the batch.
        target_key: index or key of the targets in the batch.
        pool: cut-outs as additional sources, such as a :class:`CutOutPool`.
        category_names: the name of label 1, of label 2 and so on, for ``categories`` and ``category_weights``.
        **overrides: settings by name: the fields of :class:`CopyPasteSettings`.

    Raises:
        ValueError: a setting out of its limits, a name of no category, a seed below 0, or a pool from which the
            settings let nothing be copied.
        TypeError: a setting that does not exist.

    Example:
        >>> trainer = Trainer(model=model, train_dataloader=loader, max_duration="12ep", algorithms=[CopyPaste(p=0.5)])
    """

    name = "copy_paste"
    priority = 1
    duplicate_error = "paste what the others pasted"

    def __init__(
        self,
        settings: CopyPasteSettings | None = None,
        *,
        seed: int | None = None,
        input_key: int | str = 0,
        target_key: int | str = 1,
        pool: Pool | None = None,
        category_names: Sequence[str] | None = None,
        **overrides: object,
    ) -> None:
        super().__init__(seed, input_key, target_key)
        given = settings_from(CopyPasteSettings, settings, overrides)
        self.settings: CopyPasteSettings = checked_settings(given, category_names, pool)
        self.bank = InstanceBank(self.settings.bank_size) if self.settings.bank_size else None
        """The objects of earlier batches, where ``bank_size`` asks for them."""
        self.pool = pool
        self._paste = BatchPaster(self.bank, pool)

    def _check_and_order(self, state: State) -> None:
        super()._check_and_order(state)
        without_second_jitter(self.settings, state.algorithms)

    def _new_batch(
        self, images: Images, targets: Targets, state: State, logger: Logger
    ) -> tuple[Images, Targets, Mapping[str, float]]:
        p = scheduled_p(self.settings, lambda time: fraction_passed(time, state))
        settings = replace(without_second_jitter(self.settings, state.algorithms), p=p)
        interval = settings.histogram_interval
        is_due = interval is not None and dist.get_global_rank() == 0 and interval_is_due(interval, state.timestamp)
        generator = current_batch_generator(state, self.seed)
        result, metrics = self._paste(images, targets, settings, generator, with_info=is_due)
        if result.info is not None:
            metrics |= log_histograms(PasteHistograms.of_info(result.info), logger, int(state.timestamp.batch))
        return result.images, state.device.batch_to_device(with_pasted_flags(result)), metrics

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, with the banks of all ranks: every rank must call this."""
        if self.bank is None:
            return super().state_dict()
        return {**super().state_dict(), "banks": dist.all_gather_object(self.bank.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore this rank's bank; where there are more ranks than before, another rank's."""
        banks = state.get("banks")
        if self.bank is not None and banks:
            self.bank.load_state_dict(banks[dist.get_global_rank() % len(banks)])
