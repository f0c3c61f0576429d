"""The pool of cut-outs: from COCO files and from images with transparency."""

import pickle

import numpy as np
import pytest
import torch
from coco_files import annotation
from PIL import Image

from composer_copypaste import CutOutPool
from composer_copypaste.errors import DataError

CATEGORIES = ["fig", "nut"]


def rgba(path, opaque=(2, 1, 5, 4), size=(8, 12), color=(10, 20, 30), hidden=(0, 0, 0), alpha=255):
    """An image of one color that is opaque in a rectangle (x1, y1, x2, y2)."""
    pixels = np.zeros((*size, 4), dtype=np.uint8)
    pixels[..., :3] = hidden
    x1, y1, x2, y2 = opaque
    pixels[y1:y2, x1:x2] = (*color, alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# COCO


def test_an_annotated_object_is_cut_from_its_image(coco_file, gradient):
    path = coco_file(annotation(bbox=[2, 1, 4, 4]))
    pool = CutOutPool.from_coco(path, path.parent)
    image, mask = pool.read(0)
    assert torch.equal(image, torch.from_numpy(gradient).permute(2, 0, 1)[:, 0:6, 1:7])  # one pixel around the box
    expected = torch.zeros(6, 6, dtype=torch.uint8)
    expected[1:5, 1:5] = 1
    assert torch.equal(mask, expected)
    assert pool.boxes.tolist() == [[1, 1, 5, 5]]
    assert pool.image_pixels.tolist() == [8 * 12]
    assert pool.labels.tolist() == [2]  # category 5 comes after category 3


def test_a_crop_ends_at_the_edge_of_its_image(coco_file, gradient):
    square = [[0.0, 4.0, 4.0, 4.0, 4.0, 8.0, 0.0, 8.0]]
    path = coco_file(annotation(bbox=[0, 4, 4, 4], segmentation=square))
    pool = CutOutPool.from_coco(path, path.parent)
    assert pool.read(0)[0].shape == (3, 5, 5)
    assert pool.boxes.tolist() == [[0, 1, 4, 5]]


def test_categories_are_matched_by_name_and_others_left_out(coco_file, gradient):
    path = coco_file(annotation(1), annotation(2, category_id=3))
    assert CutOutPool.from_coco(path, path.parent).labels.tolist() == [2, 1]
    assert CutOutPool.from_coco(path, path.parent, category_names=["pea", "nut"]).labels.tolist() == [2]
    with pytest.raises(DataError, match=r"annotations\.json: has no object of the categories pea, bean$"):
        CutOutPool.from_coco(path, path.parent, category_names=["pea", "bean"])


def test_crowds_do_not_become_cut_outs(coco_file, gradient):
    path = coco_file(annotation(1), annotation(2, iscrowd=1, category_id=3))
    assert CutOutPool.from_coco(path, path.parent).labels.tolist() == [2]


def test_files_are_checked_as_those_of_a_data_set(coco_file, gradient):
    path = coco_file(images=[{"id": 7, "file_name": "../gone.png", "height": 8, "width": 12}])
    with pytest.raises(DataError, match=r'file_name "\.\./gone\.png" leaves the image folder'):
        CutOutPool.from_coco(path, path.parent)
    path = coco_file(images=[{"id": 7, "file_name": "gone.png", "height": 8, "width": 12}])
    with pytest.raises(DataError, match=r"gone\.png \(image 7\): the file is missing"):
        CutOutPool.from_coco(path, path.parent)


def test_two_categories_of_one_name_are_an_error(coco_file, gradient):
    path = coco_file(categories=[{"id": 5, "name": "nut"}, {"id": 3, "name": "nut"}])
    with pytest.raises(DataError, match="two categories are called 'nut'"):
        CutOutPool.from_coco(path, path.parent)


# Images with transparency


def test_an_image_with_transparency_gives_its_opaque_part(tmp_path):
    rgba(tmp_path / "nut" / "a.png", opaque=(2, 1, 5, 4))
    pool = CutOutPool.from_folder(tmp_path, CATEGORIES)
    _, mask = pool.read(0)
    expected = torch.zeros(5, 5, dtype=torch.uint8)
    expected[1:4, 1:4] = 1
    assert torch.equal(mask, expected)
    assert pool.labels.tolist() == [2]
    assert pool.boxes.tolist() == [[1, 1, 4, 4]]
    assert pool.image_pixels.tolist() == [8 * 12]


def test_transparent_pixels_take_the_colors_next_to_them(tmp_path):
    rgba(tmp_path / "nut" / "a.png", color=(10, 20, 30), hidden=(255, 255, 255))
    image, _ = CutOutPool.from_folder(tmp_path, CATEGORIES).read(0)
    assert torch.equal(image, torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 5, 5))


