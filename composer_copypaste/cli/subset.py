"""``copypaste subset``."""

from pathlib import Path
from typing import Literal

import click

from composer_copypaste.cli import ANNOTATION_FILE, BAD_OBJECTS_HELP, ExistingPath, reading_of_parts

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--annotations", type=ANNOTATION_FILE, required=True, help="A COCO annotation file.")
@click.option(
    "--images-list", type=ExistingPath("list of images"), help="Text file with an image's id or file name in each line."
)
@click.option("--categories", metavar="NAME,...", help="Keep these categories, and the images that show them.")
@click.option("--empty-images", is_flag=True, help="With --categories: keep the images that show none of them, too.")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), help="Keep this fraction of the images.")
@click.option("--group", metavar="KEY", help="With --fraction: images with the same value of this key stay together.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="With --fraction: another seed draws others.")
@click.option("--bad-objects", type=click.Choice(["refuse", "leave_out"]), default="refuse", help=BAD_OBJECTS_HELP)
def command(  # noqa: PLR0913 - click hands over each option
    output: Path,
    annotations: Path,
    images_list: Path | None,
    categories: str | None,
    empty_images: bool,
    fraction: float | None,
    group: str | None,
    seed: int,
    bad_objects: Literal["refuse", "leave_out"],
) -> None:
    """Write a part of a data set.

    A fraction is stratified by category. Of the same file and seed, smaller fractions lie inside larger ones, whatever
    command drew them: 10 % of the images are among the 25 %. Several options apply in the order in which they stand
    below. A file name may lack its folder, or its extension too, as lists of Pascal VOC have it.

    \b
    Example:
      copypaste subset tenth.json --annotations train.json --fraction 0.1

    It writes OUTPUT, a COCO annotation file. All else stays as it is, ids too. A file that is there is not overwritten.
    """
    from composer_copypaste.data.annotation_file import AnnotationFile
    from composer_copypaste.data.subsets import subset_annotations
    from composer_copypaste.errors import RecipeError, count_noun

    if images_list is None and categories is None and fraction is None:
        raise RecipeError("command line: expected --images-list, --categories or --fraction: they say what is kept")
    written = subset_annotations(
        AnnotationFile.read(annotations, reading_of_parts(bad_objects)),
        output,
        images=images_list,
        categories=None if categories is None else [name.strip() for name in categories.split(",")],
        empty_images=empty_images,
        fraction=fraction,
        group=group,
        seed=seed,
    ).annotations
    images_left, objects = count_noun(len(written.images), "image"), count_noun(written.num_objects, "object")
    click.echo(f"{output}: {images_left}, {objects} of {count_noun(len(written.categories), 'category', 'categories')}")
