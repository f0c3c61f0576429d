import torch
from torch.testing import assert_close

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.postprocess import detect
from composer_copypaste.models.predictor import match_categories, predictor_of_module
from composer_copypaste.settings import MaskRCNNSettings

NUT, FIG = Category(5, "nut"), Category(3, "fig")


def small_module():
    torch.manual_seed(0)
    settings = MaskRCNNSettings(backbone="small", box_score_thresh=0.0, detections_per_image=7, box_dropout=0.5)
    return build_mask_rcnn(3, settings)


def test_a_predictor_of_a_module_in_training_finds_what_the_module_finds_in_evaluation_mode():
    module, images = small_module().train(), [torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)]
    found = predictor_of_module(module, {1: FIG, 2: NUT}).detect(images)
    assert module.training
    expected = detect(module.eval(), images)
    assert len(found[0]["scores"]) == 7
    for key in ("boxes", "scores", "labels"):
        assert_close(found[0][key], expected[0][key], rtol=0, atol=0)


def test_as_many_categories_as_labels_are_matched_in_their_order():
    assert match_categories([FIG, NUT], 3) == {1: FIG, 2: NUT}


def test_categories_of_a_model_with_a_label_for_each_id_are_matched_by_their_ids():
    assert match_categories([FIG, NUT], 6) == {3: FIG, 5: NUT}
    assert match_categories([FIG, NUT], 91) == {3: FIG, 5: NUT}


def test_categories_that_a_model_has_no_label_for_are_not_matched():
    assert match_categories([FIG, NUT], 5) is None  # labels 1 to 4
    assert match_categories([FIG, NUT, Category(0, "pit")], 91) is None  # 0 is the background
