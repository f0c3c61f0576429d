"""The page of a preview: what was measured, warnings, images before and after copy-paste, and plots."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.errors import count_noun
from composer_copypaste.runs.preview.advice import SMALL_SIDE, percent, warnings_of
from composer_copypaste.runs.preview.measures import Measures, PastedBatch, mean
from composer_copypaste.visualize import html
from composer_copypaste.visualize.draw import draw_at_size, image_sheet
from composer_copypaste.visualize.html import Cell, Markup, Section, Value
from composer_copypaste.visualize.object_plots import area_plot, category_plot, number_plot

IMAGE_SIZE = 480
"""Length in pixels of the longer side of a drawn image."""
SHEET_COLUMNS = 4


@dataclass(frozen=True)
class DrawnImage:
    """An image before and after copy-paste, with its objects drawn."""

    place: str
    """Which image of which batch, counted from 1."""
    name: str
    before: UInt8[Tensor, "3 h w"]
    after: UInt8[Tensor, "3 h w"]
    objects_before: int
    objects_after: int
    pasted: Counter[tuple[str, int]]
    """Number of pasted objects, by the image that they come from and their label."""
    dropped: Sequence[int]
    """The labels of its own objects that are dropped."""


@dataclass(frozen=True)
class VariantPreview:
    """What a way to augment batches does, and a few images of it."""

    measures: Measures
    images: Sequence[DrawnImage]
    names: Sequence[str]
    """The names of label 1, label 2 and so on."""

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.measures.variant.name

    @property
    def warnings(self) -> list[str]:
        """What to know of it before a training; none where all is well."""
        return warnings_of(self.measures, self.names)

    def sheet(self) -> UInt8[Tensor, "3 height width"]:
        """Its images, each twice: before and after copy-paste."""
        tiles, captions = [], []
        for image in self.images:
            tiles += [image.before, image.after]
            pasted = f", {image.pasted.total()} pasted (dashed)" if image.pasted else ""
            captions += [
                f"{image.place}: {count_noun(image.objects_before, 'object')}",
                f"{count_noun(image.objects_after, 'object')}{pasted}",
            ]
        return image_sheet(tiles, 2 if len(self.images) == 1 else SHEET_COLUMNS, captions)


def draw_image(batch: PastedBatch, number: int, names: Sequence[str]) -> DrawnImage:
    """An image of a batch, drawn before and after copy-paste; there, objects that are dropped are crossed out."""
    before, after = batch.targets[number], batch.targets_after[number]
    kept, rows = batch.result.origins(number)
    flags = torch.arange(len(kept) + len(rows)) >= len(kept)
    dropped = batch.dropped(number)
    crossed_out = torch.from_numpy(batch.objects[number].info.boxes[dropped])
    return DrawnImage(
        f"batch {batch.number + 1}, image {number + 1}",
        batch.names[number],
        draw_at_size(batch.images[number], before, names, IMAGE_SIZE),
        draw_at_size(batch.result.images[number], after | {"pasted": flags}, names, IMAGE_SIZE, crossed_out),
        len(batch.objects[number].labels),
        len(flags),
        batch.pasted(number),
        batch.objects[number].labels[dropped].tolist(),
    )


# ---- the page


def preview_page(title: str, lead: str, variants: Sequence[VariantPreview], settings: str) -> str:
    """The page.

    Args:
        title: of the page.
        lead: says what batches these are.
        variants: at least one.
        settings: the settings in full, as text.
    """
    sections = [
        Section("What was measured", [html.table(*measured_table(variants)), html.bullets(MEANINGS)]),
        Section("Images", _image_rows(variants)),
        Section("Size and number of objects", [html.side_by_side(_plots(variants))]),
        Section("Categories", [_category_table(variants)]),
        Section("Settings", [html.code(settings)]),
    ]
    return html.page(title, sections, [html.paragraph(lead), *map(html.warning, all_warnings(variants))])


def all_warnings(variants: Sequence[VariantPreview]) -> list[str]:
    """The warnings of all variants; of several, each with the variant's name."""
    named = len(variants) > 1
    return [f"{variant.name}: {text}" if named else text for variant in variants for text in variant.warnings]


MEANINGS = (
    "The share of images that receive objects and the number of objects pasted per image are what a training logs as "
    "copy_paste/share_of_images and copy_paste/instances_per_image.",
    "Size: the side of a square of the object's visible area, in pixels of the image as the model sees it, after it "
    "has resized it. Median of all objects.",
    "Cut off: a quarter or more of the object's box lies beyond the image's edge.",
    "Never seen: beyond the edge, hidden by other copies, or smaller than the settings ask for.",
    "Crowds are not counted.",
)


def measured_table(variants: Sequence[VariantPreview]) -> tuple[list[str], list[list[Value]]]:
    """What was measured of each variant: the headers of the table, and its rows."""
    columns = [_measured(variant.measures) for variant in variants]
    rows: list[list[Value]] = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return ["", *(variant.name for variant in variants)], rows


