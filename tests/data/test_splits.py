import json
from collections import Counter

import pytest
from coco_files import annotation

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.splits import draw_fractions, images_to_units
from composer_copypaste.errors import DataError


def load(coco_file, images=40, group=None, **keys):
    """Image i, from 1, has i % 3 objects of category 5, and every fourth has one of category 3."""
    entries = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 12} | keys for i in range(1, images + 1)]
    for entry in entries:
        entry |= {} if group is None else {"slide": group(entry["id"])}
    categories = [(i, 5) for i in range(1, images + 1) for _ in range(i % 3)]
    categories += [(i, 3) for i in range(1, images + 1) if i % 4 == 0]
    squares = [
        annotation(
            number,
            image_id=image,
            category_id=category,
            bbox=[x, 1, 4, 4],
            segmentation=[[x, 1, x + 4, 1, x + 4, 5, x, 5]],
        )
        for number, (image, category) in enumerate(categories, start=1)
        for x in [number % 8]
    ]
    return CocoAnnotations.load(coco_file(*squares, images=entries))


@pytest.mark.parametrize("seed", range(5))
def test_smaller_fractions_lie_inside_larger_ones(coco_file, seed):
    fractions = draw_fractions(load(coco_file), [0.5, 0.1, 1.0, 0.25], seed=seed)
    assert {fraction: len(ids) for fraction, ids in fractions.items()} == {0.5: 20, 0.1: 4, 1.0: 40, 0.25: 10}
    assert set(fractions[0.1]) < set(fractions[0.25]) < set(fractions[0.5]) < set(fractions[1.0])


def test_a_fraction_does_not_depend_on_the_others(coco_file):
    data = load(coco_file)
    together = draw_fractions(data, [0.1, 0.3, 0.7], seed=4)
    assert draw_fractions(data, [0.3], seed=4) == {0.3: together[0.3]}
    assert draw_fractions(data, [0.3], seed=5)[0.3] != together[0.3]


def test_ids_are_in_the_order_of_the_file(coco_file):
    data = load(coco_file)
    ids = [image.id for image in data.images]
    assert draw_fractions(data, [1.0], seed=0)[1.0] == tuple(ids)
    drawn = draw_fractions(data, [0.5], seed=0)[0.5]
    assert list(drawn) == [id_ for id_ in ids if id_ in drawn]


@pytest.mark.parametrize("seed", range(5))
def test_a_fraction_has_its_share_of_each_category_and_of_images_without_objects(coco_file, seed):
    data = load(coco_file, images=120)
    half = draw_fractions(data, [0.5], seed=seed)[0.5]
    found = Counter(a["category_id"] for image in half for a in data.annotations[image])
    assert abs(found[5] - 60) <= 1  # of 120
    assert abs(found[3] - 15) <= 1  # of 30
    empty = [image for image, objects in data.annotations.items() if not objects]
    assert abs(len(set(empty) & set(half)) - len(empty) / 2) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_images_of_a_group_are_drawn_together(coco_file, seed):
    data = load(coco_file, group=lambda image: image % 10)
    fractions = draw_fractions(data, [0.1, 0.26, 0.5], seed=seed, group="slide")
    assert [len(ids) for ids in fractions.values()] == [4, 12, 20]  # each group has four
    for ids in fractions.values():
        assert set(Counter(image % 10 for image in ids).values()) == {4}
    assert set(fractions[0.1]) < set(fractions[0.26]) < set(fractions[0.5])


def test_the_number_of_images_is_the_nearest_that_groups_allow(coco_file):
    data = load(coco_file, group=lambda image: "large" if image > 20 else image)
    for seed in range(5):
        fractions = draw_fractions(data, [0.1, 0.5, 0.6], seed=seed, group="slide")
        assert [len(ids) for ids in fractions.values()] == [4, 20, 20]
        assert max(fractions[0.1]) <= 20


def test_an_image_without_the_key_is_named(coco_file):
    data = load(coco_file, group=lambda image: None if image == 7 else "a")
    with pytest.raises(DataError) as caught:
        draw_fractions(data, [0.5], seed=0, group="slide")
    assert str(caught.value) == (
        f'{data.path}: 1 of 40 images have no "slide" to group them by: images 7; the keys of the first image are id, '
        "file_name, height, width, slide"
    )


def test_a_fraction_without_an_image_is_refused(coco_file):
    data = load(coco_file)
    with pytest.raises(DataError, match=r"the fraction 0.01 of 40 images is 0.4 images: no image is drawn. Expected a"):
        draw_fractions(data, [0.5, 0.01], seed=0)
    grouped = load(coco_file, group=lambda image: image % 2)
    with pytest.raises(DataError, match=r'0\.1 of 40 images is 4 images, and the smallest group by "slide" has 20'):
        draw_fractions(grouped, [0.1], seed=0, group="slide")


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_is_a_part_of_the_whole(coco_file, fraction):
    with pytest.raises(ValueError, match="fractions: expected numbers more than 0 and at most 1, got"):
        draw_fractions(load(coco_file), [fraction], seed=0)


def test_a_negative_seed_is_refused(coco_file):
    with pytest.raises(ValueError, match="seed: expected 0 or more, got -1"):
        draw_fractions(load(coco_file), [0.5], seed=-1)


def test_groups_that_share_an_image_are_one_unit():
    slides = {1: "a", 2: "a", 3: "b"}
    patients = {3: "x", 4: "x", 2: "x"}
    assert images_to_units([5, 4, 3, 2, 1], [slides, patients]) == [(5,), (4, 3, 2, 1)]
    assert images_to_units([1, 2], []) == [(1,), (2,)]


def test_values_of_a_group_differ_by_type(coco_file):
    data = load(coco_file, images=4, group=lambda image: [1, "1", 1, True][image - 1])
    sizes = {len(draw_fractions(data, [0.25], seed=seed, group="slide")[0.25]) for seed in range(5)}
    assert sizes == {1}
    assert json.loads(data.path.read_text())["images"][3]["slide"] is True
