"""``copypaste eval``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from composer_copypaste.cli import (
    ANNOTATION_FILE,
    BAD_OBJECTS_HELP,
    CROWDS_HELP,
    FOLDER_OF_IMAGES,
    ExistingPath,
    is_override,
    option,
    say_loading,
)

if TYPE_CHECKING:
    from composer_copypaste.metrics.report import Report
    from composer_copypaste.recipes.schema import CocoFiles

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--predictions",
    type=ExistingPath("file of results"),
    help="Score these COCO results (JSON, with masks or boxes alone) instead of a model.",
)
@click.option("--best", is_flag=True, help="Take the run's best checkpoint, which training.best_checkpoint keeps.")
@click.option("--images", type=FOLDER_OF_IMAGES, help="Folder of the images; default: the run's data.val.")
@click.option("--annotations", type=ANNOTATION_FILE, help="Their COCO instance annotations.")
@click.option("--crowds", type=click.Choice(["objects", "ignore"]), help=f"{CROWDS_HELP}; default: the recipe's.")
@click.option("--bad-objects", type=click.Choice(["refuse", "leave_out"]), help=BAD_OBJECTS_HELP)
@click.option("--max-dets", metavar="1,10,100", help="How many detections of a category count in an image; ascending.")
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    help="Lowest score of the detections that the page counts and shows; default: the score with the highest F1.",
)
@click.option("--allow-missing", is_flag=True, help="Score predictions also where most images have none.")
@click.option("--recipe", help="Recipe of the model, where it is in no run's folder; default: that of its run.")
@click.option("--style", type=click.Choice(["coco", "detectron2"]), default="coco",
              help="Tables to print: all of COCO's numbers (default), or those that Detectron2 prints.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the page, scores, matches and predictions.")
def command(  # noqa: PLR0913 - click gives each option by its name
    model: Path | None,
    overrides: tuple[str, ...],
    predictions: Path | None,
    best: bool,
    images: Path | None,
    annotations: Path | None,
    crowds: Literal["objects", "ignore"] | None,
    bad_objects: Literal["refuse", "leave_out"] | None,
    max_dets: str | None,
    min_score: float | None,
    allow_missing: bool,
    recipe: str | None,
    style: Literal["coco", "detectron2"],
    output: Path | None,
) -> None:
    """Score a checkpoint, or COCO results, on a data set, by COCO's rules.

    MODEL is the folder of a run, whose newest checkpoint is taken, a checkpoint, or the state dict of torchvision's
    models, such as maskrcnn_resnet50_fpn or fcos_resnet50_fpn, which needs no recipe. KEY=VALUE changes a key of the
    recipe. Without MODEL, the weights that RECIPE names are scored.

    \b
    Example:
      copypaste eval runs/quickstart-20260131-120000 --output scores
      copypaste eval runs/mine --best
      copypaste eval my.pt --recipe finetune --images photos/test --annotations test.json --output test_results
      copypaste eval --recipe detectron2/mask_rcnn_R_101_FPN_3x_eval --style detectron2
      copypaste eval --predictions results.json --annotations test.json --images photos/test --output test_results

    It prints COCO's numbers. Only where --output says, it writes them, and report.html: a page with the errors and what
    each kind costs, curves, confused categories, and the best and worst images. Predictions need no images; the page
    then shows none.
    """
    from composer_copypaste.distributed import errors_raised_once, is_first_process
    from composer_copypaste.errors import RecipeError
    from composer_copypaste.recipes.schema import CocoFiles, EvaluationSettings
    from composer_copypaste.runs.folder import find_best_checkpoint, find_checkpoint

    if model is not None and is_override(str(model)):
        model, overrides = None, (str(model), *overrides)
    with errors_raised_once():
        limits = None if max_dets is None else _parse_limits(max_dets)
        _check_arguments(model, overrides, predictions, images, annotations, recipe)
        if best and model is None:
            raise RecipeError("command line: expected --best with the folder of a run, got none")
        if allow_missing and predictions is None:
            raise RecipeError("command line: expected --allow-missing with --predictions, got a model")
    if predictions is not None and annotations is not None:
        say_loading(f"score {predictions}")
        from composer_copypaste.runs.evaluation.results import evaluate_predictions

        report = evaluate_predictions(
            predictions,
            annotations,
            images=images,
            output=output,
            max_dets=limits or EvaluationSettings.max_dets,
            min_score=min_score,
            allow_missing=allow_missing,
            crowds=crowds,
            bad_objects=bad_objects or "refuse",
            spelling=option,
        )
    else:
        changes = [f"data.crowds={crowds}"] if crowds else []
        changes += [f"data.bad_objects={bad_objects}"] if bad_objects else []
        changes += [f"evaluation.max_dets={list(limits)}"] if limits else []
        with errors_raised_once():
            files = CocoFiles(images=images, annotations=annotations) if images is not None else None
            checkpoint = model if model is None else find_checkpoint(find_best_checkpoint(model) if best else model)[0]
        report = _score_model(checkpoint, recipe, [*overrides, *changes], files, output, min_score)
    if is_first_process():
        _print_report(report, style, output)


def _print_report(report: "Report", style: Literal["coco", "detectron2"], output: Path | None) -> None:
    """Print the scores as tables, and what was written."""
    from composer_copypaste.metrics.detectron2_tables import detectron2_tables
    from composer_copypaste.metrics.report import score_tables
    from composer_copypaste.runs.folder import RunFolder

    click.echo(f"\n{detectron2_tables(report) if style == 'detectron2' else score_tables(report)}")
    if output is not None:
        click.echo(f"\n{output}:\n{RunFolder(output).describe()}")


def _score_model(
    checkpoint: Path | None,
    recipe: str | None,
    overrides: Sequence[str],
    files: "CocoFiles | None",
    output: Path | None,
    min_score: float | None,
) -> "Report":
    """Score a checkpoint, or without one the weights that the recipe names; mistakes are found before torch loads."""
    from composer_copypaste.distributed import errors_raised_once
    from composer_copypaste.recipes.files import check_coco_files
    from composer_copypaste.recipes.load import load_recipe
    from composer_copypaste.runs.folder import run_folder_of

    run = None if checkpoint is None else run_folder_of(checkpoint)
    source = recipe or (None if run is None else run.recipe)
    with errors_raised_once():
        named = None if source is None else load_recipe(source, overrides)
        check_coco_files(files or (None if named is None else named.data.val))

    say_loading(f"score {checkpoint or recipe}", composer=True)
    from composer_copypaste.runs.evaluation.run import checkpoint_of_recipe, evaluate_checkpoint, recipe_of_weights

    with errors_raised_once():
        loaded = named or recipe_of_weights(cast(Path, checkpoint), overrides, files)
        checkpoint = checkpoint or checkpoint_of_recipe(loaded)
    return evaluate_checkpoint(checkpoint, loaded, files, output, min_score=min_score)


def _check_arguments(
    model: Path | None,
    overrides: tuple[str, ...],
    predictions: Path | None,
    images: Path | None,
    annotations: Path | None,
    recipe: str | None,
) -> None:
    """Raise ``RecipeError`` where arguments are missing or do not go together."""
    from composer_copypaste.errors import RecipeError

    if predictions is None:
        if model is None and recipe is None:
            raise RecipeError(
                "command line: expected MODEL, a run's folder or a checkpoint, or --recipe RECIPE, whose weights are "
                "scored, or --predictions FILE"
            )
        if (images is None) != (annotations is None):
            raise RecipeError("command line: expected --images and --annotations, or neither")
        return
    if model is not None or overrides or recipe is not None:
        others = " ".join(
            map(str, [*([model] if model else []), *overrides, *([f"--recipe {recipe}"] if recipe else [])])
        )
        raise RecipeError(f"command line: expected --predictions without a model, recipe and its keys, got {others}")
    if annotations is None:
        raise RecipeError("command line: expected --annotations FILE, by which the predictions are scored")


def _parse_limits(text: str) -> tuple[int, ...]:
    """The numbers of detections in a text such as "1,10,100"."""
    from composer_copypaste.errors import RecipeError

    parts = text.strip("[]() ").split(",")
    limits = tuple(int(part) for part in parts if part.strip().isdecimal())
    if len(limits) < len(parts) or limits[0] < 1 or list(limits) != sorted(set(limits)):
        raise RecipeError(f"command line: --max-dets: expected ascending numbers such as 1,10,100, got {text!r}")
    return limits
