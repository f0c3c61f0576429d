"""Beginning a run in its folder, or resuming it: which recipe, data and process may."""

import errno
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.distributed import print_once
from composer_copypaste.errors import DataError, OutputError, RecipeError, as_recipe_value
from composer_copypaste.files import (
    atomic_write,
    is_unfinished_file,
    read_json,
    remove_unfinished_files,
    write_if_absent,
)
from composer_copypaste.integrations.composer.checkpoints import (
    batch_of_checkpoint,
    delete_old_checkpoints,
    saved_checkpoints,
)
from composer_copypaste.output_folder import check_is_no_file
from composer_copypaste.recipes.load import load_recipe, recipe_differences, recipe_to_yaml
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.data import RunData, pool_digest, pool_settings
from composer_copypaste.runs.folder import RunFolder

MAY_CHANGE = {
    "name",
    "output",
    "data.workers",
    "training.checkpoint_interval",
    *(f"data.{split}.{key}" for split in ("train", "val") for key in ("cache", "cache_gigabytes")),
    "data.accept_changes",
    "training.loggers",
    "training.picture_interval",
    "training.stop_after_nonfinite_losses",
}
"""Keys of a recipe that may change when a run is resumed: its result does not depend on them. It does, in the last
bits, on ``training.device``, ``cpu_threads`` and ``microbatch``, and on how evaluations are batched."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""Errors of disks that cannot lock files."""


def check_run_folder(folder: RunFolder, recipe: Recipe) -> None:
    """Raise ``OutputError`` where the folder is none, cannot be read, or holds anything but a run of this recipe."""
    try:
        if _is_not_a_folder(folder.root):
            raise OutputError(
                f"{folder.root}: expected a folder for the run, found a file, or a link to nothing; "
                "give output=ANOTHER_FOLDER"
            )
        check_is_no_file(folder.root, "run")
        if folder.recipe.exists():
            _check_file_kinds(folder)
            _check_same_recipe(folder, recipe)
        elif folder.root.exists() and not all(is_unfinished_file(path) for path in folder.root.iterdir()):
            raise OutputError(
                f"{folder.root}: expected a new or an empty folder for the run; give output=ANOTHER_FOLDER"
            )
    except OSError as error:
        raise OutputError(
            f"{folder.root}: cannot be read: {error.strerror}; make it readable, or give output=ANOTHER_FOLDER"
        ) from error


def _is_not_a_folder(path: Path) -> bool:
    return (path.exists() or path.is_symlink()) and not path.is_dir()


def _check_file_kinds(folder: RunFolder) -> None:
    """Raise ``OutputError`` where there is a folder in place of a file of the run, or the reverse."""
    for path in folder.contents:
        expects_folder = path in (folder.checkpoints, folder.more_training_pictures)
        if _is_not_a_folder(path) if expects_folder else path.exists() and not path.is_file():
            found = "a folder, found a file, or a link to nothing" if expects_folder else "a file, found something else"
            raise OutputError(f"{path}: expected {found}; move it away, or give output=ANOTHER_FOLDER")


def _check_same_recipe(folder: RunFolder, recipe: Recipe) -> None:
    """Raise ``OutputError`` where the folder holds a run of another recipe."""
    try:
        changes = recipe_differences(load_recipe(folder.recipe), recipe)
    except RecipeError as error:
        raise OutputError(
            f"{folder.root}: holds a run whose recipe cannot be read: {error}; give output=ANOTHER_FOLDER"
        ) from error
    listed = [
        f"{key} was {as_recipe_value(old)}, is {as_recipe_value(new)}"
        for key, (old, new) in changes.items()
        if key not in MAY_CHANGE
    ]
    if listed:
        raise OutputError(
            f"{folder.root}: holds a run of another recipe: {'; '.join(listed)}. Give output=ANOTHER_FOLDER, or the "
            "recipe as it was, to resume that run"
        )


def begin_or_resume(folder: RunFolder, recipe: Recipe, data: RunData, lock: ExitStack) -> Path | None:
    """Make the folder that of a run of the recipe; the checkpoint to resume from, None to start from the beginning.

    Args:
        folder: where the run is; ``check_run_folder`` found no fault with it.
        recipe: what the run does.
        data: what it trains on.
        lock: until this is closed, no other process may train in the folder.

    Raises:
        OutputError: where the folder cannot be used, another process trains there, or the data is not what it was when
            the run began.
    """
    write_recipe(folder, recipe)
    with _disk_errors_name_folder(folder):
        _lock_folder(folder, lock)
    changed = check_run_data(folder, recipe, data)
    with _disk_errors_name_folder(folder):
        if not folder.categories.exists():
            _write_run_file(_categories_as_json(data.train.categories), folder.categories)
        if changed or not folder.data.exists():
            _write_run_file(json.dumps(_data_checksums(recipe, data), indent=1), folder.data)
    if changed:
        print_once(f"{folder.root}: goes on with changed files of {' and '.join(changed)}, as data.accept_changes says")
    with _disk_errors_name_folder(folder):
        remove_unfinished_files(folder.root)
        delete_old_checkpoints(folder.checkpoints)
    return next(reversed(saved_checkpoints(folder.checkpoints)), None)


