"""Files that are there completely or not at all."""

import errno
import os
import signal

import pytest
from forked_runs import killed_in_a_child

from composer_copypaste.files import (
    atomic_link,
    atomic_write,
    describe_missing,
    remove_unfinished_files,
    write_if_absent,
)


def killed_while_writing(path):
    def step():
        with atomic_write(path) as unfinished:
            unfinished.write_text("hal")
            os.kill(os.getpid(), signal.SIGKILL)

    killed_in_a_child(step)


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path):
    (tmp_path / "file").write_text("old")
    with atomic_write(tmp_path / "file") as unfinished:
        unfinished.write_text("new")
        assert (tmp_path / "file").read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "new")]


def test_a_kill_while_writing_leaves_what_was_there_and_a_remnant_that_can_be_removed(tmp_path):
    (tmp_path / "file").write_text("old")
    killed_while_writing(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def fill_the_disk(path):
    with atomic_write(path) as unfinished:
        unfinished.write_text("hal")
        raise OSError(28, "No space left on device")


def test_a_write_that_fails_leaves_what_was_there_and_names_the_file(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="No space") as caught:
        fill_the_disk(tmp_path / "file")
    assert caught.value.filename == str(tmp_path / "file")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_link_is_replaced_also_over_the_remnant_of_a_kill(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    atomic_link(tmp_path / "link", "first")
    (tmp_path / ".link.unfinished").symlink_to("first")
    atomic_link(tmp_path / "link", "second")
    assert (tmp_path / "link").read_text() == "second"
    assert not (tmp_path / ".link.unfinished").is_symlink()


def test_a_link_that_cannot_be_made_is_named_not_its_target(tmp_path, monkeypatch):
    def refuse(target, path, target_is_directory):
        raise PermissionError(13, "Permission denied", target, None, path)

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(PermissionError) as caught:
        atomic_link(tmp_path / "link", "target")
    assert caught.value.filename == str(tmp_path / "link")


def test_a_folder_that_has_the_name_of_a_file_is_named(tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()

    def write():
        with atomic_write(taken) as unfinished:
            unfinished.write_text("new")

    for make in (write, lambda: atomic_link(taken, "target")):
        with pytest.raises(IsADirectoryError) as caught:
            make()
        assert caught.value.filename == str(taken)


@pytest.mark.parametrize("error", [None, errno.EPERM, errno.ENOTSUP])
def test_of_two_that_write_a_file_first_one_does_also_on_a_disk_without_hard_links(tmp_path, monkeypatch, error):
    def refuse(*paths):
        raise OSError(error, "not here")

    if error is not None:
        monkeypatch.setattr(os, "link", refuse)
    assert write_if_absent(tmp_path / "file", "first")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "first")]
    if error is None:
        assert not write_if_absent(tmp_path / "file", "second")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "first")]


def test_an_error_names_the_file_and_not_the_unfinished_one_beside_it(tmp_path):
    path = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path) as unfinished:
        unfinished.write_text("in a folder that is not there")
    assert caught.value.filename == str(path)


def test_of_a_relative_path_that_leads_nowhere_it_is_said_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert describe_missing("a.json", "file") == f"there is no such file; relative paths start from {tmp_path}"
    assert describe_missing(tmp_path / "a.json", "file") == "there is no such file"
