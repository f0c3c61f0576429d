"""Image files, read as 8-bit RGB whatever they hold, and turned only if they were annotated turned."""

import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PLANAR_CONFIGURATION
from torch import Tensor

from composer_copypaste.errors import DataError
from composer_copypaste.files import check_regular_file, describe_wrapped_file
from composer_copypaste.settings import ImageSettings

Range = tuple[float | int, float | int]

FULL_RANGE: Range = (0, 65535)
"""The range of 16-bit values; 32-bit integers are assumed to hold such values too."""

HOW_TO_GIVE_RANGE = (
    "give the values of black and white, such as data.value_range=[0,4095] for 12-bit data (copypaste shard: "
    "--value-range 0 4095; Python: ImageSettings(value_range=(0, 4095)))"
)

_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""For the last letter of a raw mode that reads the high byte of 16 bits, the letter that reads the low byte."""


def is_high_bit_depth(image: ImageFile.ImageFile) -> bool:
    """Whether an opened, not yet decoded image has more than 8 bits for each grey or color value."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or _is_16_bit_color(image)


def read_high_bit_depth(image: ImageFile.ImageFile, again: ImageFile.ImageFile) -> Shaped[ndarray, "h w *c"]:
    """The values of an image of more than 8 bits, grey (h, w) or colors (h, w, 3); alpha is dropped.

    Args:
        image: the opened image, not yet decoded.
        again: the same file, opened a second time.

    Raises:
        DataError: where Pillow would read 16-bit colors with 8 bits.
    """
    if not _is_16_bit_color(image):
        values = np.asarray(image)
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if _tiff_tag(image, PLANAR_CONFIGURATION, 1) == 2:
        raise DataError("the image has 16-bit colors stored plane by plane, which are read with 8 bits only: save "
                        "it with the colors of each pixel together")  # fmt: skip
    raw = _raw_mode(image)
    if raw.startswith("LA"):
        _decode_as(image, "RGBA")  # the four bytes of a pixel unchanged: high and low byte of grey, then of alpha
        values = np.asarray(image)
        return values[..., 0].astype(np.uint16) << 8 | values[..., 1]
    _decode_as(again, raw[:-1] + _OTHER_BYTE[raw[-1]])
    high, low = (np.asarray(part)[..., :3] for part in (image, again))
    return high.astype(np.uint16) << 8 | low


def stated_value_range(image: ImageFile.ImageFile) -> Range | None:
    """The range of values that an opened, not yet decoded file states; it overrides the data set's; None: none."""
    if image.tile and image.tile[0][0] == "ppm":  # Pillow scales by the maximum in the file
        return FULL_RANGE
    bits = _tiff_tag(image, BITSPERSAMPLE, (16,))[0]
    return (0, 2**bits - 1) if 8 < bits < 16 else None


def scale_to_8_bits(values: Shaped[ndarray, "*shape"], limits: Range) -> UInt8[ndarray, "*shape"]:
    """The values as 8 bits: the limits become 0 and 255, values beyond them are clipped, ties go to the even number."""
    low, high = limits
    if values.dtype == np.uint16:
        return _scale_in_place(np.arange(65536, dtype=np.float64), low, high)[values]
    return _scale_in_place(values.astype(np.float64), low, high)


def check_pixel_values(values: Shaped[ndarray, "*shape"], limits: Range | None) -> None:
    """Raise ``DataError`` where values cannot become 8 bits: they need ``limits``, or are not finite."""
    if limits is None and values.dtype.kind == "f":
        raise DataError(f"the image has floating-point pixels, whose range is unknown: {HOW_TO_GIVE_RANGE}")
    if limits is None and values.size and not 0 <= values.min() <= values.max() <= FULL_RANGE[1]:
        raise DataError(
            f"the image has values from {values.min()} to {values.max()}, outside 0..65535: {HOW_TO_GIVE_RANGE}"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("the image has pixels that are no finite numbers (NaN or infinite): give them a value")


def _scale_in_place(values: Shaped[ndarray, "*shape"], low: float | int, high: float | int) -> UInt8[ndarray, "*shape"]:
    """The values, scaled to 8 bits; the given array is overwritten."""
    values -= low
    values *= 255
    values /= high - low
    return np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8)


