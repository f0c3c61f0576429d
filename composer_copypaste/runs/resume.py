"""How a run begins in its folder, or goes on there, and what is said when it cannot."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from composer import State

from composer_copypaste.errors import DivergedError, OutputError, UserError
from composer_copypaste.files import remove_unfinished
from composer_copypaste.integrations.composer.callbacks import batches_of_the_run
from composer_copypaste.integrations.composer.checkpoints import batch_of, last_good_checkpoint, saved_checkpoints, tidy
from composer_copypaste.integrations.composer.distributed import one_voice, say
from composer_copypaste.integrations.composer.divergence import advice
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.data import Data, pool_digest
from composer_copypaste.runs.folder import RunFolder, changed_data, claim, enter_data, writable

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
    claim(folder, recipe)
    with writable(folder):
        _keep_others_out(folder, stay)
    changed = enter_data(folder, recipe, data.train.categories, _digests(recipe, data))
    if changed:
        say(f"{folder.root}: goes on with changed files of {' and '.join(changed)}, as data.accept_changes says")
    with writable(folder):
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


def _is_in_use(folder: RunFolder) -> bool:
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


def check_same_data(folder: RunFolder, recipe: Recipe, data: Data) -> None:
    """Raise ``OutputError`` where a run would be resumed in the folder, and the data is not what it began with."""
    if not folder.is_complete:
        changed_data(folder, recipe, data.train.categories, _digests(recipe, data))


def _digests(recipe: Recipe, data: Data) -> dict[str, str]:
    """A checksum for each data set and for the pool of cut-outs, by the recipe's key."""
    pool = {} if recipe.data.pool is None else {"data.pool": pool_digest(recipe.data.pool)}
    return {"data.train": data.train.digest(), "data.val": data.val.digest()} | pool


def prospect(folder: RunFolder) -> str:
    """What a training would do in the folder."""
    if folder.is_complete:
        return "complete: nothing to do"
    saved = saved_checkpoints(folder)
    if _is_in_use(folder):
        done = f", after batch {batch_of(saved[-1])} or later" if saved else ""
        return f"refused as long as another process trains there, as one does now{done}"
    return f"resumed after batch {batch_of(saved[-1])}" if saved else "from the beginning"


def started(folder: RunFolder, state: State) -> str:
    """A line on where the run begins."""
    done = state.timestamp.batch.value
    if not done:
        return f"training into {folder.root}"
    total = batches_of_the_run(state)
    return f"resuming {folder.root} at batch {done}" + (f" of {total}" if total else "")


@contextmanager
def explained(folder: RunFolder, recipe: Recipe) -> Iterator[None]:
    """What a user can put right while a run trains becomes one line that says how it goes on.

    Other errors keep their traceback, and say it in a note.

    Raises:
        UserError: for a damaged image, for a folder that can no longer be written, and for a training that diverges.
    """
    how = f"{folder.root} holds what was done so far; then the same command with output={folder.root} goes on"
    try:
        yield
    except DivergedError as error:
        last_good = last_good_checkpoint(folder, error.batch)
        with one_voice():
            raise DivergedError(f"{folder.root}: {error}. {advice(recipe, last_good)}", error.batch) from error
    except UserError as error:  # an image whose header is in order, and the rest is not
        raise type(error)(f"{error}. Put it right: {how}") from error
    except Exception as error:
        if isinstance(error, OSError) and _is_of_writing(error, folder):
            file, remedy = error.filename or folder.root, "Make room" if error.errno in NO_ROOM else "Put it right"
            raise OutputError(f"{file}: cannot be written: {error.strerror}. {remedy}: {how}") from error
        error.add_note(f"Put it right: {how}")
        raise


def _is_of_writing(error: OSError, folder: RunFolder) -> bool:
    """Whether the run could not write into its folder."""
    file = error.filename
    return error.errno in NO_ROOM or (isinstance(file, str) and Path(file).is_relative_to(folder.root))
