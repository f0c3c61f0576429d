"""Detectron2's weights in torchvision's Mask R-CNN find what Detectron2 finds, on a photo of matplotlib's."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from matplotlib import cbook
from PIL import Image
from pycocotools import mask as coco_masks

from composer_copypaste import MaskRCNN, export_detectron2
from composer_copypaste.models.detectron2_weights import from_detectron2, known_style, to_detectron2
from composer_copypaste.models.postprocess import detect
from composer_copypaste.models.weight_files import read_weights

SIDE = 128
"""Images are resized to this shorter side, since 800 pixels take a CPU seconds."""


def config(depth=50, categories=80):
    cfg = model_zoo.get_config(f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = categories
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = SIDE, SIDE * 5 // 3
    return cfg


def make_trained_like(model):
    """Let Detectron2's model find many objects: by statistics that are not 0 and 1, and large last layers."""
    generator = torch.Generator().manual_seed(1)
    factors = {
        "rpn_head.objectness_logits.weight": 30,
        "rpn_head.anchor_deltas.weight": 5,
        "box_predictor.cls_score.weight": 100,
        "box_predictor.bbox_pred.weight": 100,
        "mask_head.predictor.weight": 300,
    }
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("norm.weight"):
            tensor.copy_(0.5 + 0.1 * noise)
        elif name.endswith(("norm.bias", "running_mean")):
            tensor.copy_(0.1 * noise)
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        factor = next((factor for end, factor in factors.items() if name.endswith(end)), 1)
        tensor.mul_(factor * (0.02 if "stem.conv1.norm.weight" in name else 1))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Detectron2's predictor, and the file of the zoo's form that it has its weights from."""
    cfg = config()
    torch.manual_seed(0)
    model = build_model(cfg)
    make_trained_like(model)
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    cfg.MODEL.WEIGHTS = str(path)
    return DefaultPredictor(cfg), path


@pytest.fixture(scope="module")
def ours(zoo):
    return MaskRCNN(81, backbone="resnet50", weights=str(zoo[1]), min_size=SIDE).eval()


@pytest.fixture(scope="module")
def photo():
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.array(Image.open(file).convert("RGB"))


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def assert_same(theirs, found):
    """Detectron2's instances and our detections are the same, masks to the pixel."""
    assert len(theirs) == len(found["scores"]) > 0
    torch.testing.assert_close(found["boxes"], theirs.pred_boxes.tensor, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["scores"], theirs.scores, atol=1e-6, rtol=0)
    assert torch.equal(found["labels"] - 1, theirs.pred_classes)
    masks = np.stack([coco_masks.decode(rle) for rle in found["rles"]]).astype(bool)
    assert np.array_equal(masks, theirs.pred_masks.numpy())


@pytest.mark.parametrize("part", ["whole", "wide", "small"])
def test_the_same_objects_are_found_in_photos_of_all_forms(zoo, ours, photo, part):
    parts = {"whole": photo, "wide": photo[100:201], "small": photo[::7, ::6]}
    image = np.ascontiguousarray(parts[part])
    theirs = zoo[0](image[:, :, ::-1])["instances"]
    [found] = detect(ours.module, [as_tensor(image)])

    assert len(theirs.pred_classes.unique()) > 1
    assert_same(theirs, found)


def test_the_same_proposals_are_made(zoo, ours, photo):
    predictor = zoo[0]
    image = predictor.aug.get_transform(photo).apply_image(photo[:, :, ::-1])
    with torch.no_grad():
        images = predictor.model.preprocess_image([{"image": as_tensor(image)}])
        features = predictor.model.backbone(images.tensor)
        [theirs], _ = predictor.model.proposal_generator(images, features)
        batch, _ = ours.module.transform([as_tensor(photo).float() / 255])
        levels = ours.module.backbone(batch.tensors)
        [proposals], _ = ours.module.rpn(batch, levels)

    assert torch.equal(batch.tensors, images.tensor)
    assert all(torch.equal(level, features[name]) for name, level in zip(features, levels.values(), strict=True))
    torch.testing.assert_close(proposals, theirs.proposal_boxes.tensor, atol=1e-4, rtol=0)


def test_images_of_several_sizes_in_a_batch_give_what_detectron2s_batch_gives(zoo, ours, photo):
    predictor, images = zoo[0], [photo, photo[:300]]
    inputs = []
    for image in images:
        resized = predictor.aug.get_transform(image).apply_image(np.ascontiguousarray(image[:, :, ::-1]))
        inputs.append({"image": as_tensor(resized), "height": len(image), "width": image.shape[1]})
    with torch.no_grad():
        theirs = [each["instances"] for each in predictor.model(inputs)]
    for one, other in zip(theirs, detect(ours.module, [as_tensor(image) for image in images]), strict=True):
        assert_same(one, other)


