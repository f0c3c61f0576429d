"""Weights of categories from how rare they are in a data set."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.settings import CopyPasteSettings

LARGEST_WEIGHT = 1e6
"""The setting's limit."""
CountedWeights = Literal["inverse_frequency", "repeat_factor"]


def rare_category_weights(
    annotations: CocoAnnotations,
    how: CountedWeights | str = "repeat_factor",
    *,
    threshold: float | int = CopyPasteSettings.repeat_threshold,
) -> dict[str, float]:
    """The weight of each category, by its name, for the setting ``category_weights``: rare ones have larger weights.

    Args:
        annotations: whose objects are counted, without crowds.
        how: "inverse_frequency": the number of objects of the most frequent category, divided by the category's own.
            "repeat_factor": max(1, sqrt(threshold / f)) where f is the fraction of images that have the category, as
            LVIS repeats images (Gupta et al., CVPR 2019). A category without objects counts as if it had one.
        threshold: of "repeat_factor": the fraction of images below which a category is rare; LVIS has 0.001.

    Raises:
        ValueError: where ``how`` is neither, or the threshold is not above 0 and at most 1.

    Example:
        >>> names = [category.name for category in annotations.categories]
        >>> CopyPaste(category_weights=rare_category_weights(annotations), category_names=names)
    """
    if how not in get_args(CountedWeights):
        raise ValueError(f"how: expected one of {', '.join(map(repr, get_args(CountedWeights)))}, got {how!r}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected a fraction above 0, at most 1, got {threshold!r}")
    names = {category.id: category.name for category in annotations.categories}
    objects, images = Counter(names.values()), Counter(names.values())
    objects.subtract(names.values())
    images.subtract(names.values())
    for group in annotations.annotations.values():
        found = [names[annotation["category_id"]] for annotation in group if not annotation["iscrowd"]]
        objects.update(found)
        images.update(set(found))
    if how == "inverse_frequency":
        most = max(1, *objects.values())
        return {name: most / max(1, count) for name, count in objects.items()}
    number = len(annotations.images)
    return {name: max(1.0, (threshold * number / max(1, count)) ** 0.5) for name, count in images.items()}


def with_counted_weights(settings: CopyPasteSettings, read: Callable[[], CocoAnnotations]) -> CopyPasteSettings:
    """The settings with numbers for ``category_weights`` where these are to be counted in a data set.

    Args:
        settings: as the user gave them.
        read: gives the annotations of the data set; called where they are needed.
    """
    how = settings.category_weights
    if not isinstance(how, str):
        return settings
    counted = rare_category_weights(read(), how, threshold=settings.repeat_threshold)
    weights: dict[int | str, float] = {name: min(weight, LARGEST_WEIGHT) for name, weight in counted.items()}
    return replace(settings, category_weights=weights, repeat_threshold=CopyPasteSettings.repeat_threshold)
