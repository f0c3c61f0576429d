"""Load what finds objects in images: the model of a run, of a checkpoint, or of an exported file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.coco_json import read_categories
from composer_copypaste.errors import CheckpointError, DataError, RecipeError, count_noun, warn_of_data
from composer_copypaste.models.class_rows import class_count
from composer_copypaste.models.detectors import build_detector
from composer_copypaste.models.postprocess import detect as detect_objects
from composer_copypaste.models.predictor import (
    COCO_NAMES,
    Predictor,
    categories_of_labels,
    coco_labels,
    detect_by_itself,
    match_categories,
    predictor_of_module,
)
from composer_copypaste.models.recognise import read_known_model, recipe_of_model
from composer_copypaste.models.weight_files import StateDict, read_weights
from composer_copypaste.models.weights import load_tensors
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.data import read_trained_categories
from composer_copypaste.runs.folder import find_checkpoint, recipe_source

PRECISIONS = {"fp32": None, "amp_bf16": torch.bfloat16, "amp_fp16": torch.float16}
"""The types of autocast for the precisions of recipes."""


def load_predictor(
    path: Path | str,
    *,
    recipe: Path | str | None = None,
    overrides: Sequence[str] = (),
    categories: Path | str | None = None,
) -> Predictor:
    """The model of a run, a checkpoint or an .onnx file, ready to find objects.

    It runs on the GPU where there is one, unless the recipe's ``training.device`` is "cpu", and there with the recipe's
    precision.

    Args:
        path: the folder of a run, whose newest checkpoint is taken; a checkpoint; or a file of ``copypaste export``.
        recipe: how the model is built, where the checkpoint is not in the folder of a run. An .onnx file needs none,
            and a state dict of torchvision's models, such as ``maskrcnn_resnet50_fpn`` or ``fcos_resnet50_fpn``, or a
            file of Detectron2's zoo, neither.
        overrides: keys of the recipe with their values, such as "model.detections_per_image=300".
        categories: a COCO file whose categories are those of the model. By default they are read from the run or the
            .onnx file; torchvision's 91 classes and 80 of Detectron2's are COCO's categories; any other checkpoint
            without a run has its labels as ids, which a warning says.

    Raises:
        UserError: where one of them cannot be used, or they do not fit each other.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        named = None if categories is None else read_categories(Path(categories))
        return _load_exported(path, recipe, overrides, named)
    return _predictor_of_model(load_model(path, recipe=recipe, overrides=overrides, categories=categories))


@dataclass(frozen=True)
class LoadedModel:
    """A detector with its weights, on the CPU."""

    module: nn.Module
    """Torchvision's, or a ``Detectron2Model``."""
    categories: Mapping[int, Category]
    """The category of each label."""
    recipe: Recipe
    """How it is built and trained."""


def load_model(
    path: Path, *, recipe: Path | str | None, overrides: Sequence[str], categories: Path | str | None
) -> LoadedModel:
    """The model of a run or a checkpoint; arguments and errors are those of ``load_predictor``."""
    named = None if categories is None else read_categories(Path(categories))
    checkpoint, run = find_checkpoint(path)
    known = read_known_model(checkpoint) if run is None and recipe is None else None
    if known is not None:
        loaded = load_recipe("finetune", [*recipe_of_model(known[1]), *overrides])
    else:
        loaded = load_recipe(recipe_source(checkpoint, run, recipe), overrides)
    weights = weights_for(loaded, checkpoint)
    if named is None and run is not None and run.categories.exists():
        named = tuple(read_trained_categories(run.categories))
    is_published = loaded.model.detectron2 is not None or (known is not None and known[1].is_detectron2_style)
    classes = _class_count(weights, checkpoint)
    labels = _categories_of_weights(classes, checkpoint, named, is_detectron2_style=is_published)
    module = _module_with_weights(loaded, weights, checkpoint)
    if labels is None:
        labels = _labels_as_categories(classes, checkpoint)  # warns, so after all errors
    return LoadedModel(module, labels, loaded)


