"""What to paste where: the plan of a batch, as a value."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from composer_copypaste.functional.scene import Scene

Map = Sequence[Sequence[int | float]]
"""An affine map from (x, y, 1) to (x, y): two rows of three numbers."""
Colour = Sequence[int | float]
"""Factors of brightness, contrast and saturation."""
Row = tuple[int, int, int, Map] | tuple[int, int, int, Map, Colour]
"""Target, source, instance, the map from the target to the source, and what changes the colours, if anything does."""

AS_THEY_ARE: Colour = (1.0, 1.0, 1.0)
"""The factors that leave colours unchanged."""
SMALLEST_DETERMINANT = 1e-4
"""An object may become 100 times as wide and as high: ten times what settings allow."""


@dataclass(frozen=True)
class PastePlan:
    """What a batch receives: the drawn numbers, and nothing that depends on pixels.

    Row ``m`` describes one pasted object; the rows of one target stand together, bottom to top. Coordinates are
    continuous, as in boxes: the centre of the first pixel is (0.5, 0.5).
    """

    target: Int[Tensor, " m"]
    """Batch index of the image that receives the object."""

    source: Int[Tensor, " m"]
    """Batch index of the image it is copied from; in a batch of N images, numbers from N on are sources beyond it: the
    objects of the bank, oldest first, then the cut-outs of the pool. Each is a picture of one object."""

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
            f"image {row['target']} receives object {row['instance']} of source {row['source']}, by {row['to_source']}"
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

    def check(self, scenes: Sequence[Scene], further: int = 0) -> None:
        """Raise ``ValueError`` where the plan names what a batch and so many sources beyond it do not have."""
        objects = [len(scene.boxes) for scene in scenes] + [1] * further
        for row in self._rows():
            source, instance = row["source"], row["instance"]
            if not 0 <= row["target"] < len(scenes):
                raise ValueError(f"plan: expected target among the batch's {len(scenes)} images, got {row['target']}")
            if not 0 <= source < len(objects):
                raise ValueError(
                    f"plan: expected source among the batch's {len(scenes)} images and {further} sources beyond it, "
                    f"got {source}; a plan drawn with a bank or a pool needs them, the bank as it was then"
                )
            if not 0 <= instance < objects[source]:
                raise ValueError(
                    f"plan: expected instance among the {objects[source]} objects of source {source}, got {instance}"
                )
            (xx, xy, _), (yx, yy, _) = row["to_source"]
            if not abs(xx * yy - xy * yx) >= SMALLEST_DETERMINANT:  # also where it is not a number
                raise ValueError(
                    f"plan: expected a to_source that can be inverted, got {row['to_source']}; a pixel of the target "
                    f"covers at least {SMALLEST_DETERMINANT} of one of the source"
                )

    def sources_from(self, first: int) -> list[int]:
        """The numbers of the sources from that number on, ascending."""
        return sorted({source for source in self.source.tolist() if source >= first})

    def renumbered(self, sources: Sequence[int], first: int) -> "PastePlan":
        """The plan in which these sources have the numbers ``first``, ``first`` + 1 and so on."""
        number = {source: first + place for place, source in enumerate(sources)}
        new = [number.get(source, source) for source in self.source.tolist()]
        return replace(self, source=torch.tensor(new, dtype=torch.int64))
