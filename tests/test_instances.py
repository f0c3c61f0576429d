"""One image's objects, to and from a torchvision target."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import tv_tensors

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.object_keys import object_keys_of
from composer_copypaste.instances import (
    Instances,
    exact_up_to,
    in_type,
    in_types_of,
    instances_of,
    is_tv_tensor,
    target_of,
)


def target(n=2, size=(4, 6), **fields):
    return {
        "boxes": torch.arange(4.0 * n).reshape(n, 4),
        "labels": torch.arange(n) + 1,
        "masks": torch.zeros(n, *size, dtype=torch.uint8),
        **fields,
    }


def instances(*targets):
    return instances_of(targets, [(4, 6)] * len(targets), object_keys_of(targets, ("depth",)))


def test_an_index_selects_the_rows_of_every_field():
    (objects,) = instances(target(3, area=torch.arange(3), iscrowd=torch.tensor([0, 1, 0]), depth=torch.arange(3)))
    chosen = objects[torch.tensor([2, 0])]
    assert chosen.labels.tolist() == [3, 1]
    assert chosen.boxes[:, 0].tolist() == [8, 0]
    assert chosen.area.tolist() == chosen.extras["depth"].tolist() == [2, 0]
    assert len(objects[torch.tensor([True, False, True])]) == len(objects[1:]) == 2


def test_missing_areas_and_crowds_are_zeros():
    (objects,) = instances(target())
    assert objects.area.tolist() == objects.iscrowd.tolist() == [0, 0]


def test_bool_masks_become_zeros_and_ones_of_the_same_memory():
    masks = torch.rand(2, 4, 6) > 0.5
    (objects,) = instances(target(masks=masks))
    assert objects.masks.dtype == torch.uint8
    assert objects.masks.data_ptr() == masks.data_ptr()


@pytest.mark.parametrize("mask_type", [torch.bool, torch.uint8])
def test_a_target_comes_back_with_the_keys_and_types_it_had(mask_type):
    before = target(2, file_name="a.jpg", depth=torch.arange(2))
    before["masks"] = before["masks"].to(mask_type)
    after = target_of(before, instances(before)[0][1:], (4, 6))
    assert list(after) == list(before)
    assert after["masks"].dtype == mask_type
    assert after["depth"].tolist() == [1]
    assert after["file_name"] == "a.jpg"


@pytest.mark.parametrize("key", ["boxes", "labels"])
def test_a_missing_field_is_an_error_that_names_target_and_field(key):
    lacking = {name: values for name, values in target().items() if name != key}
    with pytest.raises(ValueError, match=rf"^targets\[1\]: expected '{key}', got \["):
        instances(target(), lacking)


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("boxes", torch.zeros(3, 4), r"\(2, 4\)"),
        ("boxes", torch.zeros(2, 5), r"\(2, 4\)"),
        ("masks", torch.zeros(2, 6, 4, dtype=torch.uint8), r"\(2, 4, 6\)"),
        ("masks", torch.zeros(1, 4, 6, dtype=torch.uint8), r"\(2, 4, 6\)"),
        ("area", torch.zeros(1), r"\(2,\)"),
        ("iscrowd", torch.zeros(2, 1), r"\(2,\)"),
    ],
)
def test_a_field_of_another_shape_is_an_error_that_says_which(key, values, expected):
    shape = str(tuple(values.shape)).replace("(", r"\(").replace(")", r"\)")
    message = rf"^targets\[1\]: expected '{key}' of shape {expected} \(2 labels, image of 4 x 6\), got {shape}$"
    with pytest.raises(ValueError, match=message):
        instances(target(), target(**{key: values}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_masks_of_another_type_are_an_error(dtype):
    with pytest.raises(TypeError, match=r"^targets\[0\]: expected masks of bool or of uint8 \(0: none\), got torch"):
        instances(target(masks=torch.zeros(2, 4, 6, dtype=dtype)))


@pytest.mark.parametrize("key", ["boxes", "labels", "masks", "area", "iscrowd"])
def test_a_field_that_is_no_tensor_is_an_error_that_names_target_and_field(key):
    with pytest.raises(TypeError, match=rf"^targets\[1\]: expected '{key}' to be a tensor, got list$"):
        instances(target(), target(**{key: [0, 0]}))


def test_a_per_object_key_that_one_target_lacks_is_an_error():
    with pytest.raises(ValueError, match=r"^targets\[1\]: lacks 'depth', which other targets .* \(2 here\)$"):
        instances(target(depth=torch.zeros(2)), target())


def test_a_per_object_key_of_one_number_is_an_error():
    with pytest.raises(
        ValueError, match=r"^targets\[0\]: expected 'depth' to have a row for each of its 2 objects, got"
    ):
        instances_of([target(depth=torch.tensor(0.5))], [(4, 6)], ["depth"])


def test_cut_outs_beside_planes_are_an_error_that_names_the_target_with_planes():
    fields = target(masks=CompactMasks.from_dense(target()["masks"]))
    with pytest.raises(
        ValueError, match=r"^targets\[2\]: has no CompactMasks, which other targets of the batch have; "
    ):
        instances(fields, fields, target())


@pytest.mark.parametrize("shape", [(3, 4, 3), (2, 4, 2), (2, 12), (2, 1, 4, 3)])
def test_keypoints_of_another_shape_are_an_error(shape):
    with pytest.raises(ValueError, match=r"^targets\[0\]: expected 'keypoints' of shape \(2, k, 3\), got \("):
        instances(target(2, keypoints=torch.zeros(shape)))


def test_rotated_boxes_of_torchvision_are_refused_as_boxes_and_may_have_a_key_of_their_own():
    turned = tv_tensors.BoundingBoxes(torch.arange(8.0).reshape(2, 4), format="XYWH", canvas_size=(4, 6))
    turned.format = SimpleNamespace(name="CXCYWHR")  # as newer versions of torchvision have it
    (objects,) = instances_of([target(turned=turned)], [(4, 6)], ["turned"])
    assert objects.extras["turned"].tolist() == turned.tolist()
    with pytest.raises(ValueError, match=r"^targets\[0\]: expected boxes of format XYXY, XYWH, CXCYWH, got CXCYWHR; "):
        instances(target(boxes=turned))


def test_numbers_are_rounded_to_the_nearest_of_an_integer_type_and_kept_in_others():
    values = torch.tensor([0.75, 1.25, -0.75])
    assert in_type(values, torch.int16).tolist() == [1, 1, -1]
    assert in_type(values, torch.float64).tolist() == values.tolist()


def test_there_are_no_tv_tensors_where_nobody_has_imported_torchvision(monkeypatch):
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(4, 6))
    assert is_tv_tensor(boxes)
    monkeypatch.delitem(sys.modules, "torchvision.tv_tensors")
    assert not is_tv_tensor(torch.nn.Parameter(torch.zeros(1)))


def test_objects_are_compared_by_identity():
    one, other = instances(target(), target())
    assert one == one
    assert one != other
    assert len({one, other}) == 2


class IndexesAreBesideTheirValues(TorchDispatchMode):
    """Fails where values on one device are indexed by numbers on another: that waits, which a meta device hides."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten.index.Tensor:
            assert {index.device for index in args[1]} == {args[0].device}
        return operation(*args, **(kwargs or {}))


