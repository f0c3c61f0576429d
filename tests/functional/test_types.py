"""What comes back has the types that were given, or such as hold it: hand-written plans on small images."""

import pytest
import torch
from copypaste_cases import IDENTITY, SIDE, Pool, carry_out, make_images, plan_of, target
from torchvision import tv_tensors
from torchvision.transforms import v2

from composer_copypaste import InstanceBank, copypaste_batch, large_scale_jitter_batch
from composer_copypaste.functional.engines import compilation
from composer_copypaste.functional.engines import engine as composite

OVER = plan_of((0, 1, 0, IDENTITY))


@pytest.fixture(params=["kernels", "steps"], autouse=True)
def _on_each_engine(request, monkeypatch):
    if request.param == "steps":
        monkeypatch.setattr(composite, "kernels_for", lambda device: None)


def wide(*rectangles, side=300, **fields):
    """A target in an image of that side, and the image."""
    masks = torch.zeros(len(rectangles), side, side, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, rectangles, strict=True):
        mask[y1:y2, x1:x2] = 1
    return {
        "boxes": torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(1, len(rectangles) + 1),
        "masks": masks,
        "area": masks.sum((1, 2)).float(),
        **fields,
    }


def in_types(fields, **types):
    return {key: values.to(types[key]) if key in types else values for key, values in fields.items()}


def noise(*sides):
    return [torch.zeros(3, side, side, dtype=torch.uint8) for side in sides]


