"""Autocast is for the model: pixels are painted in their own type, wherever the batch comes from."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, convolutions and sums on the device have the type of their inputs, also within an autocast region."""
    if not torch.amp.autocast_mode.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
