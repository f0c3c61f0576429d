"""Which keys of detection targets hold something of each object: decided by their names, once for a batch."""

import warnings
from collections.abc import Sequence
from functools import cache

from numpy import ndarray
from torch import Tensor

from composer_copypaste.instances import OBJECT_FIELDS, Target
from composer_copypaste.tv_tensors import is_tv_tensor

COCO_AND_TORCHVISION = frozenset(
    {
        "keypoints",  # COCO's annotations and torchvision's targets; moved with their objects
        "num_keypoints",  # COCO's annotations
        "category_id",  # COCO's annotations, beside the labels that are made of them
        "category_ids",
        "id",  # COCO's annotations; that of the picture is "image_id" beside them
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
"""Names, beside those of :class:`Instances`, that hold something of each object where they hold several values."""

TELLING_OF_KEYPOINTS = ("keypoints_scores", "num_keypoints")
"""Those that follow the keypoints beside them, not their objects alone."""

MOVED_NOWHERE = frozenset(
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
"""Names of positions in the picture, of objects or pixels, which would have to move or be cut, and do not."""

OF_THE_PICTURE = frozenset({"image_id", "file_name", "orig_size", "size", "image_size", "height", "width"})
"""Names that nobody takes for something of each object, whatever the length of their values."""


def object_keys_of(targets: Sequence[Target], named: Sequence[str]) -> list[str]:
    """The further keys with something of each object that targets have: known ones and those that the settings name."""
    found: dict[str, None] = {}
    for target in targets:
        for key, values in target.items():
            if key not in OBJECT_FIELDS and (key in named or _is_known(key, values)):
                found[key] = None
    return list(found)


def refuse_positions(targets: Sequence[Target], object_keys: Sequence[str]) -> None:
    """Raise ``ValueError`` where a key holds positions that would have to move, which only those of known fields do."""
    for i, target in enumerate(targets):
        for key, values in target.items():
            if key in OBJECT_FIELDS or key in object_keys or values is None:
                continue
            if key in MOVED_NOWHERE or is_tv_tensor(values):
                raise ValueError(
                    f"targets[{i}]: {key!r} holds positions in the picture, which would have to move with what is "
                    "copied, cut or resized, as only boxes, masks and keypoints do. Leave it out; or, if it holds "
                    "none, name it in object_keys: its rows then follow their objects as they are"
                )


def warn_of_unnamed_keys(targets: Sequence[Target], object_keys: Sequence[str]) -> None:
    """Warn, once for each, of keys that pass through, but look as if they held something of each object."""
    known = {*OBJECT_FIELDS, *OF_THE_PICTURE, *object_keys}
    for key in targets[0]:
        if key not in known and all(_has_a_row_per_object(target, key) for target in targets):
            warn_once(
                f"targets: {key!r} has as many rows as each picture of the batch has objects, and passes through, as "
                "what describes the picture does. If its rows belong to the objects, give it as a tensor and name it "
                "in object_keys: they then stay with their objects (said once)"
            )


@cache
def warn_once(message: str) -> None:
    """Warn, the first time in this process; Python's own "once" forgets where a library changes the filters."""
    warnings.warn(message, stacklevel=2)


def _is_known(key: str, values: object) -> bool:
    return key in COCO_AND_TORCHVISION and isinstance(values, Tensor | ndarray | list | tuple)


def _has_a_row_per_object(target: Target, key: str) -> bool:
    values, labels = target.get(key), target["labels"]
    if isinstance(values, Tensor | ndarray) and not values.ndim:
        return False
    return isinstance(values, Tensor | ndarray | list) and isinstance(labels, Tensor) and len(values) == len(labels)
