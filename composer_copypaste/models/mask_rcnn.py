"""Builds torchvision's Mask R-CNN: backbone, feature pyramid, anchors and heads, without any weights."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import interpolate
from torchvision.models import mobilenet, resnet
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from composer_copypaste.settings import MaskRCNNSettings

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


log = logging.getLogger(__name__)

Norm = Callable[[int], nn.Module]
POOLED = 7  # each box gets so many by so many features


@dataclass(frozen=True)
class Architecture:
    """The sizes of what stands on a backbone. The defaults are those of torchvision's ``maskrcnn_resnet50_fpn``."""

    channels: int = 256
    box_convs: tuple[int, ...] = ()
    box_features: int = 1024
    mask_convs: tuple[int, ...] = (256, 256, 256, 256)
    mask_features: int = 256
    rpn_convs: int = 1
    points: int = 2
    """Each pooled feature is the mean of so many by so many points."""

    normalised: bool = False
    """Pyramid and heads are normalised too."""

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    min_size: int = 800
    sampling: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """How many proposals and samples an image has, where torchvision's Mask R-CNN shall not use its own numbers."""


STANDARD = Architecture()
V2 = Architecture(box_convs=(256, 256, 256, 256), rpn_convs=2, normalised=True)
SMALL = Architecture(
    channels=64,
    box_features=256,
    mask_convs=(64, 64),
    mask_features=32,
    points=1,
    normalised=True,
    anchor_sizes=(8, 16, 32, 64, 128),
    min_size=128,
    sampling=MappingProxyType(
        {
            "rpn_pre_nms_top_n_train": 300,
            "rpn_pre_nms_top_n_test": 300,
            "rpn_post_nms_top_n_train": 150,
            "rpn_post_nms_top_n_test": 200,
            "rpn_batch_size_per_image": 128,
            "box_batch_size_per_image": 48,
        }
    ),
)
LAYOUTS = {"resnet50_v2": V2, "small": SMALL}


def build_mask_rcnn(num_classes: int, settings: MaskRCNNSettings) -> TorchvisionMaskRCNN:
    """Torchvision's Mask R-CNN as the settings describe it, freshly initialised; ``settings.weights`` are not loaded.

    ``num_classes`` counts the background. Parameter names are torchvision's own.
    """
    layout = LAYOUTS.get(settings.backbone, STANDARD)
    norm = _norm(settings)
    head_norm = norm if layout.normalised else None
    min_size, max_size = resized_sides(settings)
    model = TorchvisionMaskRCNN(
        _backbone(settings, layout, norm),
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=_anchors(settings.anchor_sizes or layout.anchor_sizes),
        box_roi_pool=_roi_pool(POOLED, layout),
        mask_roi_pool=_roi_pool(2 * POOLED, layout),
        rpn_head=RPNHead(layout.channels, 3, conv_depth=layout.rpn_convs),
        box_head=_box_head(layout, head_norm, settings.box_dropout),
        box_predictor=FastRCNNPredictor(layout.box_features, num_classes),
        mask_head=_mask_head(layout, head_norm, settings.mask_dropout),
        mask_predictor=MaskRCNNPredictor(layout.mask_convs[-1], layout.mask_features, num_classes),
        box_detections_per_img=settings.detections_per_image,
        box_score_thresh=settings.box_score_thresh,
        _skip_resize=not settings.resize_training,
        **_sampling(layout, settings.detections_per_image),
    )
    model.transform = ResizeTransform(
        model.transform.min_size,
        model.transform.max_size,
        model.transform.image_mean,
        model.transform.image_std,
        _skip_resize=not settings.resize_training,
    )
    return model


class ResizeTransform(GeneralizedRCNNTransform):
    """Torchvision's, but masks are resized as the bytes that they are: as float32 they would take four times that."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The image and its target at the size that the model takes."""
        if target is None or "masks" not in target:
            return super().resize(image, target)
        others = {name: values for name, values in target.items() if name != "masks"}
        resized, others = super().resize(image, others)
        masks = target["masks"]
        if masks.shape[1:] != resized.shape[1:]:
            masks = interpolate(masks.view(torch.uint8)[:, None], resized.shape[1:])[:, 0]
        return resized, {**others, "masks": masks}


