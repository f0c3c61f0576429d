import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from small_models import BOXES_ALONE, box_detector, detectron2_module
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.models.detectron2_style import draws_between_pixels
from composer_copypaste.models.exported import ExportedOutputs, ExportMetadata
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.postprocess import detect, detect_raw, encode_masks
from composer_copypaste.models.single_image import SingleImageMaskRCNN, paste_masks, single_image
from composer_copypaste.models.torchscript import TorchScriptDetector, write_torchscript
from composer_copypaste.settings import MaskRCNNSettings

SIZES = [(90, 120), (120, 90), (20, 31), (300, 40), (779, 39)]
"""Landscape, portrait, smaller than the model's inputs, long; the last is one pixel off where factors are float32."""


def small_module(**settings):
    torch.manual_seed(0)
    chosen = {"box_score_thresh": 0.0, "detections_per_image": 9, "box_dropout": 0.5} | settings
    return build_mask_rcnn(3, MaskRCNNSettings(backbone="small", **chosen)).eval()


def noise(size):
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
def test_one_image_gives_what_detect_gives_at_any_size(size):
    module, image = small_module(), noise(size)
    (expected,) = detect_raw(module, [image])
    with torch.no_grad():
        found = SingleImageMaskRCNN(module, paste=False)(image.permute(1, 2, 0))
    assert len(found[0]) == 9
    for value, key in zip(found, ("boxes", "scores", "labels", "masks"), strict=True):
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-5)


def test_heads_of_torchvisions_own_are_taken_too():
    module = small_module()
    module.roi_heads.__class__ = RoIHeads
    (expected,) = detect_raw(module, [noise((90, 120))])
    with torch.no_grad():
        boxes, *_ = single_image(module, paste=False)(noise((90, 120)).permute(1, 2, 0))
    torch.testing.assert_close(boxes, expected["boxes"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BOXES_ALONE)
def test_boxes_are_those_of_detect_at_any_size_also_compiled(name, tmp_path):
    module, path = box_detector(name), tmp_path / "model.torchscript"
    single = single_image(module, paste=False)
    write_torchscript(single, ExportMetadata({1: Category(7, "nut")}, None, detector=name), path)
    compiled = TorchScriptDetector(path)
    for size in SIZES:
        (expected,) = detect(module, [noise(size)])
        with torch.no_grad():
            found = ExportedOutputs(*single(noise(size).permute(1, 2, 0)))
        assert 0 < len(found.boxes) <= 9  # one-stage detectors find some background among the best nine
        for one in (found, *([compiled(noise(size))] if size in SIZES[-2:] else [])):
            assert one.masks is None
            for key in ("boxes", "scores", "labels"):
                torch.testing.assert_close(getattr(one, key), expected[key], rtol=0, atol=1e-5)
    extra = {"detector": "", "masks": ""}
    torch.jit.load(path, _extra_files=extra)
    assert extra == {"detector": name.encode(), "masks": b"none"}


@pytest.mark.parametrize("name", ["mask_rcnn", *BOXES_ALONE])
def test_the_model_is_left_as_it_is(name):
    module = (small_module() if name == "mask_rcnn" else box_detector(name)).train()
    hooks = [len(part._forward_hooks) for part in module.modules()]
    single_image(module, paste=True)
    assert module.training
    assert [len(part._forward_hooks) for part in module.modules()] == hooks
    assert sum(hooks) > 0


@pytest.mark.parametrize("side", [3, 20, 90])
@pytest.mark.parametrize("size", [(48, 70), (61, 33)])
def test_pasted_masks_are_those_that_are_encoded(size, side):
    generator = torch.Generator().manual_seed(side)
    centre = torch.rand(60, 2, generator=generator) * torch.tensor([size[1], size[0]])
    half = torch.rand(60, 2, generator=generator) * side / 2
    boxes, crops = torch.cat([centre - half, centre + half], dim=1), torch.rand(60, 28, 28, generator=generator)
    expected = coco_masks.decode(encode_masks(crops[:, None], boxes, size))
    assert np.array_equal(paste_masks(crops, boxes, torch.tensor(size)).permute(1, 2, 0).numpy(), expected)
    assert expected.any()


def test_no_objects_give_no_masks():
    pasted = paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), torch.tensor([5, 7]))
    assert (pasted.shape, pasted.dtype) == ((0, 5, 7), torch.uint8)


def test_a_torchscript_file_gives_what_the_model_gives_and_names_its_categories(tmp_path):
    module, path = small_module(), tmp_path / "model.torchscript"
    write_torchscript(SingleImageMaskRCNN(module, paste=True), ExportMetadata({1: Category(7, "nut")}, "pasted"), path)
    run = TorchScriptDetector(path)
    for size in SIZES[:2]:
        (expected,) = detect_raw(module, [noise(size)])
        found = run(noise(size))
        torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-5)
        pasted = paste_masks_in_image(expected["masks"][:, None], expected["boxes"], size)[:, 0] > 0.5
        assert torch.equal(found.masks, pasted.to(torch.uint8))
    extra = {"categories": "", "masks": ""}
    torch.jit.load(path, _extra_files=extra)
    assert extra == {"categories": b'{"1": {"id": 7, "name": "nut"}}', "masks": b"pasted"}


@pytest.mark.parametrize("module_of", [detectron2_module, lambda: small_module(aligned_masks=True)])
def test_a_torchscript_file_draws_masks_between_pixels_as_its_model_does(module_of, tmp_path):
    module = module_of()
    assert draws_between_pixels(module)
    metadata = ExportMetadata({1: Category(5, "a"), 2: Category(9, "b")}, "pasted")
    write_torchscript(SingleImageMaskRCNN(module, paste=True), metadata, tmp_path / "m.torchscript")
    compiled = TorchScriptDetector(tmp_path / "m.torchscript")
    for size in ((90, 120), (31, 200)):
        [expected], found = detect_raw(module, [noise(size)]), compiled(noise(size))
        assert len(found.boxes) > 0
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(getattr(found, key), expected[key], rtol=0, atol=1e-5)
        (encoded,) = detect(module, [noise(size)])
        assert np.array_equal(found.masks.permute(1, 2, 0).numpy(), coco_masks.decode(encoded["rles"]))
        assert encoded["rles"] == encode_masks(expected["masks"][:, None], expected["boxes"], size, between_pixels=True)
