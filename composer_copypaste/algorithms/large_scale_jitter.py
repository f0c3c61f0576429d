"""Large-scale jitter as an algorithm of Composer."""

import time
from collections.abc import Sequence
from dataclasses import replace

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor

from composer_copypaste.algorithms.batches import batch_generator, check_alone, to_device
from composer_copypaste.algorithms.companions import check_companions
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch
from composer_copypaste.models.detector import MaskRCNN
from composer_copypaste.settings import CopyPasteSettings, LargeScaleJitterSettings, settings_from

STREAM = 1
"""Sets its random numbers apart from those of copy-paste, which draws from the same seed, rank and batch."""


class LargeScaleJitter(Algorithm):
    """Resize, crop or pad, and flip each training picture on the training device, to one size for the whole batch.

    Takes this work off the loader's processes, which then ship pictures as they are. The batch is ``(images, targets)``
    as :func:`large_scale_jitter_batch` takes them. Runs on ``Event.AFTER_DATALOADER`` before all other algorithms,
    wherever it stands in the trainer's list. `CopyPaste` after it does not resize and flip a second time: of its
    settings, ``scale_range`` and ``p_flip`` that have their defaults become (1, 1) and 0. Every batch is drawn from the
    seed, the rank and the number of the batch, so a resumed run repeats itself with nothing stored.

    Args:
        settings: all settings in one value.
        seed: what the drawn numbers depend on; left out, the seed of the ``Trainer``.
        input_key: index or key of the images in the batch.
        target_key: index or key of the targets in the batch.
        **overrides: settings by name: the fields of :class:`LargeScaleJitterSettings`.

    Raises:
        ValueError: a setting out of its limits.
        TypeError: a setting that does not exist.

    Example:
        >>> algorithms = [LargeScaleJitter(size=(1024, 1024)), CopyPaste(p=0.5)]
    """

    def __init__(
        self,
        settings: LargeScaleJitterSettings | None = None,
        *,
        seed: int | None = None,
        input_key: int | str = 0,
        target_key: int | str = 1,
        **overrides: object,
    ) -> None:
        self.settings = settings_from(LargeScaleJitterSettings, settings, overrides)
        self.seed = seed
        self.input_key = input_key
        self.target_key = target_key

    def __repr__(self) -> str:
        keys = f"input_key={self.input_key!r}, target_key={self.target_key!r}"
        return f"LargeScaleJitter({self.settings!r}, seed={self.seed}, {keys})"

    def match(self, event: Event, state: State) -> bool:
        """Whether a batch has just come from the data loader, or the trainer has just been made."""
        return event in (Event.INIT, Event.AFTER_DATALOADER)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Replace the batch by a jittered one.

        Raises:
            ValueError: where the trainer has a second ``LargeScaleJitter`` or an algorithm that cannot run on detection
                targets, or the batch is no batch of images and targets.
        """
        if event == Event.INIT:
            check_alone(self, state, "resize what the others resized")
            if isinstance(state.model, MaskRCNN):
                check_companions(state.algorithms)
            # Composer runs algorithms in the reverse of their order on events that are called "after" something
            state.algorithms = sorted(state.algorithms, key=lambda algorithm: algorithm is self)
            return
        start = time.perf_counter()
        images = state.device.batch_to_device(state.batch_get_item(self.input_key))
        targets = to_device(state.batch_get_item(self.target_key), state.device)
        if not isinstance(targets, Tensor):
            check_companions(state.algorithms)
        generator = batch_generator(state, self.seed, STREAM)
        images, targets = large_scale_jitter_batch(images, targets, generator=generator, settings=self.settings)
        state.batch_set_item(self.input_key, images)
        state.batch_set_item(self.target_key, targets)
        logger.log_metrics({"large_scale_jitter/seconds": time.perf_counter() - start})


def jittered_once(settings: CopyPasteSettings, algorithms: Sequence[Algorithm]) -> CopyPasteSettings:
    """Copy-paste's settings, without the jitter of its defaults where ``LargeScaleJitter`` has jittered already."""
    if not any(isinstance(algorithm, LargeScaleJitter) for algorithm in algorithms):
        return settings
    default = CopyPasteSettings()
    return replace(
        settings,
        scale_range=(1.0, 1.0) if tuple(settings.scale_range) == default.scale_range else settings.scale_range,
        p_flip=0.0 if settings.p_flip == default.p_flip else settings.p_flip,
    )
