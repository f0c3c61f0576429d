"""What to paste where: the plan of a batch, drawn on the host from sizes and boxes alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.draw import integer, uniform
from composer_copypaste.functional.jitter import draw_colours, draw_linear
from composer_copypaste.functional.placement import draw_shifts
from composer_copypaste.functional.scene import Scene
from composer_copypaste.functional.selection import choose
from composer_copypaste.settings import CopyPasteSettings

Map = Sequence[Sequence[int | float]]
Colour = Sequence[int | float]
Row = tuple[int, int, int, Map] | tuple[int, int, int, Map, Colour]
"""Target, source, instance, the map from the target to the source, and what changes the colours, if anything does."""

AS_THEY_ARE: Colour = (1.0, 1.0, 1.0)
"""The factors that leave colours unchanged."""


@dataclass(frozen=True)
class PastePlan:
    """What a batch receives: the drawn numbers, and nothing that depends on pixels.

    Row ``m`` describes one pasted object; the rows of one target stand together, bottom to top. Coordinates are
    continuous, as in boxes: the centre of the first pixel is (0.5, 0.5).
    """

    target: Int[Tensor, " m"]
    """Batch index of the image that receives the object."""

    source: Int[Tensor, " m"]
    """Batch index of the image it is copied from."""

    instance: Int[Tensor, " m"]
    """Which of the source's objects."""

    to_source: Float[Tensor, "m 2 3"]
    """Affine map from (x, y, 1) in the target to (x, y) in the source."""

    colour: Float[Tensor, "m 3"]
    """Factors of brightness, contrast and saturation; 1: as it is."""

    def __len__(self) -> int:
        return self.target.shape[0]

    def __str__(self) -> str:
        """A line for each pasted object."""
        return "\n".join(
            f"image {row['target']} receives object {row['instance']} of image {row['source']}, by {row['to_source']}"
            + (f", colours times {row['colour']}" if row["colour"] != list(AS_THEY_ARE) else "")
            for row in self._rows()
        )

    def to_json(self) -> str:
        """The plan as JSON, a row for each pasted object: target, source, instance, to_source and colour."""
        return json.dumps(self._rows())

    @classmethod
    def from_json(cls, text: str) -> "PastePlan":
        """The plan that ``to_json`` wrote, or that was written by hand; rows may leave out their colour.

        Raises:
            ValueError: where the text is no such JSON.
        """
        try:
            return cls.from_rows(
                [
                    (r["target"], r["source"], r["instance"], r["to_source"], r.get("colour", AS_THEY_ARE))
                    for r in json.loads(text)
                ]
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "expected a JSON list of objects with target, source, instance and to_source (2 x 3 numbers): "
                f"{type(error).__name__}: {error}"
            ) from error

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> "PastePlan":
        """The plan with these rows (target, source, instance, to_source and, where colours change, colour)."""
        colours = [row[4] if len(row) == 5 else AS_THEY_ARE for row in rows]
        return cls(
            target=torch.tensor([row[0] for row in rows], dtype=torch.int64),
            source=torch.tensor([row[1] for row in rows], dtype=torch.int64),
            instance=torch.tensor([row[2] for row in rows], dtype=torch.int64),
            to_source=torch.tensor([row[3] for row in rows], dtype=torch.float64).reshape(-1, 2, 3),
            colour=torch.tensor(colours, dtype=torch.float64).reshape(-1, 3),
        )

    def _rows(self) -> list[dict[str, Any]]:
        columns = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def check(self, scenes: Sequence[Scene]) -> None:
        """Raise ``ValueError`` where the plan does not fit a batch: an image or an object that is not there."""
        for row in self._rows():
            for key in ("target", "source"):
                if not 0 <= row[key] < len(scenes):
                    raise ValueError(f"plan: expected {key} among the batch's {len(scenes)} images, got {row[key]}")
            objects = len(scenes[row["source"]].boxes)
            if not 0 <= row["instance"] < objects:
                raise ValueError(
                    f"plan: expected instance among the {objects} objects of image {row['source']}, "
                    f"got {row['instance']}"
                )


def draw_plan(scenes: Sequence[Scene], settings: CopyPasteSettings, generator: torch.Generator) -> PastePlan:
    """Draw what each image of a batch receives.

    Args:
        scenes: the images of the batch.
        settings: what to draw.
        generator: a CPU generator; one state of it gives one plan, wherever the plan is carried out.
    """
    rows: list[Row] = []
    for index in range(len(scenes)):
        if len(scenes) < 2 or uniform(generator) >= settings.p:
            continue
        other = (index + integer(len(scenes) - 1, generator) + 1) % len(scenes)
        rows += _draw_copies(index, other, scenes, settings, generator)
    return PastePlan.from_rows(rows)


def _draw_copies(
    index: int, other: int, scenes: Sequence[Scene], settings: CopyPasteSettings, generator: torch.Generator
) -> list[Row]:
    """Draw what image ``index`` receives from the image ``other``."""
    source, target = scenes[other], scenes[index]
    chosen = np.array(choose(source.weights, settings, generator), dtype=np.int64)
    m = len(chosen)
    draws = m if settings.jitter == "instance" else 1
    linear, inverse = draw_linear(draws, settings, generator)
    shifts, placed = draw_shifts(linear, source.boxes[chosen], (source, target), settings, generator)
    maps = _backwards(inverse, shifts, m)[placed].tolist()
    colours = np.broadcast_to(draw_colours(draws, settings, generator), (m, 3))[placed].tolist()
    rows = zip(chosen[placed].tolist(), maps, colours, strict=True)
    return [(index, other, instance, to_source, colour) for instance, to_source, colour in rows]


def _backwards(inverse: Float[ndarray, "k 2 2"], shifts: Float[ndarray, "j 2"], m: int) -> Float[ndarray, "m 2 3"]:
    """The maps from target to source of ``m`` objects."""
    inverse = np.broadcast_to(inverse, (len(shifts), 2, 2))
    back = -np.einsum("mij,mj->mi", inverse, shifts)
    return np.broadcast_to(np.concatenate([inverse, back[:, :, None]], axis=2), (m, 2, 3))
