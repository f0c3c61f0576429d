"""Builds torchvision's Mask R-CNN: backbone (also of timm), pyramid, anchors and heads, without any weights."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, no_type_check

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import mobilenet, resnet
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from composer_copypaste.functional.resample import size_of
from composer_copypaste.models.detectron2_style import (
    Detectron2Anchors,
    Detectron2FrozenBatchNorm,
    apply_detectron2_style,
)
from composer_copypaste.models.mask_loss import CompactMaskRoIHeads, resized_masks
from composer_copypaste.models.timm import TimmBackbone, build_timm_backbone, image_statistics, is_timm
from composer_copypaste.settings import MaskRCNNSettings

log = logging.getLogger(__name__)

Norm = Callable[[int], nn.Module]
POOLED_SIZE = 7  # each box is pooled to 7 x 7 features


@dataclass(frozen=True)
class Architecture:
    """The sizes of pyramid and heads. The defaults are those of torchvision's ``maskrcnn_resnet50_fpn``."""

    channels: int = 256
    box_convs: tuple[int, ...] = ()
    box_features: int = 1024
    mask_convs: tuple[int, ...] = (256, 256, 256, 256)
    mask_features: int = 256
    rpn_convs: int = 1
    points: int = 2
    """Each pooled feature is the mean of ``points`` x ``points`` samples."""

    normalised: bool = False
    """Whether pyramid and heads have normalisation layers, as the backbone has."""

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    min_size: int = 800
    sampling: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Numbers of proposals and samples per image that differ from torchvision's, by the names of its arguments."""


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
DETECTRON2 = Architecture(sampling=MappingProxyType({"rpn_post_nms_top_n_train": 1000}))
ARCHITECTURES = {"resnet50_v2": V2, "small": SMALL}


def _architecture(settings: MaskRCNNSettings) -> Architecture:
    """The sizes that the settings ask for; those of anchors and images are the backbone's, whatever its heads."""
    own = ARCHITECTURES.get(settings.backbone, DETECTRON2 if settings.is_detectron2_style else STANDARD)
    if settings.heads is None or (settings.heads == "small") == (own is SMALL):
        return own
    return replace(
        SMALL if settings.heads == "small" else STANDARD, anchor_sizes=own.anchor_sizes, min_size=own.min_size
    )


def build_mask_rcnn(num_classes: int, settings: MaskRCNNSettings) -> TorchvisionMaskRCNN:
    """Torchvision's Mask R-CNN as the settings describe it, with random weights: ``settings.weights`` are not loaded.

    ``num_classes`` includes the background. Parameters have torchvision's names. Under autocast, boxes stay float32.
    """
    architecture = _architecture(settings)
    norm = _norm_layer(settings)
    head_norm = _head_norm(settings, norm) if architecture.normalised else None
    min_size, max_size = resized_sides(settings)
    sizes = settings.anchor_sizes or architecture.anchor_sizes
    anchors = Detectron2Anchors if settings.is_detectron2_style else AnchorGenerator
    mean, std = image_statistics(settings) if is_timm(settings.backbone) else (None, None)  # None: ImageNet's
    model = TorchvisionMaskRCNN(
        _build_backbone(settings, architecture, norm),
        min_size=min_size,
        max_size=max_size,
        image_mean=mean,
        image_std=std,
        rpn_anchor_generator=anchors(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=_roi_pool(POOLED_SIZE, architecture),
        mask_roi_pool=_roi_pool(2 * POOLED_SIZE, architecture),
        rpn_head=RPNHead(architecture.channels, 3, conv_depth=architecture.rpn_convs),
        box_head=_build_box_head(architecture, head_norm, settings.box_dropout),
        box_predictor=FastRCNNPredictor(architecture.box_features, num_classes),
        mask_head=_build_mask_head(architecture, head_norm, settings.mask_dropout),
        mask_predictor=MaskRCNNPredictor(architecture.mask_convs[-1], architecture.mask_features, num_classes),
        box_detections_per_img=settings.detections_per_image,
        box_score_thresh=settings.box_score_thresh,
        _skip_resize=not settings.resize_training,
        **_proposal_numbers(architecture, settings.detections_per_image),
    )
    model.transform = ResizeTransform(
        model.transform.min_size,
        model.transform.max_size,
        model.transform.image_mean,
        model.transform.image_std,
        _skip_resize=not settings.resize_training,
    )
    model.roi_heads.__class__ = CompactMaskRoIHeads
    if settings.is_detectron2_style:
        apply_detectron2_style(model)
    _keep_boxes_in_float32(model)
    return model


def _keep_boxes_in_float32(module: TorchvisionMaskRCNN) -> None:
    """Keep anchors, proposals and boxes in float32 under autocast, whose half precision would move them by pixels."""
    module.rpn.anchor_generator.register_forward_pre_hook(_float32_inputs)
    for part in (module.rpn.head, module.roi_heads.box_predictor, module.roi_heads.mask_predictor):
        part.register_forward_hook(_float32_outputs)


def _float32_inputs(module: nn.Module, inputs: tuple[object, list[Tensor]]) -> tuple[object, list[Tensor]]:
    images, features = inputs
    return images, [feature.float() for feature in features]


def _float32_outputs(module: nn.Module, inputs: object, outputs: object) -> object:
    """A tensor, or the tensors of a tuple or of a tuple of lists, in float32."""
    if isinstance(outputs, tuple | list):
        return type(outputs)(_float32_outputs(module, inputs, output) for output in outputs)
    return outputs.float() if isinstance(outputs, Tensor) else outputs


class ResizeTransform(GeneralizedRCNNTransform):
    """Torchvision's, but for masks, which may be cut-outs."""

    def resize(self, image: Tensor, target: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any] | None]:
        """The image and its target, resized for the model."""
        if target is None or "masks" not in target:
            return super().resize(image, target)
        others = {name: values for name, values in target.items() if name != "masks"}
        resized, others = super().resize(image, others)
        return resized, {**others, "masks": resized_masks(target["masks"], size_of(resized))}


