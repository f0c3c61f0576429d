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
    """The detector that the settings name, with random weights; ``num_classes`` includes the background."""
    return BUILDERS[settings.name](num_classes, settings)
