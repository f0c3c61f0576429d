import copy
import os

import pytest
import torch
from pycocotools import mask as coco_masks

from composer_copypaste import Detector, MaskRCNN, export_onnx, export_torchscript
from composer_copypaste.data.annotation_json import Category
from composer_copypaste.errors import DataError, ExportError, OutputError, RecipeError
from composer_copypaste.models.exported import ExportedOutputs
from composer_copypaste.models.postprocess import detect, detect_raw, encode_masks
from composer_copypaste.runs import export
from composer_copypaste.runs.export import check_new_file, export_run
from composer_copypaste.runs.predictor import load_predictor

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MaskRCNN(num_classes=3, backbone="small", box_score_thresh=0.0, detections_per_image=5)


@pytest.fixture(scope="module")
def images():
    return [torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))]


def test_a_model_of_composer_is_exported_checked_and_run_with_its_names(model, images, tmp_path):
    differences = export_onnx(model, tmp_path / "m.onnx", categories=["disc", Category(9, "star")], images=images)
    assert (differences.images, differences.objects, differences.unmatched) == (4, 20, 0)
    assert 0 < differences.box < 0.01  # another engine rounds in another way
    assert model.training
    predictor = load_predictor(tmp_path / "m.onnx")
    assert predictor.categories == {1: Category(1, "disc"), 2: Category(9, "star")}
    (found,) = predictor.detect(images)
    assert len(found["boxes"]) == 5


def test_who_runs_a_file_draws_aligned_masks_as_the_model_does(images, tmp_path):
    torch.manual_seed(0)
    model = MaskRCNN(3, backbone="small", box_score_thresh=0.0, detections_per_image=5, aligned_masks=True)
    export_onnx(model, tmp_path / "m.onnx", categories=["disc", "star"], images=images)
    (found,), (expected,) = load_predictor(tmp_path / "m.onnx").detect(images), detect(model.module.eval(), images)
    masks, drawn = (coco_masks.decode(each["rles"]) for each in (found, expected))
    raw = detect_raw(model.module, images)[0]
    torchvisions = coco_masks.decode(encode_masks(raw["masks"][:, None], raw["boxes"], (60, 90)))
    # not 0: a probability of nearly 0.5 may be rounded to either side
    assert (masks != drawn).sum() < (masks != torchvisions).sum() / 10


def test_a_file_that_finds_something_else_is_not_kept(model, images, tmp_path, monkeypatch):
    def moved(path):
        """Stands for a file whose boxes are half a pixel too wide."""
        assert path.read_bytes() == b"model"

        def find(image):
            (found,) = detect_raw(copy.deepcopy(model.module).eval(), [image])
            return ExportedOutputs(**(found | {"boxes": found["boxes"] + torch.tensor([0, 0, 0.5, 0])}))

        return find

    monkeypatch.setattr(export, "write_onnx", lambda module, example, metadata, path: path.write_bytes(b"model"))
    monkeypatch.setattr(export, "OnnxDetector", moved)
    expected = r"m\.onnx: not kept, .* max_box_difference is 0.1, got 0.5; max_unmatched"
    with pytest.raises(ExportError, match=expected) as raised:
        export_onnx(model, tmp_path / "m.onnx", categories=["disc", "star"], images=images)
    assert raised.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def fcos():
    torch.manual_seed(0)
    return Detector(num_classes=3, name="fcos", backbone="small", box_score_thresh=0.0, detections_per_image=5)


def test_a_detector_of_boxes_is_exported_and_checked_without_masks(fcos, images, tmp_path):
    differences = export_onnx(fcos, tmp_path / "m.onnx", categories=["disc", "star"], images=images)
    assert (differences.images, differences.unmatched, differences.mask) == (4, 0, None)
    assert 10 <= differences.objects <= 20  # at most five in an image, without what is taken for background
    assert 0 < differences.box < 0.01
    assert "mask" not in str(differences)
    (found,) = load_predictor(tmp_path / "m.onnx").detect(images)
    assert found.keys() == {"boxes", "scores", "labels"}
    assert fcos.training


def test_a_form_of_masks_is_refused_for_a_detector_of_boxes(fcos, images, tmp_path):
    for export_model in (export_onnx, export_torchscript):
        with pytest.raises(ExportError, match=r"^masks: expected none, as FCOS finds boxes alone, got 'crops'$"):
            export_model(fcos, tmp_path / "m", categories=["disc", "star"], images=images, masks="crops")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_cannot_compile_is_one_line(images, tmp_path):
    class Odd(torch.nn.Identity):
        def forward(self, x):
            return super().forward(x)

    model = MaskRCNN(num_classes=3, backbone="small", box_score_thresh=0.0, detections_per_image=5)
    model.module.backbone.body.relu = Odd()
    with pytest.raises(
        ExportError, match=r"m\.torchscript: not kept, as this model cannot be written in this"
    ) as raised:
        export_torchscript(model, tmp_path / "m.torchscript", categories=["disc", "star"], images=images)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_finds_nothing_cannot_be_checked(images, tmp_path):
    model = MaskRCNN(num_classes=3, backbone="small", box_score_thresh=0.999)
    with pytest.raises(ExportError, match=r"m\.onnx: not written, as the model finds nothing in 4 images"):
        export_onnx(model, tmp_path / "m.onnx", categories=["disc", "star"], images=images)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_left_as_it_is(model, images, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"m\.onnx: is there already"):
        export_onnx(model, tmp_path / "m.onnx", categories=["disc", "star"], images=images)
    assert (tmp_path / "m.onnx").read_bytes() == b"mine"


def test_what_cannot_be_exported_is_named(model, images, tmp_path):
    with pytest.raises(TypeError, match=r"^model: expected Detector, .* got Linear"):
        export_onnx(torch.nn.Linear(2, 2), tmp_path / "m.onnx", categories=[], images=images)
    with pytest.raises(DataError, match=r"^images: expected at least one"):
        export_onnx(model, tmp_path / "m.onnx", categories=["disc", "star"], images=[])
    with pytest.raises(ValueError, match=r"^categories: expected 2, one for each label, got 1"):
        export_onnx(model, tmp_path / "m.onnx", categories=["disc"], images=images)
    with pytest.raises(
        TypeError, match=r"^images\[0\]: expected uint8 \(3, height, width\), .* got torch.float32 \(3, 60, 90\)"
    ):
        export_onnx(model, tmp_path / "m.onnx", categories=["disc", "star"], images=[images[0].float()])
    with pytest.raises(OutputError, match=r"none/m\.onnx: there is no folder"):
        export_onnx(model, tmp_path / "none" / "m.onnx", categories=["disc", "star"], images=images)


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=rf"m\.onnx: {tmp_path} cannot be written to; make it writable"):
        check_new_file(tmp_path / "m.onnx")


def test_a_name_of_no_known_format_is_refused_first(tmp_path):
    with pytest.raises(RecipeError, match=r"m\.pt: expected a name that ends with \.onnx, \.torchscript or \.pkl"):
        export_run(tmp_path / "none", tmp_path / "m.pt")
