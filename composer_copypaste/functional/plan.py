"""The plan of a batch: which objects are pasted where, as a value that can be printed, stored and replayed."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from composer_copypaste.errors import count_noun

BOX_CORNERS = np.array([[0, 1], [2, 1], [0, 3], [2, 3]])
"""The columns of boxes (x1, y1, x2, y2) that are x and y of each corner."""


@dataclass(frozen=True)
class ImageInfo:
    """What sampling knows of an image: its size in pixels, and boxes and weights of its objects, on the host."""

    height: int
    width: int
    boxes: Float[ndarray, "n 4"]
    weights: Float[ndarray, " n"]
    """The relative chance of each object to be copied; 0: never."""
    is_object: Bool[ndarray, " n"] | None = None
    """Which of them pasted ones should not cover, where a setting limits that: all, or of the classes of a class-id map
    those that are neither background nor unlabelled."""

    place: Float[ndarray, "ph pw"] | Sequence[Float[ndarray, "k 2"]] | None = None
    """How likely objects are put where, as a map of any size or polygons in pixels, by the setting ``place_key``."""

    @property
    def occupied(self) -> Float[ndarray, "k 4"]:
        """The boxes of the objects that pasted ones should not cover."""
        return self.boxes if self.is_object is None else self.boxes[self.is_object]


Map = Sequence[Sequence[int | float]]
"""An affine map from (x, y, 1) to (x, y): two rows of three numbers."""
Color = Sequence[int | float]
"""Factors of brightness, contrast and saturation."""
Row = tuple[int, int, int, Map] | tuple[int, int, int, Map, Color]
"""Target, source, instance, the map from target to source and, if colors change, their factors."""

AS_THEY_ARE: Color = (1.0, 1.0, 1.0)
"""The factors that leave colors unchanged."""
SMALLEST_DETERMINANT = 1e-4
"""An object may become 100 times as wide and as high, ten times what the settings allow."""
LARGEST_FACTOR, LARGEST_SHIFT = 1 << 16, 1 << 22
"""The largest numbers in a map, so that positions in images of 8,192 pixels fit 64 bits in fixed point. The settings
allow a factor of 317, and so shifts of 317 x 8,192 pixels."""
MOST_FOR_AN_IMAGE = 32_767
"""The largest number of objects pasted on one image; kernels number them in 16 bits."""
KEYS = ("target", "source", "instance", "to_source", "color")


@dataclass(frozen=True, eq=False)
class PastePlan:
    """What a batch receives: the drawn numbers, and nothing that depends on pixels.

    Row ``m`` describes one pasted object; the rows of one target stand together, bottom to top. Coordinates are
    continuous, as in boxes: the centre of the first pixel is at (0.5, 0.5).
    """

    target: Int[Tensor, " m"]
    """Batch index of the image that receives the object."""

    source: Int[Tensor, " m"]
    """Batch index of the image that it is copied from. In a batch of N images, numbers from N on are extra sources of
    one object each: the objects of the bank, oldest first, then the cut-outs of the pool."""

    instance: Int[Tensor, " m"]
    """Object index within the source."""

    to_source: Float[Tensor, "m 2 3"]
    """Affine map from (x, y, 1) in the target to (x, y) in the source."""

    color: Float[Tensor, "m 3"]
    """Factors of brightness, contrast and saturation; 1 changes nothing."""

    def __len__(self) -> int:
        return self.target.shape[0]

    def __eq__(self, other: object) -> bool:
        """Whether both are plans with the same rows in the same order."""
        return isinstance(other, PastePlan) and self.rows() == other.rows()

    def __hash__(self) -> int:
        return hash(tuple(map(tuple, (self.target.tolist(), self.source.tolist(), self.instance.tolist()))))

    def __str__(self) -> str:
        """A line for each pasted object."""
        return "\n".join(
            f"image {row['target']} receives object {row['instance']} of source {row['source']}, by {row['to_source']}"
            + (f", colors times {row['color']}" if row["color"] != list(AS_THEY_ARE) else "")
            for row in self.rows()
        )

    def to_json(self) -> str:
        """The plan as JSON, a row for each pasted object: target, source, instance, to_source and color."""
        return json.dumps(self.rows())

    @classmethod
    def from_json(cls, text: str) -> "PastePlan":
        """The plan that ``to_json`` wrote, or that was written by hand; colors may be left out.

        Rows of former versions spell "color" as "colour".

        Raises:
            ValueError: where the text is no such JSON.
        """
        try:
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise TypeError(f"got {type(rows).__name__}")
            return cls.from_rows([_row(row) for row in rows])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                "expected a JSON list of objects with target, source, instance, to_source (2 x 3 numbers) and perhaps "
                f"color (3 numbers): {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> "PastePlan":
        """The plan with these rows (target, source, instance, to_source and, where colors change, color).

        Raises:
            ValueError: where a row does not hold these.
        """
        rows = list(rows)  # a generator would be empty the second time
        for number, row in enumerate(rows):
            if not isinstance(row, tuple | list) or len(row) not in (4, 5):
                raise ValueError(
                    f"plan: row {number}: expected ({', '.join(KEYS)}), perhaps without {KEYS[-1]}, got {row!r}"
                )
        colors = [row[4] if len(row) == 5 else AS_THEY_ARE for row in rows]
        return cls(
            target=_whole_numbers("target", [row[0] for row in rows]),
            source=_whole_numbers("source", [row[1] for row in rows]),
            instance=_whole_numbers("instance", [row[2] for row in rows]),
            to_source=_numbers("to_source", [row[3] for row in rows], (2, 3)),
            color=_numbers("color", colors, (3,)),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The rows as numbers by name: target, source, instance, to_source and color."""
        columns = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def check(self, images: Sequence[ImageInfo], extra: int = 0) -> None:
        """Raise ``ValueError`` where the plan names objects that the images and ``extra`` further sources lack."""
        self._check_columns()
        if len(self) and (most := int(self.target.unique(return_counts=True)[1].max())) > MOST_FOR_AN_IMAGE:
            raise ValueError(f"plan: expected at most {MOST_FOR_AN_IMAGE} objects for one image, got {most}")
        objects = [len(image.boxes) for image in images] + [1] * extra
        for row in self.rows():
            source, instance = row["source"], row["instance"]
            if not 0 <= row["target"] < len(images):
                raise ValueError(
                    f"plan: expected target among the batch's {count_noun(len(images), 'image')}, got {row['target']}"
                )
            if not 0 <= source < len(objects):
                raise ValueError(
                    f"plan: expected source among the batch's {count_noun(len(images), 'image')} and "
                    f"{count_noun(extra, 'source')} beyond it, got {source}; a plan "
                    "drawn with a bank or a pool needs them, the bank as it was then"
                )
            if not 0 <= instance < objects[source]:
                raise ValueError(
                    f"plan: expected instance among the {count_noun(objects[source], 'object')} of source {source}, "
                    f"got {instance}"
                )
            (xx, xy, x), (yx, yy, y) = row["to_source"]
            factors, shifts = (xx, xy, yx, yy), (x, y)
            # "not all ... <=", so that NaN is refused too
            if not all(abs(n) <= LARGEST_FACTOR for n in factors) or not all(abs(n) <= LARGEST_SHIFT for n in shifts):
                raise ValueError(
                    f"plan: expected a to_source of numbers up to {LARGEST_FACTOR}, and shifts up to {LARGEST_SHIFT}, "
                    f"got {row['to_source']}"
                )
            if not all(0 <= factor < math.inf for factor in row["color"]):
                raise ValueError(f"plan: expected factors of color of 0 or more, got {row['color']}")
            if not abs(xx * yy - xy * yx) >= SMALLEST_DETERMINANT:
                raise ValueError(
                    f"plan: expected a to_source that can be inverted, got {row['to_source']}; a pixel of the target "
                    f"covers at least {SMALLEST_DETERMINANT} of one of the source"
                )

    def _check_columns(self) -> None:
        m = len(self.target) if isinstance(self.target, Tensor) and self.target.ndim else 0
        for name, rest in (("target", ()), ("source", ()), ("instance", ()), ("to_source", (2, 3)), ("color", (3,))):
            column, shape = getattr(self, name), (m, *rest)
            if not isinstance(column, Tensor) or tuple(column.shape) != shape:
                got = tuple(column.shape) if isinstance(column, Tensor) else type(column).__name__
                raise ValueError(f"plan: expected {name} to be a tensor of shape {shape}, got {got}")
            if not rest and (column.is_floating_point() or column.dtype == torch.bool):
                raise ValueError(f"plan: expected {name} to hold whole numbers, got {column.dtype}")
            if column.is_complex():
                raise ValueError(f"plan: expected {name} to hold real numbers, got {column.dtype}")
            if column.requires_grad or column.device.type != "cpu":
                grad = ", requires_grad=True" if column.requires_grad else ""
                raise ValueError(
                    f"plan: expected {name} on the CPU and without a gradient, got it on {column.device}{grad}; "
                    ".detach().cpu() gives that"
                )

    def sources_from(self, first: int) -> list[int]:
        """The sources used whose number is at least ``first``, ascending."""
        return sorted({source for source in self.source.tolist() if source >= first})

    def renumbered(self, sources: Sequence[int], first: int) -> "PastePlan":
        """The plan with these sources renumbered to ``first``, ``first`` + 1 and so on."""
        if not sources:
            return self
        number = {source: first + place for place, source in enumerate(sources)}
        new = [number.get(source, source) for source in self.source.tolist()]
        return replace(self, source=torch.tensor(new, dtype=torch.int64))


