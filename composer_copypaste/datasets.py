"""The data sets that a recipe names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from composer_copypaste.config.schema import CocoFiles, DataSettings, Recipe
from composer_copypaste.data.check_images import check_images
from composer_copypaste.data.coco import CocoInstances, InstanceData, in_folder
from composer_copypaste.data.cutouts import CutOutPool
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.shards import CROWDS
from composer_copypaste.data.streaming import StreamingCocoInstances
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform
from composer_copypaste.data_advice import warn_of_many_objects
from composer_copypaste.errors import DataError, RecipeError
from composer_copypaste.functional.category_names import labelled
from composer_copypaste.pools import open_pool
from composer_copypaste.reading import in_recipe, load_annotations, with_labels_of
from composer_copypaste.settings import CopyPasteSettings, ShapesSettings


@dataclass(frozen=True)
class Data:
    """The pictures that a recipe trains on and those that it is evaluated on."""

    train: InstanceData
    val: InstanceData
    pool: CutOutPool | None = None
    """Cut-outs, as further sources of copy-paste."""


def open_data(recipe: Recipe) -> Data:
    """The recipe's data sets, completely checked; a drawn one is drawn now, if it is not there yet.

    Raises:
        DataError: listing what is wrong with annotations or pictures, also those of the pool of cut-outs.
        RecipeError: where copy-paste names categories that there are not, or no cut-out may be copied.
    """
    train_files, val_files = coco_files(recipe.data)
    train = _training_data(train_files, recipe)
    source = str(train_files.annotations or train_files.streaming)
    val = with_labels_of(evaluation_data(val_files, recipe.data), train.categories, source)
    warn_of_many_objects(val.annotations, recipe)
    names = [category.name for category in train.categories]
    return Data(train, val, open_pool(recipe, copy_paste_settings(recipe, names), names))


def _training_data(files: CocoFiles, recipe: Recipe) -> InstanceData:
    return _open(files, recipe.data, _transform(recipe.data), masks=True, seed=recipe.seed)


def evaluation_data(files: CocoFiles, settings: DataSettings) -> InstanceData:
    """The data to evaluate on, completely checked; ``settings`` say how annotations and images are read.

    Raises:
        DataError: listing what is wrong with annotations or pictures.
    """
    return _open(files, settings, None, masks=False, seed=0)


def _open(
    files: CocoFiles,
    settings: DataSettings,
    transform: LargeScaleJitterTransform | FlipTransform | None,
    *,
    masks: bool,
    seed: int,
) -> InstanceData:
    image_settings = settings.image_settings
    if files.streaming is not None:
        shards = StreamingCocoInstances(
            files.streaming,
            transform,
            masks=masks,
            seed=seed,
            cache=files.cache,
            cache_gigabytes=files.cache_gigabytes,
        )
        _check_value_range(shards, settings)
        _check_crowds(shards, settings)
        return shards
    images = cast(Path, files.images)
    annotations = in_folder(load_annotations(cast(Path, files.annotations), settings), images)
    check_images(annotations, images, image_settings)
    return CocoInstances(images, annotations, transform, masks=masks, seed=seed, image_settings=image_settings)


def _check_value_range(shards: StreamingCocoInstances, settings: DataSettings) -> None:
    """Raise ``DataError`` where the recipe gives another range of values than the shards were written for."""
    written = shards.manifest.image_settings.value_range
    if settings.value_range not in (None, written):
        raise DataError(
            f"{shards.source}: the shards were written for {_range_called(written)}, data.value_range is "
            f"{list(settings.value_range or ())}; leave that out, or write the shards anew with --value-range"
        )


def _range_called(limits: tuple[float, float] | None) -> str:
    return "no value range" if limits is None else f"a value range of {list(limits)}"


def _check_crowds(shards: StreamingCocoInstances, settings: DataSettings) -> None:
    """Raise ``DataError`` where crowds were taken for something else when the shards were written."""
    written = shards.manifest.source.get(CROWDS, "ignore")
    if settings.crowds not in (None, written) and not (written == "ignore" and shards.num_crowds == 0):
        raise DataError(
            f"{shards.source}: expected shards that were written by copypaste shard --crowds {settings.crowds}, as "
            f"{in_recipe('crowds', settings.crowds)} says; write them anew, or give {in_recipe('crowds', 'null')}"
        )


def coco_files(settings: DataSettings) -> tuple[CocoFiles, CocoFiles]:
    """Where the pictures to train on and those to evaluate on are; drawn ones are drawn now, if they are not there."""
    if settings.train is not None and settings.val is not None:
        return settings.train, settings.val
    root = draw_shapes(settings.shapes or ShapesSettings())
    train, val = (
        CocoFiles(images=root / split, annotations=root / "annotations" / f"instances_{split}.json")
        for split in ("train", "val")
    )
    return train, val


def copy_paste_settings(recipe: Recipe, categories: Sequence[str]) -> CopyPasteSettings | None:
    """The recipe's section, with labels in place of the names of categories; None where there is none.

    Raises:
        RecipeError: where it names categories, or labels, that there are not.
    """
    if recipe.copy_paste is None:
        return None
    try:
        return labelled(recipe.copy_paste, categories, stacklevel=2)  # here, so that Python says it once
    except ValueError as error:
        raise RecipeError(f"copy_paste.{error}") from None


def _transform(settings: DataSettings) -> LargeScaleJitterTransform | FlipTransform | None:
    if settings.jitter is None:
        return FlipTransform(settings.p_flip)
    return LargeScaleJitterTransform(settings.jitter) if settings.jitter_on == "loader" else None
