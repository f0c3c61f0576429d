"""Images with objects on them, and sheets of them."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors
from torchvision.ops import box_convert

from composer_copypaste.visualize.draw import (
    GREY,
    PALETTE,
    PAPER,
    draw_at_size,
    draw_instances,
    image_sheet,
    prediction_sheet,
    save_png,
    training_sheet,
)

NAMES = ["disc", "star"]


def an_image(height=60, width=80, value=100):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def a_target(*boxes, labels=None, size=(60, 80), **fields):
    """Objects that fill their boxes (x1, y1, x2, y2)."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    labels = torch.tensor(labels or [1] * len(boxes), dtype=torch.long)
    return {"boxes": torch.tensor(boxes).reshape(-1, 4).float(), "labels": labels, "masks": masks, **fields}


class LargestTensor(TorchDispatchMode):
    """The size, in bytes, of the largest tensor that an operation inside gives."""

    nbytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.nbytes = max(
            [self.nbytes, *(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))]
        )
        return result


def pixel(image, y, x):
    return tuple(image[:, y, x].tolist())


def changed(one, other):
    return (one != other).any(dim=0)


# ---- one image


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6, 0.9])
def test_a_box_thinner_than_a_pixel_is_drawn_at_its_place(shift):
    target = a_target((0, 0, 0, 0))
    target["boxes"] = torch.tensor([[20.0, 10.0, 20.2, 10.2]]) + shift
    lines = changed(draw_instances(an_image(), target, NAMES), an_image())
    assert lines[round(10 + shift), round(20 + shift)]


def test_a_mask_is_tinted_inside_and_outlined_in_its_category_color():
    drawn = draw_instances(an_image(), a_target((10, 20, 50, 50), labels=[2]), NAMES)
    assert pixel(drawn, 49, 30) == PALETTE[1]
    expected = [round(0.68 * 100 + 0.32 * channel) for channel in PALETTE[1]]
    assert pixel(drawn, 40, 30) == tuple(expected)
    assert pixel(drawn, 40, 70) == (100, 100, 100)


def test_the_box_is_drawn_on_its_outermost_pixels():
    target = a_target((10, 20, 50, 50))
    target["masks"][:] = 0
    lines = changed(draw_instances(an_image(), target, NAMES), an_image())
    assert lines[20, 10:50].all()
    assert lines[49, 10:50].all()
    assert lines[20:50, 10].all()
    assert lines[20:50, 49].all()
    assert not lines[50:].any()
    assert not lines[:, 50:].any()


def test_objects_of_one_category_have_the_same_color_and_of_a_lone_category_each_its_own():
    target = a_target((0, 20, 30, 50), (40, 20, 70, 50))
    several, lone = (draw_instances(an_image(), target, names) for names in (NAMES, NAMES[:1]))
    assert pixel(several, 49, 10) == pixel(several, 49, 60) == PALETTE[0]
    assert (pixel(lone, 49, 10), pixel(lone, 49, 60)) == (PALETTE[0], PALETTE[1])


def test_a_crowd_is_hatched_in_grey():
    target = a_target((10, 20, 50, 50), iscrowd=torch.tensor([1]))
    drawn = draw_instances(an_image(value=0), target, NAMES)
    inside = drawn[:, 25:45, 15:45]
    assert (inside[0] == inside[1]).all()  # no color
    assert len(inside.unique()) == 2  # stripes
    assert pixel(drawn, 49, 30) == GREY


def test_the_outline_of_a_pasted_object_is_dashed_in_white():
    boxes = ((2, 20, 32, 50), (42, 20, 72, 50))
    drawn = draw_instances(an_image(), a_target(*boxes, pasted=torch.tensor([False, True])), NAMES)
    white = (drawn == 255).all(dim=0)
    assert not white[:, :40].any()
    dashes = white[48, 42:72]
    assert 8 < dashes.sum() < 22


def test_labels_name_the_category_and_the_score():
    # what is written cannot be read back, so: other names and scores give other pixels above the box, and only there
    target = a_target((10, 30, 70, 58))
    plain = draw_instances(an_image(), target, NAMES)
    renamed = draw_instances(an_image(), target, ["ring", "star"])
    scored = draw_instances(an_image(), target | {"scores": torch.tensor([0.5])}, NAMES)
    for other in (renamed, scored):
        rows = changed(plain, other).any(dim=1).nonzero()
        assert len(rows) > 0
        assert rows.max() < 30


