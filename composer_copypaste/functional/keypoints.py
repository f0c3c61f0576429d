"""Keypoints: they move with their objects, swap left and right in mirrored ones, and are hidden by pasted objects."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64, Num, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.object_keys import KEYPOINT_FIELDS, warn_once
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.tensors import on_device
from composer_copypaste.functional.visibility import KeptObjects
from composer_copypaste.settings import DEFAULT_P_FLIP, CopyPasteSettings, KeypointPairs

COCO_PERSON = (
    "nose",
    *(
        f"{side}_{part}"
        for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
)
"""The keypoints of COCO's category "person"."""


def keypoint_pairs(names: Sequence[str]) -> KeypointPairs:
    """The pairs of keypoints that swap places when an object is mirrored, found by name; for ``keypoint_pairs``.

    Two keypoints are a pair if their names differ only in "left" and "right", or in "l" and "r" that stand apart from
    other letters: "left_eye" and "right_eye", or "R-knee" and "L-knee".

    Args:
        names: of the keypoints, in order, as ``keypoints`` of a category in a COCO file.

    Raises:
        ValueError: where a name occurs twice, or the other side of a name is missing.

    Example:
        >>> keypoint_pairs(["nose", "left_eye", "right_eye"])
        ((1, 2),)
    """
    places = {name.lower(): place for place, name in enumerate(names)}
    if len(places) < len(names):
        raise ValueError(f"keypoint names: expected each once, got {list(names)}")
    pairs = []
    for name, place in places.items():
        other = _SIDES.sub(lambda found: _OTHER[found[0]], name)
        if other not in places:
            raise ValueError(
                f"keypoint names: {name!r} has no {other!r} among {list(names)}; give pairs of their numbers instead"
            )
        if place < places[other]:
            pairs.append((place, places[other]))
    return tuple(pairs)


_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SIDES = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")


def pairs_of(k: int, pairs: KeypointPairs | None, p_flip: float) -> KeypointPairs:
    """The pairs among ``k`` keypoints that swap places in mirrored objects: those given, else COCO's for a person's 17.

    Warns, once, where objects may be mirrored and it is not known which keypoints are left and right.

    Raises:
        ValueError: where a pair has a number of ``k`` or more.
    """
    if pairs is None and k == len(COCO_PERSON):
        return keypoint_pairs(COCO_PERSON)
    if pairs is None and k > 1 and p_flip > 0:
        warn_once(
            f"keypoint_pairs: objects with {k} keypoints are mirrored, and which of them are left and right is known "
            "of COCO's person with 17 only: left ones stay left. Give the pairs to exchange, such as "
            "keypoint_pairs(names) makes, or () where there are none (said once)"
        )
    if pairs and (most := max(map(max, pairs))) >= k:
        raise ValueError(f"keypoint_pairs: expected numbers below {k}, the number of keypoints, got {most}")
    return pairs or ()


def swapped(
    keypoints: Num[Tensor, "n k *_"], mirrored: Bool[ndarray, " n"], pairs: KeypointPairs
) -> Num[Tensor, "n k *_"]:
    """Keypoints, or a value for each of them, with the pairs swapped in mirrored objects."""
    if not (mirrored.any() and pairs):
        return keypoints
    order = np.tile(np.arange(keypoints.shape[1]), (len(mirrored), 1))
    for one, other in pairs:
        order[mirrored, one], order[mirrored, other] = other, one
    order = order.reshape(*order.shape, *[1] * (keypoints.ndim - 2))
    return keypoints.take_along_dim(on_device(order, keypoints.device), dim=1)


def with_keypoints(
    extras: Mapping[str, Shaped[Tensor, "n ..."]],
    keypoints: Num[Tensor, "n k 3"],
    moved: Bool[ndarray, " n"],
    mirrored: Bool[ndarray, " n"],
    pairs: KeypointPairs,
) -> dict[str, Shaped[Tensor, "n ..."]]:
    """The keypoint fields of objects with new keypoints: the scores follow, and moved objects are counted anew.

    Counted are keypoints that are still labelled.
    """
    found: dict[str, Tensor] = {"keypoints": keypoints}
    if (scores := extras.get("keypoints_scores")) is not None:
        found["keypoints_scores"] = swapped(scores, mirrored, pairs)
    if (former := extras.get("num_keypoints")) is not None:
        count = (keypoints[..., 2] > 0).sum(dim=1).to(former)
        found["num_keypoints"] = torch.where(on_device(moved, former.device), count, former)
    return found


def kept_inside(
    keypoints: Float64[Tensor, "n k 3"],
    ends: Num[Tensor, "n 1 2"] | Num[Tensor, " 2"],
    whole: Bool[Tensor, "n 1 1"] | Bool[Tensor, ""],
) -> Float64[Tensor, "n k 3"]:
    """Keypoints, with zeros for those that are not labelled or outside an image of width and height ``ends``.

    Where ``whole``, the others are rounded to whole numbers inside the image.
    """
    place = keypoints[..., :2]
    inside = ((place >= 0) & (place < ends)).all(-1) & (keypoints[..., 2] > 0)
    place = torch.where(whole, place.round().minimum(ends - 1), place)
    return torch.where(inside[..., None], torch.cat([place, keypoints[..., 2:]], dim=-1), 0.0)