def resized_sides(settings: MaskRCNNSettings) -> tuple[int, int]:
    """The pixels that the model gives the shorter side of an image, and the most that the longer one may get."""
    min_size = settings.min_size or LAYOUTS.get(settings.backbone, STANDARD).min_size
    return min_size, settings.max_size or min_size * 5 // 3


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups, fewer where the channels do not divide into them."""
    return nn.GroupNorm(math.gcd(32, channels // 2), channels)


TRAINED_WITHOUT_EPSILON = ("coco", "MaskRCNN_ResNet50_FPN_Weights.COCO_V1")
"""Torchvision, too, loads these into layers without the epsilon that its normalisation has had since."""

NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "frozen_batch": FrozenBatchNorm2d, "group": group_norm}


def _norm(settings: MaskRCNNSettings) -> Norm:
    if settings.norm is not None:
        name = settings.norm
    elif settings.backbone == "small":
        name = "group"
    else:
        name = "batch" if settings.backbone == "resnet50_v2" or settings.weights == "none" else "frozen_batch"
    if name == "frozen_batch" and settings.backbone == "resnet50" and settings.weights in TRAINED_WITHOUT_EPSILON:
        return partial(FrozenBatchNorm2d, eps=0.0)
    return NORMS[name]


def _anchors(sizes: tuple[int, ...]) -> AnchorGenerator:
    return AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * len(sizes))


def _sampling(layout: Architecture, detections: int) -> dict[str, int]:
    """As many proposals as that number of detections needs: several anchors lie on each object.

    A proposal becomes one detection of a class at most, and those that lie on one object fall together: there are twice
    as many, from three times as many anchors of each level, or more where the model has more.
    """
    before, after = (layout.sampling.get(f"rpn_{when}_nms_top_n_test", 1000) for when in ("pre", "post"))
    return {
        **layout.sampling,
        "rpn_pre_nms_top_n_test": max(before, 3 * detections),
        "rpn_post_nms_top_n_test": max(after, 2 * detections),
    }


def _roi_pool(side: int, layout: Architecture) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=side, sampling_ratio=layout.points)


class _MLPBoxHead(TwoMLPHead):
    """Torchvision's box head, with dropout; its parameters keep their names."""

    def __init__(self, in_features: int, features: int, dropout: float) -> None:
        super().__init__(in_features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(super().forward(x))


def _box_head(layout: Architecture, norm: Norm | None, dropout: float) -> nn.Module:
    if not layout.box_convs:
        return _MLPBoxHead(layout.channels * POOLED**2, layout.box_features, dropout)
    shape = (layout.channels, POOLED, POOLED)
    head: nn.Sequential = FastRCNNConvFCHead(shape, list(layout.box_convs), [layout.box_features], norm_layer=norm)
    return head.append(nn.Dropout(dropout))


def _mask_head(layout: Architecture, norm: Norm | None, dropout: float) -> nn.Module:
    head: nn.Sequential = MaskRCNNHeads(layout.channels, layout.mask_convs, 1, norm_layer=norm)
    return head.append(nn.Dropout2d(dropout))


@dataclass(frozen=True)
class _Body:
    """A backbone's network, and which of its children begin its five parts and which end the four levels."""

    network: nn.Module
    begins: tuple[str, ...]
    levels: tuple[str, ...]
    channels: tuple[int, ...]


RESNET_BEGINS = ("conv1", "layer1", "layer2", "layer3", "layer4")


def _backbone(settings: MaskRCNNSettings, layout: Architecture, norm: Norm) -> BackboneWithFPN:
    body = _body(settings.backbone, norm)
    _freeze(body, settings)
    return BackboneWithFPN(
        body.network,
        return_layers={name: str(level) for level, name in enumerate(body.levels)},
        in_channels_list=list(body.channels),
        out_channels=layout.channels,
        norm_layer=norm if layout.normalised else None,
    )


def _body(name: str, norm: Norm) -> _Body:
    if name == "small":
        return _Body(SmallBackbone(norm), RESNET_BEGINS, RESNET_BEGINS[1:], STAGES)
    if name == "mobilenet_v3_large":
        return _mobile_body(mobilenet.mobilenet_v3_large(weights=None, norm_layer=norm).features)
    network = getattr(resnet, name.removesuffix("_v2"))(weights=None, norm_layer=norm)
    channels = tuple(network.inplanes // 8 * 2**stage for stage in range(4))
    return _Body(network, RESNET_BEGINS, RESNET_BEGINS[1:], channels)


def _mobile_body(features: nn.Sequential) -> _Body:
    """The stages end before each further stride: at strides 4, 8, 16 and 32."""
    levels = ("3", "6", "12", "16")
    channels = tuple(features[int(level)].out_channels for level in levels)
    return _Body(features, ("0", "2", "4", "7", "13"), levels, channels)


def _freeze(body: _Body, settings: MaskRCNNSettings) -> None:
    trainable = settings.trainable_backbone_layers
    if settings.weights == "none":
        if trainable not in (None, 5):
            log.warning("trainable_backbone_layers=%s: without weights all of the backbone trains", trainable)
        return
    trained = body.begins[5 - (3 if trainable is None else trainable) :]
    for name, part in body.network.named_children():
        if name in trained:
            return
        part.requires_grad_(False)
