"""How much of the image's own objects pasted ones may cover: by box and by mask, wherever they are put."""

import numpy as np
import pytest
import torch
from copypaste_cases import Pool, block, cases, make_images, many, target
from hypothesis import given
from hypothesis import strategies as st
from reference import bank_crops, cut_outs, fixed, nearest, numpy

from composer_copypaste.functional import overlap
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.copypaste import copypaste_batch, plan_batch
from composer_copypaste.functional.overlap import covered_fraction
from composer_copypaste.functional.plan import ImageInfo
from composer_copypaste.functional.sampling import draw_plan
from composer_copypaste.settings import CopyPasteSettings

ALL = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0}
"""Settings with which every object is copied as it is."""
LEFT = (0, 0, 4, 8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def boxes_after(own, others, **settings):
    """The boxes of the objects that an image receives from another one, whose objects are rectangles."""
    images, targets = make_images(), [own, target(*others)]
    _, after = copypaste_batch(images, targets, generator=seeded(), **ALL | settings)
    return after[0]["boxes"][len(own["labels"]) :].tolist()


def in_corner():
    """An object whose box is the whole image, and whose mask is its last row and column."""
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 7], mask[0, :, 7] = 1, 1
    return target((0, 0, 8, 8)) | {"masks": mask}


def test_objects_that_stay_at_their_place_are_left_out_where_they_cover_too_much():
    others = [(0, 0, 2, 2), (3, 3, 5, 5), (5, 0, 7, 2)]
    assert boxes_after(target(LEFT), others, max_overlap=0.0) == [[5, 0, 7, 2]]
    assert boxes_after(target(LEFT), others, max_overlap=0.5) == [[3, 3, 5, 5], [5, 0, 7, 2]]
    assert boxes_after(target(LEFT), others, max_overlap=0.49) == [[5, 0, 7, 2]]


def test_by_mask_what_counts_is_the_pixels_that_are_covered():
    others = [(2, 2, 4, 4), (6, 6, 8, 8), (6, 0, 8, 1)]
    assert boxes_after(in_corner(), others, max_overlap=0.5) == []
    assert boxes_after(in_corner(), others, max_overlap=0.5, overlap_by="mask") == [[2, 2, 4, 4], [6, 0, 8, 1]]
    assert boxes_after(in_corner(), others, max_overlap=0.75, overlap_by="mask") == [list(box) for box in others]
    assert boxes_after(in_corner(), others, max_overlap=0.49, overlap_by="mask") == [[2, 2, 4, 4]]


def test_by_mask_objects_count_wherever_they_are_in_a_wide_image():
    there = target((6, 0, 8, 2)) | {"masks": block(6, 0, 8, 2, (4, 8))[None]}
    settings = ALL | {"max_overlap": 0.5, "overlap_by": "mask"}
    assert len(plan_batch(make_images()[:, :, :4], [there, there], generator=seeded(), **settings)) == 0


def test_those_with_the_least_overlap_are_copied_first():
    others = [(0, 0, 4, 1), (2, 2, 6, 3), (3, 4, 7, 5), (1, 6, 5, 7)]  # 4, 2, 1 and 3 of their 4 pixels
    for number, expected in ((1, [2]), (2, [1, 2]), (3, [1, 2, 3])):
        settings = {"least_overlap_first": True, "max_copied_instances": number, "min_visibility": 0.0}
        for by in ("box", "mask"):
            found = boxes_after(target((0, 0, 4, 8)), others, overlap_by=by, **settings)
            assert found == [list(others[k]) for k in expected]


def test_the_number_that_is_copied_is_drawn_as_without_an_order():
    own, others = target(LEFT), target((4, 0, 6, 2), (4, 4, 6, 6), (6, 6, 8, 8))
    counts = [
        len(plan_batch(make_images(), [own, others], generator=seeded(seed), p=1.0, least_overlap_first=True).target)
        for seed in range(100)
    ]
    assert set(counts) == {0, 1, 2, 3, 4}  # up to three of the one image and one of the other


