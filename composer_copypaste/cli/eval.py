"""``copypaste eval``."""

from pathlib import Path

import click

from composer_copypaste.cli import CROWDS_HELP

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images; default: the run's data.val.")
@click.option("--annotations", type=click.Path(path_type=Path), help="Their COCO instance annotations.")
@click.option("--crowds", type=click.Choice(["objects", "ignore"]), help=f"{CROWDS_HELP}; default: the recipe's.")
@click.option("--recipe", help="How the model is built, where it is no run folder; default: the recipe of its run.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the scores, matches and predictions.")
def command(  # noqa: PLR0913 - click gives each option by its name
    model: Path,
    overrides: tuple[str, ...],
    images: Path | None,
    annotations: Path | None,
    crowds: str | None,
    recipe: str | None,
    output: Path | None,
) -> None:
    """Score a checkpoint on a data set, by COCO's rules.

    MODEL is the folder of a run, whose newest checkpoint is taken, or a checkpoint; KEY=VALUE changes a key of the
    recipe.

    \b
    Example:
      copypaste eval runs/quickstart-20260131-120000
      copypaste eval my.pt --recipe finetune --images photos/test --annotations test.json --output test_results

    It prints COCO's numbers, and writes them only where --output says.
    """
    from composer_copypaste.errors import RecipeError
    from composer_copypaste.integrations.composer.distributed import errors_raised_once, is_first_process
    from composer_copypaste.recipes.load import load_recipe
    from composer_copypaste.recipes.schema import CocoFiles
    from composer_copypaste.runs.folder import RunFolder
    from composer_copypaste.runs.predictor import find_checkpoint, recipe_source

    with errors_raised_once():
        if (images is None) != (annotations is None):
            raise RecipeError("command line: expected --images and --annotations, or neither")
        checkpoint, run = find_checkpoint(model)
        source = recipe_source(checkpoint, run, recipe)
        loaded = load_recipe(source, [*overrides, *([f"data.crowds={crowds}"] if crowds else [])])

    from composer_copypaste.metrics.report import score_tables
    from composer_copypaste.runs.evaluate import evaluate_checkpoint

    files = CocoFiles(images=images, annotations=annotations) if images is not None else None
    report = evaluate_checkpoint(checkpoint, loaded, files, output)
    if not is_first_process():
        return
    click.echo(f"\n{score_tables(report)}")
    if output is not None:
        click.echo(f"\n{output}:\n{RunFolder(output).describe()}")
