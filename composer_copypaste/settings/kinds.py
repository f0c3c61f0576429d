"""The kinds of values that settings have: their limits, and how they are checked."""

import fractions
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from composer_copypaste.validation import Check, TextPattern

DURATION = TextPattern(
    r"^[1-9][0-9]{0,8}(ep|ba)$",
    "epochs or batches above 0, with the unit, such as '12ep' or '800ba', of at most 9 digits",
)
TIME = TextPattern(
    r"^([0-9]{1,9}(ep|ba)|(0?\.[0-9]+|0|1)dur|(100|[0-9]{1,2}(\.[0-9]+)?)%dur)$",
    "a time such as '8ep', '500ba', '0.9dur' or '90%dur' (of the duration), of at most 9 digits",
)
Duration = Annotated[str, DURATION]
Time = Annotated[str, TIME]


def parse_time(time: str) -> tuple[fractions.Fraction, str]:
    """The number and the unit, "ep", "ba" or "dur"; the number is exact: 0.9dur of ten batches is nine batches."""
    number = re.split("[a-z%]", time, maxsplit=1)[0]
    if time.endswith("dur"):
        return fractions.Fraction(number) / (100 if "%" in time else 1), "dur"
    return fractions.Fraction(number), time[-2:]


Bounds = TypeVar("Bounds", tuple[int, int], tuple[float, float])


def _ascending(bounds: Bounds) -> Bounds:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected (smallest, largest), got {bounds}")
    return bounds


def _strictly_ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"expected two ascending values such as [0, 4095], got {list(bounds)}")
    return bounds


def _each_once(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    numbers = [number for pair in pairs for number in pair]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"expected each keypoint once, got {pairs}")
    return pairs


ASCENDING = Check(_ascending)

Fraction = Annotated[float, Ge(0), Le(1)]
ResizeFactor = Annotated[float, Ge(0.01), Le(10)]
ResizeRange = Annotated[tuple[ResizeFactor, ResizeFactor], ASCENDING]
Sigma = Annotated[float, Ge(0), Le(50)]
SigmaRange = Annotated[tuple[Sigma, Sigma], ASCENDING]
FractionRange = Annotated[tuple[Fraction, Fraction], ASCENDING]
AspectRatio = Annotated[float, Ge(0.1), Le(10)]
Pixels = Annotated[float, Ge(0), Le(1_000_000_000)]
PoolCount = Annotated[int, Ge(1), Le(1000)]
KeypointPairs = Annotated[tuple[tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]], ...], Check(_each_once)]
CanvasSide = Annotated[int, Ge(16), Le(8192)]
PixelValue = Annotated[float, Ge(-1e30), Le(1e30)]
ValueRange = Annotated[tuple[PixelValue, PixelValue], Check(_strictly_ascending)]
Megapixels = Annotated[float, Gt(0), Le(100_000)]
GeometryKind = Literal["obb_radians", "obb_degrees", "corners", "polygons", "points"]
ROTATED_BOXES: tuple[GeometryKind, ...] = ("obb_radians", "obb_degrees", "corners")
Settings = TypeVar("Settings")


def settings_from(kind: type[Settings], settings: Settings | None, overrides: Mapping[str, object]) -> Settings:
    """The settings of an object (None: the defaults), with those given by name in place of its own."""
    if settings is None:
        return kind(**overrides)
    if not isinstance(settings, kind):
        raise TypeError(f"settings: expected {kind.__name__}, got {settings!r}; give single settings by name")
    return replace(settings, **overrides) if overrides else settings  # type: ignore[type-var]
