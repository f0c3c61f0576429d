"""``Detectron2Model`` computes what Detectron2 computes, on Composer's batches."""

import numpy as np
import pytest
import torch
from composer import DataSpec, Trainer
from composer.loggers import InMemoryLogger
from detectron2.data.transforms import AugInput, ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools import mask as coco_masks
from small_detectron2 import NAME, SIDE, SMALL, rectangles, small_batch, small_cfg

from composer_copypaste import CocoMeanAveragePrecision, CopyPaste, Detectron2Model, LargeScaleJitter
from composer_copypaste.errors import RecipeError
from composer_copypaste.integrations.composer.data_spec import num_samples, split_batch

PARTS = {"classifier", "box", "mask", "objectness", "rpn_box"}


def small_model(num_classes=4, **arguments):
    torch.manual_seed(1)
    return Detectron2Model(NAME, num_classes, overrides=SMALL, weights="none", **arguments)


def test_losses_are_those_of_detectron2_on_the_same_batch():
    model, theirs = small_model().train(), build_model(small_cfg(3)).train()
    theirs.load_state_dict(model.module.state_dict())
    images, targets = small_batch()
    entries = [
        {
            "image": image.flip(0),
            "instances": Instances(
                image.shape[1:],
                gt_boxes=Boxes(target["boxes"]),
                gt_classes=target["labels"] - 1,
                gt_masks=BitMasks(target["masks"]),
            ),
        }
        for image, target in zip(images, targets, strict=True)
    ]

    torch.manual_seed(5)
    with EventStorage():
        expected = theirs(entries)
    torch.manual_seed(5)
    losses = model.loss(model((images, targets)), (images, targets))

    assert set(losses) == PARTS
    assert sum(losses.values()).item() == pytest.approx(sum(expected.values()).item(), abs=1e-6)
    assert losses["mask"].item() == pytest.approx(expected["loss_mask"].item(), abs=1e-6)


def test_training_images_are_resized_as_detectron2s_loaders_do():
    images, targets = (
        [torch.arange(3 * 40 * 90, dtype=torch.int64).view(3, 40, 90).to(torch.uint8)],
        [rectangles((40, 90), [(10, 10, 30, 20)], [1])],
    )
    model, given = small_model().train(), []
    model.module.register_forward_pre_hook(lambda _, inputs: given.extend(inputs[0]))
    model((images, targets))

    expected = AugInput(images[0].permute(1, 2, 0).numpy()[:, :, ::-1].copy())
    expected.apply_augmentations([ResizeShortestEdge(SIDE, 1333)])
    assert torch.equal(given[0]["image"], torch.from_numpy(expected.image.copy()).permute(2, 0, 1).float())
    instances = given[0]["instances"]
    assert tuple(instances.gt_masks.tensor.shape[1:]) == expected.image.shape[:2] == (64, 144)
    assert torch.allclose(instances.gt_boxes.tensor, torch.tensor([[16.0, 16.0, 48.0, 32.0]]))
    assert instances.gt_masks.get_bounding_boxes().tensor.tolist() == [[16, 16, 48, 32]]


def test_detections_are_those_of_detectron2s_predictor(tmp_path):
    model = small_model().eval()
    torch.save({"model": model.module.state_dict()}, tmp_path / "model.pth")
    cfg = small_cfg(3)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((50, 90), (130, 70))]

    for image in images:
        [found] = model.eval_forward(([image], [{}]))  # in a batch, the smaller would be padded to the larger
        theirs = DefaultPredictor(cfg)(image.permute(1, 2, 0).numpy()[:, :, ::-1])["instances"]
        assert len(theirs) > 5
        assert torch.allclose(found["boxes"], theirs.pred_boxes.tensor, atol=1e-4)
        assert torch.allclose(found["scores"], theirs.scores, atol=1e-6)
        assert torch.equal(found["labels"], theirs.pred_classes + 1)
        masks = coco_masks.decode(found["rles"]).transpose(2, 0, 1)
        assert (masks == theirs.pred_masks.numpy()).mean() > 0.9999
        assert masks.shape[1:] == image.shape[1:]


def test_crowds_are_left_out_in_training_and_wrong_targets_are_named():
    model, given = small_model().train(), []
    images, targets = small_batch()
    targets[0]["iscrowd"][0] = 1
    model.module.register_forward_pre_hook(lambda _, inputs: given.extend(inputs[0]))
    model((images, targets))
    assert given[0]["instances"].gt_classes.tolist() == [2]
    with pytest.raises(ValueError, match=r"targets\[0\]: expected labels from 1 to 1"):
        small_model(2).train()((images, targets))


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", 50),
        ("COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml", 101),
        ("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", 50),
    ],
)
def test_a_configuration_of_the_zoo_gets_the_number_of_classes(name, depth):
    model = Detectron2Model(name, 3, weights="none")
    blocks = sum(len(getattr(model.module.backbone.bottom_up, f"res{stage}")) for stage in range(2, 6))
    assert {16: 50, 33: 101}[blocks] == depth
    heads = model.module.roi_heads
    assert (heads.num_classes, heads.box_predictor.cls_score.out_features) == (2, 3)
    assert heads.mask_head.predictor.out_channels == 2


