"""``copypaste export`` as its users meet it."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_runs import small_run

from composer_copypaste.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, and images beside it, some of them in a folder below."""
    place = tmp_path_factory.mktemp("export")
    generator = torch.Generator().manual_seed(0)
    for name in ("a.png", "below/b.jpg"):
        pixels = torch.randint(0, 256, (50, 80, 3), dtype=torch.uint8, generator=generator)
        (place / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(place / "images" / name)
    (place / "images" / "notes.txt").write_text("no image")
    return small_run(place / "run")


def export(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def refused(result, *parts, code=2):
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    for part in parts:
        assert part in lines[-1]
    assert result.stdout == ""


def images_of(run):
    return ["--images", run.parent / "images"]


def test_a_run_is_written_as_a_file_that_predicts_with_its_categories(run, tmp_path):
    result = export(run, tmp_path / "m.onnx", "model.detections_per_image=2", *images_of(run))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'm.onnx'}: ")
    assert "10 objects in 5 images; largest differences: boxes " in result.stdout
    options = ["--weights", str(tmp_path / "m.onnx"), "--output", str(tmp_path / "found")]
    result = CliRunner().invoke(main, ["predict", str(run.parent / "images"), *options])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found/results.json").read_text())
    assert len(found) == 4
    assert {each["category_id"] for each in found} <= {5, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.pt"], "m.pt: expected a name that ends with .onnx, .torchscript or .pkl (for Detectron2)"),
        (["none/m.onnx"], "there is no folder none"),
        (["m.onnx", "--max-unmatched", "2"], "command line: --max-unmatched: expected at most 1, got 2.0"),
        (["m.onnx", "--images", "none"], "none: there is no such file or folder"),
        (["m.onnx", "model.backbon=small"], "model.backbon: unknown key"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    refused(export(run, *arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path):
    refused(export(tmp_path / "none.pt", tmp_path / "m.onnx"), "none.pt: expected a checkpoint, or the folder of a run")


def test_images_that_the_run_no_longer_has_are_named_with_the_option(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moved = shutil.copytree(run, tmp_path / "moved", symlinks=True)
    files = "{images: gone, annotations: gone.json}"
    (moved / "recipe.yaml").write_text(f"base: quickstart\ndata: {{shapes: null, train: {files}, val: {files}}}\n")
    refused(export(moved, "m.onnx"), "gone", "--images FOLDER names other images")
