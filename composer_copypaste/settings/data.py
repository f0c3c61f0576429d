"""The settings of how image files are read, and of the data set that is drawn."""

from typing import Annotated

from annotated_types import Ge, Le

from composer_copypaste.settings.kinds import Megapixels, ValueRange
from composer_copypaste.validation import settings_class

POOL_MEGABYTES = 256.0
"""The memory of a pool of cut-outs, unless its user says otherwise."""


@settings_class
class ImageSettings:
    """How image files are read."""

    value_range: ValueRange | None = None
    """The values that become black (0) and white (255) in files of more than 8 bits per value, such as [0, 4095] for
    12-bit data in 16-bit files. Values between them are scaled, values beyond them are clipped. None: 0 and 65535, the
    range of 16 bits; data that uses much less of it is refused, and so are floating-point and negative values."""

    max_megapixels: Megapixels = 178.0
    """Larger images are refused. A decoded megapixel takes 3 MB, and each object's mask 1 MB more."""


@settings_class
class ShapesSettings:
    """The drawn data set of shapes: its folder, size and seed."""

    folder: str = "data/shapes"
    """The folder that it is drawn into the first time, and read from later."""

    train: Annotated[int, Ge(1), Le(100_000)] = 512
    """Number of images to train on."""

    val: Annotated[int, Ge(1), Le(100_000)] = 128
    """Number of images to evaluate on."""

    size: Annotated[int, Ge(32), Le(2048)] = 128
    """Height and width of an image, in pixels."""

    seed: Annotated[int, Ge(0)] = 0
    """The same seed draws the same files, to the byte."""
