"""Where Detectron2 is not installed, one line says what to do, and everything else works."""

import importlib.util
import subprocess
import sys

import pytest
from click.testing import CliRunner
from command_errors import refused
from shapes_recipe import tiny

import composer_copypaste
from composer_copypaste.cli import main
from composer_copypaste.errors import MissingPackageError, UserError

FOUND = importlib.util.find_spec("detectron2")
pytestmark = pytest.mark.skipif(FOUND is not None and FOUND.origin is not None, reason="Detectron2 is installed")

WHAT_TO_DO = (
    "Detectron2 is not installed, and is not on PyPI: build it from source as https://detectron2.readthedocs.io/"
)
NAME = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


def test_the_model_cannot_be_imported_which_is_one_line():
    with pytest.raises(ImportError) as raised:
        composer_copypaste.Detectron2Model  # noqa: B018
    assert isinstance(raised.value, MissingPackageError)
    assert isinstance(raised.value, UserError)
    assert str(raised.value).startswith(WHAT_TO_DO)
    assert "\n" not in str(raised.value)


def test_all_other_names_are_imported():
    code = "from composer_copypaste import *; print(MaskRCNN.__name__, 'Detectron2Model' in globals())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "MaskRCNN False\n", done.stderr


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_training_is_refused_before_anything_is_written(tmp_path, dry_run):
    arguments = [*tiny(tmp_path), f"output={tmp_path / 'run'}", "model.backbone=resnet50", f"model.detectron2={NAME}"]
    refused(CliRunner().invoke(main, ["train", *arguments, *dry_run]), WHAT_TO_DO)
    assert not (tmp_path / "run").exists()


def test_its_recipes_are_shown_and_checked():
    result = CliRunner().invoke(main, ["recipe", "show", "detectron2/finetune"])
    assert result.exit_code == 0, result.output
    assert f"detectron2: {NAME}" in result.stdout
