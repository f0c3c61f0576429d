"""Files of Detectron2, without Detectron2: how they are read, refused, named, and written."""

import json
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from composer_copypaste import MaskRCNN, MaskRCNNSettings, describe_file
from composer_copypaste.errors import CheckpointError
from composer_copypaste.models.detectron2_pickle import read_pickle, write_pickle
from composer_copypaste.models.detectron2_style import MARK
from composer_copypaste.models.detectron2_weights import from_detectron2, to_detectron2
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.predictor import COCO_NAMES
from composer_copypaste.models.recognise import read_known_model
from composer_copypaste.models.weight_files import read_weights

SCORES = "roi_heads.box_predictor.cls_score.weight"
BOXES = "roi_heads.box_predictor.bbox_pred.weight"
MASKS = "roi_heads.mask_head.predictor.weight"
COCO = [name for name in COCO_NAMES[1:] if name != "N/A"]


def zoo_tensors(categories=3, backbone="resnet18"):
    """Random tensors by Detectron2's names."""
    torch.manual_seed(categories)
    model = build_mask_rcnn(
        categories + 1, MaskRCNNSettings(backbone=backbone, style="detectron2", norm="frozen_batch")
    )
    return to_detectron2(model.state_dict())


@pytest.fixture(scope="module")
def tensors():
    return zoo_tensors()


@pytest.fixture(scope="module")
def shapes(tensors):
    """The same names and shapes; the tensors take no memory."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in tensors.items()}


def write(path, tensors, **more):
    """A file as the zoo's are."""
    content = {"model": {name: tensor.numpy() for name, tensor in tensors.items()}, "__author__": "Detectron2", **more}
    path.write_bytes(pickle.dumps(content))
    return path


def refusal_of(tensors):
    with pytest.raises(CheckpointError) as caught:
        from_detectron2(tensors, "a.pkl")
    return str(caught.value).removeprefix("a.pkl: ")


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# ---- what becomes of the tensors


def test_layers_have_torchvisions_names_and_the_background_comes_first(tensors, tmp_path):
    state = read_weights(write(tmp_path / "a.pkl", tensors))

    assert torch.equal(state["backbone.body.conv1.weight"], tensors["backbone.bottom_up.stem.conv1.weight"])
    assert torch.equal(
        state["backbone.body.layer2.0.downsample.1.running_var"],
        tensors["backbone.bottom_up.res3.0.shortcut.norm.running_var"],
    )
    assert torch.equal(state["backbone.fpn.inner_blocks.3.0.bias"], tensors["backbone.fpn_lateral5.bias"])
    assert torch.equal(state["rpn.head.bbox_pred.weight"], tensors["proposal_generator.rpn_head.anchor_deltas.weight"])
    assert torch.equal(state["roi_heads.mask_head.2.0.weight"], tensors["roi_heads.mask_head.mask_fcn3.weight"])
    assert torch.equal(state[SCORES][0], tensors[SCORES][3])
    assert torch.equal(state[SCORES][1:], tensors[SCORES][:3])
    assert torch.equal(state[BOXES][4:], tensors[BOXES])
    assert torch.equal(state["roi_heads.mask_predictor.mask_fcn_logits.weight"][1:], tensors[MASKS])


@pytest.mark.parametrize("backbone", ["resnet34", "resnet101"])
def test_the_way_back_gives_the_same_tensors(backbone):
    tensors = zoo_tensors(backbone=backbone)
    back = to_detectron2(from_detectron2(tensors, "a file"))

    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_a_model_of_torchvisions_style_has_no_way_back():
    state = build_mask_rcnn(3, MaskRCNNSettings(backbone="resnet18")).state_dict()
    with pytest.raises(CheckpointError, match=r"expected a model of Detectron2's style \(model\.style=detectron2\)"):
        to_detectron2(state)


def test_a_file_that_was_written_is_read_again(tensors, tmp_path):
    write_pickle(tensors, tmp_path / "a.pkl", {"categories": [{"id": 7, "name": "fig"}]})
    content = read_pickle(tmp_path / "a.pkl")

    assert content["__author__"] == "composer-copypaste"
    assert all(torch.equal(content["model"][name], tensors[name]) for name in tensors)


def test_a_file_of_a_training_of_detectron2_is_read_whatever_its_name(tensors, tmp_path):
    torch.save(
        {"model": OrderedDict(tensors), "iteration": 99, "optimizer": {"state": {}}}, tmp_path / "model_final.pth"
    )

    assert read_weights(tmp_path / "model_final.pth")[SCORES].shape == (4, 1024)


# ---- which model they fit


