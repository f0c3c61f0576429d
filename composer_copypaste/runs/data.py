"""The data sets that a recipe names."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.category_weights import with_counted_weights
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances, InstanceData, MaskForm, checksum
from composer_copypaste.data.image_files import check_images
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform
from composer_copypaste.errors import DataError, RecipeError, as_json, as_recipe_value, first_few, warn_of_data
from composer_copypaste.files import read_json
from composer_copypaste.functional.category_names import with_labels
from composer_copypaste.functional.scene import check_scene
from composer_copypaste.functional.sources import Pool, check_pool, weighted_categories
from composer_copypaste.functional.transformed_objects import check_object_transform
from composer_copypaste.recipes.schema import CocoFiles, DataSettings, PoolSettings, Recipe
from composer_copypaste.settings import CopyPasteSettings, ImageSettings, ShapesSettings

if TYPE_CHECKING:
    from composer_copypaste.data.cutouts import CutOutPool

ReadAnnotations = Callable[[Path], CocoAnnotations]


def recipe_spelling(name: str, value: str) -> str:
    """A key of the section ``data`` and its value, as on the command line."""
    return f"data.{name}={value}"


def read_annotations(path: Path, settings: DataSettings, *, outlines: bool = True) -> CocoAnnotations:
    """The annotations in a file; ``outlines``: whether each object must have one.

    Raises:
        DataError: listing everything that is wrong with them.
    """
    return CocoAnnotations.load(
        path, crowds=settings.crowds, bad_objects=settings.bad_objects, outlines=outlines, spelling=recipe_spelling
    )


def read_trained_categories(path: Path) -> list[Category]:
    """The categories of a run's model, from the file in the run's folder.

    Raises:
        DataError: where the file holds anything else.
    """
    found = read_json(path, "file of categories")
    try:
        return [Category(**category) for category in found]
    except TypeError:
        raise DataError(
            f"{path}: expected a list of categories, each with 'id' and 'name', found {as_recipe_value(found)}; "
            "put it back as it was"
        ) from None


def with_trained_labels(data: InstanceData, trained: Sequence[Category], source: str) -> InstanceData:
    """The data with the labels of the categories that a model is trained on.

    Where the data gives them other ids, they are matched by name, and a warning says so. The data may lack some of
    them, and must have no objects of others.

    Args:
        data: the data to be evaluated on.
        trained: the categories of the model, in the order of their labels.
        source: where those are from, for messages.

    Raises:
        DataError: where the categories cannot be matched.
    """
    annotations, own = data.annotations, data.annotations.categories
    if list(own) == list(trained):
        return data
    ids, names = {category.name: category.id for category in own}, {category.name for category in trained}
    used = {annotation["category_id"] for group in annotations.annotations.values() for annotation in group}
    others = [category for category in own if category.name not in names and category.id in used]
    repeated = len(ids) < len(own) or len(names) < len(trained)
    if repeated or others or not ids.keys() & names:
        raise DataError(
            f"{annotations.path}: expected the categories of {source}, {_list_categories(trained)}; "
            + (f"got objects of others: {_list_categories(others)}" if others else f"got {_list_categories(own)}")
            + ("; names that occur twice cannot be matched" if repeated else "")
        )
    free = count(max(ids.values()) + 1)
    matched = tuple(Category(ids[c.name] if c.name in ids else next(free), c.name) for c in trained)
    pairs = [f"{ids[c.name]} here is {c.id} there, {as_json(c.name)}" for c in trained if ids.get(c.name, c.id) != c.id]
    lacking = [as_json(c.name) for c in trained if c.name not in ids]
    unknown = [as_json(c.name) for c in own if c.name not in names]
    differences = (f": {first_few(pairs)}" if pairs else "") + (f"; it lacks {first_few(lacking)}" if lacking else "")
    warn_of_data(
        f"{annotations.path}: its categories are not those of {source}; they are matched by name{differences}"
        + (f"; it also has, of no object, {first_few(unknown)}" if unknown else "")
    )
    return data.with_categories(matched)


def _list_categories(categories: Sequence[Category]) -> str:
    return first_few([f"{category.id} {as_json(category.name)}" for category in categories], 20)


def open_pool(
    recipe: Recipe, settings: CopyPasteSettings | None, categories: Sequence[str], read: ReadAnnotations
) -> Pool | None:
    """The recipe's pool of cut-outs, completely checked; None without one. ``read`` reads a file of annotations.

    Raises:
        DataError: listing what is wrong with its files.
        RecipeError: where the settings of copy-paste exclude all its cut-outs.
    """
    pool = pool_settings(recipe.data)
    if pool is None or settings is None:
        return None
    return open_cut_outs(pool, recipe.data.image_settings, settings, categories, read)


def pool_settings(settings: DataSettings) -> PoolSettings | None:
    """The recipe's pool, with the files of the training images where these are the pool; None without one.

    Raises:
        RecipeError: where those are shards.
    """
    pool = settings.pool
    if pool is None or not pool.training_images:
        return pool
    train, _ = coco_files(settings)
    if train.annotations is None:
        raise RecipeError("data.pool.training_images: expected false where training data are shards; name their images")
    return replace(pool, training_images=False, images=train.images, annotations=train.annotations)


def open_cut_outs(
    files: PoolSettings,
    reading: ImageSettings,
    settings: CopyPasteSettings,
    categories: Sequence[str],
    read: ReadAnnotations,
) -> "CutOutPool":
    """A pool of cut-outs, completely checked.

    Args:
        files: where they are.
        reading: how image files are read.
        settings: of copy-paste, with labels in place of names.
        categories: the names of label 1, of label 2 and so on.
        read: reads a file of annotations.

    Raises:
        DataError: listing what is wrong with its files.
        RecipeError: where the settings of copy-paste exclude all its cut-outs.
    """
    from composer_copypaste.data.cutouts import CutOutPool  # most runs have no pool

    if files.folder is not None:
        pool = CutOutPool.from_folder(files.folder, categories, megabytes=files.megabytes, image_settings=reading)
    else:
        annotations, images = read(cast(Path, files.annotations)), cast(Path, files.images)
        pool = CutOutPool.from_coco(
            annotations, images, category_names=categories, megabytes=files.megabytes, image_settings=reading
        )
    try:
        check_pool(pool, settings)
    except ValueError as error:
        raise RecipeError(f"data.{error}") from None
    if not files.fill:
        return pool
    return pool.filled([int(k) for _, weight, group in weighted_categories(pool, settings) if weight for k in group])


def pool_digest(files: PoolSettings) -> str:
    """A checksum of a pool: equal for the same cut-outs, wherever they lie.

    As for training data, it covers the annotation file but not its images. Of a folder it covers the names, which give
    the categories and the order, and all bytes: reading them takes less time than opening the pool, which decodes them.
    """
    folder = files.folder
    if folder is None:
        return checksum([cast(Path, files.annotations).read_bytes()])
    from composer_copypaste.data.cutouts import category_folder_images

    images = category_folder_images(folder)
    return checksum(part for path in images for part in (os.fsencode(path.relative_to(folder)), path.read_bytes()))


@dataclass(frozen=True)
class RunData:
    """The images that a recipe trains on and those that it is evaluated on."""

    train: InstanceData
    val: InstanceData
    pool: Pool | None = None
    """Cut-outs, as additional sources of copy-paste."""


def open_data(recipe: Recipe) -> RunData:
    """The recipe's data sets, completely checked; shapes are drawn now, if they are not there yet.

    Raises:
        DataError: listing what is wrong with annotations or images, also those of the pool of cut-outs.
        RecipeError: where copy-paste names unknown categories, or excludes all cut-outs.
    """
    read = cache(partial(read_annotations, settings=recipe.data))  # evaluation and pool may name the training's file
    train_files, val_files = coco_files(recipe.data)
    transform = _loader_transform(recipe.data)
    # without a transform, images are jittered on the device, which takes many steps for each cut-out, few for planes
    masks: MaskForm = True if transform is None else "compact"
    masks = needs_masks(recipe) and masks
    train = _open_data_set(
        train_files, recipe.data, partial(read, outlines=bool(masks)), transform, masks=masks, seed=recipe.seed
    )
    source = str(train_files.annotations or train_files.streaming)
    read_scored = partial(read, outlines=recipe.model.has_masks)
    val = _open_data_set(val_files, recipe.data, read_scored, None, masks=False, seed=0)
    val = with_trained_labels(val, train.categories, source)
    warn_of_many_objects(val.annotations, recipe)
    names = [category.name for category in train.categories]
    read_cut_out = partial(read, outlines=True)  # as the training data are, so that a file is read once
    return RunData(train, val, open_pool(recipe, copy_paste_settings(recipe, names, train), names, read_cut_out))


def needs_masks(recipe: Recipe) -> bool:
    """Whether the training needs the objects' masks: to train by them, or to paste by them."""
    pastes = recipe.copy_paste is not None and recipe.copy_paste.p > 0
    return recipe.model.has_masks or pastes


