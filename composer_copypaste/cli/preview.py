"""``copypaste preview``."""

from pathlib import Path

import click

from composer_copypaste.cli import say_loading

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("recipe")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--compare",
    metavar='"KEY=VALUE ..."',
    multiple=True,
    help="Settings to compare with the recipe's: of copy-paste, as rotation=30, or any key of the recipe. "
    "Several keys, with spaces between them, change together. May be repeated.",
)
@click.option("--images", type=click.IntRange(1, 64), default=8, help="Number of images that are shown; default: 8.")
@click.option(
    "--batches",
    type=click.IntRange(1, 100_000),
    help="Number of batches that are measured; default: as many as have 200 images.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder; default: previews/<recipe>.")
def command(
    recipe: str,
    overrides: tuple[str, ...],
    compare: tuple[str, ...],
    images: int,
    batches: int | None,
    output: Path | None,
) -> None:
    """Show on a page what copy-paste makes of a recipe's images.

    RECIPE is a YAML file or the name of a shipped recipe; KEY=VALUE changes one of its keys. Nothing is trained; the
    batches are those that the training gets at its start.

    \b
    Example:
      copypaste preview quickstart --compare p=1 --compare "placement=random max_overlap=0.3"

    It writes previews/<recipe>/preview.html: images before and after copy-paste, where each pasted object comes from,
    what was measured, and warnings; and sheet_1.png and so on, the images of each setting. An earlier preview in the
    folder is replaced.
    """
    from composer_copypaste.recipes.comparisons import recipes_to_compare
    from composer_copypaste.recipes.files import check_named_files

    for _, each in recipes_to_compare(recipe, overrides, compare):
        check_named_files(each)

    say_loading(f"preview {recipe}")
    from composer_copypaste.runs.preview.run import preview

    found = preview(recipe, overrides, compare=compare, output=output, images=images, batches=batches)
    click.echo(f"{found}\n\n{found.page}")
