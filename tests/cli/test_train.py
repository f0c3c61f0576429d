"""``copypaste train`` as its users meet it: what it prints, its exit codes, and what it leaves alone."""

import json
import pickle
import re
import shutil
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from command_errors import refused
from forked_runs import start
from PIL import Image
from shapes_recipe import on_files, tiny

from composer_copypaste import MaskRCNN
from composer_copypaste.cli import main
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.errors import OldSettingWarning
from composer_copypaste.runs import train as training
from composer_copypaste.settings import ShapesSettings


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_shapes(ShapesSettings(folder=str(tmp_path_factory.mktemp("cli") / "shapes"), train=8, val=4, size=64))


@pytest.fixture
def files(drawn, tmp_path):
    """A copy of the drawn files that a test may spoil."""
    return shutil.copytree(drawn, tmp_path / "mine")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "run"


def train(*arguments):
    return CliRunner().invoke(main, ["train", *arguments])


def on_mine(files, output, *overrides):
    return train(*tiny(files.parent), *on_files(files), f"output={output}", *overrides)


def train_json(files):
    return files / "annotations" / "instances_train.json"


def spoil(files, **changes):
    """Change the first training annotation."""
    data = json.loads(train_json(files).read_text())
    data["annotations"][0] |= changes
    train_json(files).write_text(json.dumps(data))
    return data["annotations"][0]


def test_a_training_prints_the_scores_and_every_file_it_left(drawn, output):
    result = train(*tiny(drawn.parent), f"output={output}")
    assert result.exit_code == 0, result.output
    assert "COCO evaluation of 4 images" in result.stdout
    for path in output.iterdir():
        assert str(path) in result.stdout


def test_a_dry_run_says_what_would_run_and_writes_nothing(files, output):
    before = sorted(files.parent.rglob("*"))
    result = on_mine(files, output, "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"8 images of {files / 'train'}" in result.stdout
    assert re.search(r"with \d+ objects of 4 categories; evaluated on 4 images", result.stdout)
    assert str(output) in result.stdout
    assert sorted(files.parent.rglob("*")) == before


def test_a_dry_run_opens_the_weights_and_says_what_of_them_is_loaded(files, output, tmp_path):
    other = MaskRCNN(3, backbone="small").module
    torch.save(other.state_dict(), tmp_path / "other.pt")
    torch.save(other.backbone.body.state_dict(), tmp_path / "backbone.pt")
    tensors, own = len(other.state_dict()), len(other.backbone.body.state_dict())
    for weights, said in {
        "none": "everything starts at random",
        str(tmp_path / "other.pt"): f"the detector, {tensors - 6} tensors\n            last layers: made for 3 "
        "classes, start at random",
        str(tmp_path / "backbone.pt"): f"the backbone, {own} tensors; the rest starts at random",
    }.items():
        assert f"weights {weights}: {said}" in on_mine(files, output, "--dry-run", f"model.weights={weights}").stdout
    (tmp_path / "other.pt").write_bytes(b"no weights")
    refused(on_mine(files, output, "--dry-run", f"model.weights={tmp_path / 'other.pt'}"), "other.pt: ")


def test_a_dry_run_says_what_would_be_downloaded(files, output, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    result = on_mine(files, output, "--dry-run", "model.backbone=resnet18", "model.weights=imagenet")
    assert "weights imagenet: to be downloaded, 45 MB from https://" in result.stdout
    assert not (tmp_path / "hub").exists()


def test_a_dry_run_finds_what_a_run_would_refuse(files, output):
    train_json(files).unlink()
    refused(on_mine(files, output, "--dry-run"), "there is no such annotation file")


KNOWN = (
    "expected labels, which number the categories in the order of their ids (1 disc, 2 rectangle, 3 triangle, 4 star)"
)


@pytest.mark.parametrize("dry", [("--dry-run",), ()])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("copy_paste.labels=[4, 99]", f"error: copy_paste.labels: {KNOWN}, got 99\n"),
        ("copy_paste.labels=[0]", f"error: copy_paste.labels: {KNOWN}, got 0\n"),
        ("copy_paste.label_weights={5: 2}", f"error: copy_paste.label_weights: {KNOWN}, got 5\n"),
    ],
)
def test_a_label_of_no_category_is_refused_with_the_known_ones(files, output, override, message, dry):
    assert on_mine(files, output, override, *dry).stderr == message
    assert not output.exists()


def test_an_unknown_category_is_refused_with_the_known_ones_and_the_nearest(files, output):
    known = "expected names of the data's categories (disc, rectangle, triangle, star)"
    result = on_mine(files, output, "copy_paste.category_weights={sttar: 2}")
    assert result.stderr == f"error: copy_paste.category_weights: {known}, got 'sttar'; did you mean 'star'?\n"