def _row(row: dict[str, Any]) -> Row:
    """A row from JSON."""
    if not isinstance(row, dict):
        raise TypeError(f"got {row!r} in the list")
    if unknown := row.keys() - {*KEYS, "colour"}:
        raise ValueError(f"unknown key {min(unknown)!r}")
    color: Color = next((row[key] for key in ("color", "colour") if key in row), AS_THEY_ARE)
    return row["target"], row["source"], row["instance"], row["to_source"], color


def _whole_numbers(name: str, column: Sequence[object]) -> Int[Tensor, " m"]:
    for number, value in enumerate(column):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or abs(int(value)) >= 2**63:
            raise ValueError(f"plan: row {number}: expected {name} to be a whole number, got {value!r}")
    return torch.tensor(column, dtype=torch.int64)


def _numbers(name: str, column: Sequence[object], shape: tuple[int, ...]) -> Float[Tensor, "m ..."]:
    values = torch.empty((len(column), *shape), dtype=torch.float64)
    for number, value in enumerate(column):
        try:
            row = torch.tensor(value, dtype=torch.float64)
        except (RuntimeError, TypeError, ValueError):  # of text, of rows of several lengths
            row = torch.empty(0)
        if row.shape != shape:
            raise ValueError(
                f"plan: row {number}: expected {name} to be {' x '.join(map(str, shape))} numbers, got {value!r}"
            )
        values[number] = row
    return values
