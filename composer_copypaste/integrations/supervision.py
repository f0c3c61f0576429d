"""Detection targets to and from supervision's ``Detections``, and masks as cut-outs to and from its ``CompactMask``.

A ``CompactMask`` keeps run lengths of each object's window.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.errors import DataError, MissingPackageError
from composer_copypaste.instances import Target, corners, plain

if TYPE_CHECKING:
    from supervision import Detections
    from supervision.detection.compact_mask import CompactMask

DATA_FIELDS = ("iscrowd", "area", "pasted", "xyxyxyxy")
"""Keys of a target that ``Detections.data`` has by the same name. ``xyxyxyxy`` are corners of rotated boxes (n, 4, 2),
which copy-paste moves with ``geometry={"xyxyxyxy": "corners"}``."""


def targets_to_supervision(
    targets: Sequence[Mapping[str, Any]], *, category_names: Sequence[str] | None = None
) -> "list[Detections]":
    """The objects of each target of a batch as ``supervision.Detections``.

    ``class_id`` is the label less 1: supervision counts classes from 0. ``scores`` become ``confidence``; ``data`` has
    ``iscrowd``, ``area``, ``pasted`` and ``xyxyxyxy`` where the target has them. :class:`CompactMasks` become
    supervision's ``CompactMask``, planes stay planes.

    Args:
        targets: as of :func:`copypaste_batch`, on any device, with boxes in any of its formats.
        category_names: the name of label 1, of label 2 and so on, for ``data["class_name"]``.

    Raises:
        MissingPackageError: where supervision is not installed.
        DataError: where a label has no name.
    """
    try:
        import supervision  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("targets_to_supervision() needs supervision: pip install supervision") from error
    return [_detections(target, category_names) for target in targets]


def _detections(target: Mapping[str, Any], category_names: Sequence[str] | None) -> "Detections":
    from supervision import Detections

    classes = _array(target["labels"]).astype(np.int64) - 1
    data = {key: _array(target[key]) for key in DATA_FIELDS if key in target}
    if category_names is not None:
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(category_names):
            raise DataError(
                f"category_names: expected a name for each label, got {len(category_names)} names and labels from "
                f"{classes.min() + 1} to {classes.max() + 1}"
            )
        data["class_name"] = np.array([category_names[number] for number in classes], dtype=str)
    return Detections(
        xyxy=_array(corners(target["boxes"])).astype(np.float32),
        mask=_masks_for_supervision(target.get("masks")),
        confidence=_array(target["scores"]).astype(np.float32) if "scores" in target else None,
        class_id=classes,
        data=data,
    )


def targets_from_supervision(detections: "Sequence[Detections]", sizes: Sequence[tuple[int, int]]) -> list[Target]:
    """The objects of each image's ``supervision.Detections`` as the targets of a batch, for :func:`copypaste_batch`.

    Labels are ``class_id`` plus 1, as 0 is the background here. ``confidence`` becomes ``scores``; ``iscrowd``,
    ``area``, ``pasted`` and ``xyxyxyxy`` of ``data`` come along. A ``CompactMask`` becomes :class:`CompactMasks`.
    Images without objects, to which supervision gives no masks, get the fields of the others, with no rows.

    Args:
        detections: of each image.
        sizes: height and width of each image.

    Raises:
        DataError: where objects have no class, or one below 0.
    """
    targets = [_target(found, f"detections[{number}]") for number, found in enumerate(detections)]
    example = next((target for target in targets if len(target["labels"])), None)
    if example is None:
        return targets
    return [
        target if len(target["labels"]) else _without_objects(example, size)
        for target, size in zip(targets, sizes, strict=True)
    ]


def _target(detections: "Detections", name: str) -> dict[str, Any]:
    classes = detections.class_id
    if classes is None or (classes < 0).any():
        got = None if classes is None else int(classes.min())
        raise DataError(f"{name}: expected class_id, the class of each object, from 0 on, got {got}")
    target: dict[str, Any] = {
        "boxes": torch.from_numpy(np.array(detections.xyxy, dtype=np.float32)),
        "labels": torch.from_numpy(np.array(classes, dtype=np.int64)) + 1,
    }
    if isinstance(detections.mask, np.ndarray):
        target["masks"] = torch.from_numpy(detections.mask.astype(bool)).view(torch.uint8)
    elif detections.mask is not None:
        target["masks"] = masks_from_supervision(detections.mask)
    if detections.confidence is not None:
        target["scores"] = torch.from_numpy(np.array(detections.confidence, dtype=np.float32))
    return target | {
        key: torch.from_numpy(np.array(detections.data[key])) for key in DATA_FIELDS if key in detections.data
    }


def _without_objects(example: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A target of no objects in an image of this size, with the keys of another one."""
    target = {key: values[:0] for key, values in example.items()}
    if isinstance(target.get("masks"), Tensor):
        target["masks"] = target["masks"].new_zeros((0, *size))
    elif "masks" in target:
        target["masks"] = CompactMasks(target["masks"].pixels, [], size)
    return target


def _masks_for_supervision(masks: Tensor | CompactMasks | None) -> "CompactMask | np.ndarray | None":
    if isinstance(masks, Tensor):
        found: np.ndarray = _array(masks) != 0
        return found
    return None if masks is None else masks_to_supervision(masks)


def _array(values: Tensor) -> Any:
    return plain(values).detach().cpu().numpy()


def masks_to_supervision(masks: CompactMasks) -> "CompactMask":
    """The masks as supervision's ``CompactMask``, for ``Detections(mask=...)``.

    Raises:
        MissingPackageError: where supervision is not installed, or of a release without it.
    """
    try:
        from supervision.detection.compact_mask import CompactMask
    except ImportError as error:
        raise MissingPackageError(
            "masks_to_supervision() needs supervision 0.30 or newer: pip install 'supervision>=0.30'"
        ) from error
    crops = [crop.cpu().numpy() for crop in masks.crops()]
    return CompactMask(
        rles=[_run_lengths(crop) for crop in crops],
        crop_shapes=np.array([crop.shape for crop in crops], dtype=np.int32).reshape(-1, 2),
        offsets=masks.windows[:, [1, 0]].astype(np.int32),
        image_shape=masks.size,
    )


def masks_from_supervision(masks: "CompactMask") -> CompactMasks:
    """The masks of a ``CompactMask`` of supervision, on the host."""
    crops = [masks.crop(number) for number in range(len(masks))]
    corners = np.asarray(masks.offsets, dtype=np.int64).reshape(-1, 2)[:, ::-1]
    sizes = np.array([crop.shape for crop in crops], dtype=np.int64).reshape(-1, 2)
    pixels = np.concatenate([crop.reshape(-1) for crop in crops] or [np.zeros(0, dtype=bool)])
    height, width = masks.image_shape
    windows = np.concatenate([corners, corners + sizes], axis=1)
    return CompactMasks(torch.from_numpy(pixels), windows, (height, width))


def _run_lengths(crop: np.ndarray) -> np.ndarray:
    """How many zeros, ones, zeros and so on follow each other, column by column."""
    columns = crop.T.reshape(-1)
    changes = np.flatnonzero(np.diff(columns)) + 1
    ends = np.concatenate([[0] if len(columns) and columns[0] else [], changes, [len(columns)]])
    return np.diff(ends, prepend=0).astype(np.int32)
