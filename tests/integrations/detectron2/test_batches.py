"""Detectron2's batches as torchvision's images and targets, and back."""

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from detectron2.data.transforms import FixedSizeCrop
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints, PolygonMasks, RotatedBoxes
from pycocotools import mask as coco_mask

from composer_copypaste.errors import DataError
from composer_copypaste.integrations.detectron2.batches import detectron2_batch, images_and_targets

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]
TRIANGLE = [8.0, 7.0, 11.0, 7.0, 11.0, 4.0]
SIZE = (8, 12)


def planes() -> torch.Tensor:
    """Two objects in an image of 8 x 12: rows 1 to 4 of columns 2 to 5, and the last row of columns 8 to 10."""
    masks = torch.zeros((2, *SIZE), dtype=torch.bool)
    masks[0, 1:5, 2:6] = True
    masks[1, 7, 8:11] = True
    return masks


def entry(**fields: object) -> dict[str, object]:
    """An image of two objects of classes 0 and 4 with these further fields."""
    instances = Instances(SIZE, gt_boxes=Boxes(torch.tensor([[2.0, 1, 6, 5], [8, 7, 11, 8]])))
    instances.gt_classes = torch.tensor([0, 4])
    for name, values in fields.items():
        instances.set(name, values)
    image = torch.arange(3 * 8 * 12, dtype=torch.uint8).reshape(3, *SIZE)
    return {"image": image, "instances": instances, "file_name": "7.png", "height": 16, "width": 24}


def entry_without_objects(*size: int) -> dict[str, object]:
    """An image as Detectron2's loader gives one without annotations: it has no masks."""
    return {"image": torch.zeros((3, *size), dtype=torch.uint8), "instances": annotations_to_instances([], size)}


def rle(mask: torch.Tensor) -> dict[str, object]:
    return coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


def counted(mask: torch.Tensor) -> dict[str, object]:
    """Run lengths as COCO writes crowds: numbers, column by column, zeros first."""
    column_by_column = mask.T.flatten().int()
    changes = (column_by_column.diff(prepend=torch.zeros(1)).nonzero()[:, 0]).tolist()
    return {"size": list(SIZE), "counts": np.diff([0, *changes, mask.numel()]).tolist()}