@pytest.mark.parametrize("by", ["box", "mask"])
def test_of_all_places_that_are_tried_the_one_with_the_least_overlap_is_taken(by):
    own = target((0, 0, 8, 6), (0, 6, 6, 8))  # all but four pixels
    settings = {"placement": "random", "placement_tries": 500, "overlap_by": by}
    assert boxes_after(own, [(0, 0, 2, 2)], least_overlap_first=True, **settings) == [[6, 6, 8, 8]]
    assert boxes_after(own, [(0, 0, 2, 2)], max_overlap=0.0, **settings) == [[6, 6, 8, 8]]


@pytest.mark.parametrize("scene", [{}, {"place_map": [[1.0]]}])
def test_of_places_of_the_same_overlap_the_first_is_taken(scene):
    targets = [target((0, 0, 8, 8)), target((0, 0, 2, 2))]
    settings = ALL | {"placement": "anywhere", "least_overlap_first": True} | scene
    once, often = (
        plan_batch(make_images(), targets, generator=seeded(), placement_tries=tries, **settings) for tries in (1, 9)
    )
    assert torch.equal(once.to_source[once.target == 0], often.to_source[often.target == 0])
    assert (often.target == 0).sum() == 1


def test_of_class_id_maps_only_objects_are_in_the_way():
    maps = torch.zeros(2, 8, 8, dtype=torch.int64)
    maps[0, :, :4], maps[0, 0, 7] = 3, 255
    maps[1, 1:3, 2:6] = 5
    for by, limit, expected in (("box", 0.5, 8), ("box", 0.49, 0), ("mask", 0.5, 8), ("mask", 0.49, 0)):
        settings = ALL | {"max_overlap": limit, "overlap_by": by}
        _, after = copypaste_batch(make_images(), maps, generator=seeded(), **settings)
        assert (after[0] == 5).sum() == expected


def test_by_mask_a_pasted_class_is_where_its_pixels_are():
    maps = torch.zeros(2, 8, 8, dtype=torch.int64)
    maps[0, :, :4] = 3
    maps[1, 7], maps[1, :, 7] = 5, 5  # 4 of its 15 pixels lie on the other, and half of its box
    for by, limit, expected in (("mask", 0.3, 15), ("mask", 0.2, 0), ("box", 0.3, 0)):
        settings = ALL | {"max_overlap": limit, "overlap_by": by}
        _, after = copypaste_batch(make_images(), maps, generator=seeded(), **settings)
        assert (after[0] == 5).sum() == expected


def test_by_mask_an_own_object_of_a_class_is_where_its_pixels_are():
    maps = torch.zeros(2, 8, 8, dtype=torch.int64)
    maps[0, 7], maps[0, :, 7] = 3, 3
    maps[1, 2:4, 2:4] = 5
    found = [
        (copypaste_batch(make_images(), maps, max_overlap=0.0, overlap_by=by, **ALL)[1][0] == 5).sum()
        for by in ("box", "mask")
    ]
    assert found == [0, 4]


@pytest.mark.parametrize(("box", "expected"), [((2, 2, 4, 4), 1), ((6, 6, 8, 8), 0)])
def test_objects_of_a_bank_are_compared_by_mask_too(box, expected):
    bank = InstanceBank(4)
    copypaste_batch(make_images(1), [target(box)], bank=bank, p=0.0)
    settings = ALL | {"max_overlap": 0.5, "overlap_by": "mask", "bank": bank}
    assert len(plan_batch(make_images(1), [in_corner()], generator=seeded(), **settings)) == expected