def test_a_dry_run_names_what_may_be_copied_and_the_weights(files, output):
    given = "copy_paste={categories: [star, disc], label_weights: {4: 2}}"
    result = on_mine(files, output, "--dry-run", given)
    assert "; copied: star, disc; weights: star 2, others 1\n" in result.stdout


def test_labels_where_names_are_expected_are_taken_and_said_to_be_old(files, output):
    given = "copy_paste.categories=[4]", "copy_paste.category_weights={1: 3}"
    with pytest.warns(OldSettingWarning) as warned:
        result = on_mine(files, output, "--dry-run", *given)
    assert "; copied: star; weights: disc 3, others 1\n" in result.stdout
    said = {str(warning.message).partition(", as before")[0] for warning in warned}
    assert {"categories: 4 is taken for a label", "category_weights: '1' is taken for a label"} <= said


def test_a_dry_run_knows_the_labels_of_shapes_that_are_not_drawn_yet(tmp_path, output):
    refused(train(*tiny(tmp_path), f"output={output}", "--dry-run", "copy_paste.labels=[5]"), f"{KNOWN}, got 5")


WRONG_ANNOTATIONS = {
    "unknown image": ({"image_id": 99999}, "the image is not among the file's images"),
    "unknown category": ({"category_id": 77}, "category 77 is not among the file's categories"),
    "short polygon": ({"segmentation": [[1, 1, 5, 5]]}, "polygon has 4 numbers, needs at least 6"),
    "mask of another size": (
        {"segmentation": {"size": [32, 32], "counts": [0, 1024]}},
        "mask has size [32, 32], the image has [64, 64] (height, width)",
    ),
    "box of no area": ({"bbox": [3, 3, 0, 5]}, "box [3, 3, 0, 5] has no area"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_ANNOTATIONS.values(), ids=WRONG_ANNOTATIONS)
def test_a_wrong_annotation_is_named_with_its_file_and_image(files, output, changes, message):
    entry = spoil(files, **changes)
    place = f"annotation {entry['id']} (image {entry['image_id']})"
    refused(on_mine(files, output), f"error: {train_json(files)}: {place}: ", message)
    assert not output.exists()


def test_a_problem_of_all_annotations_is_one_line(files, output):
    data = json.loads(train_json(files).read_text())
    wrong = [entry | {"category_id": 77} for entry in data["annotations"]]
    train_json(files).write_text(json.dumps(data | {"annotations": wrong}))
    refused(on_mine(files, output), "category 77 is not among", "; likewise annotation ", f" and {len(wrong) - 4} more")


def test_a_missing_annotation_file_is_named(files, output):
    train_json(files).unlink()
    refused(on_mine(files, output), f"{train_json(files)}: there is no such annotation file")
    assert not output.exists()


def test_broken_json_is_named_with_line_and_column(files, output):
    train_json(files).write_text('{"images": [,]}')
    refused(on_mine(files, output), f"{train_json(files)}: line 1, column 13: not valid JSON")
    assert not output.exists()


def test_empty_lists_of_annotations_are_named(files, output):
    train_json(files).write_text('{"images": [], "annotations": [], "categories": []}')
    refused(on_mine(files, output), f"{train_json(files)}: 3 problems", "the list 'images' is empty", lines=4)
    assert not output.exists()


def test_a_missing_folder_of_images_is_named(files, output):
    shutil.rmtree(files / "val")
    refused(on_mine(files, output), f"{files / 'val'}: there is no such folder of images")
    assert not output.exists()


def test_a_missing_image_is_named(files, output):
    image = next((files / "train").iterdir())
    image.unlink()
    refused(on_mine(files, output), image.name, "the file is missing")
    assert not output.exists()


def test_what_is_no_image_is_named(files, output):
    image = next((files / "train").iterdir())
    image.write_text("no image")
    refused(on_mine(files, output), image.name, "the image cannot be decoded: not an image in a known format")
    assert not output.exists()


def test_an_image_of_another_size_is_named_with_both_sizes(files, output):
    image = next((files / "train").iterdir())
    Image.new("RGB", (40, 30)).save(image)
    refused(on_mine(files, output), image.name, "is 40 x 30 (width x height), the annotations say 64 x 64")
    assert not output.exists()


def cut_off(files):
    """Cut an image off after its header; its name."""
    image = sorted((files / "train").iterdir())[0]
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    noise.save(image, format="JPEG", quality=95)
    image.write_bytes(image.read_bytes()[:1500])
    return image


def test_an_image_that_breaks_while_training_ends_in_one_line_and_once_repaired_the_run_goes_on(
    files, output, tmp_path
):
    image = cut_off(files)
    process = start(*tiny(files.parent), *on_files(files), f"output={output}", log=tmp_path / "log.txt")
    process.join()
    assert process.exitcode == 2
    printed = (tmp_path / "log.txt").read_text().splitlines()
    said = [line for line in printed if not line.startswith(("train", "evaluation "))]
    assert len(said) == 1
    assert said[0].startswith(f"error: {image}: the image cannot be decoded: image file is truncated")
    assert f"the same command with output={output} goes on" in said[0]
    Image.new("RGB", (64, 64)).save(image, format="JPEG")
    assert on_mine(files, output).exit_code == 0


def test_a_batch_of_one_with_copy_paste_is_refused(drawn, output):
    result = train(*tiny(drawn.parent), f"output={output}", "data.batch_size=1")
    refused(result, "copy-paste needs at least 2 images per batch", "copy_paste=null")
    assert not output.exists()


def test_an_unknown_key_of_a_recipe_is_answered_with_the_likely_one(drawn, output):
    result = train(*tiny(drawn.parent), f"output={output}", "optimizer.learning_rte=1")
    refused(result, "error: optimizer.learning_rte: unknown key")
    refused(train(*tiny(drawn.parent), "optimiser.lr=1"), "did you mean 'optimizer")


def test_a_value_out_of_range_is_named_with_its_limit(drawn, output):
    result = train(*tiny(drawn.parent), f"output={output}", "copy_paste.p=1.5")
    refused(result, "copy_paste.p", "1.5")
    assert not output.exists()


def test_several_mistakes_are_a_line_each(drawn, output):
    result = train(*tiny(drawn.parent), f"output={output}", "copy_paste.p=1.5", "training.duration=2days")
    refused(
        result,
        "quickstart.yaml: 2 problems\n  ",
        "expected epochs or batches above 0, with the unit",
        lines=3,
    )


def test_weights_that_do_not_exist_are_named_before_anything_is_drawn(tmp_path, output):
    for options in ([], ["--dry-run"]):
        result = train(*tiny(tmp_path), f"output={output}", "model.weights=my.pt", *options)
        refused(result, "error: model.weights: expected an existing file or, for the backbone 'small', none")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_does_not_exist_is_answered_with_the_likely_one():
    refused(train("quikstart"), "did you mean the shipped 'quickstart'?")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recipe.yaml", "holds a run whose recipe cannot be read"),
        ("notes.txt", "expected a new or an empty folder for the run"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_folder_that_holds_something_is_left_alone(drawn, output, name, message, options):
    output.mkdir()
    (output / name).write_text("mine")
    refused(train(*tiny(drawn.parent), f"output={output}", *options), f"{output}: {message}", "ANOTHER_FOLDER")
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [(name, "mine")]


def test_an_output_that_is_a_file_is_left_alone(drawn, output):
    output.write_text("mine")
    refused(train(*tiny(drawn.parent), f"output={output}"), "expected a folder for the run, found a file")
    assert output.read_text() == "mine"


def test_an_output_that_is_called_like_a_file_is_refused(drawn, output):
    refused(train(*tiny(drawn.parent), f"output={output}.json"), "expected a folder for the run, which holds several")
    assert not output.with_name(f"{output.name}.json").exists()


def test_an_output_inside_a_file_is_refused(drawn, output):
    output.write_text("mine")
    refused(
        train(*tiny(drawn.parent), f"output={output}/run"), f"{output}: expected a folder for the run, found a file"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.device=gpu", "training.device: expected a GPU, found none"),
        ("training.precision=amp_bf16", "training.precision: amp_bf16 needs a GPU, found none; give fp32"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(drawn, output, monkeypatch, override, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(train(*tiny(drawn.parent), "training.device=auto", f"output={output}", override), message)
    assert not output.exists()


def test_weights_that_could_run_code_are_refused(drawn, output, tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(print))
    result = train(*tiny(drawn.parent), f"output={output}", f"model.weights={tmp_path / 'evil.pt'}")
    refused(result, "evil.pt: refused")
    assert not output.exists()


@pytest.mark.parametrize(
    ("processes", "program"), [("1", "copypaste"), ("2", "composer -n 2 -m composer_copypaste.cli")]
)
def test_an_interrupted_training_says_how_it_goes_on_with_as_many_processes(output, monkeypatch, processes, program):
    def interrupted(recipe, folder):
        folder.checkpoints.mkdir(parents=True)
        (folder.checkpoints / "ep0-ba4-rank0.pt").touch()  # the link to it is set a moment later
        raise KeyboardInterrupt

    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setattr(training, "train", interrupted)
    result = train("quickstart", f"output={output}")
    assert result.exit_code == 130
    assert result.stderr == f"interrupted; to go on: {program} train quickstart output={output}\n"


def test_before_its_first_checkpoint_an_interrupted_training_says_that_it_begins_again(output, monkeypatch):
    monkeypatch.setattr(training, "train", mock.Mock(side_effect=KeyboardInterrupt))
    result = train("quickstart", f"output={output}", "training.checkpoint_interval=50ba")
    begins = "interrupted; to begin again, as the first checkpoint comes after 50ba: copypaste train quickstart "
    assert result.stderr == f"{begins}training.checkpoint_interval=50ba output={output}\n"
