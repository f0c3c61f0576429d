"""Targets as supervision's ``Detections``, masks as cut-outs in its form, and back."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from composer_copypaste import CompactMasks, CopyPasteSettings, copypaste_batch
from composer_copypaste.errors import DataError
from composer_copypaste.integrations.supervision import (
    masks_from_supervision,
    masks_to_supervision,
    targets_from_supervision,
    targets_to_supervision,
)

supervision = pytest.importorskip("supervision")
compact_mask = pytest.importorskip("supervision.detection.compact_mask")


def drawn(n, size=(40, 60)):
    rng = np.random.default_rng(0)
    masks = torch.zeros(n, *size, dtype=torch.uint8)
    for mask in masks:
        y, x = rng.integers(0, 30, 2)
        mask[y : y + 9, x : x + 20] = torch.from_numpy(rng.random((min(9, 40 - y), min(20, 60 - x))) < 0.5)
    return masks


@pytest.mark.parametrize("n", [0, 1, 6])
def test_supervision_sees_the_same_pixels(n):
    masks = drawn(n)
    given = masks_to_supervision(CompactMasks.from_dense(masks))
    assert given.shape == tuple(masks.shape)
    assert np.array_equal(given.to_dense(), masks.bool().numpy())
    assert given.area.tolist() == masks.sum((1, 2)).tolist()


@pytest.mark.parametrize("n", [0, 1, 6])
def test_what_supervision_makes_of_planes_has_the_same_pixels_here(n):
    masks = drawn(n)
    corners = np.array([[0, 0, 59, 39]] * n, dtype=np.float32).reshape(-1, 4)
    theirs = compact_mask.CompactMask.from_dense(masks.bool().numpy(), xyxy=corners, image_shape=(40, 60))
    assert torch.equal(masks_from_supervision(theirs).dense(), masks)
    assert torch.equal(masks_from_supervision(masks_to_supervision(CompactMasks.from_dense(masks))).dense(), masks)


def target(masks):
    windows = masks.windows if isinstance(masks, CompactMasks) else CompactMasks.from_dense(masks).windows
    return {
        "boxes": torch.from_numpy(windows[:, [1, 0, 3, 2]]).float(),
        "labels": torch.tensor([1, 3]),
        "masks": masks,
        "iscrowd": torch.tensor([0, 1]),
        "area": torch.tensor([90.5, 80.0]),
        "scores": torch.tensor([0.5, 0.25]),
    }


@pytest.mark.parametrize("compact", [False, True])
def test_a_target_comes_back_from_detections_as_it_was(compact):
    planes = drawn(2)
    given = target(CompactMasks.from_dense(planes) if compact else planes)
    [detections] = targets_to_supervision([given], category_names=["bolt", "nut", "screw"])
    assert detections.class_id.tolist() == [0, 2]
    assert detections.data["class_name"].tolist() == ["bolt", "screw"]
    assert isinstance(detections.mask, compact_mask.CompactMask if compact else np.ndarray)
    assert detections[1:].data["iscrowd"].tolist() == [1]

    [back] = targets_from_supervision([detections], [(40, 60)])
    masks = back.pop("masks")
    assert torch.equal(masks.dense() if compact else masks, planes)
    del given["masks"]
    assert back.keys() == given.keys()
    assert all(torch.equal(back[key], given[key]) for key in given)


def test_boxes_of_tv_tensors_become_corners():
    from torchvision import tv_tensors

    boxes = tv_tensors.BoundingBoxes([[10.0, 10, 6, 4]], format="CXCYWH", canvas_size=(40, 60))
    [found] = targets_to_supervision([{"boxes": boxes, "labels": torch.tensor([1])}])
    assert found.xyxy.tolist() == [[7, 8, 13, 12]]
    assert found.mask is None


def test_detections_are_pasted_with_their_corners_of_rotated_boxes():
    masks = np.zeros((1, 40, 60), dtype=bool)
    masks[0, 10:20, 10:30] = True
    corners = np.array([[[10.0, 10], [30, 10], [30, 20], [10, 20]]])
    given = supervision.Detections(
        np.array([[10.0, 10, 30, 20]]), mask=masks, class_id=np.array([4]), data={"xyxyxyxy": corners}
    )
    targets = targets_from_supervision([given, supervision.Detections.empty()], [(40, 60)] * 2)
    images = torch.zeros(2, 3, 40, 60)
    images[0, :, 10:20, 10:30] = 1
    geometry = {"xyxyxyxy": "corners"}
    pasted, targets = copypaste_batch(
        images, targets, p=1.0, p_instance=1.0, scale_range=(1.0, 1.0), p_flip=0.0, geometry=geometry
    )
    found = targets_to_supervision(targets)[1]
    assert torch.equal(pasted[1], images[0])
    assert found.class_id.tolist() == [4]
    assert np.array_equal(found.mask, masks)
    assert np.array_equal(found.data["xyxyxyxy"], corners)


def test_a_data_set_written_by_supervision_keeps_objects_of_two_parts_as_objects(tmp_path):
    masks = torch.zeros(1, 40, 60, dtype=torch.uint8)
    masks[0, 4:14, 4:14], masks[0, 20:34, 30:50] = 1, 1
    given = {"boxes": torch.tensor([[4.0, 4, 50, 34]]), "labels": torch.tensor([1]), "masks": masks}
    [with_crowds] = targets_to_supervision([given | {"iscrowd": torch.tensor([0])}])
    path = str(tmp_path / "a.png")
    Image.new("RGB", (60, 40)).save(path)
    data = supervision.DetectionDataset(["bolt"], [path], {path: with_crowds})
    data.as_coco(annotations_path=str(tmp_path / "out.json"))
    [written] = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert (written["iscrowd"], len(written["segmentation"])) == (0, 2)


@pytest.mark.parametrize("compact", [False, True])
def test_images_without_objects_get_the_fields_of_the_others(compact):
    masks = drawn(2)
    found = targets_to_supervision([target(CompactMasks.from_dense(masks) if compact else masks)])
    targets = targets_from_supervision([supervision.Detections.empty(), *found], [(50, 70), (40, 60)])
    assert targets[0].keys() == targets[1].keys()
    assert tuple(targets[0]["masks"].shape) == (0, 50, 70)
    assert all(len(values) == 0 for values in targets[0].values())
    settings = CopyPasteSettings(p=1.0, p_instance=1.0, scale_range=(1.0, 1.0))
    images, pasted = copypaste_batch([torch.zeros(3, 50, 70), torch.ones(3, 40, 60)], targets, settings=settings)
    assert images[0].any()
    assert len(pasted[0]["labels"]) == len(pasted[0]["scores"]) > 0


@pytest.mark.parametrize(("class_id", "got"), [(None, "None"), (np.array([-1]), "-1")])
def test_detections_without_classes_are_refused(class_id, got):
    with pytest.raises(DataError, match=rf"^detections\[0\]: expected class_id, .* from 0 on, got {got}$"):
        targets_from_supervision([supervision.Detections(np.array([[0.0, 0, 5, 5]]), class_id=class_id)], [(9, 9)])


def test_labels_without_a_name_are_refused():
    with pytest.raises(DataError, match="got 2 names and labels from 1 to 3"):
        targets_to_supervision([target(drawn(2))], category_names=["bolt", "nut"])


def test_without_supervision_one_line_says_so():
    code = (
        "import sys; sys.modules['supervision'] = None\n"
        "from composer_copypaste.integrations.supervision import targets_to_supervision\n"
        "targets_to_supervision([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith(
        "MissingPackageError: targets_to_supervision() needs supervision: pip install supervision"
    )