def test_fields_on_several_devices_get_the_numbers_of_their_rows_where_they_lie():
    boxes, labels = torch.arange(12.0).reshape(3, 4), torch.tensor([1, 2, 3])
    masks, keypoints = torch.zeros(3, 8, 8, dtype=torch.uint8, device="meta"), torch.zeros(3, 5, 3, device="meta")
    objects = Instances(boxes, labels, masks, boxes[:, 0], labels * 0, {"keypoints": keypoints})
    with IndexesAreBesideTheirValues():
        found = objects.take([2, 0])
    assert found.labels.tolist() == [3, 1]
    assert found.extras["keypoints"].shape == (2, 5, 3)


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        (torch.bool, 1),
        (torch.int8, 127),
        (torch.uint8, 255),
        (torch.bfloat16, 256),
        (torch.float16, 2048),
        (torch.float32, 2**24),
        (torch.complex64, 2**24),
    ],
)
def test_a_type_holds_whole_numbers_up_to_its_largest_and_not_the_next(dtype, largest):
    assert exact_up_to(dtype) == largest
    near = torch.arange(max(largest - 100, 0), largest + 1)
    assert torch.equal(near.to(dtype).to(torch.complex128).real.long(), near)
    following = torch.tensor([largest + 1]).to(dtype)
    assert following.to(torch.complex128).real.item() != largest + 1


@pytest.mark.parametrize(
    ("dtype", "side", "fractions", "expected"),
    [
        (torch.float16, 2048, False, torch.float16),
        (torch.float16, 2049, False, torch.float32),
        (torch.float16, 1024, True, torch.float16),  # and every half
        (torch.float16, 1025, True, torch.float32),
        (torch.float64, 1025, True, torch.float64),
        (torch.uint8, 255, False, torch.uint8),
        (torch.uint8, 256, False, torch.float32),
        (torch.uint8, 255, True, torch.float32),
    ],
)
def test_boxes_keep_a_type_that_holds_every_position_and_else_become_float32(dtype, side, fractions, expected):
    fields = {"boxes": torch.zeros(0, 4, dtype=dtype), "labels": torch.zeros(0, dtype=torch.int64)}
    (objects,) = instances_of([fields], [(1, side)], [])
    assert target_of(fields, objects, (1, side), fractions=fractions)["boxes"].dtype == expected


@pytest.mark.parametrize("size", [(4, 2049), (2049, 4)])
def test_the_longer_side_of_any_image_says_which_type_holds_positions(size):
    halves = {"boxes": torch.zeros(1, 4), "area": torch.zeros(1), "keypoints": torch.zeros(1, 1, 3)}
    fields = {key: values.half() for key, values in halves.items()} | {"labels": torch.ones(1, dtype=torch.int64)}
    objects, other = instances_of([fields, fields], [size, (4, 4)], ["keypoints"])
    for each in (objects, other):
        assert each.boxes.dtype == each.area.dtype == each.extras["keypoints"].dtype == torch.float32
    after = in_types_of(fields, objects, size)
    assert [after[key].dtype for key in halves] == [torch.float32] * 3
