"""Large-scale jitter as an algorithm of Composer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from composer.core import Algorithm, State

from composer_copypaste.algorithms.batch_algorithm import BatchAlgorithm, Images, Targets
from composer_copypaste.algorithms.batches import batch_generator
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch
from composer_copypaste.settings import CopyPasteSettings, LargeScaleJitterSettings, settings_from

STREAM = 1
"""Sets its random numbers apart from those of copy-paste, which draws from the same seed, rank and batch."""


class LargeScaleJitter(BatchAlgorithm):
    """Resize, crop or pad, and flip each training picture on the training device, to one size for the whole batch.

    Takes this work off the loader's processes, which then ship pictures as they are. The batch is ``(images, targets)``
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
    turn = 2
    harm = "resize what the others resized"

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

    def _changed(self, images: Images, targets: Targets, state: State) -> tuple[Images, Targets, Mapping[str, float]]:
        generator = batch_generator(state, self.seed, STREAM)
        return *large_scale_jitter_batch(images, targets, generator=generator, settings=self.settings), {}


def jittered_once(settings: CopyPasteSettings, algorithms: Sequence[Algorithm]) -> CopyPasteSettings:
    """Copy-paste's settings; those of the jitter that are not given are none after ``LargeScaleJitter``."""
    if not any(isinstance(algorithm, LargeScaleJitter) for algorithm in algorithms):
        return settings
    return replace(
        settings,
        scale_range=(1.0, 1.0) if settings.scale_range is None else settings.scale_range,
        p_flip=0.0 if settings.p_flip is None else settings.p_flip,
    )
