"""What training loops of several frameworks share: copy-paste of a batch, its schedule, and metrics for the log."""

import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.carry_out import Pasted
from composer_copypaste.functional.copypaste import NothingPastedWarning, paste
from composer_copypaste.functional.sources import ExtraSources, Pool
from composer_copypaste.instances import Target
from composer_copypaste.settings import CopyPasteSettings

Images = Tensor | Sequence[Tensor]
Targets = Sequence[Target] | Sequence[Tensor] | Tensor


def scheduled_p(settings: CopyPasteSettings, fraction_passed: Callable[[str], Fraction]) -> float:
    """The probability that an image of the current batch receives objects: rises over ``warmup``, 0 from ``stop``.

    Args:
        settings: of copy-paste.
        fraction_passed: how much of a time, counted from the training's start, has passed: from 0 to 1.
    """
    if settings.stop is not None and fraction_passed(settings.stop) >= 1:
        return 0.0
    return settings.p if settings.warmup is None else settings.p * float(fraction_passed(settings.warmup))


class BatchPaster:
    """Copies objects between the images of one batch after the other, with a bank of former ones and a pool.

    Args:
        bank: the objects of earlier batches; None: without.
        pool: cut-outs as additional sources; None: without.
    """

    def __init__(self, bank: InstanceBank | None, pool: Pool | None) -> None:
        self.bank = bank
        self.pool = pool
        self._has_warned = False

    def __call__(
        self,
        images: Images,
        targets: Targets,
        settings: CopyPasteSettings,
        generator: torch.Generator,
        *,
        with_info: bool = False,
    ) -> tuple[Pasted, dict[str, float]]:
        """The batch after copy-paste, and metrics for the log; warns once where nothing can be pasted.

        Where ``with_info`` asks for it, also what became of each object.
        """
        given = cast(Sequence[Target] | Tensor, targets)  # ``paste`` refuses a list of tensors
        result = paste(images, given, settings, generator, ExtraSources(self.bank, self.pool), with_info=with_info)
        if result.reason and not self._has_warned:  # Python's own "once" forgets when a library changes its filters
            self._has_warned = True
            warnings.warn(
                f"copy-paste changed nothing: {result.reason} (said once; copy_paste/skipped in the log counts such "
                "batches)",
                NothingPastedWarning,
                stacklevel=4,
            )
        metrics = {
            "copy_paste/instances_per_image": sum(result.added) / len(images),
            "copy_paste/share_of_images": sum(added > 0 for added in result.added) / len(images),
            "copy_paste/dropped": float(result.dropped),
            "copy_paste/skipped": float(result.reason is not None),
            "copy_paste/p": settings.p,
        }
        if self.bank is not None:
            metrics["copy_paste/bank_objects"] = float(len(self.bank))
            metrics["copy_paste/bank_megabytes"] = self.bank.nbytes / 1e6
        return result, metrics
