import torch
from torch.testing import assert_close
from visible_objects import colors_predictor, image_of

from composer_copypaste.models.flip import average_detections, mirror_detections, with_flips
from composer_copypaste.models.predictor import Predictor

IMAGE = image_of(20, 40, ((2, 3, 12, 9), (80, 1, 7)), ((20, 10, 39, 18), (60, 2, 7)))


def seen(image, predictor=None):
    (found,) = (predictor or colors_predictor()).detect([image])
    return found


def test_what_is_found_in_image_and_mirror_image_alike_stays_as_it_is():
    found, plain = seen(IMAGE, with_flips(colors_predictor())), seen(IMAGE)
    assert_close(found["boxes"], plain["boxes"])
    assert_close(found["scores"], plain["scores"])
    assert found["labels"].tolist() == plain["labels"].tolist()
    assert found["rles"] == plain["rles"]


def test_detections_of_a_mirror_image_are_put_back():
    back = mirror_detections(seen(IMAGE.flip(2)), 40)
    assert back["boxes"].tolist() == seen(IMAGE)["boxes"].tolist()
    assert back["rles"] == seen(IMAGE)["rles"]


def test_scores_are_averaged_and_boxes_weighted_by_them():
    one = seen(image_of(20, 40, ((2, 3, 12, 9), (80, 1, 7))))
    other = seen(image_of(20, 40, ((2, 3, 14, 9), (40, 1, 7))))
    found = average_detections(one, other)
    assert_close(found["scores"], torch.tensor([0.6]))
    assert_close(found["boxes"], torch.tensor([[2.0, 3.0, 12 + 2 / 3, 9.0]]))  # (0.8 x 12 + 0.4 x 14) / 1.2
    assert found["rles"] == one["rles"]


def test_what_is_found_once_has_half_its_score():
    one, other = seen(IMAGE), seen(image_of(20, 40, ((2, 3, 12, 9), (80, 1, 7))))
    found = average_detections(one, other)
    assert_close(found["scores"], torch.tensor([0.8, 0.3]))
    assert_close(average_detections(other, one)["scores"], torch.tensor([0.8, 0.3]))


def test_detections_of_different_labels_are_never_of_one_object():
    one, other = (seen(image_of(20, 40, ((2, 3, 12, 9), (80, label, 7)))) for label in (1, 2))
    found = average_detections(one, other)
    assert sorted(found["labels"].tolist()) == [1, 2]
    assert_close(found["scores"], torch.tensor([0.4, 0.4]))


def test_each_detection_is_paired_once():
    one = seen(image_of(20, 40, ((2, 3, 12, 9), (80, 1, 7))))
    twice = {**one, "boxes": one["boxes"].repeat(2, 1), "scores": torch.tensor([0.8, 0.6]), "rles": one["rles"] * 2}
    twice["labels"] = one["labels"].repeat(2)
    assert_close(average_detections(twice, one)["scores"], torch.tensor([0.8, 0.3]))


def test_images_without_objects_are_no_problem():
    nothing = seen(image_of(20, 40))
    assert average_detections(nothing, nothing)["boxes"].shape == (0, 4)
    assert_close(average_detections(nothing, seen(IMAGE))["scores"], torch.tensor([0.4, 0.3]))


def test_categories_and_settings_of_the_predictor_are_kept():
    predictor = colors_predictor(batch_size=5)
    assert isinstance(with_flips(predictor), Predictor)
    assert (with_flips(predictor).categories, with_flips(predictor).batch_size) == (predictor.categories, 5)
