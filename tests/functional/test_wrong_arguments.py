"""What is said of arguments that cannot be used.

Under pytest, beartype refuses most of them first: they are given in a process of their own, ``python`` of this file.
"""

import json
import linecache
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from copypaste_cases import IDENTITY, SIDE, make_images, target
from torchvision import tv_tensors

from composer_copypaste import (
    CocoMeanAveragePrecision,
    CopyPasteTransform,
    InstanceBank,
    PastePlan,
    copypaste_batch,
    large_scale_jitter_batch,
    plan_batch,
)
from composer_copypaste.errors import OldSettingWarning
from composer_copypaste.functional.arguments import check_batch


def pasted(images=None, targets=None, **settings):
    return copypaste_batch(
        make_images() if images is None else images, both() if targets is None else targets, **settings
    )


def both(**fields):
    """Two targets, of which the second has these fields."""
    return [target((0, 0, 4, 4)), {**target((0, 0, 4, 4)), **fields}]


def unlabelled(**fields):
    """A target without labels, with these fields."""
    return {key: value for key, value in target((0, 0, 4, 4), **fields).items() if key != "labels"}


def framed(images=None, targets=None, **settings):
    images, targets = (make_images() if images is None else images), (both() if targets is None else targets)
    return large_scale_jitter_batch(images, targets, size=(16, 16), **settings)


def pasted_from_bank(**changes):
    """A batch of one image, on which the one object of a bank is pasted, whose state has these changes."""
    bank, batch = InstanceBank(1), (make_images(1), [target((0, 0, 4, 4))])
    copypaste_batch(*batch, bank=bank, p=0.0)
    state = bank.state_dict()
    state["pictures"][0] |= changes
    bank.load_state_dict(state)
    return copypaste_batch(*batch, bank=bank, p=1.0, p_instance=1.0)


class OnDevice(torch.Generator):
    device = torch.device("cuda")


ids = torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
turned = tv_tensors.BoundingBoxes(torch.ones(1, 4), format="XYWH", canvas_size=(SIDE, SIDE))
turned.format = SimpleNamespace(name="CXCYWHR")  # as newer versions of torchvision have it
IN_PLACE_ROW = (0, 1, 0, IDENTITY)
IN_PLACE = PastePlan.from_rows([IN_PLACE_ROW])
nan = torch.tensor([[0.0, 0.0, torch.nan, 4.0]])

