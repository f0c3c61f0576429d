"""Copy-paste as a callback of Lightning."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import torch
from torch import distributed

from composer_copypaste.errors import MissingPackageError
from composer_copypaste.functional.arguments import checked_settings
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.carry_out import with_pasted_flags
from composer_copypaste.functional.generators import batch_generator
from composer_copypaste.functional.sources import Pool
from composer_copypaste.functional.tensors import sequence_like
from composer_copypaste.integrations.pasting import BatchPaster, scheduled_p
from composer_copypaste.settings import CopyPasteSettings, parse_time, settings_from

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the same, by its other name
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "CopyPasteCallback needs Lightning, which is not installed: pip install 'composer-copypaste[lightning]'"
        ) from error

PACKAGES = ("lightning", "pytorch_lightning")
"""The two names of Lightning; the classes of one are not those of the other."""
HOOK = "on_after_batch_transfer"
"""What Lightning calls with each batch once it is on the device; a callback has no such hook of its own."""


class CopyPasteCallback(Callback):
    """Copies objects between the images of each training batch, on the training device.

    The batch is ``(images, targets)`` as :func:`copypaste_batch` takes them. It is changed once it is on the device,
    after the ``on_after_batch_transfer`` of the module or the data module. Every batch is drawn from the seed, the rank
    and the number of the batch, as by Composer's :class:`CopyPaste`, so a resumed training repeats itself; checkpoints
    hold the seed and the banks of all ranks. ``p`` follows the training's time, from ``warmup`` to ``stop``: "ba" are
    batches, and "dur" is a part of the Trainer's ``max_epochs``, or else of its ``max_steps``. Detection targets get a
    field ``pasted``, which tells for each object whether it was pasted. Metrics are logged by the module, as
    ``copy_paste/instances_per_image``.

    Args:
        settings: all settings in one value.
        seed: what the drawn numbers depend on; left out, the checkpoint's, else that of ``seed_everything``, else
            torch's.
        pool: cut-outs as additional sources, such as a :class:`CutOutPool`.
        category_names: the name of label 1, of label 2 and so on, for ``categories`` and ``category_weights``.
        **overrides: settings by name: the fields of :class:`CopyPasteSettings`.

    Raises:
        ValueError: a setting out of its limits, a name of no category, a seed below 0, or a pool from which the
            settings let nothing be copied.
        TypeError: a setting that does not exist.

    Example:
        >>> trainer = Trainer(max_epochs=12, callbacks=[CopyPasteCallback(p=0.5)])
    """

    def __init__(
        self,
        settings: CopyPasteSettings | None = None,
        *,
        seed: int | None = None,
        pool: Pool | None = None,
        category_names: Sequence[str] | None = None,
        **overrides: object,
    ) -> None:
        if seed is not None and seed < 0:
            raise ValueError(f"seed: expected a whole number, 0 or more, or None, got {seed!r}")
        given = settings_from(CopyPasteSettings, settings, overrides)
        self.settings: CopyPasteSettings = checked_settings(given, category_names, pool)
        self.bank = InstanceBank(self.settings.bank_size) if self.settings.bank_size else None
        if self.settings.histogram_interval is not None:
            raise ValueError("histogram_interval: expected None, as only Composer's loggers take histograms")
        self.seed = seed
        self._paste = BatchPaster(self.bank, pool)
        self._found_seed = seed
        self._rank = 0
        self._metrics: Mapping[str, float] = {}
        self._undo: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree with the other processes on a seed, and come between the loader and the module."""
        if stage != "fit":
            return
        self._rank = trainer.global_rank
        if self._found_seed is None:
            self._found_seed = _of_first_process(torch.initial_seed())
        data = getattr(trainer, "datamodule", None)
        self._undo = _after_hook(
            data if _has_own_hook(data) else pl_module, lambda batch: self._changed(batch, trainer, pl_module)
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _changed(self, batch: Any, trainer: Trainer, module: LightningModule) -> Any:
        """The batch after copy-paste, in training; any other as it is."""
        if not trainer.training:
            return batch
        start = time.perf_counter()
        images, targets, *others = batch
        seen = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        p = scheduled_p(self.settings, lambda time: fraction_passed(time, trainer))
        settings = replace(self.settings, p=p)
        generator = batch_generator(cast(int, self._found_seed), self._rank, seen)
        result, metrics = self._paste(images, targets, settings, generator)
        self._metrics = {**metrics, "copy_paste/seconds": time.perf_counter() - start}
        flagged = module.transfer_batch_to_device(with_pasted_flags(result), module.device, 0)
        return sequence_like([result.images, flagged, *others], batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log what was done to the batch."""
        pl_module.log_dict(dict(self._metrics), batch_size=len(batch[0]))

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: the seed, and the banks of all ranks; Lightning asks every rank for it."""
        banks = None if self.bank is None else _of_all_processes(self.bank.state_dict())
        return {"seed": self._found_seed, "banks": banks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed, unless one was given, and this rank's bank; with more ranks than before, another rank's."""
        if self.seed is None:
            self._found_seed = state_dict["seed"]
        banks = state_dict["banks"]
        if self.bank is not None and banks:
            self.bank.load_state_dict(banks[self._rank % len(banks)])


def fraction_passed(time: str, trainer: Trainer) -> Fraction:
    """How much of a time, counted from the training's start, has passed: from 0 to 1, and 1 for no time.

    Raises:
        ValueError: for a part of the duration, where the trainer has none.
    """
    value, unit = parse_time(time)
    if not value:
        return Fraction(1)
    progress = trainer.fit_loop.epoch_loop.batch_progress
    epochs = Fraction(trainer.current_epoch)
    if trainer.num_training_batches not in (0, float("inf")):
        epochs += Fraction(progress.current.ready, int(trainer.num_training_batches))
    if unit == "ba":
        passed = Fraction(progress.total.ready)
    elif unit == "ep":
        passed = epochs
    elif trainer.max_epochs is not None and trainer.max_epochs > 0:
        passed = epochs / trainer.max_epochs
    elif trainer.max_steps > 0:
        passed = Fraction(trainer.global_step, trainer.max_steps)
    else:
        raise ValueError(f"expected a Trainer with max_epochs or max_steps, of which {time!r} is a part, got neither")
    return min(passed / value, Fraction(1))


def _has_own_hook(data: Any) -> bool:
    """Whether there is a data module whose hook Lightning calls in place of the module's.

    Its class may be of ``pytorch_lightning`` while this callback's is of ``lightning``, which installs both.
    """
    return data is not None and getattr(type(data), HOOK).__module__.partition(".")[0] not in PACKAGES


def _after_hook(owner: Any, change: Callable[[Any], Any]) -> Callable[[], None]:
    """Let a batch be changed after the owner's own hook; what is returned takes that back."""
    former = getattr(owner, HOOK)

    def on_after_batch_transfer(batch: Any, dataloader_idx: int) -> Any:
        return change(former(batch, dataloader_idx))

    setattr(owner, HOOK, on_after_batch_transfer)
    return lambda: delattr(owner, HOOK)


def _of_all_processes(value: object) -> list[Any]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _of_first_process(value: int) -> int:
    return int(_of_all_processes(value)[0])
