"""Carrying out the layers of a batch: painting the images, and finding out what is visible of each object."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import groupby
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Integer, Shaped, UInt8
from torch import Tensor

from composer_copypaste.functional.compose import Images, Layer, Objects
from composer_copypaste.functional.paste import CutOut, cut_out, paste_colours, stack
from composer_copypaste.functional.planes import Plane, as_planes, as_rasters, as_tensor
from composer_copypaste.functional.targets import Outcome
from composer_copypaste.functional.visible import NOWHERE, Measure, Visible, measure, uncovered
from composer_copypaste.settings import CopyPasteSettings

PAINTED_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)
"""Types of images that the kernels can paint."""

Measures = tuple[list[Measure], list[Measure]]
"""Of what landed in a layer, and of the objects it touched."""


@runtime_checkable
class Composite(Protocol):
    """The layers of a batch, carried out."""

    def measures(self) -> list[Measures]:
        """How much is visible of each object of each layer; this is where the device is waited for."""

    def masks(self, outcomes: Mapping[int, Outcome]) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """The masks of the kept and of the added objects, for each image that has an outcome."""

    def class_ids(
        self, before: Integer[Tensor, "n h w"], labels: Sequence[Integer[Tensor, " _n"]]
    ) -> Integer[Tensor, "n h w"]:
        """Class-id maps with the labels of what landed; those given are of each source's objects."""

    def images(self, images: Images, further: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """New images with the objects painted on, or the same where none are; a list shares what receives none.

        Numbers of sources go on from the images to the further pictures.
        """


def composite_of(
    layers: Sequence[Layer], objects: Sequence[Objects], images: Images, settings: CopyPasteSettings
) -> Composite:
    """Whoever does it fastest: kernels where they can, else window after window."""
    if not _suits_kernels(layers, images, settings):
        return WindowComposite(layers, objects, settings.erosion, settings.blend_sigma)
    from composer_copypaste.functional.cuda import FusedComposite  # Triton takes a second to import

    return FusedComposite(layers, objects)


def _suits_kernels(layers: Sequence[Layer], images: Images, settings: CopyPasteSettings) -> bool:
    """Whether the images are on a GPU, and nothing is asked for that the kernels leave to others."""
    plain = not settings.erosion and not settings.blend_sigma
    plain = plain and all(factor == 1 for layer in layers for landing in layer.landings for factor in landing.colour)
    paintable = all(not image.requires_grad and image.dtype in PAINTED_TYPES for image in images)
    return bool(layers) and plain and paintable and kernels_run_on(images[0].device)


def kernels_run_on(device: torch.device) -> bool:
    """Whether Triton compiles for the device here."""
    return device.type == "cuda" and find_spec("triton") is not None


class WindowComposite:
    """Each object is cut out, stacked and painted in the window it covers: on the host by NumPy, else by torch."""

    def __init__(self, layers: Sequence[Layer], objects: Sequence[Objects], erosion: int, blend_sigma: float) -> None:
        self._layers, self._objects, self._blend_sigma = layers, objects, blend_sigma
        self._cuts = [[cut_out(row, objects[row.source].masks, erosion) for row in layer.landings] for layer in layers]
        stacks = [
            stack(_some(cuts), objects[layer.target].masks) for layer, cuts in zip(layers, self._cuts, strict=True)
        ]
        self._landed = [self._landed_in(cuts, visible) for cuts, (visible, _) in zip(self._cuts, stacks, strict=True)]
        self._left = [self._left_in(layer, free) for layer, (_, free) in zip(layers, stacks, strict=True)]

    def measures(self) -> list[Measures]:
        """As of :class:`Composite`."""
        seen = zip(self._landed, self._left, strict=True)
        found = iter(measure([visible for landed, left in seen for visible in (*landed.values(), *left)]))
        return [
            (
                [next(found) if m in landed else Measure(0, 0, NOWHERE) for m in range(len(layer.landings))],
                [next(found) for _ in left],
            )
            for layer, landed, left in zip(self._layers, self._landed, self._left, strict=True)
        ]

    def masks(self, outcomes: Mapping[int, Outcome]) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """As of :class:`Composite`; each plane is written once."""
        return {
            layer.target: _masks(as_tensor(self._objects[layer.target].masks), outcomes[layer.target], landed, left)
            for layer, landed, left in zip(self._layers, self._landed, self._left, strict=True)
        }

    def class_ids(
        self, before: Integer[Tensor, "n h w"], labels: Sequence[Integer[Tensor, " _n"]]
    ) -> Integer[Tensor, "n h w"]:
        """As of :class:`Composite`."""
        if not self._layers:
            return before
        painted = before.clone()
        for cut in (cut for cuts in self._cuts for cut in _some(cuts)):
            below = painted[cut.landing.target][cut.window.slices]
            label = labels[cut.landing.source][cut.landing.instance]
            below.copy_(torch.where(as_tensor(cut.mask).view(torch.bool), label, below))
        return painted

    def images(self, images: Images, further: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`Composite`."""
        received = {layer.target for layer in self._layers}
        if not received:
            return images
        if isinstance(images, Tensor):
            painted: Images = images.clone()
        else:
            painted = [image.clone() if i in received else image for i, image in enumerate(images)]
        rasters = as_rasters([*(painted[i] for i in range(len(images))), *images, *further])  # views to paint on
        for layer, cuts in zip(self._layers, self._cuts, strict=True):
            paste_colours(rasters[layer.target], _some(cuts), rasters[len(images) :], self._blend_sigma)
        return painted

    def _landed_in(self, cuts: Sequence[CutOut], visible: Sequence[Plane]) -> dict[int, Visible]:
        """What is visible of each of a layer's landings that has any pixel."""
        landed = [m for m, cut in enumerate(cuts) if not cut.window.is_empty]
        return {
            m: Visible(cuts[m].window, seen, self._former(cuts[m])) for m, seen in zip(landed, visible, strict=True)
        }

    def _former(self, cut: CutOut) -> Plane:
        source, instance = self._objects[cut.landing.source], cut.landing.instance
        return source.masks[instance][source.windows[instance].slices]

    def _left_in(self, layer: Layer, free: Plane) -> list[Visible]:
        own = self._objects[layer.target]
        return [uncovered(own.masks[j], own.windows[j], free) for j in layer.touched]


def _some(cuts: Sequence[CutOut]) -> list[CutOut]:
    """Those that have any pixel."""
    return [cut for cut in cuts if not cut.window.is_empty]


def _masks(
    own: UInt8[Tensor, "n h w"], outcome: Outcome, landed: Mapping[int, Visible], left: Sequence[Visible]
) -> UInt8[Tensor, "k h w"]:
    """The masks of the kept and the added objects of one image."""
    kept = len(outcome.kept)
    masks = own.new_empty((len(outcome), *own.shape[1:]))
    planes, former = as_planes(masks), as_planes(own)
    for place, run in _runs(outcome.kept):
        planes[place : place + len(run)] = former[run.start : run.stop]
    planes[kept:] = 0
    seen = [(row, left[k]) for row, k, _ in outcome.changed]
    seen += [(row, landed[m]) for row, (m, _) in enumerate(outcome.added, start=kept)]
    for row, visible in seen:
        planes[row][visible.window.slices] = visible.mask
    return masks


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, range]]:
    """Where runs of successive numbers begin in an ascending sequence, and the runs: copying one costs one call."""
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = list(group)
        yield run[0][0], range(run[0][1], run[-1][1] + 1)