def resized_sides(settings: MaskRCNNSettings) -> tuple[int, int]:
    """The length in pixels that an image's shorter side is resized to, and the largest of its longer side."""
    min_size = settings.min_size or _architecture(settings).min_size
    return min_size, settings.max_size or min_size * 5 // 3


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation of at most 32 groups, each of two channels or more."""
    return nn.GroupNorm(math.gcd(32, channels // 2), channels)


TRAINED_WITHOUT_EPSILON = ("coco", "MaskRCNN_ResNet50_FPN_Weights.COCO_V1")
"""Weights trained without the epsilon of today's normalisation layers; torchvision sets it to 0 for these too."""

NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "frozen_batch": FrozenBatchNorm2d, "group": group_norm}


def _norm_layer(settings: MaskRCNNSettings) -> Norm:
    if settings.norm is not None:
        name = settings.norm
    elif settings.backbone == "small":
        name = "group"
    else:
        name = "batch" if settings.backbone == "resnet50_v2" or settings.weights == "none" else "frozen_batch"
    if name == "frozen_batch" and settings.backbone == "resnet50" and settings.weights in TRAINED_WITHOUT_EPSILON:
        return partial(FrozenBatchNorm2d, eps=0.0)
    if name == "frozen_batch" and settings.is_detectron2_style:
        return Detectron2FrozenBatchNorm
    return NORMS[name]


def _head_norm(settings: MaskRCNNSettings, norm: Norm) -> Norm:
    """The normalisation of pyramid and heads, which start at random: frozen statistics would not normalise them."""
    return group_norm if settings.heads == "small" and settings.norm is None else norm


def _proposal_numbers(architecture: Architecture, detections: int) -> dict[str, int]:
    """Numbers of proposals and samples; enough proposals for this number of detections.

    A proposal becomes at most one detection of a class, and several proposals on one object are merged. So twice as
    many proposals are kept as detections, from three times as many anchors of each level, or the usual number if
    larger.
    """
    before, after = (architecture.sampling.get(f"rpn_{when}_nms_top_n_test", 1000) for when in ("pre", "post"))
    return {
        **architecture.sampling,
        "rpn_pre_nms_top_n_test": max(before, 3 * detections),
        "rpn_post_nms_top_n_test": max(after, 2 * detections),
    }