def test_labels_do_not_cover_each_other():
    target = a_target((10, 20, 70, 58), (11, 20, 71, 58), labels=[1, 2])
    first, second = PALETTE[0], PALETTE[1]
    drawn = draw_instances(an_image(), target | {"masks": torch.zeros(2, 60, 80, dtype=torch.uint8)}, NAMES)
    for color in (first, second):
        own = (drawn == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(dim=0)
        assert own.sum() > 300  # a label's background, more than the box's lines alone


def test_the_label_of_a_small_object_is_outside_of_its_box():
    target = a_target((40, 30, 46, 36))
    labels = changed(draw_instances(an_image(), target, NAMES), draw_instances(an_image(), target, ["disc"]))
    assert labels.sum() > 200
    assert not labels[30:36, 40:46].any()


@pytest.mark.parametrize(
    ("neighbors", "top"),
    [
        ([], 16),
        ([(30, 12, 60, 29)], 36),  # below
        ([(10, 14, 75, 29), (10, 37, 75, 58)], None),
        ([(0, 0, 160, 120)], 16),  # on a table that it hides little of
    ],
)
def test_the_label_of_a_small_object_is_where_it_hides_no_other(neighbors, top, monkeypatch):
    written = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda pen, place, text, **options: written.append((text, place)))
    target = a_target((40, 30, 46, 36), *neighbors, labels=[2, *[1] * len(neighbors)], size=(120, 160))
    draw_instances(an_image(120, 160), target, NAMES)
    assert [round(place[1]) for text, place in written if text == "star"] == ([] if top is None else [top + 1])


def test_a_small_object_of_the_only_category_has_no_label():
    target = a_target((40, 30, 46, 36), scores=torch.tensor([0.9]))
    marks = changed(draw_instances(an_image(), target, ["disc"]), an_image())
    assert marks.sum() <= 36


@pytest.mark.parametrize("form", ["rles", "probabilities", "booleans"])
def test_masks_may_come_in_every_form_that_detections_have(form):
    target = a_target((10, 20, 50, 50))
    forms = {
        "rles": {"rles": [coco_mask.encode(np.asfortranarray(mask.numpy())) for mask in target["masks"]]},
        "probabilities": {"masks": target["masks"][:, None] * 0.6},
        "booleans": {"masks": target["masks"].bool()},
    }
    bare = {name: values for name, values in target.items() if name != "masks"}
    drawn = draw_instances(an_image(), bare | forms[form], NAMES)
    assert torch.equal(drawn, draw_instances(an_image(), target, NAMES))


def test_objects_without_masks_get_boxes():
    target = a_target((10, 20, 50, 50))
    del target["masks"]
    drawn = draw_instances(an_image(), target, NAMES)
    assert pixel(drawn, 49, 30) == PALETTE[0]
    assert pixel(drawn, 40, 30) == (100, 100, 100)


def test_an_image_without_objects_stays_as_it_is():
    image = an_image()
    assert torch.equal(draw_instances(image, a_target(), NAMES), image)


def test_drawing_leaves_its_arguments_alone():
    image, target = an_image(), a_target((10, 20, 50, 50))
    draw_instances(image, target, NAMES)
    assert (image == 100).all()
    assert target["masks"].sum() == 40 * 30


# ---- sheets


@pytest.mark.parametrize(("size", "columns"), [((32, 32), 4), ((128, 96), 3), ((128, 128), 2)])
def test_a_sheet_of_tiny_images_is_wide_enough_to_read(size, columns):
    height, width = size
    made = image_sheet([an_image(height, width)] * 5, columns)
    assert made.shape[2] >= 1200


