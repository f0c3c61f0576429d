import os
import pickle
import urllib.error

import numpy as np
import pytest
import torch
from composer import Trainer
from PIL import Image
from torchvision.models import mobilenet_v3_large, resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from composer_copypaste import MaskRCNN
from composer_copypaste.errors import CheckpointError
from composer_copypaste.models.weight_files import read_weights
from composer_copypaste.models.weights import check_weights_name, describe_download
from composer_copypaste.settings import MaskRCNNSettings

CLASS_DEPENDENT = (
    "roi_heads.box_predictor.cls_score.weight",
    "roi_heads.box_predictor.bbox_pred.weight",
    "roi_heads.mask_predictor.mask_fcn_logits.weight",
)


def same(state, other, names):
    return [torch.equal(state[name], other[name]) for name in names]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch hub; a download fails as without network."""

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


class WritesAFile:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_imagenet_weights_fill_the_backbone(cache):
    published = resnet18(weights=None).state_dict()
    torch.save(published, cache / "resnet18-f37072fd.pth")
    body = MaskRCNN(3, backbone="resnet18", weights="imagenet", min_size=64).module.backbone.body.state_dict()

    assert len(body) > 0
    assert all(same(body, published, body))


def test_imagenet_weights_fill_the_mobile_backbone(cache):
    published = mobilenet_v3_large(weights=None).state_dict()
    torch.save(published, cache / "mobilenet_v3_large-8738ca79.pth")
    model = MaskRCNN(3, backbone="mobilenet_v3_large", weights="MobileNet_V3_Large_Weights.IMAGENET1K_V1", min_size=64)
    body = model.module.backbone.body.state_dict()

    assert all(same({f"features.{name}": body[name] for name in body}, published, [f"features.{n}" for n in body]))


def coco_weights_file(cache, *, old_names):
    """A stand-in for torchvision's file, whose parameters have the names of its year."""
    module = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    state = {name: values for name, values in module.state_dict().items() if "num_batches_tracked" not in name}
    published = dict(state)
    if old_names:
        renamed = {"rpn.head.conv.0.0.": "rpn.head.conv.", "mask_head.0.0.": "mask_head.mask_fcn1."}
        for new, old in renamed.items():
            published = {name.replace(new, old): values for name, values in published.items()}
    torch.save(published, cache / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    return state


def test_coco_weights_of_another_number_of_classes_leave_the_last_layers_fresh_and_say_so(cache, caplog):
    published = coco_weights_file(cache, old_names=True)
    model = MaskRCNN(4, backbone="resnet50", weights="coco").module.state_dict()
    fresh = [name for name in model if model[name].shape != published[name].shape]

    assert set(CLASS_DEPENDENT) <= set(fresh)
    assert all(same(model, published, [name for name in model if name not in fresh]))
    assert len(caplog.records) == 1
    assert all(name in caplog.text for name in fresh)


def test_coco_weights_of_the_same_number_of_classes_are_loaded_whole(cache, caplog):
    published = coco_weights_file(cache, old_names=False)
    model = MaskRCNN(91, backbone="resnet50", weights="MaskRCNN_ResNet50_FPN_Weights.COCO_V1").module

    assert all(same(model.state_dict(), published, published))
    assert caplog.text == ""
    assert {part.eps for part in model.modules() if isinstance(part, FrozenBatchNorm2d)} == {0.0}


def test_what_would_be_downloaded_is_named_until_it_is_there(cache):
    settings = MaskRCNNSettings(backbone="resnet18", weights="imagenet")
    file, url = cache / "resnet18-f37072fd.pth", "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert describe_download(settings) == f"to be downloaded, 45 MB from {url}: not there yet as {file}"
    file.touch()
    assert describe_download(settings) is None
    assert describe_download(MaskRCNNSettings(backbone="resnet18")) is None


def test_weights_that_cannot_be_downloaded_say_where_to_put_the_file(cache):
    with pytest.raises(CheckpointError, match=f"no network.*resnet18-f37072fd.pth|resnet18-f37072fd.pth.*{cache}"):
        MaskRCNN(3, backbone="resnet18", weights="imagenet")


def test_leaving_the_weights_to_a_checkpoint_downloads_nothing(cache):
    model = MaskRCNN(3, backbone="resnet18", weights="imagenet", load_weights=False)

    assert any(isinstance(part, FrozenBatchNorm2d) for part in model.modules())


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [("resnet18", "coco"), ("small", "imagenet"), ("resnet18", "ResNet50_Weights.IMAGENET1K_V1")],
)
def test_weights_that_do_not_exist_for_the_backbone_are_refused_with_the_choices(backbone, weights):
    with pytest.raises(CheckpointError, match=f"for the backbone '{backbone}', none.*got '{weights}'"):
        MaskRCNN(3, backbone=backbone, weights=weights)


