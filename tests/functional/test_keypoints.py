"""Keypoints after pasting: exchanged in mirrored objects, hidden by what lies on them, whole numbers to the nearest."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    SIDE,
    Pool,
    block,
    carry_out,
    make_images,
    on_meta,
    plan_of,
    target,
    window_after_window,
)
from read_backs import ReadBacks

from composer_copypaste import InstanceBank, copypaste_batch, keypoint_pairs, large_scale_jitter_batch
from composer_copypaste.functional.keypoints import COCO_PERSON
from composer_copypaste.functional.object_keys import warn_once

MIRRORED = ((-1, 0, SIDE), (0, 1, 0))
UPSIDE_DOWN = ((1, 0, 0), (0, -1, SIDE))
HALF_TURN = ((-1, 0, SIDE), (0, -1, SIDE))
QUARTER_TURN = ((0, 1, 0), (-1, 0, SIDE))
WAYS = pytest.mark.parametrize("way", [nullcontext, window_after_window])


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    warn_once.cache_clear()
    yield
    warn_once.cache_clear()


def points(*xyv):
    """The keypoints of one object."""
    return torch.tensor([xyv], dtype=torch.float32)


def pasted(keypoints, to_source, *, own=(), **settings):
    """The keypoints of what is pasted on an image, from a source whose one object fills the image."""
    without = keypoints[:0]
    given = target((0, 0, SIDE, SIDE), keypoints=keypoints)
    plan = plan_of((0, 1, 0, to_source))
    return carry_out(plan, make_images(), [target(*own, keypoints=without), given], **settings).targets[0]["keypoints"]


# Left and right


@pytest.mark.parametrize(
    ("to_source", "expected"),
    [
        (IDENTITY, [[1.5, 2.5, 2], [5.5, 6.5, 1]]),
        (MIRRORED, [[2.5, 6.5, 1], [6.5, 2.5, 2]]),
        (UPSIDE_DOWN, [[5.5, 1.5, 1], [1.5, 5.5, 2]]),
        (HALF_TURN, [[6.5, 5.5, 2], [2.5, 1.5, 1]]),
        (QUARTER_TURN, [[5.5, 1.5, 2], [1.5, 5.5, 1]]),
        (((2, 0, 0), (0, 2, 0)), [[0.75, 1.25, 2], [2.75, 3.25, 1]]),
    ],
    ids=["as it is", "mirrored", "upside down", "half a turn", "a quarter turn", "half as large"],
)
def test_pairs_are_exchanged_where_the_object_is_mirrored_and_not_where_it_is_turned(to_source, expected):
    keypoints = points((1.5, 2.5, 2), (5.5, 6.5, 1))
    assert pasted(keypoints, to_source, keypoint_pairs=((0, 1),)).tolist() == [expected]


def test_without_pairs_nothing_is_exchanged():
    keypoints = points((1.5, 2.5, 2), (5.5, 6.5, 1))
    assert pasted(keypoints, MIRRORED, keypoint_pairs=()).tolist() == [[[6.5, 2.5, 2], [2.5, 6.5, 1]]]


def test_seventeen_keypoints_are_a_persons():
    keypoints = torch.ones(1, 17, 3)
    keypoints[0, :, 1] = torch.arange(17) / 4
    found = pasted(keypoints, MIRRORED)[0, :, 1] * 4
    assert found.tolist() == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    found = pasted(keypoints, MIRRORED, keypoint_pairs=((0, 16),))[0, :, 1] * 4
    assert found.tolist() == [16, *range(1, 16), 0]


def test_a_mirrored_image_has_its_pairs_exchanged():
    fields = target((0, 0, SIDE, SIDE), keypoints=points((1.5, 2.5, 2), (5.5, 6.5, 1)))
    options = {"size": (16, 16), "scale_range": (0.5, 0.5), "keypoint_pairs": ((0, 1),)}
    for p_flip, expected in ((0.0, [[1.5, 2.5, 2], [5.5, 6.5, 1]]), (1.0, [[2.5, 6.5, 1], [6.5, 2.5, 2]])):
        _, (shown,) = large_scale_jitter_batch(make_images(1), [fields], p_flip=p_flip, **options)
        assert shown["keypoints"].tolist() == [expected]


def jittered(keypoints, **settings):
    return large_scale_jitter_batch(
        make_images(1), [target((0, 0, SIDE, SIDE), keypoints=keypoints)], size=(16, 16), **settings
    )


@pytest.mark.parametrize("way", [jittered, lambda keypoints, **settings: pasted(keypoints, IDENTITY, **settings)])
@pytest.mark.parametrize("k", [2, 5])
def test_it_is_said_once_that_left_and_right_are_not_known(way, k):
    with pytest.warns(UserWarning, match=rf"^keypoint_pairs: objects with {k} keypoints are mirrored"):
        way(torch.ones(1, k, 3), p_flip=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        way(torch.ones(1, k, 3), p_flip=0.5)


@pytest.mark.parametrize("way", [jittered, lambda keypoints, **settings: pasted(keypoints, IDENTITY, **settings)])
@pytest.mark.parametrize(
    ("k", "settings"), [(5, {"p_flip": 0.0}), (5, {"keypoint_pairs": ()}), (17, {}), (1, {}), (0, {})]
)
def test_it_is_not_said_where_they_are_or_nothing_is_mirrored(way, k, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        way(torch.ones(1, k, 3), **settings)


def test_a_pair_of_keypoints_that_there_are_not_is_an_error():
    with pytest.raises(ValueError, match=r"^keypoint_pairs: expected numbers below 3, the number of keypoints, got 3$"):
        pasted(torch.ones(1, 3, 3), IDENTITY, keypoint_pairs=((0, 1), (2, 3)))
    with pytest.raises(ValueError, match=r"^keypoint_pairs: expected each keypoint once, got \(\(0, 1\), \(1, 2\)\)$"):
        pasted(torch.ones(1, 3, 3), IDENTITY, keypoint_pairs=((0, 1), (1, 2)))


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (COCO_PERSON, tuple((k, k + 1) for k in range(1, 16, 2))),
        (["Nose", "RightEye", "LeftEye"], ((1, 2),)),
        (["L_hip", "knee-r", "knee-l", "r_hip"], ((0, 3), (1, 2))),
        (["tail", "lower lip"], ()),
        ([], ()),
    ],
)
def test_names_that_differ_in_their_side_are_pairs(names, pairs):
    assert keypoint_pairs(names) == pairs


@pytest.mark.parametrize("names", [["left_eye", "nose"], ["eye", "eye"]])
def test_names_without_another_side_or_twice_are_an_error(names):
    with pytest.raises(ValueError, match=r"^keypoint names: "):
        keypoint_pairs(names)


# Whole numbers


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_whole_numbers_are_rounded_and_stay_in_the_image(dtype):
    third = ((3, 0, 0), (0, 3, 0))
    keypoints = torch.tensor([[[5, 2, 2], [3, 1, 2], [7, 7, 2]]], dtype=dtype)
    assert pasted(keypoints, third, keypoint_pairs=()).tolist() == [[[2, 1, 2], [1, 0, 2], [2, 2, 2]]]
    edge = torch.tensor([[[1, 1, 2], [7, 7, 2], [0, 0, 0]]], dtype=dtype)
    moved = pasted(edge, ((1, 0, -0.8), (0, 1, 0)), keypoint_pairs=())
    assert moved.tolist() == [[[2, 1, 2], [7, 7, 2], [0, 0, 0]]]
    assert moved.dtype == dtype


def test_a_map_that_is_whole_but_for_rounding_moves_whole_numbers_by_the_whole():
    tenth = ((0.1, 0, 0), (0, 0.1, 0))
    keypoints = torch.tensor([[[1, 0, 2]]])
    images = [make_images(1)[0].repeat(1, 4, 4), make_images(1)[0]]
    own = target(keypoints=keypoints[:0])
    own["masks"] = torch.zeros(0, 32, 32, dtype=torch.uint8)
    given = target((0, 0, SIDE, SIDE), keypoints=keypoints)
    after = carry_out(plan_of((0, 1, 0, tenth)), images, [own, given], keypoint_pairs=()).targets[0]
    assert after["keypoints"].tolist() == [[[10, 0, 2]]]


def test_whole_numbers_of_a_small_type_are_remembered_also_where_they_lie_beside_their_object():
    keypoints = torch.tensor([[[0, 0, 2], [5, 5, 2]]], dtype=torch.uint8)
    bank = InstanceBank(1)
    copypaste_batch(make_images(1), [target((4, 4, 7, 6), keypoints=keypoints)], bank=bank, p=0.0)
    plan = plan_of((0, 1, 0, ((1, 0, -3), (0, 1, -3))))  # where it was: its crop begins a pixel before its box
    after = carry_out(plan, make_images(1), [target(keypoints=keypoints[:0])], bank=bank, keypoint_pairs=()).targets[0]
    assert after["keypoints"].tolist() == [[[0, 0, 2], [5, 5, 2]]]


def test_whole_numbers_are_hidden_at_the_pixel_that_they_are_rounded_to():
    given = target((0, 0, 1, 8), (3, 0, 4, 1), keypoints=torch.tensor([[[0, 0, 2]], [[0, 0, 0]]]))
    plan = plan_of((0, 1, 0, ((1, 0, -2.6), (0, 1, 0))), (0, 1, 1, IDENTITY))  # to 2.6, and so to 3
    after = carry_out(plan, make_images(), [target(keypoints=given["keypoints"][:0]), given]).targets[0]
    assert after["keypoints"].tolist() == [[[3, 0, 1]], [[0, 0, 0]]]


@pytest.mark.parametrize("whole_first", [True, False])
def test_they_are_whole_numbers_where_those_of_the_receiving_image_are_whatever_others_are(whole_first):
    whole, parts = torch.tensor([[[3, 3, 2]]]), torch.tensor([[[3.75, 3.75, 2]]])
    fields = [target((0, 0, 7, 7), keypoints=points) for points in ([whole, parts] if whole_first else [parts, whole])]
    edge = ((1, 0, -4), (0, 1, -4))  # 3.75 lands on 7.75, in the last pixel
    after = carry_out(plan_of((0, 1, 0, edge), (1, 0, 0, edge)), make_images(), fields, keypoint_pairs=()).targets
    there = {True: [7, 7, 2], False: [7.75, 7.75, 2]}
    found = [image["keypoints"][1].tolist() for image in after]
    assert found == ([[there[True]], [[7, 7, 2]]] if whole_first else [[[7, 7, 2]], [there[True]]])
    assert [image["keypoints"].dtype for image in after] == [image["keypoints"].dtype for image in fields]


# What tells of keypoints


TOLD = {"keypoints_scores": torch.tensor([[0.25, 0.75]]), "num_keypoints": torch.tensor([2])}


def test_scores_of_keypoints_are_exchanged_with_them_and_those_outside_are_not_counted():
    keypoints = points((1.5, 2.5, 2), (5.5, 6.5, 1))
    given = target((0, 0, SIDE, SIDE), keypoints=keypoints, **TOLD)
    own = target((0, 0, 1, 1), keypoints=keypoints, **TOLD)
    plan = plan_of((0, 1, 0, ((-1, 0, 11), (0, 1, 0))))  # mirrored, and 3 pixels to the right
    after = carry_out(plan, make_images(), [{**own, "masks": own["masks"] * 0}, given], keypoint_pairs=((0, 1),))
    assert after.targets[0]["keypoints"][1].tolist() == [[5.5, 6.5, 1], [0, 0, 0]]
    assert after.targets[0]["keypoints_scores"].tolist() == [[0.25, 0.75], [0.75, 0.25]]
    assert after.targets[0]["num_keypoints"].tolist() == [2, 1]
    assert after.targets[0]["num_keypoints"].dtype == torch.int64


def test_a_mirrored_image_has_its_scores_exchanged_and_what_is_cut_off_not_counted():
    fields = target((0, 0, SIDE, SIDE), keypoints=points((1.5, 2.5, 2), (5.5, 20, 1)), **TOLD)
    options = {"size": (16, 16), "scale_range": (0.5, 0.5), "keypoint_pairs": ((0, 1),), "p_flip": 1.0}
    _, (shown,) = large_scale_jitter_batch(make_images(1), [fields], **options)
    assert shown["keypoints"].tolist() == [[[0, 0, 0], [6.5, 2.5, 2]]]
    assert shown["keypoints_scores"].tolist() == [[0.75, 0.25]]
    assert shown["num_keypoints"].tolist() == [1]


@pytest.mark.parametrize("key", TOLD)
def test_such_fields_of_another_shape_than_the_keypoints_are_an_error(key):
    fields = target((0, 0, 4, 4), keypoints=points((1, 1, 2), (2, 2, 2)), **{key: torch.ones(1, 3)})
    with pytest.raises(ValueError, match=rf"^targets\[0\]: expected '{key}' of shape .*, got \(1, 3\)$"):
        copypaste_batch(make_images(), [fields, fields])


def test_cut_outs_have_no_labelled_keypoints():
    pool = Pool((7, torch.zeros(3, 2, 2, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.uint8)))
    fields = target((4, 4, 8, 8), keypoints=points((5, 5, 2), (6, 6, 2)), **TOLD)
    (after,) = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(1), [fields], pool=pool, keypoint_pairs=()).targets
    assert after["num_keypoints"].tolist() == [2, 0]
    assert after["keypoints_scores"].tolist() == [[0.25, 0.75], [0, 0]]


# Hidden


@WAYS
def test_what_lies_under_a_pasted_object_is_labelled_but_not_visible(way):
    own = target((0, 0, 6, 6), keypoints=points((1.5, 1.5, 2), (4.0, 4.0, 2), (3.99, 4.0, 2), (4.5, 4.5, 1), (0, 0, 0)))
    given = target((4, 4, 7, 7), keypoints=points((5.5, 5.5, 2), (1.5, 1.5, 2), *[(0, 0, 0)] * 3))
    with way():
        after = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(), [own, given], keypoint_pairs=()).targets[0]
    assert after["keypoints"][..., 2].tolist() == [[2, 1, 2, 1, 0], [2, 2, 0, 0, 0]]
    assert torch.equal(after["keypoints"][0, :, :2], own["keypoints"][0, :, :2])


@WAYS
def test_what_lies_under_a_later_pasted_object_is_not_visible_and_under_an_earlier_one_it_is(way):
    given = target((0, 0, 4, 4), (2, 2, 6, 6), keypoints=torch.cat([points((3.5, 3.5, 2)), points((3.5, 3.5, 2))]))
    plan = plan_of((0, 1, 0, IDENTITY), (0, 1, 1, IDENTITY))
    with way():
        after = carry_out(plan, make_images(), [target(keypoints=points()[:0].reshape(0, 1, 3)), given]).targets[0]
    assert after["keypoints"][..., 2].tolist() == [[1], [2]]


@WAYS
def test_keypoints_outside_every_pixel_hide_nowhere(way):
    nan = float("nan")
    own = target((0, 0, 6, 6), keypoints=points((-1, 0, 2), (8, 0, 2), (nan, 0, 2), (1e9, -1e9, 2)))
    given = target((0, 0, 8, 8), (7, 7, 8, 8), keypoints=torch.zeros(2, 4, 3))
    with way():
        after = carry_out(plan_of((0, 1, 1, IDENTITY)), make_images(), [own, given], keypoint_pairs=()).targets[0]
    assert after["keypoints"][0, :, 2].tolist() == [2, 2, 2, 2]


@WAYS
def test_an_image_ends_before_its_width_and_height_and_begins_at_0(way):
    edges = [(0, 0), (7.75, 7.75), (8, 3), (3, 8), (-0.25, 3), (3, -0.25)]
    own = target((0, 0, 8, 8), keypoints=points(*[(*edge, 2) for edge in edges]))
    given = target((0, 0, 8, 8), keypoints=torch.zeros(1, len(edges), 3))
    given["masks"][0, 4, 4] = 0  # through which the image's own object stays visible
    with way():
        after = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(), [own, given], keypoint_pairs=()).targets[0]
    assert after["keypoints"][0, :, 2].tolist() == [1, 1, 2, 2, 2, 2]
    shifted = pasted(own["keypoints"], IDENTITY, keypoint_pairs=())
    assert shifted.tolist() == [[[0, 0, 2], [7.75, 7.75, 2], *[[0, 0, 0]] * 4]]


@pytest.mark.parametrize("keypoints_are", ["on the host", "on the device"])
def test_a_device_is_read_once_for_measures_and_keypoints_together(keypoints_are):
    fields = [target((0, 0, 4, 4), keypoints=points((1, 1, 2), (3, 3, 2))) for _ in range(2)]
    options = {"p": 1.0, "p_instance": 1.0, "keypoint_pairs": ((0, 1),)}
    on_host = ["boxes", "labels"] + ["keypoints"] * (keypoints_are == "on the host")
    read_backs = ReadBacks()
    with window_after_window(), read_backs.recorded():
        copypaste_batch(make_images(), fields, generator=torch.Generator().manual_seed(2), **options)
    with read_backs.replayed():
        _, after = copypaste_batch(
            make_images().to("meta"),
            on_meta(fields, keeping=on_host),
            generator=torch.Generator().manual_seed(2),
            **options,
        )
    assert read_backs.asked.count("meta") == 1
    expected = "cpu" if keypoints_are == "on the host" else "meta"
    assert [found["keypoints"].device.type for found in after] == [expected] * 2


def test_of_images_of_several_sizes_each_keypoint_is_hidden_at_its_own_pixel():
    def own(size, hidden, shown):
        """An object everywhere with two keypoints, and one of 3 x 3 pixels without any."""
        height, width = size
        return {
            "boxes": torch.tensor([[0.0, 0.0, width, height], [0.0, 0.0, 3.0, 3.0]]),
            "labels": torch.tensor([1, 2]),
            "masks": torch.stack([block(0, 0, width, height, size), block(0, 0, 3, 3, size)]),
            "keypoints": torch.tensor([[[*hidden, 2.0], [*shown, 2.0]], [[0.0] * 3] * 2]),
        }

    sizes = [(8, 10), (6, 12), (7, 9)]
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    targets = [own(size, (size[1] - 1.5, 1.5), (1.5, size[0] - 1.5)) for size in sizes]
    plan = plan_of(*((i, 1 if i == 0 else 0, 1, ((1, 0, 3 - sizes[i][1]), (0, 1, 0))) for i in range(3)))
    after = carry_out(plan, images, targets, keypoint_pairs=()).targets
    assert [fields["keypoints"][0, :, 2].tolist() for fields in after] == [[1, 2]] * 3
