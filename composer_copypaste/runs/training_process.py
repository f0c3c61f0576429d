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

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class TrainingJob:
    """A training that has not come to its end yet."""

    recipe: Path
    """The recipe in the run's folder."""

    log: Path
    """The file to which the training's output is appended."""

    stop: Path
    """All trainings stop when this file is there: it reaches the machines of a cluster too."""

    devices: tuple[str, ...] = ()
    """For each training that may run here at the same time, the GPU that it is given; (): what the machine gives."""


def run_training(job: TrainingJob) -> tuple[int, float]:
    """The training's exit code, 0 where it is complete, and the seconds it took; it continues where it was."""
    begin = time.monotonic()
    with _free_device(job) as device, job.log.open("ab") as log:
        visible = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        process = subprocess.Popen(
            [sys.executable, "-m", "composer_copypaste.cli", "train", str(job.recipe), "--stop-at-end-of-input"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | visible,
            start_new_session=True,  # a terminal's Ctrl-C reaches the training through the end of its input only
        )
        try:
            while process.poll() is None and not job.stop.exists():
                time.sleep(_POLL_SECONDS)
        finally:
            process.communicate()  # closes the input, which ends a training that still runs
    return process.returncode, time.monotonic() - begin


@contextmanager
def _free_device(job: TrainingJob) -> Iterator[str | None]:
    """The first GPU that no other training of this machine holds."""
    if not job.devices:
        yield None
        return
    while True:
        for number, device in enumerate(job.devices):
            lock = FileLock(job.stop.with_name(f".device{number}.lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield device
            finally:
                lock.release()
            return
        time.sleep(_POLL_SECONDS)