CASES = {
    # images
    "images are one array": (
        lambda: pasted(np.zeros((2, 3, SIDE, SIDE))),
        "TypeError: images: expected a tensor (n, c, h, w) or a list of tensors (c, h, w), got ndarray",
    ),
    "images are arrays": (
        lambda: pasted([np.zeros((3, SIDE, SIDE))] * 2),
        "TypeError: images[0]: expected a tensor (c, h, w), got ndarray",
    ),
    "images lack an axis": (
        lambda: pasted(list(make_images()[:, 0])),
        "ValueError: images[0]: expected a tensor (c, h, w) with pixels, got shape (8, 8)",
    ),
    "images lack pixels": (
        lambda: framed(make_images()[:, :, :0], [target()] * 2),
        "ValueError: images[0]: expected a tensor (c, h, w) with pixels, got shape (3, 0, 8)",
    ),
    "images have their channels last": (
        lambda: pasted(make_images().permute(0, 2, 3, 1)),
        "ValueError: images[0]: expected a tensor (c, h, w), got shape (8, 8, 3), which looks like (h, w, c); "
        ".permute(2, 0, 1) gives (c, h, w)",
    ),
    "an image has its channels last": (
        lambda: framed([make_images()[0], make_images()[1].permute(1, 2, 0)]),
        "ValueError: images[1]: expected a tensor (c, h, w), got shape (8, 8, 3), which looks like (h, w, c); "
        ".permute(2, 0, 1) gives (c, h, w)",
    ),
    "images of one channel have it last": (
        lambda: pasted(torch.zeros(2, SIDE, SIDE, 1)),
        "ValueError: images[0]: expected a tensor (c, h, w), got shape (8, 8, 1), which looks like (h, w, c); "
        ".permute(2, 0, 1) gives (c, h, w)",
    ),
    "images with an opacity have their channels last": (
        lambda: pasted(torch.zeros(2, 5, SIDE, 4)),
        "ValueError: images[0]: expected a tensor (c, h, w), got shape (5, 8, 4), which looks like (h, w, c); "
        ".permute(2, 0, 1) gives (c, h, w)",
    ),
    "images are of another type": (
        lambda: pasted(make_images().to(torch.int16)),
        "TypeError: images[0]: expected uint8 or floating point of 16 to 64 bits, got torch.int16; .float() gives that",
    ),
    "images are of eight bits": (
        lambda: framed(make_images().to(torch.float8_e5m2)),
        "TypeError: images[0]: expected uint8 or floating point of 16 to 64 bits, got torch.float8_e5m2; "
        ".float() gives that",
    ),
    "images are sparse": (
        lambda: pasted(make_images().to_sparse()),
        "TypeError: images[0]: expected a dense tensor, got torch.sparse_coo; .to_dense() gives one",
    ),
    # targets
    "targets are none": (
        lambda: copypaste_batch(make_images(), None),
        "TypeError: targets: expected a list of targets or a tensor of class ids, got NoneType",
    ),
    "targets are one dict": (
        lambda: pasted(targets=target((0, 0, 4, 4))),
        "TypeError: targets: expected a list of targets or a tensor of class ids, got dict",
    ),
    "a target is none": (
        lambda: framed(targets=[target(), None]),
        "TypeError: targets[1]: expected a dict with boxes, labels and masks, got NoneType",
    ),
    "class ids are a list": (
        lambda: pasted(targets=list(ids)),
        "TypeError: targets: expected class ids of all images as one tensor (n, h, w), got a list of tensors",
    ),
    "class ids are no whole numbers": (
        lambda: pasted(targets=ids.float()),
        "TypeError: targets[0]: expected class ids of whole numbers, signed or uint8, got torch.float32; "
        ".long() gives some",
    ),
    "class ids are sparse": (
        lambda: pasted(targets=ids.to_sparse()),
        "TypeError: targets[0]: expected a dense tensor, got torch.sparse_coo; .to_dense() gives one",
    ),
    "class ids are of a type that torch cannot index": (
        lambda: pasted(targets=ids.to(torch.uint16)),
        "TypeError: targets[0]: expected class ids of whole numbers, signed or uint8, got torch.uint16; "
        ".long() gives some",
    ),
    "some targets are class ids": (
        lambda: framed(targets=[target(), ids[0]]),
        "TypeError: targets: expected dicts or class ids for all images, got some of both",
    ),
    "class ids have no room for the padding": (
        lambda: framed(targets=ids.to(torch.int8)),
        "ValueError: ignore_index: expected a class id that torch.int8 can hold, got 255",
    ),
    "labels are no whole numbers": (
        lambda: pasted(targets=[target((0, 0, 4, 4)), {**target(), "labels": torch.tensor([])}]),
        "TypeError: targets[1]: expected 'labels' of shape (n,) and of whole numbers, signed or uint8, got (0,) and "
        "torch.float32; without objects, torch.zeros(0, dtype=torch.int64)",
    ),
    "labels have a second axis": (
        lambda: framed(targets=both(labels=torch.ones(1, 1, dtype=torch.int64))),
        "TypeError: targets[1]: expected 'labels' of shape (n,) and of whole numbers, signed or uint8, got (1, 1) and "
        "torch.int64; without objects, torch.zeros(0, dtype=torch.int64)",
    ),
    "labels are of a type that torch cannot index": (
        lambda: pasted(targets=both(labels=torch.ones(1, dtype=torch.uint32))),
        "TypeError: targets[1]: expected 'labels' of shape (n,) and of whole numbers, signed or uint8, got (1,) and "
        "torch.uint32; without objects, torch.zeros(0, dtype=torch.int64)",
    ),
    "boxes are booleans": (
        lambda: pasted(targets=both(boxes=torch.ones(1, 4).bool())),
        "TypeError: targets[1]: expected 'boxes' of floating point or whole numbers, signed or uint8, got torch.bool; "
        ".float() or .long() gives that",
    ),
    "class ids are on the meta device": (
        lambda: copypaste_batch(
            make_images().to("meta"), torch.zeros(2, 8, 8, dtype=torch.int64, device="meta"), p=1.0
        ),
        "ValueError: targets: expected tensors that hold values, got some on the meta device, which holds none",
    ),
    "crowds are complex": (
        lambda: pasted(targets=[target((0, 0, 4, 4), iscrowd=torch.zeros(1, dtype=torch.complex64))] * 2),
        "TypeError: targets[0]: expected 'iscrowd' of floating point or whole numbers, signed or uint8, got "
        "torch.complex64; .float() or .long() gives that",
    ),
    "boxes are elsewhere than labels": (
        lambda: pasted(targets=[target((0, 0, 4, 4)) | {"boxes": torch.zeros(1, 4, device="meta")}] * 2),
        "ValueError: targets: expected boxes, labels, iscrowd on one device, got 'boxes' on meta, 'labels' on cpu",
    ),
    "boxes are complex": (
        lambda: framed(targets=both(boxes=torch.ones(1, 4).cfloat())),
        "TypeError: targets[1]: expected 'boxes' of floating point or whole numbers, signed or uint8, got "
        "torch.complex64; .float() or .long() gives that",
    ),
    "areas are of a type that torch cannot index": (
        lambda: pasted(targets=both(area=torch.ones(1).to(torch.uint16))),
        "TypeError: targets[1]: expected 'area' of floating point or whole numbers, signed or uint8, got torch.uint16; "
        ".float() or .long() gives that",
    ),
    "another field is of a type that torch cannot index": (
        lambda: framed(targets=[{**target((0, 0, 4, 4)), "scores": torch.ones(1, 3).to(torch.float8_e5m2)}] * 2),
        "TypeError: targets[0]: expected 'scores' of floating point or whole numbers, signed or uint8, got "
        "torch.float8_e5m2; .float() or .long() gives that",
    ),
    "boxes are no numbers, though nothing is pasted": (
        lambda: pasted(targets=both(boxes=nan), p=0.0),
        "ValueError: targets[1]: expected boxes (x1, y1, x2, y2) in pixels, none beyond 65536, with "
        "x1 <= x2 and y1 <= y2, got [0.0, 0.0, nan, 4.0]",
    ),
    "masks are of another size, though nothing is pasted": (
        lambda: pasted(targets=both(masks=torch.ones(1, 4, 4).byte()), p=0.0),
        "ValueError: targets[1]: expected 'masks' of shape (1, 8, 8) (1 label, image of 8 x 8), got (1, 4, 4)",
    ),
    "scores are too few, though nothing is pasted": (
        lambda: pasted(targets=both(scores=torch.ones(2)), p=0.0),
        "ValueError: targets[0]: lacks 'scores', which other targets of the batch have for each object (1 here)",
    ),
    "class ids are of another size, though nothing is pasted": (
        lambda: pasted(targets=ids[:, :4], p=0.0),
        "ValueError: targets: expected class ids of shape (2, 8, 8), the size of images[0], got (2, 4, 8)",
    ),
    "boxes alone are no numbers": (
        lambda: framed(targets=[{"boxes": nan, "labels": torch.ones(1).long()}] * 2),
        "ValueError: targets[0]: expected boxes (x1, y1, x2, y2) in pixels, none beyond 65536, with "
        "x1 <= x2 and y1 <= y2, got [0.0, 0.0, nan, 4.0]",
    ),
    "another field is sparse": (
        lambda: pasted(targets=[{**target((0, 0, 4, 4)), "scores": torch.ones(1, 3).to_sparse()}] * 2),
        "TypeError: targets[0]: expected 'scores' to be a dense tensor, got torch.sparse_coo; .to_dense() gives one",
    ),
    "boxes are no numbers": (
        lambda: pasted(targets=both(boxes=nan)),
        "ValueError: targets[1]: expected boxes (x1, y1, x2, y2) in pixels, none beyond 65536, with "
        "x1 <= x2 and y1 <= y2, got [0.0, 0.0, nan, 4.0]",
    ),
    "boxes lie farther off than any image is wide": (
        lambda: pasted(targets=both(boxes=torch.tensor([[0.0, 0.0, 1e6, 4.0]]))),
        "ValueError: targets[1]: expected boxes (x1, y1, x2, y2) in pixels, none beyond 65536, with "
        "x1 <= x2 and y1 <= y2, got [0.0, 0.0, 1000000.0, 4.0]",
    ),
    "boxes end before they begin": (
        lambda: pasted(targets=both(boxes=torch.tensor([[4.0, 4.0, 2.0, 6.0]]))),
        "ValueError: targets[1]: expected boxes (x1, y1, x2, y2) in pixels, none beyond 65536, with "
        "x1 <= x2 and y1 <= y2, got [4.0, 4.0, 2.0, 6.0]",
    ),
    "boxes are turned": (
        lambda: pasted(targets=both(boxes=turned)),
        "ValueError: targets[1]: expected boxes of format XYXY, XYWH, CXCYWH, got CXCYWHR; give rotated "
        "boxes under a key of their own, which the setting geometry names, and upright ones as 'boxes'",
    ),
    "rows of another field differ": (
        lambda: pasted(targets=[{**target((0, 0, 4, 4)), "scores": torch.ones(1, n)} for n in (2, 3)]),
        "ValueError: targets[1]: expected 'scores' with rows of shape (2,), as targets[0] has, got (3,)",
    ),
    "the labels of one image are on another device": (
        lambda: pasted(targets=both(labels=torch.tensor([1], device="meta"))),
        "ValueError: targets: expected 'labels' of all images on one device, got some on cpu and some on meta",
    ),
    "the areas of one image are on another device than the boxes of one without areas": (
        lambda: pasted(targets=[target((0, 0, 4, 4), area=torch.ones(1, device="meta")), target((0, 0, 4, 4))]),
        "ValueError: targets: expected 'area' of all images on one device, got some on cpu and some on meta",
    ),
    "the crowds of one image are on another device than the labels of one without crowds": (
        lambda: pasted(targets=[target((0, 0, 4, 4)), target((0, 0, 4, 4), iscrowd=torch.zeros(1, device="meta"))]),
        "ValueError: targets: expected 'iscrowd' of all images on one device, got some on cpu and some on meta",
    ),
    "the scores of one image are on another device": (
        lambda: pasted(targets=[target((0, 0, 4, 4), scores=torch.ones(1, device=at)) for at in ("cpu", "meta")]),
        "ValueError: targets[1]: expected 'scores' on cpu, as targets[0] has it, got meta",
    ),
    "the areas of one image are on another device": (
        lambda: pasted(targets=[{**target((0, 0, 4, 4)), "area": torch.ones(1, device=at)} for at in ("meta", "cpu")]),
        "ValueError: targets: expected 'area' of all images on one device, got some on cpu and some on meta",
    ),
    "a target with a key that looks like positions lacks labels": (
        lambda: pasted(targets=[unlabelled(note=torch.ones(1, 4)), target((0, 0, 4, 4))]),
        "ValueError: targets[0]: expected 'labels', got ['boxes', 'masks', 'note']",
    ),
    # of a plan that is only drawn
    "images of a plan to draw are arrays": (
        lambda: plan_batch([np.zeros((3, SIDE, SIDE))] * 2, both()),
        "TypeError: images[0]: expected a tensor (c, h, w), got ndarray",
    ),
    "targets of a plan to draw are one dict": (
        lambda: plan_batch(make_images(), target((0, 0, 4, 4))),
        "TypeError: targets: expected a list of targets or a tensor of class ids, got dict",
    ),
    # all others
    "the generator is a seed": (
        lambda: plan_batch(make_images(), both(), generator=3),
        "TypeError: generator: expected a torch.Generator, got 3; torch.Generator().manual_seed(0) is one",
    ),
    "the generator is on a device": (
        lambda: framed(generator=OnDevice()),
        "ValueError: generator: expected one on the CPU, which draws the same for every device, got one on cuda",
    ),
    "the plan is JSON": (
        lambda: pasted(plan="[]"),
        "TypeError: plan: expected a PastePlan, got '[]'; PastePlan.from_json and from_rows make one",
    ),
    "a plan's columns are lists": (
        lambda: pasted(plan=replace(IN_PLACE, source=[1])),
        "ValueError: plan: expected source to be a tensor of shape (1,), got list",
    ),
    "a plan's targets are a list": (
        lambda: pasted(plan=replace(IN_PLACE, target=[0])),
        "ValueError: plan: expected target to be a tensor of shape (0,), got list",
    ),
    "a plan's targets are one number": (
        lambda: pasted(plan=replace(IN_PLACE, target=torch.tensor(0))),
        "ValueError: plan: expected target to be a tensor of shape (0,), got ()",
    ),
    "a plan's columns differ in length": (
        lambda: pasted(plan=replace(IN_PLACE, instance=torch.tensor([0, 0]))),
        "ValueError: plan: expected instance to be a tensor of shape (1,), got (2,)",
    ),
    "a plan's map is one for all": (
        lambda: pasted(plan=replace(IN_PLACE, to_source=IN_PLACE.to_source[0])),
        "ValueError: plan: expected to_source to be a tensor of shape (1, 2, 3), got (2, 3)",
    ),
    "a plan counts in fractions": (
        lambda: pasted(plan=replace(IN_PLACE, target=torch.tensor([0.5]))),
        "ValueError: plan: expected target to hold whole numbers, got torch.float32",
    ),
    "a plan's map has a gradient": (
        lambda: pasted(plan=replace(IN_PLACE, to_source=IN_PLACE.to_source.clone().requires_grad_())),
        "ValueError: plan: expected to_source on the CPU and without a gradient, got it on cpu, requires_grad=True; "
        ".detach().cpu() gives that",
    ),
    "a plan is on a device": (
        lambda: pasted(plan=replace(IN_PLACE, source=IN_PLACE.source.to("meta"))),
        "ValueError: plan: expected source on the CPU and without a gradient, got it on meta; "
        ".detach().cpu() gives that",
    ),
    "a plan's map is complex": (
        lambda: pasted(plan=replace(IN_PLACE, to_source=IN_PLACE.to_source.cfloat())),
        "ValueError: plan: expected to_source to hold real numbers, got torch.complex64",
    ),
    "a plan names objects by booleans": (
        lambda: pasted(plan=replace(IN_PLACE, source=torch.tensor([True]))),
        "ValueError: plan: expected source to hold whole numbers, got torch.bool",
    ),
    "a row of a plan is short": (
        lambda: PastePlan.from_rows([IN_PLACE_ROW, (0, 1)]),
        "ValueError: plan: row 1: expected (target, source, instance, to_source, color, blend_sigma, "
        "transfer_strength, seed), perhaps without the last ones, got (0, 1)",
    ),
    "a row of a plan is a number": (
        lambda: PastePlan.from_rows([7]),
        "ValueError: plan: row 0: expected (target, source, instance, to_source, color, blend_sigma, "
        "transfer_strength, seed), perhaps without the last ones, got 7",
    ),
    "rows of a plan come one after the other and name no source": (
        lambda: PastePlan.from_rows(row for row in [(0, "1", 0, IDENTITY)]),
        "ValueError: plan: row 0: expected source to be a whole number, got '1'",
    ),
    "a row of a plan names no source": (
        lambda: PastePlan.from_rows([(0, "1", 0, IDENTITY)]),
        "ValueError: plan: row 0: expected source to be a whole number, got '1'",
    ),
    "a row of a plan in JSON is a number": (
        lambda: PastePlan.from_json("[1]"),
        "ValueError: expected a JSON list of objects with target, source, instance, to_source (2 x 3 numbers) and "
        "perhaps color (3 numbers), blend_sigma, transfer_strength, seed: TypeError: got 1 in the list",
    ),
    "a row of a plan counts in booleans": (
        lambda: PastePlan.from_rows([(0, True, 0, IDENTITY)]),
        "ValueError: plan: row 0: expected source to be a whole number, got True",
    ),
    "a map in a row of a plan is ragged": (
        lambda: PastePlan.from_rows([(0, 1, 0, ((1, 0), (0, 1, 0)))]),
        "ValueError: plan: row 0: expected to_source to be 2 x 3 numbers, got ((1, 0), (0, 1, 0))",
    ),
    "a map in a row of a plan has a number that no float can hold": (
        lambda: PastePlan.from_rows([(0, 1, 0, ((1, 0, 0), (0, 1, 10**309)))]),
        f"ValueError: plan: row 0: expected to_source to be 2 x 3 numbers, got ((1, 0, 0), (0, 1, {10**309}))",
    ),
    "colors of a plan are factors that no image's type can hold": (
        lambda: pasted(plan=PastePlan.from_rows([(*IN_PLACE_ROW, (1, 1, 1e300))])),
        "ValueError: plan: expected factors of color from 0 to 1024, got [1.0, 1.0, 1e+300]",
    ),
    "colors in a row of a plan are one factor": (
        lambda: PastePlan.from_rows([(*IN_PLACE_ROW, 0.5)]),
        "ValueError: plan: row 0: expected color to be 3 numbers, got 0.5",
    ),
    "the state of a bank is of something else": (
        lambda: InstanceBank(3).load_state_dict({}),
        "ValueError: bank: expected the state that state_dict gave, {'pictures': [...]}, got one that cannot be read "
        "(KeyError: 'pictures'); a new InstanceBank starts without one",
    ),
    "a bank's state has a mask larger than its image": (
        lambda: pasted_from_bank(masks=[torch.ones(4000, 4000, dtype=torch.uint8)]),
        "ValueError: a remembered object or a cut-out: expected a uint8 mask of its image's size, got torch.uint8 of "
        "(4000, 4000) and an image of (3, 5, 5)",
    ),
    "a bank's state has a mask of another type": (
        lambda: pasted_from_bank(masks=[torch.ones(5, 5)]),
        "ValueError: a remembered object or a cut-out: expected a uint8 mask of its image's size, got torch.float32 of "
        "(5, 5) and an image of (3, 5, 5)",
    ),
    "a bank's state has a box without an end": (
        lambda: pasted_from_bank(host_boxes=nan.double()),
        "ValueError: a remembered object or a cut-out: expected a finite box, got [0.0, 0.0, nan, 4.0]",
    ),
    "the bank is a number": (lambda: pasted(bank=3), "TypeError: bank: expected an InstanceBank, got 3"),
    "the pool is a folder": (
        lambda: pasted(pool="cutouts"),
        "TypeError: pool: expected a pool of cut-outs such as a CutOutPool, got 'cutouts'",
    ),
    "category names are not all text": (
        lambda: pasted(category_names=["cat", 3]),
        "TypeError: category_names: expected a list of names, that of label 1 first, got ['cat', 3]",
    ),
    "weights of categories are to be counted": (
        lambda: pasted(category_weights="repeat_factor", category_names=["cat"]),
        "ValueError: category_weights: 'repeat_factor' is counted in a data set, which is not known here; give "
        "category_weights=rare_category_weights(annotations, 'repeat_factor') and category_names",
    ),
    "the size of a bank is text": (
        lambda: InstanceBank("3"),
        "TypeError: size: expected a whole number of objects, 1 or more, got '3'",
    ),
    "overlaps of something else than boxes and masks": (
        lambda: CocoMeanAveragePrecision(iou_types=("bbox", "keypoints")),
        "ValueError: iou_types: expected 'bbox', 'segm' or both, got ('bbox', 'keypoints')",
    ),
}


