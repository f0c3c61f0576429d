"""Builds torchvision's Mask R-CNN and Faster R-CNN: backbone, pyramid, anchors and heads, without any weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, no_type_check

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign

from composer_copypaste.functional.resample import size_of
from composer_copypaste.models.backbones import build_backbone, head_norm, norm_layer
from composer_copypaste.models.detectron2_style import Detectron2Anchors, apply_detectron2_style, paste_probabilities
from composer_copypaste.models.float32_boxes import keep_boxes_in_float32
from composer_copypaste.models.mask_loss import AlignedMaskRoIHeads, CompactMaskRoIHeads, resized_masks
from composer_copypaste.models.pyramid import Norm, Pyramid
from composer_copypaste.models.timm import image_statistics, is_timm
from composer_copypaste.settings import DetectorSettings

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

    levels: tuple[int, ...] = (0, 1, 2, 3)
    """Which of the backbone's features, at strides 4, 8, 16 and 32, the pyramid is built from."""

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    min_size: int = 800
    sampling: Mapping[str, int | float] = field(default_factory=lambda: MappingProxyType({}))
    """What differs from torchvision's for proposals and samples, by the names of its arguments."""


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
MOBILENET = Architecture(levels=(0, 1), sampling=MappingProxyType({"rpn_score_thresh": 0.05}))
ARCHITECTURES = {"resnet50_v2": V2, "small": SMALL}


def architecture_of(settings: DetectorSettings) -> Architecture:
    """The sizes that the settings ask for; those of anchors and images are the backbone's, whatever its heads."""
    own = ARCHITECTURES.get(settings.backbone, DETECTRON2 if settings.is_detectron2_style else STANDARD)
    if settings.name == "faster_rcnn" and settings.backbone == "mobilenet_v3_large":
        own = MOBILENET
    if settings.heads is None or (settings.heads == "small") == (own is SMALL):
        return own
    return replace(
        SMALL if settings.heads == "small" else STANDARD,
        anchor_sizes=own.anchor_sizes,
        min_size=own.min_size,
        levels=own.levels,
    )


def build_mask_rcnn(num_classes: int, settings: DetectorSettings) -> TorchvisionMaskRCNN:
    """Torchvision's Mask R-CNN as the settings describe it, with random weights: ``settings.weights`` are not loaded.

    ``num_classes`` includes the background. Parameters have torchvision's names. Under autocast, boxes stay float32.
    """
    architecture = architecture_of(settings)
    norm = _norm_of_heads(settings, architecture)
    model = TorchvisionMaskRCNN(
        **_parts(num_classes, settings, architecture),
        mask_roi_pool=_roi_pool(2 * POOLED_SIZE, architecture),
        mask_head=_build_mask_head(architecture, norm, settings.mask_dropout),
        mask_predictor=MaskRCNNPredictor(architecture.mask_convs[-1], architecture.mask_features, num_classes),
    )
    model.transform = ResizeTransform(
        model.transform.min_size,
        model.transform.max_size,
        model.transform.image_mean,
        model.transform.image_std,
        _skip_resize=not settings.resize_training,
    )
    model.transform.aligned_masks = settings.aligned_masks
    model.roi_heads.__class__ = AlignedMaskRoIHeads if settings.aligned_masks else CompactMaskRoIHeads
    if settings.is_detectron2_style:
        apply_detectron2_style(model)
    keep_boxes_in_float32(
        model.rpn.anchor_generator,
        (model.rpn.head, model.roi_heads.box_predictor, model.roi_heads.mask_predictor),
    )
    return model


def build_faster_rcnn(num_classes: int, settings: DetectorSettings) -> TorchvisionFasterRCNN:
    """Torchvision's Faster R-CNN as the settings describe it, as ``build_mask_rcnn`` builds Mask R-CNN."""
    model = TorchvisionFasterRCNN(**_parts(num_classes, settings, architecture_of(settings)))
    keep_boxes_in_float32(model.rpn.anchor_generator, (model.rpn.head, model.roi_heads.box_predictor))
    return model


def _parts(num_classes: int, settings: DetectorSettings, architecture: Architecture) -> dict[str, Any]:
    """The parts of both detectors, by the names of torchvision's arguments."""
    norm = _norm_of_heads(settings, architecture)
    min_size, max_size = resized_sides(settings)
    anchors = Detectron2Anchors if settings.is_detectron2_style else AnchorGenerator
    mean, std = image_statistics(settings) if is_timm(settings.backbone) else (None, None)  # None: ImageNet's
    sizes = _anchor_sizes(settings, architecture)
    return {
        "backbone": build_backbone(settings, Pyramid(architecture.channels, norm, architecture.levels)),
        "min_size": min_size,
        "max_size": max_size,
        "image_mean": mean,
        "image_std": std,
        "rpn_anchor_generator": anchors(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        "box_roi_pool": _roi_pool(POOLED_SIZE, architecture),
        "rpn_head": RPNHead(architecture.channels, 3 * len(sizes[0]), conv_depth=architecture.rpn_convs),
        "box_head": _build_box_head(architecture, norm, settings.box_dropout),
        "box_predictor": FastRCNNPredictor(architecture.box_features, num_classes),
        "box_detections_per_img": settings.detections_per_image,
        "box_score_thresh": settings.box_score_thresh,
        "_skip_resize": not settings.resize_training,
        **_proposal_numbers(architecture, settings.detections_per_image),
    }


def _anchor_sizes(settings: DetectorSettings, architecture: Architecture) -> tuple[tuple[int, ...], ...]:
    """The sides of the anchors of each level: one each, or all in each where there are fewer levels."""
    sizes = settings.anchor_sizes or architecture.anchor_sizes
    levels = len(architecture.levels) + 1
    return tuple((size,) for size in sizes) if levels == len(sizes) else (sizes,) * levels


def _norm_of_heads(settings: DetectorSettings, architecture: Architecture) -> Norm | None:
    return head_norm(settings, norm_layer(settings)) if architecture.normalised else None


class ResizeTransform(GeneralizedRCNNTransform):
    """Torchvision's, but for masks: training targets may be cut-outs, and all may lie where pixels do."""

    aligned_masks = False

    def resize(self, image: Tensor, target: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any] | None]:
        """The image and its target, resized for the model."""
        if target is None or "masks" not in target:
            return super().resize(image, target)
        others = {name: values for name, values in target.items() if name != "masks"}
        resized, others = super().resize(image, others)
        masks = resized_masks(target["masks"], size_of(resized), aligned=self.aligned_masks)
        return resized, {**others, "masks": masks}

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """The detections at the images' own sizes, with masks as probabilities there: (n, 1, height, width)."""
        if self.training or not self.aligned_masks:
            return super().postprocess(result, image_shapes, original_image_sizes)
        found = []
        for detected, resized, size in zip(result, image_shapes, original_image_sizes, strict=True):
            boxes = resize_boxes(detected["boxes"], list(resized), list(size))
            found.append({**detected, "boxes": boxes, "masks": paste_probabilities(detected["masks"], boxes, size)})
        return found


def resized_sides(settings: DetectorSettings) -> tuple[int, int]:
    """The length in pixels that an image's shorter side is resized to, and the largest of its longer side."""
    min_size = settings.min_size or architecture_of(settings).min_size
    return min_size, settings.max_size or min_size * 5 // 3


def _proposal_numbers(architecture: Architecture, detections: int) -> dict[str, int | float]:
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
    names = [str(number) for number in range(len(architecture.levels))]
    return MultiScaleRoIAlign(names, output_size=side, sampling_ratio=architecture.points)


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