NARROW = (torch.uint8, torch.int8, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", NARROW)
def test_boxes_and_areas_of_a_type_too_narrow_for_the_images_come_in_float32_for_the_whole_batch(dtype):
    targets = [wide(), wide((241, 243, 287, 299)), wide((1, 2, 3, 4))]
    targets = [in_types(fields, boxes=dtype, area=dtype) for fields in targets]
    targets[1]["boxes"] = torch.tensor([[241, 243, 287, 299]])  # of a type of its own, which holds them
    after = carry_out(
        OVER, noise(2049, 300, 300), [{**targets[0], "masks": torch.zeros(0, 2049, 2049).byte()}, *targets[1:]]
    ).targets
    assert after[0]["boxes"].tolist() == [[241, 243, 287, 299]]
    assert after[0]["area"].tolist() == [46 * 56]
    assert [fields["boxes"].dtype for fields in after] == [torch.float32, torch.int64, torch.float32]
    assert [fields["area"].dtype for fields in after] == [torch.float32] * 3
    assert after[2]["boxes"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("dtype", [*NARROW, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64])
def test_boxes_and_areas_keep_a_type_that_holds_all_there_can_be(dtype):
    targets = [target(area=torch.zeros(0)), target((2, 3, 6, 5), area=torch.zeros(1))]
    after = carry_out(OVER, make_images(), [in_types(fields, boxes=dtype, area=dtype) for fields in targets]).targets
    assert [fields[key].dtype for fields in after for key in ("boxes", "area")] == [dtype] * 4
    assert (after[0]["boxes"].tolist(), after[0]["area"].tolist()) == ([[2, 3, 6, 5]], [8])


def test_own_boxes_keep_every_digit_beside_those_of_a_narrow_type():
    own = torch.tensor([[300.0078125, 4097.0, 4500.015625, 4098.0]], dtype=torch.float64)
    targets = [
        {**target((0, 0, 2, 2)), "boxes": own, "area": torch.tensor([2**24 + 1])},
        in_types(target((5, 5, 7, 7), area=torch.ones(1)), boxes=torch.bfloat16, area=torch.float16),
    ]
    after = carry_out(OVER, make_images(), targets).targets
    assert after[0]["boxes"].tolist() == [own[0].tolist(), [5, 5, 7, 7]]
    assert after[0]["area"].tolist() == [2**24 + 1, 4]


@pytest.mark.parametrize(
    ("own", "given", "common"),
    [
        ((torch.uint8, 200), (torch.int8, -3), torch.int16),
        ((torch.uint8, 200), (torch.int64, 300), torch.int64),
        ((torch.int64, 300), (torch.uint8, 2), torch.int64),
    ],
)
def test_labels_come_in_a_type_that_holds_those_of_all_targets(own, given, common):
    targets = [target((0, 0, 2, 2)), target((5, 5, 7, 7)), target((0, 0, 1, 1))]
    for fields, (dtype, label) in zip(targets, (own, given, own), strict=True):
        fields["labels"] = torch.tensor([label], dtype=dtype)
    after = carry_out(OVER, make_images(3), targets).targets
    assert [fields["labels"].tolist() for fields in after] == [[own[1], given[1]], [given[1]], [own[1]]]
    assert [fields["labels"].dtype for fields in after] == [common] * 3


@pytest.mark.parametrize(
    ("own", "given"),
    [
        (torch.tensor([7], dtype=torch.uint8), torch.tensor([0.25])),
        (torch.tensor([2**40 + 1]), torch.tensor([0.25])),
        (torch.tensor([True]), torch.tensor([2])),
        (torch.tensor([1.0], dtype=torch.float16), torch.tensor([1.00390625], dtype=torch.bfloat16)),
    ],
)
def test_other_fields_come_in_a_type_that_holds_those_of_all_targets(own, given):
    targets = [target((0, 0, 2, 2), scores=own), target((5, 5, 7, 7), scores=given)]
    after = carry_out(OVER, make_images(), targets).targets
    assert after[0]["scores"].tolist() == [*own.tolist(), *given.tolist()]
    assert after[0]["scores"].dtype == after[1]["scores"].dtype


def test_targets_without_objects_have_no_say_in_types():
    empty = {**target(), "boxes": torch.zeros(0, 4, dtype=torch.float64), "labels": torch.zeros(0, dtype=torch.int32)}
    after = carry_out(
        OVER, make_images(), [empty | {"scores": torch.zeros(0)}, target((5, 5, 7, 7), scores=torch.ones(1).long())]
    )
    assert [fields["labels"].dtype for fields in after.targets] == [torch.int64] * 2
    assert [fields["scores"].dtype for fields in after.targets] == [torch.int64] * 2


def test_a_cut_out_comes_in_the_types_of_the_images_with_objects():
    empty = {**target(), "labels": torch.zeros(0, dtype=torch.int32)}
    targets = [empty, in_types(target((5, 5, 7, 7)), labels=torch.uint8)]
    pool = Pool((7, torch.zeros(3, 2, 2, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.uint8)))
    after = carry_out(plan_of((0, 2, 0, IDENTITY)), make_images(), targets, pool=pool).targets
    assert [fields["labels"].dtype for fields in after] == [torch.uint8] * 2
    assert after[0]["labels"].tolist() == [7]


@pytest.mark.parametrize("size", [(300, 8), (8, 300)])
def test_the_largest_image_says_which_types_hold_boxes(size):
    small, large = target(), {**target(), "masks": torch.zeros(0, *size, dtype=torch.uint8)}
    targets = [in_types(fields, boxes=torch.uint8) for fields in (small, large, target((5, 5, 7, 7)))]
    images = [make_images(1)[0], torch.zeros(3, *size, dtype=torch.uint8), make_images(1)[0]]
    after = carry_out(plan_of((0, 2, 0, IDENTITY)), images, targets).targets
    assert [fields["boxes"].dtype for fields in after] == [torch.float32] * 3


def test_keypoints_of_a_type_too_narrow_for_the_images_come_in_float32():
    keypoints = torch.tensor([[[250, 20, 2]]], dtype=torch.uint8)
    targets = [wide(keypoints=keypoints[:0]), wide((240, 10, 260, 30), keypoints=keypoints)]
    after = carry_out(plan_of((0, 1, 0, ((1, 0, -30), (0, 1, 0)))), noise(300, 300), targets).targets
    assert after[0]["keypoints"].tolist() == [[[280, 20, 2]]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
@pytest.mark.parametrize("classes", [False, True], ids=["objects", "class ids"])
@pytest.mark.parametrize("source", ["bank", "pool"])
def test_a_label_from_beyond_the_batch_comes_in_a_type_that_holds_it(source, classes, dtype):
    mask = torch.ones(2, 2, dtype=torch.uint8)
    pool = Pool((300, torch.full((3, 2, 2), 9, dtype=torch.uint8), mask))
    bank = InstanceBank(4)
    copypaste_batch(make_images(1), [target((0, 0, 2, 2), labels=[300])], bank=bank, p=0.0)
    ids, objects = torch.zeros(1, SIDE, SIDE, dtype=dtype), [in_types(target((4, 4, 6, 6)), labels=dtype)]
    beyond = {source: bank if source == "bank" else pool}
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), ids if classes else objects, **beyond).targets
    labels = sorted(set(after.flatten().tolist())) if classes else after[0]["labels"].tolist()
    assert labels == ([0, 300] if classes else [1, 300])


def test_another_field_from_the_bank_comes_in_a_type_that_holds_it():
    bank = InstanceBank(4)
    copypaste_batch(make_images(1), [target((0, 0, 2, 2), scores=torch.tensor([0.25]))], bank=bank, p=0.0)
    targets = [target((4, 4, 6, 6), scores=torch.tensor([3]))]
    (after,) = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), targets, bank=bank).targets
    assert after["scores"].tolist() == [3, 0.25]


