"""Decoding images of every kind to 8-bit RGB."""

import os
import warnings

import numpy as np
import pytest
import torch
from deep_files import write_png, write_tiff
from PIL import Image

from composer_copypaste.data.images import ImageHeader, read_header, read_image, read_rgba
from composer_copypaste.errors import DataError
from composer_copypaste.settings import ImageSettings

GREY = np.array([[0, 60, 120], [180, 240, 255]], dtype=np.uint8)
COLOR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def test_colors_come_as_channels_rows_columns(tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", (2, 3)), torch.from_numpy(COLOR).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_grey_images_repeat_their_values_in_each_channel(tmp_path, mode):
    values = np.where(GREY > 100, 255, 0).astype(np.uint8) if mode == "1" else GREY
    Image.fromarray(values).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", (2, 3))
    assert torch.equal(image, torch.from_numpy(values).expand(3, 2, 3))


def test_alpha_is_dropped(tmp_path):
    alpha = np.full((2, 3, 1), 7, dtype=np.uint8)
    Image.fromarray(np.concatenate([COLOR, alpha], axis=2)).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", (2, 3)), torch.from_numpy(COLOR).permute(2, 0, 1))


def test_a_palette_with_transparency_gives_its_colors_without_a_warning(tmp_path):
    image = Image.fromarray(GREY).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes([0, 128] + [255] * 254))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = read_image(tmp_path / "a.png", (2, 3))
    assert torch.equal(decoded, torch.from_numpy(GREY).expand(3, 2, 3))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / name)
    assert torch.equal(read_image(tmp_path / name, (2, 3)), torch.from_numpy(GREY).expand(3, 2, 3))


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", (2, 3))[:, 0, 0].tolist() == [255, 0, 0]


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: the image has floating-point pixels"):
        read_image(tmp_path / "a.tif", (2, 3))


def save_turned(path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOR).save(path, exif=exif)


def test_the_orientation_is_left_alone_where_the_stored_size_agrees(tmp_path):
    save_turned(tmp_path / "a.png", 6)
    assert torch.equal(read_image(tmp_path / "a.png", (2, 3)), torch.from_numpy(COLOR).permute(2, 0, 1))


def test_the_orientation_is_applied_where_only_the_turned_size_agrees(tmp_path):
    save_turned(tmp_path / "a.png", 6)  # 6: show it turned a quarter clockwise
    expected = np.rot90(COLOR, -1).copy()
    assert torch.equal(read_image(tmp_path / "a.png", (3, 2)), torch.from_numpy(expected).permute(2, 0, 1))


def test_swapped_sides_without_an_orientation_are_an_error(tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: the image is 3 x 2 \(width x height\), the annotations say 2 x 3"):
        read_image(tmp_path / "a.png", (3, 2))


def test_a_truncated_image_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"a\.jpg: the image cannot be decoded: .*truncated"):
        read_image(path, (64, 64))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the file is missing"),
        (b"<html>", "the image cannot be decoded: it is a web page; download the file itself"),
        (b"", "the image cannot be decoded: it is an empty file"),
        (b"version https://git-lfs.github.com/spec/v1", "the image cannot be decoded: it is a Git LFS pointer, .*"),
        (b"\x89PNG\r\n", "the image cannot be decoded: not an image in a known format"),
        (b"something", "the image cannot be decoded: not an image in a known format"),
    ],
)
def test_a_file_that_is_not_an_image_is_found_by_its_header(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=f"^{problem}$"):
        read_header(tmp_path / "a.png", (2, 3))


