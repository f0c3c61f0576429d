"""``copypaste split``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from composer_copypaste.cli import ANNOTATION_FILE, BAD_OBJECTS_HELP, FOLDER_OF_IMAGES, reading_of_parts

if TYPE_CHECKING:
    from composer_copypaste.data.annotation_file import AnnotationFile

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


class Shares(click.ParamType):
    """Names with shares, as "train=0.8,val=0.2"."""

    name = "name=share,..."

    def convert(
        self, value: str | dict[str, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """The shares by name."""
        if isinstance(value, dict):
            return value
        shares: dict[str, float] = {}
        for part in value.split(","):
            name, _, share = part.strip().partition("=")
            try:
                shares[name] = float(share)
            except ValueError:
                self.fail(f"expected names with shares, such as train=0.8,val=0.2, got {value!r}", param, ctx)
        if len(shares) < len(value.split(",")):
            self.fail(f"expected each name once, got {value!r}", param, ctx)
        return shares


@click.command
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--annotations", type=ANNOTATION_FILE, required=True, help="A COCO annotation file.")
@click.option("--parts", type=Shares(), required=True, help="The parts' names and shares: train=0.8,val=0.1,test=0.1")
@click.option("--images", type=FOLDER_OF_IMAGES, help="Folder of the images; then equal files stay together.")
@click.option("--group", metavar="KEY", help="Images with the same value of this key in the JSON stay together.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Another seed gives other parts; default: 0.")
@click.option("--bad-objects", type=click.Choice(["refuse", "leave_out"]), default="refuse", help=BAD_OBJECTS_HELP)
def command(  # noqa: PLR0913 - click hands over each option
    output: Path,
    annotations: Path,
    parts: dict[str, float],
    images: Path | None,
    group: str | None,
    seed: int,
    bad_objects: Literal["refuse", "leave_out"],
) -> None:
    """Divide a data set into parts, such as train and val.

    Each part gets about its share of the images, and of each category's objects. With --images, files that are equal
    byte by byte are in one part, under any names. Give --group if images were cut from the same larger image, or show
    the same scene: a key of the JSON's images, such as slide or video.

    \b
    Example:
      copypaste split parts --annotations all.json --images photos --parts train=0.8,val=0.2

    It writes OUTPUT/train.json and so on, for each part. All keys and ids stay as they are, and the images where they
    are. The same command gives the same files; others are not overwritten.
    """
    from composer_copypaste.data.annotation_file import AnnotationFile
    from composer_copypaste.data.splits import split_annotations

    file = AnnotationFile.read(annotations, reading_of_parts(bad_objects))
    written = split_annotations(file, output, parts, images=images, group=group, seed=seed)
    for name, part in written.items():
        click.echo(f"{output / f'{name}.json'}: {_describe_part(part, file)}")


def _describe_part(part: "AnnotationFile", whole: "AnnotationFile") -> str:
    """Numbers of images and objects with their shares, and the smallest and largest share of a category."""
    from composer_copypaste.data.splits import category_shares
    from composer_copypaste.errors import count_noun

    images, objects = len(part.annotations.images), part.annotations.num_objects
    text = f"{count_noun(images, 'image')} ({_percent(images / len(whole.annotations.images))})"
    shares: Mapping[str, float] = category_shares(part.annotations, whole.annotations)
    if not shares:
        return f"{text} without objects"
    text += f", {count_noun(objects, 'object')} ({_percent(objects / whole.annotations.num_objects)})"
    return (
        text
        if len(shares) == 1
        else f"{text}; of each category {_percent(min(shares.values()))} to {_percent(max(shares.values()))}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
