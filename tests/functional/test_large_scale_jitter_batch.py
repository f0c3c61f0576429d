"""Large-scale jitter of a batch: small images with visible answers, a slow reference, and the loader's transform."""

import numpy as np
import pytest
import torch
from copypaste_cases import compact_targets, many, with_plane_masks
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from read_backs import ReadBacks
from reference import stored, tent

from composer_copypaste import (
    CompactMasks,
    LargeScaleJitterSettings,
    LargeScaleJitterTransform,
    large_scale_jitter_batch,
)
from composer_copypaste.data.rle import AnnotatedObjects
from composer_copypaste.functional.large_scale_jitter import PADDING, CropResize, crop_resize_batch, draw_crop_resize

SIDE = 8


def generator(seed):
    return torch.Generator().manual_seed(seed)


def make_image(height=SIDE, width=SIDE, channels=3, dtype=torch.uint8, seed=0):
    values = torch.randint(0, 256, (channels, height, width), generator=generator(seed))
    return values.to(dtype) if dtype == torch.uint8 else (values / 255).to(dtype)


def target(*boxes, size=(SIDE, SIDE), crowd=False):
    """Objects that fill their boxes, with labels 1, 2, ..."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(1, len(boxes) + 1),
        "masks": masks,
        "area": masks.sum((1, 2)).float(),
        "iscrowd": torch.full((len(boxes),), int(crowd)),
    }


def crop_resize(**changes):
    whole = {"window": (0, 0, SIDE, SIDE), "resized": (SIDE, SIDE), "canvas": (SIDE, SIDE), "flip": False}
    return CropResize(**(whole | changes))


def crop_resized(image, fields, shown, **settings):
    """One image and its target after a crop and resize."""
    images, targets = crop_resize_batch([image], [fields], [shown], LargeScaleJitterSettings(size=(16, 16), **settings))
    return images[0], targets[0]


def drawn(mask):
    return ["".join(".#"[value] for value in row) for row in mask.tolist()]


def test_an_image_made_half_as_large_lies_in_the_corner_of_the_padding():
    image, shown = crop_resized(make_image(), target((2, 2, 6, 4)), crop_resize(resized=(4, 4)))
    assert drawn(shown["masks"][0]) == ["........", ".##.....", *["........"] * 6]
    assert shown["boxes"].tolist() == [[1, 1, 3, 2]]
    assert shown["area"].tolist() == [2]
    assert (image[:, 4:] == torch.tensor(PADDING, dtype=torch.uint8)[:, None, None]).all()
    assert (image[:, :, 4:] == torch.tensor(PADDING, dtype=torch.uint8)[:, None, None]).all()


def test_making_smaller_averages_under_a_tent_of_two_pixels():
    stripes = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    stripes[:, :, ::4] = 200
    image, _ = crop_resized(stripes, target(), crop_resize(resized=(SIDE, 4)))
    # columns 0 and 4 are lit. The tent weighs 3/7, 3/7, 1/7 in columns 0..2, where the edge cuts it off, and 1/8, 3/8,
    # 3/8, 1/8 in columns 1..4 and 3..6; columns 5..7 are dark
    assert image[0, 0, :4].tolist() == [round(200 * 3 / 7), 200 / 8, 200 * 3 / 8, 0]


def test_an_enlarged_window_is_mirrored():
    given = make_image()
    image, shown = crop_resized(given, target((2, 2, 3, 6), (5, 0, 8, 8)), crop_resize(window=(2, 1, 4, 4), flip=True))
    assert drawn(shown["masks"][0]) == ["....##.."] * 8  # column 1 of 4, mirrored and doubled
    assert shown["labels"].tolist() == [1]  # the other object is beside the window
    assert shown["boxes"].tolist() == [[4, 0, 6, 8]]
    assert image[:, 0, 7].tolist() == given[:, 2, 1].tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_where_nothing_is_resized_every_pixel_is_kept_to_the_bit(dtype):
    given, fields = make_image(dtype=dtype), target((1, 1, 3, 4))
    image, shown = crop_resized(given, fields, crop_resize())
    assert torch.equal(image, given)
    assert shown["boxes"].tolist() == [[1, 1, 3, 4]]
    image, shown = crop_resized(given, fields, crop_resize(flip=True))
    assert torch.equal(image, given.flip(-1))
    assert shown["boxes"].tolist() == [[5, 1, 7, 4]]


@pytest.mark.parametrize("form", ["planes", "cut_outs"])
@pytest.mark.parametrize(("flip", "box"), [(False, [0, 0, 1, 1]), (True, [3, 0, 4, 1])])
def test_of_two_pixels_on_whose_border_a_centre_lies_the_second_is_shown(form, flip, box):
    fields = target((1, 1, 2, 2), (2, 2, 3, 3))
    given = fields if form == "planes" else fields | {"masks": CompactMasks.from_dense(fields["masks"])}
    _, shown = crop_resized(make_image(), given, crop_resize(resized=(4, 4), flip=flip))
    assert shown["boxes"].tolist() == [box]


def test_masks_of_any_value_come_back_as_0_and_1():
    fields = target((2, 2, 6, 4))
    _, shown = crop_resized(make_image(), fields | {"masks": fields["masks"] * 255}, crop_resize(resized=(4, 4)))
    assert drawn(shown["masks"][0]) == ["........", ".##.....", *["........"] * 6]
    assert shown["area"].tolist() == [2]


def test_objects_stay_from_min_area_pixels_on_and_crowds_from_one():
    half = crop_resize(window=(0, 0, SIDE, 4), resized=(SIDE, 4))
    boxes = [(3, 0, 6, 3), (3, 0, 6, 4)]  # 1 x 3 and 1 x 4 pixels lie in the window
    assert crop_resized(make_image(), target(*boxes), half, min_area=4)[1]["labels"].tolist() == [2]
    assert crop_resized(make_image(), target(*boxes), half, min_area=10**9)[1]["labels"].tolist() == []
    assert crop_resized(make_image(), target(*boxes, crowd=True), half, min_area=4)[1]["labels"].tolist() == [1, 2]
    assert crop_resized(make_image(), target((4, 0, 8, 8), crowd=True), half)[1]["labels"].tolist() == []


def test_a_crowd_among_objects_is_told_from_them():
    fields = target((3, 0, 6, 3), (3, 4, 6, 7)) | {"iscrowd": torch.tensor([0, 1])}
    _, shown = crop_resized(make_image(), fields, crop_resize(window=(0, 0, SIDE, 4), resized=(SIDE, 4)), min_area=4)
    assert (shown["labels"].tolist(), shown["iscrowd"].tolist()) == ([2], [1])


def test_keypoints_move_and_other_rows_follow_their_objects():
    fields = target((0, 0, 8, 8), (6, 6, 8, 8)) | {
        "keypoints": torch.tensor([[[2.0, 3, 2], [7, 1, 2], [3, 3, 0]], [[7, 7, 2]] * 3]),
        "scores": torch.tensor([5, 6]),
        "file_name": "0.png",
    }
    _, shown = crop_resized(make_image(), fields, crop_resize(window=(1, 1, 4, 4), flip=True), keypoint_pairs=())
    # (2, 3) lies 1 and 2 into the window of 4: doubled 2 and 4, mirrored 6 and 4; (7, 1) lies outside
    assert shown["keypoints"].tolist() == [[[6, 4, 2], [0, 0, 0], [0, 0, 0]]]
    assert shown["scores"].tolist() == [5]
    assert shown["file_name"] == "0.png"


def test_boxes_alone_are_cropped_and_resized_as_if_objects_filled_them():
    fields = {key: values for key, values in target((2, 2, 6, 4), (0, 6, 8, 8)).items() if key in ("boxes", "labels")}
    _, shown = crop_resized(make_image(), fields, crop_resize(window=(0, 0, 6, 8), resized=(3, 4)))
    assert list(shown) == ["boxes", "labels"]
    assert shown["boxes"].tolist() == [[1, 1, 3, 2]]


def test_boxes_alone_are_cut_at_the_window_and_mirrored():
    fields = {key: values for key, values in target((2, 2, 3, 4), (0, 0, 4, 3)).items() if key in ("boxes", "labels")}
    _, shown = crop_resized(make_image(), fields, crop_resize(window=(1, 2, 4, 4), flip=True))
    assert shown["boxes"].tolist() == [[6, 2, 8, 6], [4, 0, 8, 4]]


def test_a_box_alone_of_min_area_stays_whatever_rounding_does_to_its_area():
    fields = {"boxes": torch.tensor([[0.0, 0, 7, 9]]), "labels": torch.tensor([1])}
    third = crop_resize(window=(0, 0, 9, 9), resized=(3, 3))
    assert (7 * (3 / 9)) * (9 * (3 / 9)) < 7
    assert crop_resized(make_image(9, 9), fields, third, min_area=7)[1]["labels"].tolist() == [1]
    assert crop_resized(make_image(9, 9), fields, third, min_area=8)[1]["labels"].tolist() == []


def test_class_ids_are_padded_with_the_one_that_is_ignored():
    ids = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    ids[2:4, 2:6] = 3
    settings = LargeScaleJitterSettings(size=(16, 16), ignore_index=9)
    _, shown = crop_resize_batch([make_image()], [ids], [crop_resize(resized=(4, 4))], settings)
    assert (shown.shape, shown.dtype) == ((1, SIDE, SIDE), torch.int64)
    assert (
        shown[0].tolist()
        == [[0, 0, 0, 0, 9, 9, 9, 9], [0, 3, 3, 0, 9, 9, 9, 9]] + [[0] * 4 + [9] * 4] * 2 + [[9] * 8] * 4
    )


def test_the_class_that_is_ignored_may_be_any_that_the_type_holds():
    for ignored in (-128, 127):
        settings = LargeScaleJitterSettings(size=(16, 16), ignore_index=ignored)
        ids = torch.ones(1, SIDE, SIDE, dtype=torch.int8)
        _, shown = crop_resize_batch([make_image()], list(ids), [crop_resize(resized=(4, 4))], settings)
        assert shown[0, 7, 7] == ignored


# What is drawn


def draws(size, n=400, **settings):
    """What is drawn for an image of that (height, width)."""
    chosen, stream = LargeScaleJitterSettings(size=(16, 24), **settings), generator(0)
    return [draw_crop_resize(size, chosen, stream) for _ in range(n)]


def test_both_sides_are_resized_by_one_factor_of_the_range_times_what_fits():
    drawn = draws((40, 60), scale_range=(0.5, 2.0))
    factors = [[shown / given for given, shown in zip(each.window[2:], each.resized, strict=True)] for each in drawn]
    down, across = np.array(factors).T / (16 / 40)
    np.testing.assert_allclose(down, across, rtol=0.1)  # sides are whole pixels
    assert 0.45 < across.min() < 0.55
    assert 1.95 < across.max() < 2.05
    assert np.median(across) == pytest.approx(1.25, abs=0.1)


def test_the_part_that_stays_lies_anywhere_in_the_image():
    drawn = draws((40, 60), scale_range=(2.0, 2.0))
    assert {each.window[2:] + each.resized for each in drawn} == {(20, 30, 16, 24)}
    assert {each.window[0] for each in drawn} == set(range(21))
    assert {each.window[1] for each in drawn} == set(range(31))


@pytest.mark.parametrize(
    ("size", "scale", "window", "resized"),
    [
        ((200, 1), 1.0, (0, 0, 200, 1), (16, 1)),  # 0.08 pixels wide
        ((33, 8), 33 / 32, (0, 0, 33, 8), (16, 4)),  # 16.5 pixels high
        ((1, 1), 2.0, (0, 0, 1, 1), (16, 24)),  # of which half a pixel would stay
    ],
    ids=["thin", "just fits", "a pixel"],
)
def test_sides_are_whole_pixels_and_at_least_one(size, scale, window, resized):
    (drawn,) = draws(size, n=1, scale_range=(scale, scale))
    assert (drawn.window, drawn.resized) == (window, resized)


# Padding


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, [c / 255 for c in PADDING]), (torch.uint8, PADDING)])
def test_padding_has_one_color_in_every_type(dtype, expected):
    image, _ = crop_resized(make_image(dtype=dtype), target(), crop_resize(resized=(4, 4)))
    torch.testing.assert_close(image[:, 7, 7].double(), torch.tensor(expected, dtype=torch.float64))


def test_images_of_one_channel_are_padded_with_its_grey():
    image, _ = crop_resized(make_image(channels=1), target(), crop_resize(resized=(4, 4)))
    assert image[0, 7, 7] == 115  # the mean of 124, 116 and 104 is 114.67


sides = st.integers(1, 40)


@st.composite
def batches(draw, dtypes=(torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)):
    dtype, seed = draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**16))
    sizes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3))
    images = [make_image(*size, dtype=dtype, seed=seed + i) for i, size in enumerate(sizes)]
    targets = []
    for size in sizes:
        masks = torch.rand(draw(st.integers(0, 4)), *size, generator=generator(seed)) < draw(
            st.sampled_from([0.1, 0.9])
        )
        fields = target(*[(0, 0, size[1], size[0])] * len(masks), size=size) | {"masks": masks}
        fields["iscrowd"] = torch.randint(0, 2, (len(masks),), generator=generator(seed + 1))
        targets.append(fields)
    settings = LargeScaleJitterSettings(size=(draw(st.integers(16, 40)), 24), min_area=draw(st.sampled_from([1, 30])))
    return images, targets, settings, seed


def slow(image, fields, shown, settings):
    """Slow reference for one image: pixel by pixel, with exact fractions for masks and float64 for colors."""
    (top, left, height, width), (rows, columns) = shown.window, shown.resized
    y = [top + (2 * row + 1) * height // (2 * rows) for row in range(rows)]
    x = [left + (2 * column + 1) * width // (2 * columns) for column in range(columns)][:: -1 if shown.flip else 1]
    masks = np.zeros((len(fields["masks"]), *shown.canvas), dtype=bool)
    masks[:, :rows, :columns] = fields["masks"].numpy()[:, y][:, :, x]
    enough = np.where(fields["iscrowd"].numpy() != 0, 1, settings.min_area)
    kept = np.flatnonzero(masks.sum((1, 2)) >= enough)
    everywhere = np.ones((rows, columns), dtype=bool)
    across = tent(np.array([round(width / columns * 2**32), 0, 0]), (rows, columns), everywhere, width)
    down = tent(np.array([0, round(height / rows * 2**32), 0]), (rows, columns), everywhere, height)
    patch = image.double().numpy()[:, top : top + height, left : left + width]
    colors = np.einsum("py,cyx,px->cp", down, patch, across).reshape(-1, rows, columns)
    return colors[:, :, ::-1] if shown.flip else colors, masks[kept], kept


@many(150)
@given(batches())
def test_it_equals_a_slow_reference(batch):
    images, targets, settings, seed = batch
    crop_resizes = [
        draw_crop_resize(tuple(image.shape[1:]), settings, stream) for stream in [generator(seed)] for image in images
    ]
    jittered, results = large_scale_jitter_batch(images, targets, generator=generator(seed), settings=settings)
    assert jittered.dtype == images[0].dtype
    for image, fields, shown, seen, result in zip(images, targets, crop_resizes, jittered, results, strict=True):
        colors, masks, kept = slow(image, fields, shown, settings)
        there = seen[:, : shown.resized[0], : shown.resized[1]]
        steps = {torch.uint8: 1, torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(image.dtype, 1e-5)
        torch.testing.assert_close(there, stored(colors.copy(), image.dtype), rtol=0, atol=steps)
        assert np.array_equal(result["masks"].numpy(), masks)
        assert result["masks"].dtype == torch.bool
        assert result["labels"].tolist() == (kept + 1).tolist()
        assert result["area"].tolist() == masks.sum((1, 2)).tolist()
        tight = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in map(np.nonzero, masks)]
        assert result["boxes"].tolist() == tight


@many(60)
@given(batches(dtypes=(torch.uint8,)))
def test_the_same_draw_gives_what_the_loaders_transform_gives(batch):
    images, targets, settings, seed = batch
    transform = LargeScaleJitterTransform(settings)
    for image, fields in zip(images, targets, strict=True):
        size = tuple(image.shape[1:])
        outlines = AnnotatedObjects(
            size=size,
            annotated_boxes=fields["boxes"].double().numpy(),
            labels=fields["labels"],
            area=fields["area"],
            iscrowd=fields["iscrowd"],
            segmentations=tuple(coco_mask.encode(np.asfortranarray(mask)) for mask in fields["masks"].byte().numpy()),
        )
        expected_image, expected = transform(image, outlines, generator(seed))
        (given,), (result,) = large_scale_jitter_batch([image], [fields], generator=generator(seed), settings=settings)
        assert (given.int() - expected_image.int()).abs().max() <= 1
        for key in ("boxes", "labels", "area", "iscrowd"):
            assert torch.equal(result[key], getattr(expected, key))
        assert torch.equal(result["masks"].byte(), expected.masks.dense())


@many(60)
@given(batches())
def test_masks_as_cut_outs_give_the_same(batch):
    images, targets, settings, seed = batch
    expected_images, expected = large_scale_jitter_batch(images, targets, generator=generator(seed), settings=settings)
    cut_out = compact_targets(targets, seed)
    shown, found = large_scale_jitter_batch(images, cut_out, generator=generator(seed), settings=settings)
    assert torch.equal(shown, expected_images)
    torch.testing.assert_close(with_plane_masks(found), with_plane_masks(expected), rtol=0, atol=0)
    for result in found:
        y1, x1, y2, x2 = result["masks"].windows.T
        np.testing.assert_array_equal(np.stack([x1, y1, x2, y2], axis=1), result["boxes"].numpy())


@many(20)
@given(batches())
def test_the_device_is_asked_once(batch):
    images, targets, settings, seed = batch
    read_backs = ReadBacks()
    with read_backs.recorded():
        here_images, here = large_scale_jitter_batch(images, targets, generator=generator(seed), settings=settings)
    images = [image.to("meta") for image in images]
    targets = [{key: values.to("meta") for key, values in fields.items()} for fields in targets]
    with read_backs.replayed():
        there_images, there = large_scale_jitter_batch(images, targets, generator=generator(seed), settings=settings)
    assert read_backs.asked == ["meta"]
    assert (there_images.device.type, there_images.shape) == ("meta", here_images.shape)
    for one, other in zip(there, here, strict=True):
        assert {key: values.shape for key, values in one.items()} == {key: v.shape for key, v in other.items()}
        assert {values.device.type for values in one.values()} == {"meta"}


def test_the_arguments_are_not_modified_and_a_batch_tensor_is_a_list():
    images, targets = torch.stack([make_image(seed=1), make_image(seed=2)]), [target((1, 1, 5, 5))] * 2
    before, boxes = images.clone(), targets[0]["boxes"].clone()
    settings = LargeScaleJitterSettings(size=(16, 16))
    one, _ = large_scale_jitter_batch(images, targets, generator=generator(3), settings=settings)
    other, _ = large_scale_jitter_batch(list(images), targets, generator=generator(3), settings=settings)
    assert torch.equal(one, other)
    assert torch.equal(images, before)
    assert torch.equal(targets[0]["boxes"], boxes)


def test_gradients_reach_the_images():
    image = make_image(dtype=torch.float32).requires_grad_()
    shown, _ = crop_resized(image, target(), crop_resize(resized=(4, 4)))
    shown[:, :4, :4].sum().backward()
    # each of 16 pixels is a mean: what it takes from the image sums to its one
    assert image.grad.sum((1, 2)).tolist() == pytest.approx([16] * 3)


@pytest.mark.parametrize("layout", ["channels_last", "strided"])
def test_the_layout_in_memory_does_not_matter(layout):
    images = torch.stack([make_image(seed=1), make_image(seed=2)])
    masks = target((1, 1, 5, 5))["masks"]
    other = images.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        other = images.repeat_interleave(2, dim=-1)[..., ::2]
    spread = {**target((1, 1, 5, 5)), "masks": masks.repeat_interleave(2, dim=-1)[..., ::2]}
    settings = LargeScaleJitterSettings(size=(16, 16))
    plain = large_scale_jitter_batch(images, [target((1, 1, 5, 5))] * 2, generator=generator(1), settings=settings)
    result = large_scale_jitter_batch(other, [spread] * 2, generator=generator(1), settings=settings)
    torch.testing.assert_close(result, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        ([], [], "expected at least one image, got none"),
        ([make_image()], [], "expected a target for each image, got 1 image and 0 targets"),
        (
            [make_image(), make_image(channels=1)],
            [target(), target()],
            "expected images of one type and number of channels",
        ),
        (
            [make_image()],
            [torch.zeros(3, 3, dtype=torch.int64)],
            r"targets\[0\]: expected class ids of .*\(8, 8\), got",
        ),
        ([make_image()], [target((0, 0, 1, 1), size=(4, 4))], r"targets\[0\]: expected 'masks' of shape \(1, 8, 8\)"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_where(images, targets, message):
    with pytest.raises(ValueError, match=message):
        large_scale_jitter_batch(images, targets, size=(16, 16))


def test_an_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="sizes"):
        large_scale_jitter_batch([make_image()], [target()], sizes=(16, 16))
