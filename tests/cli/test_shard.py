"""``copypaste shard`` as its users meet it."""

import pytest
from click.testing import CliRunner

from composer_copypaste.cli import main
from composer_copypaste.data import sharding
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.settings import ShapesSettings

pytest.importorskip("streaming")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Arguments that name four drawn pictures."""
    root = draw_shapes(ShapesSettings(folder=str(tmp_path_factory.mktemp("files") / "shapes"), train=4, val=1, size=64))
    return ["--images", str(root / "train"), "--annotations", str(root / "annotations" / "instances_train.json")]


def shard(*arguments):
    return CliRunner().invoke(main, ["shard", *map(str, arguments)])


def test_it_says_what_it_wrote_and_what_was_there(files, tmp_path):
    output = tmp_path / "out"
    first, again = (shard(output, *files, "--shard-size", "20KB", "--processes", 2) for _ in range(2))
    size = sum(path.stat().st_size for path in output.glob("shard.*.mds")) / 1e6
    assert first.stdout == f"{output}: 4 pictures in 2 shards, {size:.1f} MB\n"
    assert again.stdout == f"{output}: 4 pictures in 2 shards, 2 of them there before, {size:.1f} MB\n"


def test_what_is_wrong_is_one_line_and_nothing_is_written(files, tmp_path):
    result = shard(tmp_path / "out", *files[:-1], tmp_path / "none.json")
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'none.json'}: there is no such annotation file\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["64", "MB", "64 TB", "-1MB", "1.5", "999KBs"])
def test_a_size_that_is_none_is_said_so(files, tmp_path, size):
    result = shard(tmp_path / "out", *files, "--shard-size", size)
    assert result.exit_code == 2
    assert f"expected a size such as 64MB, got '{size}'" in result.stderr


@pytest.mark.parametrize("size", ["0.9KB", "2.1GB"])
def test_a_size_out_of_reach_is_said_so(files, tmp_path, size):
    assert "expected a size from 1KB to 2GB" in shard(tmp_path / "out", *files, "--shard-size", size).stderr


def test_an_interrupted_writing_says_how_it_goes_on(files, tmp_path, monkeypatch):
    sizes = []

    def interrupted(*arguments, shard_size, **settings):
        sizes.append(shard_size)
        raise KeyboardInterrupt

    monkeypatch.setattr(sharding, "write_shards", interrupted)
    result = shard(tmp_path / "out", *files, "--shard-size", "1.5MB")
    assert result.exit_code == 130
    command = f"copypaste shard {tmp_path / 'out'} {' '.join(files)} --processes 1 --shard-size 1.5MB"
    assert result.stderr.splitlines()[-1] == f"interrupted; to go on: {command}"
    assert sizes == [1_500_000]
