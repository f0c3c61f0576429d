"""Without Composer, which only an extra brings: what works, and what says in one line what is missing."""

import json
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest

import composer_copypaste
from composer_copypaste import errors, extras
from composer_copypaste.errors import MissingPackageError

WHAT_TO_DO = (
    "training, CopyPaste and MaskRCNN need MosaicML Composer, which is not installed: "
    "pip install 'composer-copypaste[composer]'"
)
ANSWERS = """
import json, sys
sys.modules["composer"] = None  # cannot be imported, as where it is not installed
import composer_copypaste

named = {}
exec("from composer_copypaste import *", named)
lacking = {}
for name in composer_copypaste._HOMES:
    try:
        getattr(composer_copypaste, name)
    except ImportError as error:
        lacking[name] = f"{type(error).__name__}: {error}"
print(json.dumps([sorted(named), dir(composer_copypaste), lacking]))
"""


def python_without_composer(code, *arguments):
    begin = "import sys; sys.modules['composer'] = None\n"
    return subprocess.run([sys.executable, "-c", begin + code, *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def answers():
    done = python_without_composer(ANSWERS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_star_import_and_dir_leave_out_exactly_what_cannot_be_had(answers):
    starred, listed, lacking = answers
    every = set(composer_copypaste._HOMES)
    assert every - set(starred) == set(lacking) == every - set(listed)
    assert {"CopyPaste", "MaskRCNN", "training_data_spec", "run_ablation"} <= set(lacking)
    assert {"copypaste_batch", "CocoMeanAveragePrecision", "preview", "load_predictor"} <= set(starred)


def test_what_needs_composer_names_the_extra_in_one_line(answers):
    lacking = answers[2]
    assert lacking["CopyPaste"] == f"MissingPackageError: {WHAT_TO_DO}"
    others = {"CopyPasteCallback", "CopyPasteHook", "Detectron2Model", "LargeScaleJitterHook"}
    assert {text for name, text in lacking.items() if name not in others} == {lacking["CopyPaste"]}
    if "CopyPasteCallback" in lacking:
        assert lacking["CopyPasteCallback"].endswith("pip install 'composer-copypaste[lightning]'")


@pytest.mark.parametrize(
    "arguments", [["train", "quickstart", "--dry-run"], ["train", "quickstart"], ["ablate", "parts", "--smoke"]]
)
def test_commands_that_train_name_the_extra_and_write_nothing(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    done = python_without_composer("from composer_copypaste.cli import main; main()", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {WHAT_TO_DO}\n")
    assert not list(tmp_path.iterdir())


def test_a_missing_cluster_package_is_named_before_anything_is_written(coco_file, gradient, tmp_path):
    place = ["--images", tmp_path, "--annotations", coco_file(), "--dask", "tcp://127.0.0.1:9"]
    code = "import sys; sys.modules['distributed'] = None; from composer_copypaste.cli import main; main()"
    command = [sys.executable, "-c", code, "augment", tmp_path / "new", *place]
    done = subprocess.run(command, capture_output=True, text=True)
    expected = "--dask needs Dask Distributed, which is not installed: pip install 'composer-copypaste[dask]'"
    assert (done.returncode, done.stderr) == (2, f"error: {expected}\n")
    assert not (tmp_path / "new").exists()


def test_type_checkers_see_the_names_that_are_loaded_on_first_use():
    source = typing.cast(str, composer_copypaste.__file__)
    with open(source, encoding="utf-8") as file:
        declared = file.read().partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0].splitlines()
    seen = {(line.split()[1], line.split()[3]) for line in declared}
    assert seen == {(f"composer_copypaste.{home}", name) for name, home in composer_copypaste._HOMES.items()}


def test_a_folder_with_a_packages_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "package_that_is_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not extras.is_installed("package_that_is_a_folder")
    assert extras.is_installed("torch")
    with pytest.raises(MissingPackageError) as raised:
        extras.check_installed("package_that_is_a_folder", "shards need it", "streaming")
    assert str(raised.value) == "shards need it, which is not installed: pip install 'composer-copypaste[streaming]'"
    assert isinstance(raised.value, errors.UserError)


ROOT = Path(__file__).parents[1]


def test_the_page_on_installing_lists_every_extra_for_users():
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for_users = {name for name in project["optional-dependencies"] if name not in {"test", "dev", "docs"}}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == for_users
    assert {path.stem.removeprefix("try_") for path in ROOT.glob("tests/installation/try_*.py")} == {"core", *for_users}


def test_the_page_says_what_make_test_newest_puts_in_the_place_of_composers_pins():
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    overrides = (ROOT / "tests/installation/newest.txt").read_text(encoding="utf-8").partition("torch>=")
    lines = (overrides[1] + overrides[2]).splitlines()
    assert f"```text\n{chr(10).join(lines)}\n```" in page
    assert f"override-dependencies = {json.dumps(lines)}" in page
