"""Pictures from disk: 8-bit RGB whatever the file holds, turned only where the annotations are made on it turned."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from composer_copypaste.errors import DataError

# what Pillow raises on a file that is no picture, a cut one, a broken one or an enormous one
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_QUARTER_TURNS = (5, 6, 7, 8)


def read_picture(path: Path | str, size: tuple[int, int], content: bytes | None = None) -> UInt8[Tensor, "3 h w"]:
    """The picture as 8-bit RGB, of the size (height, width) that the annotations state; alpha is dropped.

    The memory is laid out pixel by pixel ("channels last"), which is how torch resizes 8-bit pictures fastest. Where
    the file's ``content`` is given, the path only names it.

    Raises:
        DataError: naming the file, where it cannot be decoded or has another size.
    """
    try:
        with Image.open(path if content is None else BytesIO(content)) as picture:
            turned = turn_is_needed(picture, size)
            rgb = _rgb(ImageOps.exif_transpose(picture) if turned else picture)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except _UNREADABLE as error:
        raise DataError(f"{path}: the picture cannot be decoded: {_reason(error)}") from error
    # a copy, since Pillow's own memory is read-only
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def read_rgba(path: Path) -> UInt8[Tensor, "4 h w"]:
    """A picture with transparency as 8-bit RGBA, as a viewer shows it.

    Raises:
        DataError: naming the file, where it cannot be decoded or has no transparency.
    """
    try:
        with Image.open(path) as picture:
            if not picture.has_transparency_data:
                raise DataError("the picture has no transparency: save the cut-out with an alpha channel, as RGBA")
            rgba = np.array(ImageOps.exif_transpose(picture).convert("RGBA"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except _UNREADABLE as error:
        raise DataError(f"{path}: the picture cannot be decoded: {_reason(error)}") from error
    return torch.from_numpy(rgba).permute(2, 0, 1)


def picture_problem(path: Path, size: tuple[int, int]) -> str | None:
    """What a look at the file's header finds wrong, or None; ``size`` is the annotations' (height, width)."""
    try:
        with Image.open(path) as picture:
            turn_is_needed(picture, size)
    except FileNotFoundError:
        return "the file is missing"
    except DataError as error:
        return str(error)
    except _UNREADABLE as error:
        return f"the picture cannot be decoded: {_reason(error)}"
    return None


def turn_is_needed(picture: Image.Image, size: tuple[int, int]) -> bool:
    """Whether the EXIF orientation must be applied for the picture to have the annotations' (height, width).

    COCO's coordinates refer to the pixels as stored, so the orientation is left alone where the stored size agrees
    (pictures that are square or upside down included). Some tools annotate what a viewer shows: then only the turned
    size agrees.

    Raises:
        DataError: where neither size agrees.
    """
    height, width = size
    if picture.size == (width, height):
        return False
    if picture.size == (height, width) and picture.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS:
        return True
    raise DataError(
        f"the picture is {picture.width} x {picture.height} (width x height), the annotations say {width} x {height}"
    )


def _rgb(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _from_16_bit(picture).convert("RGB")
    if picture.mode == "F":
        raise DataError("the picture has floating-point pixels, whose range is unknown: save it with 8 or 16 bits")
    if picture.mode in ("P", "PA"):
        # straight to RGB, Pillow warns of the transparency that is dropped
        return picture.convert("RGBA").convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    """The 16-bit grey picture scaled to 8 bits, where Pillow's own conversion would clip at 255."""
    pixels = np.asarray(picture).astype(np.int64)
    if pixels.size and (pixels.max() > 65535 or pixels.min() < 0):
        raise DataError("the picture has grey values outside 0..65535: save it with 8 or 16 bits")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _reason(error: BaseException) -> str:
    """Why Pillow could not read the file, without the path that some of its messages repeat."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
