"""A recipe that is trained in seconds, for the tests of training, evaluation and their commands."""

import json
from pathlib import Path

from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.recipes.schema import Recipe


def tiny(folder: Path, *overrides: str) -> list[str]:
    """The arguments of a training of two batches on shapes that are drawn into ``folder/shapes``."""
    return [
        "quickstart",
        f"data.shapes.folder={folder / 'shapes'}",
        "data.shapes.train=8",
        "data.shapes.val=4",
        "data.shapes.size=64",
        "model.detections_per_image=10",  # of an untrained model each would be one that is scored and drawn
        "training.duration=2ba",
        "training.eval_interval=2ba",
        "training.checkpoint_interval=1ba",
        "training.device=cpu",
        "schedule.warmup=1ba",
        *overrides,
    ]


def tiny_recipe(folder: Path, *overrides: str) -> Recipe:
    """The same as a recipe."""
    name, *values = tiny(folder, *overrides)
    return load_recipe(name, values)


def on_files(root: Path) -> list[str]:
    """Overrides that name drawn shapes as a user's own files."""
    return [
        "data.shapes=null",
        *(
            f"data.{split}.{key}={path}"
            for split in ("train", "val")
            for key, path in (
                ("images", root / split),
                ("annotations", root / "annotations" / f"instances_{split}.json"),
            )
        ),
    ]


def remove_outlines(root: Path) -> None:
    """Leave only boxes in the annotations of drawn shapes."""
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"], annotation["area"]
        file.write_text(json.dumps(content))
