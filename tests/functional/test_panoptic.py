"""Pairs of a class map and an instance map: on 8 x 8 pixels, whose answer is visible, and next to slow NumPy."""

from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    SIDE,
    block,
    cases,
    make_images,
    many,
    paste_seeded,
    plan_of,
    tritons_kernels,
    window_after_window,
)
from hypothesis import given
from hypothesis import strategies as st
from read_backs import ReadBacks
from reference import eroded, fixed
from torchvision.tv_tensors import Mask

from composer_copypaste.functional.copypaste import copypaste_batch, plan_batch
from composer_copypaste.functional.engines import compilation
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch

ROAD, SKY, CAR, PERSON = 7, 8, 1, 2


def pair(*instances, stuff=((ROAD, 0, 0, SIDE, SIDE),), dtype=torch.int64):
    """Maps with stuff (class, x1, y1, x2, y2) and instances (id, class, x1, y1, x2, y2), later ones on top."""
    classes, ids = torch.zeros(SIDE, SIDE, dtype=dtype), torch.zeros(SIDE, SIDE, dtype=dtype)
    for class_, *corners in stuff:
        classes[block(*corners).bool()] = class_
    for id_, class_, *corners in instances:
        classes[block(*corners).bool()] = class_
        ids[block(*corners).bool()] = id_
    return {"class_map": classes, "instance_map": ids}


def carried_out(targets, *rows, images=None, **settings):
    images = make_images(len(targets)) if images is None else images
    return copypaste_batch(images, targets, plan=plan_of(*rows), **settings)


def test_an_instance_brings_its_class_and_gets_an_id_of_its_own():
    targets = [pair((4, PERSON, 0, 0, 3, 3)), pair((4, CAR, 2, 2, 5, 5), (9, PERSON, 6, 6, 8, 8))]
    images, after = carried_out(targets, (0, 1, 0, IDENTITY))
    shown = pair((4, PERSON, 0, 0, 3, 3), (5, CAR, 2, 2, 5, 5))
    assert torch.equal(after[0]["class_map"], shown["class_map"])
    assert torch.equal(after[0]["instance_map"], shown["instance_map"])
    here = block(2, 2, 5, 5).bool()
    assert torch.equal(images[0], torch.where(here, make_images()[1], make_images()[0]))
    assert torch.equal(after[1]["class_map"], targets[1]["class_map"])
    assert torch.equal(after[1]["instance_map"], targets[1]["instance_map"])


