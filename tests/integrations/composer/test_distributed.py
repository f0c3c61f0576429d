"""Two processes, started by Composer's launcher: what they decide together, and what they leave."""

import json
import re
import subprocess
import sys

import pytest
import torch
from shapes_recipe import on_files, tiny, tiny_recipe

from composer_copypaste import distributed as processes
from composer_copypaste.cli import CONNECTION_LOST
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.transforms import seeded_generator
from composer_copypaste.distributed import (
    all_processes_succeed,
    errors_raised_once,
    first_process_decides,
    is_first_process,
    why_loading_ended,
)
from composer_copypaste.errors import OutputError, UserError
from composer_copypaste.settings import ShapesSettings

LAUNCHER = [
    "-c",
    "import sys; from composer.cli.launcher import main; sys.exit(main())",
    "-n",
    "2",
    "-m",
    "composer_copypaste.cli",
]


def two_processes(*arguments):
    return subprocess.run([sys.executable, *LAUNCHER, *arguments], capture_output=True, text=True)


def one_process(*arguments):
    return subprocess.run([sys.executable, "-m", "composer_copypaste.cli", *arguments], capture_output=True, text=True)


# ---- alone


def test_a_process_on_its_own_is_the_first_and_decides_for_itself():
    assert is_first_process()
    assert first_process_decides(lambda: 7) == 7
    assert all_processes_succeed(lambda: 8) == 8


@pytest.mark.parametrize("together", [first_process_decides, all_processes_succeed])
def test_an_error_of_a_decision_is_raised(together):
    def refuse():
        raise OutputError("taken")

    with pytest.raises(OutputError, match="taken"):
        together(refuse)


def test_the_first_of_a_node_speaks_and_the_others_leave_without_a_word(monkeypatch):
    monkeypatch.setattr(processes, "TIME_TO_PRINT", 0)
    with pytest.raises(UserError, match="wrong"), errors_raised_once():
        raise UserError("wrong")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as caught, errors_raised_once():
        raise UserError("wrong")
    assert caught.value.code == 2


CAUGHT = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", "--shm-size=8g"),
        (f"{CAUGHT}RuntimeError: unable to write to file </torch_7_8_9>: No space left on device (28)\n", "--shm-size"),
        ("unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)", "--shm-size=8g"),
        ("unable to mmap 8 bytes from file </torch_7_8_9>: Cannot allocate memory (12)", "--shm-size=8g"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "for want of memory; give fewer data.workers"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "for want of memory; give fewer data.workers"),
    ],
)
def test_the_end_of_a_process_that_loads_is_explained_in_a_line(said, advice):
    line = why_loading_ended(RuntimeError(said))
    assert advice in line
    assert "\n" not in line


def test_the_end_of_a_process_that_loads_is_explained_by_its_cause():
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that")
    assert "--shm-size" in why_loading_ended(error)


@pytest.mark.parametrize(
    "said",
    [
        "shape '[3]' is invalid",
        "DataLoader worker (pid 7) is killed by signal: Segmentation fault. ",
        "DataLoader worker (pid 7) is killed by signal: Terminated. ",
        "DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost due to multiprocessing.",
        "unable to write to file </home/x.pt>: No space left on device (28)",
    ],
)
def test_other_errors_are_no_end_of_loading(said):
    assert why_loading_ended(RuntimeError(said)) is None


# ---- together


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_and_resume_one_run_that_scores_the_same_in_one_process(place):
    recipe = tiny(place, "data.shapes.train=16", "data.workers=0", "copy_paste.p=1.0", f"output={place / 'run'}")
    assert two_processes("train", *recipe, "training.duration=2ba", "schedule.name=constant").returncode == 0
    whole = (place / "run" / "evaluation.json").read_text()
    assert [row["batch"] for row in rows(place / "run") if "loss/train/total" in row] == [1, 2]
    assert {path.name for path in (place / "run" / "checkpoints").iterdir()} == {
        "ep0-ba1-rank0.pt",
        "ep1-ba2-rank0.pt",
        "latest-rank0.pt",
    }
    scored = one_process("eval", str(place / "run"), "--output", str(place / "scored"))
    assert scored.returncode == 0, scored.stderr
    assert (place / "scored" / "evaluation.json").read_text() == whole
    assert (place / "scored" / "matches.npz").read_bytes() == (place / "run" / "matches.npz").read_bytes()

    for name in ("ep1-ba2-rank0.pt", "latest-rank0.pt"):
        (place / "run" / "checkpoints" / name).unlink()
    (place / "run" / "predictions.png").unlink()
    resumed = two_processes("train", *recipe, "training.duration=2ba", "schedule.name=constant")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stderr
    assert (place / "run" / "evaluation.json").read_text() == whole


@pytest.mark.slow
def test_two_processes_say_once_what_is_wrong(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    result = two_processes("train", *tiny(tmp_path, f"output={tmp_path / 'run'}"))
    assert result.returncode == 2
    assert (result.stdout + result.stderr).count("expected a new or an empty folder") == 1


@pytest.mark.slow
def test_an_image_that_one_of_two_processes_cannot_read_is_named_and_the_other_has_no_traceback(tmp_path):
    shapes = draw_shapes(ShapesSettings(folder=str(tmp_path / "shapes"), train=8, val=4, size=64))
    recipe = [*tiny(tmp_path), *on_files(shapes), "data.batch_size=2", "data.workers=0", f"output={tmp_path / 'run'}"]
    _, first_of_second_process, *_ = torch.randperm(
        8, generator=seeded_generator(tiny_recipe(tmp_path).seed, 0)
    ).tolist()
    image = shapes / "train" / f"{first_of_second_process + 1:06}.png"
    image.write_bytes(image.read_bytes()[:200])
    result = two_processes("train", *recipe)
    said = result.stdout + result.stderr
    assert result.returncode == 2
    assert said.count(f"error: {image}: the image cannot be decoded") == 1
    assert len(re.findall(f"error: {re.escape(CONNECTION_LOST)}; to begin again, as .*: composer -n 2 ", said)) == 1
    assert "Traceback" not in said
