"""A plan carried out on pictures and masks: what each image receives, and what that does to its own objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.paste import CutOut, cut_out, paste_colours, stack
from composer_copypaste.functional.plan import PastePlan, box_corners
from composer_copypaste.functional.planes import Planes
from composer_copypaste.functional.visible import Visible, pasted, uncovered
from composer_copypaste.functional.warp import fixed_point
from composer_copypaste.functional.windows import Window, box_windows

BOX_MARGIN = 1
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
        return box_windows(self.boxes + BOX_MARGIN * np.array([-1, -1, 1, 1]), self.size)


@dataclass(frozen=True)
class Layer:
    """What one image receives, bottom to top, and what is visible of that and of the objects it touches."""

    target: int
    cut_outs: list[CutOut]
    pasted: list[Visible]
    touched: list[int]
    left: list[Visible]


def layers_of(plan: PastePlan, objects: Sequence[Objects]) -> list[Layer]:
    """The plan's objects, cut out and stacked, for each image that receives any."""
    windows = [image.windows() for image in objects]
    rows = list(zip(plan.target.tolist(), plan.source.tolist(), plan.instance.tolist(), strict=True))
    landing = _landing_windows(plan, objects)
    to_source = fixed_point(plan.to_source)
    layers = []
    bottom_to_top = sorted(range(len(rows)), key=lambda row: rows[row][0])  # a hand-written plan may mix its targets
    for target, group in groupby(bottom_to_top, key=lambda row: rows[row][0]):
        cuts = [
            cut_out(objects[rows[row][1]].masks, rows[row][1], rows[row][2], to_source[row], landing[row])
            for row in group
            if not landing[row].is_empty
        ]
        cuts = [cut for cut in cuts if not cut.window.is_empty]
        if cuts:
            layers.append(_layer(target, cuts, objects, windows))
    return layers


def _layer(target: int, cuts: list[CutOut], objects: Sequence[Objects], windows: Sequence[list[Window]]) -> Layer:
    visible, cover = stack(cuts, objects[target].size)
    touched = [j for j, window in enumerate(windows[target]) if not (window & cover.window).is_empty]
    return Layer(
        target=target,
        cut_outs=cuts,
        pasted=[
            pasted(cut, mask, objects[cut.source].masks[cut.instance], windows[cut.source][cut.instance])
            for cut, mask in zip(cuts, visible, strict=True)
        ],
        touched=touched,
        left=[uncovered(objects[target].masks[j], windows[target][j], cover) for j in touched],
    )


def _landing_windows(plan: PastePlan, objects: Sequence[Objects]) -> list[Window]:
    """The pixels of the target that each pasted object may cover."""
    to_source = plan.to_source.numpy()
    rows = zip(plan.source.tolist(), plan.instance.tolist(), strict=True)
    boxes = np.array([objects[source].boxes[instance] for source, instance in rows]).reshape(-1, 4)
    corners = box_corners(boxes + BOX_MARGIN * np.array([-1, -1, 1, 1])) - to_source[:, None, :, 2]
    landed = np.linalg.solve(to_source[:, None, :, :2], corners[..., None])[..., 0]
    there = np.concatenate([landed.min(axis=1), landed.max(axis=1)], axis=1)
    return [
        box_windows(box[None], objects[target].size)[0] for target, box in zip(plan.target.tolist(), there, strict=True)
    ]


def paste_images(images: Images, layers: Sequence[Layer], blend_sigma: float) -> Images:
    """New images with the layers' objects painted on; a list shares with the old one what receives none."""
    received = {layer.target for layer in layers}
    if isinstance(images, Tensor):
        painted: Images = images.clone()
    else:
        painted = [image.clone() if i in received else image for i, image in enumerate(images)]
    for layer in layers:
        paste_colours(painted[layer.target], layer.cut_outs, list(images), blend_sigma)
    return painted
