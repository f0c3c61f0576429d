"""Detectors that find boxes alone: they compute what torchvision's do, load its weights, and need no masks."""

import pytest
import torch
from torchvision.models import detection, resnet18

from composer_copypaste import Detector, MaskRCNN
from composer_copypaste.errors import CheckpointError, RecipeError, UserError
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.models.class_rows import class_count, detector_of
from composer_copypaste.models.detectors import build_detector
from composer_copypaste.models.flip import average_detections, mirror_detections
from composer_copypaste.models.inputs import check_targets
from composer_copypaste.models.postprocess import detect
from composer_copypaste.models.prediction import prediction_of, prediction_of_results
from composer_copypaste.models.predictor import categories_of_labels
from composer_copypaste.models.recognise import recognise_model
from composer_copypaste.models.single_image import single_image
from composer_copypaste.models.tiles import join_tiles
from composer_copypaste.models.weights import COCO_MODELS, published_weights
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.settings import DetectorSettings, MaskRCNNSettings

ALONE = ("faster_rcnn", "retinanet", "fcos")
PUBLISHED = [(name, backbone, model) for (name, backbone), models in COCO_MODELS.items() for model in models]


def shapes(module):
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("name", "backbone", "model"), PUBLISHED)
def test_each_published_model_has_the_same_tensors_here_and_is_recognised_by_them(name, backbone, model):
    with torch.device("meta"):
        theirs = getattr(detection, model)(weights=None, weights_backbone=None, num_classes=7)
        ours = build_detector(7, DetectorSettings(name=name, backbone=backbone))
    assert shapes(ours) == shapes(theirs)
    assert (detector_of(theirs.state_dict()), class_count(theirs.state_dict())) == (name, 7)
    known, settings = recognise_model(theirs.state_dict())
    assert model in known
    assert (settings.name, settings.backbone) == (name, backbone)
    assert any(member.url.split("/")[-1].startswith(model) for member in published_weights(backbone, name).values())


def sized(**options):
    return {"min_size": 64, "max_size": 96, **options}


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_what_is_taken_for_background_is_no_object(name):
    model = build_detector(3, DetectorSettings(name=name, backbone="small", **sized(box_score_thresh=0.5))).eval()
    places = len(model.head.classification_head.cls_logits.bias) // 3
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.copy_(torch.tensor([9.0, -9.0, 9.0]).repeat(places))
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    (found,) = detect(model, [image])
    assert set(found["labels"].tolist()) == {2}
    assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"])
    assert set(single_image(model, paste=False)(image.permute(1, 2, 0))[2].tolist()) == {2}


@pytest.mark.parametrize(
    ("name", "backbone", "model"), [PUBLISHED[4], *PUBLISHED[6:]], ids=["mobile", "retinanet", "retinanet_v2", "fcos"]
)
def test_a_published_model_finds_here_what_it_finds_in_torchvision(name, backbone, model):
    torch.manual_seed(0)
    limits = {"score_thresh": 0.0} if name in ("retinanet", "fcos") else {"box_score_thresh": 0.0}
    limits |= {"detections_per_img": 100} if name in ("retinanet", "fcos") else {}
    build = getattr(detection, model)
    theirs = build(weights=None, weights_backbone=None, num_classes=3, **sized(**limits)).eval()
    ours = build_detector(3, DetectorSettings(name=name, backbone=backbone, **sized(box_score_thresh=0.0))).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(3, 60, 80)
    with torch.no_grad():
        expected = theirs([image])[0]
    (found,) = detect(ours, [image])

    objects = expected["labels"] > 0
    assert objects.sum() > 10
    assert all(torch.equal(found[key], expected[key][objects]) for key in ("boxes", "scores", "labels"))
    assert "rles" not in found


def small(name, classes=3, **options):
    torch.manual_seed(0)
    return Detector(classes, name=name, backbone="small", min_size=32, **options)


TARGET = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 24.0]]), "labels": torch.tensor([1]), "iscrowd": torch.tensor([0])}
PARTS = {
    "faster_rcnn": {"classifier", "box", "objectness", "rpn_box"},
    "retinanet": {"classifier", "box"},
    "fcos": {"classifier", "box", "centerness"},
}