def evaluation_data(files: CocoFiles, settings: DataSettings, *, outlines: bool = True) -> InstanceData:
    """The data to evaluate on, completely checked; ``settings`` say how annotations and images are read.

    Args:
        files: where they are.
        settings: the recipe's section.
        outlines: whether each object must have an outline, as the scores of masks need.

    Raises:
        DataError: listing what is wrong with annotations or images.
    """
    read = partial(read_annotations, settings=settings, outlines=outlines)
    return _open_data_set(files, settings, read, None, masks=False, seed=0)


def _open_data_set(
    files: CocoFiles,
    settings: DataSettings,
    read: ReadAnnotations,
    transform: LargeScaleJitterTransform | FlipTransform | None,
    *,
    masks: MaskForm,
    seed: int,
) -> InstanceData:
    if files.streaming is not None:
        return _open_shards(files.streaming, files, settings, transform, masks=masks, seed=seed)
    images, annotations = cast(Path, files.images), read(cast(Path, files.annotations))
    data = CocoInstances(images, annotations, transform, masks=masks, seed=seed, image_settings=settings.image_settings)
    check_images(data.annotations, images, settings.image_settings)
    return data


def _open_shards(
    source: str,
    files: CocoFiles,
    settings: DataSettings,
    transform: LargeScaleJitterTransform | FlipTransform | None,
    *,
    masks: MaskForm,
    seed: int,
) -> InstanceData:
    """The data set of shards; raise ``DataError`` where they were written for other values or crowds than asked for."""
    from composer_copypaste.data.streaming.dataset import StreamingCocoInstances  # most runs have no shards
    from composer_copypaste.data.streaming.format import CROWDS

    cache, limit = files.cache, files.cache_gigabytes
    shards = StreamingCocoInstances(source, transform, masks=masks, seed=seed, cache=cache, cache_gigabytes=limit)
    written = shards.manifest.image_settings.value_range
    if settings.value_range not in (None, written):
        described = "no value range" if written is None else f"a value range of {list(written)}"
        raise DataError(
            f"{shards.source}: the shards were written for {described}, data.value_range is "
            f"{list(settings.value_range or ())}; leave that out, or write the shards again with --value-range"
        )
    crowds = shards.manifest.source.get(CROWDS, "ignore")
    if settings.crowds not in (None, crowds) and not (crowds == "ignore" and shards.num_crowds == 0):
        raise DataError(
            f"{shards.source}: expected shards that were written by copypaste shard --crowds {settings.crowds}, as "
            f"{recipe_spelling('crowds', settings.crowds)} says; write them again, or give "
            f"{recipe_spelling('crowds', 'null')}"
        )
    return shards