def test_an_instance_of_any_place_comes_from_behind_an_image_without_any():
    targets = [pair(), pair((4, CAR, 1, 3, 6, 5)), pair((2, PERSON, 5, 0, 7, 8))]
    _, after = carried_out(targets, (0, 1, 0, IDENTITY), (1, 2, 0, IDENTITY))
    shown = [targets[1] | {"instance_map": targets[1]["instance_map"] // 4}]
    shown += [pair((4, CAR, 1, 3, 6, 5), (5, PERSON, 5, 0, 7, 8))]
    for found, expected in zip(after, shown, strict=False):
        assert torch.equal(found["class_map"], expected["class_map"])
        assert torch.equal(found["instance_map"], expected["instance_map"])


def test_a_batch_of_one_may_receive_copies_of_its_own():
    _, (after,) = carried_out([pair((4, CAR, 0, 0, 2, 3))], (0, 0, 0, ((1, 0, -5), (0, 1, -4))))
    assert torch.equal(after["instance_map"], pair((4, CAR, 0, 0, 2, 3), (5, CAR, 5, 4, 7, 7))["instance_map"])


def test_stuff_is_never_copied():
    sky = ((ROAD, 0, 0, SIDE, SIDE), (SKY, 0, 0, SIDE, 3))
    targets = [pair(), pair((1, CAR, 2, 2, 5, 5), stuff=sky)]
    settings = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}
    _, after = copypaste_batch(make_images(), targets, generator=torch.Generator(), **settings)
    shown = pair((1, CAR, 2, 2, 5, 5))
    assert torch.equal(after[0]["class_map"], shown["class_map"])
    assert torch.equal(after[0]["instance_map"], shown["instance_map"])


def test_two_copies_of_an_instance_are_two_instances_the_later_on_top():
    targets = [pair((2, PERSON, 0, 6, 2, 8)), pair((1, CAR, 0, 0, 3, 3))]
    moved = ((1, 0, -2), (0, 1, -2))
    _, after = carried_out(targets, (0, 1, 0, IDENTITY), (0, 1, 0, moved))
    shown = pair((2, PERSON, 0, 6, 2, 8), (3, CAR, 0, 0, 3, 3), (4, CAR, 2, 2, 5, 5))
    assert torch.equal(after[0]["instance_map"], shown["instance_map"])


def test_an_instance_that_is_covered_is_gone_from_both_maps():
    targets = [pair((2, PERSON, 1, 1, 2, 2)), pair((1, CAR, 0, 0, 3, 3))]
    _, after = carried_out(targets, (0, 1, 0, IDENTITY))
    assert after[0]["instance_map"].unique().tolist() == [0, 3]
    assert after[0]["class_map"].unique().tolist() == [CAR, ROAD]


def test_an_instance_of_the_ignored_class_stays_and_is_not_copied():
    targets = [pair(), pair((1, 255, 0, 0, 3, 3), (2, CAR, 4, 4, 6, 6))]
    _, after = copypaste_batch(make_images(), targets, p=1.0, p_instance=1.0, scale_range=(1.0, 1.0), p_flip=0.0)
    assert after[0]["class_map"].unique().tolist() == [CAR, ROAD]
    assert after[1]["instance_map"].unique().tolist() == [0, 1, 2]


def test_without_an_ignored_class_all_instances_are_copied_and_masks_are_not_needed_afterwards():
    targets = [pair(), pair((1, 255, 0, 0, 3, 3))]
    settings = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0, "source": "batch"}
    _, after = copypaste_batch(make_images(), targets, ignore_index=None, keep_masks=False, **settings)
    assert torch.equal(after[0]["class_map"], targets[1]["class_map"])
    assert sorted(after[0]) == ["class_map", "instance_map"]


@pytest.mark.parametrize(
    ("dtype", "wider"), [(torch.uint8, torch.int16), (torch.int16, torch.int32), (torch.int32, torch.int64)]
)
def test_ids_that_the_maps_type_does_not_hold_come_back_in_the_next_wider_one(dtype, wider):
    largest = torch.iinfo(dtype).max
    targets = [pair((largest, PERSON, 0, 6, 2, 8), dtype=dtype), pair((1, CAR, 0, 0, 3, 3), dtype=dtype)]
    _, after = carried_out(targets, (0, 1, 0, IDENTITY))
    assert after[0]["instance_map"].unique().tolist() == [0, largest, largest + 1]
    assert {target["instance_map"].dtype for target in after} == {wider}
    assert {target["class_map"].dtype for target in after} == {dtype}


def test_ids_that_the_maps_type_just_holds_come_back_in_it():
    targets = [pair((254, PERSON, 0, 6, 2, 8), dtype=torch.uint8), pair((1, CAR, 0, 0, 3, 3), dtype=torch.uint8)]
    _, after = carried_out(targets, (0, 1, 0, IDENTITY))
    assert after[0]["instance_map"].unique().tolist() == [0, 254, 255]
    assert {target["instance_map"].dtype for target in after} == {torch.uint8}


def test_an_instance_of_any_shape_may_lie_among_lower_and_higher_classes():
    targets = [pair(), pair((1, CAR, 0, 0, 3, 3), (2, PERSON, 1, 1, 2, 2), (3, CAR - 1, 2, 2, 3, 3))]
    _, after = carried_out(targets, (0, 1, 0, IDENTITY))
    assert (after[0]["class_map"] == CAR).sum() == (after[0]["instance_map"] == 1).sum() == 7


def test_images_of_several_sizes_further_keys_and_tv_tensors_are_kept():
    small = {key: values[:5, :6] for key, values in pair((3, PERSON, 0, 0, 2, 2)).items()}
    targets = ({**small, "image_id": 12}, {k: Mask(v) for k, v in pair((1, CAR, 2, 2, 5, 5)).items()})
    images = [make_images()[0][:, :5, :6], make_images()[1]]
    after_images, after = carried_out(targets, (0, 1, 0, IDENTITY), images=images)
    assert isinstance(after, tuple)
    assert after[0]["image_id"] == 12
    assert after[0]["instance_map"].unique().tolist() == [0, 3, 4]
    assert (after[0]["instance_map"] == 4).sum() == 9
    assert isinstance(after[1]["class_map"], Mask)
    assert after_images[0].shape == (3, 5, 6)


