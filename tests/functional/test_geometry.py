"""Rotated boxes, polygons and points that follow their objects: 8 x 8 pixels, whose answer is visible."""

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    block,
    carry_out,
    cases,
    make_images,
    many,
    plan_of,
    target,
    tritons_kernels,
    window_after_window,
)
from hypothesis import given
from hypothesis import strategies as st
from reference import reference
from torchvision.ops import box_convert

from composer_copypaste import CompactMasks, CopyPasteSettings, InstanceBank, copypaste_batch, plan_batch
from composer_copypaste.functional.geometry import crop_resized, hidden_by_crop, points_of, smallest_box, values_of
from composer_copypaste.functional.large_scale_jitter import CropResize, crop_resize_batch
from composer_copypaste.settings import LargeScaleJitterSettings

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning:triton")  # its interpreter

ENGINES = [nullcontext, window_after_window, tritons_kernels]
FORMS = ["planes", "cut_outs"]
NAN = float("nan")
TWO_RIGHT = ((1, 0, -2), (0, 1, 0))
"""What is pasted lies two pixels further right than in its source."""
QUARTER = ((0, 1, 0), (-1, 0, 8))
"""A quarter turn clockwise on the screen: (x, y) of the source comes to (8 - y, x)."""
MIRRORED = ((-1, 0, 8), (0, 1, 0))
SMALLEST = [
    (0.0, 4, 4, 0.0),
    (0.35, 16 / math.sqrt(20), math.sqrt(20), math.atan(1 / 2)),
    (-0.35, 16 / math.sqrt(20), math.sqrt(20), -math.atan(1 / 2)),
    (math.pi / 2, 4, 4, math.pi / 2),
    (-math.pi, 4, 4, -math.pi),
]
"""The angle wanted, and of the smallest box around a triangle its width, height and angle."""


def in_form(targets, form):
    if form == "planes":
        return targets
    return [own | {"masks": CompactMasks.from_dense(own["masks"])} for own in targets]


def after(own, given_, *rows, engine=nullcontext, form="planes", **settings):
    """The target of image 0 after a plan of rows (instance of image 1, map)."""
    plan = plan_of(*((0, 1, instance, to_source) for instance, to_source in rows))
    with engine():
        return carry_out(plan, make_images(), in_form([own, given_], form), **settings).targets[0]


def nothing(shape=(5,), key="obb"):
    return target(**{key: torch.zeros(0, *shape)})


def has(values, expected):
    np.testing.assert_allclose(values.numpy(), np.array(expected), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("to_source", "box"),
    [
        (TWO_RIGHT, [4, 2, 4, 2, 0]),
        (QUARTER, [6, 2, 4, 2, math.pi / 2]),
        (MIRRORED, [6, 2, 4, 2, 0]),
        (((0.5, 0, 0), (0, 0.5, 0)), [4, 4, 8, 4, 0]),
        (((1, 0, 0), (0, 0.5, 0)), [2, 4, 4, 4, 0]),
    ],
)
def test_a_rotated_box_moves_with_its_object(form, engine, to_source, box):
    given_ = target((0, 1, 4, 3), obb=torch.tensor([[2.0, 2.0, 4.0, 2.0, 0.0]]))
    found = after(nothing(), given_, (0, to_source), engine=engine, form=form, geometry={"obb": "obb_radians"})
    has(found["obb"], [box])


@pytest.mark.parametrize(("kind", "angle"), [("obb_radians", math.pi / 2), ("obb_degrees", -90.0)])
def test_angles_are_clockwise_in_radians_and_counter_clockwise_in_degrees(kind, angle):
    given_ = target((0, 1, 4, 3), obb=torch.tensor([[2.0, 2.0, 4.0, 2.0, 0.0]]))
    found = after(nothing(), given_, (0, QUARTER), geometry={"obb": kind})
    has(found["obb"], [[6, 2, 4, 2, angle]])


@pytest.mark.parametrize(("kind", "unit"), [("obb_radians", 1.0), ("obb_degrees", 180 / math.pi)])
@pytest.mark.parametrize("hidden_geometry", ["visible", "whole"])
@pytest.mark.parametrize("angle", [-1.5, -0.3, 0.0, 0.3, 1.5])
@pytest.mark.parametrize("to_source", [MIRRORED, ((1, 0, 0), (0, -1, 8))])
def test_the_angle_of_a_mirrored_box_is_its_negative_as_flips_elsewhere_have_it(
    kind, unit, hidden_geometry, angle, to_source
):
    given_ = target((0, 0, 8, 8), obb=torch.tensor([[4.0, 4.0, 6.0, 2.0, angle * unit]]))
    settings = {"geometry": {"obb": kind}, "hidden_geometry": hidden_geometry}
    has(after(nothing(), given_, (0, to_source), **settings)["obb"], [[4, 4, 6, 2, -angle * unit]])


