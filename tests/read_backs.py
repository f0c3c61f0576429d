"""What a device would tell: read back on the CPU, and given again on torch's meta device, which has no values."""

import sys
from contextlib import ExitStack, contextmanager
from unittest import mock

from composer_copypaste.functional import tensors


class ReadBacks:
    """Numbers in the order in which they were asked for, and on which devices they were asked for again."""

    def __init__(self):
        self.answers, self.asked = [], []

    @contextmanager
    def recorded(self):
        """What is read back is kept."""
        really = tensors.read_back  # under the name that each module took it by

        def read_back(numbers):
            self.answers.append(really(numbers))
            return self.answers[-1]

        with _everywhere(read_back):
            yield

    @contextmanager
    def replayed(self):
        """What was kept is given, whatever is asked for."""

        def read_back(numbers):
            self.asked.append(numbers.device.type)
            return self.answers[len(self.asked) - 1]

        with _everywhere(read_back):
            yield


def modules_that_read_back():
    """The augmentation's modules that have taken ``read_back`` by name."""
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith("composer_copypaste.functional.") and hasattr(module, "read_back")
    ]


@contextmanager
def _everywhere(read_back):
    with ExitStack() as stack:
        for module in modules_that_read_back():
            stack.enter_context(mock.patch.object(module, "read_back", read_back))
        yield
