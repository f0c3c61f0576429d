"""Settings that name categories, translated to the labels of the data."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from composer_copypaste.errors import OldSettingWarning, did_you_mean
from composer_copypaste.settings import CopyPasteSettings

IN_PLACE_OF = {"categories": "labels", "category_weights": "label_weights"}
"""Each setting that takes names, and the one that takes labels."""


def with_labels(
    settings: CopyPasteSettings, category_names: Sequence[str] | None, *, stacklevel: int = 3
) -> CopyPasteSettings:
    """The settings with labels in place of category names.

    Args:
        settings: as the user gave them.
        category_names: the names of labels 1, 2 and so on; None if they are not known.
        stacklevel: of the warning, as of ``warnings.warn``.

    Raises:
        ValueError: a name or label that is not among these, or a name where they are not known.
        TypeError: ``category_names`` that are no list of names.

    Warns:
        OldSettingWarning: where ``categories`` or ``category_weights`` hold labels, as in former versions.
    """
    if category_names is not None and (
        isinstance(category_names, str) or not all(isinstance(name, str) for name in category_names)
    ):
        raise TypeError(f"category_names: expected a list of names, that of label 1 first, got {category_names!r}")
    for by_name, by_label in IN_PLACE_OF.items():
        named = getattr(settings, by_name)
        if isinstance(named, str):
            raise ValueError(  # noqa: TRY004 - of the right type, but not here
                f"{by_name}: {named!r} is counted in a data set, which is not known here; give "
                f"{by_name}=rare_category_weights(annotations, {named!r}) and category_names"
            )
        if named is not None:
            if old := [key for key in named if _is_label(key, category_names)]:
                warnings.warn(
                    f"{by_name}: {old[0]!r} is taken for a label, as before; {by_name} takes names of categories now, "
                    f"{by_label} takes labels, and the next release refuses labels here",
                    OldSettingWarning,
                    stacklevel=stacklevel,
                )
            found = {key: _labels(by_name, key, category_names) for key in named}
            labels: Any = tuple(label for key in named for label in found[key])
            if isinstance(named, dict):
                labels = {label: weight for key, weight in named.items() for label in found[key]}
            changes: dict[str, Any] = {by_name: None, by_label: labels}
            settings = replace(settings, **changes)
        elif category_names is not None:
            for label in getattr(settings, by_label) or ():
                _check_label(by_label, label, category_names)
    return settings


def _is_label(key: int | str, names: Sequence[str] | None) -> bool:
    """Whether a key is a label; a recipe's mappings have text for keys, also for labels."""
    return not isinstance(key, str) or (key.isdecimal() and key not in (names or ()))


def _labels(setting: str, key: int | str, names: Sequence[str] | None) -> list[int]:
    """The labels that a key stands for; several where categories share a name."""
    if _is_label(key, names):
        if names is not None:
            _check_label(setting, int(key), names)
        return [int(key)]
    if names is None:
        raise ValueError(
            f"{setting}: {key!r} is a name, but the names of the data's categories are not known here; give "
            f"category_names=[...], that of label 1 first, or {IN_PLACE_OF[setting]}"
        )
    labels = [label for label, name in enumerate(names, start=1) if name == key]
    if not labels:
        hint = did_you_mean(str(key), names, "; ")
        raise ValueError(f"{setting}: expected names of the data's categories ({', '.join(names)}), got {key!r}{hint}")
    return labels


def _check_label(setting: str, label: int, names: Sequence[str]) -> None:
    if not 1 <= label <= len(names):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))
        raise ValueError(
            f"{setting}: expected labels, which number the categories in the order of their ids ({known}), got {label}"
        )
