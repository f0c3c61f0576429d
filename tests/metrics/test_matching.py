"""Which detections find which objects by COCO's rules: rectangles, whose overlaps are seen at once."""

import numpy as np
import pytest
import torch
from metric_scenes import Scene, as_prediction, numbers, pycocotools_numbers, scored

from composer_copypaste import CocoMeanAveragePrecision

KINDS = ("bbox", "segm")
NAN = float("nan")


def rectangle(x1, y1, x2, y2, size):
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def scene_of(objects, found, size=(40, 50), crowds=()):
    """One image: corners of objects, and of what was found, the best first; ``crowds`` are numbers of objects."""
    scores = np.linspace(0.9, 0.1, len(found))
    prediction = as_prediction([(rectangle(*box, size), 1, score) for box, score in zip(found, scores, strict=True)])
    own = as_prediction([(rectangle(*box, size), 1, 1.0) for box in objects])
    crowd = torch.tensor([int(k in crowds) for k in range(len(objects))])
    masks = torch.from_numpy(np.stack([rectangle(*box, size) for box in objects]))
    target = {"boxes": own["boxes"], "labels": own["labels"], "masks": masks, "iscrowd": crowd, "image_id": 1}
    annotations = [
        {
            "id": k + 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(crowd[k]),
            "segmentation": {**own["rles"][k], "counts": own["rles"][k]["counts"].decode()},
        }
        for k, (x1, y1, x2, y2) in enumerate(objects)
    ]
    image = {"id": 1, "height": size[0], "width": size[1]}
    dataset = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    return Scene([prediction], [target], dataset, (1,))


