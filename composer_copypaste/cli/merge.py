"""``copypaste merge``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from composer_copypaste.cli import ANNOTATION_FILE, BAD_OBJECTS_HELP, FOLDER_OF_IMAGES, option, reading_of_parts

if TYPE_CHECKING:
    from composer_copypaste.data.merge import MergedAnnotations

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


class NewName(click.ParamType):
    """A category's name and its new name, as "car=vehicle"."""

    name = "old=new"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """The old and the new name."""
        if isinstance(value, tuple):
            return value
        old, _, new = value.partition("=")
        if not (old and new):
            self.fail(f"expected a category's name and its new name, such as car=vehicle, got {value!r}", param, ctx)
        return old, new


@click.command
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("files", metavar="FILE...", type=ANNOTATION_FILE, nargs=-1, required=True)
@click.option(
    "--images",
    type=FOLDER_OF_IMAGES,
    multiple=True,
    help="Folder of the images of all files; or given once for each file, in their order.",
)
@click.option("--rename", type=NewName(), multiple=True, help="Rename a category; may be given several times.")
@click.option("--renumber", is_flag=True, help="Number images, annotations and categories from 1 on.")
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "first", "join"]),
    default="refuse",
    help="If two files have the same image: refuse it (default), take the first file's, or join their objects.",
)
@click.option("--bad-objects", type=click.Choice(["refuse", "leave_out"]), default="refuse", help=BAD_OBJECTS_HELP)
def command(  # noqa: PLR0913 - click hands over each option
    output: Path,
    files: Sequence[Path],
    images: Sequence[Path],
    rename: Sequence[tuple[str, str]],
    renumber: bool,
    duplicates: Literal["refuse", "first", "join"],
    bad_objects: Literal["refuse", "leave_out"],
) -> None:
    """Merge annotation files, and rename or merge their categories.

    Categories of the same name become one, so renaming two to the same name merges them; this works with one file too.
    Ids stay as they are where they are free. If the files' images are in different folders, give --images for each:
    file names are then relative to the folder that holds them all, and images that are in two files are found.

    \b
    Example:
      copypaste merge all.json train.json val.json --images photos/train --images photos/val
      copypaste merge vehicles.json cars.json --rename car=vehicle --rename truck=vehicle

    It writes OUTPUT, a COCO annotation file. A file that is there is not overwritten.
    """
    from composer_copypaste.data.annotation_file import AnnotationFile
    from composer_copypaste.data.merge import merge_annotations

    merged = merge_annotations(
        [AnnotationFile.read(file, reading_of_parts(bad_objects)) for file in files],
        output,
        images=images,
        rename=dict(rename),
        renumber=renumber,
        duplicates=duplicates,
        spelling=option,
    )
    click.echo(f"{output}: {_describe(merged)}")


def _describe(merged: "MergedAnnotations") -> str:
    """What a merged file has, and what is not as in its files."""
    from composer_copypaste.errors import count_noun

    content = merged.content
    text = (
        f"{count_noun(len(content['images']), 'image')}, {count_noun(len(content['annotations']), 'object')} of "
        f"{count_noun(len(content['categories']), 'category', 'categories')}"
    )
    if merged.duplicates:
        text += f"; {count_noun(merged.duplicates, 'image')} left out, which an earlier file has"
    nouns = {"images": "image", "annotations": "annotation", "categories": "category", "licenses": "license"}
    changed = [count_noun(number, nouns[kind], kind) for kind, number in merged.changed_ids.items() if number]
    if changed:
        text += f"; new ids for {', '.join(changed)}"
    if merged.images is None:
        return text
    here = Path.cwd()
    folder = merged.images.relative_to(here) if merged.images.is_relative_to(here) else merged.images
    return f"{text}; file names are relative to {folder}"