# large-scale jitter


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
def test_large_scale_jitter_gives_boxes_and_areas_in_a_type_that_holds_them(masks, dtype):
    fields = target((0, 0, 7, 8), area=torch.zeros(1))
    fields = in_types(
        {key: values for key, values in fields.items() if masks or key != "masks"}, boxes=dtype, area=dtype
    )
    settings = {"size": (2056, 2056), "scale_range": (1.0, 1.0), "p_flip": 0.0}
    _, (after,) = large_scale_jitter_batch(make_images(1), [fields], **settings)
    assert after["boxes"].tolist() == [[0, 0, 7 * 257, 2056]]
    assert after["area"].tolist() == [7 * 257 * 2056]
    assert after["boxes"].dtype == after["area"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_large_scale_jitter_of_boxes_alone_rounds_no_box_to_whole_pixels(dtype):
    fields = {key: values for key, values in target((1, 2, 2, 7), area=torch.zeros(1)).items() if key != "masks"}
    options = {"size": (20, 20), "scale_range": (0.2, 0.2), "p_flip": 0.0}
    _, (after,) = large_scale_jitter_batch(make_images(1), [in_types(fields, boxes=dtype, area=dtype)], **options)
    assert after["boxes"].tolist() == [[0.5, 1, 1, 3.5]]
    assert after["area"].tolist() == [1.25]
    assert after["boxes"].dtype == after["area"].dtype == torch.float32


def test_large_scale_jitter_of_class_ids_of_several_types_gives_one_that_holds_them():
    maps = [torch.full((SIDE, SIDE), 7, dtype=torch.uint8), torch.full((SIDE, SIDE), 300)]
    settings = {"size": (16, 16), "scale_range": (1.0, 1.0)}
    _, after = large_scale_jitter_batch(make_images(), maps, **settings)
    assert [set(ids.flatten().tolist()) for ids in after] == [{7}, {300}]


# one form of masks


@pytest.mark.parametrize("settings", [{"plan": OVER}, {"plan": plan_of()}, {"p": 0.0}], ids=["one", "none", "p 0"])
@pytest.mark.parametrize("value", [2, 255])
@pytest.mark.parametrize("compiles", [True, False])
def test_masks_come_back_as_0_and_1_in_every_image(settings, value, compiles, monkeypatch):
    if not compiles:
        monkeypatch.setattr(compilation, "can_compile", lambda: False)
    masks = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 4:6, 4:6] = value
    given = [{**target((4, 4, 6, 6)), "masks": masks}] * 3
    _, after = copypaste_batch(make_images(3), given, **settings)
    assert all(set(fields["masks"].flatten().tolist()) == {0, 1} for fields in after)
    assert all(fields["masks"].sum(dim=(1, 2)).tolist() == [4] * len(fields["masks"]) for fields in after[1:])
    assert masks.max() == value


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
@pytest.mark.parametrize("compiles", [True, False])
def test_masks_of_0_and_1_are_not_copied_where_nothing_was_pasted(dtype, compiles, monkeypatch):
    if not compiles:
        monkeypatch.setattr(compilation, "can_compile", lambda: False)
    given = [in_types(target((4, 4, 6, 6)), masks=dtype) for _ in range(3)]
    _, after = copypaste_batch(make_images(3), given, plan=OVER)
    assert [fields["masks"].data_ptr() for fields in after[1:]] == [fields["masks"].data_ptr() for fields in given[1:]]


