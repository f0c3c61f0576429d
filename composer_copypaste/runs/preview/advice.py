"""What a user would want to know of copy-paste before a training: a line for each, with its number and what to do."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from composer_copypaste.errors import count_noun, first_few
from composer_copypaste.runs.preview.measures import Measures, mean
from composer_copypaste.settings import CopyPasteSettings

MOST_UNTOUCHED = 0.6
"""The largest fraction of images on which nothing may be pasted,"""
MORE_UNTOUCHED = 0.1
"""and by which it may be larger than ``p`` says."""
MOST_DROPPED = 0.15
"""The largest fraction of the images' own objects that may disappear."""
MOST_LOST = 0.3
"""The largest fraction of copies that may never be seen."""
MOST_CUT_OFF = 0.5
"""The largest fraction of the pasted objects that may be cut off at an edge."""
SMALL_SIDE = 16
"""An object is small where it covers fewer pixels than a square of this side."""
MOST_SMALL, MORE_SMALL = 0.5, 0.2
"""The largest fraction of pasted objects that may be small, and by which it may be larger than of the images' own."""
FEWEST_IN_BATCH = 4
"""The smallest number of objects to copy from that a batch may have on average, without bank and pool."""
MOST_SKIPPED = 0.05
"""The largest fraction of batches in which nothing may be pasted, whatever is drawn."""
ENOUGH_OBJECTS = 20
"""A category with fewer objects to copy from is not judged."""


def warnings_of(measures: Measures, names: Sequence[str]) -> list[str]:
    """The warnings, none where all is well.

    Args:
        measures: of one way to augment the batches.
        names: of label 1, label 2 and so on.
    """
    settings = measures.variant.copy_paste
    if settings is None:
        return []
    return [
        *_untouched_images(measures, settings),
        *_skipped_batches(measures),
        *_few_objects(measures, settings),
        *_categories_never_copied(measures, settings, names),
        *_lost_copies(measures, settings),
        *_cut_off_copies(measures, settings),
        *_copies_resized_twice(measures, settings),
        *_small_copies(measures),
        *_dropped_objects(measures, settings),
        *measures.variant.advice,
    ]


def percent(share: float) -> str:
    """A share in words, such as "12 %"."""
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def _untouched_images(measures: Measures, settings: CopyPasteSettings) -> Iterator[str]:
    skipped = settings.p * sum(measures.unchanged.values()) / measures.batches  # which a warning of their own explains
    untouched, intended = 1 - measures.share_of_images, 1 - settings.p
    chance = 2 * math.sqrt(settings.p * intended / len(measures.images.pasted))  # two standard deviations
    if untouched >= MOST_UNTOUCHED and untouched - intended - skipped >= max(MORE_UNTOUCHED, chance):
        drawn = settings.p_instance is None and measures.variant.pool is None
        more = ", or copy_paste.p_instance=0.7, with which fewer draws end with no object" if drawn else ""
        if settings.max_overlap < 1:
            more += f"; copy_paste.max_overlap={settings.max_overlap:g} leaves out what finds no place: a larger one, "
            more += "or a larger copy_paste.placement_tries, leaves out less"
        yield (
            f"nothing is pasted on {percent(untouched)} of the images: p={settings.p:g} leaves {percent(intended)} as "
            f"they are, and nothing arrives on another {percent(untouched - intended)}; raise copy_paste.p{more}"
        )


def _skipped_batches(measures: Measures) -> Iterator[str]:
    for reason, number in measures.unchanged.items():
        if number >= MOST_SKIPPED * measures.batches:
            yield f"in {number} of {count_noun(measures.batches, 'batch', 'batches')} nothing could be pasted: {reason}"


def _few_objects(measures: Measures, settings: CopyPasteSettings) -> Iterator[str]:
    in_batch = measures.own.may_be_copied.sum() / measures.batches
    only_batch = not settings.bank_size and measures.variant.pool is None and settings.source != "self"
    if in_batch < FEWEST_IN_BATCH and only_batch and settings.p:
        yield (
            f"a batch has {in_batch:.1f} objects to copy from on average, so there is little to choose from; raise "
            "data.batch_size, or keep objects of earlier batches with copy_paste.bank_size=256"
        )