def test_a_mirrored_box_that_is_cut_has_an_angle_of_its_range_and_its_corners_keep_their_order():
    corners = torch.tensor([[0.0, 2.0], [6.0, 2.0], [6.0, 4.0], [0.0, 4.0]])
    given_ = target((0, 2, 6, 4), obb=torch.tensor([[3.0, 3.0, 6.0, 2.0, 0.0]]), quad=corners[None])
    kinds = {"obb": "obb_radians", "quad": "corners"}
    own = target(obb=torch.zeros(0, 5), quad=torch.zeros(0, 4, 2))
    found = after(own, given_, (0, ((-1, 0, 4), (0, 1, 0))), geometry=kinds)
    has(found["obb"], [[2, 3, 4, 2, 0]])  # mirrored, and two columns are beyond the left edge
    assert found["quad"][0, 0, 0] > found["quad"][0, 1, 0]  # the first corner is the one that was on the left


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_rotated_box_becomes_the_smallest_around_what_stays_visible(form, engine):
    own = target((0, 0, 6, 4), obb=torch.tensor([[3.0, 2.0, 6.0, 4.0, 0.0]]))
    given_ = target((4, 0, 8, 8), obb=torch.tensor([[6.0, 4.0, 8.0, 4.0, math.pi / 2]]))
    found = after(own, given_, (0, TWO_RIGHT), engine=engine, form=form, geometry={"obb": "obb_radians"})
    # two columns of the pasted one are beyond the edge; of the other all but its left is covered by nothing
    has(found["obb"], [[3, 2, 6, 4, 0], [7, 4, 8, 2, math.pi / 2]])
    found = after(own, given_, (0, IDENTITY), engine=engine, form=form, geometry={"obb": "obb_radians"})
    has(found["obb"], [[2, 2, 4, 4, 0], [6, 4, 8, 4, math.pi / 2]])
    whole = {"geometry": {"obb": "obb_radians"}, "hidden_geometry": "whole"}
    found = after(own, given_, (0, TWO_RIGHT), engine=engine, form=form, **whole)
    has(found["obb"], [[3, 2, 6, 4, 0], [8, 4, 8, 4, math.pi / 2]])


@pytest.mark.parametrize("form", FORMS)
def test_only_an_object_of_which_a_part_is_hidden_has_another_box(form):
    boxes = torch.tensor([[1.1, 0.9, 1.7, 1.3, 0.3], [5.0, 5.0, 4.0, 6.0, 0.0]], dtype=torch.float64)
    own = target((0, 0, 2, 2), (3, 2, 7, 8), obb=boxes)
    given_ = target((0, 5, 8, 8), obb=torch.tensor([[4.0, 6.5, 8.0, 3.0, 0.0]], dtype=torch.float64))
    found = after(own, given_, (0, IDENTITY), form=form, geometry={"obb": "obb_radians"})["obb"]
    assert found[0].tolist() == boxes[0].tolist()
    has(found[1:], [[5, 3.5, 4, 3, 0], [4, 6.5, 8, 3, 0]])


@pytest.mark.parametrize(
    ("kind", "values"),
    [("obb_radians", [[3.0, 2.0, 6.0, 4.0, NAN]]), ("corners", [[[0.0, 0.0], [6.0, NAN], [6.0, 4.0], [0.0, 4.0]]])],
)
def test_a_box_that_is_not_known_stays_so_where_a_part_is_hidden(kind, values):
    own = target((0, 0, 6, 4), box=torch.tensor(values))
    given_ = target((4, 0, 8, 8), box=torch.zeros_like(own["box"]))
    found = after(own, given_, (0, IDENTITY), geometry={"box": kind})["box"]
    assert found[0].isnan().any()
    assert not found[1].isnan().any()


