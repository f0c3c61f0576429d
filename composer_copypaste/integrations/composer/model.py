"""``Detector`` and ``MaskRCNN``: torchvision's detectors as Composer models; what every such model has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from composer.models import ComposerModel
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from composer_copypaste.models.detectors import build_detector
from composer_copypaste.models.inputs import TrainingTarget, check_targets, float_images, target_without_crowds
from composer_copypaste.models.postprocess import DetectionDict, detect, with_labels_of
from composer_copypaste.models.weight_files import StateDict, tensors_of_content
from composer_copypaste.models.weights import load_pretrained
from composer_copypaste.settings import DetectorSettings, MaskRCNNSettings, settings_from

if TYPE_CHECKING:
    from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision


Batch = tuple[Tensor | Sequence[Tensor], Sequence[TrainingTarget]]

LOSSES = {
    "classifier": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
}
"""The parts of the loss as they are logged (``loss/train/mask``), and torchvision's names for them."""

ONE_STAGE_LOSSES = {"classifier": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}
"""The same for RetinaNet and FCOS."""


class InstanceSegmentationModel(ComposerModel):
    """A detector in ``module`` that trains on torchvision's targets and is scored by COCO's rules.

    Subclasses have ``forward``, which gives the dict of ``module``'s losses in training, and ``detect``.

    Args:
        num_classes: The number of classes, the background included.
        metric: Scores the detections of evaluations; its scalars are what Composer logs.
        labels: The label that detections of each class get, where the model's classes are not the data's categories;
            None for classes whose detections are left out.

    Raises:
        ValueError: fewer than two classes.
        TypeError: a number of classes that is none.
    """

    module: nn.Module
    loss_names: Mapping[str, str]
    """The parts of the loss as they are logged (``loss/train/mask``), and the names of ``module`` for them."""

    def __init__(
        self,
        num_classes: int,
        *,
        metric: "CocoMeanAveragePrecision | None" = None,
        labels: Mapping[int, int | None] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(num_classes, int | np.integer) or isinstance(num_classes, bool):
            raise TypeError(f"num_classes: expected a whole number, got {num_classes!r}")
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, the background and one category, got {num_classes}")
        self.num_classes = num_classes
        self.metric = metric
        self.labels = labels
        self.loaded: list[str] = []
        """What was loaded of the weights, what was not, and why, a line each."""

    @staticmethod
    def tensors_of_content(content: object, path: Path) -> StateDict:
        """The tensors of ``module`` in a file's content; ``path`` is used in messages."""
        return tensors_of_content(content, path)

    def detect(self, images: Tensor | Sequence[Tensor]) -> list[DetectionDict]:
        """The detections in each image with the model's own labels, in evaluation mode; images as in a batch."""
        raise NotImplementedError

    def loss(  # type: ignore[override]  # the trainer takes a dict, though its annotation does not say so
        self, outputs: dict[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """The parts of the loss; Composer logs each, and trains on their sum."""
        names = {own: name for name, own in self.loss_names.items()}
        return {names.get(own, own.removeprefix("loss_")): part for own, part in outputs.items()}

    def eval_forward(self, batch: Batch, outputs: object = None) -> list[DetectionDict]:
        """The detections in each of the batch's images."""
        found = self.detect(batch[0])
        return found if self.labels is None else [with_labels_of(each, self.labels) for each in found]

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        """The scalars of the metric, for evaluations only: a training step detects nothing."""
        return {} if is_train or self.metric is None else dict(self.metric.scalars())

    def update_metric(self, batch: Batch, outputs: list[DetectionDict], metric: Metric) -> None:
        """Give detections and truth to one of ``get_metrics``; scalars that share a metric count them once."""
        metric.update(outputs, batch[1])


class Detector(InstanceSegmentationModel):
    """Torchvision's Mask R-CNN, Faster R-CNN, RetinaNet or FCOS for Composer's ``Trainer``.

    A batch is ``(images, targets)``: images (N, 3, H, W) or a list of (3, H, W), RGB, uint8 or float in [0, 1]; targets
    a list of torchvision detection dicts. Mask R-CNN is trained by their masks too, which hold 0 and 1; the others need
    none, and leave them out. Crowds are left out of the targets in training; the batch is not modified.

    Args:
        num_classes: The number of classes, the background included.
        settings: All settings in one value.
        metric: Scores the detections of evaluations; its scalars are what Composer logs. Where the detector finds boxes
            alone, it has ``iou_types=("bbox",)``.
        load_weights: False builds the same layers without loading ``settings.weights``, for a checkpoint that replaces
            them.
        labels: The label that detections of each class get, where the model's classes are not the data's categories;
            None for classes whose detections are left out.
        category_names: The names of labels 1, 2, ..., by which ``keep_categories`` keeps rows of the weights.
        **overrides: Settings by name, in place of those of ``settings``: the fields of ``DetectorSettings``.

    Raises:
        CheckpointError: where the weights cannot be loaded, or do not fit.
        ValueError: a setting, or the number of classes, out of its limits; or a metric of masks for a detector that
            finds boxes alone.
        TypeError: one of another type, or a setting that does not exist.

    Example:
        >>> model = Detector(num_classes=4, name="fcos", backbone="small")
    """

    settings_type: ClassVar[type[DetectorSettings]] = DetectorSettings

    def __init__(
        self,
        num_classes: int = 81,
        settings: DetectorSettings | None = None,
        *,
        metric: "CocoMeanAveragePrecision | None" = None,
        load_weights: bool = True,
        labels: Mapping[int, int | None] | None = None,
        category_names: Sequence[str] | None = None,
        **overrides: object,
    ) -> None:
        super().__init__(num_classes, metric=metric, labels=labels)
        given = self.settings_type() if settings is None else settings
        self.settings = settings_from(DetectorSettings, given, overrides)
        if not isinstance(self.settings, self.settings_type) and self.settings.name != self.settings_type.name:
            expected = f"{self.settings_type.name!r} for {type(self).__name__}"
            raise ValueError(f"name: expected {expected}, got {self.settings.name!r}; give it to Detector")
        if metric is not None and not self.settings.has_masks and "segm" in metric.iou_types:
            raise ValueError(f"metric: expected iou_types=('bbox',), as {self.settings.title} finds boxes alone")
        self.module = build_detector(num_classes, self.settings)
        self.loss_names = LOSSES if isinstance(self.module, GeneralizedRCNN) else ONE_STAGE_LOSSES
        if load_weights:
            self.loaded = load_pretrained(self.module, self.settings, category_names)

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
        masks = self.settings.has_masks
        check_targets(images, targets, self.num_classes, masks=masks)
        losses: dict[str, Tensor] = self.module(
            float_images(images), [target_without_crowds(target, masks=masks) for target in targets]
        )
        return losses

    def detect(self, images: Tensor | Sequence[Tensor]) -> list[DetectionDict]:
        """The detections in each image with the model's own labels, in evaluation mode; images as in a batch."""
        return detect(self.module, images)


class MaskRCNN(Detector):
    """Torchvision's Mask R-CNN for Composer's ``Trainer``: a ``Detector`` that finds boxes and masks.

    Arguments and errors are those of ``Detector``; the settings are ``MaskRCNNSettings``.

    Example:
        >>> model = MaskRCNN(num_classes=4, backbone="small")
    """

    module: TorchvisionMaskRCNN
    settings_type = MaskRCNNSettings