def test_cut_outs_of_a_pool_are_compared_by_mask_too():
    ring = block(0, 0, 4, 4) - block(1, 1, 3, 3)
    pool = Pool((5, torch.zeros(3, 8, 8, dtype=torch.uint8), ring))
    settings = {"p": 1.0, "p_pool": 1.0, "pool_instances": (1, 1), "pool_scale_range": (1.0, 1.0), "p_flip": 0.0}
    settings |= {"max_overlap": 0.0, "placement_tries": 500, "pool": pool}
    own = target((3, 3, 5, 5))  # of 25 places the ring has one around it
    assert len(plan_batch(make_images(1), [own], overlap_by="box", **settings)) == 0
    plan = plan_batch(make_images(1), [own], overlap_by="mask", **settings)
    assert plan.to_source.tolist() == [[[1, 0, -2], [0, 1, -2]]]


@pytest.mark.parametrize("most_cells", [overlap.MOST_CELLS, 20, 1])
def test_the_fraction_of_a_box_that_others_cover_is_that_of_its_pixels(most_cells, monkeypatch):
    monkeypatch.setattr(overlap, "MOST_CELLS", most_cells)  # the grid is then looked at in strips of rows
    rng = np.random.default_rng(0)
    for _ in range(100):
        corners = rng.integers(0, 8, (rng.integers(1, 6), 2))
        others = np.concatenate([corners, corners + rng.integers(1, 6, corners.shape)], axis=1).astype(np.float64)
        x1, y1 = rng.integers(0, 6, 2)
        x2, y2 = x1 + rng.integers(1, 8), y1 + rng.integers(1, 8)
        covered = np.zeros((16, 16), dtype=bool)
        for left, top, right, bottom in others.astype(int):
            covered[top:bottom, left:right] = True
        expected = covered[y1:y2, x1:x2].mean()
        assert covered_fraction(np.array([x1, y1, x2, y2], dtype=np.float64), others) == pytest.approx(expected)


class Masks2x2:
    """The masks of an image whose objects are in the first columns, and of objects of 2 x 2 pixels."""

    def __init__(self, columns=8):
        self.columns = columns

    def own(self, target):
        return block(0, 0, self.columns, 8)

    def of_source(self, source, instance):
        return overlap.CroppedMask(torch.ones(2, 2, dtype=torch.uint8), (0, 0))


def test_of_a_mask_the_pixels_that_the_image_shows_count_and_there_may_be_none():
    shifts = np.array([[0.0, 0.0], [7.0, 7.0], [20.0, 0.0]])  # inside; a pixel of it; outside
    same, boxes = np.tile(np.eye(2), (3, 1, 1)), np.tile([0.0, 0.0, 2.0, 2.0], (3, 1))
    objects = overlap.ToPlace(same, same, boxes, np.zeros(3, np.int64), np.zeros(3, np.int64), np.ones(3))
    found = overlap.covered_fractions_of_masks(Masks2x2(), 0, (8, 8), objects, shifts)
    assert found.tolist() == [1, 1, 0]


def test_of_a_mask_the_pixels_count_that_its_box_cuts_off_however_large_they_become():
    linear, boxes = np.eye(2)[None] * 4, np.array([[0.75, 0.0, 2.0, 2.0]])
    objects = overlap.ToPlace(linear, 1 / 16 * linear, boxes, np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1))
    found = overlap.covered_fractions_of_masks(Masks2x2(columns=1), 0, (8, 8), objects, np.zeros((1, 2)))
    assert found.tolist() == [1 / 8]


def unchanged_squares(count):
    """Objects to be put somewhere that are 4 x 4 pixels and keep their size."""
    same, boxes = np.tile(np.eye(2), (count, 1, 1)), np.tile([0.0, 0.0, 4.0, 4.0], (count, 1))
    numbers = np.zeros(count, np.int64)
    return overlap.ToPlace(same, same, boxes, numbers, numbers, np.ones(count))


def test_of_a_box_the_part_counts_that_the_image_shows():
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 8.0, 8.0]]), np.ones(1))
    shifts = np.array([[6.0, 0.0], [-2.0, 0.0]])  # half is beyond the right edge, and beyond the left
    measured = overlap.Overlaps(CopyPasteSettings()).fractions(0, info, unchanged_squares(2), shifts)
    assert measured.tolist() == [1, 1]


