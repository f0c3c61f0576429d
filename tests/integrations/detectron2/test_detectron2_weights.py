"""Weights of Detectron2's models: from files and from its zoo, read as data."""

import pickle
from urllib.error import URLError

import pytest
import torch
from small_detectron2 import NAME, SMALL

from composer_copypaste import Detectron2Model
from composer_copypaste.errors import CheckpointError
from composer_copypaste.integrations.detectron2 import weights as module_of_weights

R50 = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"


def small_model(num_classes=4, weights="none", **arguments):
    return Detectron2Model(NAME, num_classes, overrides=SMALL, weights=weights, **arguments)


def same(one, other, names):
    return all(torch.equal(one.module.state_dict()[name], other.module.state_dict()[name]) for name in names)


@pytest.fixture
def saved(tmp_path):
    """A model, and its weights as Detectron2's zoo has them: arrays, and buffers of former versions."""
    model = small_model()
    arrays = {name: value.numpy() for name, value in model.module.state_dict().items()}
    old = {"pixel_mean": torch.zeros(3, 1, 1).numpy(), "proposal_generator.anchor_generator.cell_anchors.0": arrays[
        "proposal_generator.rpn_head.conv.bias"]}  # fmt: skip
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": arrays | old, "__author__": "Detectron2 Model Zoo"}))
    return model, tmp_path / "model.pkl"


def test_a_file_of_the_zoo_is_loaded_completely(saved):
    model, file = saved
    loaded = small_model(weights=file)
    assert same(model, loaded, model.module.state_dict())
    assert loaded.loaded == [f"the detector, {len(model.module.state_dict())} tensors"]


def test_weights_that_the_configuration_names_are_loaded_by_default(saved):
    model, file = saved
    from small_detectron2 import small_cfg

    cfg = small_cfg(3)
    cfg.MODEL.WEIGHTS = str(file)
    assert same(model, Detectron2Model(cfg), model.module.state_dict())


def test_last_layers_of_other_categories_start_at_random(saved):
    model, file = saved
    loaded = small_model(6, file)
    last = "roi_heads.box_predictor.cls_score.weight"
    assert same(model, loaded, [name for name in model.module.state_dict() if "predictor" not in name])
    assert loaded.module.state_dict()[last].shape[0] == 6
    assert loaded.loaded[1].startswith("last layers: made for another number of categories, start at random: ")


def test_a_backbone_by_the_names_of_caffe2_is_matched(tmp_path):
    weight = torch.full((64, 3, 7, 7), 0.25)
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps({"conv1_w": weight.numpy(), "conv1_w_momentum": weight.numpy()}))
    model = small_model(weights=tmp_path / "R-18.pkl")
    assert torch.equal(model.module.backbone.bottom_up.stem.conv1.weight, weight)
    assert model.loaded == ["1 tensor of backbone; the rest starts at random"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"backbone.bottom_up.stem.conv1.weight": [[0.0]]}}, "expected a state dict"),
        ({"model": {"a": torch.zeros(1).numpy()}, "__author__": "me"}, "made for another model: lacks "),
    ],
)
def test_another_models_file_is_one_line(tmp_path, content, message):
    (tmp_path / "other.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError) as raised:
        small_model(weights=tmp_path / "other.pkl")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_code_in_a_file_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "hostile.pkl").write_bytes(pickle.dumps({"model": Hostile(), "__author__": "me"}))
    with pytest.raises(CheckpointError, match="refused: it holds"):
        small_model(weights=tmp_path / "hostile.pkl")
    assert not (tmp_path / "written").exists()


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected an existing file, or none, config or coco .*; got 'imagenet'"):
        small_model(weights="imagenet")


def test_without_network_one_line_says_which_file_to_download(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))

    def unreachable(address, timeout):
        raise URLError("Name or service not known")

    monkeypatch.setattr(module_of_weights, "urlopen", unreachable)
    with pytest.raises(CheckpointError) as raised:
        small_model(weights="config")
    assert str(raised.value) == (
        f"weights: {R50} could not be downloaded (Name or service not known). Without network, download it elsewhere, "
        "and give that file"
    )


def test_what_was_downloaded_before_needs_no_network(monkeypatch, tmp_path, saved):
    model, file = saved
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    cached = tmp_path / "cache" / R50.split("/", 3)[3]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(file.read_bytes())
    monkeypatch.setattr(module_of_weights, "urlopen", None)
    assert same(model, small_model(weights="config"), model.module.state_dict())


def test_the_zoo_has_trained_weights_for_its_own_configurations_only(tmp_path):
    lazy = module_of_weights.trained_weights("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
    assert lazy.startswith("https://dl.fbaipublicfiles.com/detectron2/new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ/")
    with pytest.raises(CheckpointError, match=r"has no trained weights for mine.yaml; give a file"):
        module_of_weights.trained_weights("mine.yaml")
