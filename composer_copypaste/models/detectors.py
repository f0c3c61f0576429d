"""Builds the detector that settings name, without any weights."""

from collections.abc import Callable, Mapping

from torch import nn
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from composer_copypaste.models.mask_rcnn import build_faster_rcnn, build_mask_rcnn
from composer_copypaste.models.one_stage import build_fcos, build_retinanet
from composer_copypaste.settings import DetectorName, DetectorSettings

OF_TORCHVISION = (TorchvisionFasterRCNN, TorchvisionRetinaNet, TorchvisionFCOS)
"""The classes of torchvision's detectors; its Mask R-CNN is a Faster R-CNN."""

BUILDERS: Mapping[DetectorName, Callable[[int, DetectorSettings], nn.Module]] = {
    "mask_rcnn": build_mask_rcnn,
    "faster_rcnn": build_faster_rcnn,
    "retinanet": build_retinanet,
    "fcos": build_fcos,
}


def build_detector(num_classes: int, settings: DetectorSettings) -> nn.Module:
    """Torchvision's detector that the settings name, as a plain module with random weights, for loops without Composer.

    It takes images and targets as torchvision's detectors do, and masks also as :class:`CompactMasks`; its parameters
    have torchvision's names.

    Args:
        num_classes: number of labels, the background included.
        settings: what is built; ``weights`` are not loaded.

    Example:
        >>> model = build_detector(5, DetectorSettings(name="mask_rcnn", backbone="small"))
    """
    return BUILDERS[settings.name](num_classes, settings)
