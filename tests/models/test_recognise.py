import pytest
import torch
import torchvision

from composer_copypaste.models.recognise import read_known_model, recognise_model

NAMES = {"maskrcnn_resnet50_fpn": "resnet50", "maskrcnn_resnet50_fpn_v2": "resnet50_v2"}


@pytest.fixture(scope="module")
def states():
    """State dicts of torchvision's own models of 91 classes, whose tensors take no memory."""
    found = {}
    for name in NAMES:
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        found[name] = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in model.state_dict().items()}
    return found


def frozen(state):
    """The same as published: frozen normalisation, which counts nothing."""
    return {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_models_are_known_by_their_tensors(name, states):
    found, settings = recognise_model(states[name])
    assert (found, settings.backbone, settings.norm, settings.weights) == (
        f"torchvision's {name}",
        NAMES[name],
        "batch",
        "none",
    )


def test_published_weights_have_frozen_normalisation_without_an_epsilon_as_in_torchvision(states):
    _, settings = recognise_model(frozen(states["maskrcnn_resnet50_fpn"]))
    assert (settings.norm, settings.weights) == ("frozen_batch", "coco")


def test_other_models_are_not_known(states):
    state = dict(states["maskrcnn_resnet50_fpn"])
    state["backbone.body.layer3.9.conv1.weight"] = torch.zeros(1)
    assert recognise_model(state) is None
    assert recognise_model({"fc.weight": torch.zeros(2)}) is None


def test_a_checkpoint_of_composer_is_not_taken_for_one(tmp_path, states):
    state = states["maskrcnn_resnet50_fpn"]
    torch.save({"state": {"model": state}}, tmp_path / "composer.pt")
    torch.save({"model": state}, tmp_path / "reference.pt")
    assert read_known_model(tmp_path / "composer.pt") is None
    assert read_known_model(tmp_path / "reference.pt")[0] == "torchvision's maskrcnn_resnet50_fpn"
