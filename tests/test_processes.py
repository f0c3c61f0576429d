"""Work in several processes: all of it is done, errors and Ctrl-C end it, and nothing is left running."""

import os
import subprocess
import sys
import time

import pytest

from composer_copypaste.errors import DataError, OutputError
from composer_copypaste.integrations.dask import open_executor
from composer_copypaste.processes import process_executor, run_tasks

ENDED = """
import os, sys, time
from composer_copypaste.processes import stop_at_end_of_input
stop_at_end_of_input()
try:
    print("ready", flush=True)
    time.sleep(3600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
PARENT = """
from composer_copypaste.processes import process_executor, run_tasks
from test_processes import report_and_wait
if __name__ == "__main__":
    with process_executor(2) as executor:
        list(run_tasks(executor, report_and_wait, range(2)))
"""
LONG = 3600
"""Seconds: more than pytest gives a test."""


def square(number):
    if number < 0:
        raise DataError(f"number {number}: expected 0 or more")
    return number**2


def end_process(number):
    os._exit(1)


def report_and_wait(number):
    print("begun", flush=True)
    time.sleep(LONG)


@pytest.mark.parametrize("processes", [1, 2])
def test_each_task_is_given_with_its_result(processes):
    with open_executor(processes) as executor:
        assert dict(run_tasks(executor, square, [3, 1, 2])) == {1: 1, 2: 4, 3: 9}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_task_is_raised_here(processes):
    with open_executor(processes) as executor, pytest.raises(DataError, match="number -1: expected 0 or more"):
        list(run_tasks(executor, square, [1, -1, 2]))


def test_a_process_that_is_ended_by_another_program_is_one_line():
    with process_executor(2) as executor, pytest.raises(OutputError, match=r"^a process was ended by another program"):
        list(run_tasks(executor, end_process, [1]))


def test_no_process_outlives_the_one_that_started_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        parent.kill()
        assert parent.stdout.read() == ""  # at once, when the last process that could write there has ended


def test_the_end_of_the_input_interrupts():
    child = subprocess.Popen([sys.executable, "-c", ENDED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.stdin.close()
    assert child.stdout.readline() == "interrupted\n"
    assert child.wait() == 0
