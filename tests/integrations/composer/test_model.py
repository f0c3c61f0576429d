import copy

import pytest
import torch
from composer import Trainer
from composer.core import DataSpec
from pycocotools import mask as coco_masks
from torchmetrics import Metric

from composer_copypaste import DetectorSettings, MaskRCNN, MaskRCNNSettings
from composer_copypaste.integrations.composer.model import LOSSES
from composer_copypaste.models.inputs import check_targets


class Pairs(torch.utils.data.Dataset):
    """The images and targets of one batch."""

    def __init__(self, batch):
        self.pairs = list(zip(*batch, strict=True))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def loader(batch):
    def collate(pairs):
        images, targets = zip(*pairs, strict=True)
        return torch.stack(images), list(targets)

    return DataSpec(
        torch.utils.data.DataLoader(Pairs(batch), batch_size=2, collate_fn=collate),
        get_num_samples_in_batch=lambda batch: len(batch[1]),
        split_batch=lambda batch, size: [
            (batch[0][i : i + size], batch[1][i : i + size]) for i in range(0, len(batch[1]), size)
        ],
    )


def train(model, batch, **kwargs):
    trainer = Trainer(
        model=model,
        train_dataloader=loader(batch),
        optimizers=torch.optim.SGD(model.parameters(), lr=1e-3),
        max_duration="2ba",
        device="cpu",
        progress_bar=False,
        **kwargs,
    )
    trainer.fit()
    return trainer


class CountedImages(Metric):
    """As ``CocoMeanAveragePrecision``, hands out scalars; counts the images."""

    def __init__(self):
        super().__init__()
        self.add_state("images", torch.tensor(0.0), dist_reduce_fx="sum")

    def scalars(self):
        return {"images": self}

    def update(self, predictions, targets):
        assert [set(prediction) for prediction in predictions] == [{"boxes", "scores", "labels", "rles"}] * len(targets)
        self.images += len(targets)

    def compute(self):
        return self.images


def test_training_gives_every_part_of_the_loss(small_model, batch):
    outputs = small_model(batch)
    losses = small_model.loss(outputs, batch)

    assert set(losses) == {"classifier", "box", "mask", "objectness", "rpn_box"}
    assert all(loss.ndim == 0 and loss.isfinite() and loss.requires_grad for loss in losses.values())


def test_no_loss_of_torchvision_is_left_out(small_model, batch):
    assert set(small_model(batch)) == set(LOSSES.values())


def test_crowds_are_no_training_examples(small_model, batch, monkeypatch):
    seen = []
    monkeypatch.setattr(small_model.module, "forward", lambda images, targets: seen.extend(targets) or {})
    small_model(batch)

    assert [target["labels"].tolist() for target in seen] == [[1], [1]]
    assert [len(target["masks"]) for target in seen] == [1, 1]


def test_training_leaves_the_batch_as_it_was(small_model, batch):
    before = copy.deepcopy(batch)
    small_model(batch)

    assert torch.equal(batch[0], before[0])
    for target, old in zip(batch[1], before[1], strict=True):
        assert all(torch.equal(target[name], old[name]) for name in old)


@pytest.mark.parametrize("backbone", ["small", "resnet50_v2"])
def test_images_without_objects_can_be_trained_on(backbone, batch):
    model = MaskRCNN(num_classes=3, backbone=backbone, min_size=64)
    nothing = {name: batch[1][0][name][:0] for name in ("boxes", "labels", "masks", "area", "iscrowd")}
    losses = model((batch[0], [nothing, nothing]))

    assert all(loss.isfinite() for loss in losses.values())


def test_bytes_and_fractions_of_one_give_the_same_detections(small_model, batch):
    small_model.eval()
    from_bytes = small_model(batch)
    from_floats = small_model((list(batch[0].float() / 255), []))

    assert torch.equal(from_bytes[0]["scores"], from_floats[0]["scores"])


def test_detections_equal_torchvisions_own(small_model):
    small_model.eval()
    images = [torch.rand(3, 50, 70), torch.rand(3, 64, 40)]
    with torch.no_grad():
        expected = small_model.module(images)

    for detected, wanted in zip(small_model.eval_forward((images, [])), expected, strict=True):
        assert len(detected["rles"]) > 0
        assert torch.equal(detected["boxes"], wanted["boxes"])
        assert torch.equal(detected["scores"], wanted["scores"])
        assert torch.equal(detected["labels"], wanted["labels"])
        masks = torch.from_numpy(coco_masks.decode(detected["rles"])).permute(2, 0, 1)
        assert torch.equal(masks.bool(), wanted["masks"][:, 0] > 0.5)


def test_nothing_detected_gives_empty_detections(batch):
    model = MaskRCNN(num_classes=3, backbone="small", box_score_thresh=1.0).eval()

    for detected in model(batch):
        assert detected["boxes"].shape == (0, 4)
        assert detected["scores"].shape == detected["labels"].shape == (0,)
        assert detected["rles"] == []


def test_forward_outside_training_is_the_evaluation_forward(small_model, batch):
    small_model.eval()
    detected, again = small_model(batch), small_model.eval_forward(batch)

    assert [d["rles"] for d in detected] == [d["rles"] for d in again]


