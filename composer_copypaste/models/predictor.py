"""``Predictor``: what finds objects in images, whatever runs it: a torch model here, or an exported file."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.errors import DataError, as_json, first_few, warn_of_data
from composer_copypaste.models.postprocess import DetectionDict, detect
from composer_copypaste.settings import ImageSettings

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

    image_settings: ImageSettings = field(default_factory=ImageSettings)
    """How image files are read for it: as those that it is trained on."""

    batch_size: int = 1
    """The number of images that are given to it at once, unless the user says otherwise."""


def predictor_of_module(
    module: nn.Module,
    categories: Mapping[int, Category],
    *,
    precision: torch.dtype | None = None,
    detect: Callable[[Any, Sequence[Tensor]], list[DetectionDict]] = detect,
) -> Predictor:
    """A predictor that runs a Mask R-CNN on the device where its weights are.

    The module is put into evaluation mode for each batch and back into its own mode after it.

    Args:
        module: as ``build_mask_rcnn`` makes it.
        categories: the category of each label.
        precision: half precision for autocast; None: none, all is computed as the weights are.
        detect: finds the objects in images, with a module of another kind.
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


def detect_by_itself(module: Any, images: Sequence[Tensor]) -> list[DetectionDict]:
    """The detections of a module that has a method ``detect``, such as ``Detectron2Model``."""
    found: list[DetectionDict] = module.detect(images)
    return found


def _autocast(device: torch.device, precision: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if precision is None else torch.autocast(device.type, precision)


def categories_of_labels(num_classes: int) -> dict[int, Category]:
    """Categories for a model of which only the number of classes is known: each label is the id and the name."""
    return {label: Category(label, str(label)) for label in range(1, num_classes)}


def coco_labels(num_classes: int, *, is_detectron2_style: bool) -> dict[int, str] | None:
    """The name of each label in published weights of COCO's 80 categories; None for another number of classes.

    Torchvision's have 91 classes, with the ids as labels, those of Detectron2 have 81.
    """
    names = {id_: name for id_, name in enumerate(COCO_NAMES) if id_ and name != "N/A"}
    if num_classes == len(COCO_NAMES):
        return names
    return dict(enumerate(names.values(), start=1)) if is_detectron2_style and num_classes == len(names) + 1 else None


def match_categories(
    categories: Sequence[Category], num_classes: int, *, is_detectron2_style: bool = False
) -> dict[int, Category] | None:
    """The category of each label of a model with ``num_classes`` classes; None where the numbers do not fit.

    Labels 1, 2, ... are the categories in their order. A model with more classes has the ids themselves as labels.
    Published models of COCO's 80 categories, of 91 classes or, of Detectron2's, of 81, are matched by name, whatever
    the ids are here.
    """
    published = coco_labels(num_classes, is_detectron2_style=is_detectron2_style) or {}
    labels = {name: label for label, name in published.items()}
    if is_detectron2_style and labels and all(category.name in labels for category in categories):
        return {labels[category.name]: category for category in categories}
    if len(categories) == num_classes - 1:
        return dict(enumerate(categories, start=1))
    if labels and all(category.name in labels for category in categories):
        return {labels[category.name]: category for category in categories}
    by_id = {category.id: category for category in categories}
    return by_id if all(1 <= id_ < num_classes for id_ in by_id) else None


def with_ids_of(predictor: Predictor, categories: Sequence[Category], source: str) -> Predictor:
    """The predictor with the ids that the categories have in another file; ``source`` names that in messages.

    They are matched by name, if any name is the same, else by id. Those that the other file lacks are left out.

    Raises:
        DataError: where neither names nor ids are the same.
    """
    own, there = predictor.categories, {category.name: category for category in categories}
    if not there or all(there.get(category.name) == category for category in own.values()):
        return predictor
    matched = {label: there[category.name] for label, category in own.items() if category.name in there}
    if not matched:
        by_id = {category.id: category for category in categories}
        matched = {label: by_id[category.id] for label, category in own.items() if category.id in by_id}
    lost = [as_json(category.name) for label, category in own.items() if label not in matched]
    if not matched:
        raise DataError(
            f"{source}: its categories, {first_few(list(there))}, have neither the names nor the ids of the model's, "
            f"{first_few(lost)}; give the names of the model's categories, or a file without any"
        )
    changed = [f"{own[label].id} is {new.id} there" for label, new in matched.items() if own[label].id != new.id]
    if lost or changed:
        warn_of_data(
            f"{source}: category ids of results are those of this file"
            + (f": {first_few(changed)}" if changed else "")
            + (f"; left out, as it lacks them: {first_few(lost)}" if lost else "")
        )
    return replace(predictor, categories=matched)
