"""A Detectron2 model as a recipe describes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from composer_copypaste.errors import CheckpointError
from composer_copypaste.integrations.detectron2.config import open_config
from composer_copypaste.integrations.detectron2.model import Detectron2Model
from composer_copypaste.integrations.detectron2.weights import (
    check_source,
    is_download,
    local_file,
    web_address,
    weights_source,
)
from composer_copypaste.recipes.schema import ModelSettings

if TYPE_CHECKING:
    from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision


def build_detectron2_model(
    settings: ModelSettings,
    num_classes: int,
    *,
    metric: "CocoMeanAveragePrecision | None" = None,
    load_weights: bool = True,
    labels: Mapping[int, int | None] | None = None,
) -> Detectron2Model:
    """The model of a recipe's section; arguments and errors are those of ``Detectron2Model``."""
    return Detectron2Model(
        str(settings.detectron2),
        num_classes,
        overrides=settings.overrides,
        weights=settings.weights,
        resize_training=settings.resize_training,
        detections_per_image=settings.detections_per_image,
        box_score_thresh=settings.box_score_thresh,
        metric=metric,
        load_weights=load_weights,
        labels=labels,
    )


def check_detectron2_settings(settings: ModelSettings) -> None:
    """Raise ``RecipeError`` or ``CheckpointError`` where the configuration, or its weights, do not exist."""
    opened = open_config(str(settings.detectron2), settings.overrides)
    check_source(weights_source(settings.weights, settings.detectron2, opened.weights), settings.weights)


def describe_download(settings: ModelSettings) -> str | None:
    """The download that the weights need, in words; None where they need none."""
    opened = open_config(str(settings.detectron2), settings.overrides)
    source = weights_source(settings.weights, settings.detectron2, opened.weights)
    return f"to be downloaded from {web_address(source)}" if is_download(source) else None


def weights_file(settings: ModelSettings) -> Path:
    """The file of the recipe's weights, downloaded if need be.

    Raises:
        CheckpointError: where there are none, or they cannot be obtained.
    """
    opened = open_config(str(settings.detectron2), settings.overrides)
    source = weights_source(settings.weights, settings.detectron2, opened.weights)
    if not source:
        raise CheckpointError(f"weights: expected coco or a file, which can be evaluated, got {settings.weights!r}")
    check_source(source, settings.weights)
    return local_file(source)


def resized_sides(settings: ModelSettings) -> tuple[int, int] | None:
    """The longest shorter side, in pixels, of a training image, and the most of its longer side; None: not resized."""
    resizing = open_config(str(settings.detectron2), settings.overrides).resizing(training=True)
    return None if resizing is None else (max(resizing.sides), resizing.max_size)
