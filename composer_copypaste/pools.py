"""The pool of cut-outs that a recipe names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from composer_copypaste.config.schema import PoolSettings, Recipe
from composer_copypaste.data.checksums import checksum
from composer_copypaste.data.cutouts import CutOutPool, pictures_of_folder
from composer_copypaste.errors import RecipeError
from composer_copypaste.functional.pool import check_pool
from composer_copypaste.reading import load_annotations
from composer_copypaste.settings import CopyPasteSettings


def open_pool(recipe: Recipe, settings: CopyPasteSettings | None, categories: Sequence[str]) -> CutOutPool | None:
    """The recipe's pool, completely checked; None where it has none.

    Raises:
        DataError: listing what is wrong with its files.
        RecipeError: where the settings of copy-paste let nothing of it be copied.
    """
    if recipe.data.pool is None or settings is None:
        return None
    files, pictures = recipe.data.pool, recipe.data.image_settings
    if files.folder is not None:
        pool = CutOutPool.from_folder(files.folder, categories, megabytes=files.megabytes, image_settings=pictures)
    else:
        annotations, images = load_annotations(cast(Path, files.annotations), recipe.data), cast(Path, files.images)
        pool = CutOutPool.from_coco(
            annotations, images, categories=categories, megabytes=files.megabytes, image_settings=pictures
        )
    try:
        check_pool(pool, settings)
    except ValueError as error:
        raise RecipeError(f"data.{error}") from None
    return pool


def pool_digest(files: PoolSettings) -> str:
    """A checksum of a pool: equal for the same cut-outs, wherever they lie.

    It covers the annotation file, but not its pictures, as for the data that is trained on; of a folder the names,
    which give the categories and the order, and all bytes: opening the pool has decoded them, which takes longer.
    """
    folder = files.folder
    if folder is None:
        return checksum([cast(Path, files.annotations).read_bytes()])
    pictures = pictures_of_folder(folder)
    return checksum(part for path in pictures for part in (os.fsencode(path.relative_to(folder)), path.read_bytes()))
