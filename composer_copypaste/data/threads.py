"""Many files looked at in threads, which nothing waits for when the program is to end."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """What a function gives for each item, in their order, called in several threads.

    Unlike with ``ThreadPoolExecutor``, neither Ctrl-C nor the end of the program waits for a call that hangs, as one
    does that opens a file of a dead network disk.

    Raises:
        Exception: what the function raised for the first item that it raised anything for.
    """
    futures: list[Future[Result]] = [Future() for _ in items]
    work = iter(list(zip(items, futures, strict=True)))  # its next() is atomic
    stopped = False

    def call() -> None:
        for item, future in work:
            if stopped:
                return
            try:
                future.set_result(function(item))
            except BaseException as error:  # noqa: BLE001 - raised again by result()
                future.set_exception(error)

    for _ in range(min(threads, len(items))):
        Thread(target=call, daemon=True).start()
    try:
        return [future.result() for future in futures]
    finally:
        stopped = True
