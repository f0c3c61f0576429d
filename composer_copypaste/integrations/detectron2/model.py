"""``Detectron2Model``: a Mask R-CNN of Detectron2 as a Composer model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from pycocotools import mask as coco_masks
from torch import Tensor, nn

from composer_copypaste.distributed import number_of_processes
from composer_copypaste.errors import RecipeError
from composer_copypaste.integrations.composer.model import Batch, InstanceSegmentationModel
from composer_copypaste.integrations.detectron2.config import EXAMPLE, Overrides, open_config
from composer_copypaste.integrations.detectron2.inputs import model_inputs, training_inputs
from composer_copypaste.integrations.detectron2.weights import load_weights_of, tensors_of_model, weights_source
from composer_copypaste.models.inputs import check_targets
from composer_copypaste.models.postprocess import DetectionDict
from composer_copypaste.models.weight_files import StateDict

if TYPE_CHECKING:
    from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

LOSSES = {
    "classifier": "loss_cls",
    "box": "loss_box_reg",
    "mask": "loss_mask",
    "objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_loc",
}
"""The parts of the loss by the names that ``MaskRCNN`` logs them with; parts of other heads keep Detectron2's names."""


class Detectron2Model(InstanceSegmentationModel):
    """A Mask R-CNN of Detectron2 for Composer's ``Trainer``.

    A batch is that of ``MaskRCNN``: RGB images and torchvision's targets, on which ``CopyPaste`` and
    ``LargeScaleJitter`` work before the model gets them. On the device, images get the configuration's order of colors
    and size, masks become ``BitMasks``, and labels count from 0. Masks and boxes are detected at the size that an image
    has in the batch, as Detectron2's evaluator scores them. Of the configuration, the model, the sizes of images and
    the weights are used; data, augmentation and schedule are Composer's.

    Args:
        config: A name of Detectron2's model zoo, also of lazy configurations ("new_baselines/
            mask_rcnn_R_50_FPN_100ep_LSJ.py"); a .yaml or .py file; or a configuration, which is not modified.
        num_classes: The number of classes, the background included; None: as the configuration says.
        overrides: Keys of the configuration and their values: a mapping, or as on Detectron2's command line, such as
            ``["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 128]`` or ``["model.roi_heads.batch_size_per_image=128"]``.
        weights: "config": those that the configuration names (of the zoo's, mostly a backbone's, trained on ImageNet);
            "coco": those that the zoo has trained with the named configuration; "none"; or a file. What is not on this
            machine is downloaded once.
        resize_training: Whether training images are resized as the configuration says; False for those that
            large-scale jitter has resized.
        detections_per_image: At most this many objects are detected; None: as the configuration says.
        box_score_thresh: Detections with a lower score are left out; None: as the configuration says.
        metric: Scores the detections of evaluations; its scalars are what Composer logs.
        load_weights: False builds the same layers without weights, for a checkpoint that replaces them.
        labels: The label that detections of each class get, where the model's classes are not the data's categories;
            None for classes whose detections are left out.

    Raises:
        CheckpointError: where the weights cannot be obtained, or do not fit.
        RecipeError: where there is no such configuration or key, or it describes no Mask R-CNN.
        ValueError: a number of classes out of its limits.

    Example:
        >>> model = Detectron2Model("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", 4, weights="coco")
    """

    module: GeneralizedRCNN
    loss_names = LOSSES

    def __init__(  # noqa: PLR0913 - by name, and each of its own kind
        self,
        config: str | Path | CfgNode | DictConfig = EXAMPLE,
        num_classes: int | None = None,
        *,
        overrides: Overrides = (),
        weights: str | Path = "config",
        resize_training: bool = True,
        detections_per_image: int | None = None,
        box_score_thresh: float | None = None,
        metric: "CocoMeanAveragePrecision | None" = None,
        load_weights: bool = True,
        labels: Mapping[int, int | None] | None = None,
    ) -> None:
        opened = open_config(config, overrides)
        super().__init__(opened.num_classes + 1 if num_classes is None else num_classes, metric=metric, labels=labels)
        opened.num_classes = self.num_classes - 1
        opened.limit_detections(detections_per_image, box_score_thresh)
        self.config = opened.cfg
        """The configuration, with all changes."""
        self._input_format = opened.input_format
        self._sizes = {training: opened.resizing(training=training) for training in (True, False)}
        if not resize_training:
            self._sizes[True] = None
        self.module = _without_synchronisation(opened.build())
        check_masks(self.module)
        if load_weights:
            self.loaded = load_weights_of(self.module, weights_source(str(weights), config, opened.weights))

    @staticmethod
    def tensors_of_content(content: object, path: Path) -> StateDict:
        """The tensors of ``module`` in a file's content; ``path`` is used in messages."""
        return tensors_of_model(content, path)

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[DetectionDict]:
        """In training, Detectron2's dict of losses; else the detections. Errors are those of ``MaskRCNN``."""
        if not self.training:
            return self.eval_forward(batch)
        images, targets = batch
        check_targets(images, targets, self.num_classes)
        inputs = training_inputs(images, targets, self._input_format, self._sizes[True])
        with EventStorage():  # its heads note their numbers in one
            losses: dict[str, Tensor] = self.module(inputs)
        return losses

    @torch.no_grad()
    def detect(self, images: Tensor | Sequence[Tensor]) -> list[DetectionDict]:
        """The detections in each image with the model's own labels, in evaluation mode; images as in a batch."""
        inputs = model_inputs(images, self._input_format, self._sizes[False])
        return [detection_dict(found["instances"]) for found in self.module(inputs)]


def detection_dict(found: Instances) -> DetectionDict:
    """Detectron2's detections in an image as ours, with labels from 1 and encoded masks."""
    masks = np.asfortranarray(found.pred_masks.cpu().numpy().transpose(1, 2, 0), dtype=np.uint8)
    return DetectionDict(
        boxes=found.pred_boxes.tensor.float().cpu(),
        scores=found.scores.float().cpu(),
        labels=found.pred_classes.long().cpu() + 1,
        rles=coco_masks.encode(masks),
    )


def check_masks(module: nn.Module) -> None:
    """Raise ``RecipeError`` where a model is no Mask R-CNN."""
    heads = getattr(module, "roi_heads", None)
    if not isinstance(module, GeneralizedRCNN) or not getattr(heads, "mask_on", False):
        raise RecipeError(
            f"detectron2: expected the configuration of a Mask R-CNN, such as {EXAMPLE}, got {type(module).__name__}"
            + (" without masks (MODEL.MASK_ON)" if isinstance(module, GeneralizedRCNN) else "")
        )


def _without_synchronisation(module: nn.Module) -> nn.Module:
    """The module with plain batch normalisation in place of torch's synchronised one, if there is only one process.

    They compute the same then, but the synchronised one refuses to train on a CPU.
    """
    if number_of_processes() > 1:
        return module
    for name, child in module.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain)
        else:
            _without_synchronisation(child)
    return module
