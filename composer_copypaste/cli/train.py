"""``copypaste train``."""
# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b

from datetime import datetime

import click


@click.command
@click.argument("recipe")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Check everything, and say what would run; write nothing.")
def command(recipe: str, overrides: tuple[str, ...], dry_run: bool) -> None:
    """Train a recipe, evaluate it, and leave everything in one folder.

    RECIPE is a YAML file or the name of a shipped recipe; KEY=VALUE changes one of its keys.

    \b
    Example:
      copypaste train finetune data.train.images=photos/train data.train.annotations=train.json \\
        data.val.images=photos/val data.val.annotations=val.json

    It writes runs/<recipe>-<time>, or the folder that output=DIR names: the resolved recipe, checkpoints, the metrics
    of every batch, COCO's numbers, curves, and sheets of training pictures and of predictions.
    """
    from composer_copypaste.config.load import load_recipe
    from composer_copypaste.run_folder import check_free, folder_for

    loaded = load_recipe(recipe, overrides)
    folder = folder_for(loaded, datetime.now())
    check_free(folder)

    from composer_copypaste.report import tables
    from composer_copypaste.training import describe, train

    if dry_run:
        click.echo(describe(loaded, folder))
        return
    report = train(loaded, folder)
    click.echo(f"\n{tables(report)}\n\n{folder.root}:\n{folder.describe()}")