def _categories_never_copied(measures: Measures, settings: CopyPasteSettings, names: Sequence[str]) -> Iterator[str]:
    if not settings.p:
        return
    pastes_anything = len(measures.copies.label) > 0  # else another warning says why
    weights = settings.label_weights or {}
    meant = [
        label
        for label in range(1, len(names) + 1)
        if weights.get(label, 1) and (settings.labels is None or label in settings.labels)
    ]
    own, pasted = measures.own, np.bincount(measures.copies.label, minlength=len(names) + 1)
    present = np.bincount(own.label, minlength=len(names) + 1)
    copyable = np.bincount(own.label[own.may_be_copied], minlength=len(names) + 1)
    never = [label for label in meant if not pasted[label] and present[label] >= ENOUGH_OBJECTS]
    refused = [repr(names[label - 1]) for label in never if not copyable[label]]
    unlucky = [repr(names[label - 1]) for label in never if copyable[label]]
    if refused:
        yield (
            f"never copied: {first_few(refused)}; no object of these may be copied, see copy_paste.area_range and "
            "relative_area_range"
        )
    if unlucky and pastes_anything:
        yield f"never copied: {first_few(unlucky)}; copy_paste.category_weights copies them more often"


def _lost_copies(measures: Measures, settings: CopyPasteSettings) -> Iterator[str]:
    lost = ~measures.visible
    if mean(lost) >= MOST_LOST:
        outside = mean(measures.copies.beyond_edge[lost] >= 1)
        inside = "" if settings.placement == "random" else "; copy_paste.placement=random puts them inside the image"
        yield (
            f"{percent(mean(lost))} of what is drawn to be pasted is never seen: {percent(outside)} of it lies beyond "
            f"the image's edge, the rest is hidden by other copies or too small{inside}"
        )


def _cut_off_copies(measures: Measures, settings: CopyPasteSettings) -> Iterator[str]:
    cut_off = mean(measures.cut_off[measures.visible])
    if cut_off >= MOST_CUT_OFF:
        inside = "copy_paste.placement=random puts them inside the image" if settings.placement != "random" else ""
        smaller = "copy_paste.scale_range=[0.1,1] makes none larger than it is"
        yield (
            f"{percent(cut_off)} of the pasted objects are cut off at the image's edge, with a quarter of their box or "
            f"more beyond it; {', or '.join(filter(None, [inside, smaller]))}"
        )


def _copies_resized_twice(measures: Measures, settings: CopyPasteSettings) -> Iterator[str]:
    if measures.variant.loader_jitters and settings.scale_range is None and measures.visible.any():
        ratio = np.median(measures.copies.side[measures.visible]) / np.median(measures.own.side)
        yield (
            "data.jitter resizes the images, and copy-paste what it copies a second time: pasted objects have "
            f"{ratio:.1f} times the size of the images' own; copy_paste.scale_range=[1,1] copy_paste.p_flip=0 leaves "
            "them as jittered"
        )


def _small_copies(measures: Measures) -> Iterator[str]:
    small, own = mean(measures.copies.side[measures.visible] < SMALL_SIDE), mean(measures.own.side < SMALL_SIDE)
    if small >= MOST_SMALL and small - own >= MORE_SMALL:
        yield (
            f"{percent(small)} of the pasted objects are smaller than {SMALL_SIDE} x {SMALL_SIDE} pixels where the "
            f"model sees them, of the images' own {percent(own)}; copy_paste.scale_range=[0.5,2] shrinks them less, "
            f"copy_paste.min_area={SMALL_SIDE**2} leaves out the smallest"
        )


def _dropped_objects(measures: Measures, settings: CopyPasteSettings) -> Iterator[str]:
    dropped = mean(measures.dropped)
    if dropped >= MOST_DROPPED:
        fewer = "copy_paste.max_copied_instances=5 pastes fewer"
        apart = "copy_paste.placement=random copy_paste.max_overlap=0.3 puts them elsewhere"
        yield (
            f"{percent(dropped)} of the images' own objects disappear under pasted ones; {fewer}"
            + (f", {apart}" if settings.max_overlap == 1 else "")
        )
