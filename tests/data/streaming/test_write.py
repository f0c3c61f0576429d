"""Writing shards: what is in them, that they are the same for any number of processes, and that nothing is lost."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from forked_runs import killed_in_a_child
from shard_cases import SMALL, DataSet, contents, drawn

from composer_copypaste import output_folder
from composer_copypaste.data.streaming import write as sharding
from composer_copypaste.errors import DataError, MissingPackageError, OutputError
from composer_copypaste.output_folder import WORKING_FOLDER
from composer_copypaste.processes import run_tasks

streaming = pytest.importorskip("streaming")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> DataSet:
    """Twelve images."""
    return drawn(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def written(data_set, tmp_path_factory):
    """Their shards, written by one process."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    data_set.write(folder)
    return folder


def test_streaming_itself_reads_the_images_bytes_and_the_annotations(data_set, written):
    source = json.loads(data_set.annotations.read_text())
    samples = streaming.LocalDataset(str(written))
    assert len(samples) == len(source["images"])
    for sample, image in zip((samples[i] for i in range(len(samples))), source["images"], strict=True):
        assert sample["image"] == (data_set.images / image["file_name"]).read_bytes()
        assert (sample["image_id"], sample["file_name"]) == (image["id"], image["file_name"])
        mine = [entry for entry in source["annotations"] if entry["image_id"] == image["id"]]
        assert [entry["segmentation"] for entry in sample["annotations"]] == [entry["segmentation"] for entry in mine]
        assert [entry["bbox"] for entry in sample["annotations"]] == [entry["bbox"] for entry in mine]


def test_the_annotation_file_lies_next_to_the_shards(data_set, written):
    assert (written / "annotations.json").read_bytes() == data_set.annotations.read_bytes()


def test_shards_are_of_the_size_asked_for(written):
    sizes = [path.stat().st_size for path in sorted(written.glob("shard.*.mds"))]
    assert len(sizes) > 3
    assert all(SMALL / 2 < size < SMALL * 1.1 for size in sizes[:-1])


def test_an_image_larger_than_a_shard_has_one_of_its_own(data_set, tmp_path):
    assert data_set.write(tmp_path / "out", shard_size=1000).shards == 12


@pytest.mark.parametrize("size", [999, 2_000_000_001])
def test_a_shard_too_small_or_too_large_is_an_error(data_set, tmp_path, size):
    with pytest.raises(ValueError, match=rf"^shard_size: expected 1000 to 2000000000 bytes, got {size}$"):
        data_set.write(tmp_path / "out", shard_size=size)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("processes", ["copies of this one", pytest.param("new", marks=pytest.mark.slow)])
def test_the_bytes_are_the_same_for_any_number_of_processes(data_set, written, tmp_path, processes, request):
    if processes != "new":
        request.getfixturevalue("forked_executors")
    data_set.write(tmp_path / "out", processes=3)  # below, a killed writing is resumed by two
    assert contents(tmp_path / "out") == contents(written)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.usefixtures("forked_executors")
