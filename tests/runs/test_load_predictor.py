import json
import warnings

import pytest
import torch
from small_runs import FIG, NUT, save_weights, small_run
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.errors import CheckpointError, DataError, DataWarning, RecipeError
from composer_copypaste.runs.predictor import load_predictor


@pytest.fixture
def checkpoint(tmp_path):
    """The weights of a small model of three classes, in a folder of its own."""
    save_weights(tmp_path / "my.pt")
    return tmp_path / "my.pt"


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder, whose labels 1 and 2 are the categories 5 and 3."""
    return small_run(tmp_path / "run")


def test_the_folder_of_a_run_gives_its_newest_checkpoint_and_its_categories_in_the_order_of_its_labels(run_folder):
    predictor = load_predictor(run_folder, overrides=["model.detections_per_image=4"])
    assert predictor.categories == {1: Category(5, "nut"), 2: Category(3, "fig")}
    (found,) = predictor.detect([torch.full((3, 50, 70), 90, dtype=torch.uint8)])
    assert len(found["scores"]) == 4
    assert {tuple(rle["size"]) for rle in found["rles"]} == {(50, 70)}


def test_images_are_read_and_batched_as_the_recipe_says(run_folder):
    predictor = load_predictor(run_folder, overrides=["data.value_range=[0,4095]"])
    assert predictor.image_settings.value_range == (0, 4095)
    assert predictor.batch_size == 2


def test_a_checkpoint_in_the_folder_of_a_run_needs_no_recipe(run_folder):
    assert load_predictor(run_folder / "checkpoints/ep1-ba1-rank0.pt").categories[1].name == "nut"


@pytest.mark.slow  # 46 million weights
def test_a_state_dict_of_torchvision_needs_no_recipe_and_has_the_categories_of_coco(tmp_path):
    torch.manual_seed(0)
    torch.save(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict(), tmp_path / "coco.pt")
    predictor = load_predictor(tmp_path / "coco.pt", overrides=["model.min_size=64"])
    assert len(predictor.categories) == 80
    assert predictor.categories[90] == Category(90, "toothbrush")
    assert 12 not in predictor.categories
    (found,) = predictor.detect([torch.zeros(3, 40, 50, dtype=torch.uint8)])
    assert found["boxes"].shape[1] == 4


def test_a_checkpoint_elsewhere_needs_a_recipe(checkpoint):
    with pytest.raises(RecipeError, match=r"my\.pt: is not in the folder of a run; give --recipe"):
        load_predictor(checkpoint)


def test_a_checkpoint_without_categories_has_its_labels_as_ids_and_a_warning_says_so(checkpoint):
    with pytest.warns(DataWarning, match=r"category ids are its labels, 1 to 2, without names"):
        predictor = load_predictor(checkpoint, recipe="quickstart")
    assert predictor.categories == {1: Category(1, "1"), 2: Category(2, "2")}


def test_of_a_checkpoint_of_another_model_only_the_error_is_said(checkpoint):
    with warnings.catch_warnings(record=True) as said, pytest.raises(CheckpointError, match="made for another model"):
        load_predictor(checkpoint, recipe="quickstart", overrides=["model.backbone=resnet18"])
    assert not [warning for warning in said if warning.category is DataWarning]


def test_categories_of_a_coco_file_are_the_labels_in_the_order_of_their_ids(checkpoint, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"categories": [NUT, FIG]}))
    predictor = load_predictor(checkpoint, recipe="quickstart", categories=tmp_path / "names.json")
    assert predictor.categories == {1: Category(3, "fig"), 2: Category(5, "nut")}


def test_categories_that_do_not_fit_the_model_are_refused(checkpoint, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"categories": [NUT]}))
    with pytest.raises(DataError, match=r"my\.pt: the model has 2 labels, the categories given are 1,"):
        load_predictor(checkpoint, recipe="quickstart", categories=tmp_path / "names.json")


def test_a_file_without_categories_is_refused(checkpoint, tmp_path):
    (tmp_path / "names.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"names\.json: expected a COCO file with the list 'categories'"):
        load_predictor(checkpoint, recipe="quickstart", categories=tmp_path / "names.json")


def test_weights_of_something_else_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: expected the weights of a detector"):
        load_predictor(tmp_path / "other.pt", recipe="quickstart")
