"""``copypaste augment``."""

import shlex
from pathlib import Path
from typing import Literal

import click

from composer_copypaste.cli import (
    ANNOTATION_FILE,
    BAD_OBJECTS_HELP,
    CROWDS_HELP,
    FOLDER_OF_IMAGES,
    RESUME_COMMAND,
    ExistingPath,
    given_arguments,
    is_given,
    option,
    program,
)

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--images", type=FOLDER_OF_IMAGES, help="Folder of the images; default: the recipe's.")
@click.option("--annotations", type=ANNOTATION_FILE, help="Their COCO instance annotations.")
@click.option("--recipe", help="Its data.train, data.pool and copy_paste are used: a file, or a shipped recipe's name.")
@click.option("--per-image", type=click.IntRange(1, 1000), default=1,
              help="Number of new images of each base image; default: 1.")  # fmt: skip
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), default=1.0,
              help="Fraction of the base images of which new ones are made; default: 1.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="The same seed gives the same files; default: 0."
)
@click.option("--backgrounds", type=FOLDER_OF_IMAGES,
              help="Folder of images without annotations, which become the base images.")  # fmt: skip
@click.option("--pool-folder", type=ExistingPath("folder of cut-outs"),
              help="Cut-outs to paste too: images with transparency, in folders named after categories.")  # fmt: skip
@click.option("--pool-images", type=FOLDER_OF_IMAGES, help="Folder of images whose objects are pasted too.")
@click.option("--pool-annotations", type=ANNOTATION_FILE, help="Their COCO instance annotations.")
@click.option("--originals", type=click.Choice(["keep", "link", "omit"]), default="keep",
              help="The original images: copied (default), linked, or left out.")  # fmt: skip
@click.option(
    "--format", type=click.Choice(["jpeg", "png"]), default="jpeg", help="Format of new images; default: jpeg."
)
@click.option("--quality", type=click.IntRange(1, 100), default=95, help="Quality of JPEG files; default: 95.")
@click.option("--masks", type=click.Choice(["polygons", "rle"]), default="polygons",
              help="New masks: polygons (default; run lengths where one has holes), or run lengths.")  # fmt: skip
@click.option("--crowds", type=click.Choice(["objects", "ignore"]), help=f"{CROWDS_HELP}; default: as marked, checked.")
@click.option("--bad-objects", type=click.Choice(["refuse", "leave_out"]), help=BAD_OBJECTS_HELP)
@click.option("--processes", type=click.IntRange(min=1), default=1, help="Number of processes that make images.")
@click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that makes them, as tcp://10.0.0.1:8786.")
def command(  # noqa: PLR0913 - click hands over each option
    output: Path,
    overrides: tuple[str, ...],
    images: Path | None,
    annotations: Path | None,
    recipe: str | None,
    pool_folder: Path | None,
    pool_images: Path | None,
    pool_annotations: Path | None,
    crowds: Literal["objects", "ignore"] | None,
    bad_objects: Literal["refuse", "leave_out"] | None,
    processes: int,
    dask: str | None,
    **settings: object,
) -> None:
    """Write new images by copy-paste, as an offline data set.

    OUTPUT is a new folder. KEY=VALUE are settings of copy-paste, as in the section copy_paste of a recipe: rotation=30
    and copy_paste.rotation=30 are the same. Unless p is given, it is 1, so that every new image receives objects. The
    same command goes on where it was interrupted; the bytes are the same for any number of processes.

    \b
    Example:
      copypaste augment twice --images photos/train --annotations train.json rotation=180 scale_range=[0.3,3]
      copypaste train finetune data.train.images=twice/images data.train.annotations=twice/annotations.json \\
        data.val.images=photos/val data.val.annotations=val.json

    It writes OUTPUT/images, OUTPUT/annotations.json, where each new object has its origin, each new image its plan, and
    OUTPUT/copypaste.json, by which the command knows the data set.
    """
    from composer_copypaste.errors import RecipeError, count_noun
    from composer_copypaste.recipes.schema import PoolSettings
    from composer_copypaste.runs.augment.inputs import inputs_of_command
    from composer_copypaste.runs.augment.run import augment_data_set

    context = click.get_current_context()
    given = {name: value for name, value in settings.items() if is_given(context, name)}
    pool = None
    if pool_folder or pool_images or pool_annotations:
        try:
            pool = PoolSettings(folder=pool_folder, images=pool_images, annotations=pool_annotations)
        except ValueError:
            raise RecipeError(
                "command line: expected either --pool-folder, or --pool-annotations and --pool-images"
            ) from None
    inputs = inputs_of_command(recipe, images, annotations, pool, given, overrides)
    context.meta[RESUME_COMMAND] = shlex.join([program(), "augment", *given_arguments(context)])
    data = augment_data_set(
        output,
        inputs.images,
        inputs.annotations,
        inputs.settings,
        pool=inputs.pool,
        crowds=crowds or inputs.crowds,
        bad_objects=bad_objects or inputs.bad_objects,
        spelling=option,
        image_settings=inputs.image_settings,
        processes=processes,
        dask=dask,
    )
    there = f" ({data.new - data.made} there before)" if data.made < data.new else ""
    click.echo(
        f"{output}: {count_noun(data.new, 'new image')}{there} with {count_noun(data.pasted, 'pasted object')}, "
        f"and {count_noun(data.originals, 'original image')}"
    )
    if data.unchanged:
        click.echo(f"{data.unchanged} of {count_noun(data.new, 'new image')} received no object")
