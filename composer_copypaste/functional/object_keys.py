"""Which keys of targets belong to their objects, and which hold positions that would have to move with these."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import cast

from numpy import ndarray
from torch import Tensor

from composer_copypaste.instances import OBJECT_FIELDS, Instances, Target, is_tv_tensor
from composer_copypaste.settings import GeometryKind

COCO_AND_TORCHVISION = frozenset(
    {
        "keypoints",  # COCO's annotations and torchvision's targets; moved with their objects
        "num_keypoints",  # COCO's annotations
        "category_id",  # COCO's annotations, beside the labels that are made of them
        "category_ids",
        "id",  # COCO's annotations; that of the image is "image_id" beside them
        "ids",
        "annotation_id",
        "annotation_ids",
        "ann_id",
        "ann_ids",
        "score",  # COCO's results
        "scores",  # torchvision's detections, such as pseudo-labels
        "keypoints_scores",  # torchvision's detections
        "track_id",  # COCO-style videos (TAO, MOT)
        "track_ids",
        "instance_id",  # COCO-style videos (YouTube-VIS)
        "instance_ids",
        "pasted",  # ours
    }
)
"""Keys, beside the fields of :class:`Instances`, whose values belong to the objects where they are several."""

KEYPOINT_FIELDS = ("keypoints_scores", "num_keypoints")
"""Those that change with the keypoints."""

POSITION_KEYS = frozenset(
    {
        "bbox",
        "bboxes",
        "contours",
        "corners",
        "landmarks",
        "obb",
        "obbs",
        "oriented_boxes",
        "outlines",
        "panoptic_seg",
        "points",
        "polygon",
        "polygons",
        "quad",
        "quads",
        "rbox",
        "rboxes",
        "rle",
        "rles",
        "rotated_boxes",
        "rotated_bboxes",
        "segmentation",
        "segmentations",
        "segments",
        "sem_seg",
    }
)
"""Keys that hold positions in the image, which would have to move or be cut, and are not."""

IMAGE_KEYS = frozenset({"image_id", "file_name", "orig_size", "size", "image_size", "height", "width"})
"""Keys that describe the image, whatever the length of their values."""


def object_keys_of(
    targets: Sequence[Target], named: Sequence[str], passing: Sequence[str] = (), *, refuse_positions: bool = True
) -> list[str]:
    """The keys of targets, beside the fields of :class:`Instances`, with a value for each object.

    Those are the ones that torchvision and COCO give objects, and those that the settings name. The keys ``passing``
    describe the image, whatever they hold.

    Raises:
        ValueError: where another key holds positions, which would have to move with the objects, and do not.
    """
    found: dict[str, None] = {}
    for i, target in enumerate(targets):
        for key, values in target.items():
            several = isinstance(values, Tensor | ndarray | list | tuple)
            if key in OBJECT_FIELDS or key in passing:
                continue
            if key in named or (key in COCO_AND_TORCHVISION and several):
                found[key] = None
            elif values is not None and refuse_positions and (key in POSITION_KEYS or is_tv_tensor(values)):
                raise ValueError(
                    f"targets[{i}]: {key!r} holds positions in the image, which would have to move with what is "
                    f"copied, cut or resized. {_advice(key)}"
                )
            elif refuse_positions and key not in IMAGE_KEYS and _looks_like_geometry(targets, key):
                raise ValueError(
                    f"targets[{i}]: {key!r} looks like positions in the image, with {tuple(values.shape[1:])} numbers "  # type: ignore[attr-defined]
                    f"for each object, which would have to move with what is copied, cut or resized. {_advice(key)}"
                )
    return list(found)


def _advice(key: str) -> str:
    """What to do about a key that holds positions, or looks as if it did."""
    return (
        f"Say what they are, as geometry={{{key!r}: 'obb_radians'}}, or leave it out; or, if it holds none, name it in "
        "object_keys: its rows then follow their objects as they are"
    )


def _looks_like_geometry(targets: Sequence[Target], key: str) -> bool:
    """Whether a key's values have the form of boxes (n, 4), rotated boxes (n, 5) or points (n, k, 2) in all targets.

    A target without objects says nothing.
    """
    for target in targets:
        values = target.get(key)
        if not (isinstance(values, Tensor) and values.is_floating_point() and _has_a_row_per_object(target, key)):
            return False
        if not (values.shape[1:] in ((4,), (5,)) or (values.ndim == 3 and values.shape[2] == 2)):
            return False
    return any(len(cast(Tensor, target["labels"])) for target in targets)


GEOMETRY_SHAPES: Mapping[GeometryKind, tuple[tuple[int | None, ...], ...]] = {
    "obb_radians": ((5,),),
    "obb_degrees": ((5,),),
    "corners": ((8,), (4, 2)),
    "polygons": ((None, 2),),
    "points": ((None, 2), (2,)),
}
"""The shapes that a row of each kind may have; None: of any length."""


def check_named_keys(
    batch: Sequence[Instances], object_keys: Sequence[str], geometry: Mapping[str, GeometryKind]
) -> None:
    """Raise ``ValueError`` where objects lack what settings name, as where a name is misspelt, or geometry is wrong."""
    with_objects = [instances for instances in batch if len(instances)]
    for setting, keys in (("object_keys", object_keys), ("geometry", geometry)):
        for key in keys:
            if key not in OBJECT_FIELDS and any(key not in instances.extras for instances in with_objects):
                raise ValueError(
                    f"targets: expected {key!r}, which {setting} names, got objects without it; give it in every "
                    f"target, or leave it out of {setting}"
                )
    if geometry:
        _check_geometry(batch, geometry)


def _check_geometry(batch: Sequence[Instances], kinds: Mapping[str, GeometryKind]) -> None:
    """Raise ``ValueError`` where geometry has another shape than its kind, or integers."""
    for i, instances in enumerate(batch):
        for key, kind in kinds.items():
            values = instances.extras.get(key)
            if values is None:
                continue
            row, shapes = tuple(values.shape[1:]), GEOMETRY_SHAPES[kind]
            fits = any(
                len(row) == len(shape) and all(side in (None, own) for own, side in zip(row, shape, strict=True))
                for shape in shapes
            )
            if not (fits and values.is_floating_point()):
                expected = " or ".join(
                    f"(n, {', '.join('k' if side is None else str(side) for side in shape)})" for shape in shapes
                )
                raise ValueError(
                    f"targets[{i}]: expected {key!r} of geometry {kind!r} to be floating point of shape {expected}, "
                    f"got {values.dtype} {tuple(values.shape)}"
                )


def warn_of_unnamed_keys(targets: Sequence[Target], object_keys: Sequence[str]) -> None:
    """Warn, once for each, of keys that pass through unchanged but have as many rows as there are objects."""
    known = {*OBJECT_FIELDS, *IMAGE_KEYS, *object_keys}
    for key in targets[0]:
        if key not in known and all(_has_a_row_per_object(target, key) for target in targets):
            warn_once(
                f"targets: {key!r} has as many rows as each image of the batch has objects, and passes through, as "
                "what describes the image does. If its rows belong to the objects, give it as a tensor and name it "
                "in object_keys: they then stay with their objects (said once)"
            )


def _has_a_row_per_object(target: Target, key: str) -> bool:
    values, labels = target.get(key), target.get("labels")
    if isinstance(values, Tensor | ndarray) and not values.ndim:
        return False
    return isinstance(values, Tensor | ndarray | list) and isinstance(labels, Tensor) and len(values) == len(labels)


@cache
def warn_once(message: str) -> None:
    """Warn, the first time in this process; Python's own "once" forgets where a library changes the filters."""
    warnings.warn(message, stacklevel=2)