def test_a_composer_checkpoint_loads(small_model, tmp_path):
    optimizer = torch.optim.AdamW(small_model.parameters())
    trainer = Trainer(model=small_model, optimizers=optimizer, device="cpu", progress_bar=False)
    path = trainer.save_checkpoint(str(tmp_path / "checkpoint.pt"))
    loaded = MaskRCNN(3, backbone="small", weights=path).state_dict()

    assert all(same(loaded, small_model.state_dict(), loaded))


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_a_state_dict_loads_with_any_wrappers_prefix(small_model, tmp_path, prefix):
    state = small_model.module.state_dict()
    torch.save({prefix + name: values for name, values in state.items()}, tmp_path / "weights.pth")
    loaded = MaskRCNN(3, backbone="small", weights=str(tmp_path / "weights.pth")).module.state_dict()

    assert all(same(loaded, state, state))


def test_a_file_of_a_backbone_alone_fills_the_backbone(small_model, tmp_path):
    state = small_model.module.backbone.body.state_dict()
    torch.save(state, tmp_path / "backbone.pth")
    body = MaskRCNN(3, backbone="small", weights=str(tmp_path / "backbone.pth")).module.backbone.body.state_dict()

    assert all(same(body, state, state))


def test_weights_of_another_model_are_refused(small_model, tmp_path):
    torch.save(small_model.state_dict(), tmp_path / "small.pth")

    with pytest.raises(CheckpointError, match="backbone 'resnet18'"):
        MaskRCNN(3, backbone="resnet18", weights=str(tmp_path / "small.pth"))


def test_unknown_tensors_are_refused_by_name(small_model, tmp_path):
    torch.save({**small_model.module.state_dict(), "backbone.extra": torch.zeros(1)}, tmp_path / "more.pth")

    with pytest.raises(CheckpointError, match=r"unknown: backbone\.extra$"):
        MaskRCNN(3, backbone="small", weights=str(tmp_path / "more.pth"))


def test_tensors_of_another_size_are_refused_with_both_sizes_and_the_number_of_others(small_model, tmp_path):
    state = small_model.module.state_dict()
    name, *others = [name for name in state if name.startswith("rpn.")]
    changed = dict.fromkeys([name, others[0]], torch.zeros(7))
    for number, more in ((1, ""), (2, " and 1 more")):
        torch.save({**state, **dict(list(changed.items())[:number])}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError) as caught:
            MaskRCNN(3, backbone="small", weights=str(tmp_path / "other.pth"))
        assert str(caught.value).endswith(f"{name} is (7,), expected {tuple(state[name].shape)}{more}")


