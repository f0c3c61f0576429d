"""What the algorithms share: their random numbers, and which part of a batch goes to the device early."""

from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from composer.core import State
from composer.devices import Device
from composer.utils import dist
from torch import Tensor

from composer_copypaste.functional.planes import sequence_like
from composer_copypaste.instances import Target

Targets = TypeVar("Targets", bound=Sequence[Target] | Sequence[Tensor] | Tensor)


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


def to_device(targets: Targets, device: Device) -> Targets:
    """What is large goes to the device; boxes and labels stay on the host, where plans are drawn from them."""
    if isinstance(targets, Tensor):
        return device.batch_to_device(targets)
    return cast(Targets, sequence_like([_masks_to_device(target, device) for target in targets], targets))


def _masks_to_device(target: Target | Tensor, device: Device) -> Target | Tensor:
    if isinstance(target, Tensor):
        return device.batch_to_device(target)
    return {key: device.batch_to_device(value) if key == "masks" else value for key, value in target.items()}
