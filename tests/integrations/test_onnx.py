"""ONNX files, as onnxruntime runs them."""

import sys

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from small_models import BOXES_ALONE, box_detector, detectron2_module

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.errors import CheckpointError, MissingPackageError
from composer_copypaste.integrations.onnx import OnnxDetector, check_onnx_installed, load_onnx_predictor, write_onnx
from composer_copypaste.models.exported import ExportMetadata
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.postprocess import detect, detect_raw
from composer_copypaste.models.single_image import SingleImageMaskRCNN, single_image
from composer_copypaste.settings import MaskRCNNSettings

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

CATEGORIES = {1: Category(7, "Äpfel"), 2: Category(3, "fig")}
SIZES = [(90, 120), (120, 90), (20, 31), (300, 40), (779, 39)]
"""Landscape, portrait, smaller than the model's inputs, long; the last is one pixel off where factors are float32."""


def noise(size):
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def module_of(threshold):
    torch.manual_seed(0)
    settings = MaskRCNNSettings(backbone="small", box_score_thresh=threshold, detections_per_image=9)
    return build_mask_rcnn(3, settings).eval()


@pytest.fixture(scope="module")
def module():
    return module_of(0.0)


@pytest.fixture(scope="module")
def files(module, tmp_path_factory):
    """Exported files by their kind of masks, traced at 64 x 96 pixels."""
    folder = tmp_path_factory.mktemp("onnx")
    for masks in ("crops", "pasted"):
        single = SingleImageMaskRCNN(module, paste=masks == "pasted")
        metadata = ExportMetadata(CATEGORIES, masks)
        write_onnx(single, noise((64, 96)).permute(1, 2, 0), metadata, folder / f"{masks}.onnx")
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_a_file_finds_what_the_model_finds_at_any_size(files, module, size):
    (expected,) = detect_raw(module, [noise(size)])
    found = OnnxDetector(files / "crops.onnx")(noise(size))
    assert torch.equal(found.labels, expected["labels"])
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-2)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.masks, expected["masks"], rtol=0, atol=1e-3)


@pytest.fixture(scope="module", params=BOXES_ALONE)
def boxes_alone(request, tmp_path_factory):
    """A detector that finds boxes alone, and its exported file."""
    module = box_detector(request.param)
    path = tmp_path_factory.mktemp(request.param) / "m.onnx"
    metadata = ExportMetadata(CATEGORIES, None, detector=request.param)
    write_onnx(single_image(module, paste=False), noise((64, 96)).permute(1, 2, 0), metadata, path)
    return module, path


def test_a_file_of_boxes_alone_finds_what_its_model_finds_at_any_size_with_numpy_alone(boxes_alone):
    module, path = boxes_alone
    session = ort.InferenceSession(path)
    for size in SIZES:
        (expected,) = detect(module, [noise(size)])
        boxes, scores, labels = session.run(None, {"image": noise(size).numpy().transpose(1, 2, 0).copy()})
        assert 0 < len(boxes) <= 9  # one-stage detectors find some background among the best nine
        assert labels.tolist() == expected["labels"].tolist()
        np.testing.assert_allclose(boxes, expected["boxes"], rtol=0, atol=1e-2)
        np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=1e-4)


def test_a_file_of_boxes_alone_says_so_and_its_predictor_gives_no_masks(boxes_alone):
    module, path = boxes_alone
    session = ort.InferenceSession(path)
    assert {output.name: output.shape for output in session.get_outputs()} == {
        "boxes": ["objects", 4],
        "scores": ["objects"],
        "labels": ["objects"],
    }
    text = onnx.load(path, load_external_data=False).doc_string
    assert text.startswith(f"{type(module).__name__.replace('Faster', 'Faster ').replace('RCNN', 'R-CNN')}. image: RGB")
    assert "mask" not in text
    (found,) = load_onnx_predictor(path).detect([noise((50, 70))])
    (expected,) = detect(module, [noise((50, 70))])
    assert found.keys() == expected.keys() == {"boxes", "scores", "labels"}


@pytest.mark.parametrize("name", ["faster_rcnn", "fcos"])
def test_an_image_without_an_object_gives_no_boxes(name, tmp_path):
    single = single_image(box_detector(name, box_score_thresh=0.999), paste=False)
    metadata = ExportMetadata(CATEGORIES, None, detector=name)
    write_onnx(single, noise((64, 96)).permute(1, 2, 0), metadata, tmp_path / "m.onnx")
    found = OnnxDetector(tmp_path / "m.onnx")(noise((50, 70)))
    assert [tuple(value.shape) for value in found[:3]] == [(0, 4), (0,), (0,)]


@pytest.mark.parametrize("masks", ["crops", "pasted"])
def test_a_predictor_of_a_file_gives_detections_as_the_model_does(files, module, masks):
    images = [noise((90, 120)), noise((50, 40))]
    found = load_onnx_predictor(files / f"{masks}.onnx").detect(images)
    for one, image in zip(found, images, strict=True):
        (expected,) = detect(module, [image])
        torch.testing.assert_close(one["boxes"], expected["boxes"], rtol=0, atol=1e-2)
        assert one["rles"][0]["size"] == expected["rles"][0]["size"]
        assert coco_masks.iou(one["rles"], expected["rles"], [0] * 9).diagonal().min() > 0.95