def test_a_pkl_file_makes_the_model_one_of_detectron2s_style(tensors, tmp_path):
    model = MaskRCNN(4, backbone="resnet18", weights=str(write(tmp_path / "a.pkl", tensors)), min_size=64)

    assert model.loaded == ["the detector, 143 tensors"]
    assert torch.equal(
        model.module.state_dict()["backbone.body.bn1.weight"], tensors["backbone.bottom_up.stem.conv1.norm.weight"]
    )
    assert MARK in model.module.state_dict()


def test_another_file_of_detectron2_needs_the_style(tensors, tmp_path):
    torch.save({"model": tensors}, tmp_path / "a.pth")
    file = str(tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"^style: expected 'detectron2' for the weights '.*a\.pth', which are of D"
    ):
        MaskRCNN(4, backbone="resnet18", weights=file)

    assert MARK in MaskRCNN(4, backbone="resnet18", weights=file, style="detectron2").module.state_dict()


def test_weights_of_torchvisions_style_do_not_load_into_the_other(tmp_path):
    torch.save(build_mask_rcnn(4, MaskRCNNSettings(backbone="resnet18")).state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"^style: expected 'torchvision' for the weights .* got 'detectron2'$"):
        MaskRCNN(4, backbone="resnet18", weights=str(tmp_path / "a.pth"), style="detectron2")
    with pytest.raises(CheckpointError, match="or, for the style 'detectron2', none; got 'imagenet'"):
        MaskRCNN(4, backbone="resnet18", weights="imagenet", style="detectron2")


def test_weights_of_another_backbone_name_it(tensors, tmp_path):
    with pytest.raises(CheckpointError, match=r"^backbone: expected 'resnet18' for the weights .*; got 'resnet50'$"):
        MaskRCNN(4, backbone="resnet50", weights=str(write(tmp_path / "a.pkl", tensors)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "small"}, "backbone: expected resnet18, .* or resnet152, as style is detectron2; got 'small'"),
        ({"backbone": "resnet50_v2"}, "backbone: expected resnet18, .* or resnet152, as .*; got 'resnet50_v2'"),
        ({"heads": "small"}, "heads: expected standard, as style is detectron2; got 'small'"),
    ],
)
def test_detectron2s_style_is_of_resnets_with_standard_heads(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskRCNNSettings(style="detectron2", **settings)


def test_the_zoos_categories_are_known_and_their_rows_kept_by_name(tmp_path):
    tensors = zoo_tensors(80)
    file = str(write(tmp_path / "a.pkl", tensors))
    model = MaskRCNN(
        3, backbone="resnet18", weights=file, keep_categories=True, category_names=["unicorn", "dog"]
    ).module.state_dict()
    dog = COCO.index("dog")

    assert torch.equal(model[SCORES][2], tensors[SCORES][dog])
    assert torch.equal(model[SCORES][0], tensors[SCORES][80])
    assert torch.equal(model[BOXES][8:12], tensors[BOXES][4 * dog : 4 * dog + 4])
    assert torch.equal(model["roi_heads.mask_predictor.mask_fcn_logits.weight"][2], tensors[MASKS][dog])
    assert not any(torch.equal(model[SCORES][1], row) for row in tensors[SCORES])


def test_rows_of_own_categories_are_kept_by_the_names_in_a_file(tensors, tmp_path):
    names = tmp_path / "names.json"
    names.write_text(
        json.dumps({"categories": [{"id": id_, "name": name} for id_, name in ((9, "b"), (4, "a"), (11, "c"))]})
    )
    model = MaskRCNN(
        2, backbone="resnet18", weights=str(write(tmp_path / "a.pkl", tensors)), keep_categories=True,
        weights_categories=str(names), category_names=["b"],
    )  # fmt: skip
    assert torch.equal(model.module.state_dict()[SCORES][1], tensors[SCORES][1])


def test_a_file_of_the_zoo_says_how_its_model_is_built(tensors, tmp_path):
    name, settings = read_known_model(write(tmp_path / "a.pkl", tensors))

    assert name == "Detectron2's Mask R-CNN with a resnet18 and FPN"
    assert (settings.backbone, settings.style, settings.norm) == ("resnet18", "detectron2", "frozen_batch")


def test_a_file_is_described(tensors, tmp_path):
    found = describe_file(write(tmp_path / "a.pkl", tensors))
    assert (found.kind, found.problems) == ("weights of Detectron2", [])
    assert found.facts["model"] == "Detectron2's Mask R-CNN with a resnet18 and FPN"
    assert found.facts["classes, background included"] == 4

    other = describe_file(
        write(tmp_path / "b.pkl", {**tensors, "roi_heads.keypoint_head.score.weight": torch.zeros(1)})
    )
    assert other.problems[0].startswith("cannot be loaded here: of Detectron2, but a Keypoint R-CNN")


# ---- backbones


def caffe2_names(tensors):
    """The names that Caffe2 gave to the tensors of a ResNet of basic blocks, or of bottlenecks."""
    ends = {"norm.weight": "bn_s", "norm.bias": "bn_b"}
    parts = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    named = {}
    for name, tensor in tensors.items():
        rest = name.removeprefix("backbone.bottom_up.")
        if not name.startswith("backbone.bottom_up.") or "running" in rest:
            continue
        if rest.startswith("stem."):
            other = {"weight": "conv1_w", "norm.weight": "res_conv1_bn_s", "norm.bias": "res_conv1_bn_b"}
            named[other[rest.removeprefix("stem.conv1.")]] = tensor
            continue
        stage, block, conv, end = rest.split(".", 3)
        named[f"{stage}_{block}_{parts[conv]}_{ends.get(end, 'w')}"] = tensor
    return named | {"fc1000_w": torch.zeros(2, 2), "fc1000_b": torch.zeros(2), "conv1_b": torch.zeros(64)}


@pytest.mark.parametrize("form", ["caffe2", "detectron2"])
def test_a_backbone_of_imagenet_fills_the_backbone(form, tmp_path):
    tensors = zoo_tensors(backbone="resnet50")
    if form == "caffe2":
        path = tmp_path / "R-50.pkl"
        path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in caffe2_names(tensors).items()}))
    else:
        prefix = "backbone.bottom_up."
        body = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        path = write(tmp_path / "R-50.pkl", {**body, "stem.fc.weight": torch.zeros(2, 2)}, matching_heuristics=True)
    model = MaskRCNN(4, backbone="resnet50", weights=str(path))
    loaded = model.module.backbone.body.state_dict()

    assert model.loaded == ["the backbone, 265 tensors; the rest starts at random"]
    assert torch.equal(loaded["conv1.weight"], tensors["backbone.bottom_up.stem.conv1.weight"])
    assert torch.equal(loaded["layer3.0.downsample.0.weight"], tensors["backbone.bottom_up.res4.0.shortcut.weight"])
    assert torch.equal(loaded["layer4.2.bn3.bias"], tensors["backbone.bottom_up.res5.2.conv3.norm.bias"])
    assert torch.equal(loaded["bn1.running_var"], torch.ones(64))


