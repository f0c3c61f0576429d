"""Copy-paste as an algorithm of Composer."""

import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar, TypeVar, cast

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
from composer.core import Algorithm, Event, State, TimeUnit
from composer.devices import Device
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.category_names import with_labels
from composer_copypaste.functional.copypaste import NothingPastedWarning, Pasted, paste
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch
from composer_copypaste.functional.sources import ExtraSources, Pool, check_pool
from composer_copypaste.functional.tensors import sequence_like
from composer_copypaste.instances import Target
from composer_copypaste.integrations.composer.model import MaskRCNN
from composer_copypaste.settings import CopyPasteSettings, LargeScaleJitterSettings, parse_time, settings_from


def scheduled_p(settings: CopyPasteSettings, state: State) -> float:
    """The probability that an image of the current batch receives objects, after warm-up and stop."""
    if settings.stop is not None and has_passed(settings.stop, state) >= 1:
        return 0.0
    return settings.p if settings.warmup is None else settings.p * float(has_passed(settings.warmup, state))


def has_passed(time: str, state: State) -> Fraction:
    """The part of a time, counted from the training's start, that has passed: 1 from its end on."""
    value, unit = parse_time(time)
    now = {"ep": _epochs, "ba": _batches, "dur": _durations}[unit](state)
    return min(now / value, Fraction(1)) if value else Fraction(1)


def _batches(state: State) -> Fraction:
    return Fraction(int(state.timestamp.batch))


def _epochs(state: State) -> Fraction:
    """With the part of the current one, where the loader has a length."""
    whole = Fraction(int(state.timestamp.epoch))
    if state.dataloader_len is None:
        return whole
    return whole + Fraction(int(state.timestamp.batch_in_epoch), int(state.dataloader_len))


def _durations(state: State) -> Fraction:
    """Trainings that last epochs are measured by batches too: Composer's own number moves once an epoch."""
    if state.max_duration is not None and state.max_duration.unit == TimeUnit.EPOCH:
        return _epochs(state) / int(state.max_duration)
    if state.max_duration is not None and state.max_duration.unit == TimeUnit.BATCH:
        return _batches(state) / int(state.max_duration)
    return Fraction(float(state.get_elapsed_duration() or 0))


UNFIT: dict[type[Algorithm], str] = {
    LabelSmoothing: "it smooths a tensor of class labels, and the losses of a detector take none; leave it out",
    MixUp: "it mixes images by the class label of each, and they have boxes and masks; leave it out",
    CutMix: "it mixes images by the class label of each, and they have boxes and masks; leave it out",
    AugMix: "it turns and shears the loader's images, and boxes and masks would not follow; leave it out",
    RandAugment: "it turns and shears the loader's images, and boxes and masks would not follow; leave it out",
    ColOut: "it takes rows and columns out of images, and boxes and masks would not follow; leave it out",
    ProgressiveResizing: "it resizes images, and boxes and masks would not follow; LargeScaleJitter resizes them too",
    SelectiveBackprop: "it chooses images by the loss of each, and a detector has one for the batch; leave it out",
}


def check_compatible(algorithms: Sequence[Algorithm]) -> None:
    """Raise ``ValueError`` where one of them cannot run on detection targets."""
    for kind, reason in UNFIT.items():
        if any(isinstance(algorithm, kind) for algorithm in algorithms):
            raise ValueError(f"algorithms: {kind.__name__} does not go with detection targets: {reason}")


GivenTargets = TypeVar("GivenTargets", bound=Sequence[Target] | Sequence[Tensor] | Tensor)


def check_seed(seed: int | None) -> None:
    """Raise where a seed is no whole number, 0 or more, nor left to the ``Trainer``."""
    if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
        raise ValueError(f"seed: expected a whole number, 0 or more, or None for that of the Trainer, got {seed!r}")


