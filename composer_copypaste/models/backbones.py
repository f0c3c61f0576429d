"""The backbones of torchvision's detectors, also those of timm, with their feature pyramids; without any weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import no_type_check

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import mobilenet, resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from composer_copypaste.models.detectron2_style import Detectron2FrozenBatchNorm
from composer_copypaste.models.pyramid import Norm, Pyramid
from composer_copypaste.models.timm import TimmBackbone, build_timm_backbone, is_timm
from composer_copypaste.settings import DetectorName, DetectorSettings


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation of at most 32 groups, each of two channels or more."""
    return nn.GroupNorm(math.gcd(32, channels // 2), channels)


TRAINED_WITHOUT_EPSILON: Mapping[DetectorName, tuple[str, ...]] = {
    "mask_rcnn": ("coco", "MaskRCNN_ResNet50_FPN_Weights.COCO_V1"),
    "faster_rcnn": ("coco", "FasterRCNN_ResNet50_FPN_Weights.COCO_V1"),
    "retinanet": ("coco", "RetinaNet_ResNet50_FPN_Weights.COCO_V1"),
    "fcos": (),
}
"""Weights trained without the epsilon of today's normalisation layers; torchvision sets it to 0 for these too."""

NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "frozen_batch": FrozenBatchNorm2d, "group": group_norm}


def norm_layer(settings: DetectorSettings) -> Norm:
    """The normalisation of the backbone."""
    if settings.norm is not None:
        name = settings.norm
    elif settings.backbone == "small":
        name = "group"
    else:
        name = "batch" if settings.backbone == "resnet50_v2" or settings.weights == "none" else "frozen_batch"
    without_epsilon = settings.backbone == "resnet50" and settings.weights in TRAINED_WITHOUT_EPSILON[settings.name]
    if name == "frozen_batch" and without_epsilon:
        return partial(FrozenBatchNorm2d, eps=0.0)
    if name == "frozen_batch" and settings.is_detectron2_style:
        return Detectron2FrozenBatchNorm
    return NORMS[name]


def head_norm(settings: DetectorSettings, norm: Norm) -> Norm:
    """The normalisation of pyramid and heads, which start at random: frozen statistics would not normalise them."""
    return group_norm if settings.heads == "small" and settings.norm is None else norm


@dataclass(frozen=True)
class _Body:
    """A backbone's network, the children that begin its five parts, and the ones that end the pyramid's four levels."""

    network: nn.Module
    begins: tuple[str, ...]
    levels: tuple[str, ...]
    channels: tuple[int, ...]


STAGES = (32, 64, 96, 128)  # channels of SmallBackbone
RESNET_STAGE_STARTS = ("conv1", "layer1", "layer2", "layer3", "layer4")


def build_backbone(settings: DetectorSettings, pyramid: Pyramid) -> BackboneWithFPN | TimmBackbone:
    """The backbone that the settings name, and the pyramid on it, with random weights."""
    if is_timm(settings.backbone):
        return build_timm_backbone(settings, pyramid)
    body = _build_body(settings, norm_layer(settings))
    _freeze_layers(body, settings)
    levels = [body.levels[level] for level in pyramid.levels]
    channels = [body.channels[level] for level in pyramid.levels]
    return BackboneWithFPN(
        body.network,
        return_layers={name: str(number) for number, name in enumerate(levels)},
        in_channels_list=channels,
        out_channels=pyramid.channels,
        extra_blocks=pyramid.levels_above(channels[-1]),
        norm_layer=pyramid.norm,
    )


def _build_body(settings: DetectorSettings, norm: Norm) -> _Body:
    name = settings.backbone
    if name == "small":
        return _Body(SmallBackbone(norm), RESNET_STAGE_STARTS, RESNET_STAGE_STARTS[1:], STAGES)
    if name == "mobilenet_v3_large":
        features = mobilenet.mobilenet_v3_large(weights=None, norm_layer=norm).features
        # the last layers at strides 4, 8, 16 and 32, but in torchvision's Faster R-CNN the first and the last at 32
        levels = ("13", "16") if settings.name == "faster_rcnn" else ("3", "6", "12", "16")
        channels = tuple(features[int(level)].out_channels for level in levels)
        return _Body(features, ("0", "2", "4", "7", "13"), levels, channels)
    network = getattr(resnet, name.removesuffix("_v2"))(weights=None, norm_layer=norm)
    channels = tuple(network.inplanes // 8 * 2**stage for stage in range(4))
    return _Body(network, RESNET_STAGE_STARTS, RESNET_STAGE_STARTS[1:], channels)


def _freeze_layers(body: _Body, settings: DetectorSettings) -> None:
    if settings.weights == "none":
        return
    trainable = settings.trainable_backbone_layers
    trained = body.begins[5 - (3 if trainable is None else trainable) :]
    for name, part in body.network.named_children():
        if name in trained:
            return
        part.requires_grad_(False)


class SmallBackbone(nn.Sequential):
    """A stem and four residual stages, with strides 4, 8, 16 and 32; its parts are named as in torchvision's ResNet."""

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
    """A residual block: two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))

    @no_type_check  # TorchScript compiles it, which run-time checks of types would hide
    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))