def numbers_of(scene, kind):
    """Our numbers, which pycocotools has too."""
    found = numbers(scored(scene, category_ids=(1,)), kind)
    assert found == pytest.approx(pycocotools_numbers(scene, kind), abs=1e-12, nan_ok=True)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_overlap_of_just_the_threshold_is_enough(kind):
    found = numbers_of(scene_of([(0, 0, 10, 10)], [(0, 0, 5, 10)]), kind)
    assert (found["AP50"], found["AP75"], found["AP"]) == pytest.approx((1, 0, 0.1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("width", "height", "sizes"),
    [
        (1, 1, (1, NAN, NAN)),
        (31, 33, (1, NAN, NAN)),
        (32, 32, (1, 1, NAN)),
        (41, 25, (NAN, 1, NAN)),  # a pixel more
        (97, 95, (NAN, 1, NAN)),  # a pixel less
        (96, 96, (NAN, 1, 1)),
    ],
)
def test_both_ends_of_a_range_of_sizes_belong_to_it(kind, width, height, sizes):
    box = (2, 1, 2 + width, 1 + height)
    found = numbers_of(scene_of([box], [box], (100, 100)), kind)
    assert tuple(found[name] for name in ("APs", "APm", "APl")) == pytest.approx(sizes, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "sizes"),
    [((0, 0, 32, 32), (0.5, 0.5, 1)), ((0, 0, 96, 96), (1, 0.5, 0.5)), ((0, 0, 97, 96), (1, 1, 0.5))],
)
def test_what_finds_nothing_is_wrong_among_objects_of_its_own_size_only(kind, wrong, sizes):
    objects = [(100, 0, 108, 8), (100, 10, 140, 50), (100, 60, 200, 160)]
    found = numbers_of(scene_of(objects, [wrong, *objects], (170, 210)), kind)
    assert tuple(found[name] for name in ("APs", "APm", "APl")) == pytest.approx(sizes)
    assert found["AP"] == pytest.approx(0.75)


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_objects_overlapped_alike_the_last_is_found_so_that_the_first_stays_for_another(kind):
    objects = [(0, 0, 10, 10), (10, 0, 20, 10)]
    assert numbers_of(scene_of(objects, [(0, 0, 20, 10), objects[0]]), kind)["AP50"] == pytest.approx(1)
    assert numbers_of(scene_of(objects, [(0, 0, 20, 10), objects[1]]), kind)["AP50"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_lies_in_a_crowd_is_neither_right_nor_wrong(kind):
    objects = [(0, 0, 20, 20), (30, 30, 40, 40)]
    inside = [(0, 0, 5, 5), (1, 1, 6, 6), (10, 0, 20, 20)]
    assert numbers_of(scene_of(objects, [*inside, objects[1]], crowds=[0]), kind)["AP"] == pytest.approx(1)
    assert numbers_of(scene_of(objects, [*inside, objects[1]]), kind)["AP50"] < 1


@pytest.mark.parametrize("kind", KINDS)
def test_of_the_objects_that_do_not_count_the_one_is_found_that_is_overlapped_most(kind):
    too_large, small = [(0, 0, 33, 32), (8, 0, 41, 32)], (60, 0, 70, 10)  # for small ones
    found = [(7, 0, 38, 32), (1, 0, 32, 32), small]  # two of a small size; 0.88 and 0.94 of them and a large one shared
    assert numbers_of(scene_of([*too_large, small], found, (40, 80)), kind)["APs"] == pytest.approx(
        (8 + 1 / 2 + 1 / 3) / 10
    )


def test_the_best_detections_of_each_image_and_category_are_matched():
    def image(number, *scored_labels):
        masks = [(rectangle(0, 0, 4, 4, (8, 8)), label, score) for label, score in scored_labels]
        return as_prediction(masks), {**as_prediction(masks[:1]), "image_id": number}

    found = [image(1, (1, 0.1), (1, 0.3), (2, 0.2), (1, 0.4)), image(2, (1, 0.6), (1, 0.7), (2, 0.5))]
    metric = CocoMeanAveragePrecision(iou_types=("bbox",), max_dets=(1, 2), category_ids=(1, 2))
    metric.update(*(list(fields) for fields in zip(*found, strict=True)))
    assert metric.matches().tables["bbox"].scores.tolist() == [0.7, 0.6, 0.4, 0.3, 0.5, 0.2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crowd", [0, 1])
def test_an_object_that_counts_is_found_before_a_crowd_that_covers_more(kind, crowd):
    objects = [(0, 0, 20, 20), (0, 0, 20, 20)]
    objects[1 - crowd] = (0, 0, 10, 8)
    found = numbers_of(scene_of(objects, [(0, 0, 10, 10)], crowds=[crowd]), kind)
    assert (found["AP50"], found["AP75"], found["AP"]) == pytest.approx((1, 1, 0.7))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ((2, 0, 5, 40), (2, 0, 5, 40), 1),  # whole columns: one run of the code
        ((2, 0, 6, 40), (2, 0, 5, 40), 0.6),
        ((0, 0, 50, 10), (0, 10, 50, 20), 0),  # one above the other
        ((0, 0, 10, 40), (10, 0, 20, 40), 0),
        ((0, 0, 1, 1), (0, 0, 1, 1), 1),
        ((49, 39, 50, 40), (49, 39, 50, 40), 1),
    ],
)
def test_the_share_of_thresholds_that_an_overlap_reaches(kind, one, other, share):
    assert numbers_of(scene_of([one], [other]), kind)["AP"] == pytest.approx(share)


def grid(rows):
    """A mask of rows of text in which "#" is a pixel."""
    return np.array([[pixel == "#" for pixel in row] for row in rows.split()])


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (".# .. .. #.", ".# .. .. ..", 0.1),  # one run of the code: the foot of a column and the head of the next
        (".# .. .. #.", ".. .. .. #.", 0.1),
        ("## ## .. ..", ".# .# .. ..", 0.1),  # the second of two runs
        ("#. #. #. #.", "#. #. .. ..", 0.1),
        (".. .. .# .#", ".. .. .. .#", 0.1),  # to the end of the code
        (".# .. .. #.", "#. .. .. .#", 0),
        (".. .. .. ..", "## ## ## ##", 0),
    ],
)
def test_the_share_of_thresholds_that_an_overlap_of_any_pixels_reaches(one, other, share):
    for found, own in ((one, other), (other, one)):
        target = {"masks": torch.from_numpy(grid(own)[None]), "labels": [1], "boxes": [[0, 0, 2, 4]], "image_id": 1}
        metric = CocoMeanAveragePrecision(iou_types=("segm",))
        metric.update([as_prediction([(grid(found), 1, 0.9)])], [target])
        assert metric.compute()["segm/AP"] == pytest.approx(share)