def batch_generator(state: State, seed: int | None, *stream: int) -> torch.Generator:
    """The generator of this rank's current batch; algorithms with a stream of their own don't draw what others draw."""
    seed = state.rank_zero_seed if seed is None else seed
    numbers = (seed, dist.get_global_rank(), int(state.timestamp.batch), *stream)
    words = np.random.SeedSequence(numbers).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def to_device(targets: GivenTargets, device: Device) -> GivenTargets:
    """What is large goes to the device; boxes and labels stay on the host, where plans are drawn from them."""
    if isinstance(targets, Tensor):
        return device.batch_to_device(targets)
    return cast(GivenTargets, sequence_like([_masks_to_device(target, device) for target in targets], targets))


def _masks_to_device(target: Target | Tensor, device: Device) -> Target | Tensor:
    if isinstance(target, Tensor):
        return device.batch_to_device(target)
    return {key: device.batch_to_device(value) if key == "masks" else value for key, value in target.items()}


Images = Tensor | Sequence[Tensor]
Targets = Sequence[Target] | Sequence[Tensor] | Tensor


class BatchAlgorithm(Algorithm):
    """Replaces each training batch of ``(images, targets)`` by another, on the training device.

    Runs on ``Event.AFTER_DATALOADER``, before the batch is split into microbatches, and before all algorithms that are
    not of this kind, wherever they stand in the trainer's list.
    """

    settings: object

    name: ClassVar[str]
    """What the log calls it."""

    priority: ClassVar[int]
    """Of those of this kind, the one with the highest number runs first."""

    duplicate_error: ClassVar[str]
    """What a second one in the trainer would do."""

    def __init__(self, seed: int | None, input_key: int | str, target_key: int | str) -> None:
        check_seed(seed)
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
            self._join(state)
            return
        start = time.perf_counter()
        images = state.device.batch_to_device(state.batch_get_item(self.input_key))
        targets = to_device(state.batch_get_item(self.target_key), state.device)
        if not isinstance(targets, Tensor):
            check_compatible(state.algorithms)
        images, targets, account = self._changed(images, targets, state)
        state.batch_set_item(self.input_key, images)
        state.batch_set_item(self.target_key, targets)
        logger.log_metrics({**account, f"{self.name}/seconds": time.perf_counter() - start})

    @abstractmethod
    def _changed(self, images: Images, targets: Targets, state: State) -> tuple[Images, Targets, Mapping[str, float]]:
        """The images and targets in place of these, and what the log says of it."""

    def _join(self, state: State) -> None:
        _check_alone(self, state)
        if isinstance(state.model, MaskRCNN):  # of other models the first batch tells
            check_compatible(state.algorithms)
        # Composer runs algorithms in the reverse of their order on events that are called "after" something
        state.algorithms = sorted(
            state.algorithms, key=lambda other: other.priority if isinstance(other, BatchAlgorithm) else 0
        )


def _check_alone(algorithm: BatchAlgorithm, state: State) -> None:
    """Raise ``ValueError`` where the trainer has a second algorithm of this kind, and say what it would do."""
    kind = type(algorithm)
    count = sum(isinstance(other, kind) for other in state.algorithms)
    if count > 1:
        raise ValueError(
            f"algorithms: expected {kind.__name__} once, got it {count} times: each would {algorithm.duplicate_error}; "
            "give its settings to one"
        )


STREAM = 1
"""Sets its random numbers apart from those of copy-paste, which draws from the same seed, rank and batch."""


