"""A training in a process of its own, which ends when the process that started it ends, however that happens."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

COMMAND = (sys.executable, "-m", "composer_copypaste.cli", "train")
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class MachineShares:
    """What each of several trainings at the same time is given of one machine."""

    gpus: tuple[str, ...] = ()
    """For each of them, the number of its GPU, which others may share; (): all that there are."""

    threads: int | None = None
    """Number of threads that compute on a CPU, unless OMP_NUM_THREADS gives one; None: torch decides."""


@dataclass(frozen=True)
class TrainingJob:
    """A training that has not come to its end yet."""

    recipe: Path
    """The recipe in the run's folder."""

    log: Path
    """The file to which the training's output is appended."""

    stop: Path
    """All trainings stop when this file is there: it reaches the machines of a cluster too."""

    machine: MachineShares = MachineShares()


def run_training(job: TrainingJob) -> tuple[int, float]:
    """The training's exit code, 0 where it is complete, and the seconds it took; it continues where it was."""
    begin = time.monotonic()
    threads = {} if job.machine.threads is None else {"OMP_NUM_THREADS": str(job.machine.threads)}
    with _free_gpu(job) as gpu, job.log.open("ab") as log:
        visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        process = subprocess.Popen(
            [*COMMAND, str(job.recipe), "--stop-at-end-of-input"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=threads | os.environ | visible,
            start_new_session=True,  # a terminal's Ctrl-C reaches the training through the end of its input only
        )
        try:
            while process.poll() is None and not job.stop.exists():
                time.sleep(_POLL_SECONDS)
        finally:
            process.communicate()  # closes the input, which ends a training that still runs
    return process.returncode, time.monotonic() - begin


@contextmanager
def _free_gpu(job: TrainingJob) -> Iterator[str | None]:
    """The GPU of the first share that no other training holds; None where there are no shares."""
    if not job.machine.gpus:
        yield None
        return
    while True:
        for number, gpu in enumerate(job.machine.gpus):
            lock = FileLock(job.stop.with_name(f".gpu{number}.lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield gpu
            finally:
                lock.release()
            return
        time.sleep(_POLL_SECONDS)