def test_a_backbone_lacks_what_it_lacks_and_torchvisions_is_told(tensors, tmp_path):
    named = {name: tensor.numpy() for name, tensor in caffe2_names(tensors).items()}
    missing = {name: array for name, array in named.items() if name != "res4_1_branch2b_w"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(missing))
    assert refusal(tmp_path / "a.pkl") == "no resnet18 of Detectron2's; lacks res4.1.conv2.weight"
    write(tmp_path / "b.pkl", {"stem.conv1.norm.weight": torch.ones(64)}, __author__="torchvision")
    assert refusal(tmp_path / "b.pkl").startswith("torchvision's ResNet, converted for Detectron2")


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone.bottom_up.res3.1.conv2.weight": None}, "lacks backbone.bottom_up.res3.1.conv2.weight"),
        ({SCORES: None}, f"lacks {SCORES}"),
        ({"roi_heads.extra": torch.zeros(1)}, "unknown: roi_heads.extra"),
        ({"proposal_generator.rpn_head.conv.bias": torch.zeros(3)}, "rpn_head.conv.bias is (3,), expected (256,)"),
        ({SCORES: torch.zeros(6, 1024)}, "categories: 5 have scores, 3 boxes and 3 masks"),
        ({BOXES: torch.zeros(4, 1024)}, "categories: 3 have scores, 1 boxes and 3 masks"),
        ({"roi_heads.box_predictor.cls_score.bias": torch.zeros(9)}, "cls_score.bias is (9,), expected (4,)"),
        ({"pixel_mean": torch.tensor([123.675, 116.28, 103.53])}, "pixel_mean is [123.68, 116.28, 103.53]"),
        ({"pixel_std": torch.full((3, 1, 1), 57.0)}, "pixel_std is [57.0, 57.0, 57.0], expected [1.0, 1.0, 1.0]"),
        (
            {"proposal_generator.anchor_generator.cell_anchors.1": torch.zeros(3, 4)},
            "cell_anchors.1 is [0.0, 0.0, 0.0, 0.0], expected [-45.25, -22.63, 45.25, 22.63]",
        ),
    ],
)  # fmt: skip
def test_an_edited_file_is_refused_with_what_is_wrong(shapes, changes, message):
    edited = {name: tensor for name, tensor in {**shapes, **changes}.items() if tensor is not None}
    assert message in refusal_of(edited)


