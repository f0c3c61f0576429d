"""``copypaste shard`` as its users meet it."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from deep_files import write_png
from PIL import Image

from composer_copypaste.cli import main
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.streaming import write as sharding
from composer_copypaste.data.streaming.dataset import StreamingCocoInstances
from composer_copypaste.errors import DataError, DataWarning
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.runs.data import open_data
from composer_copypaste.settings import ShapesSettings

pytest.importorskip("streaming")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Arguments that name four drawn images."""
    root = draw_shapes(ShapesSettings(folder=str(tmp_path_factory.mktemp("files") / "shapes"), train=4, val=1, size=64))
    return ["--images", str(root / "train"), "--annotations", str(root / "annotations" / "instances_train.json")]


def shard(*arguments):
    return CliRunner().invoke(main, ["shard", *map(str, arguments)])


@pytest.mark.usefixtures("forked_executors")
def test_it_says_what_it_wrote_and_what_was_there(files, tmp_path):
    output = tmp_path / "out"
    first, again = (shard(output, *files, "--shard-size", "20KB", "--processes", 2) for _ in range(2))
    size = sum(path.stat().st_size for path in output.glob("shard.*.mds")) / 1e6
    assert first.stdout == f"{output}: 4 images in 2 shards, {size:.1f} MB\n"
    assert again.stdout == f"{output}: 4 images in 2 shards (2 shards there before), {size:.1f} MB\n"


def test_what_is_wrong_is_one_line_and_nothing_is_written(files, tmp_path):
    result = shard(tmp_path / "out", *files[:-1], tmp_path / "none.json")
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'none.json'}: there is no such annotation file\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["MB", "64 TB", "-1MB", "999KBs"])
def test_an_invalid_size_is_refused_with_an_example(files, tmp_path, size):
    result = shard(tmp_path / "out", *files, "--shard-size", size)
    assert result.exit_code == 2
    assert f"expected a size such as 64MB, got '{size}'" in result.stderr


@pytest.mark.parametrize("size", ["64", "0.9KB", "2.1GB"])
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
    command = f"copypaste shard {tmp_path / 'out'} {' '.join(files)} --shard-size 1500000"
    assert result.stderr.splitlines()[-1] == f"interrupted; to go on: {command}"
    assert sizes == [1_500_000]


@pytest.fixture
def twelve_bits(tmp_path):
    """An image of 16 bits that holds 12, in a folder, and its annotations."""
    (tmp_path / "pictures").mkdir()
    write_png(tmp_path / "pictures" / "7.png", np.linspace(0, 4095, 96).astype(np.uint16).reshape(8, 12))
    data = {
        "images": [{"id": 7, "file_name": "7.png", "height": 8, "width": 12}],
        "categories": [{"id": 5, "name": "nut"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [2, 1, 4, 4], "segmentation": [[2, 1, 6, 1, 6, 5, 2, 5]]}
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    return tmp_path


def test_shards_remember_the_range_of_values_they_were_written_for(twelve_bits):
    files = ["--images", twelve_bits / "pictures", "--annotations", twelve_bits / "annotations.json"]
    output = twelve_bits / "out"
    refused = shard(output, *files)
    assert (refused.exit_code, output.exists()) == (2, False)
    assert "the largest value in 1 of them is 4095, of 65535: they would be nearly black" in refused.stderr
    assert shard(output, *files, "--value-range", 0, 4095).exit_code == 0
    assert int(StreamingCocoInstances(output)[0][0].max()) == 255
    other = shard(output, *files, "--value-range", 0, 1023)
    assert "holds shards of another source, which differs in value range" in other.stderr


def test_a_recipe_cannot_give_shards_another_range(twelve_bits):
    files = ["--images", twelve_bits / "pictures", "--annotations", twelve_bits / "annotations.json"]
    assert shard(twelve_bits / "out", *files, "--value-range", 0, 4095).exit_code == 0
    place = [f"data.{split}.streaming={twelve_bits / 'out'}" for split in ("train", "val")]
    assert len(open_data(load_recipe("finetune", place)).train) == 1
    assert len(open_data(load_recipe("finetune", [*place, "data.value_range=[0,4095]"])).train) == 1
    with pytest.raises(DataError, match=r"were written for a value range of \[0\.0, 4095\.0\], data\.value_range is"):
        open_data(load_recipe("finetune", [*place, "data.value_range=[0,1023]"]))


def test_an_invalid_range_is_one_line(files, tmp_path):
    result = shard(tmp_path / "out", *files, "--value-range", 9, 1)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: command line: --value-range: expected two ascending values")


def test_a_warning_about_the_data_is_one_line(twelve_bits, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.zeros((8, 12), dtype=np.uint8)).save(twelve_bits / "pictures" / "7.png", exif=exif)
    monkeypatch.setattr(warnings, "formatwarning", None)  # is set by the command, and given to whatever prints warnings
    files = ["--images", twelve_bits / "pictures", "--annotations", twelve_bits / "annotations.json"]
    with pytest.warns(DataWarning) as found:
        assert shard(twelve_bits / "out", *files).exit_code == 0
    (printed,) = (warnings.formatwarning(each.message, each.category, each.filename, each.lineno) for each in found)
    assert re.fullmatch(rf"warning: {twelve_bits / 'pictures'}: 7\.png has an orientation tag.*\n", printed)


def test_crowds_are_what_the_shards_were_written_with(files, tmp_path):
    content = json.loads(Path(files[3]).read_text())
    content["annotations"] = [entry | {"iscrowd": 1} for entry in content["annotations"]]
    (tmp_path / "crowds.json").write_text(json.dumps(content))
    given = [*files[:3], tmp_path / "crowds.json"]
    refused = shard(tmp_path / "none", *given)
    assert refused.exit_code == 2
    assert "--crowds objects takes them for single objects" in refused.stderr
    for crowds, marks in (("objects", {0}), ("ignore", {1})):
        result = shard(tmp_path / crowds, *given, "--crowds", crowds)
        assert result.exit_code == 0, result.output
        assert (" are crowds" in result.stdout) == (crowds == "ignore")
        data = StreamingCocoInstances(tmp_path / crowds)
        assert {mark for _, target in data for mark in target["iscrowd"].tolist()} == marks
        truth = data.annotations.annotations.values()
        assert {entry["iscrowd"] for entries in truth for entry in entries} == marks
    keys = [f"data.{split}.streaming={tmp_path / 'ignore'}" for split in ("train", "val")]
    with pytest.raises(DataError, match="written by copypaste shard --crowds objects"):
        open_data(load_recipe("finetune", [*keys, "data.crowds=objects"]))
