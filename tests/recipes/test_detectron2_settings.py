"""The section ``model`` of a recipe for a model of Detectron2, which need not be installed to read it."""

import pytest

from composer_copypaste.errors import RecipeError
from composer_copypaste.recipes.load import load_recipe, recipe_to_yaml
from composer_copypaste.recipes.schema import ModelSettings

NAME = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


def test_overrides_may_be_nested_or_have_dots(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "base: detectron2/finetune\nmodel:\n  overrides:\n    MODEL: {RPN: {BATCH_SIZE_PER_IMAGE: 64}}\n"
        "    INPUT.MIN_SIZE_TRAIN: [640, 672]\n"
    )
    recipe = load_recipe(file, ["model.overrides.INPUT.MIN_SIZE_TEST=640"])
    expected = {
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 128,
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 64,
        "INPUT.MIN_SIZE_TRAIN": [640, 672],
        "INPUT.MIN_SIZE_TEST": 640,
    }
    assert recipe.model.overrides == expected
    (tmp_path / "written.yaml").write_text(recipe_to_yaml(recipe))
    assert load_recipe(tmp_path / "written.yaml").model == recipe.model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overrides": {"INPUT.MIN_SIZE_TEST": 3}}, "overrides: expected none without detectron2"),
        ({"detectron2": NAME, "backbone": "resnet18"}, "backbone: expected none with detectron2"),
        ({"detectron2": NAME, "min_size": 640}, "min_size: expected none with detectron2"),
        (
            {"detectron2": NAME, "overrides": {"MODEL": {"WEIGHTS": "R-50.pkl"}}},
            "MODEL.WEIGHTS: has no effect",
        ),
        (
            {"detectron2": NAME, "overrides": {"SOLVER.BASE_LR": 0.1}},
            "said by optimizer, schedule and",
        ),
        (
            {"detectron2": NAME, "overrides": {"optimizer.lr": 0.1}},
            "optimizer.lr: has no effect here",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(settings, message):
    with pytest.raises(ValueError) as raised:
        ModelSettings(**settings)
    assert message in str(raised.value)


def test_a_recipe_for_torchvision_does_not_become_one_for_detectron2_by_one_key():
    with pytest.raises(
        RecipeError, match=r"trainable_backbone_layers: expected none with detectron2.*finetune.yaml:15"
    ):
        load_recipe("finetune", [f"model.detectron2={NAME}"])