def test_without_a_number_the_classes_are_those_of_the_configuration():
    assert Detectron2Model(small_cfg(7), weights="none").num_classes == 8


def test_the_given_configuration_is_not_modified():
    cfg = small_cfg(7)
    before = cfg.dump()
    Detectron2Model(cfg, 3, overrides=["TEST.DETECTIONS_PER_IMAGE", 5], weights="none")
    assert cfg.dump() == before


def test_lazy_configurations_take_arguments_of_calls():
    overrides = ["model.roi_heads.box_predictor.test_topk_per_image=300", "model.backbone.out_channels=256"]
    model = Detectron2Model("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", 3, overrides=overrides, weights="none")
    assert model.module.roi_heads.box_predictor.test_topk_per_image == 300


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("mask_rcnn_R_50_FPN_3x.yaml", [], "did you mean 'COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml'"),
        (NAME, {"INPUT.MIN_SIZE_TSET": 3}, "has no INPUT.MIN_SIZE_TSET; did you mean 'INPUT.MIN_SIZE_TEST'"),
        (NAME, {"INPUT.MIN_SIZE_TEST": "large"}, "INPUT.MIN_SIZE_TEST: expected a value such as 800, got 'large'"),
        (NAME, ["INPUT.MIN_SIZE_TEST"], "INPUT.MIN_SIZE_TEST: expected a value after it, got nothing"),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", [], "expected the configuration of a Mask R-CNN"),
        ("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", ["model.roi_head.x=1"], "has no model.roi_head"),
        ("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", ["model.roi_heads.x=1"], "unexpected keyword argument 'x'"),
    ],
)
def test_a_wrong_configuration_is_one_line(config, overrides, message):
    with pytest.raises(RecipeError) as raised:
        Detectron2Model(config, 3, overrides=overrides, weights="none")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


class Batches(list):
    batch_size = 2


def loader(batches):
    return DataSpec(Batches(batches), get_num_samples_in_batch=num_samples, split_batch=split_batch)


def test_it_trains_in_composer_after_jitter_and_copy_paste_in_microbatches():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    targets = [
        rectangles((64, 64), [(20, 10, 50, 30)], [2]) | {"image_id": torch.tensor(1)},
        rectangles((64, 64), [(5, 5, 30, 40)], [3]) | {"image_id": torch.tensor(2)},
    ]
    logger = InMemoryLogger()
    model = small_model(metric=CocoMeanAveragePrecision(), resize_training=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    model.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]) if model.training else None)
    trainer = Trainer(
        model=model,
        train_dataloader=loader([(images, targets)] * 2),
        eval_dataloader=loader([(images, targets)]),
        optimizers=torch.optim.SGD(model.parameters(), lr=1e-3),
        algorithms=[CopyPaste(p=1.0), LargeScaleJitter(size=(48, 48))],
        max_duration="2ba",
        device="cpu",
        device_train_microbatch_size=1,
        loggers=[logger],
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()

    assert [len(batch) for batch in seen] == [1, 1, 1, 1]
    assert {tuple(batch[0]["image"].shape) for batch in seen} == {(3, 48, 48)}
    assert max(len(batch[0]["instances"]) for batch in seen) == 2, "an object was pasted"
    assert {f"loss/train/{part}" for part in PARTS} <= set(logger.data)
    assert {"metrics/eval/bbox/AP", "metrics/eval/segm/AP50"} <= set(logger.data)
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_resumed_training_goes_on_to_the_same_weights(tmp_path):
    images, targets = small_batch()

    def train(duration, load=None):
        model = small_model()
        trainer = Trainer(
            model=model,
            train_dataloader=loader([(images, targets)] * 2),
            optimizers=torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9),
            algorithms=[CopyPaste(p=1.0)],
            max_duration=duration,
            device="cpu",
            save_folder=str(tmp_path / f"{duration}-{load is not None}"),
            save_interval="1ep",
            load_path=load,
            progress_bar=False,
            seed=3,
        )
        trainer.fit()
        trainer.close()
        return model.state_dict()

    whole = train("2ep")
    train("1ep")
    resumed = train("2ep", load=str(tmp_path / "1ep-False" / "latest-rank0.pt"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_image_without_detections_has_none():
    model = Detectron2Model(NAME, 4, overrides={**SMALL, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0}, weights="none")
    [found] = model.eval().eval_forward(([torch.zeros(3, 30, 40, dtype=torch.uint8)], [{}]))
    assert (found["boxes"].shape, found["rles"]) == ((0, 4), [])


def test_labels_are_those_of_the_data_where_these_are_given():
    torch.manual_seed(1)
    model = small_model(labels={1: 5, 2: None, 3: 9}).eval()
    [found] = model.eval_forward(([torch.full((3, 64, 64), 90, dtype=torch.uint8)], [{}]))
    assert set(found["labels"].tolist()) <= {5, 9}
    assert len(found["rles"]) == len(found["labels"]) > 0
    assert np.all(coco_masks.area(found["rles"]) >= 0)
