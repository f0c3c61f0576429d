"""``copypaste augment`` as its users meet it."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
from click.testing import CliRunner
from shard_cases import contents, drawn

from composer_copypaste import OfflineCopyPasteSettings
from composer_copypaste.cli import main
from composer_copypaste.runs.augment import run as augmenting


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Four drawn images."""
    return drawn(tmp_path_factory.mktemp("files"), 4)


@pytest.fixture(scope="module")
def files(data_set):
    """Arguments that name them."""
    return ["--images", str(data_set.images), "--annotations", str(data_set.annotations)]


def augment(*arguments):
    return CliRunner().invoke(main, ["augment", *map(str, arguments)])


def test_it_says_what_it_wrote_and_what_was_there(files, tmp_path):
    first, again = (augment(tmp_path / "out", *files, "--per-image", 2, "p_instance=1") for _ in range(2))
    entries = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    pasted = sum("to_source" in entry.get("copy_paste", {}) for entry in entries)
    assert first.stdout == f"{tmp_path / 'out'}: 8 new images with {pasted} pasted objects, and 4 original images\n"
    assert again.stdout == first.stdout.replace("new images", "new images (8 there before)")


def test_settings_of_copy_paste_are_given_as_in_a_recipe_with_or_without_its_section(files, tmp_path):
    result = augment(
        tmp_path / "out", *files, "p=1", "copy_paste.rotation=180", "scale_range=[0.3,3]", "aspect_range=[0.33,3]"
    )
    assert result.exit_code == 0, result.output
    used = json.loads((tmp_path / "out" / "annotations.json").read_text())["copy_paste"]["settings"]["copy_paste"]
    assert (used["rotation"], used["scale_range"], used["aspect_range"]) == (180, [0.3, 3], [0.33, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rotation=200"], "copy_paste.rotation: expected at most 180, got 200 (command line)"),
        (["rotations=20"], "copy_paste.rotations: unknown key; did you mean 'copy_paste.rotation'? allowed: "),
        (
            ["scale=2"],
            "copy_paste.scale: unknown key; did you mean 'copy_paste.scale_range', 'copy_paste.scale_",
        ),
        (["copy_paste.rotation=400"], "copy_paste.rotation: expected at most 180, got 400 (command line)"),
        (["stop=1ep"], "copy_paste.stop: expected null, as it is for trainings only, got '1ep' (command line)"),
        (["categories=[cat]"], "copy_paste.categories: expected names of the data's categories ("),
        (["--fraction", "0"], "command line: invalid value for '--fraction': 0.0 is not in the range 0<x<=1. See: "),
        (
            ["--pool-images", "."],
            "command line: expected either --pool-folder, or --pool-annotations and --pool-images",
        ),
    ],
)
def test_what_is_wrong_is_one_line(files, tmp_path, arguments, message):
    result = augment(tmp_path / "out", *files, *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_keys_of_trainings_only_are_not_offered(files, tmp_path):
    number = len(fields(OfflineCopyPasteSettings)) - len(OfflineCopyPasteSettings.OF_TRAININGS)
    assert f"allowed: {number} keys, which 'copypaste " in augment(tmp_path / "out", *files, "zzz=1").stderr
    assert "did you mean" not in augment(tmp_path / "out", *files, "bank_siz=1").stderr


def test_without_files_and_recipe_it_says_what_is_missing(tmp_path):
    result = augment(tmp_path / "out")
    expected = "error: command line: expected --images and --annotations, or a --recipe that names them in data.train\n"
    assert (result.exit_code, result.stderr) == (2, expected)


def test_a_recipe_names_data_settings_and_pool(data_set, files, tmp_path):
    name = json.loads(data_set.annotations.read_text())["categories"][0]["name"]
    (tmp_path / "mine.yaml").write_text(
        f"base: quickstart\ndata:\n  shapes: null\n  train: &data {{images: {data_set.images}, annotations: "
        f"{data_set.annotations}}}\n  val: *data\n  pool: {{images: {data_set.images}, annotations: "
        f"{data_set.annotations}}}\ncopy_paste: {{p: 0.1, categories: [{name}], p_pool: 1, stop: 1ep}}\n"
    )
    result = augment(tmp_path / "out", "--recipe", tmp_path / "mine.yaml", "rotation=10", "--originals", "omit")
    assert result.exit_code == 0, result.output
    new = json.loads((tmp_path / "out" / "annotations.json").read_text())
    used = new["copy_paste"]["settings"]["copy_paste"]
    assert (used["p"], used["categories"], used["rotation"], used["stop"]) == (1, [name], 10, None)
    assert any("cut_out" in entry["copy_paste"] for entry in new["annotations"])


def test_an_interrupted_writing_says_how_it_goes_on(files, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(augmenting, "augment_data_set", interrupted)
    result = augment(
        tmp_path / "out", *files, "rotation=30", "--per-image", 2, "--format", "png", "aspect_range=[0.5,2]"
    )
    assert result.exit_code == 130
    command = f"copypaste augment {tmp_path / 'out'} rotation=30 'aspect_range=[0.5,2]' {' '.join(files)}"
    assert result.stderr.splitlines()[-1] == f"interrupted; to go on: {command} --per-image 2 --format png"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["processes", "dask"])
def test_processes_and_the_workers_of_a_cluster_write_the_same_bytes(files, tmp_path, where):
    assert augment(tmp_path / "one", *files, "rotation=30").exit_code == 0
    if where == "processes":
        result = augment(tmp_path / "more", *files, "rotation=30", "--processes", 2)
    else:
        distributed = pytest.importorskip("distributed")
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            result = augment(tmp_path / "more", *files, "rotation=30", "--dask", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "more") == contents(tmp_path / "one")


def test_help_imports_no_framework():
    code = "import sys; from composer_copypaste.cli import main; main(['augment', '--help'], standalone_mode=False)"
    check = f"{code}; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True).returncode == 0
