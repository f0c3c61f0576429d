"""Masks as cut-outs: the same pixels as planes, in less memory, in any process and on any device."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from composer_copypaste import CompactMasks
from composer_copypaste.compact_masks import as_compact
from composer_copypaste.data.rle import compact_masks, cropped_mask, draw_planes


@pytest.fixture
def planes():
    """Three masks of 6 x 9: a rectangle with a hole, one without a pixel, and one of two parts that touch edges."""
    masks = torch.zeros(3, 6, 9, dtype=torch.uint8)
    masks[0, 1:5, 2:7] = 1
    masks[0, 2, 3] = 0
    masks[2, 0, 0] = masks[2, 5, 8] = 1
    return masks


def test_only_the_windows_around_the_pixels_are_kept(planes):
    masks = CompactMasks.from_dense(planes)
    assert masks.windows.tolist() == [[1, 2, 5, 7], [0, 0, 0, 0], [0, 0, 6, 9]]
    assert len(masks.pixels) == 4 * 5 + 0 + 6 * 9
    assert (len(masks), masks.shape, masks.size) == (3, (3, 6, 9), (6, 9))
    assert masks.areas.tolist() == [19, 0, 2]
    assert masks.crop(0).tolist() == planes[0, 1:5, 2:7].tolist()


@pytest.mark.parametrize("form", [torch.Tensor.bool, torch.Tensor.byte, lambda masks: masks * 255])
def test_dense_gives_back_the_planes(planes, form):
    assert torch.equal(CompactMasks.from_dense(form(planes)).dense(), planes)
    assert torch.equal(draw_planes(CompactMasks.from_dense(form(planes))), planes)


def test_planes_become_cut_outs_of_the_whole_image_without_a_copy(planes):
    masks = as_compact(planes)
    assert masks.pixels.data_ptr() == masks.dense().data_ptr() == planes.data_ptr()
    assert as_compact(masks) is masks


@pytest.mark.parametrize(
    "index",
    [[2, 0], [], slice(1, None), np.array([True, False, True]), torch.tensor([0, 0]), torch.tensor([False] * 3)],
)
def test_objects_are_selected_as_those_of_a_tensor_are(planes, index):
    expected = planes[torch.from_numpy(index) if isinstance(index, np.ndarray) else index]
    assert torch.equal(CompactMasks.from_dense(planes)[index].dense(), expected)


def test_one_object_is_no_selection(planes):
    with pytest.raises(TypeError, match=r"masks\.crop\(k\)"):
        CompactMasks.from_dense(planes)[1]


def test_other_windows_show_what_lies_in_them(planes):
    windows = np.array([[0, 0, 3, 4], [1, 1, 2, 2], [4, 4, 6, 9]])
    masks = CompactMasks.from_dense(planes).in_windows(windows)
    for number, (y1, x1, y2, x2) in enumerate(windows.tolist()):
        assert torch.equal(masks.crop(number), planes[number, y1:y2, x1:x2])
    assert masks[np.zeros(0, int)].in_windows(np.zeros((0, 4), int)).shape == (0, 6, 9)


def test_in_any_window_an_object_shows_what_lies_there(planes):
    planes[1, 3:, 2:7] = 1
    masks = CompactMasks.from_dense(planes)
    ends = [(first, last) for first in range(6) for last in range(first + 1, 7)]
    for window in [(y1, x1, y2, x2) for y1, y2 in ends for x1, x2 in [*ends, (5, 9), (7, 9)]]:
        y1, x1, y2, x2 = window
        for number, plane in enumerate(planes):
            assert torch.equal(masks.part(number, window), plane[y1:y2, x1:x2])
    assert torch.equal(torch.stack(list(masks.planes())), planes)


def test_memory_is_that_of_the_pixels_and_of_four_numbers_of_64_bits_each(planes):
    assert CompactMasks.from_dense(planes).nbytes == (20 + 54) + 3 * 4 * 8


def test_masks_of_an_image_without_a_pixel_are_empty():
    masks = CompactMasks.from_dense(torch.zeros(2, 0, 9, dtype=torch.uint8))
    assert (masks.shape, masks.windows.tolist()) == ((2, 0, 9), [[0] * 4] * 2)


NOTHING = torch.zeros(8, dtype=torch.uint8)


@pytest.mark.parametrize("pixels", [NOTHING[:4, None], NOTHING[::2], NOTHING[:5], NOTHING[:3]])
def test_pixels_lie_in_a_row_and_are_as_many_as_the_windows_have(pixels):
    with pytest.raises(ValueError, match=r"^pixels: expected 4 in a row, as the windows have, got shape \("):
        CompactMasks(pixels, [[0, 0, 2, 2]], (6, 9))


def test_no_objects_are_masks_too():
    masks = CompactMasks.from_dense(torch.zeros(0, 6, 9, dtype=torch.uint8))
    assert (len(masks), masks.areas.tolist(), tuple(masks.dense().shape)) == (0, [], (0, 6, 9))


def test_a_segmentation_becomes_the_pixels_that_pycocotools_draws():
    outlines = [[np.array([1.0, 1, 8, 1, 8, 5])], {"size": [6, 9], "counts": b"X11"}]
    code = coco_mask.encode(np.asfortranarray(np.eye(6, 9, dtype=np.uint8)))
    masks = compact_masks([cropped_mask(outline, (6, 9)) for outline in (outlines[0], code)], (6, 9))
    expected = [coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines[0], 6, 9))), np.eye(6, 9)]
    assert np.array_equal(masks.dense().numpy(), expected)


def test_a_copy_is_the_same_and_shares_nothing(planes):
    masks = CompactMasks.from_dense(planes)
    for other in (pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks)):
        assert other.pixels.data_ptr() != masks.pixels.data_ptr()
        assert torch.equal(other.dense(), planes)
        assert other.size == masks.size


def test_a_loading_process_hands_over_only_the_windows(planes):
    wide = torch.zeros(3, 600, 900, dtype=torch.uint8)
    wide[:, :6, :9] = planes
    (masks,) = next(iter(DataLoader([CompactMasks.from_dense(wide)], num_workers=1, collate_fn=list)))
    assert masks.pixels.is_shared()
    assert masks.nbytes < wide.numel() / 100
    assert torch.equal(masks.dense(), wide)


def test_a_move_to_another_device_moves_the_pixels_alone(planes):
    masks = CompactMasks.from_dense(planes)
    moved = masks.to("meta", non_blocking=True)
    assert (moved.device.type, moved.windows.tolist()) == ("meta", masks.windows.tolist())
    assert masks.to("cpu") is masks
    with pytest.raises(TypeError, match=r"expected a device, got torch\.float32"):
        masks.to(torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pinned_masks_are_the_same_on_a_gpu(planes):
    masks = CompactMasks.from_dense(planes).pin_memory()
    assert masks.pixels.is_pinned()
    assert torch.equal(masks.to("cuda", non_blocking=True).dense().cpu(), planes)


@pytest.mark.parametrize(
    ("pixels", "windows", "error", "message"),
    [
        (torch.zeros(3), [[0, 0, 1, 3]], TypeError, "expected bool or uint8, got torch.float32"),
        (torch.zeros(3).byte(), [[0, 0, 1, 4]], ValueError, "expected 4 in a row, as the windows have, got"),
        (torch.zeros(1, 4).byte(), [[0, 0, 1, 4]], ValueError, "expected 4 in a row"),
        (torch.zeros(4).byte(), [[6, 0, 7, 4]], ValueError, r"expected \(y1, x1, y2, x2\) in an image of \(6, 9\)"),
        (torch.zeros(4).byte(), [[0, -1, 1, 3]], ValueError, "windows: expected"),
        (torch.zeros(4).byte(), [[4, 4, 2, 2]], ValueError, "windows: expected"),
    ],
)
def test_windows_and_pixels_that_do_not_fit_are_an_error(pixels, windows, error, message):
    with pytest.raises(error, match=message):
        CompactMasks(pixels, np.array(windows), (6, 9))


SMOKE = Path(__file__).parents[2] / "shared/data/coco_smoke/annotations/instances_val.json"


def drawn_codes(seed, size=(37, 53)):
    """Codes of random masks: blobs, single pixels, whole columns, everything, nothing."""
    generator = np.random.default_rng(seed)
    planes = [generator.random(size) < share for share in (0.0, 0.001, 0.2, 0.9, 1.0)]
    planes[2][:, 10:14] = True
    planes[3][:, :-1] = False
    return coco_mask.encode(np.asfortranarray(np.stack(planes, axis=2).astype(np.uint8)))


def as_text(rle):
    return {**rle, "counts": rle["counts"].decode()}


def as_numbers(rle):
    pixels = coco_mask.decode(rle).ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=np.uint8(0), append=np.uint8(2)))
    return {**rle, "counts": np.diff(changes, prepend=0).tolist()}


@pytest.mark.parametrize("form", [dict, as_text, as_numbers])
@pytest.mark.parametrize("seed", range(3))
def test_run_length_codes_give_what_pycocotools_decodes(form, seed):
    rles = drawn_codes(seed)
    masks = CompactMasks.from_rle([form(rle) for rle in rles])
    assert np.array_equal(masks.dense().numpy(), coco_mask.decode(rles).transpose(2, 0, 1))
    assert torch.equal(
        torch.from_numpy(masks.windows), torch.from_numpy(CompactMasks.from_dense(masks.dense()).windows)
    )


def test_polygons_give_what_pycocotools_draws():
    generator = np.random.default_rng(0)
    polygons = [[(generator.random(2 * n) * 60 - 5).tolist() for n in (3, 7)] for _ in range(5)] + [[]]
    masks = CompactMasks.from_polygons(polygons, (40, 50))
    for mask, parts in zip(masks.dense()[:-1], polygons, strict=False):
        assert np.array_equal(mask.numpy(), coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 40, 50))))
    assert not masks.dense()[-1].any()


@pytest.mark.skipif(not SMOKE.exists(), reason="the data set coco_smoke is not next to the repository")
def test_real_polygons_give_what_pycocotools_draws():
    data = json.loads(SMOKE.read_text())
    for image in data["images"]:
        outlines = [each["segmentation"] for each in data["annotations"] if each["image_id"] == image["id"]]
        size = image["height"], image["width"]
        for plane, parts in zip(CompactMasks.from_polygons(outlines, size).planes(), outlines, strict=True):
            expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, *size)))
            assert np.array_equal(plane.numpy(), expected)


def test_without_objects_the_size_has_to_be_given():
    assert CompactMasks.from_rle([], (4, 5)).shape == (0, 4, 5)
    with pytest.raises(ValueError, match="size: expected the image's height and width"):
        CompactMasks.from_rle([])


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [4, 6], "counts": [24]}, r"rles\[1\]: expected a mask of \(4, 5\) \(height, width\), got \(4, 6\)"),
        ({"size": [4, 5], "counts": [3, 4]}, r"rles\[1\]: expected runs of 20 pixels in all, got 7"),
        ({"size": [4, 5], "counts": [21, -1]}, r"rles\[1\]: expected runs of 20 pixels"),
        ({"size": [4, 5], "counts": "a!"}, r"rles\[1\]: expected a run-length code, got unexpected character '!'"),
        ({"size": [4, 5], "counts": b"o"}, r"rles\[1\]: expected a run-length code, got the last number is cut off"),
    ],
)
def test_a_code_that_cannot_be_read_is_named(rle, message):
    with pytest.raises(ValueError, match=message):
        CompactMasks.from_rle([{"size": [4, 5], "counts": [20]}, rle])


@pytest.mark.parametrize("polygon", [[0, 0, 4, 4], [0, 0, 4, 0, 4, 4, 0]])
def test_a_polygon_without_an_area_or_with_half_a_point_is_named(polygon):
    message = rf"polygons\[1\]: expected x and y of 3 points or more, got {len(polygon)} numbers"
    with pytest.raises(ValueError, match=message):
        CompactMasks.from_polygons([[[0, 0, 4, 0, 4, 4]], [polygon]], (4, 5))