def test_a_pipe_or_a_folder_in_place_of_weights_is_named_and_never_opened(tmp_path):
    for name in ("a.pt", "a.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(CheckpointError, match="cannot be read: expected a file, found a pipe"):
            read_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot be read: expected a file, found a folder"):
        read_weights(tmp_path)


def test_a_detector_with_another_backbone_is_named_as_such(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "run" / "checkpoints" / "latest-rank0.pt"
    torch.save(MaskRCNN(num_classes=3, backbone="small").module.state_dict(), file)
    with pytest.raises(CheckpointError, match=r"made with another backbone \(\d+ of its tensors differ, such as back"):
        MaskRCNN(num_classes=5, backbone="resnet18", weights=str(file))
    (tmp_path / "run" / "recipe.yaml").write_text("base: quickstart\n")
    with pytest.raises(CheckpointError, match=r"as it was made with: .*run/recipe\.yaml names it"):
        MaskRCNN(num_classes=5, backbone="resnet18", weights=str(file))
    with pytest.raises(CheckpointError, match=r"got the folder of a run, .*; give one of its checkpoints: .*latest"):
        MaskRCNN(num_classes=3, backbone="small", weights=str(tmp_path / "run"))


def test_missing_tensors_are_refused_by_name(small_model, tmp_path):
    state = small_model.module.state_dict()
    del state["rpn.head.cls_logits.bias"]
    torch.save(state, tmp_path / "less.pth")

    with pytest.raises(CheckpointError, match=r"lacks: rpn\.head\.cls_logits\.bias$"):
        MaskRCNN(3, backbone="small", weights=str(tmp_path / "less.pth"))


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_code_in_a_file_of_weights_is_refused_and_not_run(tmp_path, save):
    harm, path = tmp_path / "harm", tmp_path / "weights.pth"
    save({"weight": WritesAFile(harm)}, path)

    with pytest.raises(CheckpointError, match=r"weights\.pth: refused"):
        read_weights(path)
    assert not harm.exists()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b" \n", "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
            "a Git LFS .* lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html>404</html>", "a web page; download the file itself"),
        (b"\x1f\x8b\x08\x00\x00", r"compressed with gzip; unpack it \(gunzip\)"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_stands_for_a_file_of_weights_is_named(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: expected weights, got {kind}$"):
        read_weights(tmp_path / name)


def test_an_exported_model_holds_no_weights_but_can_be_scored(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(CheckpointError, match="an ONNX file, which copypaste predict reads; copypaste eval --pred"):
        read_weights(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", [".", "pipe", "loop", "x" * 300, "a/b"])
def test_what_is_no_file_of_weights_is_named_with_the_reason(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a").touch()
    with pytest.raises(CheckpointError, match=r"expected an existing file or, .*; got '.*' \([\w ,]+\)$"):
        check_weights_name(MaskRCNNSettings(backbone="small", weights=str(tmp_path / name)))


def test_weights_that_are_refused_start_nothing_at_random(tmp_path, caplog):
    state = MaskRCNN(9, backbone="small").module.state_dict()
    torch.save({**state, "backbone.extra": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"unknown: backbone\.extra$"):
        MaskRCNN(3, backbone="small", weights=str(tmp_path / "more.pth"))
    assert not caplog.records


@pytest.mark.parametrize(
    "content", [b"x", b"no weights", b"PK\x03\x04 cut off", b"hello", b"version https://git-lfs", b"r\x00\x00"]
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"weights\.pth: ") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "byte"), [(-16, 0xE3), (6, 195)], ids=["a name that is no text", "a version of ZIP that is not known"]
)
def test_an_archive_whose_table_is_damaged_is_refused_as_such(tmp_path, place, byte):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    content = bytearray(path.read_bytes())
    last_entry = content.rindex(b"PK\x01\x02")  # of the table of files: 46 bytes, of which the third word is a version
    content[last_entry + (46 + 3 if place < 0 else place)] = byte
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"expected weights, got a file that is cut off or damaged$"):
        read_weights(path)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, torch.Tensor.cfloat])
def test_tensors_that_no_layer_has_are_refused_by_name(tmp_path, change):
    torch.save({"weight": torch.ones(3), "bias": change(torch.ones(3))}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"expected dense tensors of real numbers, found others \(bias\)"):
        read_weights(tmp_path / "weights.pth")


def test_a_file_of_another_kind_is_named_for_what_it_is(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.jpg")
    (tmp_path / "results.json").write_text("[]")
    np.savez(tmp_path / "matches.npz", scores=np.zeros(3))
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "scripted.pt")
    kinds = {"photo.jpg": r"an image \(JPEG\)", "results.json": "JSON", "matches.npz": "NumPy's arrays"}
    for name, kind in {**kinds, "scripted.pt": "a TorchScript model"}.items():
        with pytest.raises(CheckpointError, match=rf"{name}: expected weights, got {kind}"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    "content", [{}, [torch.zeros(1)], {"epoch": 3}, {"state": {"model": {"a": 1}}}, {1: torch.ones(1)}]
)
def test_a_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")

    with pytest.raises(CheckpointError, match=r"expected a state dict .*, found a(n empty)? (dict|list)") as caught:
        read_weights(tmp_path / "weights.pth")
    if content == {"epoch": 3}:
        assert str(caught.value).endswith("found a dict with the keys 'epoch'")


def test_safetensors_load_or_name_the_package(small_model, tmp_path):
    path = tmp_path / "weights.safetensors"
    try:
        from safetensors.torch import save_file
    except ImportError:
        path.touch()
        with pytest.raises(CheckpointError, match="pip install safetensors"):
            read_weights(path)
    else:
        save_file(small_model.module.state_dict(), path)
        assert set(read_weights(path)) == set(small_model.module.state_dict())