def test_a_parallelogram_becomes_the_smallest_box_around_it():
    points = np.array([[[0.0, 0.0], [4.0, 0.0], [6.0, 2.0], [2.0, 2.0]]])
    np.testing.assert_allclose(values_of("obb_radians", points, (5,)), [[3, 1, 6, 2, 0]], atol=1e-9)
    flat = np.array([[[0.0, 1.0], [4.0, 1.0], [6.0, 1.0], [2.0, 1.0]]])
    np.testing.assert_allclose(values_of("obb_radians", flat, (5,)), [[3, 1, 6, 0, 0]], atol=1e-9)


def test_the_smallest_box_around_a_diagonal_is_turned():
    steps = torch.tril(torch.ones(8, 8)).byte() - torch.tril(torch.ones(8, 8), -3).byte()  # a band of three diagonals
    own = target((0, 0, 8, 8), obb=torch.tensor([[4.0, 4.0, 11.0, 3.0, math.pi / 4]])) | {"masks": steps[None]}
    given_ = target((0, 0, 8, 2), obb=torch.tensor([[4.0, 1.0, 8.0, 2.0, 0.0]]))
    box = after(own, given_, (0, IDENTITY), geometry={"obb": "obb_radians"})["obb"][0]
    assert box[4] == pytest.approx(math.pi / 4)
    assert box[3] == pytest.approx(4 / math.sqrt(2))  # the corners of three diagonals of pixels
    assert box[2] < 10


