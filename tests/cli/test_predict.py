"""``copypaste predict`` as its users meet it."""

import json
import shlex

import pytest
from click.testing import CliRunner
from command_errors import refused
from PIL import Image
from small_runs import small_run

from composer_copypaste.cli import main
from composer_copypaste.runs.predict import run as predict_run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("predict") / "run", found=3)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, color in (("a", "red"), ("b", "white")):
        Image.new("RGB", (40, 30), color).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def predict(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def test_it_says_what_it_found_and_writes_it(model, photos):
    result = predict("photos/*.png", "--weights", model, "--output", "found", "--draw", "--as-annotations")
    rest = "0 of them are drawn and annotated, those of a score of 0.5 or more; --min-score gives others\n"
    assert (result.exit_code, result.stdout) == (0, f"found: 6 objects in 2 images\n{rest}")
    names = {path.name for path in (photos.parent / "found").iterdir()}
    assert names == {"annotations.json", "copypaste.json", "drawn", "images.json", "results.json"}


def test_how_many_objects_are_drawn_is_said_where_some_are_not(model, photos):
    arguments = ("photos", "--weights", model, "--output", "found", "--draw")
    first = "0 of them are drawn, those of a score of 0.5 or more; --min-score gives others\n"
    assert predict(*arguments).stdout == f"found: 6 objects in 2 images\n{first}"
    assert predict(*arguments).stdout == f"found: 6 objects in 2 images (2 done before)\n{first}"
    arguments = ("photos", "--weights", model, "--output", "all", "--draw", "--min-score", "0")
    assert predict(*arguments).stdout == "all: 6 objects in 2 images\n"


def test_the_output_is_named_after_the_weights(model, photos):
    assert predict("photos", "--weights", model).stdout == "predictions/run: 6 objects in 2 images\n"


REPAIRED = "once they are repaired, the same command looks at them alone"


def test_unreadable_images_are_listed_at_the_end_with_exit_code_1(model, photos):
    (photos / "c.png").write_bytes(b"no image")
    result = predict("photos", "--weights", model, "--output", "found")
    assert result.exit_code == 1
    assert result.stdout == "found: 6 objects in 2 images\n"
    why = "photos/c.png: the image cannot be decoded: not an image in a known format"
    assert result.stderr.endswith(f"1 image could not be read:\n  {why}\n{REPAIRED}\n")


def test_keys_of_the_recipe_can_be_changed(model, photos):
    arguments = ["photos", "model.detections_per_image=2", "--weights", model, "--output", "found"]
    assert predict(*arguments).stdout == "found: 4 objects in 2 images\n"


def test_a_file_may_be_named_like_a_key(model, photos):
    (photos / "a.png").rename(photos.parent / "model.png=1.png")
    result = predict("model.png=1.png", "--weights", model, "--output", "found")
    assert (result.exit_code, result.stdout) == (0, "found: 3 objects in 1 image\n")


def test_ctrl_c_prints_the_command_that_goes_on_with_the_others(model, photos, monkeypatch):
    arguments = ["photos", "data.eval_batch_size=1", "--weights", str(model), "--output", "found", "--draw"]
    arguments += ["--min-score", "0.0", "--value-range", "0.0", "4095.0"]
    predict_batch, calls = predict_run._predict_batch, []

    def stop(*batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict_batch(*batch)

    with monkeypatch.context() as context:
        context.setattr(predict_run, "_predict_batch", stop)
        result = predict(*arguments)
    assert result.exit_code == 130
    said = result.stderr.strip().splitlines()[-1]
    assert said.startswith("interrupted; to go on: copypaste predict ")
    command = shlex.split(said.partition("to go on: copypaste ")[2])
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.stdout) == (0, "found: 6 objects in 2 images (1 done before)\n")


def test_mistakes_are_one_line(model, photos, tmp_path):
    refused(predict("photos", "--weights", "nowhere", "--output", "found"), "nowhere: expected a checkpoint")
    refused(predict("nowhere.png", "--weights", model, "--output", "found"), "nowhere.png: there is no such file")
    refused(predict("--weights", model, "--output", "found"), "missing argument")
    refused(predict("model.min_size=64", "--weights", model, "--output", "found"), "expected images, or a COCO file")
    refused(predict("photos", "model.size=64", "--weights", model, "--output", "found"), "model.size")
    refused(predict("photos", "--weights", model, "--output", "found", "--tiles", "8"), "--tiles")
    (tmp_path / "my.json").write_text(json.dumps({"images": []}))
    refused(predict("my.json", "--weights", model, "--output", "found"), "my.json: a COCO file", "--images FOLDER")
    refused(predict("photos", "--weights", model, "--output", "found", "--value-range", "9", "9"), "value_range")
    (tmp_path / "model.onnx").write_bytes(b"")
    refused(
        predict("photos", "--weights", "model.onnx", "--output", "found", "--recipe", "finetune"),
        "leave out the recipe",
    )
    refused(predict("photos", "--weights", "model.onnx", "--output", "found", "--best"), "a file; --best takes")
    lists_others = {"images": [{"id": 1, "file_name": "z.png", "width": 40, "height": 30}]}
    (tmp_path / "my.json").write_text(json.dumps(lists_others))
    refused(
        predict("my.json", "--images", "photos", "--weights", model, "--output", "found"), "has none of the 1 image"
    )
    assert not (tmp_path / "found").exists()
