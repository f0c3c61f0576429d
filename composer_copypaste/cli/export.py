"""``copypaste export``."""

from pathlib import Path
from typing import Literal

import click

from composer_copypaste.cli import ExistingPath, errors_name_options, say_loading

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--masks",
    type=click.Choice(["crops", "pasted"]),
    help="Mask R-CNN's: 28 x 28 probabilities inside each box (crops, default), or at the image's size (pasted).",
)
@click.option(
    "--images", type=ExistingPath("file or folder"), help="Images to check the file on; default: the run's data.val."
)
@click.option("--best", is_flag=True, help="Take the run's best checkpoint, which training.best_checkpoint keeps.")
@click.option("--recipe", help="Recipe of the model, where it is in no run's folder; default: that of its run.")
@click.option("--categories", type=ExistingPath("COCO file"), help="COCO file of its categories; default: the run's.")
@click.option("--max-box-difference", type=float, help="Largest difference of a box, in pixels; default: 0.1.")
@click.option("--max-score-difference", type=float, help="Largest difference of a score; default: 0.001.")
@click.option("--max-mask-difference", type=float, help="Largest difference of a mask's probability; default: 0.01.")
@click.option(
    "--max-unmatched", type=float, help="Largest fraction of objects that only one of the two finds; default: 0.01."
)
def command(  # noqa: PLR0913 - click gives each option by its name
    model: Path,
    output: Path,
    overrides: tuple[str, ...],
    masks: Literal["crops", "pasted"] | None,
    images: Path | None,
    best: bool,
    recipe: str | None,
    categories: Path | None,
    **limits: float | None,
) -> None:
    """Write a trained model as an ONNX, TorchScript or Detectron2 file.

    MODEL is the folder of a run, whose newest checkpoint is taken, or a checkpoint. OUTPUT ends with .onnx,
    .torchscript or .pkl. KEY=VALUE changes a key of the recipe, such as model.box_score_thresh=0.5.

    \b
    Example:
      copypaste export runs/quickstart-20260131-120000 model.onnx
      copypaste predict photos --weights model.onnx
      copypaste export runs/of_detectron2s_style model.pkl

    A file .pkl has the weights of a model of Detectron2's style by its names; the keys of its configuration are
    printed. Any other file takes an RGB image of any size, uint8 (height, width, 3), and gives boxes in its pixels,
    scores, labels and, of Mask R-CNN, masks. It is checked on 8 images, changed in size and form, and kept only if it
    finds what the model finds; the largest differences are printed.
    """
    from composer_copypaste.errors import RecipeError
    from composer_copypaste.runs.folder import find_best_checkpoint, find_checkpoint
    from composer_copypaste.settings import ExportSettings

    given = {name: value for name, value in limits.items() if value is not None}
    with errors_name_options():
        settings = ExportSettings(masks=masks, **given)
    source = find_best_checkpoint(model) if best else model
    find_checkpoint(source)

    say_loading(f"export {source}")
    from composer_copypaste.runs.export import export_run
    from composer_copypaste.runs.export_detectron2 import describe_keys, export_run_to_detectron2

    if output.suffix == ".pkl":
        if masks is not None or images is not None or given:
            raise RecipeError(f"{output}: weights for Detectron2 have no masks, images and differences to give")
        keys = export_run_to_detectron2(source, output, recipe=recipe, overrides=overrides, categories=categories)
        click.echo(f"{output}: {output.stat().st_size / 1e6:,.1f} MB; Detectron2 reads it with {describe_keys(keys)}")
        return
    differences = export_run(
        source,
        output,
        recipe=recipe,
        overrides=overrides,
        categories=categories,
        images=images,
        settings=settings,
    )
    click.echo(f"{output}: {output.stat().st_size / 1e6:,.1f} MB; {differences}")