def test_a_sheet_sets_its_images_row_by_row():
    values = [10, 60, 110, 160, 210]
    made = image_sheet([an_image(640, 640, value) for value in values], 2)
    found = [pixel(made, 300 + 650 * (number // 2), 300 + 650 * (number % 2))[0] for number in range(5)]
    assert found == values
    assert pixel(made, 300 + 650 * 2, 950) == PAPER


def test_captions_stand_above_their_images():
    images = [an_image(640, 640)] * 2
    made = image_sheet(images, 2, ["truth", "prediction"])
    assert made.shape[1] == image_sheet(images, 2).shape[1] + 26
    letters = (made[0, 10:36] < 128).any(dim=0)
    assert letters[10:60].any()
    assert letters[660:720].any()


def test_a_training_sheet_draws_float_and_byte_images_alike():
    target = a_target((10, 20, 50, 50))
    floats = torch.full((2, 3, 60, 80), 100 / 255)
    made = training_sheet(floats, [target] * 2, NAMES)
    assert torch.equal(made, training_sheet([an_image()] * 2, [target] * 2, NAMES))


@pytest.mark.parametrize("drawn", ["masks", "boxes"])
def test_a_training_sheet_scales_the_targets_with_the_image(drawn):
    target = a_target((40, 30, 80, 60))
    target["masks" if drawn == "boxes" else "boxes"][:] = 0
    made = training_sheet([an_image()], [target], NAMES)
    tint = changed(made, torch.full_like(made, 100))[36 + 250 :, 10:650]  # below the label
    columns = tint[:190].any(dim=0).nonzero()
    assert columns.min() == 320
    assert columns.max() == 639


def test_a_training_sheet_counts_what_was_pasted():
    target = a_target((10, 20, 50, 50), (0, 0, 5, 5))
    plain = training_sheet([an_image()], [target], NAMES)
    flagged = training_sheet([an_image()], [target | {"pasted": torch.tensor([False, False])}], NAMES)
    pasted = training_sheet([an_image()], [target | {"pasted": torch.tensor([True, False])}], NAMES)
    assert torch.equal(plain, flagged)
    assert changed(plain, pasted)[10:34].any()  # the caption


def test_images_of_different_sizes_share_a_sheet():
    targets = [a_target(size=(60, 80)), a_target(size=(200, 50))]
    assert training_sheet([an_image(60, 80), an_image(200, 50)], targets, NAMES).shape[2] >= 1200


def test_a_prediction_sheet_shows_truth_left_and_sure_detections_right():
    truth, low, sure = a_target((0, 20, 25, 50)), a_target((60, 0, 70, 10)), a_target((30, 20, 50, 50))
    found = {name: torch.cat([sure[name], low[name]]) for name in ("boxes", "labels")}
    found["rles"] = [coco_mask.encode(np.asfortranarray(one["masks"][0].numpy())) for one in (sure, low)]
    made = prediction_sheet([an_image()], [truth], [found | {"scores": torch.tensor([0.9, 0.4])}], NAMES)
    left, right = (changed(half, torch.full_like(half, 100)) for half in (made[:, 36:, 10:650], made[:, 36:, 660:1300]))
    below = slice(170, 390)  # labels
    assert left[below, :190].all()
    assert not left[below, 210:].any()
    assert right[below, 245:395].all()
    assert not right[below, :235].any()
    assert not right[:100, 480:].any()  # the unsure one


def test_objects_that_are_gone_are_crossed_out_where_they_were():
    nothing = a_target()
    plain = draw_at_size(an_image(100, 100), nothing, NAMES, 200)
    made = draw_at_size(an_image(100, 100), nothing, NAMES, 200, torch.tensor([[10.0, 20, 50, 60]]))
    different = changed(made, plain)
    assert different[40:120, 20:100].any(dim=1).all()  # twice as large, from corner to corner
    assert not different[130:].any()
    assert not different[:, 110:].any()
    edges, diagonals = [(40, 60), (119, 60), (80, 20), (80, 99)], [(60, 40), (100, 80), (60, 80), (100, 40)]
    for y, x in edges + diagonals:
        assert [230, 30, 30] in made[:, y - 1 : y + 2, x - 1 : x + 2].reshape(3, -1).T.tolist()
    assert torch.equal(draw_at_size(an_image(100, 100), nothing, NAMES, 200, torch.zeros(0, 4)), plain)


def test_a_saved_image_is_read_back_unchanged(tmp_path):
    image = torch.arange(3 * 8 * 9, dtype=torch.uint8).reshape(3, 8, 9)
    save_png(image, tmp_path / "new" / "image.png")
    read = np.asarray(Image.open(tmp_path / "new" / "image.png"))
    assert np.array_equal(read, image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("label", "names"), [(3, NAMES), (0, NAMES), (2, ["disc"]), (1, [])])
def test_a_label_without_a_name_is_written_as_a_number(label, names, monkeypatch):
    written = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda pen, place, text, **options: written.append(text))
    draw_instances(an_image(300, 400), a_target((10, 20, 390, 290), labels=[label], size=(300, 400)), names)
    assert written == [f"label {label}"]


def test_the_only_category_is_not_written():
    image, target = an_image(300, 400), a_target((10, 20, 390, 290), size=(300, 400))
    assert torch.equal(draw_instances(image, target, ["disc"]), draw_instances(image, target, [""]))


@pytest.mark.parametrize("kind", ["XYWH", "CXCYWH"])
def test_boxes_of_torchvisions_other_formats_are_drawn_where_they_are(kind):
    target = a_target((10, 20, 50, 44))
    boxes = tv_tensors.BoundingBoxes(
        box_convert(target["boxes"], "xyxy", kind.lower()), format=kind, canvas_size=(60, 80)
    )
    expected = training_sheet([an_image()], [target], NAMES)
    assert torch.equal(training_sheet([an_image()], [{**target, "boxes": boxes}], NAMES), expected)


@pytest.mark.parametrize("form", ["planes", "rles"])
def test_a_sheet_of_a_large_image_takes_the_memory_of_a_mask_not_of_all(form):
    size = (1500, 2000)
    target = a_target(*[(40 * k, 40 * k, 40 * k + 300, 40 * k + 300) for k in range(25)], size=size)
    if form == "rles":
        masks = target.pop("masks")
        target["rles"] = [coco_mask.encode(np.asfortranarray(mask.numpy())) for mask in masks]
    image = an_image(*size)
    training_sheet([image], [target], NAMES)  # loads fonts
    with LargestTensor() as seen:
        training_sheet([image], [target], NAMES)
    assert seen.nbytes <= 25 * size[0] * size[1]  # the masks that came in
