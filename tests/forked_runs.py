"""Processes that can be killed: trainings, without the seconds that Python's imports take, and copies of this one."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["composer_copypaste.runs.train", "composer_copypaste.cli.train"])


def start(*arguments: str, log: Path) -> multiprocessing.process.BaseProcess:
    """``copypaste train ARGUMENTS`` in a process that is a copy of one which has imported everything."""
    process = _processes.Process(target=_train, args=(arguments, log))
    process.start()
    return process


def _train(arguments: tuple[str, ...], log: Path) -> None:
    import cpuinfo

    from composer_copypaste.cli import main

    multiprocessing.set_start_method("fork", force=True)  # of loaders: else they are no children of this process
    cpuinfo.get_cpu_info = dict  # a second's work for Composer's crash reports

    with log.open("a") as stream:
        for own in (1, 2):
            os.dup2(stream.fileno(), own)
    sys.stdout.reconfigure(line_buffering=True)
    main(["train", *arguments], prog_name="copypaste")


def killed_in_a_child(step):
    """Run a step that kills its process, in a copy of this one."""
    child = os.fork()
    if child == 0:
        try:
            step()
        finally:  # else an error in the step would let the copy go on with the tests
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def leave_process_group():
    """End torch's process group; at once after a collective, torch 2.7 sometimes waits for ever.

    A thread of gloo lets go of the collective's tensors, for which it needs Python's lock, and the group's end waits
    for the thread while it holds that lock. A barrier is waited for without the lock.
    """
    from torch import distributed

    distributed.barrier()
    distributed.destroy_process_group()