def test_an_image_without_an_object_gives_none(tmp_path):
    single = SingleImageMaskRCNN(module_of(0.999), paste=True)
    write_onnx(single, noise((64, 96)).permute(1, 2, 0), ExportMetadata(CATEGORIES, "pasted"), tmp_path / "m.onnx")
    found = OnnxDetector(tmp_path / "m.onnx")(noise((50, 70)))
    assert [tuple(value.shape) for value in found] == [(0, 4), (0,), (0,), (0, 50, 70)]
    (detection,) = load_onnx_predictor(tmp_path / "m.onnx").detect([noise((50, 70))])
    assert detection["rles"] == []


def test_a_file_names_its_categories_and_says_what_it_takes(files):
    assert load_onnx_predictor(files / "crops.onnx").categories == CATEGORIES
    session = ort.InferenceSession(files / "pasted.onnx")
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["height", "width", 3])
    assert {output.name: output.shape for output in session.get_outputs()} == {
        "boxes": ["objects", 4],
        "scores": ["objects"],
        "labels": ["objects"],
        "masks": ["objects", "height", "width"],
    }
    assert "1 Äpfel (id 7)" in onnx.load(files / "pasted.onnx").doc_string


def test_a_file_runs_without_torchs_model(files, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a module of torch is built"))
    (found,) = load_onnx_predictor(files / "crops.onnx").detect([noise((50, 70))])
    assert len(found["boxes"]) == 9


def foreign_model():
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["images"], ["output0"])
    ends = [value("images", 1, [1, 3, 640, 640])], [value("output0", 1, [1, 3, 640, 640])]
    graph = onnx.helper.make_graph([node], "yolo", *ends)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_a_file_of_another_program_is_refused_with_its_inputs_and_outputs(tmp_path):
    onnx.save(foreign_model(), tmp_path / "yolo.onnx")
    expected = r"yolo\.onnx: expected a file that copypaste export wrote, .* input images .*640.* outputs output0$"
    with pytest.raises(CheckpointError, match=expected):
        load_onnx_predictor(tmp_path / "yolo.onnx")


def test_metadata_of_another_version_are_one_line(tmp_path):
    model = foreign_model()
    onnx.helper.set_model_props(model, {"composer_copypaste": "9", "categories": "{}", "masks": "crops"})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match=r"m\.onnx: expected the metadata .* 'image_settings'\); export"):
        load_onnx_predictor(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an ONNX file, got an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "expected an ONNX file, got a Git LFS pointer"),
        (b"nonsense" * 9, "onnxruntime cannot run it: Load model .* failed:Protobuf parsing failed"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"m\.onnx: {message}") as raised:
        load_onnx_predictor(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_file_that_was_cut_off_is_refused(files, tmp_path, part):
    content = (files / "crops.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match=r"m\.onnx: onnxruntime cannot run it"):
        load_onnx_predictor(tmp_path / "m.onnx")


def test_without_onnxruntime_one_line_names_the_extra(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    expected = r"^ONNX files need onnxruntime, which is not installed: pip install 'composer-copypaste\[onnx\]'$"
    with pytest.raises(MissingPackageError, match=expected):
        load_onnx_predictor(files / "crops.onnx")


def test_running_a_file_needs_onnxruntime_alone(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert load_onnx_predictor(files / "crops.onnx").categories == CATEGORIES
    with pytest.raises(MissingPackageError, match=r"^ONNX files need onnx, which is not installed: pip install"):
        check_onnx_installed()


def test_pixels_are_read_as_rgb_in_rows(files):
    """As Pillow and NumPy have them: what onnxruntime gives for such an array is what the predictor gives."""
    image = noise((60, 80))
    session = ort.InferenceSession(files / "crops.onnx")
    boxes, *_ = session.run(None, {"image": np.ascontiguousarray(image.numpy().transpose(1, 2, 0))})
    assert np.array_equal(boxes, OnnxDetector(files / "crops.onnx")(image).boxes.numpy())


def test_a_file_of_detectron2s_style_finds_what_its_model_finds_masks_too(tmp_path):
    module = detectron2_module()
    metadata = ExportMetadata(CATEGORIES, "crops", style="detectron2")
    single = SingleImageMaskRCNN(module, paste=False)
    write_onnx(single, noise((64, 96)).permute(1, 2, 0), metadata, tmp_path / "crops.onnx")
    predictor = load_onnx_predictor(tmp_path / "crops.onnx")
    for size in ((90, 120), (31, 200)):
        [expected], [found] = detect(module, [noise(size)]), predictor.detect([noise(size)])
        assert len(expected["scores"]) == len(found["scores"]) > 0
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-2)
        masks = [coco_masks.decode(each["rles"]).astype(int) for each in (expected, found)]
        assert np.abs(masks[0] - masks[1]).mean() < 1e-4