def _is_16_bit_color(image: ImageFile.ImageFile) -> bool:
    if _raw_mode(image)[:-1] in ("RGB;16", "RGBA;16", "RGBX;16", "LA;16"):
        return True
    # for colors stored plane by plane, the raw mode names only one plane
    return image.mode in ("RGB", "RGBA") and _tiff_tag(image, BITSPERSAMPLE, (8,))[0] == 16


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name for how the bytes of the file become pixels; empty where the decoder decides."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _decode_as(image: ImageFile.ImageFile, raw: str) -> None:
    """Make Pillow decode an opened, not yet decoded image with another raw mode."""
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]


def _tiff_tag(image: ImageFile.ImageFile, tag: int, default: Any) -> Any:
    """The value of a TIFF file's tag; the default for other files."""
    tags = getattr(image, "tag_v2", None)
    return default if tags is None else tags.get(tag, default)


# what Pillow raises on files that are not images, cut off or broken
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)
MISSING_FILE = "the file is missing"
_QUARTER_TURNS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What a viewer does to the stored pixels, by EXIF orientation."""
_TURNS_BACK = _TURNS | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

_FORMATS_WITH_PAGES = ("TIFF", "GIF", "PNG", "WEBP")
"""Formats in which further images are pages or frames, not a thumbnail or a depth map."""

Size = tuple[int, int]
"""Height and width in pixels."""

_REDUCTIONS = (8, 4, 2)
"""By how much a JPEG decoder can divide both sides of an image, in a fraction of the time."""
REDUCING_GAP = 2.0
"""An image is decoded smaller only if it is then still resized by this factor or more, as in Pillow's ``thumbnail``.

Measured on 36 photos: colors differ from those of the whole image by 0.8 to 1 levels on average, by 5 in one of a
hundred pixels, and by 26 at most (45 to 47 dB, of the worst photo 39); with the factor 1, by 3, 18 and 76 (35 dB).
"""


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file tells."""

    needs_range: bool
    """Whether values have more than 8 bits, and the file does not state their range."""
    may_be_turned: bool
    """Whether viewers turn or mirror the image, and its size does not tell whether it was annotated so."""
    has_more_pages: bool
    """Whether the file holds several pages or frames, of which the first is used."""


def read_image(
    path: Path | str, size: Size, content: bytes | None = None, settings: ImageSettings | None = None
) -> UInt8[Tensor, "3 h w"]:
    """The image as 8-bit RGB, of the ``size`` (height, width) that the annotations state; alpha is dropped.

    In memory the channels of a pixel lie together ("channels last"): torch resizes such 8-bit images fastest. If the
    file's ``content`` is given, the path is used only in messages.

    Raises:
        DataError: naming the file, where it cannot be decoded or has another size.
    """
    settings = settings or ImageSettings()
    source = path if content is None else content
    with _name_file_in_errors(path), _open_image(source, settings) as image:
        deep = is_high_bit_depth(image)
        turn = _turn_to_annotated_size(image, size)
        return _as_rgb(image, source, deep, turn, settings)


def read_as_shown(
    path: Path | str, content: bytes | None = None, settings: ImageSettings | None = None
) -> UInt8[Tensor, "3 h w"]:
    """The image as :func:`read_image` gives it, of whatever size, turned as a viewer shows it.

    Raises:
        DataError: naming the file, where it cannot be decoded.
    """
    settings = settings or ImageSettings()
    source = path if content is None else content
    with _name_file_in_errors(path), _open_image(source, settings) as image:
        deep = is_high_bit_depth(image)
        orientation = _exif_orientation(image, whole=not deep)  # deep images are decoded below, in another mode
        turn = None if image.format == "TIFF" else _TURNS.get(orientation)  # Pillow turns TIFF files
        return _as_rgb(image, source, deep, turn, settings)


def _as_rgb(
    image: ImageFile.ImageFile,
    source: Path | str | bytes,
    deep: bool,
    turn: Image.Transpose | None,
    settings: ImageSettings,
) -> UInt8[Tensor, "3 h w"]:
    """The pixels of an opened image as 8-bit RGB, turned; of one with more than 8 bits, ``deep``, not yet decoded."""
    if deep:  # Pillow's own conversion would clip at 255
        limits = stated_value_range(image) or settings.value_range
        with _open_image(source, settings) as again:
            values: Shaped[np.ndarray, "h w *c"] = read_high_bit_depth(image, again)
        check_pixel_values(values, limits)
        rgb = Image.fromarray(scale_to_8_bits(values, limits or FULL_RANGE)).convert("RGB")
    elif image.mode in ("P", "PA"):  # in one step, Pillow warns that transparency is dropped
        rgb = image.convert("RGBA").convert("RGB")
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    # copied: Pillow's own memory is read-only
    return torch.from_numpy(np.array(rgb if turn is None else rgb.transpose(turn))).permute(2, 0, 1)


