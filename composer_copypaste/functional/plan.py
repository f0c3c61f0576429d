"""What to paste where: the plan of a batch, drawn on the host from sizes and boxes alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from composer_copypaste.functional.bank import Remembered
from composer_copypaste.functional.draw import integer, uniform
from composer_copypaste.functional.jitter import Colour, Copy, Map, draw_colours, draw_linear
from composer_copypaste.functional.placement import backwards, draw_shifts
from composer_copypaste.functional.pool import Pool, draw_cut_outs
from composer_copypaste.functional.scene import Scene
from composer_copypaste.functional.selection import choose
from composer_copypaste.functional.warp import PIXEL
from composer_copypaste.functional.windows import Window
from composer_copypaste.settings import CopyPasteSettings

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


def draw_plan(
    scenes: Sequence[Scene],
    settings: CopyPasteSettings,
    generator: torch.Generator,
    bank: Sequence[Remembered] = (),
    pool: Pool | None = None,
) -> PastePlan:
    """Draw what each image of a batch receives.

    Args:
        scenes: the images of the batch.
        settings: what to draw.
        generator: a CPU generator; one state of it gives one plan, wherever the plan is carried out.
        bank: pictures that are remembered, as further sources.
        pool: cut-outs, as further sources.
    """
    rows: list[Row] = []
    pictures = len(scenes) + len(bank)
    first = len(scenes) + sum(map(len, bank))
    for index in range(len(scenes)):
        if (pictures < 2 and pool is None) or uniform(generator) >= settings.p:
            continue
        if pool is not None and uniform(generator) < settings.p_pool:
            copies = draw_cut_outs(pool, scenes[index], settings, generator)
            rows += [(index, first + number, 0, to_source, colour) for number, to_source, colour in copies]
            continue
        if pictures < 2:
            continue
        other = (index + integer(pictures - 1, generator) + 1) % pictures
        scene = scenes[other] if other < len(scenes) else bank[other - len(scenes)].scene(settings)
        copies = _draw_copies(scene, scenes[index], settings, generator)
        if other < len(scenes):
            rows += [(index, other, *copy) for copy in copies]
        else:
            rows += [(index, *copy) for copy in _in_crops(copies, bank, other - len(scenes), len(scenes))]
    return PastePlan.from_rows(rows)


def _in_crops(
    copies: Sequence[Copy], bank: Sequence[Remembered], place: int, first: int
) -> Iterator[tuple[int, int, Map, Colour]]:
    """Copies from a remembered picture, as ones from its objects' crops; the bank's first has number ``first``."""
    first += sum(map(len, bank[:place]))
    for instance, to_source, colour in copies:
        yield first + instance, 0, _moved(to_source, bank[place].windows[instance]), colour


def _moved(to_source: Map, window: Window) -> Map:
    """The map to a picture as one to a window of it: in fixed point, in which whole pixels change nothing else."""
    (xx, xy, x), (yx, yy, y) = to_source
    x, y = (round(shift * PIXEL) / PIXEL for shift in (x, y))
    return [[xx, xy, x - window.x1], [yx, yy, y - window.y1]]


def _draw_copies(source: Scene, target: Scene, settings: CopyPasteSettings, generator: torch.Generator) -> list[Copy]:
    """Draw what the target receives from the source."""
    chosen = np.array(choose(source.weights, settings, generator), dtype=np.int64)
    m = len(chosen)
    draws = m if settings.jitter == "instance" else 1
    linear, inverse = draw_linear(draws, settings.scale_range, settings, generator)
    shifts, placed = draw_shifts(linear, source.boxes[chosen], (source, target), settings, generator)
    maps = backwards(inverse, shifts, m)[placed].tolist()
    colours = np.broadcast_to(draw_colours(draws, settings, generator), (m, 3))[placed].tolist()
    return list(zip(chosen[placed].tolist(), maps, colours, strict=True))
