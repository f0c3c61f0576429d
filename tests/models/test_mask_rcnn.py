import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d

from composer_copypaste import MaskRCNNSettings
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.weights import load_pretrained
from composer_copypaste.settings import BACKBONES


def shapes(module):
    return {name: values.shape for name, values in module.state_dict().items()}


def trains(module):
    """The backbone's children with a parameter that is trained."""
    return [
        name for name, part in module.backbone.body.named_children() if any(p.requires_grad for p in part.parameters())
    ]


@pytest.mark.parametrize(
    ("backbone", "reference"), [("resnet50", maskrcnn_resnet50_fpn), ("resnet50_v2", maskrcnn_resnet50_fpn_v2)]
)
def test_the_parameters_are_those_of_torchvisions_model(backbone, reference):
    with torch.device("meta"):  # shapes without numbers
        ours = build_mask_rcnn(4, MaskRCNNSettings(backbone=backbone, box_dropout=0.1, mask_dropout=0.1))
        theirs = reference(weights=None, weights_backbone=None, num_classes=4)

    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize(
    ("backbone", "reference"), [("resnet50", maskrcnn_resnet50_fpn), ("resnet50_v2", maskrcnn_resnet50_fpn_v2)]
)
def test_the_same_weights_detect_the_same_as_in_torchvisions_model(backbone, reference):
    torch.manual_seed(0)
    theirs = reference(weights=None, weights_backbone=None, num_classes=4, min_size=32, max_size=64).eval()
    ours = build_mask_rcnn(4, MaskRCNNSettings(backbone=backbone, min_size=32, max_size=64)).eval()
    ours.load_state_dict(theirs.state_dict())
    image = [torch.rand(3, 30, 40)]
    with torch.no_grad():
        detected, expected = ours(image)[0], theirs(image)[0]

    assert len(expected["boxes"]) > 0
    assert all(torch.equal(detected[name], expected[name]) for name in expected)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_a_pyramid_with_strides_from_4_to_64(backbone):
    with torch.device("meta"), torch.no_grad():
        levels = build_mask_rcnn(4, MaskRCNNSettings(backbone=backbone)).eval().backbone(torch.zeros(1, 3, 128, 128))

    assert [level.shape[-1] for level in levels.values()] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (0, []),
        (1, ["layer4"]),
        (None, ["layer2", "layer3", "layer4"]),
        (4, ["layer1", "layer2", "layer3", "layer4"]),
        (5, ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
    ],
)
def test_the_last_layers_of_a_pretrained_backbone_train(layers, expected):
    settings = MaskRCNNSettings(backbone="resnet18", weights="imagenet", norm="batch", trainable_backbone_layers=layers)

    assert trains(build_mask_rcnn(4, settings)) == expected


def test_a_random_backbone_trains_as_a_whole_which_is_said_where_weights_are_loaded_and_not_to_predict(caplog):
    settings = MaskRCNNSettings(backbone="resnet18", trainable_backbone_layers=2)
    model = build_mask_rcnn(4, settings)

    assert "conv1" in trains(model)
    assert caplog.text == ""
    assert "trainable_backbone_layers=2 has no effect" in load_pretrained(model, settings)[1]
    assert "trainable_backbone_layers=2 has no effect" in caplog.text
    assert load_pretrained(model, MaskRCNNSettings(backbone="resnet18")) == ["everything starts at random"]


def test_the_pyramid_trains_even_where_the_backbone_does_not():
    settings = MaskRCNNSettings(backbone="mobilenet_v3_large", weights="imagenet", trainable_backbone_layers=0)

    assert all(parameter.requires_grad for parameter in build_mask_rcnn(4, settings).backbone.fpn.parameters())


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, torch.nn.BatchNorm2d),
        ({"weights": "imagenet"}, FrozenBatchNorm2d),
        ({"norm": "group"}, torch.nn.GroupNorm),
        ({"weights": "coco", "backbone": "resnet50_v2"}, torch.nn.BatchNorm2d),
        ({"backbone": "small"}, torch.nn.GroupNorm),
        ({"backbone": "mobilenet_v3_large", "norm": "group"}, torch.nn.GroupNorm),
    ],
)
def test_the_normalisation_is_torchvisions_unless_another_is_asked_for(choices, expected):
    module = build_mask_rcnn(4, MaskRCNNSettings(**{"backbone": "resnet18"} | choices))
    kinds = (torch.nn.BatchNorm2d, FrozenBatchNorm2d, torch.nn.GroupNorm)

    assert {type(part) for part in module.modules() if isinstance(part, kinds)} == {expected}


def test_dropout_drops_in_training_before_both_predictors():
    module = build_mask_rcnn(4, MaskRCNNSettings(backbone="small", box_dropout=0.5, mask_dropout=0.5))
    box, mask = module.roi_heads.box_head, module.roi_heads.mask_head
    pooled = torch.ones(1, 64, 7, 7)

    assert not torch.equal(box(pooled), box(pooled))
    assert not torch.equal(mask(pooled), mask(pooled))
    module.eval()
    assert torch.equal(box(pooled), box(pooled))
    assert torch.equal(mask(pooled), mask(pooled))