WITH_AN_OLD_SETTING = {
    "copypaste_batch": lambda: copypaste_batch(make_images(), both(), categories=(1,), p=0.0),
    "plan_batch": lambda: plan_batch(make_images(), both(), categories=(1,), p=0.0),
    "CopyPasteTransform": lambda: CopyPasteTransform(categories=(1,)),
}


def warned_line(call):
    """The line that the one warning of a call points at."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OldSettingWarning)
        call()
    (warning,) = caught
    return linecache.getline(warning.filename, warning.lineno)


def said(call):
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.fixture(scope="module")
def answers():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # with the folder of the shared helpers
    run = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_argument_is_an_error_that_says_where_and_what(case, answers):
    assert answers[case] == CASES[case][1]


@pytest.mark.parametrize("function", WITH_AN_OLD_SETTING)
def test_a_warning_points_at_the_line_that_gave_the_setting(function, answers):
    assert f": {function}(" in answers[function]


@pytest.mark.parametrize("shape", [(3, SIDE, 1), (3, SIDE, 3), (4, SIDE, 3), (5, 4, 3), (5, SIDE, 2), (5, SIDE, 5)])
def test_an_image_of_few_columns_is_not_taken_for_one_with_its_channels_last(shape):
    check_batch([torch.zeros(shape)], [target()])


if __name__ == "__main__":
    lines = {function: warned_line(call) for function, call in WITH_AN_OLD_SETTING.items()}
    print(json.dumps({case: said(call) for case, (call, _) in CASES.items()} | lines))