def _measured(measures: Measures) -> dict[str, Value]:
    images, own, copies, visible = measures.images, measures.own, measures.copies, measures.visible
    return {
        "batches": measures.batches,
        "images": len(images.before),
        "objects per image, before": Cell(f"{mean(images.before):.1f}", mean(images.before)),
        "objects per image, after": Cell(f"{mean(images.after):.1f}", mean(images.after)),
        "images that receive objects": _share(measures.share_of_images),
        "objects pasted per image": Cell(f"{mean(images.pasted):.1f}", mean(images.pasted)),
        "size before": _size(own.side),
        "size of pasted objects": _size(copies.side[visible]),
        f"smaller than {SMALL_SIDE} pixels, before": _share(mean(own.side < SMALL_SIDE)),
        f"smaller than {SMALL_SIDE} pixels, of the pasted": _share(mean(copies.side[visible] < SMALL_SIDE)),
        "of the pasted, cut off at the edge": _share(mean(measures.cut_off[visible])),
        "of what is drawn to be pasted, never seen": _share(mean(~visible)),
        "own objects that disappear": _share(mean(measures.dropped)),
        "own objects that are partly hidden": _share(mean(measures.partly_hidden)),
    }


def _share(value: float) -> Value:
    return None if np.isnan(value) else Cell(percent(value), value)


def _size(sides: Float[ndarray, " n"]) -> Value:
    median = float(np.median(sides)) if len(sides) else np.nan
    return None if np.isnan(median) else Cell(f"{median:.0f} px", median)


# ---- images


def _image_rows(variants: Sequence[VariantPreview]) -> list[Markup]:
    """A row for each image: before, and after for each variant."""
    legend = (
        "Those of the first batch, then the next ones that receive objects. Pasted objects have a dashed outline; "
        "objects that disappear under them are crossed out; crowds are hatched."
    )
    most = max(len(variant.images) for variant in variants)
    return [html.paragraph(legend), *(html.side_by_side(_image_row(variants, number)) for number in range(most))]


def _image_row(variants: Sequence[VariantPreview], number: int) -> list[Markup]:
    """The images of this number: each variant's after copy-paste, behind the one before it where that is another."""
    parts: list[Markup] = []
    before: list[Tensor] = []
    for variant in variants:
        if number >= len(variant.images):
            continue
        image = variant.images[number]
        of_variant = f" ({variant.name})" if len(variants) > 1 else ""
        if not any(torch.equal(image.before, shown) for shown in before):
            parts.append(html.image(image.before, _caption_before(image, of_variant if parts else "")))
            before.append(image.before)
        parts.append(html.image(image.after, _caption_after(image, of_variant, variant.names)))
    return parts


def _caption_before(image: DrawnImage, of_variant: str) -> str:
    return f"{image.place.capitalize()}{of_variant}, {image.name}: {count_noun(image.objects_before, 'object')}."


def _caption_after(image: DrawnImage, of_variant: str, names: Sequence[str]) -> str:
    """How many objects an image has after copy-paste, where they come from, and what it lost."""
    by_image: dict[str, Counter[int]] = {}
    for (source, label), number in image.pasted.items():
        by_image.setdefault(source, Counter())[label] += number
    pasted = [f"{_list_labels(labels, names)} from {source}" for source, labels in by_image.items()]
    text = f"After{of_variant}: {count_noun(image.objects_after, 'object')}. "
    text += f"Pasted: {'; '.join(pasted)}." if pasted else "Nothing pasted."
    return text + (f" Gone: {_list_labels(Counter(image.dropped), names)}." if image.dropped else "")


def _list_labels(labels: Counter[int], names: Sequence[str]) -> str:
    """The numbers of objects by category, such as "2 cat, 1 dog"."""
    return ", ".join(f"{number} {_label_name(label, names)}" for label, number in sorted(labels.items()))


def _label_name(label: int, names: Sequence[str]) -> str:
    return names[label - 1] if 1 <= label <= len(names) else f"label {label}"


# ---- plots and categories


def _plots(variants: Sequence[VariantPreview]) -> list[Markup]:
    first, names = variants[0].measures, variants[0].names
    after = {"after" if len(variants) == 1 else variant.name: variant.measures for variant in variants}
    areas = {"before": first.own.area} | {name: measures.areas_after for name, measures in after.items()}
    numbers = {"before": first.images.before} | {name: measures.images.after for name, measures in after.items()}
    labels = {"before": first.own.label} | {name: measures.labels_after for name, measures in after.items()}
    plots = [
        html.figure(area_plot(areas), "Objects by area; dashed: COCO's limits of small and large ones."),
        html.figure(number_plot(numbers), "Images by their number of objects."),
    ]
    if len(names) > 1:
        plots.append(html.figure(category_plot(labels, names), "Objects by category."))
    return plots


def _category_table(variants: Sequence[VariantPreview]) -> Markup:
    """The number of objects of each category: before, pasted and gone."""
    names = variants[0].names
    headers = ["category", "before"]
    columns = [_count_labels(variants[0].measures.own.label, names)]
    for variant in variants:
        of_variant, measures = f", {variant.name}" if len(variants) > 1 else "", variant.measures
        headers += [f"pasted{of_variant}", f"gone{of_variant}"]
        kinds = (measures.copies.label[measures.visible], measures.own.label[measures.dropped])
        columns += [_count_labels(labels, names) for labels in kinds]
    rows: list[list[Value]] = [[name, *counts] for name, *counts in zip(names, *columns, strict=True)]
    return html.table(headers, rows)


def _count_labels(labels: Int64[ndarray, " n"], names: Sequence[str]) -> list[int]:
    return np.bincount(labels, minlength=len(names) + 1)[1 : len(names) + 1].tolist()
