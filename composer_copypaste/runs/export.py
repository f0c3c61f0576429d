"""Write a detector as an ONNX or TorchScript file, which is kept only if it finds what the model finds."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.image_inputs import find_images
from composer_copypaste.data.images import read_image, size_as_shown
from composer_copypaste.errors import CheckpointError, DataError, ExportError, OutputError, RecipeError, count_noun
from composer_copypaste.files import atomic_write
from composer_copypaste.integrations.onnx import OnnxDetector, check_onnx_installed, write_onnx
from composer_copypaste.models.class_rows import class_count, detector_of
from composer_copypaste.models.detectors import OF_TORCHVISION
from composer_copypaste.models.detectron2_style import draws_between_pixels
from composer_copypaste.models.exported import Differences, ExportedOutputs, ExportMetadata, largest_differences
from composer_copypaste.models.postprocess import detect_raw
from composer_copypaste.models.single_image import SingleImage, single_image
from composer_copypaste.models.torchscript import TorchScriptDetector, write_torchscript
from composer_copypaste.progress import with_progress
from composer_copypaste.recipes.schema import DataSettings
from composer_copypaste.runs.data import coco_files, evaluation_data
from composer_copypaste.runs.predictor import load_model
from composer_copypaste.settings import DETECTOR_TITLES, ExportSettings, ImageSettings, settings_from

Run = Callable[[Tensor], ExportedOutputs]
"""Runs an exported file on an image."""


def export_onnx(
    model: nn.Module,
    path: Path | str,
    *,
    categories: Sequence[Category | str] | Mapping[int, Category],
    images: Sequence[Tensor],
    settings: ExportSettings | None = None,
    **overrides: object,
) -> Differences:
    """Write a detector as an ONNX file, with all that comes before and after it, and check it on some images.

    The file takes an RGB image, uint8 (height, width, 3), of any size, as Pillow decodes it. It gives boxes (x1, y1,
    x2, y2) in pixels of that image, scores, labels and, of Mask R-CNN, masks. ``load_predictor`` runs it without a
    torch model.

    Args:
        model: ``Detector``, ``MaskRCNN`` or torchvision's model in it; it is not modified.
        path: the file, which must not be there yet.
        categories: the names or categories of labels 1, 2, ..., or the category of each label. Names have their labels
            as ids. They are written into the file.
        images: real images that the file is checked on with onnxruntime, RGB, uint8, on the host; also the first of
            them turned, reduced and cut is taken.
        settings: the form of masks, and how large differences may be; or give these by name, as ``overrides``.
        overrides: the fields of ``ExportSettings``.

    Returns:
        The largest differences between what the model and the file find.

    Raises:
        ExportError: where they are larger than the settings allow; the file is not kept.
        OutputError: where the file is there already.
        MissingPackageError: where onnx or onnxruntime is missing.
        TypeError: where the model or an image is of another type.
        ValueError: where there is not a category for each label.

    Example:
        >>> differences = export_onnx(model, "model.onnx", categories=["disc", "star"], images=images)
    """
    chosen = settings_from(ExportSettings, settings, overrides)
    return _export_model(model, Path(path), categories, images, chosen, _write_onnx)


def export_torchscript(
    model: nn.Module,
    path: Path | str,
    *,
    categories: Sequence[Category | str] | Mapping[int, Category],
    images: Sequence[Tensor],
    settings: ExportSettings | None = None,
    **overrides: object,
) -> Differences:
    """Write a detector as a TorchScript file; arguments and results are those of ``export_onnx``.

    ``torch.jit.load`` reads it, after ``import torchvision``; C++ programs link torchvision's operators. It takes the
    image as a tensor, uint8 (height, width, 3), and gives a tuple (boxes, scores, labels, masks), without masks where
    the detector finds boxes alone.
    """
    chosen = settings_from(ExportSettings, settings, overrides)
    return _export_model(model, Path(path), categories, images, chosen, _write_torchscript)


Write = Callable[[SingleImage, Tensor, ExportMetadata, Path], Run]
"""Writes a module to a file, with an image as an example, and gives what runs the file."""


def _write_onnx(module: SingleImage, example: Tensor, metadata: ExportMetadata, file: Path) -> Run:
    write_onnx(module, example.permute(1, 2, 0).contiguous(), metadata, file)
    return OnnxDetector(file)


def _write_torchscript(module: SingleImage, example: Tensor, metadata: ExportMetadata, file: Path) -> Run:
    write_torchscript(module, metadata, file)
    return TorchScriptDetector(file)


FORMATS: Mapping[str, Write] = {".onnx": _write_onnx, ".torchscript": _write_torchscript}
"""What writes a file, by the end of its name."""


def _export_model(
    model: nn.Module,
    path: Path,
    categories: Sequence[Category | str] | Mapping[int, Category],
    images: Sequence[Tensor],
    settings: ExportSettings,
    write: Write,
) -> Differences:
    module = torchvision_module(model)
    metadata = describe_model(module, categories_by_label(categories, module), ImageSettings(), settings)
    return _export(module, path, metadata, images, settings, write)


def _export(
    module: nn.Module,
    path: Path,
    metadata: ExportMetadata,
    images: Sequence[Tensor],
    settings: ExportSettings,
    write: Write,
) -> Differences:
    if write is _write_onnx:
        check_onnx_installed()
    _check_images(images)
    check_new_file(path)
    checked, pasted = [*images, *variants(images[0])], metadata.masks == "pasted"
    between_pixels = metadata.style == "detectron2"
    reference = copy.deepcopy(module).cpu().float().eval()
    expected = [detect_raw(reference, [image])[0] for image in checked]
    if not any(len(found["boxes"]) for found in expected):
        raise ExportError(
            f"{path}: not written, as the model finds nothing in {count_noun(len(checked), 'image')}, so that nothing "
            "can be compared; give images with objects, or lower its box_score_thresh"
        )
    single = single_image(reference, paste=pasted)
    with atomic_write(path) as unfinished, _errors_of_engines(path, unfinished):
        run = write(single, images[0], metadata, unfinished)
        run(torch.zeros_like(images[0]))  # must run too; all places of it are alike, so that rounding decides
        found = (run(image) for image in with_progress(checked, "checking", "images", len(checked)))
        sizes = ((image.shape[1], image.shape[2]) for image in checked)
        pairs = zip(expected, found, sizes, strict=True)
        differences = largest_differences(pairs, pasted=pasted, between_pixels=between_pixels)
        if beyond := differences.beyond(settings):
            raise ExportError(f"{path}: not kept, as it does not find what the model finds: {'; '.join(beyond)}")
    return differences


@contextmanager
def _errors_of_engines(path: Path, unfinished: Path) -> Iterator[None]:
    """Turn into an ``ExportError`` what torch raises for a model that it cannot trace or compile, or onnxruntime."""
    try:
        yield
    except (RuntimeError, CheckpointError) as error:  # of which torch's errors of both are
        lines = [line.strip() for line in str(error).replace(f"{unfinished}: ", "").splitlines() if line.strip()]
        raise ExportError(
            f"{path}: not kept, as this model cannot be written in this format, or run: "
            f"{lines[0] if lines else type(error).__name__}"
        ) from error


def check_new_file(path: Path) -> None:
    """Raise ``OutputError`` where a file cannot be written to this path without loss."""
    if path.exists():
        raise OutputError(f"{path}: is there already; name another file, or remove it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it, or name another file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: {path.parent} cannot be written to; make it writable, or name another file")


def variants(image: UInt8[Tensor, "3 h w"]) -> list[UInt8[Tensor, "3 _h _w"]]:
    """An image of other sizes: turned by a quarter, every third pixel, the left half."""
    return [image.transpose(1, 2), image[:, ::3, ::3], image[:, :, : (image.shape[2] + 1) // 2]]


def torchvision_module(model: nn.Module) -> nn.Module:
    """Torchvision's model, or that in ``Detector`` or ``MaskRCNN``; ``TypeError`` for another."""
    module = getattr(model, "module", model)
    if not isinstance(module, OF_TORCHVISION):
        expected = "expected Detector, MaskRCNN or torchvision's model in it"
        raise TypeError(f"model: {expected}, got {type(model).__name__}")
    return module