def test_a_killed_writing_is_resumed_and_ends_with_the_same_bytes(data_set, written, tmp_path, processes):
    output = tmp_path / "out"

    def two_shards(*arguments):
        yield from islice(run_tasks(*arguments), 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def write_two_shards():
        sharding.run_tasks = two_shards
        data_set.write(output, processes=processes)

    killed_in_a_child(write_two_shards)
    assert not (output / "index.json").exists()
    result = data_set.write(output, processes=processes)
    assert result.kept == 2 or (processes == 2 and result.kept > 2)  # each writes until it finds that it is alone
    assert contents(output) == contents(written)


def test_the_same_command_again_changes_nothing(data_set, tmp_path):
    first = data_set.write(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    second = data_set.write(tmp_path / "out", processes=2)
    assert (first.kept, second.kept) == (0, first.shards)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_a_full_disk_is_one_line_and_the_same_command_continues(data_set, written, tmp_path, monkeypatch):
    def full(executor, function, parts):
        yield from run_tasks(executor, function, parts[:2])
        raise OSError(errno.ENOSPC, "No space left on device", "shard.00002.mds")

    monkeypatch.setattr(sharding, "run_tasks", full)
    with pytest.raises(OutputError, match=r"^shard.00002.mds: cannot be written: No space left on device; the same"):
        data_set.write(tmp_path / "out")
    monkeypatch.undo()
    before = (tmp_path / "out" / "shard.00001.mds").stat().st_mtime_ns
    assert data_set.write(tmp_path / "out").kept == 2
    assert (tmp_path / "out" / "shard.00001.mds").stat().st_mtime_ns == before
    assert contents(tmp_path / "out") == contents(written)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.usefixtures("forked_executors")
def test_damaged_images_are_all_listed_and_only_their_shards_are_missing(tmp_path, processes):
    data_set, output = drawn(tmp_path), tmp_path / "out"
    sound = {name: (data_set.images / name).read_bytes() for name in ("000001.png", "000009.png")}
    for name, content in sound.items():
        (data_set.images / name).write_bytes(content[:-100])
    with pytest.raises(DataError, match="2 problems") as caught:
        data_set.write(output, processes=processes)
    assert all(f"{name}: the image cannot be decoded" in str(caught.value) for name in sound)
    for name, content in sound.items():
        (data_set.images / name).write_bytes(content)
    assert data_set.write(output).kept >= 1
    drawn(tmp_path / "again").write(tmp_path / "reference")
    assert contents(output) == contents(tmp_path / "reference")


def test_an_image_of_another_size_than_annotated_is_found_before_anything_is_written(tmp_path):
    data_set = drawn(tmp_path)
    data = json.loads(data_set.annotations.read_text())
    data["images"][3]["width"] = 65
    for entry in data["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    data_set.annotations.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"000004.png \(image 4\): the image is 64 x 64"):
        data_set.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_source_is_refused(tmp_path, finished):
    data_set, output = drawn(tmp_path), tmp_path / "out"
    if not finished:
        (data_set.images / "000012.png").write_bytes((data_set.images / "000012.png").read_bytes()[:-100])
        with pytest.raises(
            DataError, match=r"000012.png.* cannot be decoded.*\. The other shards are kept: repair the images"
        ):
            data_set.write(output)
    else:
        data_set.write(output)
    before = contents(output)
    with pytest.raises(OutputError, match=r"differs in shard size \(20000 there, 20001 given\); give another folder"):
        data_set.write(output, shard_size=SMALL + 1)
    data_set.annotations.write_text(data_set.annotations.read_text() + "\n")
    with pytest.raises(OutputError, match="holds shards of another source, which differs in annotations"):
        data_set.write(output)
    assert contents(output) == before


def test_a_record_of_the_source_that_holds_something_else_is_named(data_set, tmp_path):
    record = tmp_path / "shards" / WORKING_FOLDER / "source.json"
    record.parent.mkdir(parents=True)
    record.write_text("7")
    with pytest.raises(OutputError, match=rf"{record}: expected the record of a source, found 7; remove {tmp_path}/sh"):
        data_set.write(tmp_path / "shards")


def test_a_folder_that_holds_something_else_is_refused_and_kept(data_set, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="expected a new or an empty folder for the shards"):
        data_set.write(tmp_path)
    with pytest.raises(OutputError, match="expected a folder for the shards, found a file"):
        data_set.write(tmp_path / "mine.txt")
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_one_process_at_a_time_writes_into_a_folder(data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "_LOCK_SECONDS", 0.1)
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    with (
        output_folder.FileLock(tmp_path / "out" / ".unfinished" / "lock"),
        pytest.raises(OutputError, match="another process is writing shards there"),
    ):
        data_set.write(tmp_path / "out")


@pytest.mark.parametrize("lock_is_gone", [True, False])
def test_a_process_that_waited_until_another_was_done_finds_all_shards(
    data_set, written, tmp_path, monkeypatch, lock_is_gone
):
    output, waits = tmp_path / "out", threading.Event()

    class Lock(output_folder.FileLock):
        def __enter__(self):
            waits.set()
            return super().__enter__()

    (output / ".unfinished").mkdir(parents=True)
    with ThreadPoolExecutor() as pool, output_folder.FileLock(output / ".unfinished" / "lock"):
        monkeypatch.setattr(output_folder, "FileLock", Lock)
        waiting = pool.submit(data_set.write, output)
        waits.wait()
        shutil.copytree(written, output, dirs_exist_ok=True)
        if lock_is_gone:
            shutil.rmtree(output / ".unfinished")
    result = waiting.result()
    assert result.kept == result.shards
    assert contents(output) == contents(written)


def test_writers_that_begin_at_once_end_with_the_same_shards(data_set, written, tmp_path):
    with ThreadPoolExecutor() as pool:
        results = [*pool.map(data_set.write, [tmp_path / "out"] * 3)]
    assert sum(result.shards - result.kept for result in results) == results[0].shards
    assert contents(tmp_path / "out") == contents(written)


def test_without_streaming_the_extra_is_named(data_set, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "streaming", None)  # as where it is not installed
    with pytest.raises(MissingPackageError, match=r"pip install 'composer-copypaste\[streaming\]'"):
        data_set.write(tmp_path / "out")


def test_an_image_that_changed_meanwhile_is_written_as_it_is_now(tmp_path, monkeypatch):
    data_set, output = drawn(tmp_path), tmp_path / "out"
    monkeypatch.setattr(sharding, "run_tasks", lambda executor, write, parts: run_tasks(executor, write, parts[:2]))
    with pytest.raises(OutputError):  # at the entry of a shard that is not there
        data_set.write(output)
    monkeypatch.undo()
    (data_set.images / "000001.png").write_bytes((data_set.images / "000002.png").read_bytes())
    assert data_set.write(output).kept < 2
    data_set.write(tmp_path / "reference")
    assert contents(output) == contents(tmp_path / "reference")
