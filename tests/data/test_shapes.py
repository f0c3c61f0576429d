"""The embedded data set."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from composer_copypaste.data import shapes
from composer_copypaste.data.shapes import CATEGORIES, MIN_PIXELS, Scene, Shape, draw_scene, draw_shapes, render_scene
from composer_copypaste.errors import DataError
from composer_copypaste.settings import ShapesSettings


@pytest.fixture
def settings(tmp_path):
    return ShapesSettings(folder=str(tmp_path / "shapes"), train=6, val=3, size=64)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def a_shape(category, centre, radius):
    name = CATEGORIES.index(category)
    colors = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    return Shape(name, centre, radius, 1.0, 0.0, "plain", colors, 8.0, 0.0)


def a_scene(*shapes):
    flat = (np.linspace(0, 1, 4, dtype=np.float32).reshape(2, 2), np.zeros((64, 64), dtype=np.float32))
    return Scene(64, "clouds", ((0.0, 0.0, 1.0),) * 3, 0.0, 8.0, flat, shapes)


def test_the_same_seed_draws_the_same_bytes(settings, tmp_path):
    first = contents(draw_shapes(settings))
    np.random.seed(99)  # noqa: NPY002 - the global state must not matter
    again = contents(draw_shapes(replace(settings, folder=str(tmp_path / "again"))))
    assert len(first) == 6 + 3 + 3
    assert first == again


def test_another_seed_draws_other_images(settings, tmp_path):
    first = contents(draw_shapes(settings))
    other = contents(draw_shapes(replace(settings, folder=str(tmp_path / "other"), seed=1)))
    images = [path for path in first if path.suffix == ".png"]
    assert all(first[path] != other[path] for path in images)


def test_a_larger_set_begins_with_the_images_of_a_smaller_one(settings, tmp_path):
    small = draw_shapes(settings)
    large = draw_shapes(replace(settings, folder=str(tmp_path / "large"), train=8))
    for path in sorted((small / "train").iterdir()):
        assert path.read_bytes() == (large / "train" / path.name).read_bytes()


def test_no_two_images_are_alike(settings):
    images = [data for path, data in contents(draw_shapes(settings)).items() if path.suffix == ".png"]
    assert len(set(images)) == len(images) == 9


def test_annotations_name_the_category_that_is_drawn(settings, monkeypatch):
    scene = a_scene(a_shape("disc", (15.0, 15.0), 10.0), a_shape("star", (45.0, 45.0), 15.0))
    monkeypatch.setattr(shapes, "draw_scene", lambda generator, size: scene)
    coco = COCO(draw_shapes(settings) / "annotations" / "instances_val.json")
    found = coco.loadAnns(coco.getAnnIds(imgIds=2))
    assert [coco.cats[annotation["category_id"]]["name"] for annotation in found] == ["disc", "star"]


def test_pycocotools_reads_what_is_written(settings):
    folder = draw_shapes(settings)
    coco = COCO(folder / "annotations" / "instances_train.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CATEGORIES)
    assert len(coco.getImgIds()) == 6
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(folder / "train" / image["file_name"]) as opened:
            assert opened.mode == "RGB"
            assert opened.size == (image["width"], image["height"]) == (64, 64)


def test_areas_and_boxes_are_those_of_the_masks(settings):
    folder = draw_shapes(settings)
    coco = COCO(folder / "annotations" / "instances_train.json")
    for annotation in coco.loadAnns(coco.getAnnIds()):
        rows, columns = np.nonzero(coco_mask.decode(annotation["segmentation"]))
        left, top, width, height = annotation["bbox"]
        assert annotation["area"] == len(rows)
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)


def test_masks_of_an_image_do_not_overlap_and_none_is_too_small():
    for seed in range(30):
        _, masks, categories = render_scene(draw_scene(np.random.default_rng(seed), 96))
        assert len(masks) == len(categories)
        assert masks.sum(axis=0).max(initial=0) <= 1
        assert all(mask.sum() >= MIN_PIXELS for mask in masks)


def test_what_lies_behind_loses_the_hidden_pixels():
    front, behind = a_shape("disc", (32.0, 32.0), 10.0), a_shape("disc", (32.0, 46.0), 10.0)
    _, masks, _ = render_scene(a_scene(front, behind))
    _, alone, _ = render_scene(a_scene(behind))
    assert np.array_equal(masks[1], alone[0] & ~masks[0])
    assert masks[1].sum() < alone[0].sum()


def test_a_shape_that_is_mostly_hidden_is_not_in_the_image_either():
    front, hidden = a_shape("disc", (32.0, 32.0), 12.0), a_shape("disc", (32.0, 39.0), 10.0)
    rest = render_scene(a_scene(hidden))[1][0] & ~render_scene(a_scene(front))[1][0]
    assert rest.sum() > MIN_PIXELS  # enough to see, but a small part of the whole
    image, masks, _ = render_scene(a_scene(front, hidden))
    assert len(masks) == 1
    assert np.array_equal(image, render_scene(a_scene(front))[0])


def test_a_mask_holds_the_pixels_whose_centres_are_inside():
    _, masks, _ = render_scene(a_scene(a_shape("disc", (32.0, 32.0), 5.0)))
    y, x = np.mgrid[:64, :64] + 0.5 - 32
    assert np.array_equal(masks[0], np.hypot(x, y) <= 5)


@pytest.mark.parametrize(
    ("category", "inside", "outside"),
    [  # points as (degrees from the shape's first corner, fraction of its radius)
        ("disc", [(0, 0.95), (77, 0.95)], [(0, 1.05), (77, 1.05)]),
        ("rectangle", [(45, 0.9), (0, 0.65), (90, 0.65)], [(45, 1.06), (0, 0.76), (90, 0.76)]),
        ("triangle", [(0, 0.85), (120, 0.85), (60, 0.48)], [(0, 1.06), (60, 0.6), (30, 0.75)]),
        ("star", [(0, 0.85), (72, 0.85), (36, 0.45)], [(36, 0.6), (18, 0.75), (180, 0.6)]),
    ],
)
def test_a_shape_has_its_corners_and_sides_where_they_belong(category, inside, outside):
    radius = 28.0
    _, masks, _ = render_scene(a_scene(a_shape(category, (32.0, 32.0), radius)))
    for points, expected in ((inside, True), (outside, False)):
        for degrees, fraction in points:
            x, y = (32 + radius * fraction * turn(np.deg2rad(degrees)) for turn in (np.cos, np.sin))
            assert masks[0][int(y), int(x)] == expected, (degrees, fraction)


def test_a_shape_shows_its_own_color_inside_its_mask():
    image, masks, _ = render_scene(a_scene(a_shape("rectangle", (32.0, 32.0), 20.0)))
    assert (image[masks[0]][:, 0] > image[masks[0]][:, 2]).mean() > 0.97  # red shape
    assert (image[~masks[0]][:, 2] > image[~masks[0]][:, 0]).mean() > 0.97  # on blue


def test_a_folder_drawn_with_the_same_settings_is_used_again(settings, monkeypatch):
    folder = draw_shapes(settings)
    monkeypatch.setattr(shapes, "_write_data_set", lambda *_: pytest.fail("drawn again"))
    assert draw_shapes(settings) == folder


def test_other_settings_are_named_and_nothing_is_overwritten(settings):
    folder = draw_shapes(settings)
    before = contents(folder)
    with pytest.raises(DataError, match=r"drawn with size=64, seed=0, expected size=96, seed=3\."):
        draw_shapes(replace(settings, size=96, seed=3))
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["notes.txt", shapes.STAMP])
def test_a_folder_with_something_else_is_refused(settings, tmp_path, name):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / name).write_text("mine")
    with pytest.raises(DataError, match="found something else"):
        draw_shapes(settings)
    assert os.listdir(tmp_path / "shapes") == [name]


def test_an_empty_folder_is_filled(settings, tmp_path):
    (tmp_path / "shapes").mkdir()
    assert len(contents(draw_shapes(settings))) == 12


def test_an_interrupted_drawing_leaves_nothing(settings, tmp_path, monkeypatch):
    calls = iter(range(100))

    def interrupted(scene):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return render_scene(scene)

    monkeypatch.setattr(shapes, "render_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_shapes(settings)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_faster_is_not_disturbed(settings, tmp_path, monkeypatch):
    ready = draw_shapes(replace(settings, folder=str(tmp_path / "ready")))

    def overtaken(folder, settings):
        folder.mkdir()
        ready.rename(tmp_path / "shapes")

    monkeypatch.setattr(shapes, "_write_data_set", overtaken)
    assert len(contents(draw_shapes(settings))) == 12


def test_a_place_that_cannot_be_written_is_named(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the shapes cannot be drawn there"):
        draw_shapes(replace(settings, folder=str(tmp_path / "file" / "shapes")))


def test_the_stamp_holds_the_settings(settings):
    stamp = json.loads((draw_shapes(settings) / shapes.STAMP).read_text())
    assert stamp == {"edition": shapes.EDITION, "train": 6, "val": 3, "size": 64, "seed": 0}
