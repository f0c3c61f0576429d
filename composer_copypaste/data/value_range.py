"""Pixels of more than 8 bits: read whole, and scaled to 8 bits by a range that is the same for all files of a data set.

Pillow keeps one of the two bytes of 16-bit colours; both are had by decoding twice, with the order of bytes exchanged.
"""

import sys
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PLANAR_CONFIGURATION

from composer_copypaste.errors import DataError

Range = tuple[float | int, float | int]

FULL_RANGE: Range = (0, 65535)
"""Of 16 bits, which 32-bit integers are taken to hold as well."""

HOW_TO_GIVE = (
    "give the values of black and white, such as data.value_range=[0,4095] for 12-bit data (copypaste shard: "
    "--value-range 0 4095; Python: ImageSettings(value_range=(0, 4095)))"
)

_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The raw mode that takes the low byte where another takes the high one."""


def is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether an opened, not yet decoded picture has more than 8 bits for each grey or colour value."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16") or _is_deep_colour(picture)


def read_deep(picture: ImageFile.ImageFile, again: ImageFile.ImageFile) -> Shaped[ndarray, "h w *c"]:
    """The values of a deep picture, grey (h, w) or colours (h, w, 3); alpha is dropped.

    Args:
        picture: opened, not yet decoded.
        again: the same file, opened once more.

    Raises:
        DataError: where the values cannot be had whole.
    """
    if not _is_deep_colour(picture):
        values = np.asarray(picture)
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if _tag(picture, PLANAR_CONFIGURATION, 1) == 2:
        raise DataError("the picture has 16-bit colours stored plane by plane, which are read with 8 bits only: save "
                        "it with the colours of each pixel together")  # fmt: skip
    raw = _raw_mode(picture)
    if raw.startswith("LA"):
        _decode_as(picture, "RGBA")  # the four bytes of a pixel as they are: grey, high and low, and alpha
        values = np.asarray(picture)
        return values[..., 0].astype(np.uint16) << 8 | values[..., 1]
    _decode_as(again, raw[:-1] + _OTHER_BYTE[raw[-1]])
    high, low = (np.asarray(part)[..., :3] for part in (picture, again))
    return high.astype(np.uint16) << 8 | low


def range_of_file(picture: ImageFile.ImageFile) -> Range | None:
    """The range that an opened, not yet decoded file states by its kind, whatever the data set's is; None: none."""
    if picture.tile and picture.tile[0][0] == "ppm":  # Pillow scales by the maximum that the file states
        return FULL_RANGE
    bits = _tag(picture, BITSPERSAMPLE, (16,))[0]
    return (0, 2**bits - 1) if 8 < bits < 16 else None


def scaled(values: Shaped[ndarray, "*shape"], limits: Range) -> UInt8[ndarray, "*shape"]:
    """Values as 8 bits: those at the limits become 0 and 255, those beyond are clipped, ties go to the even number."""
    low, high = limits
    if values.dtype == np.uint16:
        return _eight_bits(np.arange(65536, dtype=np.float64), low, high)[values]
    return _eight_bits(values.astype(np.float64), low, high)


def check_values(values: Shaped[ndarray, "*shape"], limits: Range | None) -> None:
    """Raise ``DataError`` where there is no 8-bit picture of these values, for want of ``limits`` or of a number."""
    if limits is None and values.dtype.kind == "f":
        raise DataError(f"the picture has floating-point pixels, whose range is unknown: {HOW_TO_GIVE}")
    if limits is None and values.size and not 0 <= values.min() <= values.max() <= FULL_RANGE[1]:
        raise DataError(
            f"the picture has values from {values.min()} to {values.max()}, outside 0..65535: {HOW_TO_GIVE}"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("the picture has pixels that are no finite numbers (NaN or infinite): give them a value")


def _eight_bits(values: Shaped[ndarray, "*shape"], low: float | int, high: float | int) -> UInt8[ndarray, "*shape"]:
    """The scaled values; the array that is given is overwritten."""
    values -= low
    values *= 255
    values /= high - low
    return np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8)


def _is_deep_colour(picture: ImageFile.ImageFile) -> bool:
    if _raw_mode(picture)[:-1] in ("RGB;16", "RGBA;16", "RGBX;16", "LA;16"):
        return True
    # of colours stored plane by plane, the raw mode names one
    return picture.mode in ("RGB", "RGBA") and _tag(picture, BITSPERSAMPLE, (8,))[0] == 16


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    """How the bytes of the file become pixels, in Pillow's spelling; empty where the decoder decides."""
    arguments = picture.tile[0][3] if picture.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _decode_as(picture: ImageFile.ImageFile, raw: str) -> None:
    """Have an opened, not yet decoded picture decoded with another raw mode."""
    picture.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in picture.tile
    ]


def _tag(picture: ImageFile.ImageFile, tag: int, default: Any) -> Any:
    """A TIFF file's tag; the default for other files."""
    tags = getattr(picture, "tag_v2", None)
    return default if tags is None else tags.get(tag, default)
