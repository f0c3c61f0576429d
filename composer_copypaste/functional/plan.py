"""The plan of a batch: which objects are pasted where, as a value that can be printed, stored and replayed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from composer_copypaste.errors import count_noun
from composer_copypaste.settings import CopyPasteSettings

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
Row = Sequence[Any]
"""Target, source, instance, the map from target to source and, where they are not the settings', what else is drawn:
the values of :class:`PastePlan`'s columns in their order, from the fifth on with None for what is not drawn."""

AS_THEY_ARE: Color = (1.0, 1.0, 1.0)
"""The factors that leave colors unchanged."""
SMALLEST_DETERMINANT = 1e-4
"""An object may become 100 times as wide and as high, ten times what the settings allow."""
LARGEST_FACTOR, LARGEST_SHIFT = 1 << 16, 1 << 22
"""The largest numbers in a map, so that positions in images of 8,192 pixels fit 64 bits in fixed point. The settings
allow a factor of 317, and so shifts of 317 x 8,192 pixels."""
LARGEST_COLOR = 1 << 10
"""The largest factor of brightness, contrast or saturation, which fits every number type; settings allow 2."""
LARGEST_SEED = (1 << 31) - 1
MOST_FOR_AN_IMAGE = 32_767
"""The largest number of objects pasted on one image; kernels number them in 16 bits."""
KEYS = ("target", "source", "instance", "to_source", "color", "blend_sigma", "transfer_strength", "seed")
NEEDED = 4
"""How many of these each row has."""
WHOLE = ("target", "source", "instance", "seed")
LIMITS = {"blend_sigma": (0, 50), "transfer_strength": (0, 1), "seed": (0, LARGEST_SEED)}
"""The numbers that may be drawn beside the map and the colors."""
AS_SET = math.nan
"""Stands for a number of the settings that is not drawn."""


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

    blend_sigma: Float[Tensor, " m"]
    """Standard deviation of the seam's Gaussian, in pixels; NaN: that of the settings."""

    transfer_strength: Float[Tensor, " m"]
    """How far colors move towards those of the surroundings, from 0 to 1; NaN: as far as the settings say."""

    seed: Int[Tensor, " m"]
    """Of the random numbers that ``object_transform`` draws for the object."""

    def __len__(self) -> int:
        return self.target.shape[0]

    def __eq__(self, other: object) -> bool:
        """Whether both are plans with the same rows in the same order."""
        return isinstance(other, PastePlan) and self.rows() == other.rows()

    def __hash__(self) -> int:
        return hash(tuple(map(tuple, (self.target.tolist(), self.source.tolist(), self.instance.tolist()))))

    def __repr__(self) -> str:
        images = count_noun(len(self.target.unique()), "image")
        return f"PastePlan({count_noun(len(self), 'object')} for {images}; print shows each)"

    def __str__(self) -> str:
        """A line for each pasted object."""
        return "\n".join(
            f"image {row['target']} receives object {row['instance']} of source {row['source']}, by {row['to_source']}"
            + (f", colors times {row['color']}" if row["color"] != list(AS_THEY_ARE) else "")
            + "".join(f", {name} {row[name]}" for name in KEYS[NEEDED + 1 :] if name in row)
            for row in self.rows()
        )

    def to_json(self) -> str:
        """The plan as JSON, a row for each pasted object, as ``rows`` gives it."""
        return json.dumps(self.rows())

    @classmethod
    def from_json(cls, text: str) -> "PastePlan":
        """The plan that ``to_json`` wrote, or that was written by hand; all but the first four keys may be left out.

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
                f"color (3 numbers), {', '.join(KEYS[NEEDED + 1 :])}: {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> "PastePlan":
        """The plan with these rows (target, source, instance, to_source and, where they are drawn, further columns).

        Raises:
            ValueError: where a row does not hold these.
        """
        rows = list(rows)  # a generator would be empty the second time
        for number, row in enumerate(rows):
            if not isinstance(row, tuple | list) or not NEEDED <= len(row) <= len(KEYS):
                raise ValueError(
                    f"plan: row {number}: expected ({', '.join(KEYS)}), perhaps without the last ones, got {row!r}"
                )
        rows = [(*row, *[None] * (len(KEYS) - len(row))) for row in rows]
        columns = dict(zip(KEYS, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(KEYS, ())
        return cls(
            target=_whole_numbers("target", columns["target"]),
            source=_whole_numbers("source", columns["source"]),
            instance=_whole_numbers("instance", columns["instance"]),
            to_source=_numbers("to_source", columns["to_source"], (2, 3)),
            color=_numbers("color", [AS_THEY_ARE if it is None else it for it in columns["color"]], (3,)),
            blend_sigma=_numbers("blend_sigma", _given(columns["blend_sigma"]), ()),
            transfer_strength=_numbers("transfer_strength", _given(columns["transfer_strength"]), ()),
            seed=_whole_numbers("seed", [0 if seed is None else seed for seed in columns["seed"]]),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The rows as numbers by name: target, source, instance, to_source, color and what else is drawn."""
        columns = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{name: value for name, value in row.items() if not _is_left_out(name, value)} for row in rows]

    def check(self, images: Sequence[ImageInfo], extra: int) -> None:
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
            _check_numbers(row)

    def _check_columns(self) -> None:
        m = len(self.target) if isinstance(self.target, Tensor) and self.target.ndim else 0
        shapes = {"to_source": (2, 3), "color": (3,)}
        for name in KEYS:
            rest = shapes.get(name, ())
            column, shape = getattr(self, name), (m, *rest)
            if not isinstance(column, Tensor) or tuple(column.shape) != shape:
                got = tuple(column.shape) if isinstance(column, Tensor) else type(column).__name__
                raise ValueError(f"plan: expected {name} to be a tensor of shape {shape}, got {got}")
            if name in WHOLE and (column.is_floating_point() or column.dtype == torch.bool):
                raise ValueError(f"plan: expected {name} to hold whole numbers, got {column.dtype}")
            if column.is_complex():
                raise ValueError(f"plan: expected {name} to hold real numbers, got {column.dtype}")
            if column.requires_grad or column.device.type != "cpu":
                grad = ", requires_grad=True" if column.requires_grad else ""
                raise ValueError(
                    f"plan: expected {name} on the CPU and without a gradient, got it on {column.device}{grad}; "
                    ".detach().cpu() gives that"
                )

    def completed(self, settings: CopyPasteSettings) -> "PastePlan":
        """The plan with the settings' numbers where it has none of its own.

        Raises:
            ValueError: where the settings have a range, of which nothing was drawn.
        """
        return replace(
            self,
            blend_sigma=_completed("blend_sigma", self.blend_sigma, settings.blend_sigma),
            transfer_strength=_completed("transfer_strength", self.transfer_strength, settings.transfer_strength),
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


def _check_numbers(row: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a row's numbers are out of their limits."""
    (xx, xy, x), (yx, yy, y) = row["to_source"]
    factors, shifts = (xx, xy, yx, yy), (x, y)
    # "not all ... <=", so that NaN is refused too
    if not all(abs(n) <= LARGEST_FACTOR for n in factors) or not all(abs(n) <= LARGEST_SHIFT for n in shifts):
        raise ValueError(
            f"plan: expected a to_source of numbers up to {LARGEST_FACTOR}, and shifts up to {LARGEST_SHIFT}, "
            f"got {row['to_source']}"
        )
    if not all(0 <= factor <= LARGEST_COLOR for factor in row["color"]):
        raise ValueError(f"plan: expected factors of color from 0 to {LARGEST_COLOR}, got {row['color']}")
    for name, (low, high) in LIMITS.items():
        if not low <= row.get(name, low) <= high:
            raise ValueError(f"plan: expected {name} to be from {low} to {high}, got {row[name]}")
    if not abs(xx * yy - xy * yx) >= SMALLEST_DETERMINANT:
        raise ValueError(
            f"plan: expected a to_source that can be inverted, got {row['to_source']}; a pixel of the target "
            f"covers at least {SMALLEST_DETERMINANT} of one of the source"
        )


def _row(row: dict[str, Any]) -> Row:
    """A row from JSON."""
    if not isinstance(row, dict):
        raise TypeError(f"got {row!r} in the list")
    if unknown := row.keys() - {*KEYS, "colour"}:
        raise ValueError(f"unknown key {min(unknown)!r}")
    color: Color = next((row[key] for key in ("color", "colour") if key in row), AS_THEY_ARE)
    needed = row["target"], row["source"], row["instance"], row["to_source"]
    return (*needed, color, *(row.get(name) for name in KEYS[NEEDED + 1 :]))


def _completed(name: str, column: Float[Tensor, " m"], setting: float | tuple[float, float]) -> Float[Tensor, " m"]:
    values = column.numpy()  # in a fifth of the time that torch takes for as many numbers as a plan has
    missing = np.isnan(values)
    if isinstance(setting, tuple) and missing.any():
        raise ValueError(
            f"plan: row {np.flatnonzero(missing)[0]}: expected {name}, since the settings have a range, {setting}, got "
            "none; plan_batch draws it"
        )
    return torch.from_numpy(np.where(missing, setting, values)) if missing.any() else column


def _given(column: Sequence[object]) -> list[object]:
    return [AS_SET if value is None else value for value in column]


def _is_left_out(name: str, value: Any) -> bool:
    """Whether a row has no need to name the value."""
    return value == 0 if name == "seed" else isinstance(value, float) and math.isnan(value)


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
        except (OverflowError, RuntimeError, TypeError, ValueError):  # of 10**400, text, rows of several lengths
            row = torch.empty(0)
        if row.shape != shape:
            expected = f"{' x '.join(map(str, shape))} numbers" if shape else "a number"
            raise ValueError(f"plan: row {number}: expected {name} to be {expected}, got {value!r}")
        values[number] = row
    return values