# torchvision's tv_tensors


def tv_boxes(boxes, kind="XYXY", size=(SIDE, SIDE)):
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
    return v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat[kind])


def tv_target(*rectangles, kind="XYXY", **fields):
    fields = target(*rectangles, **fields)
    return {**fields, "boxes": tv_boxes(fields["boxes"], kind), "masks": tv_tensors.Mask(fields["masks"])}


def tv_batch(kind="XYXY"):
    images = [tv_tensors.Image(image) for image in make_images(3)]
    return images, [tv_target((0, 0, 3, 3), kind=kind), tv_target((4, 5, 7, 7), kind=kind), tv_target(kind=kind)]


KINDS = ("XYXY", "XYWH", "CXCYWH")


def xyxy(boxes):
    return v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_tv_tensors_keep_their_types_and_formats(kind):
    images, targets = tv_batch(kind)
    pasted, after = copypaste_batch(images, targets, plan=OVER)
    assert [type(image) for image in pasted] == [tv_tensors.Image] * 3
    for fields in after:
        assert type(fields["boxes"]) is tv_tensors.BoundingBoxes
        assert (fields["boxes"].format.name, fields["boxes"].canvas_size) == (kind, (SIDE, SIDE))
        assert fields["boxes"].dtype == torch.float32
        assert type(fields["masks"]) is tv_tensors.Mask
        assert type(fields["labels"]) is torch.Tensor
    assert xyxy(after[0]["boxes"]) == [[0, 0, 3, 3], [4, 5, 7, 7]]
    assert torch.equal(pasted[0][:, 5:7, 4:7], make_images()[1][:, 5:7, 4:7])


