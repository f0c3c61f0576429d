import numpy as np
import pytest
import torch
from coco_files import annotation
from PIL import Image
from small_runs import small_run
from visible_objects import colors_predictor, image_of

from composer_copypaste import CocoMeanAveragePrecision, MaskRCNN, predict
from composer_copypaste.data.annotation_json import Category
from composer_copypaste.errors import DataError

IMAGE = image_of(20, 40, ((2, 3, 12, 9), (80, 2, 7)), ((20, 10, 39, 18), (60, 1, 7)))


def test_tensors_arrays_images_and_files_give_the_same(tmp_path):
    array = IMAGE.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "1.png")
    forms = [IMAGE, array, Image.fromarray(array), tmp_path / "1.png", str(tmp_path / "1.png"), tmp_path]
    for form in forms:
        for images in (form, [form]):
            (found,) = predict(colors_predictor(), images)
            assert found.boxes.tolist() == [[2, 3, 12, 9], [20, 10, 39, 18]]
            assert found.category_names == ["nut", "fig"]
            assert found.path == (tmp_path / "1.png" if isinstance(form, str | type(tmp_path)) else None)


def test_predictions_come_in_the_order_of_the_images_in_batches():
    batches = []
    found = predict(colors_predictor(batches, batch_size=2), [IMAGE, IMAGE.flip(2), IMAGE], min_score=0.7)
    assert [each.boxes.tolist() for each in found] == [[[2, 3, 12, 9]], [[28, 3, 38, 9]], [[2, 3, 12, 9]]]
    assert batches == [2, 1]


def test_tiles_and_mirror_images_find_the_same_objects():
    large = image_of(64, 200, ((10, 20, 190, 40), (90, 1, 7)))
    for options in ({"tiles": 64}, {"tta": "flip"}, {"tiles": 64, "tta": "flip"}):
        (found,) = predict(colors_predictor(), large, **options)
        assert found.boxes.tolist() == [[10, 20, 190, 40]]


def test_a_run_is_given_by_its_folder(tmp_path):
    (found,) = predict(small_run(tmp_path / "run"), IMAGE)
    assert len(found) == 6
    assert set(found.category_ids) <= {5, 3}


def test_a_model_has_the_categories_of_its_metric(coco_file, gradient):
    metric = CocoMeanAveragePrecision(coco_file(annotation()), category_ids=[5, 3])
    torch.manual_seed(0)
    model = MaskRCNN(3, backbone="small", metric=metric, box_score_thresh=0.0, detections_per_image=4)
    (found,) = predict(model, IMAGE)
    assert found.categories == {1: Category(5, "nut"), 2: Category(3, "fig")}
    assert len(found) == 4
    assert model.training


def test_a_module_without_categories_has_its_labels(small_model):
    (found,) = predict(small_model.module, IMAGE)
    assert found.categories == {1: Category(1, "1"), 2: Category(2, "2")}
    (found,) = predict(small_model, IMAGE, categories=[Category(7, "a"), Category(9, "b")])
    assert found.categories[2].id == 9
    with pytest.raises(ValueError, match="categories: expected one for each of the model's 2 labels"):
        predict(small_model, IMAGE, categories=[Category(7, "a")])


def test_images_of_other_forms_are_refused():
    for image in (IMAGE.float(), IMAGE[0], IMAGE.permute(1, 2, 0), np.zeros((3, 8, 8), np.uint8)):
        with pytest.raises(TypeError, match=r"images\[1\]: expected RGB as a uint8 array \(height, width, 3\)"):
            predict(colors_predictor(), [IMAGE, image])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="tiles: "):
        predict(colors_predictor(), IMAGE, tiles=8)
    with pytest.raises(TypeError, match="model: expected a detector, a Predictor or a path, got Linear"):
        predict(torch.nn.Linear(1, 1), IMAGE)


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1\.png: the image cannot be decoded"):
        predict(colors_predictor(), tmp_path)