@pytest.mark.parametrize("row", [(4, 2), (8,)])
def test_corners_come_back_as_corners(row):
    square = torch.tensor([[0.0, 1.0], [4.0, 1.0], [4.0, 3.0], [0.0, 3.0]])
    given_ = target((0, 1, 4, 3), quad=square.reshape(1, *row))
    found = after(nothing(row, "quad"), given_, (0, TWO_RIGHT), geometry={"quad": "corners"})
    assert found["quad"].reshape(4, 2).tolist() == [[2, 1], [6, 1], [6, 3], [2, 3]]
    found = after(nothing(row, "quad"), given_, (0, ((1, 0, -6), (0, 1, 0))), geometry={"quad": "corners"})
    has(found["quad"].reshape(4, 2), [[6, 1], [8, 1], [8, 3], [6, 3]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_polygon_moves_and_is_gone_where_a_part_is_hidden(form, engine):
    triangle = torch.tensor([[[0.0, 1.0], [4.0, 1.0], [4.0, 3.0]]])
    own, given_ = target((2, 0, 4, 8), outline=triangle + 1), target((0, 1, 4, 3), outline=triangle)
    found = after(own, given_, (0, TWO_RIGHT), engine=engine, form=form, geometry={"outline": "polygons"})
    has(found["outline"], [[[NAN, NAN]] * 3, [[2, 1], [6, 1], [6, 3]]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_points_move_and_are_gone_where_they_are_hidden_or_outside(form, engine):
    own = target((0, 0, 4, 4), marks=torch.tensor([[[0.5, 0.5], [3.5, 0.5], [9.0, 9.0]]]))
    given_ = target((0, 0, 4, 4), (4, 0, 8, 4), marks=torch.tensor([[[1.0, 1.0], [3.5, 1.0], [7.5, 7.0]]] * 2))
    rows = (0, TWO_RIGHT), (1, ((1, 0, 3), (0, 1, 0)))  # the second lies from 1 to 5, on the first
    settings = {"geometry": {"marks": "points"}, "engine": engine, "form": form}
    found = after(own, given_, *rows, **settings)
    has(
        found["marks"],
        [
            [[0.5, 0.5], [NAN, NAN], [9, 9]],
            [[NAN, NAN], [5.5, 1], [NAN, NAN]],
            [[NAN, NAN], [0.5, 1], [4.5, 7]],
        ],
    )
    found = after(own, given_, *rows, hidden_geometry="whole", **settings)
    has(found["marks"], [[[0.5, 0.5], [3.5, 0.5], [9, 9]], [[3, 1], [5.5, 1], [9.5, 7]], [[-2, 1], [0.5, 1], [4.5, 7]]])


def test_points_and_keypoints_are_hidden_each_by_themselves():
    own = target(
        (0, 0, 4, 4), mark=torch.tensor([[3.5, 0.5]]), keypoints=torch.tensor([[[0.5, 0.5, 2], [3.5, 3.5, 2]]])
    )
    given_ = target((2, 0, 8, 8), mark=torch.tensor([[7.0, 7.0]]), keypoints=torch.zeros(1, 2, 3))
    found = after(own, given_, (0, IDENTITY), geometry={"mark": "points"}, keypoint_pairs=())
    has(found["mark"], [[NAN, NAN], [7, 7]])
    assert found["keypoints"][0].tolist() == [[0.5, 0.5, 2], [3.5, 3.5, 1]]


def test_points_of_several_keys_are_hidden_each_by_themselves():
    kinds = {"near": "points", "obb": "obb_radians", "far": "points"}
    box = torch.tensor([[5.0, 4.0, 6.0, 8.0, 0.0]])
    own = target(
        (0, 0, 2, 2), near=torch.tensor([[[0.5, 0.5], [3.5, 0.5], [1.5, 1.5]]]), far=torch.tensor([[6.5, 6.5]]), obb=box
    )
    given_ = target(
        (2, 0, 8, 8), near=torch.tensor([[[2.5, 0.5], [7.0, NAN], [7.0, 7.0]]]), far=torch.tensor([[6.0, 5.0]]), obb=box
    )
    found = after(own, given_, (0, IDENTITY), geometry=kinds)
    has(found["near"], [[[0.5, 0.5], [NAN, NAN], [1.5, 1.5]], [[2.5, 0.5], [NAN, NAN], [7, 7]]])
    has(found["far"], [[NAN, NAN], [6, 5]])
    has(found["obb"], [[5, 4, 6, 8, 0]] * 2)


def test_points_of_a_mirrored_object_keep_their_order_whatever_its_keypoints_do():
    own, marks = target(marks=torch.zeros(0, 2, 2), keypoints=torch.zeros(0, 2, 3)), [[[2.5, 1.0], [4.5, 1.0]]]
    given_ = target((2, 0, 6, 4), marks=torch.tensor(marks), keypoints=torch.tensor([[[2.5, 1, 2], [4.5, 1, 2]]]))
    found = after(own, given_, (0, MIRRORED), geometry={"marks": "points"}, keypoint_pairs=((0, 1),))
    has(found["marks"], [[[5.5, 1], [3.5, 1]]])
    has(found["keypoints"], [[[3.5, 1, 2], [5.5, 1, 2]]])


def test_without_masks_geometry_moves_as_a_whole():
    own = target((0, 0, 4, 4), mark=torch.tensor([[3.5, 0.5]]))
    given_ = target((2, 0, 8, 8), mark=torch.zeros(1, 2))
    del own["masks"], given_["masks"]
    has(after(own, given_, (0, IDENTITY), geometry={"mark": "points"})["mark"], [[3.5, 0.5], [0, 0]])


def test_geometry_follows_where_masks_are_left_out_afterwards():
    own = target((0, 0, 6, 4), obb=torch.tensor([[3.0, 2.0, 6.0, 4.0, 0.0]]))
    given_ = target((4, 0, 8, 8), obb=torch.tensor([[6.0, 4.0, 8.0, 4.0, math.pi / 2]]))
    found = after(own, given_, (0, IDENTITY), geometry={"obb": "obb_radians"}, keep_masks=False)
    has(found["obb"][0], [2, 2, 4, 4, 0])
    assert "masks" not in found


def test_geometry_of_a_batch_of_one_moves_with_a_copy_of_its_own():
    own = target((0, 0, 2, 2), mark=torch.tensor([[0.5, 1.5]]))
    plan = plan_of((0, 0, 0, ((1, 0, -4), (0, 1, -4))))
    (found,) = carry_out(plan, make_images(1), [own], geometry={"mark": "points"}).targets
    has(found["mark"], [[0.5, 1.5], [4.5, 5.5]])


# Which keys are geometry


LIKE = {"(4,)": torch.zeros(1, 4), "(5,)": torch.zeros(1, 5), "(3, 2)": torch.zeros(1, 3, 2)}


@pytest.mark.parametrize("numbers", LIKE)
def test_what_looks_like_geometry_is_refused_by_name_unless_it_is_named(numbers):
    targets = [target((0, 0, 4, 4), tilt=LIKE[numbers]) for _ in range(2)]
    with pytest.raises(ValueError, match=r"^targets\[0\]: 'tilt' looks like positions in the image, with .* geometry="):
        copypaste_batch(make_images(), targets, p=1.0)
    copypaste_batch(make_images(), targets, p=1.0, object_keys=("tilt",))
    copypaste_batch(make_images(), targets, p=0.0)


def test_a_target_without_objects_says_nothing_about_what_looks_like_geometry():
    targets = [target(tilt=torch.zeros(0, 5)), target((0, 0, 4, 4), tilt=torch.zeros(1, 5))]
    with pytest.raises(ValueError, match=r"^targets\[0\]: 'tilt' looks like positions in the image"):
        copypaste_batch(make_images(), targets, p=1.0)
    nothing = [target(tilt=torch.zeros(0, 5)) for _ in range(2)]
    assert [len(each["tilt"]) for each in copypaste_batch(make_images(), nothing, p=1.0)[1]] == [0, 0]


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(1, 256),
        torch.zeros(1),
        torch.zeros(1, 4).long(),
        torch.zeros(1, 2),
        torch.zeros(1, 2, 3),
        torch.zeros(3, 4),
    ],
)
@pytest.mark.filterwarnings("ignore:targets. 'feature' has as many rows")
def test_scores_embeddings_and_what_describes_the_image_pass_as_before(values):
    targets = [target((0, 0, 4, 4), feature=values) for _ in range(2)]
    _, found = copypaste_batch(make_images(), targets, p=1.0)
    assert all(each["feature"] is values for each in found)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("obb_radians", torch.zeros(1, 4), r"\(n, 5\), got torch.float32 \(1, 4\)"),
        ("corners", torch.zeros(1, 4), r"\(n, 8\) or \(n, 4, 2\), got"),
        ("corners", torch.zeros(1, 4, 3), r"\(n, 8\) or \(n, 4, 2\), got"),
        ("polygons", torch.zeros(1, 3, 2).long(), r"\(n, k, 2\), got torch.int64"),
    ],
)
def test_declared_geometry_of_another_form_is_refused(kind, values, expected):
    targets = [target((0, 0, 4, 4), mine=values) for _ in range(2)]
    message = rf"^targets\[0\]: expected 'mine' of geometry '{kind}' to be floating point of shape {expected}"
    with pytest.raises(ValueError, match=message):
        copypaste_batch(make_images(), targets, geometry={"mine": kind})