def test_a_plain_image_has_nothing_to_report(tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png", (2, 3)) == ImageHeader(False, False, False)


def test_a_pipe_in_place_of_an_image_is_named_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    problem = "the image cannot be decoded: expected a file, found a pipe"
    for name in ("a.png", "b.png"):
        with pytest.raises(DataError, match=f"^{problem}$"):
            read_header(tmp_path / name, (2, 3))
    with pytest.raises(DataError, match=f"a.png: {problem}$"):
        read_image(tmp_path / "a.png", (2, 3))
    with pytest.raises(DataError, match=f"a.png: {problem}$"):
        read_rgba(tmp_path / "a.png")


# ---- images of more than 8 bits: whole values, scaled by one range for a data set


VALUES = np.array([[0, 300, 2048, 4095], [17, 900, 4000, 60]], dtype=np.uint16)
COLORS = np.stack([VALUES, VALUES[::-1], VALUES[:, ::-1]], axis=-1)
ALPHA = np.full((2, 4, 1), 40_000, dtype=np.uint16)
TWELVE_BITS = ImageSettings(value_range=(0.0, 4095.0))


def expected(values: np.ndarray, high: int) -> torch.Tensor:
    """8-bit values, rounded, one at a time."""
    wide = values if values.ndim == 3 else np.stack([values] * 3, axis=-1)
    return torch.tensor(
        [[[round(value * 255 / high) for value in row] for row in wide[..., c].tolist()] for c in range(3)]
    )


WRITERS = {
    "grey.png": lambda path: write_png(path, VALUES),
    "grey and alpha.png": lambda path: write_png(path, np.concatenate([VALUES[..., None], ALPHA], axis=2)),
    "colors.png": lambda path: write_png(path, COLORS),
    "colors and alpha.png": lambda path: write_png(path, np.concatenate([COLORS, ALPHA], axis=2)),
    "grey.tif": lambda path: write_tiff(path, VALUES),
    "grey of the other order of bytes.tif": lambda path: write_tiff(path, VALUES, order=">"),
    "colors.tif": lambda path: write_tiff(path, COLORS),
    "colors of the other order of bytes.tif": lambda path: write_tiff(path, COLORS, order=">"),
    "signed.tif": lambda path: write_tiff(path, VALUES.astype(np.int16)),
    "32 bits.tif": lambda path: write_tiff(path, VALUES.astype(np.uint32)),
    "32 bits signed.tif": lambda path: write_tiff(path, VALUES.astype(np.int32)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_12_bit_data_in_a_deeper_file_is_scaled_by_the_range_given(tmp_path, name):
    WRITERS[name](tmp_path / name)
    image = read_image(tmp_path / name, (2, 4), settings=TWELVE_BITS)
    assert torch.equal(image, expected(COLORS if "colors" in name else VALUES, 4095))


@pytest.mark.parametrize("name", WRITERS)
def test_without_a_range_16_bits_are_scaled_as_a_whole(tmp_path, name):
    WRITERS[name](tmp_path / name)
    image = read_image(tmp_path / name, (2, 4))
    assert torch.equal(image, expected(COLORS if "colors" in name else VALUES, 65535))


def test_floating_point_pixels_are_scaled_by_the_range_given_and_clipped(tmp_path):
    write_tiff(tmp_path / "a.tif", np.array([[-9.0, 0.0, 0.5, 7.0]], dtype=np.float32))
    image = read_image(tmp_path / "a.tif", (1, 4), settings=ImageSettings(value_range=(-1.0, 1.0)))
    assert image[0].tolist() == [[0, 128, 191, 255]]


def test_a_range_may_begin_below_zero_as_that_of_tomography_does(tmp_path):
    write_tiff(tmp_path / "a.tif", np.array([[-1000, 0, 1000]], dtype=np.int16))
    image = read_image(tmp_path / "a.tif", (1, 3), settings=ImageSettings(value_range=(-1000.0, 1000.0)))
    assert image[0].tolist() == [[0, 128, 255]]


def test_a_tiff_of_12_bits_says_its_range_itself(tmp_path):
    write_tiff(tmp_path / "a.tif", VALUES, bits=12)
    assert torch.equal(read_image(tmp_path / "a.tif", (2, 4)), expected(VALUES, 4095))


def test_a_netpbm_file_says_its_range_itself(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n4 2\n4095\n" + VALUES.astype(">u2").tobytes())
    for settings in (None, TWELVE_BITS):
        assert torch.equal(read_image(tmp_path / "a.pgm", (2, 4), settings=settings), expected(VALUES, 4095))


def test_8_bit_images_are_left_as_they_are_by_a_range(tmp_path):
    Image.fromarray(VALUES.astype(np.uint8)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", (2, 4), settings=TWELVE_BITS)
    assert torch.equal(image, torch.from_numpy(VALUES.astype(np.uint8)).expand(3, 2, 4))


@pytest.mark.parametrize("values", [np.array([[70_000]], dtype=np.int32), np.array([[-1]], dtype=np.int16)])
def test_values_that_16_bits_do_not_hold_need_a_range(tmp_path, values):
    write_tiff(tmp_path / "a.tif", values)
    with pytest.raises(
        DataError, match=r"a\.tif: the image has values from .*, outside 0\.\.65535: .*data\.value_range"
    ):
        read_image(tmp_path / "a.tif", (1, 1))


def test_pixels_that_are_no_numbers_are_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", np.array([[np.nan, 1]], dtype=np.float32))
    with pytest.raises(DataError, match=r"a\.tif: the image has pixels that are no finite numbers"):
        read_image(tmp_path / "a.tif", (1, 2), settings=TWELVE_BITS)


def test_16_bit_colors_stored_plane_by_plane_are_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", COLORS, planes=2)
    with pytest.raises(DataError, match=r"a\.tif: the image has 16-bit colors stored plane by plane"):
        read_image(tmp_path / "a.tif", (2, 4))


@pytest.mark.parametrize("value_range", [(5.0, 5.0), (4095.0, 0.0)])
def test_a_range_ascends(value_range):
    with pytest.raises(ValueError, match=r"value_range: expected two ascending values such as"):
        ImageSettings(value_range=value_range)