def test_the_anchors_and_pixel_statistics_of_old_files_are_no_reason_to_refuse_them(shapes):
    sides = [(size / np.sqrt(ratio), size * np.sqrt(ratio)) for size in [32] for ratio in (0.5, 1, 2)]
    anchors = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
    more = {
        "proposal_generator.anchor_generator.cell_anchors.0": anchors.float(),
        "pixel_mean": torch.tensor([103.53, 116.28, 123.675])[:, None, None],
        "pixel_std": torch.ones(3, 1, 1),
    }
    assert from_detectron2({**shapes, **more}, "").keys() == from_detectron2(shapes, "").keys()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("roi_heads.box_predictor.1.cls_score.weight", "a Cascade R-CNN"),
        ("roi_heads.mask_head.point_head.fc1.weight", "a PointRend"),
        ("backbone.fpn_lateral2.norm.weight", "a network with normalised or deeper heads (GN, SyncBN or LSJ)"),
        (
            "proposal_generator.rpn_head.conv.conv0.weight",
            "a network with normalised or deeper heads (GN, SyncBN or LSJ)",
        ),
        ("backbone.res4.0.conv1.weight", "a network without feature pyramid (C4 or DC5)"),
        ("head.cls_subnet.0.weight", "a RetinaNet or FCOS"),
        ("sem_seg_head.predictor.weight", "a model of semantic or panoptic segmentation"),
        ("backbone.bottom_up.res3.0.conv2_offset.weight", "a network with deformable convolutions"),
        ("backbone.net.pos_embed", "a backbone that is no ResNet"),
        ("conv_rpn_fpn2_w", "a detector of Caffe2's Detectron"),
    ],
)
def test_a_file_of_another_model_is_named(name, what):
    message = refusal_of({name: torch.zeros(1), "backbone.bottom_up.x": torch.zeros(1)})
    assert message.startswith(f"of Detectron2, but {what} ({name}); expected its Mask R-CNN with a ResNet and FPN")


def test_boxes_without_masks_and_grouped_convolutions_are_refused(shapes):
    boxes = {name: tensor for name, tensor in shapes.items() if "mask_head" not in name}
    assert "lacks roi_heads.mask_head" in refusal_of(boxes)
    conv = "backbone.bottom_up.res2.0.conv2.weight"
    message = refusal_of({**shapes, conv: shapes[conv][:, :8]})
    assert message.endswith("res2.0.conv2.weight is (64, 8, 3, 3), expected (64, 64, 3, 3)")


class MakesAFolder:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_all_protocols_are_read_and_code_is_not_run(tmp_path, protocol):
    content = {"model": OrderedDict(a=np.arange(6, dtype=">f4").reshape(2, 3).T), "note": ["x", 1.5, np.float64(2)]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert read_pickle(tmp_path / "a.pkl")["model"]["a"].tolist() == [[0, 3], [1, 4], [2, 5]]

    content["model"]["b"] = MakesAFolder(tmp_path / "harm")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert refusal(tmp_path / "a.pkl").startswith("refused: it holds posix.mkdir, and reading it could run code")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (torch.zeros(2), "torch._utils._rebuild_tensor_v2"),
        (np.array([1, "a"], dtype=object), "an array of object"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
        (getattr, "builtins.getattr"),
        (np.load, "numpy.load"),
    ],
)
def test_what_is_no_array_is_named(tmp_path, content, named):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"a": content}}))
    assert refusal(tmp_path / "a.pkl").startswith(f"refused: it holds {named}")


@pytest.mark.parametrize(
    "content", [b"\x80\x04", b"\x80\x04.", b"\x80\x04N", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}"]
)
def test_a_damaged_pickle_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    assert refusal(tmp_path / "a.pkl").startswith("damaged, or no pickle: ")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    write(tmp_path / "a.pkl", {"backbone.bottom_up.stem.conv1.norm.bias": torch.tensor([float("nan")])})
    assert refusal(tmp_path / "a.pkl").startswith("holds weights that are not finite (backbone.bottom_up.stem.conv1")


def test_a_file_that_is_cut_off_is_refused(tensors, tmp_path):
    path = write(tmp_path / "a.pkl", tensors)
    path.write_bytes(path.read_bytes()[:100_000])
    assert refusal(path).startswith("damaged, or no pickle: ")