def test_torchvisions_own_call_gives_the_same_too(zoo, ours, photo):
    theirs = zoo[0](photo[:, :, ::-1])["instances"]
    with torch.no_grad():
        [found] = ours.module([as_tensor(photo).float() / 255])
    torch.testing.assert_close(found["boxes"], theirs.pred_boxes.tensor, atol=1e-4, rtol=0)
    assert torch.equal(found["masks"][:, 0] >= 0.5, theirs.pred_masks)


def test_a_checkpoint_of_detectron2s_own_training_is_read(tmp_path):
    cfg = config(categories=3)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    checkpointer = DetectionCheckpointer(
        model, str(tmp_path), optimizer=optimizer, scheduler=build_lr_scheduler(cfg, optimizer)
    )
    checkpointer.save("model_0000009", iteration=9)
    file = tmp_path / "model_0000009.pth"
    loaded = MaskRCNN(4, backbone="resnet50", style="detectron2", weights=str(file)).module.state_dict()

    own = to_detectron2(loaded)
    assert own.keys() == model.state_dict().keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())


def test_the_way_back_is_read_by_detectron2_with_the_keys_it_comes_with_and_finds_the_same(photo, tmp_path):
    torch.manual_seed(5)
    own = MaskRCNN(
        3, backbone="resnet18", style="detectron2", norm="frozen_batch", min_size=SIDE, box_score_thresh=0.0,
        anchor_sizes=(16, 32, 64, 128, 256), detections_per_image=30,
    ).eval()  # fmt: skip
    keys = export_detectron2(own, tmp_path / "model.pkl", categories=["disc", "star"])
    cfg = model_zoo.get_config(keys.pop("config"))
    cfg.merge_from_list([part for pair in keys.items() for part in pair])
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(tmp_path / "model.pkl")])
    incompatible = DetectionCheckpointer(build_model(cfg)).load(str(tmp_path / "model.pkl"))

    assert incompatible["__author__"] == "composer-copypaste"
    # with as few categories, sums of the last layers are rounded in another order: by 1e-6 of a box of 500 pixels
    theirs = DefaultPredictor(cfg)(photo[:, :, ::-1])["instances"]
    [found] = detect(own.module, [as_tensor(photo)])
    assert len(theirs) == len(found["scores"]) > 0
    torch.testing.assert_close(found["boxes"], theirs.pred_boxes.tensor, atol=2e-3, rtol=0)
    torch.testing.assert_close(found["scores"], theirs.scores, atol=1e-4, rtol=0)
    masks = np.stack([coco_masks.decode(rle) for rle in found["rles"]]).astype(bool)
    assert (masks != theirs.pred_masks.numpy()).mean() < 1e-4


def test_the_names_of_resnet101_are_detectron2s():
    cfg = config(101)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        names = build_model(cfg).state_dict()
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in names.items()}
    name, settings = known_style(from_detectron2(state, "model.pkl"))
    assert (name, settings.backbone) == ("Detectron2's Mask R-CNN with a resnet101 and FPN", "resnet101")


def test_a_backbone_with_caffe2s_names_is_read_as_detectron2_reads_it(tmp_path):
    model = build_model(config())
    generator = torch.Generator().manual_seed(3)
    named = OrderedDict()
    for stage, blocks in (("res2", 3), ("res3", 4), ("res4", 6), ("res5", 3)):
        for block in range(blocks):
            for part in ("branch2a", "branch2b", "branch2c", *(["branch1"] if block == 0 else [])):
                named[f"{stage}_{block}_{part}"] = None
    shapes = {name.removeprefix("backbone.bottom_up."): tensor.shape for name, tensor in model.state_dict().items()}
    parts = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
    arrays = {
        "conv1_w": torch.randn(shapes["stem.conv1.weight"], generator=generator).numpy(),
        "res_conv1_bn_s": torch.rand(64, generator=generator).numpy(),
        "res_conv1_bn_b": torch.rand(64, generator=generator).numpy(),
        "fc1000_w": np.zeros((3, 3), np.float32),
    }
    for name in named:
        stage, block, part = name.split("_")
        shape = shapes[f"{stage}.{block}.{parts[part]}.weight"]
        arrays[f"{name}_w"] = torch.randn(shape, generator=generator).numpy()
        arrays[f"{name}_bn_s"] = torch.rand(shape[0], generator=generator).numpy()
        arrays[f"{name}_bn_b"] = torch.rand(shape[0], generator=generator).numpy()
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(arrays))

    DetectionCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    own = read_weights(tmp_path / "R-50.pkl")
    body = MaskRCNN(3, backbone="resnet50", weights=str(tmp_path / "R-50.pkl")).module
    theirs = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.bottom_up.")}
    ours = {name: tensor for name, tensor in to_detectron2(body.state_dict()).items() if name in theirs}
    assert len(own) == 266
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
