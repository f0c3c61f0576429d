"""Copy-paste as a transform of a data loader's batches, in the manner of torchvision's ``MixUp`` and ``CutMix``."""

import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from composer_copypaste.functional.arguments import checked_settings
from composer_copypaste.functional.copypaste import copypaste_batch
from composer_copypaste.functional.sources import Pool
from composer_copypaste.instances import Target
from composer_copypaste.settings import CopyPasteSettings, settings_from

Sample = tuple[Tensor, Target]
VISIBLE = 2.0
"""COCO's mark of a keypoint that is labelled and visible."""


class CopyPasteTransform:
    """Copies objects between the images of a batch: ``images, targets = transform(images, targets)``.

    ``collate`` takes a loader's samples ``(image, target)`` and can be its ``collate_fn``. Images and targets are those
    of :func:`copypaste_batch`. Torchvision's tv_tensors (``Image``, ``Mask``, ``BoundingBoxes`` and ``KeyPoints``) keep
    their kind and format. Numbers are drawn from torch's default generator, as torchvision's transforms do,
    so each of a loader's processes draws others. ``KeyPoints``, which have no visibility, stay where an object covers
    them. A bank is of one process alone, so there is none: give ``bank_size`` to :class:`CopyPaste`, or a pool.

    Args:
        settings: all settings in one value.
        pool: cut-outs as additional sources, such as a :class:`CutOutPool`.
        category_names: the name of label 1, of label 2 and so on, for ``categories`` and ``category_weights``.
        **overrides: settings by name: the fields of :class:`CopyPasteSettings`.

    Raises:
        ValueError: a setting out of its limits or for trainings only, or a name of no category.
        TypeError: a setting that does not exist.

    Example:
        >>> loader = DataLoader(data, batch_size=8, collate_fn=CopyPasteTransform(p=0.5).collate)
    """

    def __init__(
        self,
        settings: CopyPasteSettings | None = None,
        *,
        pool: Pool | None = None,
        category_names: Sequence[str] | None = None,
        **overrides: object,
    ) -> None:
        given = settings_from(CopyPasteSettings, settings, overrides)
        self.settings: CopyPasteSettings = checked_settings(given, category_names, pool)
        for name in ("warmup", "stop", "histogram_interval"):
            if (value := getattr(self.settings, name)) is not None:
                raise ValueError(f"{name}: expected None, as a loader does not know the training's time, got {value!r}")
        if self.settings.bank_size:
            raise ValueError(f"bank_size: expected 0, as a loader has no bank, got {self.settings.bank_size}")
        self.pool = pool

    def __call__(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """The batch after copy-paste; nothing that was given is modified."""
        if isinstance(targets, Tensor):
            return copypaste_batch(images, targets, settings=self.settings, pool=self.pool)
        given = [_with_visibility(target) for target in targets]
        images, after = copypaste_batch(images, given, settings=self.settings, pool=self.pool)
        return images, type(targets)(_as_before(*pair) for pair in zip(after, targets, strict=True))

    def collate(self, samples: Sequence[Sample]) -> tuple[list[Tensor], list[Target]]:
        """Images and targets of a loader's samples, after copy-paste."""
        images, targets = zip(*samples, strict=True)
        found: tuple[list[Tensor], list[Target]] = self(list(images), list(targets))
        return found

    def __repr__(self) -> str:
        return repr(self.settings).replace(type(self.settings).__name__, type(self).__name__, 1)


def _is_key_points(values: object) -> bool:
    """Whether these are torchvision's ``KeyPoints``, which its older releases do not have."""
    kind = getattr(sys.modules.get("torchvision.tv_tensors"), "KeyPoints", None)
    return kind is not None and isinstance(values, kind)


def _with_visibility(target: Target) -> Target:
    points = target.get("keypoints")
    if not _is_key_points(points):
        return target
    plain = cast(Tensor, points).as_subclass(Tensor)
    visible = torch.full_like(plain[..., :1], VISIBLE)
    return {**target, "keypoints": torch.cat([plain, visible], dim=-1)}


def _as_before(after: Target, former: Target) -> Target:
    points = former.get("keypoints")
    if not _is_key_points(points):
        return after
    from torchvision.tv_tensors import wrap

    return {**after, "keypoints": wrap(cast(Tensor, after["keypoints"])[..., :2], like=points)}
