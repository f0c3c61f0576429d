"""Builds torchvision's RetinaNet and FCOS, which find boxes alone: backbone, pyramid, anchors and heads, no weights."""

from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from composer_copypaste.models.backbones import build_backbone, group_norm, head_norm, norm_layer
from composer_copypaste.models.float32_boxes import keep_boxes_in_float32
from composer_copypaste.models.mask_rcnn import architecture_of, resized_sides
from composer_copypaste.models.pyramid import Norm, Pyramid
from composer_copypaste.models.timm import image_statistics, is_timm
from composer_copypaste.settings import DetectorSettings

ASPECT_RATIOS = (0.5, 1.0, 2.0)
STRIDES = (8, 16, 32, 64, 128)
"""The strides of a pyramid's levels, where the backbone is not "small"."""
SMALL_STRIDES = (4, 8, 16, 32, 64)


def build_retinanet(num_classes: int, settings: DetectorSettings) -> TorchvisionRetinaNet:
    """Torchvision's RetinaNet as the settings describe it, with random weights: ``settings.weights`` are not loaded.

    ``num_classes`` includes the background. Parameters have torchvision's names. Under autocast, boxes stay float32.
    """
    sizes = settings.anchor_sizes or architecture_of(settings).anchor_sizes
    # as torchvision computes them
    octaves = tuple((size, int(size * 2 ** (1.0 / 3)), int(size * 2 ** (2.0 / 3))) for size in sizes)
    anchors = AnchorGenerator(octaves, (ASPECT_RATIOS,) * len(octaves))
    pyramid = _pyramid(settings)
    backbone = build_backbone(settings, pyramid)
    is_second = settings.backbone == "resnet50_v2"
    head = RetinaNetHead(
        pyramid.channels,
        anchors.num_anchors_per_location()[0],
        num_classes,
        norm_layer=partial(nn.GroupNorm, 32) if is_second else _norm_of_heads(settings),
    )
    if is_second:
        head.regression_head._loss_type = "giou"  # as in torchvision's second version
    model = TorchvisionRetinaNet(
        backbone, num_classes, anchor_generator=anchors, head=head, nms_thresh=0.5, **_options(settings)
    )
    keep_boxes_in_float32(model.anchor_generator, (model.head,))
    return model


def build_fcos(num_classes: int, settings: DetectorSettings) -> TorchvisionFCOS:
    """Torchvision's FCOS as the settings describe it, as ``build_retinanet`` builds RetinaNet."""
    sizes = settings.anchor_sizes or (SMALL_STRIDES if settings.backbone == "small" else STRIDES)
    anchors = AnchorGenerator(tuple((size,) for size in sizes), ((1.0,),) * len(sizes))
    pyramid = _pyramid(settings)
    model = TorchvisionFCOS(
        build_backbone(settings, pyramid),
        num_classes,
        anchor_generator=anchors,
        head=FCOSHead(pyramid.channels, 1, num_classes),
        **_options(settings),
    )
    keep_boxes_in_float32(model.anchor_generator, (model.head,))
    return model


def _pyramid(settings: DetectorSettings) -> Pyramid:
    """The pyramid of torchvision's models, at strides 8 to 128; on "small", whose images are small, at 4 to 64."""
    channels, norm = architecture_of(settings).channels, _norm_of_heads(settings)
    if settings.backbone == "small":
        return Pyramid(channels, norm)
    above = "backbone" if settings.backbone == "resnet50_v2" else "pyramid"
    return Pyramid(channels, norm, levels=(1, 2, 3), above=above)  # type: ignore[arg-type]


def _norm_of_heads(settings: DetectorSettings) -> Norm | None:
    """The normalisation of small pyramids and heads; torchvision's have none, but for the heads of FCOS."""
    is_small = settings.heads == "small" or (settings.heads is None and settings.backbone == "small")
    if not is_small:
        return None
    return group_norm if settings.norm == "frozen_batch" else head_norm(settings, norm_layer(settings))


def _options(settings: DetectorSettings) -> dict[str, Any]:
    """What both detectors are given besides their parts, by the names of torchvision's arguments."""
    min_size, max_size = resized_sides(settings)
    mean, std = image_statistics(settings) if is_timm(settings.backbone) else (None, None)  # None: ImageNet's
    return {
        "min_size": min_size,
        "max_size": max_size,
        "image_mean": mean,
        "image_std": std,
        "score_thresh": settings.box_score_thresh,
        "detections_per_img": settings.detections_per_image,
        # of each level; as many as detections, so that these suffice
        "topk_candidates": max(1000, settings.detections_per_image),
        "_skip_resize": not settings.resize_training,
    }
