"""A plan carried out on pictures and masks: what each image receives, and what that does to its own objects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.paste import CutOut, cut_out, paste_colours, stack
from composer_copypaste.functional.placement import box_corners
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.planes import Planes, as_rasters
from composer_copypaste.functional.visible import Visible, pasted, uncovered
from composer_copypaste.functional.warp import fixed_point
from composer_copypaste.functional.windows import Window, box_windows, meeting

MARGIN = np.array([-1, -1, 1, 1])
"""Annotated boxes may cut their mask by a fraction of a pixel: so many pixels around them are read too."""

Images = Shaped[Tensor, "n c h w"] | list[Shaped[Tensor, "c _h _w"]]


@dataclass(frozen=True)
class Objects:
    """The masks of one image's objects, and the boxes around them on the host."""

    masks: Planes
    boxes: Float[ndarray, "n 4"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.masks.shape[1], self.masks.shape[2]

    def windows(self) -> list[Window]:
        """The pixels in which each object's mask lies."""
        return box_windows(self.boxes + MARGIN, self.size)


@dataclass(frozen=True)
class Layer:
    """What one image receives, bottom to top, and what is visible of that and of the objects it touches."""

    target: int
    cut_outs: list[CutOut]
    pasted: list[Visible]
    touched: list[int]
    left: list[Visible]


def layers_of(plan: PastePlan, objects: Sequence[Objects], erosion: int) -> list[Layer]:
    """The plan's objects, cut out and stacked, for each image that receives any."""
    if not len(plan):
        return []
    windows = [image.windows() for image in objects]
    cuts = [cut for cut in _cut_outs(plan, objects, erosion) if not cut.window.is_empty]
    bottom_to_top = sorted(cuts, key=lambda cut: cut.target)  # a hand-written plan may mix its targets
    by_target = groupby(bottom_to_top, key=lambda cut: cut.target)
    return [_layer(target, list(group), objects, windows) for target, group in by_target]


def _cut_outs(plan: PastePlan, objects: Sequence[Objects], erosion: int) -> Iterator[CutOut]:
    """The plan's objects where they land, if they do."""
    columns = (plan.target, plan.source, plan.instance, plan.colour)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    maps, landing = fixed_point(plan.to_source), _landing_windows(plan, objects)
    for (target, source, instance, colour), to_source, window in zip(rows, maps, landing, strict=True):
        if not window.is_empty:
            window, mask = cut_out(objects[source].masks[instance], to_source, window, erosion)
            yield CutOut(target, source, instance, to_source, tuple(colour), window, mask)


def _layer(target: int, cuts: list[CutOut], objects: Sequence[Objects], windows: Sequence[list[Window]]) -> Layer:
    visible, free = stack(cuts, objects[target].size)
    touched = meeting(windows[target], [cut.window for cut in cuts])
    return Layer(
        target=target,
        cut_outs=cuts,
        pasted=[
            pasted(cut, mask, objects[cut.source].masks[cut.instance], windows[cut.source][cut.instance])
            for cut, mask in zip(cuts, visible, strict=True)
        ],
        touched=touched,
        left=[uncovered(objects[target].masks[j], windows[target][j], free) for j in touched],
    )


def _landing_windows(plan: PastePlan, objects: Sequence[Objects]) -> list[Window]:
    """The pixels of the target that each pasted object may cover."""
    to_source = plan.to_source.numpy()
    ends = np.cumsum([0, *(len(image.boxes) for image in objects)])
    boxes = np.concatenate([image.boxes for image in objects])[ends[plan.source.numpy()] + plan.instance.numpy()]
    corners = box_corners(boxes + MARGIN) - to_source[:, None, :, 2]
    landed = np.linalg.solve(to_source[:, None, :, :2], corners[..., None])[..., 0]
    there = np.concatenate([landed.min(axis=1), landed.max(axis=1)], axis=1)
    return box_windows(there, np.array([image.size for image in objects])[plan.target.numpy()])


def paste_images(
    images: Images, layers: Sequence[Layer], further: Sequence[Shaped[Tensor, "c _h _w"]], blend_sigma: float
) -> Images:
    """New images with the layers' objects painted on; a list shares with the old one what receives none.

    Numbers of sources go on from the images to the further pictures.
    """
    received = {layer.target for layer in layers}
    if isinstance(images, Tensor):
        painted: Images = images.clone()
    else:
        painted = [image.clone() if i in received else image for i, image in enumerate(images)]
    rasters = as_rasters([*(painted[i] for i in range(len(images))), *images, *further])  # views that may be painted on
    for layer in layers:
        paste_colours(rasters[layer.target], layer.cut_outs, rasters[len(images) :], blend_sigma)
    return painted
