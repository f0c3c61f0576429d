import json
from collections import Counter

import pytest
from coco_files import annotation
from image_sets import write_set

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.leaks import find_leaks
from composer_copypaste.data.splits import category_shares, draw_fractions, split_annotations
from composer_copypaste.errors import DataError, OutputError, UserError


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


@pytest.mark.parametrize("seed", range(3))
def test_a_fraction_has_its_share_of_each_category(coco_file, seed):
    data = load(coco_file, images=120)
    half = draw_fractions(data, [0.5], seed=seed)[0.5]
    found = Counter(a["category_id"] for image in half for a in data.annotations[image])
    assert abs(found[5] - 60) <= 1  # of 120
    assert abs(found[3] - 15) <= 1  # of 30


@pytest.mark.parametrize("seed", range(3))
def test_a_fraction_has_its_share_of_images_without_objects(coco_file, seed):
    """Also where they are few, so that they hardly count among those without any one category."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 12} for i in range(1, 61)]
    objects = [annotation(i, image_id=i, category_id=i % 12 + 1) for i in range(1, 57)]
    categories = [{"id": i, "name": str(i)} for i in range(1, 13)]
    data = CocoAnnotations.load(coco_file(*objects, images=images, categories=categories))
    assert len({57, 58, 59, 60} & set(draw_fractions(data, [0.5], seed=seed)[0.5])) == 2


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
    with pytest.raises(
        DataError, match=r'0\.1 of 40 images is 4 images, and the first group that is drawn, by "slide", has 20'
    ):
        draw_fractions(grouped, [0.1], seed=0, group="slide")


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_is_a_part_of_the_whole(coco_file, fraction):
    with pytest.raises(ValueError, match="fractions: expected numbers more than 0 and at most 1, got"):
        draw_fractions(load(coco_file), [fraction], seed=0)


def test_a_negative_seed_is_refused(coco_file):
    with pytest.raises(ValueError, match="seed: expected 0 or more, got -1"):
        draw_fractions(load(coco_file), [0.5], seed=-1)


def test_values_of_a_group_differ_by_type(coco_file):
    data = load(coco_file, images=4, group=lambda image: [1, "1", 1, True][image - 1])
    sizes = {len(draw_fractions(data, [0.25], seed=seed, group="slide")[0.25]) for seed in range(5)}
    assert sizes == {1}
    assert json.loads(data.path.read_text())["images"][3]["slide"] is True


# ---- disjoint parts


def ids_of(parts):
    return {name: [image.id for image in part.annotations.images] for name, part in parts.items()}


@pytest.mark.parametrize("seed", range(3))
def test_every_image_is_in_one_part_which_has_its_share_of_each_category(coco_file, tmp_path, seed):
    path = load(coco_file, images=120).path
    parts = split_annotations(path, tmp_path / "parts", {"train": 0.5, "val": 0.25, "test": 0.25}, seed=seed)
    images = ids_of(parts)
    assert {name: len(ids) for name, ids in images.items()} == {"train": 60, "val": 30, "test": 30}
    assert sorted(image for ids in images.values() for image in ids) == list(range(1, 121))
    for name, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
        shares = category_shares(parts[name].annotations, CocoAnnotations.load(path))
        assert shares == pytest.approx({"nut": share, "fig": share}, abs=0.07)


def test_the_parts_are_files_with_everything_of_their_images(coco_file, tmp_path):
    path = load(coco_file, group=lambda image: image % 10).path
    whole = json.loads(path.read_text())
    split_annotations(path, tmp_path, {"train": 0.8, "val": 0.2})
    train, val = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("train", "val"))
    assert train["categories"] == val["categories"] == whole["categories"]
    for kind in ("images", "annotations"):
        assert sorted(train[kind] + val[kind], key=lambda entry: entry["id"]) == whole[kind]
    assert {a["image_id"] for a in val["annotations"]} <= {image["id"] for image in val["images"]}


def test_a_group_is_in_one_part(coco_file, tmp_path):
    path = load(coco_file, group=lambda image: image % 10).path
    parts = split_annotations(path, tmp_path, {"train": 0.6, "val": 0.4}, group="slide")
    images = ids_of(parts)
    assert {image % 10 for image in images["train"]}.isdisjoint(image % 10 for image in images["val"])
    assert {name: len(ids) for name, ids in images.items()} == {"train": 24, "val": 16}


@pytest.mark.parametrize("seed", range(5))
def test_equal_files_are_in_one_part(tmp_path, seed):
    files = {f"{number}.png": bytes([number]) for number in range(10)}
    path = write_set(tmp_path, "all", files | {"4 again.png": bytes([4]), "more/4.png": bytes([4])})
    with pytest.warns(
        UserWarning, match=r"all: files that are equal byte by byte stay in one part: 4.png = 4 again.png = m"
    ):
        parts = split_annotations(path, tmp_path, {"a": 0.5, "b": 0.5}, images=tmp_path / "all", seed=seed)
    assert sum({5, 11, 12} <= set(ids) for ids in ids_of(parts).values()) == 1
    assert not find_leaks([tmp_path / "a.json", tmp_path / "b.json"], images=[tmp_path / "all"])


def test_a_file_under_two_ids_is_in_one_part_without_looking_at_it(coco_file, tmp_path):
    entries = [
        {"id": i, "file_name": name, "height": 8, "width": 12}
        for i, name in ((7, "a.png"), (8, "./a.png"), (9, "b.png"))
    ]
    path = coco_file(*[annotation(i, image_id=i) for i in (7, 8, 9)], images=entries)
    for seed in range(5):
        with pytest.warns(UserWarning, match="listed more than once, with the same objects"):
            parts = split_annotations(path, tmp_path / str(seed), {"a": 0.6, "b": 0.4}, seed=seed)
        assert sorted(ids_of(parts).values()) == [[7, 8], [9]]


def test_a_file_without_annotations_is_split(coco_file, tmp_path):
    path = load(coco_file).path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    parts = split_annotations(path, tmp_path, {"a": 0.5, "b": 0.5})
    assert [len(ids) for ids in ids_of(parts).values()] == [20, 20]


def test_another_file_is_not_overwritten_and_no_part_is_written(coco_file, tmp_path):
    path = load(coco_file).path
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "b.json").write_text("{}")
    with pytest.raises(OutputError, match=r"parts/b.json: is there already, and holds something else"):
        split_annotations(path, tmp_path / "parts", {"a": 0.5, "b": 0.5})
    assert [entry.name for entry in (tmp_path / "parts").iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": 0.8, "val": 0.1}, "parts: expected shares that add up to 1, got 0.9"),
        ({"train": 1.0}, "parts: expected shares between 0 and 1, got train=1"),
        ({"train": 1.2, "val": -0.2}, "parts: expected shares between 0 and 1, got train=1.2"),
        ({"../train": 0.5, "val": 0.5}, r"parts: expected names of files, such as train, got '../train'"),
        ({}, "parts: expected shares that add up to 1, got 0"),
    ],
)
def test_parts_that_are_no_whole_are_refused(coco_file, tmp_path, parts, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        split_annotations(load(coco_file).path, tmp_path, parts)


def test_thirds_may_be_rounded(coco_file, tmp_path):
    parts = split_annotations(load(coco_file, images=12).path, tmp_path, {"a": 0.333, "b": 0.333, "c": 0.333})
    assert [len(ids) for ids in ids_of(parts).values()] == [4, 4, 4]


def test_a_large_group_is_in_the_largest_part(coco_file, tmp_path):
    path = load(coco_file, group=lambda image: "large" if image > 20 else image).path
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    images = ids_of(split_annotations(path, tmp_path, shares, group="slide"))
    assert {name: len(ids) for name, ids in images.items()} == {"train": 32, "val": 4, "test": 4}


def test_a_part_without_images_is_named(coco_file, tmp_path):
    path = load(coco_file, images=12, group=lambda image: image % 2).path
    with pytest.raises(DataError, match=r"annotations.json: the part val=0.01 of 12 images has no image: expected a"):
        split_annotations(path, tmp_path, {"train": 0.99, "val": 0.01})
    with pytest.raises(DataError, match=r"the part val=0.2 of 12 images, of which up to 6 stay together, has no image"):
        split_annotations(path, tmp_path, {"train": 0.8, "val": 0.2}, group="slide")
    assert [path.name for path in tmp_path.glob("*.json")] == ["annotations.json"]