def write_recipe(folder: RunFolder, recipe: Recipe) -> None:
    """Put the recipe into the folder, if no run has begun there.

    Of processes that do so at the same time, the first writes, and the others find its recipe. No lock protects this:
    the recipe is the file that is locked.

    Raises:
        OutputError: where the folder cannot be made, or a run of another recipe has begun there meanwhile.
    """
    with _disk_errors_name_folder(folder):
        folder.root.mkdir(parents=True, exist_ok=True)
        begun = folder.recipe.exists() or not write_if_absent(folder.recipe, recipe_to_yaml(recipe))
    if begun:
        _check_same_recipe(folder, recipe)


def _lock_folder(folder: RunFolder, lock: ExitStack) -> None:
    """Keep other processes out until ``lock`` is closed: two would write over each other's files.

    The kernel's lock on the recipe ends with the process, however that ends, and loading processes do not hold it. It
    also ends when this process opens and closes the recipe once more. Where a disk knows no locks, there is none.
    """
    held = lock.enter_context(folder.recipe.open("r+"))
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"{folder.root}: another process trains there; wait for it, or give output=ANOTHER_FOLDER"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _is_locked(folder: RunFolder) -> bool:
    """Whether another process trains in the folder."""
    if not folder.recipe.exists():
        return False
    with folder.recipe.open("rb") as recipe:
        try:
            fcntl.lockf(recipe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return False


@contextmanager
def _disk_errors_name_folder(folder: RunFolder) -> Iterator[None]:
    """Turn what the disk refuses in a folder into an ``OutputError``."""
    try:
        yield
    except OSError as error:
        remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
        raise OutputError(
            f"{error.filename or folder.root}: cannot be written: {error.strerror}; {remedy}, or give "
            "output=ANOTHER_FOLDER"
        ) from error


def check_run_data(folder: RunFolder, recipe: Recipe, data: RunData) -> list[str]:
    """The recipe's keys of data that has changed since the run in this folder, if there is one, began.

    Raises:
        OutputError: where data has changed and the recipe does not accept that, or where the categories have.
    """
    if folder.categories.exists() and _read_run_file(folder.categories) != json.loads(
        _categories_as_json(data.train.categories)
    ):
        raise OutputError(
            f"{folder.categories}: the data has other categories than when this run began; give output=ANOTHER_FOLDER"
        )
    if not folder.data.exists():
        return []
    begun = _read_run_file(folder.data)
    if not isinstance(begun, dict):
        raise OutputError(
            f"{folder.data}: expected a checksum for each data set, found {as_recipe_value(begun)}; put it back as it "
            "was, or give output=ANOTHER_FOLDER"
        )
    changed = [key for key, checksum in _data_checksums(recipe, data).items() if begun.get(key) != checksum]
    if changed and not recipe.data.accept_changes:
        raise OutputError(
            f"{folder.root}: the files of {' and '.join(changed)} have changed since this run began; give "
            "output=ANOTHER_FOLDER, put them back, or go on with them as they are by data.accept_changes=true"
        )
    return changed


def _data_checksums(recipe: Recipe, data: RunData) -> Mapping[str, str]:
    """A checksum for each data set and for the pool of cut-outs, by the recipe's key."""
    pool = pool_settings(recipe.data)
    digests = {"data.train": data.train.digest(), "data.val": data.val.digest()}
    return digests if pool is None else digests | {"data.pool": pool_digest(pool)}


def _categories_as_json(categories: Sequence[Category]) -> str:
    return json.dumps([asdict(category) for category in categories], indent=1)


def _read_run_file(path: Path) -> object:
    """The content of a JSON file of the run."""
    try:
        return read_json(path, "file")
    except DataError as error:
        raise OutputError(f"{error}; put it back as it was, or give output=ANOTHER_FOLDER") from None


def _write_run_file(text: str, path: Path) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def describe_next_run(folder: RunFolder) -> str:
    """What a training would do in the folder, in words."""
    if folder.is_complete:
        return "complete: nothing to do"
    saved = saved_checkpoints(folder.checkpoints)
    if _is_locked(folder):
        done = f", after batch {batch_of_checkpoint(saved[-1])} or later" if saved else ""
        return f"refused as long as another process trains there, as one does now{done}"
    return f"resumed after batch {batch_of_checkpoint(saved[-1])}" if saved else "from the beginning"
