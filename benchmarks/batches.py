"""Batches of drawn images for the benchmarks: ellipses and polygons of many sizes, overlapping, with exact boxes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from PIL import Image, ImageDraw
from torch import Tensor

LABELS = 80
SMALLEST, LARGEST = 1 / 16, 1 / 3
"""Sides of the boxes, as fractions of the image's side; drawn log-uniformly, so that most objects are small."""
CORNERS = 64


@dataclass(frozen=True)
class Case:
    """Number of images, their side in pixels, and number of objects in each."""

    images: int
    side: int
    objects: int

    def __str__(self) -> str:
        return f"{self.images}x{self.side}x{self.objects}"

    @classmethod
    def parse(cls, text: str) -> "Case":
        """The case written as images x side x objects, such as ``8x512x20``."""
        images, side, objects = map(int, text.split("x"))
        return cls(images, side, objects)


@dataclass(frozen=True)
class Batch:
    """Images (N, 3, H, W) of uint8, their torchvision targets, and the drawn outlines (n, CORNERS, 2)."""

    images: Tensor
    targets: list[dict[str, Tensor]]
    outlines: list[ndarray]


def draw_batch(case: Case, device: torch.device, seed: int = 0) -> Batch:
    """A batch of noise with objects; the same seed draws the same batch."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (case.images, 3, case.side, case.side), dtype=np.uint8))
    outlines = [_outlines(rng, case) for _ in range(case.images)]
    targets = [_target(rng, points, case.side, i) for i, points in enumerate(outlines)]
    targets = [{key: values.to(device) for key, values in target.items()} for target in targets]
    return Batch(images.to(device), targets, outlines)


def _outlines(rng: np.random.Generator, case: Case) -> ndarray:
    """The outlines of one image's objects: half are ellipses, half are wavy polygons."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    bays = 1 + 0.3 * np.sin(rng.integers(3, 8, (case.objects, 1)) * angles) * (np.arange(case.objects) % 2)[:, None]
    sides = case.side * np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), (case.objects, 1, 2)))
    shapes = circle * bays[:, :, None] / bays.max(axis=1)[:, None, None] * sides / 2
    centres = sides / 2 + rng.random((case.objects, 1, 2)) * (case.side - sides)
    return (centres + shapes).astype(np.float32)


def _target(rng: np.random.Generator, outlines: ndarray, side: int, image_id: int) -> dict[str, Tensor]:
    masks = np.stack([_filled(points, side) for points in outlines])
    return {
        "boxes": torch.tensor(np.stack([_box(mask) for mask in masks]), dtype=torch.float32),
        "labels": torch.from_numpy(rng.integers(1, LABELS + 1, len(masks))),
        "masks": torch.from_numpy(masks),
        "area": torch.from_numpy(masks.sum(axis=(1, 2), dtype=np.float32)),
        "iscrowd": torch.zeros(len(masks), dtype=torch.int64),
        "image_id": torch.tensor(image_id),
    }


def _filled(points: ndarray, side: int) -> ndarray:
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).polygon(points.ravel().tolist(), fill=1)
    return np.array(canvas)


def _box(mask: ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
