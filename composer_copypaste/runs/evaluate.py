"""Scoring a checkpoint on a data set, by COCO's rules."""

from pathlib import Path

from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.errors import OutputError
from composer_copypaste.integrations.composer.callbacks import latest_matches, latest_report
from composer_copypaste.integrations.composer.distributed import errors_raised_once, is_first_process
from composer_copypaste.integrations.composer.from_recipe import (
    build_evaluator,
    build_model,
    check_device,
    limit_threads,
)
from composer_copypaste.integrations.composer.model import MaskRCNN
from composer_copypaste.metrics.report import Report, write_json
from composer_copypaste.models.weights import load_tensors, read_weights
from composer_copypaste.recipes.schema import CocoFiles, Recipe
from composer_copypaste.runs.data import (
    coco_files,
    evaluation_data,
    read_trained_categories,
    warn_of_many_objects,
    with_trained_labels,
)
from composer_copypaste.runs.folder import RunFolder, run_folder_of
from composer_copypaste.runs.train import save_predictions


def evaluate_checkpoint(
    checkpoint: Path, recipe: Recipe, files: CocoFiles | None = None, output: Path | None = None
) -> Report:
    """Score a checkpoint on a data set; ``output``, if given, gets its numbers, its matches and a sheet of predictions.

    Args:
        checkpoint: weights for the recipe's model, as a Composer checkpoint or a state dict. If it lies in a run's
            folder, the data set must have the categories of the run.
        recipe: how the model is built, and how it is scored.
        files: the data set; None: the one that the recipe is evaluated on; drawn shapes are drawn now.
        output: a folder that holds no evaluation yet.

    Raises:
        UserError: where one of them cannot be used; nothing is written then.
    """
    results = None if output is None else RunFolder(output)
    with errors_raised_once():
        data, model = _evaluation_data_and_model(checkpoint, recipe, files, results)
    trainer = build_evaluator(recipe, model, data)
    trainer.eval()
    report = latest_report(trainer.state)
    matches = None if results is None else latest_matches(trainer.state)
    if results is not None and matches is not None and is_first_process():
        try:
            matches.save(results.matches)
            write_json(report, results.evaluation)
            save_predictions(model, data, results.predictions)
        except OSError as error:
            raise OutputError(
                f"{error.filename or results.root}: cannot be written: {error.strerror}; give another --output"
            ) from error
    trainer.close()
    return report


def _evaluation_data_and_model(
    checkpoint: Path, recipe: Recipe, files: CocoFiles | None, results: RunFolder | None
) -> tuple[InstanceData, MaskRCNN]:
    check_device(recipe)
    limit_threads(recipe)
    if results is not None:
        if results.root.exists() and not results.root.is_dir():
            raise OutputError(f"{results.root}: expected a folder for the results, found a file; name another folder")
        for file in (results.evaluation, results.matches, results.predictions):
            if file.exists():
                raise OutputError(f"{file}: is there already; name another folder, or remove it")
    weights = read_weights(checkpoint)
    data = evaluation_data(files or coco_files(recipe.data)[1], recipe.data)
    run = run_folder_of(checkpoint)
    if run is not None and run.categories.exists():
        data = with_trained_labels(data, read_trained_categories(run.categories), str(checkpoint))
    warn_of_many_objects(data.annotations, recipe)
    model = build_model(recipe, data.annotations, load_weights=False)
    load_tensors(model.module, weights, checkpoint)
    if results is not None:
        try:
            results.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{results.root}: cannot be made: {error.strerror}; name another folder") from error
    return data, model
