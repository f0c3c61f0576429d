"""``MaskRCNN``: torchvision's Mask R-CNN as a Composer model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import torch
from composer.models import ComposerModel
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.transform import resize_boxes

from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.postprocess import RLE, encode_masks
from composer_copypaste.models.targets import check_targets
from composer_copypaste.models.weights import load_pretrained
from composer_copypaste.settings import MaskRCNNSettings

if TYPE_CHECKING:
    from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision


Target = dict[str, Tensor]
Batch = tuple[Tensor | Sequence[Tensor], Sequence[Target]]

LOSSES = {
    "classifier": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
}
"""The parts of the loss as they are logged (``loss/train/mask``), and torchvision's names for them."""


class DetectionDict(TypedDict):
    """What was found in one image, at the image's own size, best first; on the host.

    ``boxes`` are (x1, y1, x2, y2) in pixels, float32 (m, 4); ``scores`` (m,) lie in [0, 1]; ``labels`` (m,) are int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rles: list[RLE]


class MaskRCNN(ComposerModel):
    """Torchvision's Mask R-CNN for Composer's ``Trainer``.

    A batch is ``(images, targets)``: images (N, 3, H, W) or a list of (3, H, W), RGB, uint8 or float in [0, 1]; targets
    a list of torchvision detection dicts, whose masks hold 0 and 1. Crowds are left out of the targets in training; the
    batch is not modified.

    Args:
        num_classes: How many classes there are, the background among them.
        settings: The model's settings; or give them one by one, as ``knobs``.
        metric: Scores the detections of evaluations; its scalars are what Composer logs.
        load_weights: False leaves out ``settings.weights``, where a checkpoint is loaded afterwards anyway: the same
            layers, and no download.
        knobs: The fields of ``MaskRCNNSettings``.

    Raises:
        CheckpointError: where the weights cannot be had, or do not fit.

    Example:
        >>> model = MaskRCNN(num_classes=4, backbone="small")
    """

    def __init__(
        self,
        num_classes: int = 81,
        settings: MaskRCNNSettings | None = None,
        *,
        metric: "CocoMeanAveragePrecision | None" = None,
        load_weights: bool = True,
        **knobs: object,
    ) -> None:
        super().__init__()
        if settings is not None and knobs:
            raise TypeError(f"MaskRCNN takes settings, or the fields of it ({', '.join(knobs)}), not both")
        self.settings = settings or MaskRCNNSettings(**knobs)  # type: ignore[arg-type]
        self.num_classes = num_classes
        self.metric = metric
        self.module = build_mask_rcnn(num_classes, self.settings)
        _keep_boxes_in_float32(self.module)
        if load_weights:
            load_pretrained(self.module, self.settings)

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[DetectionDict]:
        """In training, torchvision's dict of losses; else the detections.

        Raises:
            TypeError: in training, for targets or fields of them that are no tensors or of another type.
            ValueError: in training, for labels other than 1 to ``num_classes`` - 1, boxes that are not finite or have
                no extent, masks of other values than 0 and 1, and fields that do not fit the image or each other.
        """
        if not self.training:
            return self.eval_forward(batch)
        images, targets = batch
        check_targets(images, targets, self.num_classes)
        losses: dict[str, Tensor] = self.module(_images(images), [_as_trained_on(target) for target in targets])
        return losses

    def loss(  # type: ignore[override]  # the trainer takes a dict, though its annotation does not say so
        self, outputs: dict[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """The parts of the loss; Composer logs each, and trains on their sum."""
        return {name: outputs[key] for name, key in LOSSES.items()}

    @torch.no_grad()
    def eval_forward(self, batch: Batch, outputs: object = None) -> list[DetectionDict]:
        """The detections in each of the batch's images."""
        given = _images(batch[0])
        images, _ = self.module.transform(given)
        features = self.module.backbone(images.tensors)
        proposals, _ = self.module.rpn(images, features)
        found, _ = self.module.roi_heads(features, proposals, images.image_sizes)
        return [
            _at_original_size(detected, resized, (image.shape[1], image.shape[2]))
            for detected, resized, image in zip(found, images.image_sizes, given, strict=True)
        ]

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        """The scalars of the metric, for evaluations only: training does not detect."""
        return {} if is_train or self.metric is None else dict(self.metric.scalars())

    def update_metric(self, batch: Batch, outputs: list[DetectionDict], metric: Metric) -> None:
        """Hand the detections and the truth to one of ``get_metrics``; those that share a state count them once."""
        metric.update(outputs, batch[1])


def _images(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [image if image.is_floating_point() else image.float() / 255 for image in images]


def _as_trained_on(target: Target) -> Target:
    """The target's single objects, in torchvision's types: a crowd's box and mask are no example of one."""
    fields = {"boxes": target["boxes"].float(), "labels": target["labels"].long(), "masks": target["masks"]}
    crowds = target.get("iscrowd")
    if crowds is None or not crowds.any():
        return fields
    return {name: values[crowds == 0] for name, values in fields.items()}


def _at_original_size(detected: Target, resized: tuple[int, int], original: tuple[int, int]) -> DetectionDict:
    boxes = resize_boxes(detected["boxes"], resized, original).cpu()
    return DetectionDict(
        boxes=boxes,
        scores=detected["scores"].cpu(),
        labels=detected["labels"].cpu(),
        rles=encode_masks(detected["masks"].cpu(), boxes, original),
    )


def _keep_boxes_in_float32(module: TorchvisionMaskRCNN) -> None:
    """Under autocast torchvision makes anchors, proposals and boxes half precision, which moves them by pixels."""
    module.rpn.anchor_generator.register_forward_pre_hook(_float32_inputs)
    for part in (module.rpn.head, module.roi_heads.box_predictor, module.roi_heads.mask_predictor):
        part.register_forward_hook(_float32_outputs)


def _float32_inputs(module: nn.Module, inputs: tuple[object, list[Tensor]]) -> tuple[object, list[Tensor]]:
    images, features = inputs
    return images, [feature.float() for feature in features]


def _float32_outputs(module: nn.Module, inputs: object, outputs: object) -> object:
    """The tensors of a tensor, of a tuple, or of a tuple of lists, in float32."""
    if isinstance(outputs, tuple | list):
        return type(outputs)(_float32_outputs(module, inputs, output) for output in outputs)
    return outputs.float() if isinstance(outputs, Tensor) else outputs
