"""``copypaste predict``."""

import shlex
import sys
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from composer_copypaste.cli import (
    FOLDER_OF_IMAGES,
    RESUME_COMMAND,
    ExistingPath,
    given_arguments,
    is_override,
    program,
    say_loading,
)

if TYPE_CHECKING:
    from composer_copypaste.runs.predict.manifest import PredictedFiles
    from composer_copypaste.settings import PredictSettings

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("images", metavar="IMAGES... [KEY=VALUE]...", nargs=-1, required=True)
@click.option("--weights", type=click.Path(path_type=Path), required=True,
              help="Folder of a run, whose newest checkpoint is taken; a checkpoint; or an .onnx file.")  # fmt: skip
@click.option("--best", is_flag=True, help="Take the run's best checkpoint, which training.best_checkpoint keeps.")
@click.option("--output", type=click.Path(path_type=Path),
              help="New folder for what is found; default: predictions/NAME, as the weights are named.")  # fmt: skip
@click.option("--images", "folder", type=FOLDER_OF_IMAGES, help="Folder of the images of a COCO file.")
@click.option("--recipe", help="Recipe of the model, where the checkpoint is in no run's folder.")
@click.option("--categories", type=ExistingPath("COCO file"),
              help="COCO file with the categories of the model; default: those of its run or .onnx file.")  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1),
              help="Leave out lower scores; default: 0, but 0.5 for annotations and drawn images.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1),
              help="Images, or tiles, given to the model at once; default: the recipe's.")  # fmt: skip
@click.option("--tiles", type=click.IntRange(64, 16384), metavar="PIXELS",
              help="Cut larger images into tiles with this side.")  # fmt: skip
@click.option("--overlap", type=click.FloatRange(0, 1, max_open=True), default=0.2,
              help="Fraction of a tile by which neighboring tiles overlap, at least; default: 0.2.")  # fmt: skip
@click.option(
    "--tta", type=click.Choice(["flip"]), help="Find objects in the mirror image too, which takes twice the time."
)
@click.option("--as-annotations", is_flag=True, help="Write a COCO annotation file too, for annotation tools.")
@click.option("--draw", is_flag=True, help="Write the images with the objects drawn on them, too.")
@click.option("--value-range", type=(float, float), metavar="LOW HIGH",
              help="Values of black and white in images of more than 8 bits; default: the recipe's.")  # fmt: skip
@click.option("--max-megapixels", type=float, help="Larger images are not read; default: the recipe's.")
def command(  # noqa: PLR0913 - click gives each option by its name
    images: tuple[str, ...],
    weights: Path,
    best: bool,
    output: Path | None,
    folder: Path | None,
    recipe: str | None,
    categories: Path | None,
    min_score: float | None,
    batch_size: int | None,
    tiles: int | None,
    overlap: float,
    tta: Literal["flip"] | None,
    as_annotations: bool,
    draw: bool,
    value_range: tuple[float, float] | None,
    max_megapixels: float | None,
) -> None:
    """Find objects in images, and write them as a COCO results file.

    IMAGES are image files, folders, patterns such as "photos/*.jpg", or a COCO file, of which only the list of images
    is read; KEY=VALUE changes a key of the model's recipe. The same command goes on where it was interrupted, and
    with more images, --draw or --as-annotations it adds them to what is there. Images that cannot be read are listed at
    the end, and the exit code is then 1; the same command looks at repaired ones.

    \b
    Example:
      copypaste predict photos/test --weights runs/quickstart-20260131-120000 --draw
      copypaste predict test.json --images photos/test --weights model.onnx --output found

    It writes OUTPUT/results.json; unless a COCO file is given, OUTPUT/images.json, with the ids of the images and
    categories; and where asked for, OUTPUT/annotations.json and the folder OUTPUT/drawn.
    """
    from composer_copypaste.errors import RecipeError, count_noun
    from composer_copypaste.files import check_exists, expand_home
    from composer_copypaste.runs.folder import find_best_checkpoint, find_checkpoint
    from composer_copypaste.settings import PredictSettings

    output = output or Path("predictions") / (weights.name if weights.is_dir() else weights.stem)
    context = click.get_current_context()
    context.meta[RESUME_COMMAND] = shlex.join([program(), "predict", *given_arguments(context)])
    overrides = [argument for argument in images if is_override(argument)]
    given = [argument for argument in images if not is_override(argument)]
    if not given:
        raise RecipeError(
            "command line: expected images, or a COCO file that lists them. See: copypaste predict --help"
        )
    source = find_best_checkpoint(weights) if best else weights
    if source.suffix != ".onnx":
        find_checkpoint(source)
    for argument in given:
        if not has_magic(argument):
            check_exists(expand_home(argument), "file or folder")

    say_loading(f"find objects with {source}")
    from composer_copypaste.runs.predict.run import predict_files

    settings = PredictSettings(
        min_score=min_score,
        batch_size=batch_size,
        tiles=tiles,
        overlap=overlap,
        tta=tta,
        as_annotations=as_annotations,
        draw=draw,
    )
    files = predict_files(
        source,
        given,
        output,
        settings,
        folder=folder,
        recipe=recipe,
        overrides=overrides,
        categories=categories,
        value_range=value_range,
        max_megapixels=max_megapixels,
    )
    _print_counts(files, settings)
    if files.unreadable:
        click.echo(f"{count_noun(len(files.unreadable), 'image')} could not be read:", err=True)
        click.echo("\n".join(f"  {line}" for line in files.unreadable), err=True)
        click.echo("once they are repaired, the same command looks at them alone", err=True)
        sys.exit(1)


def _print_counts(files: "PredictedFiles", settings: "PredictSettings") -> None:
    """Print how many objects were found, and how many of them are drawn or annotated where not all are."""
    from composer_copypaste.errors import count_noun
    from composer_copypaste.runs.predict.files import SURE_SCORE

    before = f" ({files.kept} done before)" if files.kept else ""
    click.echo(f"{files.output}: {count_noun(files.objects, 'object')} in {count_noun(files.images, 'image')}{before}")
    if (settings.draw or settings.as_annotations) and settings.min_score is None and files.shown < files.objects:
        shown = " and ".join(["drawn"] * settings.draw + ["annotated"] * settings.as_annotations)
        click.echo(
            f"{files.shown} of them are {shown}, those of a score of {SURE_SCORE} or more; --min-score gives others"
        )