def test_arguments_stay_as_they_are_and_a_plan_can_be_drawn_first():
    targets = [pair((1, CAR, 0, 0, 3, 3)), pair((1, PERSON, 4, 4, 8, 8))]
    before = [{key: values.clone() for key, values in target.items()} for target in targets]
    draw = {"p": 1.0, "p_instance": 1.0, "scale_range": (0.5, 2.0)}
    plan = plan_batch(make_images(), targets, generator=torch.Generator().manual_seed(3), **draw)
    _, after = copypaste_batch(make_images(), targets, generator=torch.Generator().manual_seed(3), **draw)
    _, replayed, info = copypaste_batch(make_images(), targets, plan=plan, return_info=True, **draw)
    for one, other in zip(after, replayed, strict=True):
        assert torch.equal(one["instance_map"], other["instance_map"])
    assert len(info.plan) == len(plan) > 0
    for target, former in zip(targets, before, strict=True):
        assert all(torch.equal(target[key], former[key]) for key in former)


# Large-scale jitter


def test_jitter_resizes_both_maps_alike_and_pads_with_no_class_and_no_instance():
    targets = [{**pair((4, CAR, 0, 0, 4, 2)), "image_id": 3}, pair((1, PERSON, 4, 4, 8, 8), dtype=torch.uint8)]
    half = {"size": (16, 16), "scale_range": (0.25, 0.25), "p_flip": 0.0, "ignore_index": 99}  # of the size that fits
    images, after = large_scale_jitter_batch(make_images(), targets, **half)
    classes, ids = torch.full((16, 16), 99), torch.zeros(16, 16, dtype=torch.int64)
    classes[:4, :4], classes[0, :2], ids[0, :2] = ROAD, CAR, 4
    assert torch.equal(after[0]["class_map"], classes)
    assert torch.equal(after[0]["instance_map"], ids)
    assert after[0]["image_id"] == 3
    assert after[1]["instance_map"].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert images.shape == (2, 3, 16, 16)


def test_jitter_refuses_maps_of_another_size_too():
    with pytest.raises(ValueError, match=r"targets\[0\]: expected 'instance_map' of the image's size \(8, 8\)"):
        large_scale_jitter_batch(make_images(1), [{**pair(), "instance_map": torch.zeros(8, 9).long()}], size=(16, 16))


# Wrong pairs


def with_changed(**changes):
    target = {**pair((1, CAR, 0, 0, 3, 3)), **changes}
    return [pair(), {key: values for key, values in target.items() if values is not None}]


