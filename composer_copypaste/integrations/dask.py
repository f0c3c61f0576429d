"""A cluster of Dask Distributed as an executor, in place of processes of this machine."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from composer_copypaste.errors import OutputError
from composer_copypaste.extras import check_installed
from composer_copypaste.processes import process_executor

CONNECT_SECONDS = 20


def check_dask_installed() -> None:
    """Raise ``MissingPackageError`` where Dask Distributed is missing."""
    check_installed("distributed", "--dask needs Dask Distributed", "dask")


@contextmanager
def open_executor(processes: int, dask: str | None = None) -> Iterator[Executor | None]:
    """Where tasks run: the workers of a Dask cluster, this many processes here, or None: this process alone.

    Both are `concurrent.futures` executors, for `composer_copypaste.processes.run_tasks`.

    Args:
        processes: the number of processes of this machine; 1: none but this one. Not used with ``dask``.
        dask: the address of a Dask scheduler, such as "tcp://10.0.0.1:8786". Its workers must have this package, and
            see the same files under the same paths.

    Raises:
        MissingPackageError: where Dask Distributed is not installed.
        OutputError: where no scheduler answers, or it has no workers.
    """
    if dask is not None:
        with _cluster(dask) as executor:
            yield executor
    elif processes > 1:
        with process_executor(processes) as executor:
            yield executor
    else:
        yield None


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    check_dask_installed()
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise OutputError(f"--dask {address}: no Dask scheduler answers there: {error}") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise OutputError(f"--dask {address}: the scheduler has no workers; start some with: dask worker {address}")
        with client.get_executor(pure=False) as executor:
            yield executor
