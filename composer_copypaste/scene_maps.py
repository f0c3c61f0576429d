"""Maps and polygons of a scene, as settings hold them: in Python arrays, in YAML the paths of files and short lists."""

import hashlib
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from composer_copypaste.errors import DataError
from composer_copypaste.files import expand_home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

SUFFIXES = (".npy", ".png")
"""The endings of the files that maps are read from."""
MOST_PIXELS = 100_000_000
"""The largest number of pixels of a map's file."""
EXPECTED = "a map of numbers of 0 or more, some above 0: an array (h, w), rows of numbers, or a .npy or grey .png file"
POLYGONS = "a polygon of at least 3 points (x, y) in fractions of the image, or a list of such"

Polygon = tuple[tuple[float, float], ...]


class SceneMap:
    """A map (h, w) over an image, whatever the size of either; equal to another of the same file or numbers.

    Args:
        source: the numbers, or the path of their file, which is read when they are needed.

    Raises:
        ValueError: where it is neither.
    """

    def __init__(self, source: object) -> None:
        import numpy as np  # here, so that importing settings is fast

        self.path: Path | None = None
        if isinstance(source, str | Path):
            self.path = expand_home(source)
            if self.path.suffix.lower() not in SUFFIXES:
                raise ValueError(f"expected {EXPECTED}, got {str(source)!r}")
            return
        try:
            self._given = np.array(np.asarray(source), dtype=np.float64)  # a tensor cannot be asked for a copy
        except (TypeError, ValueError):
            raise ValueError(f"expected {EXPECTED}, got {type(source).__name__}") from None
        if problem := problem_of_map(self._given):
            raise ValueError(f"expected {EXPECTED}, got {problem}")

    @property
    def values(self) -> "NDArray[np.float64]":
        """The numbers (h, w); those of a file are read once.

        Raises:
            DataError: where the file cannot be read, or holds no such map.
        """
        return self._given if self.path is None else read_map(self.path)

    @cached_property
    def _key(self) -> object:
        if self.path is not None:
            return self.path
        return self._given.shape, hashlib.sha256(self._given.tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SceneMap) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        if self.path is not None:
            return f"SceneMap({str(self.path)!r})"
        height, width = self._given.shape
        return f"<map of {height} x {width}>"

    def plain(self) -> str | list[list[float]]:
        """The path, or the numbers, as a recipe has them."""
        found: str | list[list[float]] = str(self.path) if self.path is not None else self._given.tolist()
        return found


def problem_of_map(values: "NDArray[Any]") -> str | None:
    """Why an array is no map; None where it is one."""
    import numpy as np

    if values.ndim != 2 or not values.size:
        return f"an array of shape {values.shape}"
    if not np.isfinite(values).all() or (values < 0).any():
        return "numbers that are negative, infinite or not numbers"
    return None if values.any() else "zeros alone"


@lru_cache(maxsize=16)
def read_map(path: Path) -> "NDArray[np.float64]":
    """The numbers of a map's file; raise ``DataError`` where it cannot be read, or holds no map."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _read_grey(path)
        values = np.asarray(found, dtype=np.float64)
    except (OSError, EOFError, TypeError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: expected {EXPECTED}: {_reason(error)}") from None
    if problem := problem_of_map(values):
        raise DataError(f"{path}: expected {EXPECTED}, got {problem}")
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read_grey(path: Path) -> "NDArray[Any]":
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"its {image.width} x {image.height} pixels are more than {MOST_PIXELS}")
        if image.mode not in ("1", "L", "I", "I;16", "F"):
            raise ValueError(f"the image is not grey (its mode is {image.mode})")
        return np.asarray(image)


def polygons_of(value: object) -> tuple[Polygon, ...]:
    """Polygons, given one or several.

    Raises:
        ValueError: where they are no such, or a polygon has no area.
    """
    import numpy as np

    try:
        found = [np.array(polygon, dtype=np.float64) for polygon in value]  # type: ignore[attr-defined]
        if found and all(point.shape == (2,) for point in found):
            found = [np.stack(found)]
    except (TypeError, ValueError):
        raise ValueError(f"expected {POLYGONS}, got {value!r}") from None
    fits = all(each.ndim == 2 and each.shape[1] == 2 and len(each) >= 3 for each in found)
    if not found or not fits or not all(((each >= 0) & (each <= 1)).all() for each in found):
        raise ValueError(f"expected {POLYGONS}, got {value!r}")
    for polygon in found:
        if np.linalg.matrix_rank(polygon - polygon[0]) < 2:
            raise ValueError(f"expected {POLYGONS}, got one without an area: {polygon.tolist()}")
    return tuple(tuple((float(x), float(y)) for x, y in polygon) for polygon in found)


class Converted:
    """In an annotation: a function that makes the value of what is given, and its form in JSON.

    Args:
        convert: raises ``ValueError`` where the value cannot be used.
        plain: the value as JSON has it.
        schema: of the JSON.
    """

    def __init__(self, convert: Callable[[Any], object], plain: Callable[[Any], object], schema: object) -> None:
        self.convert, self.plain, self.schema = convert, plain, schema

    def __get_pydantic_core_schema__(self, source: object, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema

        written = core_schema.plain_serializer_function_ser_schema(self.plain)
        return core_schema.no_info_plain_validator_function(self.convert, serialization=written)

    def __get_pydantic_json_schema__(self, schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> Any:
        return self.schema


def _as_map(value: object) -> SceneMap:
    return value if isinstance(value, SceneMap) else SceneMap(value)


_NUMBERS = {"type": "array", "minItems": 1, "items": {"type": "number", "minimum": 0}}
_POINT = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number", "minimum": 0, "maximum": 1}}
_POLYGON = {"type": "array", "minItems": 3, "items": _POINT}
_ROWS = {"type": "array", "minItems": 1, "items": _NUMBERS}

AsMap = Annotated[
    SceneMap, Converted(_as_map, SceneMap.plain, {"anyOf": [{"type": "string", "pattern": r"\.(npy|png)$"}, _ROWS]})
]
AsPolygons = Annotated[
    tuple[Polygon, ...],
    Converted(
        polygons_of,
        lambda polygons: [[list(point) for point in polygon] for polygon in polygons],
        {"anyOf": [_POLYGON, {"type": "array", "minItems": 1, "items": _POLYGON}]},
    ),
]