def test_settings_reach_the_model():
    settings = MaskRCNNSettings(
        backbone="small",
        anchor_sizes=(4, 8, 16, 32, 64),
        min_size=96,
        detections_per_image=300,
        box_score_thresh=0.2,
    )
    module = build_mask_rcnn(4, settings)

    assert module.rpn.anchor_generator.sizes == ((4,), (8,), (16,), (32,), (64,))
    assert (module.transform.min_size, module.transform.max_size) == ((96,), 160)
    assert (module.roi_heads.detections_per_img, module.roi_heads.score_thresh) == (300, 0.2)


def test_as_many_proposals_are_kept_as_objects_may_be_detected():
    module = build_mask_rcnn(4, MaskRCNNSettings(backbone="small", detections_per_image=500)).eval()

    assert module.rpn.post_nms_top_n() >= 500


def test_images_that_the_loader_sized_are_not_resized_in_training():
    module = build_mask_rcnn(4, MaskRCNNSettings(backbone="small", min_size=128, resize_training=False))
    images = [torch.zeros(3, 64, 64)]

    assert module.transform(images)[0].image_sizes == [(64, 64)]
    assert module.eval().transform(images)[0].image_sizes == [(128, 128)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"anchor_sizes": (8, 16)}, "anchor_sizes: expected five"),
        ({"min_size": 200, "max_size": 100}, "max_size: expected at least min_size"),
        ({"trainable_backbone_layers": 6}, "trainable_backbone_layers: expected at most 5, got 6"),
        ({"box_dropout": 1.0}, "box_dropout: expected at most 0.9"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaskRCNNSettings(**wrong)


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_as_many_objects_can_be_found_on_one_level_of_the_pyramid_as_are_asked_for(backbone):
    asked = 1500
    module = build_mask_rcnn(2, MaskRCNNSettings(backbone=backbone, detections_per_image=asked)).eval()
    candidates = 4 * asked
    corners = torch.arange(candidates)[:, None] * 20.0  # none overlaps another
    boxes = torch.cat([corners, corners * 0, corners + 10, corners * 0 + 10], dim=1)[None]
    scores = torch.linspace(5, -5, candidates)
    proposals, _ = module.rpn.filter_proposals(boxes, scores, [(10, 20 * candidates)], [candidates])
    assert len(proposals[0]) >= asked


def test_an_ordinary_number_of_detections_leaves_the_proposals_of_torchvision():
    rpn = build_mask_rcnn(2, MaskRCNNSettings(backbone="resnet18")).rpn
    assert (rpn._pre_nms_top_n, rpn._post_nms_top_n) == ({"training": 2000, "testing": 1000},) * 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
@pytest.mark.parametrize("size", [(50, 37), (128, 171), (200, 64)])
def test_masks_are_resized_as_torchvision_resizes_them(dtype, size):
    masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) < 0.5
    target = {
        "boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3),
        "labels": torch.ones(3).long(),
        "masks": masks.to(dtype),
    }
    module = build_mask_rcnn(4, MaskRCNNSettings(backbone="small")).train()
    theirs = GeneralizedRCNNTransform(128, 213, [0.0] * 3, [1.0] * 3).train()
    (ours,), (expected,) = (each([torch.rand(3, *size)], [dict(target)])[1] for each in (module.transform, theirs))
    for key, values in expected.items():
        assert torch.equal(ours[key].to(values.dtype), values)


def test_small_heads_are_those_of_the_small_backbone_and_normalise_whatever_the_backbones_weights(caplog):
    with torch.device("meta"):
        small = build_mask_rcnn(4, MaskRCNNSettings(backbone="small"))
        other = build_mask_rcnn(4, MaskRCNNSettings(backbone="resnet18", weights="imagenet", heads="small"))
        timms = build_mask_rcnn(4, MaskRCNNSettings(backbone="timm/test_resnet", heads="small"))
    for model in (other, timms):
        assert shapes(model.roi_heads) == shapes(small.roi_heads)
        assert shapes(model.rpn) == shapes(small.rpn)
        assert shapes(model.backbone.fpn).keys() == shapes(small.backbone.fpn).keys()
        norms = {type(part) for part in [*model.backbone.fpn.modules(), *model.roi_heads.modules()]}
        assert norms & {torch.nn.GroupNorm, torch.nn.BatchNorm2d, FrozenBatchNorm2d} == {torch.nn.GroupNorm}


def test_heads_leave_anchors_and_sizes_of_images_to_the_backbone():
    with torch.device("meta"):
        small_heads = build_mask_rcnn(4, MaskRCNNSettings(backbone="resnet18", heads="small"))
        large_heads = build_mask_rcnn(4, MaskRCNNSettings(backbone="small", heads="standard"))
    assert (small_heads.transform.min_size, large_heads.transform.min_size) == ((800,), (128,))
    assert small_heads.rpn.anchor_generator.sizes[0] == (32,)
    assert large_heads.rpn.anchor_generator.sizes[0] == (8,)
    assert large_heads.backbone.out_channels == 256
