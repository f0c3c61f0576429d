"""``Predictor``: what finds objects in images, whatever runs it: a torch model here, or an exported file."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.models.postprocess import DetectionDict, detect

COCO_NAMES: list[str] = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
"""The names of torchvision's 91 classes: the background, 80 categories at COCO's ids, and "N/A" between them."""

Detect = Callable[[Sequence[UInt8[Tensor, "3 _h _w"]]], list[DetectionDict]]
"""Finds the objects in each of several images: RGB, uint8, on the host, of any sizes."""


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to find objects, and what its labels stand for."""

    detect: Detect = field(repr=False)
    """Gives the detections of each image, at its own size, on the host."""

    categories: Mapping[int, Category]
    """The category of each label, with the id that it has in the data set. A label that is missing here stands for
    none: what the model finds with it is left out."""


def predictor_of_module(
    module: TorchvisionMaskRCNN, categories: Mapping[int, Category], *, precision: torch.dtype | None = None
) -> Predictor:
    """A predictor that runs a Mask R-CNN on the device where its weights are.

    The module is put into evaluation mode for each batch and back into its own mode after it.

    Args:
        module: as ``build_mask_rcnn`` makes it.
        categories: the category of each label.
        precision: half precision for autocast; None: none, all is computed as the weights are.
    """

    def find(images: Sequence[Tensor]) -> list[DetectionDict]:
        device = next(module.parameters()).device
        was_training = module.training
        module.eval()
        try:
            with _autocast(device, precision):
                return detect(module, [image.to(device) for image in images])
        finally:
            module.train(was_training)

    return Predictor(find, categories)


def _autocast(device: torch.device, precision: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if precision is None else torch.autocast(device.type, precision)


def categories_of_labels(num_classes: int) -> dict[int, Category]:
    """Categories for a model of which only the number of classes is known: each label is the id and the name."""
    return {label: Category(label, str(label)) for label in range(1, num_classes)}


def match_categories(categories: Sequence[Category], num_classes: int) -> dict[int, Category] | None:
    """The category of each label of a model with ``num_classes`` classes; None where the numbers do not fit.

    Labels 1, 2, ... are the categories in their order. A model with more classes has the ids themselves as labels.
    Torchvision's models of COCO's 80 categories have 91 classes, which are matched by name, whatever the ids are here.
    """
    if len(categories) == num_classes - 1:
        return dict(enumerate(categories, start=1))
    if num_classes == len(COCO_NAMES) and all(category.name in COCO_NAMES for category in categories):
        return {COCO_NAMES.index(category.name): category for category in categories}
    by_id = {category.id: category for category in categories}
    return by_id if all(1 <= id_ < num_classes for id_ in by_id) else None