def test_a_kind_that_there_is_not_and_a_bank_are_refused():
    with pytest.raises(ValueError, match=r"^geometry.*: expected one of 'obb_radians', 'obb_degrees', 'corners'"):
        copypaste_batch(make_images(), [target()] * 2, geometry={"obb": "circle"})
    with pytest.raises(ValueError, match=r"^geometry: expected None with a bank"):
        copypaste_batch(make_images(), [target()] * 2, geometry={"obb": "corners"}, bank=InstanceBank(3))
    with pytest.raises(ValueError, match=r"^geometry: expected None with a bank, .*; set bank_size to 0$"):
        CopyPasteSettings(geometry={"obb": "corners"}, bank_size=3)


# Rotated boxes as others understand them


BOXES = np.array([[30.0, 20.0, 16.0, 6.0, angle] for angle in (0.0, 25.0, 90.0, 130.0, -70.0)])


def corners_of(x, y, across, down):
    """The centre, plus and minus half of the width and half of the height."""
    signs = [(i, j) for i in (-1, 1) for j in (-1, 1)]
    found = [(x + i * across[0] + j * down[0], y + i * across[1] + j * down[1]) for i, j in signs]
    return {(round(x, 6), round(y, 6)) for x, y in found}


def test_degrees_are_those_of_detectron2_and_torchvision():
    # Detectron2's Visualizer.draw_rotated_box_with_label: (x, y) of the box comes to (sin y + cos x, cos y - sin x)
    for x, y, w, h, degrees in BOXES:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        expected = corners_of(x, y, (w / 2 * cos, -w / 2 * sin), (h / 2 * sin, h / 2 * cos))
        found = points_of("obb_degrees", np.array([[x, y, w, h, degrees]]))[0]
        assert {tuple(corner) for corner in found.round(6).tolist()} == expected
    try:
        theirs = box_convert(torch.from_numpy(BOXES), "cxcywhr", "xyxyxyxy")
    except ValueError:
        return  # torchvision has rotated boxes from 0.23 on
    np.testing.assert_allclose(points_of("obb_degrees", BOXES), theirs.reshape(-1, 4, 2).numpy(), atol=1e-9)