FORMS = {
    "BitMasks": BitMasks,
    "bool": lambda masks: masks,
    "uint8": lambda masks: masks.byte(),
    "0 and 255": lambda masks: masks.byte() * 255,
    "float32": lambda masks: masks.float(),
    "NumPy": lambda masks: masks.numpy(),
    "run lengths": lambda masks: list(map(rle, masks)),
    "uncompressed": lambda masks: list(map(counted, masks)),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_every_form_are_the_same_planes(form):
    _, [target] = images_and_targets([entry(gt_masks=FORMS[form](planes()))])
    assert target["masks"].dtype == torch.bool
    assert torch.equal(target["masks"], planes())


def test_polygons_are_drawn_as_detectron2_draws_them():
    generator = np.random.default_rng(0)
    polygons = [[generator.uniform(-1, 13, 2 * n) for n in (3, 5)] for _ in range(20)] + [[]]
    instances = Instances(SIZE, gt_boxes=Boxes(torch.tensor([[0.0, 0, 12, 8]] * 21)), gt_masks=PolygonMasks(polygons))
    instances.gt_classes = torch.zeros(21, dtype=torch.int64)
    _, [target] = images_and_targets([entry() | {"instances": instances}])
    assert torch.equal(target["masks"], BitMasks.from_polygon_masks(polygons, *SIZE).tensor)


def test_labels_leave_0_to_the_background_and_colors_are_exchanged():
    before = entry()
    [image], [target] = images_and_targets([before])
    assert target["labels"].tolist() == [1, 5]
    assert torch.equal(image, before["image"][[2, 1, 0]])
    [same], _ = images_and_targets([before], image_format="RGB")
    assert torch.equal(same, before["image"])


def test_an_image_without_objects_has_no_masks_instead_of_lacking_them():
    _, targets = images_and_targets([entry(gt_masks=BitMasks(planes())), entry_without_objects(5, 9)])
    assert targets[1]["masks"].shape == (0, 5, 9)
    _, targets = images_and_targets([entry_without_objects(5, 9)])
    assert targets[0]["masks"].shape == (0, 5, 9)
    _, targets = images_and_targets([entry(), entry_without_objects(5, 9)])
    assert not any("masks" in target for target in targets)


def test_boxes_are_widened_to_masks_that_reach_beyond_them():
    before = entry(gt_masks=BitMasks(planes()))
    before["instances"].gt_boxes = Boxes(torch.tensor([[3.4, 1.5, 5.5, 5], [8, 7, 9.5, 8]]))
    _, [target] = images_and_targets([before])
    assert target["boxes"].tolist() == [[2.0, 1.5, 5.5, 5.0], [8.0, 7.0, 11.0, 8.0]]


def test_there_and_back_all_is_as_it_was():
    tags = torch.tensor([[1.5], [2.5]])
    before = entry(gt_masks=BitMasks(planes()), gt_tags=tags, words=["a", "b"])
    [after] = detectron2_batch(*images_and_targets([before]), former=[before])
    assert (after["file_name"], after["height"], after["width"]) == ("7.png", 16, 24)
    assert torch.equal(after["image"], before["image"])
    assert after["instances"].image_size == SIZE
    assert after["instances"].gt_boxes.tensor.tolist() == before["instances"].gt_boxes.tensor.tolist()
    assert after["instances"].gt_classes.tolist() == [0, 4]
    assert isinstance(after["instances"].gt_masks, BitMasks)
    assert torch.equal(after["instances"].gt_masks.tensor, planes())
    assert torch.equal(after["instances"].gt_tags, tags)
    assert after["instances"].words == ["a", "b"]


@pytest.mark.parametrize("form", ["bool", "uint8", "float32"])
def test_masks_that_were_tensors_come_back_as_tensors_of_their_type(form):
    before = [entry_without_objects(*SIZE), entry(gt_masks=FORMS[form](planes()))]
    after = detectron2_batch(*images_and_targets(before), former=before)
    for number, expected in enumerate((planes()[:0], planes())):
        found = after[number]["instances"].gt_masks
        assert torch.equal(found, FORMS[form](expected))
        assert found.dtype == FORMS[form](expected).dtype


@pytest.mark.parametrize("form", ["NumPy", "run lengths"])
def test_masks_of_forms_that_no_head_takes_become_bit_masks(form):
    before = [entry(gt_masks=FORMS[form](planes()))]
    [after] = detectron2_batch(*images_and_targets(before), former=before)
    assert torch.equal(after["instances"].gt_masks.tensor, planes())


def test_keypoints_keep_their_places():
    annotations = [
        {"bbox": [2, 1, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "keypoints": np.eye(3)},
    ]
    before = [
        entry_without_objects(5, 9),
        entry() | {"instances": annotations_to_instances(annotations, SIZE)},
    ]
    images, targets = images_and_targets(before)
    assert targets[0]["keypoints"].shape == (0, 3, 3)
    after = detectron2_batch(images, targets, former=before)
    assert torch.equal(after[1]["instances"].gt_keypoints.tensor, torch.eye(3)[None])


def test_targets_of_other_loaders_lose_crowds_and_objects_without_a_box():
    target = {
        "boxes": torch.tensor([[2.0, 1, 6, 5], [8, 7, 11, 8], [3, 3, 3, 6]]),
        "labels": torch.tensor([3, 5, 1]),
        "masks": torch.cat([planes(), planes()[:1]]).byte(),
        "iscrowd": torch.tensor([0, 1, 0]),
        "image_id": torch.tensor(7),
    }
    [after] = detectron2_batch([torch.zeros(3, *SIZE)], [target])
    assert (after["image_id"], after["height"], after["width"]) == (7, 8, 12)
    assert after["instances"].gt_classes.tolist() == [2]
    assert torch.equal(after["instances"].gt_masks.tensor, planes()[:1])


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("form", ["uint8", "BitMasks"])
def test_masks_that_contain_the_padding_of_fixed_size_crop_are_refused(form, objects):
    annotations = [
        {"bbox": [0, 0, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": rle(mask)}
        for mask in planes()[:objects]
    ]

    def batch(**options):
        crop = FixedSizeCrop((8, 16), **options).get_transform(np.zeros((*SIZE, 3), dtype=np.uint8))
        image = crop.apply_image(np.arange(8 * 12 * 3, dtype=np.uint8).reshape(*SIZE, 3))
        made = [transform_instance_annotations(dict(each), [crop], (8, 16)) for each in annotations]
        instances = annotations_to_instances(made, (8, 16), mask_format="bitmask")
        if form == "uint8":
            instances.gt_masks = torch.stack([torch.from_numpy(each["segmentation"]) for each in made])
        return [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "instances": instances}]

    with pytest.raises(DataError, match=r"^batch\[0\] \(no file_name\): .*; give it seg_pad_value=0$"):
        images_and_targets(batch())
    _, [target] = images_and_targets(batch(seg_pad_value=0))
    assert torch.equal(target["masks"][:, :, :12], planes()[:objects])
    assert not target["masks"][:, :, 12:].any()


def test_masks_at_a_border_of_one_color_are_no_padding_if_not_all_have_it():
    masks = planes()
    masks[0, :, 11] = True
    before = entry(gt_masks=BitMasks(masks))
    before["image"][:, :, 11] = 128
    images_and_targets([before])


def test_objects_without_masks_beside_those_with_masks_are_refused():
    with pytest.raises(DataError, match=r"batch\[1\] \(7.png\): its 2 objects have no gt_masks.* first annotation"):
        images_and_targets([entry(gt_masks=BitMasks(planes())), entry()])


def test_objects_without_keypoints_beside_those_with_keypoints_are_refused():
    with_keypoints = entry(gt_keypoints=Keypoints(torch.zeros(2, 3, 3)))
    with pytest.raises(DataError, match=r"batch\[1\] \(7.png\): its 2 objects have no gt_keypoints"):
        images_and_targets([with_keypoints, entry()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sem_seg": torch.zeros(SIZE)}, "has 'sem_seg', which would have to change"),
        ({"instances": Instances(SIZE)}, r"expected instances with gt_boxes \(Boxes\) and gt_classes, got {}"),
        (
            {"instances": Instances(SIZE, gt_boxes=RotatedBoxes([[1, 1, 2, 2, 30.0]]))},
            "got {'gt_boxes': 'RotatedBoxes'}",
        ),
        ({"instances": entry(gt_corners=planes())["instances"]}, r"instances have 'gt_corners' \(Tensor\)"),
        ({"instances": entry(gt_amodal=Boxes(torch.zeros(2, 4)))["instances"]}, r"'gt_amodal' \(Boxes\)"),
        ({"instances": entry(gt_masks=planes()[:, 1:])["instances"]}, r"of the image's size \(8, 12\), got"),
        ({"instances": entry(gt_masks=(1, 2))["instances"]}, "expected gt_masks as BitMasks, .*, got tuple"),
        ({"instances": entry(gt_masks=[rle(planes()[0]), 7])["instances"]}, r"gt_masks\[1\]: has no segmentation"),
        ({"instances": entry(gt_masks=planes().int() * 3)["instances"]}, "of 0 and 1, got also 3"),
    ],
)
def test_what_cannot_be_converted_is_named_in_one_line(change, message):
    with pytest.raises(DataError, match=message) as caught:
        images_and_targets([entry() | change])
    assert "\n" not in str(caught.value)
