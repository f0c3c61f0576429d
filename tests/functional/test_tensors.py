"""The way from the host to a device, and what is computed there beside autocast."""

import torch
from torch.overrides import TorchFunctionMode

from composer_copypaste.functional.tensors import on_device, without_autocast


class Copies(TorchFunctionMode):
    """Notes of each copy whether the host waits for it."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to:
            self.waits.append(not kwargs["non_blocking"])
        return function(*args, **kwargs or {})


def test_the_host_waits_for_numbers_that_come_to_it_and_for_no_others():
    with Copies() as copies:
        on_device([1, 2], torch.device("cpu"))  # from a GPU torch would return before they are there
        on_device([1, 2], torch.device("meta"))
    assert copies.waits == [True, False]


def test_without_autocast_numbers_keep_their_type_within_an_autocast_region():
    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        with without_autocast(torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
