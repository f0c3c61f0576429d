"""Carrying out the layers of a batch on a CUDA device: all images at once, by the Triton kernels of ``kernels.py``.

Positions are the same fixed-point numbers as elsewhere, so masks, boxes and areas equal those of the other way to the
bit, and colours to rounding.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Integer, Shaped, UInt8
from torch import Tensor

from composer_copypaste.functional import kernels
from composer_copypaste.functional.compose import Images, Landing, Layer, Objects
from composer_copypaste.functional.composite import Measures
from composer_copypaste.functional.planes import on_device
from composer_copypaste.functional.targets import Outcome
from composer_copypaste.functional.visible import Measure, read_back
from composer_copypaste.functional.warp import PIXEL, size_of
from composer_copypaste.functional.windows import Window

TYPES = {torch.uint8: tl.uint8, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
UNSEEN = (0, 0, 1 << 30, 1 << 30, 0, 0)
"""Visible and former pixels, and box, of what no program has seen yet."""
UNCHANGED = Window(0, 0, 0, 0)
NOBODY, NOTHING = -1, 0

Row = list[int]


class FusedComposite:
    """Objects are stacked, measured, written and painted all together.

    For hard seams and colours as they are: what erosion, blending and photometric jitter need of a pixel's neighbours
    is left to :class:`WindowComposite`.
    """

    def __init__(self, layers: Sequence[Layer], objects: Sequence[Objects]) -> None:
        self._layers = layers
        self._windows = [image.windows for image in objects]
        self._masks: list[Tensor] = [image.masks.contiguous() for image in objects]
        self._device = self._masks[0].device
        self._owners = [
            torch.empty(size_of(self._masks[layer.target]), dtype=torch.int16, device=self._device) for layer in layers
        ]
        ends = list(accumulate((len(layer.landings) for layer in layers), initial=0))
        self._images = [
            [owners.data_ptr(), *owners.shape, first, last]
            for owners, first, last in zip(self._owners, ends[:-1], ends[1:], strict=True)
        ]
        self._landings = [landing for layer in layers for landing in layer.landings]
        masks = [self._masks[landing.source][landing.instance] for landing in self._landings]
        rows = [[*_place(row), mask.data_ptr(), *mask.shape] for row, mask in zip(self._landings, masks, strict=True)]
        self._on_tiles(kernels.stack, self._images, rows)

    def measures(self) -> list[Measures]:
        """As of :class:`Composite`."""
        counts = [(len(layer.landings), len(layer.touched)) for layer in self._layers]
        tasks: list[Row] = []
        first = 0
        for layer, owners, (landed, touched) in zip(self._layers, self._owners, counts, strict=True):
            tasks += [
                [first + m, *row.window, m, *_address(owners), NOTHING, 0] for m, row in enumerate(layer.landings)
            ]
            tasks += [self._of_source(first + m, row) for m, row in enumerate(layer.landings)]
            tasks += [
                [first + landed + k, *self._windows[layer.target][j], NOBODY, *_address(owners), *self._plane(layer, j)]
                for k, j in enumerate(layer.touched)
            ]
            first += landed + touched
        found = iter(self._measured(tasks, first))
        return [([next(found) for _ in range(m)], [next(found) for _ in range(k)]) for m, k in counts]

    def masks(self, outcomes: Mapping[int, Outcome]) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """As of :class:`Composite`; each plane is written once."""
        masks, rows = {}, []
        for layer, owners in zip(self._layers, self._owners, strict=True):
            outcome, own = outcomes[layer.target], self._masks[layer.target]
            masks[layer.target] = own.new_empty((len(outcome), *own.shape[1:]))
            changed = {place: self._windows[layer.target][layer.touched[k]] for place, k, _ in outcome.changed}
            parts = [(own[j].data_ptr(), changed.get(place, UNCHANGED), NOBODY) for place, j in enumerate(outcome.kept)]
            parts += [(NOTHING, layer.landings[m].window, m) for m, _ in outcome.added]
            rows += [
                [plane.data_ptr(), former, owners.data_ptr(), *owners.shape, *window, m]
                for plane, (former, window, m) in zip(masks[layer.target], parts, strict=True)
            ]
        if rows:
            aligned = all(row[0] % 16 == row[1] % 16 == 0 for row in rows)
            runs = triton.cdiv(max(row[3] * row[4] for row in rows), kernels.RUN.value)
            with _current(self._device):
                kernels.write_masks[(runs, len(rows))](
                    self._table(rows), WIDTH=len(rows[0]), ALIGNMENT=16 if aligned else 1
                )
        return masks

    def class_ids(
        self, before: Integer[Tensor, "n h w"], labels: Sequence[Integer[Tensor, " _n"]]
    ) -> Integer[Tensor, "n h w"]:
        """As of :class:`Composite`."""
        painted = before.clone()
        for layer, owners in zip(self._layers, self._owners, strict=True):
            landed = torch.stack([labels[row.source][row.instance] for row in layer.landings])
            top = owners.long()
            painted[layer.target] = torch.where(top == NOBODY, before[layer.target], landed[top.clamp(min=0)])
        return painted

    def images(self, images: Images, further: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`Composite`."""
        received = {layer.target for layer in self._layers}
        if isinstance(images, Tensor):
            painted: Images = images.clone()
        else:
            painted = [image.clone() if i in received else image for i, image in enumerate(images)]
        targets = [painted[layer.target] for layer in self._layers]
        sources = [*images, *further]
        self._on_tiles(
            kernels.paint,
            [[*row, *_raster(image)] for row, image in zip(self._images, targets, strict=True)],
            [[*_place(row), *_source(row, sources[row.source])] for row in self._landings],
            TYPE=TYPES[sources[0].dtype],
            CHANNELS=len(sources[0]),
        )
        return painted

    def _plane(self, layer: Layer, j: int) -> Row:
        return _address(self._masks[layer.target][j])

    def _of_source(self, slot: int, landing: Landing) -> Row:
        """The task that counts a landing's pixels in its source."""
        window = self._windows[landing.source][landing.instance]
        return [slot, *window, NOBODY, NOTHING, 0, *_address(self._masks[landing.source][landing.instance])]

    def _measured(self, tasks: Sequence[Row], n: int) -> list[Measure]:
        """The results of the tasks, which have slots 0 to n: the only transfer from the device."""
        results = on_device(np.tile(np.array(UNSEEN, dtype=np.int32), (n, 1)), self._device)
        heights, widths = (np.array([row[high] - row[low] for row in tasks]).clip(0) for low, high in ((1, 3), (2, 4)))
        tiles = -(-heights // kernels.TILE_HEIGHT.value) * -(-widths // kernels.TILE_WIDTH.value)
        which = np.repeat(np.arange(len(tasks)), tiles)
        place = np.arange(len(which)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
        if len(which):
            items = on_device(np.stack([which, place], axis=1), self._device)
            with _current(self._device):
                kernels.measure[(len(which),)](self._table(tasks), items, results, WIDTH=len(tasks[0]))
        numbers = read_back(results).tolist()
        return [Measure(area, former, (x1, y1, x2, y2)) for area, former, x1, y1, x2, y2 in numbers]

    def _on_tiles(self, kernel: object, images: Sequence[Row], landings: Sequence[Row], **constants: object) -> None:
        """Run a kernel on each tile of each image."""
        if not images:
            return
        down, across = (max(row[side] for row in images) for side in (1, 2))
        tiles = triton.cdiv(down, kernels.TILE_HEIGHT.value) * triton.cdiv(across, kernels.TILE_WIDTH.value)
        with _current(self._device):
            kernel[(tiles, len(images))](  # type: ignore[index]
                self._table(images),
                self._table(landings),
                IMAGE_WIDTH=len(images[0]),
                LANDING_WIDTH=len(landings[0]),
                **constants,
            )

    def _table(self, rows: Sequence[Row]) -> Tensor:
        return on_device(np.array(rows, dtype=np.int64), self._device)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Kernels are launched on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _address(plane: Shaped[Tensor, "h w"]) -> Row:
    """Where a plane lies, and how wide it is."""
    return [plane.data_ptr(), plane.shape[1]]


def _raster(image: Shaped[Tensor, "c h w"]) -> Row:
    """Where an image lies, and its strides."""
    return [image.data_ptr(), *image.stride()]


def _place(landing: Landing) -> Row:
    """The map, and the window."""
    return [*landing.to_source.ravel().tolist(), *landing.window]


def _source(landing: Landing, image: Shaped[Tensor, "c h w"]) -> Row:
    """The image that is painted from, and how far its tents reach, in half steps and in pixels, along x and along y."""
    address, *strides = _raster(image)
    reaches = [max(1.0, math.hypot(*row[:2].tolist()) / PIXEL) for row in landing.to_source]
    tents = [number for reach in reaches for number in (round(reach * 2 * PIXEL), math.ceil(2 * reach))]
    return [address, *image.shape[1:], *strides, *tents]