@pytest.mark.parametrize("name", ALONE)
def test_it_trains_by_boxes_alone_and_looks_at_no_mask(name):
    model = small(name).train()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    wrong_masks = {"masks": torch.full((1, 5, 5), 255.0)}  # neither of the image's size nor of 0 and 1
    torch.manual_seed(1)
    alone = model.loss(model((images, [TARGET] * 2)), (images, [TARGET] * 2))
    torch.manual_seed(1)
    beside = model.loss(model((images, [TARGET | wrong_masks] * 2)), (images, [TARGET] * 2))

    assert alone.keys() == PARTS[name]
    assert all(loss.isfinite() for loss in alone.values())
    assert alone == beside
    sum(alone.values()).backward()
    assert all(weight.grad is not None for weight in model.module.head.parameters()) if name != "faster_rcnn" else True


@pytest.mark.parametrize("name", ALONE)
def test_images_without_objects_are_trained_on(name):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = small(name).train()((torch.rand(1, 3, 32, 32), [empty]))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("name", ALONE)
def test_boxes_stay_in_float32_under_autocast(name):
    model = small(name, box_score_thresh=0.0).eval()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = model.detect([torch.rand(3, 32, 32)])
    assert len(found["boxes"])
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_a_mask_rcnn_is_named_in_what_it_needs_and_the_others_are_not():
    images = torch.rand(1, 3, 32, 32)
    check_targets(images, [TARGET], 3, masks=False)
    with pytest.raises(ValueError, match=r"^targets\[0\]: lacks 'masks', which Mask R-CNN is trained on"):
        check_targets(images, [TARGET], 3)
    with pytest.raises(ValueError, match=r"^targets\[0\]: lacks 'boxes', which a detector is trained on"):
        check_targets(images, [{"labels": torch.ones(1).long()}], 3, masks=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "fcos", "backbone": "resnet50_v2"}, "^backbone: expected another than resnet50_v2, of which"),
        ({"name": "fcos", "box_dropout": 0.1}, "^box_dropout: expected 0 for FCOS, which has no such head, got 0.1$"),
        ({"name": "faster_rcnn", "mask_dropout": 0.1}, "^mask_dropout: expected 0 for Faster R-CNN, which"),
        ({"name": "retinanet", "style": "detectron2"}, "^style: expected torchvision for RetinaNet; the style of"),
        ({"name": "fcos", "weights": "a.pkl"}, "^weights: expected no file .pkl of Detectron2's for FCOS"),
        ({"name": "yolo"}, "^name: expected one of 'mask_rcnn', 'faster_rcnn', 'retinanet', 'fcos', got 'yolo'$"),
    ],
)
def test_settings_of_another_detector_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        DetectorSettings(**settings)


def test_a_mask_rcnn_is_no_other_detector():
    with pytest.raises(ValueError, match=r"^name: expected 'mask_rcnn', got 'fcos'; DetectorSettings are for others$"):
        MaskRCNN(3, name="fcos")
    assert MaskRCNNSettings() == MaskRCNNSettings(name="mask_rcnn")


def test_a_metric_of_masks_is_refused_for_boxes_alone():
    with pytest.raises(ValueError, match=r"^metric: expected iou_types=\('bbox',\), as FCOS finds boxes alone$"):
        small("fcos", metric=CocoMeanAveragePrecision())
    assert small("fcos", metric=CocoMeanAveragePrecision(iou_types=("bbox",))).get_metrics(is_train=False)


@pytest.mark.parametrize("key", ["best_checkpoint=segm/AP", "early_stop={}"])
def test_a_recipe_of_boxes_alone_is_led_by_a_number_of_boxes(key):
    name = key.split("=")[0] + (".metric" if "early" in key else "")
    with pytest.raises(RecipeError, match=f"training.{name}: expected a number of boxes such as 'bbox/AP', as FCOS"):
        load_recipe("quickstart", ["model.name=fcos", f"training.{key}"])
    load_recipe("boxes", ["training.early_stop={metric: bbox/AP50}"])


# Weights


def saved(folder, name, classes):
    model = small(name, classes)
    torch.save(model.module.state_dict(), folder / "weights.pth")
    return model.module.state_dict(), str(folder / "weights.pth")


