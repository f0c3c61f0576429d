"""The way from the host to a device, and back."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from composer_copypaste.functional.tensors import on_device, rows_of
from composer_copypaste.instances import Instances


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


class IndexesAreBesideTheirValues(TorchDispatchMode):
    """Fails where values on one device are indexed by numbers on another: that waits, which a meta device hides."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten.index.Tensor:
            assert {index.device for index in args[1]} == {args[0].device}
        return operation(*args, **(kwargs or {}))


def test_fields_on_several_devices_get_the_numbers_of_their_rows_where_they_lie():
    boxes, labels = torch.arange(12.0).reshape(3, 4), torch.tensor([1, 2, 3])
    masks, keypoints = torch.zeros(3, 8, 8, dtype=torch.uint8, device="meta"), torch.zeros(3, 5, 3, device="meta")
    objects = Instances(boxes, labels, masks, boxes[:, 0], labels * 0, {"keypoints": keypoints})
    with IndexesAreBesideTheirValues():
        found = rows_of(objects, [2, 0])
    assert found.labels.tolist() == [3, 1]
    assert found.extras["keypoints"].shape == (2, 5, 3)
