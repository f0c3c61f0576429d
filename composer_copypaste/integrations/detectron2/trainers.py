"""Copy-paste and large-scale jitter in Detectron2's own trainers, as hooks that one line registers."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from detectron2.utils.events import get_event_storage

from composer_copypaste.errors import DataError, RecipeError
from composer_copypaste.functional.arguments import checked_settings
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.copypaste import NothingPastedWarning, paste
from composer_copypaste.functional.generators import JITTER_STREAM
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch
from composer_copypaste.functional.sources import ExtraSources, Pool
from composer_copypaste.instances import Target
from composer_copypaste.integrations.detectron2.batches import ImageFormat, detectron2_batch, extra_fields
from composer_copypaste.integrations.detectron2.hooks import Batch, BatchHook, fraction_passed, training_loop
from composer_copypaste.integrations.pasting import scheduled_p
from composer_copypaste.settings import CopyPasteSettings, LargeScaleJitterSettings, parse_time, settings_from


class LargeScaleJitterHook(BatchHook):
    """Resizes, crops or pads, and flips each training image on the model's device, to one size for the whole batch.

    The loader's processes then need not do it. Registered like :class:`CopyPasteHook`, before which it runs in any
    order of registration; copy-paste does then not resize and flip a second time, unless its ``scale_range`` and
    ``p_flip`` are given.

    Args:
        settings: all settings in one value.
        seed: as of :class:`CopyPasteHook`.
        image_format: as of :class:`CopyPasteHook`.
        **overrides: settings by name: the fields of :class:`LargeScaleJitterSettings`.

    Example:
        >>> trainer.register_hooks([LargeScaleJitterHook(size=(1024, 1024)), CopyPasteHook()])
    """

    priority = 2
    duplicate_error = "resize what the first resized"

    def __init__(
        self,
        settings: LargeScaleJitterSettings | None = None,
        *,
        seed: int | None = None,
        image_format: ImageFormat | None = None,
        **overrides: object,
    ) -> None:
        super().__init__(seed, image_format)
        self.settings: LargeScaleJitterSettings = settings_from(LargeScaleJitterSettings, settings, overrides)

    def changed(self, batch: Batch, iteration: int, number: int) -> Batch:
        """The batch after large-scale jitter."""
        for i, entry in enumerate(batch):
            if entry["image"].is_floating_point():
                raise DataError(f"batch[{i}]: large-scale jitter expects uint8 images, got {entry['image'].dtype}")
        images, targets = self.convert(batch)
        keys = extra_fields(batch).keys
        settings = replace(self.settings, object_keys=(*self.settings.object_keys, *keys))
        generator = self.generator(iteration, number, JITTER_STREAM)
        after, moved = large_scale_jitter_batch(images, targets, generator=generator, settings=settings)
        return detectron2_batch(after, cast(Sequence[Target], moved), former=batch, image_format=self.format)


class CopyPasteHook(BatchHook):
    """Copies objects between the images of each training batch, on the model's device.

    One line adds it to a ``DefaultTrainer``, ``SimpleTrainer`` or ``AMPTrainer``, before ``resume_or_load``, which
    restores its state; each process of a distributed training registers its own. Batches are Detectron2's, as its
    loaders make them for training: see ``images_and_targets``. Images on which nothing was pasted keep their
    instances as they are, polygons too; the others have ``BitMasks``, and tight boxes for objects that are partly
    hidden.

    Every batch is drawn from the seed, the rank and the iteration as by Composer's :class:`CopyPaste`, so a resumed
    training repeats itself. ``p`` follows the iterations, from ``warmup`` to ``stop``. Detectron2 saves the state of
    the first process only: a resumed training of several goes on with that process's bank in all of them.

    Args:
        settings: all settings in one value.
        seed: what the drawn numbers depend on; left out, the checkpoint's, else ``cfg.SEED``, else torch's.
        pool: cut-outs as additional sources, such as a :class:`CutOutPool`.
        category_names: the names of the classes, such as the metadata's ``thing_classes``, for ``categories`` and
            ``category_weights``. Labels count from 1: class 0 has label 1.
        image_format: the order of colors of the loader's images, "BGR" or "RGB"; None: as the model says, else BGR.
        **overrides: settings by name: the fields of :class:`CopyPasteSettings`.

    Raises:
        ValueError: a setting out of its limits, a name of no category, a seed below 0, times in epochs, or a pool from
            which the settings let nothing be copied.
        TypeError: a setting that does not exist.

    Example:
        >>> trainer = DefaultTrainer(cfg)
        >>> trainer.register_hooks([CopyPasteHook(p=0.5)])
        >>> trainer.resume_or_load(resume=False)
        >>> trainer.train()
    """

    priority = 1
    duplicate_error = "paste what the first pasted"

    def __init__(
        self,
        settings: CopyPasteSettings | None = None,
        *,
        seed: int | None = None,
        pool: Pool | None = None,
        category_names: Sequence[str] | None = None,
        image_format: ImageFormat | None = None,
        **overrides: object,
    ) -> None:
        super().__init__(seed, image_format)
        given = settings_from(CopyPasteSettings, settings, overrides)
        self.settings: CopyPasteSettings = checked_settings(given, category_names, pool)
        for name in ("warmup", "stop"):
            if (value := getattr(self.settings, name)) is not None and parse_time(value)[1] == "ep":
                raise RecipeError(
                    f"{name}: Detectron2's trainers count iterations and know no epochs, got {value!r}; "
                    "'500ba' is 500 iterations, '0.1dur' a tenth of the training"
                )
        self.bank = InstanceBank(self.settings.bank_size) if self.settings.bank_size else None
        """The objects of earlier batches, where ``bank_size`` asks for them."""
        self.pool = pool
        self._has_warned = False

    def p(self, iteration: int) -> float:
        """The probability that an image of an iteration receives objects."""
        return scheduled_p(self.settings, lambda time: fraction_passed(time, iteration, self.trainer.max_iter))

    def changed(self, batch: Batch, iteration: int, number: int) -> Batch:
        """The batch after copy-paste; the same where ``p`` is 0 and no bank has to know its objects."""
        start, p = time.perf_counter(), self.p(iteration)
        if p == 0 and self.bank is None:
            return batch
        if self._lacks_fields_of_bank(batch):
            return batch
        images, targets = self.convert(batch)
        settings = self._settings_for(batch, p)
        sources = ExtraSources(self.bank, self.pool)
        result = paste(images, targets, settings, self.generator(iteration, number, 0), sources)
        self._warn_once(result.reason)
        self._log(sum(result.added), sum(added > 0 for added in result.added), len(batch), p, start)
        pasted = cast(Sequence[Target], result.targets)
        after = detectron2_batch(result.images, pasted, former=batch, image_format=self.format)
        received = set() if result.kept is None else set(result.kept.images.tolist())
        return [
            entry if i in received else {**entry, "instances": batch[i]["instances"]} for i, entry in enumerate(after)
        ]

    def _lacks_fields_of_bank(self, batch: Batch) -> bool:
        """Whether no image has objects, which would tell of what kind the fields are that objects of the bank have."""
        has_objects = any(len(entry["instances"]) for entry in batch if "instances" in entry)
        return not has_objects and self.bank is not None and len(self.bank) > 0 and bool(self.bank.newest.fields.extras)

    def _settings_for(self, batch: Batch, p: float) -> CopyPasteSettings:
        """The settings for a batch; after large-scale jitter, those of resizing and flipping are off unless given."""
        hooks = training_loop(self.trainer)._data_loader_iter.hooks
        is_jittered = any(isinstance(hook, LargeScaleJitterHook) for hook in hooks)
        settings = self.settings.after_jitter() if is_jittered else self.settings
        extra = extra_fields(batch)
        if extra.lists and (self.bank is not None or self.pool is not None):
            raise DataError(
                f"batch: objects of bank and pool have no {next(iter(extra.lists))!r}, a list with a value for each "
                "object; leave it out in the loader's mapper, or paste without bank and pool"
            )
        return replace(settings, p=p, object_keys=(*settings.object_keys, *extra.keys))

    def _warn_once(self, reason: str | None) -> None:
        if reason is not None and not self._has_warned:
            self._has_warned = True
            warnings.warn(f"copy-paste changed nothing: {reason} (said once)", NothingPastedWarning, stacklevel=4)

    def _log(self, objects: int, images: int, n: int, p: float, start: float) -> None:
        get_event_storage().put_scalars(
            **{
                "copy_paste/instances_per_image": objects / n,
                "copy_paste/share_of_images": images / n,
                "copy_paste/p": p,
                "copy_paste/seconds": time.perf_counter() - start,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: the seed, and this process's bank."""
        return super().state_dict() | ({} if self.bank is None else {"bank": self.bank.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the seed, unless this hook was given one, and the bank."""
        super().load_state_dict(state)
        if self.bank is not None and "bank" in state:
            self.bank.load_state_dict(state["bank"])