def test_radians_are_those_of_ultralytics():
    # its xywhr2xyxyxyxy: centre +- width/2 (cos, sin) +- height/2 (-sin, cos)
    for x, y, w, h, degrees in BOXES:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        expected = corners_of(x, y, (w / 2 * cos, w / 2 * sin), (-h / 2 * sin, h / 2 * cos))
        found = points_of("obb_radians", np.array([[x, y, w, h, math.radians(degrees)]]))[0]
        assert {tuple(corner) for corner in found.round(6).tolist()} == expected


@given(st.integers(0, 2**32 - 1))
@many(60)
def test_the_smallest_box_holds_all_points_and_no_other_angle_gives_a_smaller_one(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 12, (rng.integers(3, 12), 2)).astype(float)
    box = smallest_box(points, rng.uniform(-3, 3))
    for angle in [box[4], *np.linspace(0, np.pi / 2, 181)]:
        axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        extent = np.ptp(points @ axes.T, axis=0)
        assert extent.prod() >= box[2] * box[3] - 1e-6
    axes = np.array([[np.cos(box[4]), np.sin(box[4])], [-np.sin(box[4]), np.cos(box[4])]])
    assert (np.abs((points - box[:2]) @ axes.T) <= box[2:4] / 2 + 1e-6).all()


@pytest.mark.parametrize("kind", ["obb_radians", "obb_degrees"])
def test_a_box_survives_being_points(kind):
    boxes = BOXES * ([1, 1, 1, 1, np.pi / 180] if kind == "obb_radians" else 1)
    np.testing.assert_allclose(values_of(kind, points_of(kind, boxes), (5,)), boxes, atol=1e-9)


# Large-scale jitter


@pytest.mark.parametrize(("angle", "width", "height", "found"), SMALLEST)
def test_of_several_smallest_boxes_it_is_the_one_turned_least(angle, width, height, found):
    triangle = np.array([[0.0, 0], [4, 0], [2, 4]])  # on each of its sides stands a box of twice its area
    box = smallest_box(triangle, angle)
    np.testing.assert_allclose(box[2:], [width, height, found])


def test_points_on_the_far_edges_of_a_crop_lie_outside():
    points = np.array([[[0.0, 0.0], [7.9, 5.9], [8.0, 3.0], [3.0, 6.0], [-0.1, 3.0]]])
    found = crop_resized("points", points, np.eye(2), np.zeros(2), (6, 8), {})
    np.testing.assert_array_equal(found, [[[0, 0], [7.9, 5.9], [NAN, NAN], [NAN, NAN], [NAN, NAN]]])


def test_a_crop_cuts_the_boxes_that_reach_beyond_one_of_its_edges():
    edges = [
        [2.0, 1.0, 8.0, 5.0],
        [1.9, 1.0, 8.0, 5.0],
        [2.0, 0.9, 8.0, 5.0],
        [2.0, 1.0, 8.1, 5.0],
        [2.0, 1.0, 8.0, 5.1],
    ]
    assert hidden_by_crop(np.array(edges), (1, 2, 4, 6)).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("form", FORMS)
def test_geometry_follows_large_scale_jitter(form):
    one = target((0, 1, 4, 3), (4, 4, 6, 6)) | {
        "obb": torch.tensor([[2.0, 2.0, 4.0, 2.0, 0.0], [5.0, 5.0, 2.0, 2.0, 0.5]]),
        "marks": torch.tensor([[[1.0, 2.0]], [[5.0, 5.0]]]),
    }
    crop = CropResize(window=(0, 2, 8, 6), resized=(16, 12), canvas=(16, 16), flip=True)
    settings = LargeScaleJitterSettings(size=(16, 16), geometry={"obb": "obb_radians", "marks": "points"})
    _, (found,) = crop_resize_batch(make_images(1), in_form([one], form), [crop], settings)
    # twice as large and mirrored in 12 pixels: of the first the left half is cut off
    has(found["obb"], [[10, 4, 4, 4, 0], [6, 10, 4, 4, -0.5]])
    has(found["marks"], [[[NAN, NAN]], [[6, 10]]])
    assert block(8, 2, 12, 6, (16, 16)).equal(
        found["masks"].dense()[0] if form == "cut_outs" else found["masks"][0].byte()
    )
    whole = replace(settings, hidden_geometry="whole")
    _, (found,) = crop_resize_batch(make_images(1), in_form([one], form), [crop], whole)
    has(found["obb"], [[12, 4, 8, 4, 0], [6, 10, 4, 4, -0.5]])
    has(found["marks"], [[[14, 4]], [[6, 10]]])


