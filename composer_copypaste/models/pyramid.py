"""The shape of a feature pyramid, the same for every backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Pyramid:
    """A feature pyramid: its width, and the levels that it has."""

    channels: int
    norm: Norm | None
    """The normalisation of its layers; None: they have none."""

    levels: tuple[int, ...] = (0, 1, 2, 3)
    """Which of the backbone's features, at strides 4, 8, 16 and 32, it is built from."""

    above: Literal["pool", "pyramid", "backbone"] = "pool"
    """What is above them: one level, every second pixel of the last ("pool"), or two, computed from the pyramid's last
    level or from the backbone's last feature."""

    def levels_above(self, last_channels: int) -> ExtraFPNBlock:
        """Torchvision's block for what is above; ``last_channels`` are those of the backbone's last feature."""
        if self.above == "pool":
            return LastLevelMaxPool()
        return LastLevelP6P7(self.channels if self.above == "pyramid" else last_channels, self.channels)
