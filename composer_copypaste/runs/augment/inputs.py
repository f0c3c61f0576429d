"""What ``copypaste augment`` is given: files and settings from a recipe, and from the command line on top of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from composer_copypaste.errors import RecipeError
from composer_copypaste.recipes.load import Layer, load_recipe, parse_override, validate_layers
from composer_copypaste.recipes.schema import PoolSettings, Recipe
from composer_copypaste.runs.data import coco_files
from composer_copypaste.settings import AugmentSettings, CopyPasteSettings, ImageSettings
from composer_copypaste.validation import type_adapter

_OF_TRAININGS = ("p", "stop", "warmup", "bank_size")
"""What a recipe's section says of a training alone: offline, every new image receives objects, from all images."""


@dataclass(frozen=True)
class AugmentInputs:
    """The files that an offline data set is made from, and how."""

    images: Path
    annotations: Path
    settings: AugmentSettings
    pool: PoolSettings | None
    crowds: Literal["objects", "ignore"] | None
    bad_objects: Literal["refuse", "leave_out"]
    image_settings: ImageSettings


def inputs_of_command(
    recipe: str | None,
    images: Path | None,
    annotations: Path | None,
    pool: PoolSettings | None,
    options: Mapping[str, object],
    overrides: Sequence[str],
) -> AugmentInputs:
    """Files and settings, those of the command line instead of the recipe's.

    Args:
        recipe: a file or the name of a shipped recipe; None: there is no recipe.
        images: the folder of images; None: the recipe's.
        annotations: their annotations.
        pool: cut-outs; None: the recipe's.
        options: the keys of `AugmentSettings` that are given.
        overrides: ``KEY=VALUE`` each, for ``copy_paste``, also as ``copy_paste.KEY=VALUE``.

    Raises:
        RecipeError: where something is missing or wrong.
    """
    if (images is None) != (annotations is None) or (images is None and recipe is None):
        raise RecipeError(
            "command line: expected --images and --annotations, or a --recipe that names them in data.train"
        )
    loaded = None if recipe is None else load_recipe(recipe, _file_overrides(images, annotations))
    layers = [*_recipe_layers(loaded), *({name: value} for name, value in options.items())]
    given: list[Layer] = [(layer, {}) for layer in layers]
    settings = validate_layers(AugmentSettings, [*given, *map(_parse_setting, overrides)], "command line")
    if loaded is None:
        return AugmentInputs(
            cast(Path, images), cast(Path, annotations), settings, pool, None, "refuse", ImageSettings()
        )
    data, (train, _) = loaded.data, coco_files(loaded.data)
    if train.images is None or train.annotations is None:
        raise RecipeError(
            f"{recipe}: expected images and annotations in data.train, got shards; give --images and --annotations"
        )
    return AugmentInputs(
        train.images,
        train.annotations,
        settings,
        pool or data.pool,
        data.crowds,
        data.bad_objects,
        data.image_settings,
    )


def _parse_setting(text: str) -> Layer:
    """The layer of a setting of copy-paste, with or without the name of the section."""
    return parse_override(text if text.startswith("copy_paste.") else f"copy_paste.{text}")


def _file_overrides(images: Path | None, annotations: Path | None) -> list[str]:
    """Overrides that name the files for a recipe; those to evaluate on are not used, but a recipe must have some."""
    if images is None or annotations is None:
        return []
    named = {"images": images, "annotations": annotations}
    return ["data.shapes=null"] + [
        f"data.{part}.{key}={json.dumps(str(path))}" for part in ("train", "val") for key, path in named.items()
    ]


def _recipe_layers(recipe: Recipe | None) -> list[Mapping[str, Any]]:
    """The recipe's section of copy-paste as values, without what is of trainings alone."""
    if recipe is None or recipe.copy_paste is None:
        return []
    values = type_adapter(CopyPasteSettings).dump_python(recipe.copy_paste, mode="json")
    return [{"copy_paste": {key: value for key, value in values.items() if key not in _OF_TRAININGS}}]