def _roi_pool(side: int, architecture: Architecture) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=side, sampling_ratio=architecture.points)


class _MLPBoxHead(TwoMLPHead):
    """Torchvision's box head with dropout; parameter names are the same."""

    def __init__(self, in_features: int, features: int, dropout: float) -> None:
        super().__init__(in_features, features)
        self.dropout = nn.Dropout(dropout)

    @no_type_check  # TorchScript compiles it, which run-time checks of types would hide
    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.fc6(x.flatten(start_dim=1)))  # TorchScript knows no super()
        return self.dropout(functional.relu(self.fc7(hidden)))


def _build_box_head(architecture: Architecture, norm: Norm | None, dropout: float) -> nn.Module:
    if not architecture.box_convs:
        return _MLPBoxHead(architecture.channels * POOLED_SIZE**2, architecture.box_features, dropout)
    shape = (architecture.channels, POOLED_SIZE, POOLED_SIZE)
    head: nn.Sequential = FastRCNNConvFCHead(
        shape, list(architecture.box_convs), [architecture.box_features], norm_layer=norm
    )
    return head.append(nn.Dropout(dropout))


def _build_mask_head(architecture: Architecture, norm: Norm | None, dropout: float) -> nn.Module:
    head: nn.Sequential = MaskRCNNHeads(architecture.channels, architecture.mask_convs, 1, norm_layer=norm)
    return head.append(nn.Dropout2d(dropout))


@dataclass(frozen=True)
class _Body:
    """A backbone's network, the children that begin its five parts, and the ones that end the pyramid's four levels."""

    network: nn.Module
    begins: tuple[str, ...]
    levels: tuple[str, ...]
    channels: tuple[int, ...]


STAGES = (32, 64, 96, 128)  # channels of SmallBackbone
RESNET_STAGE_STARTS = ("conv1", "layer1", "layer2", "layer3", "layer4")


def _build_backbone(
    settings: MaskRCNNSettings, architecture: Architecture, norm: Norm
) -> BackboneWithFPN | TimmBackbone:
    if is_timm(settings.backbone):
        backbone = build_timm_backbone(
            settings, architecture.channels, _head_norm(settings, norm) if architecture.normalised else None
        )
        _warn_of_unused_freezing(settings)
        return backbone
    body = _build_body(settings.backbone, norm)
    _freeze_layers(body, settings)
    return BackboneWithFPN(
        body.network,
        return_layers={name: str(level) for level, name in enumerate(body.levels)},
        in_channels_list=list(body.channels),
        out_channels=architecture.channels,
        norm_layer=_head_norm(settings, norm) if architecture.normalised else None,
    )


def _build_body(name: str, norm: Norm) -> _Body:
    if name == "small":
        return _Body(SmallBackbone(norm), RESNET_STAGE_STARTS, RESNET_STAGE_STARTS[1:], STAGES)
    if name == "mobilenet_v3_large":
        features = mobilenet.mobilenet_v3_large(weights=None, norm_layer=norm).features
        levels = ("3", "6", "12", "16")  # the last layers at strides 4, 8, 16 and 32
        channels = tuple(features[int(level)].out_channels for level in levels)
        return _Body(features, ("0", "2", "4", "7", "13"), levels, channels)
    network = getattr(resnet, name.removesuffix("_v2"))(weights=None, norm_layer=norm)
    channels = tuple(network.inplanes // 8 * 2**stage for stage in range(4))
    return _Body(network, RESNET_STAGE_STARTS, RESNET_STAGE_STARTS[1:], channels)


def _freeze_layers(body: _Body, settings: MaskRCNNSettings) -> None:
    _warn_of_unused_freezing(settings)
    if settings.weights == "none":
        return
    trainable = settings.trainable_backbone_layers
    trained = body.begins[5 - (3 if trainable is None else trainable) :]
    for name, part in body.network.named_children():
        if name in trained:
            return
        part.requires_grad_(False)


def _warn_of_unused_freezing(settings: MaskRCNNSettings) -> None:
    trainable = settings.trainable_backbone_layers
    if settings.weights == "none" and trainable not in (None, 5):
        log.warning(
            "trainable_backbone_layers=%s has no effect: without weights, the whole backbone is trained", trainable
        )


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