def test_boxes_stay_in_float32_under_autocast(small_model, batch):
    small_model.eval()
    anchors = []
    small_model.module.rpn.anchor_generator.register_forward_hook(lambda *args: anchors.extend(args[-1]))
    with torch.autocast("cpu", torch.bfloat16):
        (detected, _) = small_model(batch)

    assert {values.dtype for values in (*anchors, detected["boxes"], detected["scores"])} == {torch.float32}
    assert not torch.equal(detected["boxes"], detected["boxes"].bfloat16().float())


def test_losses_are_finite_under_autocast(small_model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        losses = small_model(batch)

    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("microbatch", [1, 2])
def test_composers_trainer_logs_each_part_of_the_loss(small_model, batch, microbatch):
    from composer.loggers import InMemoryLogger

    logger = InMemoryLogger()
    train(small_model, batch, device_train_microbatch_size=microbatch, loggers=logger)

    logged = {name.removeprefix("loss/train/") for name in logger.data if name.startswith("loss/train/")}
    assert logged == {*LOSSES, "total"}
    parts = sum(logger.data[f"loss/train/{name}"][-1][1] for name in LOSSES)
    assert logger.data["loss/train/total"][-1][1] == pytest.approx(parts, rel=1e-5)


def test_composers_trainer_evaluates_the_metric(batch):
    model = MaskRCNN(num_classes=3, backbone="small", metric=CountedImages())
    trainer = train(model, batch, eval_dataloader=loader(batch), eval_interval="2ba")

    assert trainer.state.eval_metric_values == {"images": 2}


def test_without_a_metric_nothing_is_scored(small_model):
    assert small_model.get_metrics(is_train=False) == {}


def test_training_scores_nothing():
    assert MaskRCNN(num_classes=3, backbone="small", metric=CountedImages()).get_metrics(is_train=True) == {}


def test_a_state_dict_loads_back(small_model, batch):
    other = MaskRCNN(num_classes=3, backbone="small")
    other.load_state_dict(small_model.state_dict())

    detected, again = small_model.eval()(batch), other.eval()(batch)
    assert all(torch.equal(a["scores"], b["scores"]) for a, b in zip(detected, again, strict=True))


def test_settings_by_name_take_the_place_of_those_in_one_value():
    settings = MaskRCNNSettings(backbone="small", box_dropout=0.1, mask_dropout=0.2)
    expected = MaskRCNNSettings(backbone="small", box_dropout=0.5, mask_dropout=0.2)
    assert MaskRCNN(3, settings, box_dropout=0.5).settings == expected


def test_settings_of_another_detector_make_no_mask_rcnn():
    assert MaskRCNN(3, DetectorSettings(backbone="small")).settings.name == "mask_rcnn"
    with pytest.raises(ValueError, match=r"^name: expected 'mask_rcnn' for MaskRCNN, got 'fcos'; give it to Detector$"):
        MaskRCNN(3, DetectorSettings(name="fcos", backbone="small"))


@pytest.mark.parametrize("wrong", [0, 3, -1])
def test_labels_that_the_model_has_no_class_for_are_an_error(small_model, batch, wrong):
    images, targets = batch
    targets[1]["labels"] = torch.tensor([wrong])
    with pytest.raises(ValueError, match=rf"expected labels from 1 to 2 \(0 is the background.*got \[{wrong}\]"):
        small_model((images, targets))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_small_types_can_be_trained_on(small_model, batch, dtype):
    images, targets = batch
    targets = [{**target, "labels": target["labels"].to(dtype)} for target in targets]
    assert all(loss.isfinite() for loss in small_model((images, targets)).values())
    check_targets(images, [{**target, "labels": target["labels"] + 100} for target in targets], num_classes=300)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8])
def test_boxes_of_any_type_of_numbers_can_be_trained_on(batch, dtype):
    model = MaskRCNN(3, backbone="small", resize_training=False)
    images, targets = batch
    targets = [{**target, "boxes": target["boxes"].to(dtype)} for target in targets]
    assert all(loss.isfinite() for loss in model((images, targets)).values())


def test_a_crowd_may_have_a_box_without_extent(small_model, batch):
    images, targets = batch
    targets[0]["boxes"][1, 2:] = targets[0]["boxes"][1, :2]
    assert all(loss.isfinite() for loss in small_model((images, targets)).values())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.int64])
def test_masks_of_0_and_1_of_any_type_can_be_trained_on(small_model, batch, dtype):
    images, targets = batch
    targets = [{**target, "masks": target["masks"].to(dtype)} for target in targets]
    assert all(loss.isfinite() for loss in small_model((images, targets)).values())


@pytest.mark.parametrize(
    ("num_classes", "error", "message"),
    [
        (True, TypeError, "num_classes: expected a whole number, got True"),
        (1, ValueError, "num_classes: expected at least 2, the background and one category, got 1"),
    ],
)
def test_a_wrong_number_of_classes_is_refused(num_classes, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        MaskRCNN(num_classes)
