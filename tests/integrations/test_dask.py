"""A real Dask scheduler with two workers in the place of this machine's processes."""

import os

import pytest
from test_processes import square

from composer_copypaste.errors import DataError, OutputError
from composer_copypaste.integrations import dask
from composer_copypaste.integrations.dask import open_executor
from composer_copypaste.processes import run_tasks

distributed = pytest.importorskip("distributed")


def process_id(number):
    return os.getpid()


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler whose workers are two processes."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def test_tasks_run_on_the_workers_as_in_processes_here(scheduler):
    with open_executor(1, scheduler) as executor:
        assert dict(run_tasks(executor, square, range(5))) == {number: number**2 for number in range(5)}
        used = {worker for _, worker in run_tasks(executor, process_id, range(20))}
    assert os.getpid() not in used
    assert len(used) == 2


def test_an_error_of_a_worker_is_raised_here(scheduler):
    with open_executor(1, scheduler) as executor, pytest.raises(DataError, match="number -1: expected 0 or more"):
        list(run_tasks(executor, square, [1, -1]))


def test_no_scheduler_is_one_line(monkeypatch):
    monkeypatch.setattr(dask, "CONNECT_SECONDS", 1)
    expected = pytest.raises(OutputError, match=r"^--dask tcp://127.0.0.1:9: no Dask scheduler answers there")
    with expected, open_executor(1, "tcp://127.0.0.1:9"):
        pass


def test_a_scheduler_without_workers_is_one_line():
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        expected = pytest.raises(OutputError, match=r"the scheduler has no workers; start some with: dask worker")
        with expected, open_executor(1, cluster.scheduler_address):
            pass