# Drawn batches, against the slow reference


def with_geometry(targets, seed):
    """The targets with a rotated box, and with two points that are also keypoints, of each object."""
    rng = np.random.default_rng(seed)
    drawn = []
    for own in targets:
        n = len(own["labels"])
        boxes = own["boxes"].detach().double().numpy().reshape(n, 4)
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2] + 1
        obb = np.column_stack([centre, size, rng.uniform(-3, 3, n)])
        points = rng.uniform(boxes[:, None, :2], boxes[:, None, 2:] + 1e-3, (n, 2, 2))
        keypoints = np.concatenate([points, np.full((n, 2, 1), 2.0)], axis=2)
        fields = {"obb": obb, "points": points, "keypoints": keypoints}
        drawn.append({**own, **{key: torch.from_numpy(values) for key, values in fields.items()}})
    return drawn


@pytest.mark.filterwarnings("ignore::composer_copypaste.NothingPastedWarning")
@given(case=cases(sides=st.integers(1, 20), counts=st.integers(0, 4), keypoint_pairs=()))
@many(15)
def test_drawn_batches_follow_what_the_reference_shows(case):
    targets = with_geometry(case.targets, case.seed)
    settings = replace(case.settings, geometry={"obb": "obb_radians", "points": "points"})
    plan = plan_batch(case.images, targets, generator=torch.Generator().manual_seed(case.seed), settings=settings)
    _, after_, info = copypaste_batch(case.images, targets, plan=plan, settings=settings, return_info=True)
    expected = reference(case.images, targets, plan, settings)[1]
    for i, (shown, found) in enumerate(zip(expected, after_, strict=True)):
        keypoints = torch.as_tensor(shown["keypoints"])
        visible = np.where(keypoints[..., 2:].numpy() > 1, keypoints[..., :2].numpy(), np.nan)
        np.testing.assert_allclose(found["points"].numpy(), visible, atol=1e-6)
        rows = np.flatnonzero(info.image.numpy() == i)
        shares = getattr(shown, "visible", [1.0] * len(rows))
        for place, (row, share) in enumerate(zip(rows.tolist(), shares, strict=True)):
            box = found["obb"][place].numpy()
            if share < 1:
                ys, xs = np.nonzero(np.asarray(shown["masks"])[place])
                pixels = np.array(
                    [(x + dx, y + dy) for x, y in zip(xs, ys, strict=True) for dx in (0, 1) for dy in (0, 1)]
                )
                assert smallest_area(pixels) == pytest.approx(box[2] * box[3], abs=1e-6)
                assert (np.abs((pixels - box[:2]) @ turned(box[4]).T) <= box[2:4] / 2 + 1e-6).all()
            elif not info.pasted[row]:
                assert box.tolist() == targets[i]["obb"][int(info.instance[row])].tolist()
            else:
                map_ = plan.to_source[int(info.row[row])].numpy()
                before = points_of("obb_radians", targets[info.source[row]]["obb"][None, info.instance[row]].numpy())[0]
                moved = (before - map_[:, 2]) @ np.linalg.inv(map_[:, :2]).T
                assert (np.abs((moved - box[:2]) @ turned(box[4]).T) <= box[2:4] / 2 + 1e-5).all()
                assert box[2] * box[3] == pytest.approx(smallest_area(moved), rel=1e-4, abs=1e-4)


def turned(angle):
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def smallest_area(points):
    """The area of the smallest rotated box, of those along any pair of points."""
    points = np.unique(points, axis=0)
    ends = np.array([b - a for a in points for b in points if (a != b).any()] or [(1.0, 0.0)])
    angles = np.unique(np.arctan2(ends[:, 1], ends[:, 0]).round(12))
    return min(np.ptp(points @ turned(angle).T, axis=0).prod() for angle in angles)


def test_geometry_that_no_object_has_is_an_error():
    declared = {"geometry": {"obb": "obb_radians"}}
    with pytest.raises(ValueError, match=r"^targets: expected 'obb', which geometry names, got objects without it"):
        copypaste_batch(make_images(), [target(), target((2, 3, 6, 5))], p=1.0, **declared)
    none = [{key: values[:0] for key, values in target((2, 3, 6, 5)).items()}] * 2
    assert copypaste_batch(make_images(), none, p=1.0, **declared)[1] == none  # nothing to miss it
