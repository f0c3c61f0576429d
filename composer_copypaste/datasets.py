"""The data sets that a recipe names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from composer_copypaste.config.problems import shown
from composer_copypaste.config.schema import CocoFiles, DataSettings, Recipe
from composer_copypaste.data.check_images import check_images
from composer_copypaste.data.coco import CocoAnnotations, CocoInstances, InstanceData
from composer_copypaste.data.cutouts import CutOutPool
from composer_copypaste.data.json_files import read_json
from composer_copypaste.data.records import Category
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.streaming import StreamingCocoInstances
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform
from composer_copypaste.data_advice import warn_of_many_objects
from composer_copypaste.errors import DataError, RecipeError
from composer_copypaste.pools import open_pool
from composer_copypaste.settings import ShapesSettings


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
    val = evaluation_data(val_files, recipe.data)
    check_categories(val.annotations, train.categories, str(train_files.annotations or train_files.streaming))
    warn_of_many_objects(val.annotations, recipe)
    names = [category.name for category in train.categories]
    check_labels(recipe, names)
    return Data(train, val, open_pool(recipe, names))


def _training_data(files: CocoFiles, recipe: Recipe) -> InstanceData:
    return _open(files, recipe.data, _transform(recipe.data), masks=True, seed=recipe.seed)


def evaluation_data(files: CocoFiles, settings: DataSettings) -> InstanceData:
    """The data to evaluate on, completely checked.

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
        return shards
    images, annotations = cast(Path, files.images), CocoAnnotations.load(cast(Path, files.annotations))
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


def trained_categories(path: Path) -> list[Category]:
    """The categories that the model of a run knows, as the run's folder keeps them.

    Raises:
        DataError: where the file holds anything else.
    """
    found = read_json(path, "file of categories")
    try:
        return [Category(**category) for category in found]
    except TypeError:
        raise DataError(
            f"{path}: expected a list of categories, each with 'id' and 'name', found {shown(found)}; "
            "put it back as it was"
        ) from None


def check_categories(annotations: CocoAnnotations, expected: Sequence[Category], source: str) -> None:
    """Raise ``DataError`` where the annotations' categories are not those of the source."""
    if list(annotations.categories) != list(expected):
        raise DataError(
            f"{annotations.path}: expected the categories of {source}, {_listed(expected)}; "
            f"got {_listed(annotations.categories)}"
        )


def check_labels(recipe: Recipe, categories: Sequence[str]) -> None:
    """Raise ``RecipeError`` where copy-paste names a label that is none of these categories'."""
    for key in ("categories", "category_weights"):
        given = getattr(recipe.copy_paste, key, None) or ()
        unknown = [label for label in given if not 1 <= label <= len(categories)]
        if unknown:
            known = ", ".join(f"{label} {name}" for label, name in enumerate(categories, start=1))
            raise RecipeError(
                f"copy_paste.{key}: expected labels, which number the categories in the order of their ids ({known}), "
                f"got {unknown[0]}"
            )


def _listed(categories: Sequence[Category]) -> str:
    return ", ".join(f"{category.id} {category.name}" for category in categories)


def _transform(settings: DataSettings) -> LargeScaleJitterTransform | FlipTransform | None:
    if settings.jitter is None:
        return FlipTransform(settings.p_flip)
    return LargeScaleJitterTransform(settings.jitter) if settings.jitter_on == "loader" else None
