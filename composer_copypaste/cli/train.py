"""``copypaste train``."""

import os
import shlex
from collections.abc import Sequence
from datetime import datetime

import click

from composer_copypaste import processes
from composer_copypaste.cli import RESUME_COMMAND, RESUME_HOW, program, say_loading

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("recipe")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Check everything, and say what would run; write nothing.")
@click.option("--stop-at-end-of-input", is_flag=True, hidden=True, help="Stop when the calling process ends.")
def command(recipe: str, overrides: tuple[str, ...], dry_run: bool, stop_at_end_of_input: bool) -> None:
    """Train a recipe, evaluate it, and leave everything in one folder.

    RECIPE is a YAML file or the name of a shipped recipe; KEY=VALUE changes one of its keys.

    \b
    Example:
      copypaste train finetune data.train.images=photos/train data.train.annotations=train.json \\
        data.val.images=photos/val data.val.annotations=val.json

    It writes runs/<recipe>-<time>, or the folder that output=DIR names: the resolved recipe, checkpoints, the metrics
    of every batch, COCO's numbers, curves, and sheets of training images and of predictions. A training that was
    interrupted goes on where it was when the same command names its folder with output=DIR.
    """
    from composer_copypaste.distributed import errors_raised_once, is_first_process
    from composer_copypaste.recipes.files import check_named_files
    from composer_copypaste.recipes.load import load_recipe
    from composer_copypaste.runs.folder import run_folder_for

    if stop_at_end_of_input:
        processes.stop_at_end_of_input()
    with errors_raised_once():
        loaded = load_recipe(recipe, overrides)
        folder = run_folder_for(loaded, datetime.now())
        if not (folder.root.exists() and folder.is_complete):
            check_named_files(loaded)

    if dry_run:
        say_loading(f"check {recipe}", composer=True)
        from composer_copypaste.runs.dry_run import describe_run

        click.echo(describe_run(loaded, folder))
        return

    say_loading(f"train into {folder.root}", composer=True)
    from composer_copypaste.integrations.composer.checkpoints import saved_checkpoints
    from composer_copypaste.metrics.report import read_score_tables
    from composer_copypaste.runs.train import train

    meta = click.get_current_context().meta
    meta[RESUME_COMMAND] = _resume_command(recipe, overrides, str(folder.root))
    try:
        train(loaded, folder)
    finally:
        if not saved_checkpoints(folder.checkpoints):
            interval = loaded.training.checkpoint_interval
            meta[RESUME_HOW] = f"to begin again, as the first checkpoint comes after {interval}"
    if is_first_process():
        click.echo(f"\n{read_score_tables(folder.evaluation)}\n\n{folder.root}:\n{folder.describe()}")


def _resume_command(recipe: str, overrides: Sequence[str], output: str) -> str:
    """The command line that goes on with the run in the folder ``output``."""
    others = [override for override in overrides if not override.startswith("output=")]
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")  # Composer's launcher sets it, for this node
    command = [program()] if count == "1" else ["composer", "-n", count, "-m", "composer_copypaste.cli"]
    return shlex.join([*command, "train", recipe, *others, f"output={output}"])