def contradictory():
    classes = pair((1, CAR, 0, 0, 3, 3))["class_map"]
    classes[2, 1] = PERSON
    return with_changed(class_map=classes)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (with_changed(instance_map=None), ValueError, r"targets\[1\]: expected class_map and instance_map, .* no inst"),
        (with_changed(class_map=None), ValueError, r"targets\[1\]: expected class_map and instance_map, .* no class_m"),
        ([{"class_map": ids} for ids in torch.zeros(2, 8, 8).long()], ValueError, r"targets\[0\]: .*, got no instance"),
        (with_changed(class_map=torch.zeros(8, 8)), TypeError, r"'class_map' to be a tensor of whole numbers, .*float"),
        (with_changed(instance_map=[[0]]), TypeError, r"targets\[1\]: expected 'instance_map' to be a tensor .* list"),
        (with_changed(instance_map=torch.zeros(8, 9).long()), ValueError, r"image's size \(8, 8\), got \(8, 9\)"),
        (with_changed(class_map=torch.zeros(8, 8).long().to("meta")), ValueError, r"its image is, on cpu, got meta$"),
        (with_changed(instance_map=torch.full((8, 8), -3)), ValueError, r"ids from 1, and 0 for none, got -3"),
        (with_changed(**pair((2, CAR, 0, 0, 3, 3), (-1, CAR, 4, 4, 5, 5))), ValueError, r"and 0 for none, got -1"),
        (with_changed(boxes=torch.zeros(1, 4)), ValueError, r"targets\[1\]: has 'boxes' beside its maps"),
        (with_changed(segments_info=[{"id": 1}]), ValueError, r"targets\[1\]: has 'segments_info' beside its maps"),
        (
            with_changed(**pair((1, -2, 0, 0, 3, 3))),
            ValueError,
            r"targets\[1\]: expected class ids of 0 or more, got -2",
        ),
        (contradictory(), ValueError, r"targets\[1\]: expected one class for each instance, got 1 and 2 .* is 1$"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_in_one_line(targets, error, message):
    with pytest.raises(error, match=message) as raised:
        copypaste_batch(make_images(), targets)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("setting", [{"min_visibility": 0.5}, {"min_area": 2}])
def test_settings_that_would_leave_pixels_without_a_class_are_refused(setting):
    with pytest.raises(ValueError, match="min_visibility, min_area: expected 0 and 1 with class_map and instance_map"):
        copypaste_batch(make_images(), [pair(), pair()], **setting)


# Next to slow NumPy, on every engine


def pairs_of(targets, seed):
    """Pairs of maps with the objects of detection targets, under ids that follow each other or not."""
    rng, pairs = np.random.default_rng(seed), []
    for target in targets:
        masks, labels = target["masks"].numpy() != 0, target["labels"].numpy()
        classes = rng.integers(50, 53, masks.shape[1:])
        ids = np.zeros(masks.shape[1:], np.int64)
        for mask, label, number in zip(masks, labels, rng.permutation(len(labels) + 9) + 1, strict=False):
            classes[mask], ids[mask] = label, number * 7
        pairs.append({"class_map": torch.from_numpy(classes), "instance_map": torch.from_numpy(ids)})
    return pairs


def expected_maps(pairs, plan, settings):
    """Both maps of each image after the plan: object after object, in whole images."""
    expected = [(pair["class_map"].numpy().copy(), pair["instance_map"].numpy().copy()) for pair in pairs]
    tops = [np.full(ids.shape, -1) for _, ids in expected]
    for row in range(len(plan)):
        source = pairs[int(plan.source[row])]
        ids = source["instance_map"].numpy()
        number = np.unique(ids[ids > 0])[plan.instance[row]]
        i = int(plan.target[row])
        mask = eroded(ids == number, fixed(plan.to_source[row]), tops[i].shape, settings.erosion)
        expected[i][0][mask] = source["class_map"].numpy()[ids == number][0]
        tops[i][mask] = row
    for (_, ids), top in zip(expected, tops, strict=True):
        largest = ids.max()
        for place, row in enumerate(np.unique(top[top >= 0]), start=1):
            ids[top == row] = largest + place
    return expected


ENGINES = {"numba": nullcontext, "torch": window_after_window, "triton": tritons_kernels}


@many(30)
@given(cases(counts=st.integers(0, 5), min_visibility=0.0, min_area=1), st.sampled_from(sorted(ENGINES)))
def test_drawn_pairs_are_those_of_the_reference_on_every_engine(case, engine):
    images = [i.detach() for i in case.images] if isinstance(case.images, list) else case.images.detach()
    pairs = pairs_of(case.targets, case.seed)
    settings = replace(case.settings, object_keys=())  # pairs have none
    with ENGINES[engine]():
        result = paste_seeded(images, pairs, settings, case.seed)
    for target, (classes, ids) in zip(result.targets, expected_maps(pairs, result.plan, settings), strict=True):
        np.testing.assert_array_equal(target["class_map"].numpy(), classes)
        np.testing.assert_array_equal(target["instance_map"].numpy(), ids)


def test_nothing_but_the_read_back_needs_a_value_from_the_device():
    targets = [pair((4, PERSON, 0, 0, 3, 3)), pair((1, CAR, 2, 2, 5, 5), (9, PERSON, 6, 6, 8, 8))]
    on_meta = [{key: values.to("meta") for key, values in target.items()} for target in targets]
    read_backs, rows = ReadBacks(), [(0, 1, 0, IDENTITY), (1, 0, 0, IDENTITY)]
    with mock.patch.object(compilation, "can_compile", return_value=False), read_backs.recorded():
        carried_out(targets, *rows)
    with read_backs.replayed():
        _, after = carried_out(on_meta, *rows, images=make_images().to("meta"))
    assert {values.device.type for target in after for values in target.values()} == {"meta"}
    assert set(read_backs.asked) == {"meta"}