@dataclass(frozen=True)
class PlacedKeypoints:
    """Keypoints (x, y, visibility) at their places after pasting, before anything hides them.

    A row for each object of the images that receive any, then one for each pasted object.
    """

    values: Float64[Tensor, "q k 3"]
    own: Int64[ndarray, " o"]
    """Layout indices of the objects of the images that receive any."""
    place: Int64[ndarray, " q"]
    """Level of a pasted object in the stack on its image, 0 at the bottom; -1 for an image's own objects."""
    pixels: Int64[Tensor, " p"]
    """The pixel of each keypoint, row by row, counted through the images that receive any; for keypoints outside, the
    first pixel of their image."""
    inside: Bool[Tensor, "q k"]
    mirrored: Bool[ndarray, " m"]
    """Whether each pasted object is mirrored."""
    pairs: KeypointPairs
    """The pairs that were swapped in mirrored objects."""

    def fields_after(
        self, extras: Mapping[str, Shaped[Tensor, "g ..."]], kept: KeptObjects, owners: Int64[ndarray, " p"]
    ) -> dict[str, Shaped[Tensor, "r ..."]]:
        """The keypoint fields of the objects that stay.

        Visibility is at most 1, COCO's "labelled but not visible", where another object covers the keypoint.

        Args:
            extras: the further fields of all sources' objects.
            kept: which objects stay.
            owners: for each of ``pixels`` the level of the pasted object on top of it, -1 where there is none.
        """
        rows = np.where(kept.pasted >= 0, len(self.own) + kept.pasted, np.searchsorted(self.own, kept.origin))
        over = on_device(owners.reshape(self.inside.shape) > self.place[:, None], self.values.device)
        visibility = self.values[..., 2]
        visibility = torch.where(over & self.inside, visibility.clamp(max=1), visibility)
        shown = torch.cat([self.values[..., :2], visibility[..., None]], dim=-1)
        keypoints = shown[on_device(rows, self.values.device)]
        moved = kept.pasted >= 0
        told = {
            name: values[on_device(kept.origin, values.device)]
            for name, values in extras.items()
            if name in KEYPOINT_FIELDS
        }
        return with_keypoints(told, keypoints, moved, moved & self.mirrored[kept.pasted], self.pairs)


def place_keypoints(
    keypoints: Num[Tensor, "g k 3"], layout: Layout, whole: Bool[ndarray, " n"], settings: CopyPasteSettings
) -> PlacedKeypoints:
    """The keypoints of all sources' objects at the places that a layout gives them.

    Args:
        keypoints: of the objects, in the layout's order.
        layout: which objects are pasted where.
        whole: for each image whether its keypoints are whole numbers; pasted ones are then rounded.
        settings: the pairs that swap places.
    """
    pasted, own = layout.pasted, np.flatnonzero(layout.objects.image_receives)
    pairs = pairs_of(
        keypoints.shape[1],
        settings.keypoint_pairs,
        max(DEFAULT_P_FLIP if settings.p_flip is None else settings.p_flip, settings.p_flip_vertical),
    )
    to_source = pasted.to_source / PIXEL
    to_target = np.linalg.inv(to_source[:, :, :2])
    shift = -np.einsum("mij,mj->mi", to_target, to_source[:, :, 2])
    device = keypoints.device
    ends = layout.sizes[pasted.target][:, None, ::-1].copy()
    linear, offset, ends, rounded = (
        on_device(part, device) for part in (to_target, shift[:, None], ends, whole[pasted.target][:, None, None])
    )
    before = keypoints[on_device(pasted.origin, device)].double()
    moved = torch.cat([before[..., :2] @ linear.mT + offset, before[..., 2:]], dim=-1)
    mirrored = np.linalg.det(to_target) < 0
    moved = kept_inside(swapped(moved, mirrored, pairs), ends, rounded)
    values = torch.cat([keypoints[on_device(own, device)].double(), moved])
    images = np.concatenate([layout.objects.source[own], pasted.target])
    pixels, inside = _pixels(values, images, layout)
    place = np.concatenate([np.full(len(own), -1), pasted.level])
    return PlacedKeypoints(values, own, place, pixels, inside, mirrored, pairs)


def _pixels(
    values: Float64[Tensor, "q k 3"], images: Int[ndarray, " q"], layout: Layout
) -> tuple[Int64[Tensor, " p"], Bool[Tensor, "q k"]]:
    """The pixel of each keypoint, counted through the images that receive any, and whether it is in its image."""
    received = layout.pasted.receiving
    areas = layout.sizes[received].prod(axis=1)
    first = (np.cumsum(areas) - areas)[np.searchsorted(received, images)]
    begin, height, width = on_device(np.column_stack([first, layout.sizes[images]]), values.device).T[:, :, None]
    x, y = values[..., 0], values[..., 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = (torch.where(inside, part, 0).long() for part in (x, y))
    return (begin + y * width + x).flatten(), inside