def warn_of_many_objects(annotations: CocoAnnotations, recipe: Recipe) -> None:
    """Warn where an image to evaluate on has more objects than are detected, or more of a category than are scored."""
    per_image: Counter[int] = Counter()
    per_category: Counter[tuple[int, int]] = Counter()
    for image, group in annotations.annotations.items():
        for annotation in group:
            if not annotation["iscrowd"]:
                per_image[image] += 1
                per_category[image, annotation["category_id"]] += 1
    detected, counted = recipe.model.detections_per_image, recipe.evaluation.max_dets[-1]
    most, most_of_category = max(per_image.values(), default=0), max(per_category.values(), default=0)
    changes = [f"model.detections_per_image={most}"] if most > detected else []
    if most_of_category > counted:
        limits = [*recipe.evaluation.max_dets[:-1], most_of_category]
        changes.append(f"evaluation.max_dets=[{','.join(map(str, limits))}]")
    if not changes:
        return
    beyond = sum(count > min(detected, counted) for count in per_image.values())
    warn_of_data(
        f"{annotations.path}: up to {most} objects in an image (more than {min(detected, counted)} in {beyond} of "
        f"{len(annotations.images)}), but at most {detected} are detected (model.detections_per_image), and at most "
        f"{counted} of a category are scored (the last of evaluation.max_dets): the others count as missed. "
        f"{' '.join(changes)} makes room for all"
    )


def coco_files(settings: DataSettings) -> tuple[CocoFiles, CocoFiles]:
    """The files to train on and to evaluate on; shapes are drawn now, if they are not there yet."""
    if settings.train is not None and settings.val is not None:
        return settings.train, settings.val
    root = draw_shapes(settings.shapes or ShapesSettings())
    train, val = (
        CocoFiles(images=root / split, annotations=root / "annotations" / f"instances_{split}.json")
        for split in ("train", "val")
    )
    return train, val


def copy_paste_settings(
    recipe: Recipe, categories: Sequence[str], train: InstanceData | None = None
) -> CopyPasteSettings | None:
    """The recipe's section, with labels in place of category names; None without one.

    Weights of categories are counted in the training data. Without these they are left out.

    Raises:
        RecipeError: where it names unknown categories or labels.
        DataError: where the file of a map cannot be used.
    """
    if recipe.copy_paste is None:
        return None
    try:
        settings = recipe.copy_paste
        if recipe.data.pool is None:
            check_pool(None, settings)
        if train is not None:
            settings = with_counted_weights(settings, lambda: train.annotations)
        elif isinstance(settings.category_weights, str):
            settings = replace(settings, category_weights=None, repeat_threshold=CopyPasteSettings.repeat_threshold)
        settings = with_labels(settings, categories, stacklevel=2)  # here, so that Python says it once
    except ValueError as error:
        raise RecipeError(f"copy_paste.{error}") from None
    check_scene(settings)
    check_object_transform(settings)
    return settings


def category_names(data: InstanceData) -> list[str]:
    """The names of label 1, of label 2 and so on."""
    return [category.name for category in data.categories]


def _loader_transform(settings: DataSettings) -> LargeScaleJitterTransform | FlipTransform | None:
    if settings.jitter is None:
        return FlipTransform(settings.p_flip)
    return LargeScaleJitterTransform(settings.jitter) if settings.jitter_on == "loader" else None
