"""Tell the detectors that torchvision and Detectron2 publish by the tensors of a state dict."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from composer_copypaste.errors import either
from composer_copypaste.models.class_rows import class_count, detector_of
from composer_copypaste.models.detectors import build_detector
from composer_copypaste.models.detectron2_weights import known_style
from composer_copypaste.models.predictor import COCO_NAMES
from composer_copypaste.models.weight_files import StateDict, read_file_of_weights, tensors_of_content
from composer_copypaste.models.weights import COCO_MODELS
from composer_copypaste.settings import DetectorName, DetectorSettings

COUNTER = "num_batches_tracked"
"""Ends the names of tensors that only normalisation has which was trained; frozen normalisation lacks them."""


def read_known_model(path: Path) -> tuple[str, DetectorSettings] | None:
    """The name and the settings of the model whose state dict a file holds; None: it holds another one.

    A Composer checkpoint is none: its run may have had other sizes of images or anchors, which weights do not show.

    Raises:
        CheckpointError: where the file cannot be read. No code in the file is run.
    """
    if path.suffix == ".safetensors":
        return None
    content = read_file_of_weights(path)
    if isinstance(content, Mapping) and isinstance(content.get("state"), Mapping):
        return None
    return recognise_model(tensors_of_content(content, path))


def recognise_model(state: StateDict) -> tuple[str, DetectorSettings] | None:
    """The name and the settings of the published model that has exactly these tensors; None: there is none."""
    classes = class_count(state)
    if classes is None:
        return None
    if (detectron2 := known_style(state)) is not None:
        return detectron2
    norm = "batch" if any(name.endswith(COUNTER) for name in state) else "frozen_batch"
    shapes = _shapes(state)
    for (detector, backbone), names in COCO_MODELS.items():
        if detector == detector_of(state) and shapes == _shapes_of_model(detector, backbone, classes):
            # published weights of the first version were trained without the epsilon of today's normalisation
            weights = "coco" if norm == "frozen_batch" and classes == len(COCO_NAMES) else "none"
            settings = DetectorSettings(name=detector, backbone=backbone, weights=weights, norm=norm)  # type: ignore[arg-type]
            return f"torchvision's {either(names)}", settings
    return None


def recipe_of_model(settings: DetectorSettings) -> list[str]:
    """The keys of a recipe, with their values, that say how a published model is built."""
    own = {key: getattr(settings, key) for key in ("name", "backbone", "weights", "norm", "style")}
    own["trainable_backbone_layers"] = None  # nothing is trained
    return [f"model.{key}={'null' if value is None else value}" for key, value in own.items()]


@cache
def _shapes_of_model(detector: DetectorName, backbone: str, classes: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return _shapes(build_detector(classes, DetectorSettings(name=detector, backbone=backbone)).state_dict())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, whatever the normalisation."""
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}