def test_colors_of_the_object_stay_to_the_bit(tmp_path):
    path = rgba(tmp_path / "nut" / "a.png", opaque=(0, 0, 12, 8))
    pixels = np.arange(8 * 12 * 4, dtype=np.uint8).reshape(8, 12, 4)
    pixels[..., 3] = 255
    pixels[3, 4, 3] = 0
    Image.fromarray(pixels).save(path)
    image, mask = CutOutPool.from_folder(tmp_path, CATEGORIES).read(0)
    assert mask.sum() == 95
    assert torch.equal(image[:, mask.bool()], torch.from_numpy(pixels).permute(2, 0, 1)[:3, mask.bool()])


@pytest.mark.parametrize(("alpha", "pixels"), [(128, 9), (127, 0)])
def test_an_alpha_above_127_is_the_object_s(tmp_path, alpha, pixels):
    rgba(tmp_path / "nut" / "a.png", alpha=alpha)
    if pixels:
        assert CutOutPool.from_folder(tmp_path, CATEGORIES).read(0)[1].sum() == pixels
    else:
        with pytest.raises(DataError, match=r": nut/a\.png: the image is transparent: no alpha is above 127"):
            CutOutPool.from_folder(tmp_path, CATEGORIES)


def test_cut_outs_are_ordered_by_folder_and_file_and_hidden_files_are_none(tmp_path):
    for name in ("nut/b.png", "nut/a.png", "fig/c.png"):
        rgba(tmp_path / name)
    (tmp_path / "nut" / ".DS_Store").write_text("")
    assert CutOutPool.from_folder(tmp_path, CATEGORIES).labels.tolist() == [1, 2, 2]


def test_all_problems_of_a_folder_are_listed(tmp_path):
    rgba(tmp_path / "nut" / "good.png")
    rgba(tmp_path / "ntu" / "a.png")
    rgba(tmp_path / "stray.png")
    (tmp_path / "fig").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "nut" / "rgb.png")
    (tmp_path / "nut" / "text.png").write_text("no image")
    with pytest.raises(DataError) as error:
        CutOutPool.from_folder(tmp_path, CATEGORIES)
    assert str(error.value).splitlines() == [
        f"{tmp_path}: cannot be used as a pool of cut-outs: 5 problems",
        "  fig: the folder is empty, expected images with transparency",
        "  ntu: is no category; did you mean 'nut'?",
        "  stray.png: expected in a folder that has the name of its category",
        "  nut/rgb.png: the image has no transparency: save the cut-out with an alpha channel, as RGBA",
        "  nut/text.png: the image cannot be decoded: not an image in a known format",
    ]


def test_a_folder_that_is_missing_or_empty_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: there is no such folder of cut-outs$"):
        CutOutPool.from_folder(tmp_path / "nowhere", CATEGORIES)
    with pytest.raises(DataError, match=r"cut-outs: it is empty, expected folders that have the names of categories"):
        CutOutPool.from_folder(tmp_path, CATEGORIES)


# Memory