class LargeScaleJitter(BatchAlgorithm):
    """Resize, crop or pad, and flip each training image on the training device, to one size for the whole batch.

    Takes this work off the loader's processes, which then ship images as they are. The batch is ``(images, targets)``
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


class CopyPaste(BatchAlgorithm):
    """Copy objects between the images of each training batch, on the training device.

    Runs on ``Event.AFTER_DATALOADER``, before the batch is split into microbatches: what an image receives does not
    depend on their size. :class:`LargeScaleJitter` runs before it and all other algorithms after it, wherever they
    stand in the trainer's list. The batch is ``(images, targets)`` as :func:`copypaste_batch` takes them. Every batch
    is drawn from the seed, the rank and the number of the batch, so a resumed run repeats itself; checkpoints hold what
    a bank remembers, on every rank. ``p`` follows the training's time, from ``warmup`` to ``stop``. Detection targets
    then say of each object, under ``pasted``, whether it was.

    Args:
        settings: all settings in one value.
        seed: what the drawn numbers depend on; left out, the seed of the ``Trainer``.
        input_key: index or key of the images in the batch.
        target_key: index or key of the targets in the batch.
        pool: cut-outs as further sources, such as a :class:`CutOutPool`.
        category_names: the name of label 1, of label 2 and so on, for ``categories`` and ``category_weights``.
        **overrides: settings by name: the fields of :class:`CopyPasteSettings`.

    Raises:
        ValueError: a setting out of its limits, a name of no category, a seed below 0, or a pool of which the settings
            let nothing be copied.
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
        self.settings: CopyPasteSettings = with_labels(given, category_names)
        self.bank = InstanceBank(self.settings.bank_size) if self.settings.bank_size else None
        """The objects of earlier batches, where ``bank_size`` asks for them."""
        if pool is not None:
            check_pool(pool, self.settings)
        self.pool = pool
        self._said = False

    def _changed(self, images: Images, targets: Targets, state: State) -> tuple[Images, Targets, Mapping[str, float]]:
        settings, p = jittered_once(self.settings, state.algorithms), scheduled_p(self.settings, state)
        if p != settings.p:  # a copy is checked anew
            settings = replace(settings, p=p)
        given = cast(Sequence[Target] | Tensor, targets)  # a list of tensors is refused there
        result = paste(images, given, settings, batch_generator(state, self.seed), ExtraSources(self.bank, self.pool))
        self._say(result.reason)
        account = {**_account(result, len(images)), "copy_paste/p": settings.p, **_contents(self.bank)}
        return result.images, state.device.batch_to_device(_marked(result)), account

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores: also what the banks of all ranks remember, so every rank must ask for it."""
        if self.bank is None:
            return super().state_dict()
        return {**super().state_dict(), "banks": dist.all_gather_object(self.bank.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the bank of this rank; with more ranks than before, with another one's."""
        banks = state.get("banks")
        if self.bank is not None and banks:
            self.bank.load_state_dict(banks[dist.get_global_rank() % len(banks)])

    def _say(self, reason: str | None) -> None:
        """Warn the first time; Python's own "once" forgets whenever a library changes the filters of warnings."""
        if reason and not self._said:
            self._said = True
            warnings.warn(
                f"copy-paste changed nothing: {reason} (said once; copy_paste/skipped in the log counts such batches)",
                NothingPastedWarning,
                stacklevel=4,
            )


def _marked(result: Pasted) -> Sequence[Target] | Tensor:
    """The targets, with a boolean for each object under ``pasted``."""
    if isinstance(result.targets, Tensor) or not result.added:
        return result.targets
    marked = [
        {**target, "pasted": torch.arange(n := len(cast(Tensor, target["labels"]))) >= n - added}
        for target, added in zip(result.targets, result.added, strict=True)
    ]
    return sequence_like(marked, result.targets)


def _contents(bank: InstanceBank | None) -> dict[str, float]:
    if bank is None:
        return {}
    return {"copy_paste/bank_objects": float(len(bank)), "copy_paste/bank_megabytes": bank.nbytes / 1e6}


def _account(result: Pasted, n: int) -> dict[str, float]:
    return {
        "copy_paste/instances_per_image": sum(result.added) / n,
        "copy_paste/share_of_images": sum(added > 0 for added in result.added) / n,
        "copy_paste/dropped": float(result.dropped),
        "copy_paste/skipped": float(result.reason is not None),
    }
