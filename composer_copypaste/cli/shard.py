"""``copypaste shard``."""

import re
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
    errors_name_options,
    given_arguments,
    option,
    program,
)

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class ByteSize(click.ParamType):
    """A number of bytes, such as "64MB" or "64000000"."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|)", value.strip().upper())
        if found is None:
            self.fail(f"expected a size such as 64MB, got {value!r}", param, ctx)
        from composer_copypaste.data.streaming.write import LARGEST_SHARD, SMALLEST_SHARD

        nbytes = round(float(found[1]) * _UNITS[found[2]])
        if not SMALLEST_SHARD <= nbytes <= LARGEST_SHARD:
            self.fail(f"expected a size from 1KB to 2GB, got {value!r}", param, ctx)
        return nbytes


@click.command
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--images", type=FOLDER_OF_IMAGES, required=True, help="Folder of the images.")
@click.option("--annotations", type=ANNOTATION_FILE, required=True, help="Their COCO instance annotations.")
@click.option("--crowds", type=click.Choice(["objects", "ignore"]), help=f"{CROWDS_HELP}; default: as marked, checked.")
@click.option("--bad-objects", type=click.Choice(["refuse", "leave_out"]), default="refuse", help=BAD_OBJECTS_HELP)
@click.option("--processes", type=click.IntRange(min=1), default=1, help="Number of processes that read and write.")
@click.option("--shard-size", type=ByteSize(), default="64MB", help="Size of a shard, about; default: 64MB.")
@click.option(
    "--value-range",
    type=(float, float),
    metavar="LOW HIGH",
    help="Values that become black and white in images of more than 8 bits, such as 0 4095; default: 0 65535.",
)
@click.option("--max-megapixels", type=float, help="Larger images are refused; default: 178.")
def command(  # noqa: PLR0913 - click hands over each option
    output: Path,
    images: Path,
    annotations: Path,
    crowds: Literal["objects", "ignore"] | None,
    bad_objects: Literal["refuse", "leave_out"],
    processes: int,
    shard_size: int,
    value_range: tuple[float, float] | None,
    max_megapixels: float | None,
) -> None:
    """Write a data set as shards, which recipes stream.

    OUTPUT is a new folder for shards of MosaicML Streaming (MDS). Annotations and images are checked first. The same
    command goes on where it was interrupted; the bytes are the same for any number of processes.

    \b
    Example:
      copypaste shard shards/train --images photos/train --annotations train.json --processes 8
      copypaste train finetune data.train.streaming=shards/train data.val.streaming=shards/val

    It writes OUTPUT/shard.00000.mds and so on, index.json, annotations.json and copypaste.json. Copied to an object
    store, the folder is read from there: data.train.streaming=s3://bucket/train data.train.cache=/scratch/shards
    """
    from composer_copypaste.data.annotation_json import ReadingOptions
    from composer_copypaste.data.streaming.write import write_shards
    from composer_copypaste.errors import count_noun
    from composer_copypaste.settings import ImageSettings

    limit = ImageSettings.max_megapixels if max_megapixels is None else max_megapixels
    with errors_name_options():
        settings = ImageSettings(value_range=value_range, max_megapixels=limit)
    context = click.get_current_context()
    context.meta[RESUME_COMMAND] = shlex.join([program(), "shard", *given_arguments(context)])
    written = write_shards(
        output,
        images,
        annotations,
        processes=processes,
        shard_size=shard_size,
        image_settings=settings,
        reading=ReadingOptions(crowds, bad_objects, option),
    )
    kept = f" ({count_noun(written.kept, 'shard')} there before)" if written.kept else ""
    size = written.nbytes / 1e6
    crowded = (
        f"; {written.crowds} of their {count_noun(written.objects, 'object')} are crowds" if written.crowds else ""
    )
    written_images, shards = count_noun(written.images, "image"), count_noun(written.shards, "shard")
    click.echo(f"{output}: {written_images} in {shards}{kept}, {size:,.1f} MB{crowded}")
