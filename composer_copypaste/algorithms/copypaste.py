"""Copy-paste as an algorithm of Composer."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_copypaste.algorithms.batch_algorithm import BatchAlgorithm, Images, Targets
from composer_copypaste.algorithms.batches import batch_generator
from composer_copypaste.algorithms.large_scale_jitter import jittered_once
from composer_copypaste.algorithms.schedule import scheduled_p
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.batch import NothingPastedWarning, Pasted, paste
from composer_copypaste.functional.category_names import labelled
from composer_copypaste.functional.further import Further
from composer_copypaste.functional.planes import sequence_like
from composer_copypaste.functional.pool import Pool, check_pool
from composer_copypaste.instances import Target
from composer_copypaste.settings import CopyPasteSettings, settings_from


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
    turn = 1
    harm = "paste what the others pasted"

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
        self.settings: CopyPasteSettings = labelled(given, category_names)
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
        result = paste(images, given, settings, batch_generator(state, self.seed), Further(self.bank, self.pool))
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
