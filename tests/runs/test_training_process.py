"""A training in a process of its own: it ends when it is told to, or when its parent ends, and continues later."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from run_folders import assert_same_to_the_bit
from shapes_recipe import tiny_recipe

from composer_copypaste.integrations.composer.checkpoints import saved_checkpoints
from composer_copypaste.runs.ablation import training_process
from composer_copypaste.runs.ablation.training_process import MachineShares, TrainingJob, run_training
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.resume import write_recipe
from composer_copypaste.runs.train import train

PRINT = """
import os, time
print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("OMP_NUM_THREADS", "-"), flush=True)
time.sleep(1)
"""
LONG = ["training.duration=16ba", "training.checkpoint_interval=4ba", "training.eval_interval=16ba", "data.workers=0"]
PARENT = """
import sys
from pathlib import Path
from composer_copypaste.runs.ablation.training_process import TrainingJob, run_training
recipe, log, stop = map(Path, sys.argv[1:])
print(*run_training(TrainingJob(recipe, log, stop)))
"""


@pytest.fixture
def job(tmp_path) -> TrainingJob:
    folder = RunFolder(tmp_path / "run")
    write_recipe(folder, tiny_recipe(tmp_path, *LONG, f"output={folder.root}"))
    return TrainingJob(folder.recipe, tmp_path / "log.txt", tmp_path / "stop")


def start(job):
    """A process that runs the training, once that has saved a checkpoint."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PARENT, str(job.recipe), str(job.log), str(job.stop)]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    while not saved_checkpoints(RunFolder(job.recipe.parent).checkpoints):
        assert parent.poll() is None, job.log.read_text()
        time.sleep(0.02)
    return parent


@pytest.mark.slow
def test_a_training_ends_with_its_parent_or_when_told_and_continues_as_if_it_never_had(job, tmp_path):
    reference = RunFolder(tmp_path / "reference")
    train(tiny_recipe(tmp_path, *LONG), reference)

    parent = start(job)
    parent.kill()  # the training sees the end of its input
    parent.wait()
    while "interrupted; to go on" not in job.log.read_text():
        time.sleep(0.05)
    assert not RunFolder(job.recipe.parent).is_complete

    job.stop.touch()
    code, _ = run_training(job)
    assert code == 130
    job.stop.unlink()

    parent = start(job)
    parent.send_signal(signal.SIGINT)
    assert parent.wait() != 0

    code, seconds = run_training(job)
    assert code == 0, job.log.read_text()
    assert seconds > 0
    assert_same_to_the_bit(RunFolder(job.recipe.parent), reference)


def printed_environment(tmp_path, monkeypatch, machine, jobs=1):
    """What each of several trainings at the same time has of the machine, where a training prints that."""
    monkeypatch.setattr(training_process, "COMMAND", (sys.executable, "-c", PRINT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tasks = [TrainingJob(tmp_path, tmp_path / f"{n}.txt", tmp_path / "stop", machine) for n in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        assert [code for code, _ in pool.map(run_training, tasks)] == [0] * jobs
    return sorted(task.log.read_text().strip() for task in tasks)


def test_trainings_at_the_same_time_have_a_gpu_each(tmp_path, monkeypatch):
    shares = MachineShares(gpus=("0", "1", "0"))
    assert printed_environment(tmp_path, monkeypatch, shares, jobs=3) == ["0 -", "0 -", "1 -"]


def test_a_training_alone_has_what_the_machine_gives(tmp_path, monkeypatch):
    assert printed_environment(tmp_path, monkeypatch, MachineShares()) == ["all -"]


def test_trainings_on_a_cpu_share_its_threads(tmp_path, monkeypatch):
    assert printed_environment(tmp_path, monkeypatch, MachineShares(threads=3)) == ["all 3"]