@pytest.mark.parametrize("kind", KINDS)
def test_a_transform_of_torchvision_after_copy_paste_moves_image_boxes_and_masks_alike(kind):
    images, targets = copypaste_batch(*tv_batch(kind), plan=OVER)
    image, fields = v2.RandomHorizontalFlip(p=1.0)(images[0], targets[0])
    assert torch.equal(image, images[0].flip(-1))
    assert torch.equal(fields["masks"], targets[0]["masks"].flip(-1))
    assert xyxy(fields["boxes"]) == [[5, 0, 8, 3], [1, 5, 4, 7]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
def test_large_scale_jitter_keeps_types_and_formats_and_names_the_new_size(masks, kind):
    images, targets = tv_batch(kind)
    targets = [{key: values for key, values in fields.items() if masks or key != "masks"} for fields in targets]
    settings = {"size": (16, 24), "scale_range": (1.0, 1.0), "p_flip": 1.0}
    pasted, after = large_scale_jitter_batch(images, targets, **settings)
    assert (type(pasted), pasted.shape) == (tv_tensors.Image, (3, 3, 16, 24))
    for fields in after:
        assert type(fields["boxes"]) is tv_tensors.BoundingBoxes
        assert (fields["boxes"].format.name, fields["boxes"].canvas_size) == (kind, (16, 24))
        assert not masks or type(fields["masks"]) is tv_tensors.Mask
    assert [xyxy(fields["boxes"]) for fields in after] == [[[10, 0, 16, 6]], [[2, 10, 8, 14]], []]


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_alone_of_any_format_are_pasted(kind):
    images, targets = tv_batch(kind)
    targets = [{key: values for key, values in fields.items() if key != "masks"} for fields in targets]
    _, after = copypaste_batch(images, targets, plan=OVER)
    assert (after[0]["boxes"].format.name, xyxy(after[0]["boxes"])) == (kind, [[0, 0, 3, 3], [4, 5, 7, 7]])


def test_centres_at_half_pixels_come_in_a_type_that_holds_them():
    targets = [in_types(fields, boxes=torch.int64) for fields in tv_batch()[1]]
    for fields in targets:
        fields["boxes"] = tv_tensors.BoundingBoxes(
            torch.zeros_like(fields["boxes"]), format="CXCYWH", canvas_size=(8, 8)
        )
    _, after = copypaste_batch(make_images(3), targets, plan=OVER)
    assert [fields["boxes"].dtype for fields in after] == [torch.float32] * 3
    targets[1]["boxes"] = tv_tensors.BoundingBoxes([[5, 6, 4, 4]], format="CXCYWH", canvas_size=(8, 8))
    _, after = copypaste_batch(make_images(3), targets, plan=OVER)
    assert after[0]["boxes"].tolist() == [[0, 0, 0, 0], [5.5, 6, 3, 2]]


def test_a_parameter_comes_back_as_a_plain_tensor():
    fields = {**target((0, 0, 2, 2)), "boxes": torch.nn.Parameter(torch.tensor([[0.0, 0, 2, 2]]), requires_grad=False)}
    _, after = copypaste_batch(make_images(), [fields, target((5, 5, 7, 7))], plan=OVER)
    assert type(after[0]["boxes"]) is torch.Tensor
    assert after[0]["boxes"].tolist() == [[0, 0, 2, 2], [5, 5, 7, 7]]


def test_boxes_that_no_pasted_object_overlaps_come_back_to_the_bit():
    own = torch.tensor([[0.1, 0.7, 0.3, 2.2]])
    fields = {**target((0, 0, 2, 2)), "boxes": tv_tensors.BoundingBoxes(own, format="CXCYWH", canvas_size=(SIDE, SIDE))}
    _, after = copypaste_batch(make_images(3), [fields, target((5, 5, 7, 7)), fields], plan=OVER)
    assert torch.equal(after[0]["boxes"][:1], own)
    assert torch.equal(after[2]["boxes"], own)


def test_images_of_tv_tensors_are_pasted_from_a_bank_and_class_ids_stay_a_mask():
    bank = InstanceBank(4)
    images, maps = tv_tensors.Image(make_images()), tv_tensors.Mask(torch.zeros(2, SIDE, SIDE, dtype=torch.uint8))
    maps[1, :3, :3] = 7
    pasted, after = copypaste_batch(images, maps, bank=bank, p=0.0)
    assert (type(pasted), type(after)) == (tv_tensors.Image, tv_tensors.Mask)
    pasted, after = copypaste_batch(images, maps, bank=bank, plan=plan_of((0, 2, 0, IDENTITY)))
    assert (type(pasted), type(after)) == (tv_tensors.Image, tv_tensors.Mask)
    assert (after[0] == 7).sum() == 9
    assert all(type(image) is torch.Tensor for kept in bank.images for image in kept.crops)
    framed, ids = large_scale_jitter_batch(images, maps, size=(16, 16))
    assert (type(framed), type(ids), ids.shape) == (tv_tensors.Image, tv_tensors.Mask, (2, 16, 16))


def test_types_of_torchvision_do_not_depend_on_what_its_functions_return():
    images, targets = tv_batch("XYWH")
    with tv_tensors.set_return_type("TVTensor"):
        pasted, after = copypaste_batch(images, targets, plan=OVER)
    expected, wanted = copypaste_batch(images, targets, plan=OVER)
    assert all(torch.equal(one, other) for one, other in zip(pasted, expected, strict=True))
    assert [fields["boxes"].tolist() for fields in after] == [fields["boxes"].tolist() for fields in wanted]


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("settings", [{"plan": OVER}, {"plan": plan_of()}, {"p": 0.0}], ids=["one", "none", "p 0"])
def test_a_tuple_stays_a_tuple_and_a_list_a_list(kind, settings):
    images, targets = kind(make_images()), kind([target((0, 0, 2, 2)), target((5, 5, 7, 7))])
    assert [type(part) for part in copypaste_batch(images, targets, **settings)] == [kind, kind]
    assert type(large_scale_jitter_batch(images, targets, size=(16, 16))[1]) is kind
