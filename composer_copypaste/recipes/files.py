"""Checks that the files that a recipe names are there, before what reads them is loaded, which takes seconds."""

from composer_copypaste.files import check_exists
from composer_copypaste.recipes.schema import CocoFiles, PoolSettings, Recipe


def check_named_files(recipe: Recipe) -> None:
    """Raise ``DataError`` where annotations, a folder of images or cut-outs of a recipe are missing.

    Shards are left out: they may lie in an object store.
    """
    for files in (recipe.data.train, recipe.data.val, recipe.data.pool):
        check_coco_files(files)
    if recipe.data.pool is not None and recipe.data.pool.folder is not None:
        check_exists(recipe.data.pool.folder, "folder of cut-outs")


def check_coco_files(files: CocoFiles | PoolSettings | None) -> None:
    """Raise ``DataError`` where the annotations of a data set or the folder of its images are missing."""
    if files is None or files.annotations is None or files.images is None:
        return
    check_exists(files.annotations, "annotation file")
    check_exists(files.images, "folder of images")