def test_pixels_are_kept_within_the_bound_those_drawn_last_first(tmp_path):
    paths = [rgba(tmp_path / "nut" / f"{name}.png") for name in "abc"]
    one = 5 * 5 * 4  # bytes of image and mask
    pool = CutOutPool.from_folder(tmp_path, CATEGORIES, megabytes=2 * one / 1e6)
    assert pool.nbytes == 0
    for number in (0, 1, 0, 2):
        pool.read(number)
        assert pool.nbytes <= 2 * one
    for path in paths:
        path.unlink()
    pool.read(0)
    pool.read(2)
    with pytest.raises(DataError, match=r"b\.png: the file is missing"):
        pool.read(1)


@pytest.mark.parametrize("megabytes", [-1, float("nan"), float("inf")])
def test_a_bound_that_is_no_size_is_an_error(tmp_path, megabytes):
    rgba(tmp_path / "fig" / "1.png")
    with pytest.raises(DataError, match=r"^megabytes: expected a number, 0 or more, got "):
        CutOutPool.from_folder(tmp_path, CATEGORIES, megabytes=megabytes)


def test_the_name_of_one_category_is_no_list_of_names(tmp_path):
    rgba(tmp_path / "fig" / "1.png")
    with pytest.raises(DataError, match=r"^category_names: expected a list of names, got 'fig'$"):
        CutOutPool.from_folder(tmp_path, "fig")


def test_a_cut_out_larger_than_the_bound_is_read_all_the_same(tmp_path):
    rgba(tmp_path / "nut" / "a.png")
    assert CutOutPool.from_folder(tmp_path, CATEGORIES, megabytes=1e-6).read(0)[1].sum() == 9


def test_a_pool_can_be_pickled(tmp_path, coco_file, gradient):
    rgba(tmp_path / "folder" / "fig" / "1.png")
    path = coco_file(annotation(1), annotation(2, category_id=3))
    for pool in (CutOutPool.from_folder(tmp_path / "folder", CATEGORIES), CutOutPool.from_coco(path, path.parent)):
        other = pickle.loads(pickle.dumps(pool))
        assert other.labels.tolist() == pool.labels.tolist()
        assert all(torch.equal(one, two) for one, two in zip(other.read(0), pool.read(0), strict=True))


# Filled at the start


@pytest.fixture
def unequal(tmp_path):
    """A pool of nine figs and two nuts, each in a window of 5 x 5 pixels: 100 bytes."""
    for name, count in (("fig", 9), ("nut", 2)):
        for number in range(count):
            rgba(tmp_path / name / f"{number}.png")
    return CutOutPool.from_folder(tmp_path, CATEGORIES, megabytes=510 / 1e6)


def test_a_filled_pool_has_one_cut_out_of_each_category_in_turn_as_many_as_its_memory_holds(unequal):
    pool = unequal.filled()
    assert sorted(pool.labels.tolist()) == [1, 1, 1, 2, 2]
    assert pool.nbytes == 500
    assert len({pool.cut_out(number).name for number in range(5)}) == 5


def test_a_filled_pool_reads_no_file_later(unequal, tmp_path):
    pool = unequal.filled()
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    for _ in range(2):
        assert [int(pool.read(number)[1].sum()) for number in range(len(pool))] == [9] * 5


def test_which_cut_outs_of_a_category_fill_a_pool_is_drawn(unequal):
    figs = [
        {pool.cut_out(number).name for number in range(5) if pool.labels[number] == 1}
        for pool in (unequal.filled(seed=seed) for seed in (0, 0, 1, 2))
    ]
    assert figs[0] == figs[1]
    assert len(set(map(frozenset, figs))) > 1


def test_a_pool_is_filled_with_the_cut_outs_that_may_be_copied(unequal):
    figs = np.flatnonzero(unequal.labels == 1)
    assert unequal.filled(figs.tolist()).labels.tolist() == [1] * 5


def test_a_memory_that_holds_no_cut_out_is_an_error(tmp_path):
    rgba(tmp_path / "fig" / "0.png")
    with pytest.raises(DataError, match=r"^megabytes: expected memory for at least one cut-out, got 5e-05$"):
        CutOutPool.from_folder(tmp_path, ["fig"], megabytes=0.00005).filled()
