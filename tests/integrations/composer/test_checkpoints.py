"""What is saved, what a kill or a full disk leaves of it, and what is not loaded."""

import io
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from forked_runs import killed_in_a_child
from shapes_recipe import tiny_recipe

from composer_copypaste.errors import CheckpointError, OutputError
from composer_copypaste.integrations.composer import checkpoints
from composer_copypaste.integrations.composer.checkpoints import delete_old_checkpoints, saved_checkpoints
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def interrupted(place):
    """The folder of a run that stopped after its second of three batches."""
    folder = RunFolder(place / "interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_write_checkpoint", stopping_at(3, checkpoints._write_checkpoint))
        with pytest.raises(KeyboardInterrupt):
            train(recipe(place), folder)
    return folder


@pytest.fixture
def folder(interrupted, tmp_path):
    """A copy of that folder."""
    return RunFolder(shutil.copytree(interrupted.root, tmp_path / "run", symlinks=True))


def recipe(place):
    return tiny_recipe(place, "data.shapes.train=16", "training.duration=3ba", "data.workers=0")


def stopping_at(number, write):
    """A writer of checkpoints whose process is interrupted before it writes one of this number."""

    def stop(content, path):
        if f"-ba{number}-" in path.name:
            raise KeyboardInterrupt
        write(content, path)

    return stop


def names(folder):
    return sorted(path.name for path in folder.checkpoints.iterdir())


class HalfWritten:
    """Stands for ``torch.save``: writes the beginning, and then something happens."""

    def __init__(self, then):
        self.then = then
        self.save = torch.save

    def __call__(self, content, file, **options):
        if not hasattr(file, "name"):  # processes send each other tensors by it
            return self.save(content, file, **options)
        file.write(b"half")
        file.flush()
        return self.then()


def test_an_interrupted_run_has_its_checkpoints_and_a_link_to_the_newest(interrupted):
    assert names(interrupted) == ["ep0-ba1-rank0.pt", "ep0-ba2-rank0.pt", "latest-rank0.pt"]
    assert os.readlink(interrupted.latest_checkpoint) == "ep0-ba2-rank0.pt"