def _module_with_weights(recipe: Recipe, weights: StateDict, checkpoint: Path) -> nn.Module:
    """The recipe's model with the weights; ``CheckpointError`` where they are those of another."""
    classes = _class_count(weights, checkpoint)
    if recipe.model.detectron2 is None:
        module = build_detector(classes, recipe.model)
        load_tensors(module, weights, checkpoint)
        return module
    from composer_copypaste.integrations.detectron2.from_recipe import build_detectron2_model

    model = build_detectron2_model(recipe.model, classes, load_weights=False)
    load_tensors(model.module, weights, checkpoint)
    return model


def weights_for(recipe: Recipe, checkpoint: Path) -> StateDict:
    """The tensors of a file by the names in the recipe's model; ``CheckpointError`` as of ``read_weights``."""
    if recipe.model.detectron2 is None:
        return read_weights(checkpoint)
    from composer_copypaste.integrations.detectron2.weights import read_model_file

    return read_model_file(checkpoint)


def _load_exported(
    path: Path, recipe: Path | str | None, overrides: Sequence[str], named: tuple[Category, ...] | None
) -> Predictor:
    if recipe is not None or overrides:
        raise RecipeError(f"{path}: an exported model is complete; leave out the recipe, and keys of it")
    from composer_copypaste.integrations.onnx import load_onnx_predictor  # most commands need no exported file

    predictor = load_onnx_predictor(path)
    if named is None:
        return predictor
    return replace(predictor, categories=_match(named, max(predictor.categories) + 1, path))


def _class_count(weights: StateDict, checkpoint: Path) -> int:
    """The number of the model's classes, the background included; ``CheckpointError`` where it is no detector."""
    classes = class_count(weights)
    if classes is None:
        raise CheckpointError(f"{checkpoint}: expected the weights of a detector, found no scores of classes in them")
    return classes


def _categories_of_weights(
    num_classes: int, checkpoint: Path, named: tuple[Category, ...] | None, *, is_detectron2_style: bool
) -> Mapping[int, Category] | None:
    """The category of each label; None where neither ``named`` nor the number of classes says what they are."""
    if named is not None:
        return _match(named, num_classes, checkpoint, is_detectron2_style=is_detectron2_style)
    if (names := coco_labels(num_classes, is_detectron2_style=is_detectron2_style)) is not None:
        return {label: Category(COCO_NAMES.index(name), name) for label, name in names.items()}
    return None


def _labels_as_categories(num_classes: int, checkpoint: Path) -> Mapping[int, Category]:
    """A category without a name for each label; warns of it."""
    warn_of_data(
        f"{checkpoint}: does not say what its {count_noun(num_classes - 1, 'label')} stand for: category ids are its "
        f"labels, 1 to {num_classes - 1}, without names. --categories FILE takes them from a COCO file"
    )
    return categories_of_labels(num_classes)


def _match(
    named: tuple[Category, ...], num_classes: int, source: Path, *, is_detectron2_style: bool = False
) -> Mapping[int, Category]:
    matched = match_categories(named, num_classes, is_detectron2_style=is_detectron2_style)
    if matched is None:
        raise DataError(
            f"{source}: the model has {count_noun(num_classes - 1, 'label')}, the categories given are {len(named)}, "
            f"with ids up to {max(category.id for category in named)}; give the categories it is trained on"
        )
    return matched


def _predictor_of_model(model: LoadedModel) -> Predictor:
    module, training = model.module, model.recipe.training
    if training.device == "gpu" and not torch.cuda.is_available():
        raise RecipeError("training.device: expected a GPU, found none; give training.device=cpu, or auto")
    if training.cpu_threads is not None:
        torch.set_num_threads(training.cpu_threads)
    on_gpu = torch.cuda.is_available() and training.device != "cpu"
    module.to("cuda" if on_gpu else "cpu")
    precision = PRECISIONS[training.precision] if on_gpu else None
    detect = detect_objects if model.recipe.model.detectron2 is None else detect_by_itself
    predictor = predictor_of_module(module, model.categories, precision=precision, detect=detect)
    data = model.recipe.data
    return replace(predictor, image_settings=data.image_settings, batch_size=data.eval_batch_size)
