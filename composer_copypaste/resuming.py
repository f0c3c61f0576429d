"""How a run begins in its folder, or goes on there, and what is said when it cannot."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from composer import State

from composer_copypaste.callbacks import batches_of_the_run
from composer_copypaste.checkpoints import batch_of, saved_checkpoints, tidy
from composer_copypaste.config.schema import Recipe
from composer_copypaste.datasets import Data
from composer_copypaste.errors import OutputError, UserError
from composer_copypaste.files import remove_unfinished
from composer_copypaste.pools import pool_digest
from composer_copypaste.run_folder import RunFolder, check_data, claim, writable

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


def enter(folder: RunFolder, recipe: Recipe, data: Data, stay: ExitStack) -> Path | None:
    """Make the folder that of a run of the recipe; the checkpoint to resume from, None to start from the beginning.

    Args:
        folder: where the run is.
        recipe: what it does.
        data: what it trains on.
        stay: until this is closed, no other process may enter.

    Raises:
        UserError: where the folder cannot be used, another process trains there, or the data is not what it was when
            the run began.
    """
    claim(folder, recipe, data.val.annotations.categories, _digests(recipe, data))
    with writable(folder):
        _keep_others_out(folder, stay)
        remove_unfinished(folder.root)
        tidy(folder)
    return next(reversed(saved_checkpoints(folder)), None)


def _keep_others_out(folder: RunFolder, stay: ExitStack) -> None:
    """Until ``stay`` is closed no other process can do this: two would write over each other's files.

    The kernel's lock on the recipe ends with the process, however that ends, and loading processes do not hold it. It
    also ends when this process closes the recipe once more. Where a disk knows no locks, there is none.
    """
    held = stay.enter_context(folder.recipe.open("r+"))
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"{folder.root}: another process trains there; wait for it, or give output=ANOTHER_FOLDER"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def check_same_data(folder: RunFolder, recipe: Recipe, data: Data) -> None:
    """Raise ``OutputError`` where a run would be resumed in the folder, and the data is not what it began with."""
    if not folder.is_complete:
        check_data(folder, data.val.annotations.categories, _digests(recipe, data))


def _digests(recipe: Recipe, data: Data) -> dict[str, str]:
    """A checksum for each data set and for the pool of cut-outs, by the recipe's key."""
    pool = {} if recipe.data.pool is None else {"data.pool": pool_digest(recipe.data.pool)}
    return {"data.train": data.train.digest(), "data.val": data.val.digest()} | pool


def prospect(folder: RunFolder) -> str:
    """What a training would do in the folder."""
    if folder.is_complete:
        return "complete: nothing to do"
    saved = saved_checkpoints(folder)
    return f"resumed after batch {batch_of(saved[-1])}" if saved else "from the beginning"


def started(folder: RunFolder, state: State) -> str:
    """A line on where the run begins."""
    done = state.timestamp.batch.value
    if not done:
        return f"training into {folder.root}"
    total = batches_of_the_run(state)
    return f"resuming {folder.root} at batch {done}" + (f" of {total}" if total else "")


@contextmanager
def explained(folder: RunFolder) -> Iterator[None]:
    """What a user can put right while a run trains becomes one line that says how it goes on.

    Raises:
        UserError: for a damaged picture and for a full disk.
    """
    advice = f"{folder.root} holds what was done so far; then the same command with output={folder.root} goes on"
    try:
        yield
    except UserError as error:  # a picture whose header is in order, and the rest is not
        raise type(error)(f"{error}. Put it right: {advice}") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        file = error.filename or folder.root
        raise OutputError(f"{file}: cannot be written: {error.strerror}. Make room: {advice}") from error
