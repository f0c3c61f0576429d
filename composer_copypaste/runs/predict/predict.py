"""``predict``: finds objects in images that Python has, or in files, and gives them back."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.image_inputs import find_images, with_headers
from composer_copypaste.errors import DataError, format_problems
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.models.class_rows import class_count
from composer_copypaste.models.detectors import OF_TORCHVISION
from composer_copypaste.models.flip import with_flips
from composer_copypaste.models.postprocess import detect as detect_objects
from composer_copypaste.models.prediction import Prediction, prediction_of
from composer_copypaste.models.predictor import (
    Predictor,
    categories_of_labels,
    detect_by_itself,
    match_categories,
    predictor_of_module,
)
from composer_copypaste.models.tiles import with_tiles
from composer_copypaste.runs.predict.images import batches_read_ahead
from composer_copypaste.runs.predictor import load_predictor
from composer_copypaste.settings import PredictSettings

Model = Predictor | Path | str | nn.Module
ImageLike = Path | str | Image.Image | ndarray | Tensor


def predict(  # noqa: PLR0913 - by name, and each of its own kind
    model: Model,
    images: ImageLike | Sequence[ImageLike],
    *,
    min_score: float = 0.0,
    batch_size: int | None = None,
    tiles: int | None = None,
    overlap: float = PredictSettings.overlap,
    tta: Literal["flip"] | None = None,
    categories: Sequence[Category] | None = None,
) -> list[Prediction]:
    """The objects that a model finds in each image, in the order of the images.

    Args:
        model: the folder of a run, a checkpoint in it or an .onnx file; what ``load_predictor`` gave; or a
            ``Detector``, a ``Detectron2Model`` or torchvision's model, which runs where its weights are.
        images: files, folders, patterns such as ``photos/*.jpg``; images of PIL; uint8 arrays (height, width, 3) or
            tensors (3, height, width), RGB; or a list of any of them. cv2's images are BGR: give ``image[..., ::-1]``.
        min_score: objects with a lower score are left out; the model has a limit of its own.
        batch_size: number of images, or of tiles, that are given to the model at once; None: as in its evaluations.
        tiles: side in pixels of the tiles that larger images are cut into; None: images are not cut.
        overlap: share of a tile's side by which neighboring tiles overlap, at least.
        tta: "flip": objects are also found in each mirror image, which takes twice the time.
        categories: the categories of a module's labels 1, 2, ...; by default those that its metric scores, or else the
            labels themselves.

    Raises:
        DataError: where an image cannot be read; nothing is given back then.
        TypeError: for images of another type or form.
        UserError: where the model cannot be used.
    """
    settings = PredictSettings(min_score=min_score, batch_size=batch_size, tiles=tiles, overlap=overlap, tta=tta)
    predictor = _as_predictor(model, categories)
    settings = replace(settings, batch_size=batch_size or predictor.batch_size)
    run = with_options(predictor, settings)
    found = []
    for paths, batch in _batches(images, predictor, settings):
        for pixels, path, detection in zip(batch, paths, run.detect(batch), strict=True):
            size = pixels.shape[1], pixels.shape[2]
            found.append(prediction_of(detection, size, predictor.categories, min_score=min_score, path=path))
    return found


def with_options(predictor: Predictor, settings: PredictSettings) -> Predictor:
    """The predictor with mirror images and tiles, where the settings ask for them."""
    if settings.tta == "flip":
        predictor = with_flips(predictor)
    if settings.tiles is not None:
        predictor = with_tiles(predictor, settings.tiles, settings.overlap, settings.batch_size or predictor.batch_size)
    return predictor


def images_at_once(predictor: Predictor, settings: PredictSettings) -> int:
    """The number of images in a batch: one where each is cut into a batch of tiles."""
    return 1 if settings.tiles is not None else settings.batch_size or predictor.batch_size


def _as_predictor(model: Model, categories: Sequence[Category] | None) -> Predictor:
    if isinstance(model, Predictor):
        return model
    if isinstance(model, Path | str):
        return load_predictor(model)
    module: Any = getattr(model, "module", model)  # of MaskRCNN, Composer's form of it
    is_of_torchvision = isinstance(module, OF_TORCHVISION)
    if not is_of_torchvision and not hasattr(model, "detect"):  # of Detectron2Model
        raise TypeError(f"model: expected a detector, a Predictor or a path, got {type(model).__name__}")
    run, detect = (module, detect_objects) if is_of_torchvision else (model, detect_by_itself)
    num_classes: int = class_count(module.state_dict()) if is_of_torchvision else run.num_classes  # type: ignore[assignment]
    metric = getattr(model, "metric", None)
    if categories is None and isinstance(metric, CocoMeanAveragePrecision):
        categories = metric.categories
    if categories is None:
        return predictor_of_module(run, categories_of_labels(num_classes), detect=detect)
    matched = match_categories(categories, num_classes)
    if matched is None:
        raise ValueError(
            f"categories: expected one for each of the model's {num_classes - 1} labels, or ids below {num_classes}, "
            f"got {len(categories)}"
        )
    return predictor_of_module(run, matched, detect=detect)


# ---- images

_Batch = tuple[list[Path | None], list[Tensor]]


def _batches(
    images: ImageLike | Sequence[ImageLike], predictor: Predictor, settings: PredictSettings
) -> Iterator[_Batch]:
    """The images in batches, each with its file, if it has one."""
    given = images if isinstance(images, list | tuple) else [images]
    step = images_at_once(predictor, settings)
    if given and all(isinstance(image, Path | str) for image in given):
        yield from _batches_of_files([Path(str(path)) for path in given], predictor, step)
        return
    pixels = [_as_pixels(image, f"images[{number}]") for number, image in enumerate(given)]
    for start in range(0, len(pixels), step):
        batch = pixels[start : start + step]
        yield [None] * len(batch), batch


def _batches_of_files(paths: Sequence[Path], predictor: Predictor, step: int) -> Iterator[_Batch]:
    inputs = with_headers(find_images(paths), predictor.image_settings).images
    problems = [f"{image.path}: {image.problem}" for image in inputs if image.problem is not None]
    if problems:
        raise DataError(problems[0] if len(problems) == 1 else format_problems("images", problems))
    batches = (inputs[start : start + step] for start in range(0, len(inputs), step))
    for batch in batches_read_ahead(batches, predictor.image_settings):
        for read in batch:
            if read.problem is not None:
                raise DataError(f"{read.image.path}: {read.problem}")
        yield [read.image.path for read in batch], [read.pixels for read in batch if read.pixels is not None]


def _as_pixels(image: ImageLike, name: str) -> UInt8[Tensor, "3 h w"]:
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if isinstance(image, ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return image.cpu()
    form = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, ndarray | Tensor) else repr(image)
    raise TypeError(
        f"{name}: expected RGB as a uint8 array (height, width, 3) or tensor (3, height, width), an image of PIL, or "
        f"only paths, got {form}"
    )
