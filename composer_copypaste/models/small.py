"""The backbone of the quickstart: four small stages for pictures of about 128 pixels, quick on a CPU."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

STAGES = (32, 64, 96, 128)


class SmallBackbone(nn.Sequential):
    """A stem and four residual stages, with strides 4, 8, 16 and 32; its parts have the names of a ResNet's."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STAGES[0], 4, stride=4, bias=False)
        self.bn1 = norm(STAGES[0])
        self.relu = nn.ReLU(inplace=True)
        previous = STAGES[0]
        for index, channels in enumerate(STAGES):
            self.add_module(f"layer{index + 1}", _Block(previous, channels, stride=1 if index == 0 else 2, norm=norm))
            previous = channels


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))
