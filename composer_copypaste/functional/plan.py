"""What to paste where: the plan of a batch, drawn on the host from sizes and boxes alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.draw import integer, uniform, uniforms
from composer_copypaste.functional.selection import choose
from composer_copypaste.settings import CopyPasteSettings

Row = tuple[int, int, int, Sequence[Sequence[int | float]]]
"""Target, source, instance, and the map from the target to the source."""


@dataclass(frozen=True)
class Scene:
    """What a plan needs to know of one image: its size in pixels and its objects' boxes, all on the host."""

    height: int
    width: int
    boxes: Float[ndarray, "n 4"]
    weights: Float[ndarray, " n"]
    """The relative chance of each object to be copied; 0: never."""


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

    def __len__(self) -> int:
        return self.target.shape[0]

    def __str__(self) -> str:
        """A line for each pasted object."""
        return "\n".join(
            f"image {row['target']} receives object {row['instance']} of image {row['source']}, by {row['to_source']}"
            for row in self._rows()
        )

    def to_json(self) -> str:
        """The plan as JSON, a row for each pasted object: target, source, instance and to_source."""
        return json.dumps(self._rows())

    @classmethod
    def from_json(cls, text: str) -> "PastePlan":
        """The plan that ``to_json`` wrote, or that was written by hand.

        Raises:
            ValueError: where the text is no such JSON.
        """
        try:
            return cls.from_rows([(r["target"], r["source"], r["instance"], r["to_source"]) for r in json.loads(text)])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "expected a JSON list of objects with target, source, instance and to_source (2 x 3 numbers): "
                f"{type(error).__name__}: {error}"
            ) from error

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> "PastePlan":
        """The plan with these rows (target, source, instance, to_source)."""
        return cls(
            target=torch.tensor([row[0] for row in rows], dtype=torch.int64),
            source=torch.tensor([row[1] for row in rows], dtype=torch.int64),
            instance=torch.tensor([row[2] for row in rows], dtype=torch.int64),
            to_source=torch.tensor([row[3] for row in rows], dtype=torch.float64).reshape(-1, 2, 3),
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
    for index, scene in enumerate(scenes):
        if len(scenes) < 2 or uniform(generator) >= settings.p:
            continue
        other = (index + integer(len(scenes) - 1, generator) + 1) % len(scenes)
        chosen = choose(scenes[other].weights, settings, generator)
        maps = _draw_maps(scenes[other], chosen, scene, settings, generator).tolist()
        rows += [(index, other, instance, to_source) for instance, to_source in zip(chosen, maps, strict=True)]
    return PastePlan.from_rows(rows)


def _draw_maps(
    source: Scene, chosen: Sequence[int], target: Scene, settings: CopyPasteSettings, generator: torch.Generator
) -> Float[ndarray, "m 2 3"]:
    """Draw the map from the target to the source of each chosen object."""
    m = len(chosen)
    linear, inverse = _draw_linear(m if settings.jitter == "instance" else 1, settings, generator)
    boxes = source.boxes[list(chosen)].reshape(m, 4)
    if settings.placement == "random":
        shift = _shift_anywhere(linear, boxes, (target.width, target.height), uniforms((m, 2), generator))
    elif settings.jitter == "image":
        whole = np.array([[0, 0, source.width, source.height]], dtype=np.float64)
        shift = _shift_anywhere(linear, whole, (source.width, source.height), uniforms((1, 2), generator))
    else:
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        shift = np.rint(centre - np.einsum("mij,mj->mi", linear, centre))
    back = -np.einsum("mij,mj->mi", np.broadcast_to(inverse, (len(shift), 2, 2)), shift)
    to_source = np.concatenate([np.broadcast_to(inverse, (len(shift), 2, 2)), back[:, :, None]], axis=2)
    return np.broadcast_to(to_source, (m, 2, 3))


def _draw_linear(
    n: int, settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Float[ndarray, "n 2 2"], Float[ndarray, "n 2 2"]]:
    """Draw ``n`` times flip, resize and rotation, as a map from source to target, and its inverse."""
    scale, flip, angle = uniforms((3, n), generator)
    low, high = settings.scale_range
    scale = low + (high - low) * scale
    mirror = np.where(flip < settings.p_flip, -1.0, 1.0)
    radians = (2 * angle - 1) * math.radians(settings.rotation)
    cos, sin = np.cos(radians), np.sin(radians)
    linear = np.stack([scale * cos * mirror, -scale * sin, scale * sin * mirror, scale * cos], axis=1)
    inverse = np.stack([mirror * cos / scale, mirror * sin / scale, -sin / scale, cos / scale], axis=1)
    return linear.reshape(n, 2, 2), inverse.reshape(n, 2, 2)


def _shift_anywhere(
    linear: Float[ndarray, "k 2 2"], boxes: Float[ndarray, "m 4"], canvas: tuple[int, int], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift, in whole pixels, that puts each transformed box at fraction ``u`` of the room that the canvas leaves.

    A box larger than the canvas covers it: the room is then negative.
    """
    corners = np.einsum("mij,mcj->mci", np.broadcast_to(linear, (len(boxes), 2, 2)), box_corners(boxes))
    low, high = corners.min(axis=1), corners.max(axis=1)
    return np.rint(u * (np.asarray(canvas) - (high - low)) - low)


def box_corners(boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4 2"]:
    """The four corners (x, y) of boxes (x1, y1, x2, y2)."""
    return boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2)
