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

# torch is imported where it is needed, not here: the command line needs this module for every command.

T = TypeVar("T")

SHARED_MEMORY = Path("/dev/shm")
"""Where processes that load data hand it over; a container has 64 MB of it by default."""

TIME_TO_PRINT = 3.0
"""Seconds that the other processes wait while the first process of a node prints what is wrong."""


def is_first_process() -> bool:
    """Whether this is the first process of all: the one that writes. The launcher's variables say so."""
    return os.environ.get("RANK", "0") == "0"


def is_first_process_of_node() -> bool:
    """Whether this is the process whose output the launcher shows."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def number_of_processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print_once(text: str) -> None:
    """Print a line for the user, once for all processes."""
    if is_first_process():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def errors_raised_once() -> Iterator[None]:
    """Let only the first process of a node raise a ``UserError`` that all have; the others end with its exit code."""
    try:
        yield
    except UserError as error:
        if is_first_process_of_node():
            raise
        time.sleep(TIME_TO_PRINT)
        sys.exit(error.exit_code)


def first_process_decides(decision: Callable[[], T]) -> T:
    """What ``decision`` returns in the first process, in every process.

    Raises:
        UserError: in every process, where it fails in the first.
    """
    from torch import distributed

    if not distributed.is_initialized():
        return decision()
    result = [cast(T | UserError, _result_or_error(decision) if distributed.get_rank() == 0 else None)]
    distributed.broadcast_object_list(result)
    return _return_or_raise(result[0])


def all_processes_succeed(step: Callable[[], T]) -> T:
    """What ``step`` returns in this process, once it has succeeded in all of them.

    Raises:
        UserError: in every process, where it fails in one of them: the error of the first that fails.
    """
    from torch import distributed

    if not distributed.is_initialized():
        return step()
    result = _result_or_error(step)
    failures: list[UserError | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(failures, result if isinstance(result, UserError) else None)
    return _return_or_raise(next((failure for failure in failures if failure is not None), result))


def _result_or_error(step: Callable[[], T]) -> T | UserError:
    try:
        return step()
    except UserError as error:
        return error


def _return_or_raise(result: T | UserError) -> T:
    if isinstance(result, UserError):
        raise result
    return result


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether torch says by this error that another process of the run has ended, or hangs.

    The GPUs' backends raise a class of their own; the CPU's error names the file of Gloo that found it.
    """
    if "torch.distributed" not in sys.modules:  # click, too, raises a RuntimeError, when help has been printed
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo/transport" in str(error)


def why_loading_ended(error: RuntimeError) -> str | None:
    """Why a process that loads data ended and what to do about it, by torch's error; None for any other error."""
    text = _messages_of(error)
    no_room = "</torch_" in text and re.search("No space left on device|Cannot allocate memory", text)
    if no_room or "killed by signal: Bus error" in text:
        usage = shutil.disk_usage(SHARED_MEMORY)
        return (
            f"a loading process ran out of shared memory, in which it hands over images: {SHARED_MEMORY} has "
            f"{usage.total / 1e6:,.1f} MB, {usage.free / 1e6:,.1f} MB of it free now; start the container with "
            "--shm-size=8g, or load without such processes: data.workers=0"
        )
    if re.search("DataLoader worker .* (killed by signal: Killed|exited unexpectedly$)", text, re.MULTILINE):
        return (
            "a loading process was ended from outside, perhaps for want of memory; give fewer data.workers, or "
            "data.workers=0"
        )
    return None


def is_loading_terminated(error: RuntimeError) -> bool:
    """Whether torch says that SIGTERM ended a process that loads data.

    A scheduler, a container or ``timeout`` sends it to all processes of a group; torch may then notice the end of one
    of them before this process handles its own signal. What ends processes for want of memory sends SIGKILL.
    """
    return re.search("DataLoader worker .* killed by signal: Terminated", _messages_of(error)) is not None


def _messages_of(error: BaseException) -> str:
    """What an error and its causes say, a line each."""
    messages = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(messages)
