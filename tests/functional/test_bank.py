"""The instance bank: 8 x 8 pixels, whose answer is visible."""

import io
from dataclasses import replace

import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    SIDE,
    block,
    carry_out,
    cases,
    make_images,
    many,
    paste_seeded,
    plain,
    plan_of,
    target,
)
from hypothesis import given
from hypothesis import strategies as st

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.copypaste import NothingPastedWarning, copypaste_batch, plan_batch

IN_PLACE = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}


def paste(images, targets, bank, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return copypaste_batch(images, targets, generator=generator, bank=bank, **{**IN_PLACE, **settings})


def seen(*targets, size=100, images=None, **settings):
    """A bank that has seen a batch of these targets."""
    bank = InstanceBank(size)
    paste(make_images(len(targets)) if images is None else images, list(targets), bank, **{**settings, "p": 0.0})
    return bank


def labels_in(bank):
    return [int(bank.cropped_object(number).fields.labels) for number in range(len(bank))]


def over(below, above, *rectangle):
    """One image with a rectangle of another."""
    return torch.where(block(*rectangle).bool(), above, below)


def test_a_batch_of_one_receives_what_the_batch_before_showed():
    first, second = make_images()
    bank = InstanceBank(8)
    images, targets = paste(first[None], [target((2, 3, 6, 5), labels=[7])], bank)
    assert torch.equal(images[0], first)
    images, targets = paste(second[None], [target((0, 0, 2, 2), labels=[4])], bank)
    assert torch.equal(images[0], over(second, first, 2, 3, 6, 5))
    assert targets[0]["labels"].tolist() == [4, 7]
    assert targets[0]["boxes"].tolist() == [[0, 0, 2, 2], [2, 3, 6, 5]]
    assert torch.equal(targets[0]["masks"], torch.stack([block(0, 0, 2, 2), block(2, 3, 6, 5)]))


def test_what_was_pasted_is_not_remembered():
    bank = seen(target((2, 3, 6, 5), labels=[7]))
    _, targets = paste(make_images(), [target((0, 0, 2, 2), labels=[4]), target(labels=[])], bank)
    assert sum(len(fields["labels"]) for fields in targets) > 1
    assert labels_in(bank) == [7, 4]
    assert torch.equal(bank.cropped_object(1).image, make_images()[0][:, 0:3, 0:3])


def test_the_oldest_objects_leave_first():
    bank = seen(target((0, 0, 2, 2), (4, 4, 6, 6), labels=[1, 2]), target((0, 0, 3, 3), labels=[3]), size=3)
    assert labels_in(bank) == [1, 2, 3]
    paste(make_images(1), [target((1, 1, 3, 3), labels=[4])], bank, p=0.0)
    assert labels_in(bank) == [2, 3, 4]
    assert torch.equal(bank.cropped_object(0).image, make_images()[0][:, 3:7, 3:7])
    paste(make_images(1), [target(*[(0, 0, 2, 2)] * 5, labels=[5, 6, 7, 8, 9])], bank, p=0.0)
    assert labels_in(bank) == [7, 8, 9]
    paste(make_images(2), [target((0, 0, 2, 2), labels=[10]), target((0, 0, 2, 2), labels=[11])], bank, p=0.0)
    paste(make_images(1), [target((0, 0, 2, 2), labels=[12])], bank, p=0.0)
    assert [image.labels.tolist() for image in bank.images] == [[10], [11], [12]]  # nothing of an image that left


def test_crowds_and_what_may_not_be_copied_are_not_remembered():
    rectangles, crowd = [(0, 0, 2, 2), (2, 2, 4, 4), (4, 4, 8, 8)], torch.tensor([0, 1, 0])
    assert labels_in(seen(target(*rectangles, iscrowd=crowd))) == [1, 3]
    assert labels_in(seen(target(*rectangles), labels=(2,))) == [2]
    assert labels_in(seen(target(*rectangles), label_weights={3: 0.0})) == [1, 2]
    assert labels_in(seen(target(*rectangles), area_range=(10.0, 20.0))) == [3]


def test_the_draw_keeps_to_the_settings_of_the_batch_that_receives():
    bank = seen(target((0, 0, 2, 2), (4, 4, 8, 8), labels=[1, 2]))
    _, after = paste(make_images(1), [target()], bank, labels=(2,))
    assert after[0]["labels"].tolist() == [2]
    _, after = paste(make_images(1), [target()], bank, relative_area_range=(0.0, 0.2))  # of the image, not of the crop
    assert after[0]["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("rectangle", "shape"),
    [
        ((0, 0, 3, 2), (3, 4)),
        ((5, 6, 8, 8), (3, 4)),
        ((0, 6, 1, 7), (3, 2)),
        ((0, 0, 8, 8), (8, 8)),
        ((3, 3, 5, 4), (3, 4)),
    ],
)
def test_a_crop_ends_one_pixel_beyond_its_object_or_at_the_edge_of_its_image(rectangle, shape):
    bank = seen(target(rectangle, labels=[7]))
    assert bank.cropped_object(0).image.shape == (3, *shape)
    images, after = paste(make_images()[1:], [target()], bank)
    assert torch.equal(images[0], over(make_images()[1], make_images()[0], *rectangle))
    assert after[0]["boxes"].tolist() == [list(rectangle)]


@many(30)
@given(
    st.integers(0, 2**31), st.sampled_from(["image", "instance"]), st.sampled_from([0.0, 30.0]), st.integers(0, 2**31)
)
def test_a_remembered_image_is_as_good_a_source_as_one_of_the_batch(seed, jitter, rotation, colors):
    first = torch.randint(
        0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(colors)
    )
    given_, knobs = (
        target((2, 1, 5, 6), (4, 4, 8, 8)),
        {"jitter": jitter, "rotation": rotation, "scale_range": (1.0, 2.0)},
    )
    bank = seen(given_, images=first)
    generator = torch.Generator().manual_seed(seed)
    plan = plan_batch(make_images(1), [target()], generator=generator, bank=bank, p=1.0, **knobs)
    corners = torch.tensor([(window.x1, window.y1) for window in bank.images[0].windows]).double()
    to_image = plan.to_source.clone()
    to_image[:, :, 2] += corners[plan.source - 1]
    of_the_batch = replace(plan, source=torch.ones_like(plan.source), instance=plan.source - 1, to_source=to_image)
    in_batch = copypaste_batch(torch.cat([make_images(1), first]), [target(), given_], plan=of_the_batch)[1][0]
    from_bank = carry_out(plan, make_images(1), [target()], bank=bank).targets[0]
    assert plain(from_bank) == plain(in_batch)


def test_every_other_image_of_the_batch_and_of_the_bank_is_as_likely_a_source():
    bank = seen(*[target((0, 0, 4, 4), (4, 4, 8, 8))] * 3)
    drawn = []
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        targets = [target((0, 0, 4, 4))] * 2
        plan = plan_batch(make_images(), targets, generator=generator, bank=bank, p=1.0, p_instance=1.0)
        drawn += [max(0, (source - 2) // 2 + 1) for source in plan.source[plan.target == 0].unique().tolist()]
    counts = torch.tensor(drawn).bincount(minlength=4)  # the other image, and the three remembered images twice
    assert counts[0] > 70
    assert (counts[1:] / 2).min() > 70


def test_without_a_bank_and_with_an_empty_one_the_same_is_drawn():
    images, targets = make_images(3), [target((0, 0, 4, 4), (2, 2, 8, 8))] * 3
    plans = [
        plan_batch(images, targets, generator=torch.Generator().manual_seed(0), bank=bank, p=1.0).to_json()
        for bank in (None, InstanceBank(5))
    ]
    assert plans[0] == plans[1]


def test_a_planned_batch_is_not_remembered():
    bank = InstanceBank(5)
    plan_batch(make_images(), [target((0, 0, 4, 4))] * 2, bank=bank)
    assert len(bank) == 0


def test_a_plan_is_replayed_with_the_bank_it_was_drawn_with():
    given_ = target((2, 3, 6, 5), (0, 0, 2, 2), labels=[7, 8])
    plan = plan_batch(make_images(1), [target()], bank=seen(given_), generator=torch.Generator(), **IN_PLACE)
    assert plan.source.tolist() == [1, 2]
    replayed = copypaste_batch(make_images(1), [target()], plan=type(plan).from_json(plan.to_json()), bank=seen(given_))
    assert replayed[1][0]["labels"].tolist() == [7, 8]
    assert str(plan).startswith("image 0 receives object 0 of source 1, by")


@pytest.mark.parametrize(("bank", "beyond"), [(None, 0), (seen(target((0, 0, 2, 2), (4, 4, 6, 6))), 2)])
def test_a_plan_that_needs_another_bank_is_an_error(bank, beyond):
    message = rf"^plan: expected source .* {beyond} sources beyond it, got 3; a plan drawn with a bank or a pool needs"
    with pytest.raises(ValueError, match=message):
        copypaste_batch(make_images(1), [target()], plan=plan_of((0, 3, 0, IDENTITY)), bank=bank)


def test_keypoints_follow_their_object():
    keypoints = torch.tensor([[[5.5, 4.5, 2.0], [0.0, 0.0, 0.0]]])
    bank = seen(target((4, 4, 7, 6), keypoints=keypoints))
    _, after = paste(make_images(1), [target(keypoints=torch.zeros(0, 2, 3))], bank)
    assert after[0]["keypoints"].tolist() == keypoints.tolist()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_field_that_only_remembered_objects_or_only_those_of_a_batch_have_is_an_error_whatever_is_drawn(p):
    without, having = target((0, 0, 4, 4)), target((0, 0, 2, 2), scores=torch.ones(1))
    with pytest.raises(ValueError, match=r"the batch has 'scores' of its objects, which those of earlier .* lack"):
        paste(make_images(1), [having], seen(without), p=p)
    with pytest.raises(ValueError, match=r"the batch lacks 'scores' of its objects, which those of earlier .* have"):
        paste(make_images(1), [without], seen(having), p=p)


def test_images_of_another_type_than_the_remembered_ones_are_an_error():
    with pytest.raises(ValueError, match=r"that the bank remembers, torch\.uint8 and 3, got torch\.float32 and 3"):
        paste(make_images(1) / 255, [target()], seen(target((0, 0, 4, 4))))


def test_remembered_crops_do_not_keep_their_batch_alive_nor_its_graph():
    images = (make_images() / 255).requires_grad_()
    crop = seen(target((0, 0, 2, 2)), target(labels=[]), images=images).cropped_object(0)
    assert crop.image.untyped_storage().nbytes() == 3 * 3 * 3 * 4
    assert crop.mask.untyped_storage().nbytes() == 3 * 3
    assert not crop.image.requires_grad


def test_its_memory_is_that_of_crops_and_fields():
    bank = seen(target((0, 0, 2, 2), (4, 4, 6, 6)))  # crops of 3 x 3 and 4 x 4; boxes 16, labels 8, area 4, iscrowd 8
    assert bank.nbytes == (9 + 16) * (3 + 1) + 2 * (16 + 8 + 4 + 8)


@many(15)
@given(cases(bank=True))
def test_a_saved_bank_goes_on_as_if_it_had_never_been_saved(case):
    bank, again = case.bank() or InstanceBank(3), InstanceBank(case.bank_size or 3)
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(2):
        one, other = (paste_seeded(case.images, case.targets, case.settings, seed, b) for b in (bank, again))
        assert plain(one.images) == plain(other.images)
        assert plain(one.targets) == plain(other.targets)


def test_a_state_that_cannot_be_loaded_changes_nothing():
    bank = seen(target((0, 0, 2, 2), (4, 4, 6, 6)))
    expected = r"^bank: expected the state that state_dict gave, \{'pictures': \[...\]\}, got one that cannot be read"
    for state in ({}, {"pictures": [{}]}, {"pictures": [None]}):
        with pytest.raises(ValueError, match=expected):
            bank.load_state_dict(state)
    assert len(bank) == 2


def test_a_smaller_bank_loads_the_newest_objects():
    smaller = InstanceBank(2)
    smaller.load_state_dict(seen(target((0, 0, 2, 2), (4, 4, 6, 6)), target((0, 0, 3, 3), labels=[9])).state_dict())
    assert labels_in(smaller) == [2, 9]
    smaller.load_state_dict(seen(target((0, 0, 2, 2), labels=[5])).state_dict())  # in place of those
    assert labels_in(smaller) == [5]


def test_an_older_object_with_a_field_more_is_an_error_where_it_is_drawn():
    bank = seen(target((0, 0, 2, 2)), target((4, 4, 6, 6)))
    state = bank.state_dict()
    state["pictures"][0]["extras"]["scores"] = torch.ones(1)
    bank.load_state_dict(state)
    with pytest.raises(ValueError, match=r"^targets: the batch lacks 'scores' of its objects, which those of earlier"):
        carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), [target()], bank=bank)
    (after,) = carry_out(plan_of((0, 2, 0, IDENTITY)), make_images(1), [target()], bank=bank).targets
    assert after["boxes"].tolist() == [[1, 1, 3, 3]]


@pytest.mark.parametrize("number", [-1, 2])
def test_an_object_that_is_not_there_is_an_index_error(number):
    with pytest.raises(IndexError, match=r"^the bank holds 2 objects$"):
        seen(target((0, 0, 2, 2), (4, 4, 6, 6))).cropped_object(number)


@pytest.mark.parametrize("box", [(12, 2, 14, 4), (2, 12, 4, 14)])
def test_an_object_beside_its_image_is_not_remembered(box):
    beside = target((0, 0, 2, 2), labels=[1]) | {"boxes": torch.tensor([box], dtype=torch.float32)}
    assert len(seen(beside)) == 0


def test_classes_of_earlier_maps_are_pasted():
    ids = torch.stack([block(2, 3, 6, 5) * 3, block(0, 0, 2, 2) * 4]).long()
    bank = InstanceBank(8)
    paste(make_images()[:1], ids[:1], bank, p=0.0)
    images, after = paste(make_images()[1:], ids[1:], bank)
    assert torch.equal(after[0], torch.where(block(2, 3, 6, 5).bool(), ids[0], ids[1]))
    assert torch.equal(images[0], over(make_images()[1], make_images()[0], 2, 3, 6, 5))
    assert labels_in(bank) == [3, 4]  # the background is no object


def test_boxes_alone_are_remembered_as_rectangles():
    first, second = ({k: v for k, v in target(r).items() if k != "masks"} for r in [(2, 3, 6, 5), (0, 0, 2, 2)])
    bank = seen(first)
    images, after = paste(make_images()[1:], [second], bank)
    assert torch.equal(images[0], over(make_images()[1], make_images()[0], 2, 3, 6, 5))
    assert after[0]["boxes"].tolist() == [[0, 0, 2, 2], [2, 3, 6, 5]]


def test_a_batch_of_one_is_no_reason_to_warn_when_there_is_a_bank(recwarn):
    paste(make_images(1), [target((0, 0, 2, 2))], InstanceBank(2))
    assert not recwarn.list
    with pytest.warns(NothingPastedWarning, match="none of the batch's 1 object may be copied"):
        paste(make_images(1), [target((0, 0, 2, 2))], InstanceBank(2), labels=(9,))


@pytest.mark.parametrize("function", [copypaste_batch, plan_batch])
def test_a_bank_size_without_a_bank_says_what_to_give(function):
    with pytest.raises(
        ValueError, match=r"^bank_size: a function has no memory; make a bank = InstanceBank\(64\) once"
    ):
        function(make_images(), [target()] * 2, bank_size=64)
    with pytest.raises(ValueError, match=r"^bank_size: expected the size of the bank, 8, or 0, got 64$"):
        function(make_images(), [target()] * 2, bank_size=64, bank=InstanceBank(8))


def test_a_bank_of_no_object_is_an_error():
    with pytest.raises(ValueError, match=r"^size: expected at least 1 object, got 0$"):
        InstanceBank(0)


def test_what_a_checkpoint_gave_moves_once_to_where_the_batches_are():
    bank = InstanceBank(8)
    copypaste_batch(make_images(), [target((0, 0, 2, 2)), target((1, 1, 4, 4))], bank=bank, p=0.0)
    bank.to(torch.device("meta"))
    (first, second) = bank.images
    assert {crop.device.type for image in bank.images for crop in (*image.crops, *image.masks)} == {"meta"}
    bank.to(torch.device("meta"))
    assert bank.images[0] is first
    assert bank.images[1] is second
