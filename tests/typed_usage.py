"""What users write, as mypy sees it: ``make lint`` checks this file, nothing runs it."""

from typing import Any, assert_type

from torch import Tensor

from composer_copypaste import CopyPasteSettings, copypaste_batch, plan_batch


def detection(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    plan = plan_batch(images, targets, p=1.0)
    assert_type(copypaste_batch(images, targets, plan=plan), tuple[list[Tensor], list[dict[str, Tensor]]])


def detection_with_any_keys(images: Tensor, targets: list[dict[str, Any]]) -> None:
    assert_type(copypaste_batch(images, targets), tuple[Tensor, list[dict[str, Any]]])


def semantic(images: Tensor, class_ids: Tensor) -> None:
    assert_type(copypaste_batch(images, class_ids), tuple[Tensor, Tensor])


def settings() -> None:
    assert_type(CopyPasteSettings(p=0.5, min_area=2).p, float)
    CopyPasteSettings(rotaton=5)  # type: ignore[call-arg]  # a misspelt setting is an error, as at run time
