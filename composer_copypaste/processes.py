"""Work that is divided among processes of this machine, which end with the process that started them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from composer_copypaste.errors import OutputError

Task = TypeVar("Task")
Result = TypeVar("Result")

_WATCH_SECONDS = 0.5
_PATIENCE_SECONDS = 60


@contextmanager
def process_executor(processes: int) -> Iterator[Executor]:
    """An executor of this many new processes, which leave Ctrl-C to this one, and end if it is killed."""
    context = get_context("spawn")  # a fork would inherit locks of torch's and Numba's threads
    with ProcessPoolExecutor(processes, context, initializer=_leave_signals_to, initargs=(os.getpid(),)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def run_tasks(
    executor: Executor | None, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result]]:
    """Each task with what the function returned for it, in the order in which they end; errors are raised here.

    Args:
        executor: where the function runs: processes of this machine or of a cluster. None: in this process, one by one.
        function: one that can be pickled.
        tasks: its arguments.

    Raises:
        OutputError: where another program ended a process.
    """
    if executor is None:
        yield from ((task, function(task)) for task in tasks)
        return
    futures = {executor.submit(function, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise OutputError(
            "a process was ended by another program, perhaps because memory ran out; the same command continues, with "
            "fewer processes if necessary"
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _leave_signals_to(parent: int) -> None:
    """Leave Ctrl-C to the parent process, and end when the parent has been killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def stop_at_end_of_input() -> None:
    """Interrupt this process, as Ctrl-C does, once the process that started it has closed the pipe to it, or ended.

    A process that then does not end within a minute is ended.
    """

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):  # not through Python's buffer, whose lock would be held at the exit
            pass
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(_PATIENCE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
