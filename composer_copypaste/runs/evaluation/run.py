"""Scoring a checkpoint on a data set, by COCO's rules."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.distributed import errors_raised_once, is_first_process, print_once
from composer_copypaste.errors import CheckpointError, RecipeError, count_noun
from composer_copypaste.integrations.composer.callbacks import evaluation_metric, latest_report
from composer_copypaste.integrations.composer.from_recipe import (
    build_evaluator,
    build_model,
    check_device,
    errors_name_section,
    limit_threads,
)
from composer_copypaste.integrations.composer.model import InstanceSegmentationModel
from composer_copypaste.metrics.report import Report
from composer_copypaste.models.class_rows import class_count
from composer_copypaste.models.detectron2_style import MARK
from composer_copypaste.models.predictor import coco_labels, match_categories
from composer_copypaste.models.recognise import read_known_model, recipe_of_model
from composer_copypaste.models.weight_files import StateDict
from composer_copypaste.models.weights import load_tensors
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.recipes.schema import CocoFiles, Recipe
from composer_copypaste.runs.data import (
    coco_files,
    evaluation_data,
    read_trained_categories,
    warn_of_many_objects,
    with_trained_labels,
)
from composer_copypaste.runs.evaluation.findings import collect_findings
from composer_copypaste.runs.evaluation.output import (
    begin_output,
    check_output,
    write_errors_in_one_line,
    write_output,
)
from composer_copypaste.runs.evaluation.page import Subject
from composer_copypaste.runs.folder import RunFolder, recipe_source, run_folder_of
from composer_copypaste.runs.predictor import weights_for
from composer_copypaste.runs.train import save_predictions


def evaluate_checkpoint(
    checkpoint: Path,
    recipe: Recipe,
    files: CocoFiles | None = None,
    output: Path | None = None,
    *,
    min_score: float | None = None,
) -> Report:
    """Score a checkpoint on a data set; ``output``, if given, gets its numbers, matches, predictions and a page.

    Args:
        checkpoint: weights for the recipe's model, as a Composer checkpoint or a state dict. If it lies in a run's
            folder, the data set must have the categories of the run. Else the model's labels are the data's categories
            in the order of their ids; those of a model with torchvision's 91 classes are COCO's categories, by name.
        recipe: how the model is built, and how it is scored.
        files: the data set; None: the one that the recipe is evaluated on; drawn shapes are drawn now.
        output: a folder that holds no evaluation yet.
        min_score: of the detections that the page counts and shows; None: the score from which on F1 is highest.

    Raises:
        UserError: where one of them cannot be used; nothing is written then.
    """
    results = None if output is None else RunFolder(output)
    with errors_raised_once():
        data, model = _evaluation_data_and_model(checkpoint, recipe, files, results, min_score)
    trainer = build_evaluator(recipe, model, data)
    trainer.eval()
    report = latest_report(trainer.state)
    if results is not None:
        metric = evaluation_metric(trainer.state)
        findings, matches = collect_findings(metric, min_score), metric.matches()
        if is_first_process():
            write_output(results, findings, matches, _subject(checkpoint, data), data)
            with write_errors_in_one_line(results):
                save_predictions(model, data, results.predictions)
    trainer.close()
    return report


def recipe_of_weights(checkpoint: Path, overrides: Sequence[str] = (), files: CocoFiles | None = None) -> Recipe:
    """A recipe for weights in no run's folder: those of a published model of torchvision's or Detectron2's.

    Args:
        checkpoint: the weights.
        overrides: keys of the recipe with their values.
        files: the data set to evaluate on, which a published model needs.

    Raises:
        RecipeError: where they are those of any other model.
    """
    known = read_known_model(checkpoint)
    if known is None:
        return load_recipe(recipe_source(checkpoint, None, None), overrides)
    name, settings = known
    if files is None:
        raise RecipeError(f"{checkpoint}: {name}; give --images and --annotations, the data to score it on")
    print_once(f"{checkpoint}: {name}, built with its own settings; --recipe RECIPE gives others")
    return load_recipe("finetune", [*recipe_of_model(settings), *overrides])


def checkpoint_of_recipe(recipe: Recipe) -> Path:
    """The file of a recipe's own weights, to evaluate them as they are; Detectron2's are downloaded if need be.

    Raises:
        CheckpointError: where they cannot be obtained, or are no file and not of Detectron2's zoo.
    """
    with errors_name_section("model"):
        if recipe.model.detectron2 is not None:
            from composer_copypaste.integrations.detectron2.from_recipe import weights_file

            return weights_file(recipe.model)
        if not Path(recipe.model.weights).is_file():
            raise CheckpointError(f"weights: expected a file to evaluate, got {recipe.model.weights!r}; or give MODEL")
        return Path(recipe.model.weights)


def _subject(checkpoint: Path, data: InstanceData) -> Subject:
    run = run_folder_of(checkpoint)
    name = checkpoint.name if run is None else run.root.name
    described = f"Model: {checkpoint}. Data: {data.annotations.path}, images in {data.place}."
    return Subject(f"Evaluation of {name}", [described], None if run is None else run.metrics)


def _evaluation_data_and_model(
    checkpoint: Path, recipe: Recipe, files: CocoFiles | None, results: RunFolder | None, min_score: float | None
) -> tuple[InstanceData, InstanceSegmentationModel]:
    check_device(recipe)
    limit_threads(recipe)
    if min_score is not None and not 0 <= min_score <= 1:
        raise RecipeError(f"min_score: expected a number from 0 to 1, got {min_score:g}")
    if results is not None:
        check_output(results)
    weights = weights_for(recipe, checkpoint)
    data = evaluation_data(files or coco_files(recipe.data)[1], recipe.data, outlines=recipe.model.has_masks)
    run = run_folder_of(checkpoint)
    labels = None
    if run is not None and run.categories.exists():
        data = with_trained_labels(data, read_trained_categories(run.categories), str(checkpoint))
    else:
        is_detectron2 = recipe.model.detectron2 is not None or MARK in weights
        labels = _labels_of_classes(weights, checkpoint, data, is_detectron2=is_detectron2)
    warn_of_many_objects(data.annotations, recipe)
    model = build_model(recipe, data.annotations, load_weights=False, labels=labels)
    load_tensors(model.module, weights, checkpoint)
    if results is not None:
        begin_output(results)
    return data, model


def _labels_of_classes(
    weights: StateDict, checkpoint: Path, data: InstanceData, *, is_detectron2: bool
) -> Mapping[int, int | None] | None:
    """The data's label of each of the model's classes, None for those that the data lacks; None: they are the same.

    Raises:
        CheckpointError: where the model's classes cannot be those of the data.
    """
    classes = class_count(weights) or data.annotations.num_classes
    published = coco_labels(classes, is_detectron2_style=is_detectron2)
    if classes == data.annotations.num_classes and (published is None or not is_detectron2):
        return None
    matched = None
    if published is not None:
        matched = match_categories(data.categories, classes, is_detectron2_style=is_detectron2)
    if matched is None:
        raise CheckpointError(
            f"{checkpoint}: made for another model, or another number of classes: it has "
            f"{count_noun(classes - 1, 'label')}, {data.annotations.path} has "
            f"{count_noun(len(data.categories), 'category', 'categories')}"
        )
    labels = {category.id: label for label, category in enumerate(data.categories, start=1)}
    return {number: labels[matched[number].id] if number in matched else None for number in range(1, classes)}
