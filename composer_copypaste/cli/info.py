"""``copypaste info``."""

import json
from pathlib import Path

import click

from composer_copypaste.cli import FOLDER_OF_IMAGES, ExistingPath

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("file", type=ExistingPath("file"))
@click.option("--images", type=FOLDER_OF_IMAGES, help="Folder of a data set's images: all are looked at too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all problems, instead of tables.")
@click.option("--output", type=click.Path(path_type=Path), help="A PNG file, for a plot of the distributions.")
def command(file: Path, images: Path | None, as_json: bool, output: Path | None) -> None:
    """Say what a checkpoint, a data set or a run is, and what is in it.

    FILE is a checkpoint or state dict; an ONNX or TorchScript file; a COCO file of annotations, of images alone or of
    results; evaluation.json or matches.npz of an evaluation; or the folder of a run, an ablation, an evaluation,
    predictions, an offline data set or shards. All problems of a data set are listed, not only the first.

    \b
    Example:
      copypaste info train.json --output train.png
      copypaste info runs/mine/checkpoints/latest-rank0.pt

    It prints facts, a table of the categories, and problems; it writes only the PNG, where --output says: objects by
    area, by image and by category, the losses of a run, or the weights of a checkpoint.
    """
    from composer_copypaste.runs.info.describe import describe_file

    found = describe_file(file, images=images)
    if output is not None:
        found.save_png(output)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else str(found))
    if output is not None:
        click.echo(f"\n{output}", err=as_json)