def test_a_kill_inside_a_write_leaves_the_checkpoint_before_and_is_cleaned_up(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.checkpoints.iterdir()}
    monkeypatch.setattr(torch, "save", HalfWritten(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    killed_in_a_child(lambda: checkpoints._write_checkpoint({}, folder.checkpoints / "ep0-ba3-rank0.pt"))
    assert ".ep0-ba3-rank0.pt.unfinished" in names(folder)
    delete_old_checkpoints(folder.checkpoints)
    assert {path.name: path.read_bytes() for path in folder.checkpoints.iterdir()} == before


def test_a_kill_between_the_checkpoint_and_its_link_loses_nothing(folder):
    folder.latest_checkpoint.unlink()
    folder.latest_checkpoint.symlink_to("ep0-ba1-rank0.pt")
    shutil.copyfile(folder.checkpoints / "ep0-ba2-rank0.pt", folder.checkpoints / "ep1-ba10-rank0.pt")
    delete_old_checkpoints(folder.checkpoints)
    assert names(folder) == ["ep0-ba2-rank0.pt", "ep1-ba10-rank0.pt", "latest-rank0.pt"]
    assert os.readlink(folder.latest_checkpoint) == "ep1-ba10-rank0.pt"


def full():
    raise OSError(28, "No space left on device")


def test_a_full_disk_ends_in_a_line_that_says_how_to_go_on_and_the_run_does_go_on(place, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", HalfWritten(full))
        with pytest.raises(OutputError) as caught:
            train(recipe(place), folder)
    assert str(caught.value) == (
        f"{folder.checkpoints}/ep0-ba3-rank0.pt: cannot be written: No space left on device. Make room: {folder.root} "
        f"holds what was done so far; then the same command with output={folder.root} goes on"
    )
    assert names(folder) == ["ep0-ba1-rank0.pt", "ep0-ba2-rank0.pt", "latest-rank0.pt"]
    train(recipe(place), folder)
    assert folder.is_complete


@pytest.mark.parametrize(
    ("written", "named", "error"),
    [
        (
            "checkpoints/.ep0-ba3-rank0.pt.unfinished",
            "checkpoints/ep0-ba3-rank0.pt",
            PermissionError(13, "Permission denied"),
        ),
        ("metrics.jsonl", "metrics.jsonl", OSError(5, "Input/output error")),
        (".curves.png.unfinished", "curves.png", OSError(30, "Read-only file system")),
    ],
)
def test_a_folder_that_can_no_longer_be_written_ends_in_a_line_and_the_run_goes_on(
    place, folder, monkeypatch, written, named, error
):
    def open_(path, mode="r", *arguments, **options):
        if str(path) == f"{folder.root}/{written}" and "r" not in mode:
            raise type(error)(*error.args, str(path))
        return whole(path, mode, *arguments, **options)

    whole = io.open
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", open_)  # as Path.open and open call it
        patch.setattr("builtins.open", open_)
        with pytest.raises(OutputError) as caught:
            train(recipe(place), folder)
    assert str(caught.value) == (
        f"{folder.root}/{named}: cannot be written: {error.strerror}. Put it right: {folder.root} "
        f"holds what was done so far; then the same command with output={folder.root} goes on"
    )
    train(recipe(place), folder)
    assert folder.is_complete


def test_torchs_own_error_after_a_failed_write_does_not_hide_the_full_disk(tmp_path):
    device = tmp_path / ".full.pt.unfinished"
    device.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        checkpoints._write_checkpoint({"weights": torch.zeros(100_000)}, tmp_path / "full.pt")


def test_a_damaged_checkpoint_ends_in_a_line(place, folder):
    newest = saved_checkpoints(folder.checkpoints)[-1]
    newest.write_bytes(newest.read_bytes()[:100_000])
    with pytest.raises(
        CheckpointError, match=r"ep0-ba2-rank0\.pt: expected weights, got a file that is cut off"
    ) as caught:
        train(recipe(place), folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(
        ". Remove this file, and the same command goes on from the checkpoint before, or from the beginning"
    )
    newest.unlink()
    train(recipe(place), folder)
    assert folder.is_complete


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_and_its_code_is_not_run(place, folder, zipped, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    newest = saved_checkpoints(folder.checkpoints)[-1]
    content = torch.load(newest, weights_only=False)
    content["state"]["callbacks"]["Hostile"] = Hostile()
    torch.save(content, newest, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused: it holds .*mkdir, and reading it could run code"):
        train(recipe(place), folder)
    assert not (tmp_path / "hostile").exists()


def test_composer_does_not_evaluate_what_a_checkpoint_says_of_algorithms(place, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    newest = saved_checkpoints(folder.checkpoints)[-1]
    content = torch.load(newest, weights_only=False)
    code = "BlurPool.__class__ and __import__('os').mkdir('hostile')"
    content["state"]["algorithms"] = [("BlurPool", {"repr": code})]
    torch.save(content, newest)
    with pytest.raises(CheckpointError, match=r"expected the state of the algorithms \['CopyPaste'\], found \['Blur"):
        train(recipe(place), folder)
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("nested", [False, True])
def test_weights_alone_cannot_be_resumed(place, folder, nested):
    newest = saved_checkpoints(folder.checkpoints)[-1]
    weights = torch.load(newest, weights_only=False)["state"]["model"]
    torch.save({"model": weights, "rng": [{}]} if nested else weights, newest)
    with pytest.raises(CheckpointError, match="expected the whole state of a training, found weights only"):
        train(recipe(place), folder)


def test_a_checkpoint_whose_weights_are_not_finite_is_not_resumed(place, folder):
    newest = saved_checkpoints(folder.checkpoints)[-1]
    content = torch.load(newest, weights_only=False)
    next(iter(content["state"]["model"].values())).fill_(torch.nan)
    torch.save(content, newest)
    with pytest.raises(CheckpointError, match=r"holds weights that are not finite .*\. Remove this file, and the same"):
        train(recipe(place), folder)


def test_a_checkpoint_of_a_former_version_is_resumed_without_a_warning(place, folder, recwarn):
    newest = saved_checkpoints(folder.checkpoints)[-1]
    content = torch.load(newest, weights_only=False)
    del content["state"]["callbacks"]["StopsAtNonFiniteLoss"]
    content["state"]["callbacks"]["CheckpointWriter"] = {}
    torch.save(content, newest)
    train(recipe(place), folder)
    assert not [warning for warning in recwarn if "not in the state_dict" in str(warning.message)]


def test_a_checkpoint_of_more_processes_is_refused(place, folder):
    newest = saved_checkpoints(folder.checkpoints)[-1]
    content = torch.load(newest, weights_only=False)
    torch.save(content | {"rng": content["rng"] * 2}, newest)
    with pytest.raises(CheckpointError, match=r"left by a run of 2 processes, .* found 1 process$"):
        train(recipe(place), folder)


def test_a_checkpoint_is_read_once_and_as_data(place, folder, monkeypatch):
    reads = []
    read = torch.load

    def load(file, *args, **options):
        if isinstance(file, str | Path):  # not what processes exchange
            reads.append((Path(file), options["weights_only"]))
        return read(file, *args, **options)

    monkeypatch.setattr(torch, "load", load)
    newest = saved_checkpoints(folder.checkpoints)[-1]
    train(recipe(place), folder)
    assert reads == [(newest, True)]