def describe_model(
    module: nn.Module, categories: Mapping[int, Category], image_settings: ImageSettings, settings: ExportSettings
) -> ExportMetadata:
    """What the file says of itself.

    Raises:
        ExportError: where a form of masks is given for a detector that finds none.
    """
    detector = detector_of(module.state_dict()) or "mask_rcnn"
    style: Literal["torchvision", "detectron2"] = "detectron2" if draws_between_pixels(module) else "torchvision"
    if detector == "mask_rcnn":
        return ExportMetadata(categories, settings.masks or "crops", image_settings, style, detector)
    if settings.masks is not None:
        raise ExportError(
            f"masks: expected none, as {DETECTOR_TITLES[detector]} finds boxes alone, got {settings.masks!r}"
        )
    return ExportMetadata(categories, None, image_settings, style, detector)


def _check_images(images: object) -> None:
    if not isinstance(images, Sequence) or not images:
        raise DataError("images: expected at least one to check the exported file on, in a list, got none")
    for number, image in enumerate(images):
        if not (isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3):
            found = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
            raise TypeError(f"images[{number}]: expected uint8 (3, height, width), RGB, as a tensor, got {found}")


def categories_by_label(
    categories: Sequence[Category | str] | Mapping[int, Category], module: nn.Module
) -> dict[int, Category]:
    """The category of each label, with the label as its id where it is given by name."""
    if isinstance(categories, Mapping):
        return dict(categories)
    labels = (class_count(module.state_dict()) or 1) - 1
    if len(categories) != labels:
        raise ValueError(f"categories: expected {labels}, one for each label, got {len(categories)}")
    return {
        label: Category(label, category) if isinstance(category, str) else category
        for label, category in enumerate(categories, start=1)
    }


