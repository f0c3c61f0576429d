"""``copypaste leaks``."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from composer_copypaste.cli import ANNOTATION_FILE, FOLDER_OF_IMAGES

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("files", metavar="FILE FILE...", type=ANNOTATION_FILE, nargs=-1, required=True)
@click.option(
    "--images",
    type=FOLDER_OF_IMAGES,
    multiple=True,
    help="Folder of the images of all files; or given once for each file, in their order.",
)
@click.option("--group", metavar="KEY", help="Look for values of this key of the JSON's images that two files share.")
def command(files: Sequence[Path], images: Sequence[Path], group: str | None) -> None:
    """Find images that two annotation files share.

    Images are compared byte by byte, under any names. With --group KEY, values of a key of the JSON's images are
    compared, such as the slide or the video that images were cut from.

    \b
    Example:
      copypaste leaks train.json val.json --images photos/train --images photos/val

    It prints a line for each image and each group that two files share, and writes nothing. The exit code is 1 if there
    is any, else 0. "copypaste split" makes parts that share none.
    """
    from composer_copypaste.data.leaks import find_leaks
    from composer_copypaste.errors import RecipeError, count_noun

    if len(files) < 2:
        raise RecipeError("command line: expected two annotation files or more, such as train.json val.json, got one")
    if not images and group is None:
        raise RecipeError("command line: expected --images FOLDER for each file, in their order, or --group KEY")
    leaks = find_leaks(files, images=images, group=group)
    for leak in leaks:
        click.echo(leak)
    names = ", ".join(map(str, files))
    counts = [
        count_noun(sum(leak.kind == kind for leak in leaks), noun)
        for kind, noun, compared in (("equal files", "image", images), ("group", "group", group))
        if compared
    ]
    click.echo(f"{names}: {' and '.join(counts)} in more than one of them")
    if leaks:
        sys.exit(1)