@pytest.mark.parametrize(("name", "anchors"), [("retinanet", 9), ("fcos", 1)])
def test_the_rows_of_categories_of_the_same_name_are_kept_for_each_anchor(tmp_path, name, anchors):
    there, file = saved(tmp_path, name, 91)
    names, labels = ["unicorn", "dog", "person"], [None, 18, 1]
    torch.manual_seed(99)
    model = Detector(4, name=name, backbone="small", weights=file, category_names=names, keep_categories=True)

    for end in ("weight", "bias"):
        tensor = f"head.classification_head.cls_logits.{end}"
        own, other = (state[tensor].unflatten(0, (anchors, -1)) for state in (model.module.state_dict(), there))
        assert own.shape[1] == 4
        for row, label in enumerate([0, *labels]):
            if label is not None:
                assert torch.equal(own[:, row], other[:, label])
        if end == "weight":
            assert not any(torch.equal(own[0, 1], row) for row in other.flatten(0, 1))
    assert "kept the rows of the background and of 2 of 3 categories" in model.loaded[1]


def test_last_layers_of_another_number_of_classes_start_at_random_and_the_rest_is_loaded(tmp_path):
    there, file = saved(tmp_path, "fcos", 7)
    model = Detector(3, name="fcos", backbone="small", weights=file)
    own = model.module.state_dict()
    same = [name for name in own if own[name].shape == there[name].shape]
    assert all(torch.equal(own[name], there[name]) for name in same)
    assert len(own) - len(same) == 2
    assert model.loaded[1].startswith("last layers: made for 7 classes, start at random")


def test_the_weights_of_another_detector_are_refused_by_its_name(tmp_path):
    _, file = saved(tmp_path, "retinanet", 3)
    with pytest.raises(CheckpointError, match=r"weights of RetinaNet, the model is FCOS; give model.name=retinanet"):
        Detector(3, name="fcos", backbone="small", weights=file)


def test_the_backbone_starts_from_imagenet(tmp_path):
    published = resnet18(weights=None).state_dict()
    torch.save(published, tmp_path / "resnet18.pth")
    for name in ALONE:
        model = Detector(3, name=name, backbone="resnet18", weights=str(tmp_path / "resnet18.pth"))
        body = model.module.backbone.body.state_dict()
        assert len(body) > 80
        assert all(torch.equal(body[tensor], published[tensor]) for tensor in body)


# Predictions


def found(*boxes, scores=None, labels=None):
    n = len(boxes)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(n, 4),
        "scores": torch.tensor(scores or [0.9] * n),
        "labels": torch.tensor(labels or [1] * n),
    }


def test_results_and_predictions_have_boxes_alone():
    prediction = prediction_of(found((2, 3, 12, 9), scores=[0.5]), (20, 40), categories_of_labels(2))
    (result,) = prediction.coco_results(7)
    assert result == {"image_id": 7, "category_id": 1, "bbox": [2, 3, 10, 6], "score": 0.5}
    assert prediction_of_results([result], (20, 40), categories_of_labels(2)).rles is None
    assert prediction[torch.tensor([0])].rles is None
    assert prediction.to_supervision().mask is None
    with pytest.raises(UserError, match=r"^masks: expected a Mask R-CNN, which finds them; this detector finds boxes"):
        _ = prediction.masks


def test_an_object_in_two_tiles_is_joined_from_its_boxes():
    windows = [(0, 0, 64, 50), (36, 0, 100, 50)]
    left, right = found((10, 10, 64, 30), (40, 40, 50, 48)), found((0, 10, 44, 30), (4, 40, 14, 48), scores=[0.8, 0.7])
    joined = join_tiles([left, right], windows, (50, 100))
    assert joined["boxes"].tolist() == [[10, 10, 80, 30], [40, 40, 50, 48]]
    assert "rles" not in joined


def test_mirror_images_are_averaged_without_masks():
    assert mirror_detections(found((0, 0, 4, 4)), 10)["boxes"].tolist() == [[6, 0, 10, 4]]
    average = average_detections(found((0, 0, 4, 4), scores=[0.5]), found((0, 0, 4, 4), scores=[1.0]))
    assert average["scores"].tolist() == [0.75]
    assert "rles" not in average