# ---- from a run

CHECKED_IMAGES = 8
"""Number of images that an exported file is checked on, spread over those that there are."""


def export_run(  # noqa: PLR0913 - how the model is loaded, and how it is exported
    source: Path,
    output: Path,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    categories: Path | None = None,
    images: Path | None = None,
    settings: ExportSettings | None = None,
) -> Differences:
    """Write the model of a run or a checkpoint as an ONNX or TorchScript file, by the end of the file's name.

    Args:
        source: the folder of a run, whose newest checkpoint is taken, or a checkpoint.
        output: the file, which must not be there yet.
        recipe: how the model is built, where the checkpoint is not in the folder of a run.
        overrides: keys of the recipe with their values.
        categories: a COCO file whose categories are those of the model; None: those of the run.
        images: a folder of images, or an image, to check the file on; None: those that the run is evaluated on.
        settings: the form of masks, and how large differences may be.

    Returns:
        The largest differences between what the model and the file find.

    Raises:
        UserError: where one of them cannot be used, or the file does not find what the model finds; it is not kept.
    """
    if output.suffix not in FORMATS:
        raise RecipeError(f"{output}: expected a name that ends with {', '.join(FORMATS)} or .pkl (for Detectron2)")
    check_new_file(output)
    if output.suffix == ".onnx":
        check_onnx_installed()
    model = load_model(source, recipe=recipe, overrides=overrides, categories=categories)
    if model.recipe.model.detectron2 is not None:
        raise ExportError(
            f"{source}: a model of Detectron2, which has its own tools for this; torchvision's can be exported, also "
            "with weights of a .pkl file of Detectron2's"
        )
    module = torchvision_module(model.module)
    data, settings = model.recipe.data, settings or ExportSettings()
    metadata = describe_model(module, model.categories, data.image_settings, settings)
    checked = _evaluated_images(data) if images is None else _read_images(images, data.image_settings)
    return _export(module, output, metadata, checked, settings, FORMATS[output.suffix])


def _spread(number: int) -> list[int]:
    """The indices of some of a number of images, spread over all."""
    count = min(number, CHECKED_IMAGES)
    return [index * number // count for index in range(count)]


def _evaluated_images(settings: DataSettings) -> list[Tensor]:
    try:
        data = evaluation_data(coco_files(settings)[1], settings)
    except DataError as error:
        raise DataError(f"{error}. --images FOLDER names other images to check the exported file on") from error
    return [data.read(index)[1] for index in _spread(len(data))]


def _read_images(folder: Path, settings: ImageSettings) -> list[Tensor]:
    files = find_images([folder]).images
    chosen = [files[index].path for index in _spread(len(files))]
    return [read_image(path, size_as_shown(path, settings), settings=settings) for path in chosen]