def read_reduced(
    path: Path | str,
    size: Size,
    window: tuple[int, int, int, int],
    resized: Size,
    content: bytes | None = None,
    settings: ImageSettings | None = None,
) -> UInt8[Tensor, "3 h2 w2"] | None:
    """A part of a JPEG image that becomes much smaller, decoded at a half, a quarter or an eighth of its size.

    Args:
        path: the file, or its name in messages if its ``content`` is given.
        size: the (height, width) that the annotations state.
        window: (top, left, height, width) of the part, in whole pixels of the image.
        resized: the (height, width) that it gets, antialiased.
        content: of the file.
        settings: how it is read.

    Returns:
        None where the whole image must be decoded: where the part does not become four times as small or more, in
        other formats, and where the stored pixels are grey, CMYK or have to be turned.

    Raises:
        DataError: naming the file, where it cannot be decoded or has another size.
    """
    top, left, height, width = window
    shrinks_by = min(height / resized[0], width / resized[1]) / REDUCING_GAP
    reduction = next((by for by in _REDUCTIONS if shrinks_by >= by), None)
    if reduction is None:
        return None
    source = path if content is None else content
    with _name_file_in_errors(path), _open_image(source, settings or ImageSettings()) as image:
        turn = _turn_to_annotated_size(image, size)
        if (image.format, image.mode, turn) != ("JPEG", "RGB", None):
            return None
        image.draft(None, (image.width // reduction, image.height // reduction))
        edges = left / reduction, top / reduction, (left + width) / reduction, (top + height) / reduction
        shown = image.resize(resized[::-1], Image.Resampling.BILINEAR, box=edges)
        return torch.from_numpy(np.array(shown)).permute(2, 0, 1)


@dataclass(frozen=True)
class StoredImage:
    """An image of a data set before it is decoded, with what :func:`read_image` needs."""

    path: Path | str
    size: Size
    content: bytes | None = None
    settings: ImageSettings | None = None

    def read(self) -> UInt8[Tensor, "3 h w"]:
        """The whole image, as :func:`read_image`."""
        return read_image(self.path, self.size, self.content, self.settings)

    def read_reduced(self, window: tuple[int, int, int, int], resized: Size) -> UInt8[Tensor, "3 h2 w2"] | None:
        """A part of it, or None, as :func:`read_reduced`."""
        return read_reduced(self.path, self.size, window, resized, self.content, self.settings)


def read_rgba(path: Path, settings: ImageSettings | None = None) -> UInt8[Tensor, "4 h w"]:
    """An image with transparency as 8-bit RGBA, turned as a viewer shows it.

    Raises:
        DataError: naming the file, where it cannot be decoded or has no transparency.
    """
    with _name_file_in_errors(path), _open_image(path, settings or ImageSettings()) as image:
        if not image.has_transparency_data:
            raise DataError("the image has no transparency: save the cut-out with an alpha channel, as RGBA")
        rgba = np.array(ImageOps.exif_transpose(image).convert("RGBA"))
    return torch.from_numpy(rgba).permute(2, 0, 1)


def read_header(path: Path, size: Size, settings: ImageSettings | None = None) -> ImageHeader:
    """The header of an image file; ``size`` is the (height, width) that the annotations state.

    Raises:
        DataError: where the file is missing, is not an image, or has another size.
    """
    settings = settings or ImageSettings()
    with _open_image(path, settings) as image:
        if image.mode == "F" and settings.value_range is None:
            raise DataError(f"the image has floating-point pixels, whose range is unknown: {HOW_TO_GIVE_RANGE}")
        needs_range = is_high_bit_depth(image) and stated_value_range(image) is None
        orientation = _exif_orientation(image)
        same = image.width == image.height or orientation not in _QUARTER_TURNS
        pages = image.format in _FORMATS_WITH_PAGES and getattr(image, "is_animated", False)
        _turn_to_annotated_size(image, size)
        return ImageHeader(needs_range, orientation in _TURNS and same, pages)


def size_as_shown(path: Path, settings: ImageSettings) -> Size:
    """The (height, width) of an image as a viewer shows it: turned by its orientation tag.

    Raises:
        DataError: naming the file, where it is no image.
    """
    with _name_file_in_errors(path), _open_image(path, settings) as image:
        turned = _exif_orientation(image) in _QUARTER_TURNS and image.format != "TIFF"
        return (image.width, image.height) if turned else (image.height, image.width)


def largest_pixel_value(path: Path, settings: ImageSettings) -> int:
    """The largest stored value of an image of more than 8 bits.

    Raises:
        DataError: naming the file, where it cannot be decoded or needs `ImageSettings.value_range`.
    """
    with _name_file_in_errors(path), _open_image(path, settings) as image, _open_image(path, settings) as again:
        values = read_high_bit_depth(image, again)
        check_pixel_values(values, None)
        return int(values.max())


@contextmanager
def _name_file_in_errors(path: Path | str) -> Iterator[None]:
    """Put the file in front of the message of a ``DataError`` raised inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__


@contextmanager
def _open_image(source: Path | str | bytes, settings: ImageSettings) -> Iterator[ImageFile.ImageFile]:
    """Open an image from a file or its content; whatever Pillow raises inside becomes a ``DataError``."""
    with _PILLOW_SIZE_LIMIT.lifted():
        try:
            if not isinstance(source, bytes):
                check_regular_file(source)
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
                megapixels = image.width * image.height / 1e6
                if megapixels > settings.max_megapixels:
                    raise DataError(
                        f"the image is {image.width} x {image.height} (width x height), {megapixels:.4g} "
                        f"megapixels, more than max_megapixels, {settings.max_megapixels:g}: give "
                        f"data.max_megapixels={int(megapixels) + 1} where it may be (copypaste shard: "
                        "--max-megapixels), or cut it into parts"
                    )
                yield image
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError(MISSING_FILE) from None
        except _UNREADABLE as error:
            raise DataError(f"the image cannot be decoded: {_describe_decoding_error(error, source)}") from error


class _PillowSizeLimit:
    """Lifts Pillow's bound on the number of pixels, which is lower than some images need.

    The bound is a variable of Pillow's module, so the whole program shares it. `_open_image` checks our own bound.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._former: int | None = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """No bound inside, in any number of threads; after the last of them, the former bound."""
        with self._lock:
            if not self._users:
                self._former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    Image.MAX_IMAGE_PIXELS = self._former


_PILLOW_SIZE_LIMIT = _PillowSizeLimit()


def _turn_to_annotated_size(image: ImageFile.ImageFile, size: Size) -> Image.Transpose | None:
    """The turn after which a decoded image has the (height, width) of the annotations; None: no turn.

    COCO's coordinates refer to the pixels as stored, so the EXIF orientation is ignored if the stored size agrees with
    the annotations (also for square images and those upside down). Some tools annotate what a viewer shows: then only
    the size after the turn agrees.

    Raises:
        DataError: where neither size agrees.
    """
    height, width = size
    by_pillow = image.format == "TIFF"  # Pillow turns TIFF files, their size included
    orientation = _exif_orientation(image, whole=image.size == (height, width) != (width, height))
    shown = image.size[::-1] if orientation in _QUARTER_TURNS and not by_pillow else image.size
    stored = shown[::-1] if orientation in _QUARTER_TURNS else shown
    if stored == (width, height):
        return _TURNS_BACK.get(orientation) if by_pillow else None
    if shown == (width, height):
        return None if by_pillow else _TURNS.get(orientation)
    raise DataError(f"the image is {stored[0]} x {stored[1]} (width x height), the annotations say {width} x {height}")


def _exif_orientation(image: ImageFile.ImageFile, *, whole: bool = False) -> int:
    """The EXIF orientation, 1 where there is none or it cannot be read: viewers ignore unreadable EXIF data too.

    A PNG may have it after the pixels, which is looked for only if ``whole``: that decodes the image.
    """
    if image.format == "PNG" and not whole and not image.info.keys() & {"exif", "Raw profile type exif"}:
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in _TURNS else 1


def _describe_decoding_error(error: BaseException, source: Path | str | bytes) -> str:
    """Why Pillow could not read the file, without the path that some of its messages contain."""
    if isinstance(error, UnidentifiedImageError):
        if not isinstance(source, bytes):
            with open(source, "rb") as file:
                source = file.read(512)
        kind = describe_wrapped_file(source)
        return "not an image in a known format" if kind is None else f"it is {kind}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