def test_boxes_alone_cannot_be_compared_by_mask_where_an_image_has_objects():
    overlaps = overlap.Overlaps(CopyPasteSettings(overlap_by="mask", max_overlap=0.5))
    objects, shifts = unchanged_squares(1), np.zeros((1, 2))
    with pytest.raises(ValueError, match='overlap_by: "mask" needs masks, and here are boxes alone'):
        overlaps.fractions(0, ImageInfo(8, 8, np.array([[0.0, 0.0, 2.0, 2.0]]), np.ones(1)), objects, shifts)
    assert overlaps.fractions(0, ImageInfo(8, 8, np.zeros((0, 4)), np.ones(0)), objects, shifts).tolist() == [0]


@pytest.mark.parametrize("placement", ["random", "anywhere", "source"])
def test_where_any_overlap_is_allowed_none_is_measured(placement, monkeypatch):
    monkeypatch.setattr(overlap, "covered_fraction", None)  # calling it would fail
    info = ImageInfo(8, 8, np.array([[0.0, 0.0, 8.0, 8.0]]), np.ones(1))
    settings = CopyPasteSettings(**ALL, placement=placement, max_overlap=1.0)
    assert len(draw_plan([info, info], settings, seeded())) == 2


LIMITED = {"max_overlap": 0.3, "counts": st.integers(0, 6), "sides": st.integers(1, 40)}


@many(60)
@given(cases(overlap_by="mask", bank=True, **LIMITED))
def test_no_mask_of_a_drawn_batch_covers_more_than_allowed(case):
    pasted = case.paste()
    crops = bank_crops(*case.earlier, case.settings, case.bank_size) if case.earlier else []
    crops += cut_outs(case.pool, case.images[0].dtype) if case.pool else []
    sources = [*case.targets, *(fields for _, fields in crops)]
    assert all(covered <= 0.3 * area for area, covered in pixels_covered(case, pasted.plan, sources))


@many(60)
@given(cases(overlap_by="mask", placement="source", least_overlap_first=False, p_instance=1.0, **LIMITED))
def test_left_out_where_objects_stay_are_those_that_cover_more_and_no_others(case):
    case.knobs |= {"max_copied_instances": None, "label_weights": None}
    limited, case.knobs["overlap_by"], case.knobs["max_overlap"] = case.paste().plan, "box", 1.0
    plan = case.paste().plan
    rows = [
        row for row, (area, covered) in enumerate(pixels_covered(case, plan, case.targets)) if covered <= 0.3 * area
    ]
    assert limited.rows() == [plan.rows()[row] for row in rows]


@many(60)
@given(cases(overlap_by="box", placement="anywhere", rotation=0.0, **LIMITED))
def test_no_box_of_a_drawn_batch_covers_more_than_allowed(case):
    for row in case.paste().plan.rows():
        (xx, _, x), (_, yy, y) = row["to_source"]
        x1, y1, x2, y2 = case.targets[row["source"]]["boxes"][row["instance"]].double().tolist()
        across, down = sorted([(x1 - x) / xx, (x2 - x) / xx]), sorted([(y1 - y) / yy, (y2 - y) / yy])
        height, width = case.images[row["target"]].shape[-2:]
        box = np.clip([across[0], down[0], across[1], down[1]], 0, [width, height, width, height])
        own = case.targets[row["target"]]["boxes"].double().numpy()
        assert covered_fraction(box, own) <= 0.3 + 1e-9


def pixels_covered(case, plan, sources):
    """For each row of a plan the pixels of its mask in the target, and how many of them lie on own objects."""
    for row in range(len(plan)):
        number = int(plan.target[row])
        size = case.images[number].shape[-2:]
        own = (numpy(case.targets[number]["masks"]) != 0).any(axis=0)
        mask = numpy(sources[int(plan.source[row])]["masks"])[int(plan.instance[row])] != 0
        landed = nearest(mask, fixed(plan.to_source[row]), size)
        yield int(landed.sum()), int((landed & own).sum())
