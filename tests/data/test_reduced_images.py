"""JPEG files that are decoded at a part of their size, next to the whole image."""

from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import save_turned

from composer_copypaste.data.images import StoredImage, read_image, read_reduced
from composer_copypaste.data.transforms import PADDING, SampledJitter
from composer_copypaste.errors import DataError

SIZE = (299, 403)
WINDOW = (7, 13, 256, 352)


@pytest.fixture
def photo(tmp_path):
    """A smooth photo, in which a shift by a pixel is seen."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


def shown(image, window, by):
    """The window of an image, as its jitter shows it without a file."""
    resized = (window[2] // by, window[3] // by)
    return SampledJitter(window, resized, resized, flip=False).transform_image(image)


@pytest.mark.parametrize(("by", "reduction"), [(4, 2), (8, 4), (16, 8)])
def test_a_part_that_becomes_small_is_decoded_small_and_shows_the_same(photo, by, reduction):
    resized, sizes = (WINDOW[2] // by, WINDOW[3] // by), []
    really = Image.Image.resize

    def resize(image, *arguments, **named):
        sizes.append(image.size)
        return really(image, *arguments, **named)

    with mock.patch.object(Image.Image, "resize", resize):
        reduced = read_reduced(photo, SIZE, WINDOW, resized)
    assert sizes == [(-(-SIZE[1] // reduction), -(-SIZE[0] // reduction))]
    differences = reduced.int() - shown(read_image(photo, SIZE), WINDOW, by).int()
    inside = differences[:, 1:-1, 1:-1].abs()  # along the edge, pixels beyond the window count too
    assert inside.float().mean() < 1
    assert inside.max() <= 4


def test_a_file_and_its_content_give_the_same(photo):
    resized = (WINDOW[2] // 8, WINDOW[3] // 8)
    of_content = read_reduced("shard", SIZE, WINDOW, resized, photo.read_bytes())
    assert torch.equal(of_content, read_reduced(photo, SIZE, WINDOW, resized))


def test_what_becomes_less_than_four_times_as_small_is_not_opened(photo):
    assert read_reduced(photo.parent / "no such.jpg", SIZE, WINDOW, (WINDOW[2] // 4, WINDOW[3] // 4 + 1)) is None


@pytest.mark.parametrize("kind", ["png", "grey", "cmyk", "turned"])
def test_images_whose_pixels_are_not_the_decoders_are_decoded_in_full(photo, kind, tmp_path):
    path, size = tmp_path / ("other.png" if kind == "png" else "other.jpg"), (64, 96)
    image = Image.fromarray(np.zeros((*size, 3), np.uint8))
    if kind == "turned":
        save_turned(path, 6)
        size = read_stored_size(path)[::-1]
    else:
        image.convert({"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")).save(path)
    assert read_reduced(path, size, (0, 0, *size), (1, 1)) is None


def read_stored_size(path):
    with Image.open(path) as image:
        return image.height, image.width


def test_a_mirrored_reduction_lies_on_its_padding(photo):
    jitter = SampledJitter((0, 0, 296, 400), resized=(37, 50), canvas=(40, 60), flip=True)
    found = jitter.transform_image(StoredImage(photo, SIZE))
    whole = jitter.transform_image(read_image(photo, SIZE))
    assert found.is_contiguous()
    assert (found[:, 1:36, 1:49].int() - whole[:, 1:36, 1:49].int()).abs().max() <= 4
    assert not torch.equal(found, whole)
    assert (found[:, 37:] == torch.tensor(PADDING)[:, None, None]).all()


def test_a_file_of_another_size_or_cut_off_is_named(photo):
    with pytest.raises(DataError, match=r"photo\.jpg: the image is 403 x 299 .* the annotations say 400 x 299"):
        read_reduced(photo, (299, 400), (0, 0, 299, 400), (9, 10))
    photo.write_bytes(photo.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"photo\.jpg: the image cannot be decoded"):
        read_reduced(photo, SIZE, (0, 0, *SIZE), (9, 10))
