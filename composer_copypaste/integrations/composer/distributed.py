"""What the processes of a distributed run decide together; a run of one process is the simplest case.

Composer's launcher starts the same command in each process, shows what the first of a node prints, and ends all of them
as soon as one has ended.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from composer_copypaste.errors import UserError

T = TypeVar("T")

SHARED_MEMORY = Path("/dev/shm")
"""Through which processes that load data hand it over; a container has 64 MB of it by default."""

SPEAKING_TIME = 3.0
"""So many seconds the others wait while the first process of a node says what is wrong."""


def is_first() -> bool:
    """Whether this is the first process of all: the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def is_first_of_node() -> bool:
    """Whether this is the process whose output the launcher shows."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def say(text: str) -> None:
    """Print a line for the user, once for all processes."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def one_voice() -> Iterator[None]:
    """An error inside, the same in all processes, is left to the first of a node; the others end with its exit code."""
    try:
        yield
    except UserError as error:
        if is_first_of_node():
            raise
        time.sleep(SPEAKING_TIME)
        sys.exit(error.exit_code)


def decided(decision: Callable[[], T]) -> T:
    """What the first process decides, in every process.

    Raises:
        UserError: in every process, where the first cannot decide.
    """
    from composer.utils import dist

    result = [cast(T | UserError, _result(decision) if dist.get_global_rank() == 0 else None)]
    dist.broadcast_object_list(result)
    return _unwrapped(result[0])


def agreed(step: Callable[[], T]) -> T:
    """What this process gets from a step that all of them do.

    Raises:
        UserError: in every process, where one of them fails: the error of the first that does.
    """
    from composer.utils import dist

    result = _result(step)
    failures = dist.all_gather_object(result if isinstance(result, UserError) else None)
    return _unwrapped(next((failure for failure in failures if failure is not None), result))


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether torch says by this error that another process of the run has ended, or hangs.

    From GPUs' backends comes a class of its own, from the CPU's a text with the file of Gloo that found it.
    """
    if "torch.distributed" not in sys.modules:  # click, too, raises a RuntimeError, when help has been printed
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo/transport" in str(error)


def end_of_loading(error: RuntimeError) -> str | None:
    """What to do about the end of a process that loads data, by what torch says of it; None for any other error."""
    said = "\n".join(_messages(error))
    no_room = "</torch_" in said and re.search("No space left on device|Cannot allocate memory", said)
    if no_room or "killed by signal: Bus error" in said:
        return (
            f"a loading process ran out of shared memory, in which it hands over images: {SHARED_MEMORY} has {_room()}"
            "; start the container with --shm-size=8g, or load without such processes: data.workers=0"
        )
    if re.search(
        "DataLoader worker .* (killed by signal: (Killed|Terminated)|exited unexpectedly$)", said, re.MULTILINE
    ):
        return (
            "a loading process was ended from outside, perhaps for want of memory; give fewer data.workers, or "
            "data.workers=0"
        )
    return None


def _room() -> str:
    usage = shutil.disk_usage(SHARED_MEMORY)
    return f"{usage.total / 1e6:,.1f} MB, {usage.free / 1e6:,.1f} MB of it free now"


def _messages(error: BaseException | None) -> Iterator[str]:
    """What an error says, and what those that led to it say."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _result(step: Callable[[], T]) -> T | UserError:
    try:
        return step()
    except UserError as error:
        return error


def _unwrapped(result: T | UserError) -> T:
    if isinstance(result, UserError):
        raise result
    return result
