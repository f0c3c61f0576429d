"""Images with their objects drawn on them, and sheets of such images."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.errors import count_noun
from composer_copypaste.files import atomic_write
from composer_copypaste.instances import corners

Objects = Mapping[str, Any]
"""A detection target, or detections: ``boxes`` (also in torchvision's other formats), ``labels``, ``masks`` or
``rles``, and optionally ``scores``, ``iscrowd`` and ``pasted`` (one boolean per object)."""
Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

# Okabe and Ito's colors without black, then Tol's "muted": distinct to color-blind people as well
PALETTE: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (136, 204, 238), (68, 170, 153), (153, 153, 51), (204, 102, 119), (136, 34, 85), (170, 68, 153), (51, 34, 136),
)  # fmt: skip
GREY: Color = (150, 150, 150)
PAPER: Color = (250, 250, 250)
INK: Color = (40, 40, 40)
RED: Color = (230, 30, 30)
SHEET_WIDTH = 1600
MARGIN = 10
_MOST_HIDDEN = 0.05
"""The share of another object's box that a label may hide: the name of a cup may lie on the table, not on a spoon."""
MAX_IMAGES = 16
"""The most images on a training sheet."""


# ---- one image


def draw_instances(
    image: UInt8[Tensor, "3 h w"], objects: Objects, names: Sequence[str], *, largest_label: float = 2.0
) -> UInt8[Tensor, "3 h w"]:
    """The image with every object's mask, outline, box and label.

    Each category has a color, or each object if there is only one category. Crowds are hatched in grey; pasted objects
    have a thick dashed outline. A label is left out where there is no room for it. One that is large for its object is
    outside of its box, where it hides no other object, and left out if there is only one category.

    Args:
        image: RGB.
        objects: a detection target, or detections.
        names: the names of label 1, label 2 and so on; a label without a name is written as its number.
        largest_label: the area from which on a label is large, as a share of the area of its object's box.
    """
    canvas = image.permute(1, 2, 0).cpu().numpy().copy()
    masks = _decoded_masks(objects, (canvas.shape[0], canvas.shape[1]))
    colors = _object_colors(objects, names)
    line = max(1, round(max(canvas.shape) / 400))
    crowds, pasted = (_optional_flags(objects, name) for name in ("iscrowd", "pasted"))
    for mask, color, crowd, is_pasted in zip(masks, colors, crowds, pasted, strict=False):
        _paint_mask(canvas, mask, color, line, hatched=crowd, dashed=is_pasted)
    drawn = Image.fromarray(canvas)
    _draw_boxes(drawn, corners(objects["boxes"]).tolist(), colors, line)
    _draw_labels(drawn, objects, colors, names, largest_label)
    return torch.from_numpy(np.array(drawn)).permute(2, 0, 1).contiguous()


def _decoded_masks(objects: Objects, size: tuple[int, int]) -> Iterator[Bool[ndarray, "h w"]]:
    """The mask of each object, decoded one at a time from ``rles`` or ``masks``; nothing where there is neither."""
    if "rles" in objects:
        yield from (coco_mask.decode(rle).astype(bool) for rle in objects["rles"])
    elif "masks" in objects:
        masks = objects["masks"]
        planes = masks.planes() if isinstance(masks, CompactMasks) else masks.detach().reshape(-1, *size)
        for mask in planes:
            mask = mask.cpu()
            yield (mask > 0.5 if mask.is_floating_point() else mask != 0).numpy()


def _optional_flags(objects: Objects, name: str) -> list[bool]:
    """An optional field as one boolean per object; all False where it is missing."""
    if name not in objects:
        return [False] * len(objects["labels"])
    return [bool(flag) for flag in objects[name].tolist()]


def _object_colors(objects: Objects, names: Sequence[str]) -> list[Color]:
    labels = objects["labels"].tolist()
    numbers = range(len(labels)) if len(names) == 1 else (label - 1 for label in labels)
    crowds = _optional_flags(objects, "iscrowd")
    return [GREY if crowd else PALETTE[number % len(PALETTE)] for number, crowd in zip(numbers, crowds, strict=True)]


def _paint_mask(
    canvas: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    color: Color,
    line: int,
    *,
    hatched: bool,
    dashed: bool,
) -> None:
    """Tint the pixels of the mask and draw its outline, in place."""
    if not mask.any():
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside, part = mask[window], canvas[window]
    y, x = np.mgrid[window]
    tint = inside & ((x + y) // (3 * line) % 2 == 0) if hatched else inside
    strength = 0.7 if hatched else 0.32
    part[tint] = np.rint((1 - strength) * part[tint] + strength * np.array(color)).astype(np.uint8)
    outline = inside & ~_erode_mask(inside, 2 * line if dashed else line)
    part[outline] = color
    if dashed:
        part[outline & ((x + y) // (5 * line) % 2 == 0)] = 255


def _erode_mask(mask: Bool[ndarray, "h w"], width: int) -> Bool[ndarray, "h w"]:
    outside = F.pad(torch.from_numpy(~mask).float()[None, None], [width] * 4, value=1.0)
    return F.max_pool2d(outside, 2 * width + 1, stride=1)[0, 0].numpy() == 0


def _draw_boxes(image: Image.Image, boxes: list[list[float]], colors: list[Color], line: int) -> None:
    pen = ImageDraw.Draw(image)
    for (x1, y1, x2, y2), color in zip(boxes, colors, strict=True):
        left, top = round(x1), round(y1)
        # PIL's lower right corner is the last pixel of the box
        corner = max(left, round(x2) - 1), max(top, round(y2) - 1)
        pen.rectangle([left, top, *corner], outline=color, width=line)


def _draw_in_red(image: Image.Image, boxes: list[list[float]], line: int, *, diagonals: bool) -> None:
    """Draw boxes, with or without both diagonals, red on white."""
    pen = ImageDraw.Draw(image)
    for color, width in (((255, 255, 255), 4 * line), (RED, 2 * line)):
        for x1, y1, x2, y2 in boxes:
            outline = [x1, y1, x2, y1, x2, y2, x1, y2, x1, y1]
            pen.line([*outline, x2, y2] if diagonals else outline, fill=color, width=width)
            if diagonals:
                pen.line([x1, y2, x2, y1], fill=color, width=width)


def _draw_labels(
    image: Image.Image, objects: Objects, colors: list[Color], names: Sequence[str], largest: float
) -> None:
    """Write names and scores at the boxes where there is room, large objects first."""
    pen = ImageDraw.Draw(image)
    font = _label_font(max(11, max(image.size) // 34))
    texts = _label_texts(objects, names)
    boxes = corners(objects["boxes"]).tolist()
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    taken: list[Rectangle] = []
    for number in sorted(range(len(boxes)), key=lambda number: -areas[number]):
        size = pen.textlength(texts[number], font=font) + 4, font.size * 1.25
        if not texts[number]:
            continue
        is_large = size[0] * size[1] > largest * areas[number]
        if is_large and len(names) == 1:
            continue  # a score alone is not worth the place
        places = (_places_beside if is_large else _label_places)(boxes[number], size, image.size)
        others = boxes[:number] + boxes[number + 1 :]
        free = [place for place in places if _is_free(place, image.size, taken)]
        best = next((place for place in free if _hides_little(place, others)), None)
        place = best if best is not None or is_large else next(iter(free), None)
        if place is not None:
            taken.append(place)
            pen.rectangle(place, fill=colors[number])
            pen.text((place[0] + 2, place[1] + 1), texts[number], font=font, fill=_readable_text_color(colors[number]))


@cache
def _label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has letters of most alphabets."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _label_texts(objects: Objects, names: Sequence[str]) -> list[str]:
    """The label of each object: the name of its category, if there are several, and its score."""
    found = [_category_name(label, names) for label in objects["labels"].tolist()]
    if "scores" not in objects:
        return found
    return [f"{name} {score:.2f}".strip() for name, score in zip(found, objects["scores"].tolist(), strict=True)]


def _category_name(label: int, names: Sequence[str]) -> str:
    if not 1 <= label <= len(names):
        return f"label {label}"
    return names[label - 1] if len(names) > 1 else ""


def _label_places(box: Sequence[float], size: tuple[float, float], image: tuple[int, int]) -> list[Rectangle]:
    """Where a label of this size may be: above, below or inside the box."""
    left = min(max(0.0, box[0]), image[0] - size[0])
    return [(left, top, left + size[0], top + size[1]) for top in (box[1] - size[1], box[3], box[1])]


def _places_beside(box: Sequence[float], size: tuple[float, float], image: tuple[int, int]) -> list[Rectangle]:
    """Where the label of a small object may be: on each side of the box."""
    (above, below, _), (width, height) = _label_places(box, size, image), size
    top = min(max(0.0, (box[1] + box[3] - height) / 2), image[1] - height)
    sides = [(left, top, left + width, top + height) for left in (box[2], box[0] - width)]
    return [above, below, *sides]


def _is_free(place: Rectangle, image: tuple[int, int], taken: Sequence[Rectangle]) -> bool:
    """Whether a label is inside the image, and overlaps none of those taken."""
    x1, y1, x2, y2 = place
    inside = x1 >= 0 and y1 >= 0 and x2 <= image[0] and y2 <= image[1]
    return inside and not any(_overlap(place, other) > 0 for other in taken)


def _hides_little(place: Rectangle, boxes: Sequence[Sequence[float]]) -> bool:
    """Whether a label covers little of each of these boxes."""
    return all(_overlap(place, box) <= _MOST_HIDDEN * (box[2] - box[0]) * (box[3] - box[1]) for box in boxes)


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two rectangles share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _readable_text_color(color: Color) -> Color:
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if brightness > 120 else (255, 255, 255)


# ---- sheets


def image_sheet(
    images: Sequence[UInt8[Tensor, "3 _ _"]], columns: int, captions: Sequence[str] | None = None
) -> UInt8[Tensor, "3 height width"]:
    """The images in rows on a light background, each below its caption; small ones are enlarged to a readable size."""
    factor = max(1.0, _cell_width(columns) / max(image.shape[2] for image in images))
    tiles = [Image.fromarray(_resize_image(image, factor).permute(1, 2, 0).numpy()) for image in images]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    above = 26 if captions else 0
    width = max(tile.width for tile in tiles)
    heights = [max(tile.height for tile in row) + above + MARGIN for row in rows]
    paper = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN), PAPER)
    pen, font = ImageDraw.Draw(paper), _label_font(18)
    for number, tile in enumerate(tiles):
        left = MARGIN + number % columns * (width + MARGIN)
        top = MARGIN + sum(heights[: number // columns])
        if captions:
            pen.text((left, top), captions[number], font=font, fill=INK)
        paper.paste(tile, (left + (width - tile.width) // 2, top + above))
    return torch.from_numpy(np.array(paper)).permute(2, 0, 1).contiguous()


def training_sheet(
    images: Tensor | Sequence[Tensor], targets: Sequence[Objects], names: Sequence[str]
) -> UInt8[Tensor, "3 height width"]:
    """A batch of training images (uint8, or floating point in [0, 1]) with their targets drawn.

    Objects that are True in a target's ``pasted`` are marked and counted.
    """
    count = min(len(images), MAX_IMAGES)
    columns = min(4, count)
    drawn = [draw_at_size(images[number], targets[number], names, _cell_width(columns)) for number in range(count)]
    pasted = [sum(_optional_flags(target, "pasted")) for target in targets[:count]]
    captions = [
        _count_objects(target) + (f", {number} pasted (dashed)" if number else "")
        for target, number in zip(targets, pasted, strict=False)
    ]
    return image_sheet(drawn, columns, captions)


def prediction_sheet(
    images: Sequence[Tensor],
    truths: Sequence[Objects],
    detections: Sequence[Objects],
    names: Sequence[str],
    *,
    min_score: float = 0.5,
) -> UInt8[Tensor, "3 height width"]:
    """Each image twice, side by side: with the true objects, and with the detections of at least ``min_score``."""
    drawn, captions = [], []
    columns = 2 if len(images) == 1 else 4
    for image, truth, found in zip(images, truths, detections, strict=True):
        kept = torch.nonzero(found["scores"] >= min_score)[:, 0].tolist()
        sure = {name: [values[i] for i in kept] if name == "rles" else values[kept] for name, values in found.items()}
        drawn += [draw_at_size(image, objects, names, _cell_width(columns)) for objects in (truth, sure)]
        captions += [
            f"truth: {_count_objects(truth)}",
            f"prediction: {_count_objects(sure)} (score from {min_score:g})",
        ]
    return image_sheet(drawn, columns, captions)


def save_png(image: UInt8[Tensor, "3 h w"], path: Path) -> None:
    """Write the image to a PNG file; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(unfinished, format="PNG")


def _cell_width(columns: int) -> int:
    """The width of an image on a sheet of this many columns, in pixels."""
    return min(640, SHEET_WIDTH // columns)


def draw_at_size(
    image: Tensor,
    objects: Objects,
    names: Sequence[str],
    size: int,
    crossed_out: Float[Tensor, "n 4"] | None = None,
    marked: Float[Tensor, "n 4"] | None = None,
) -> UInt8[Tensor, "3 _ _"]:
    """The image resized, with its objects drawn after resizing, so that lines are sharp.

    Args:
        image: RGB, uint8 or floating point in [0, 1].
        objects: as for `draw_instances`.
        names: as for `draw_instances`.
        size: length of the longer side, in pixels.
        crossed_out: boxes (x1, y1, x2, y2) of objects that the image no longer has.
        marked: boxes of objects to point at; they are drawn in red.
    """
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    factor = size / max(pixels.shape[1:])
    resized = _resize_image(pixels, factor)
    smooth = [
        F.interpolate(
            torch.from_numpy(mask)[None, None].float(), resized.shape[1:], mode="bilinear", align_corners=False
        )
        for mask in _decoded_masks(objects, (pixels.shape[1], pixels.shape[2]))
    ]
    scaled = {name: values for name, values in objects.items() if name not in ("rles", "masks")}
    if smooth:
        scaled["masks"] = torch.cat(smooth)[:, 0] >= 0.5
    boxes = corners(objects["boxes"]).detach().cpu().float() * factor
    drawn = draw_instances(resized, scaled | {"boxes": boxes}, names)
    if not any(given is not None and len(given) for given in (crossed_out, marked)):
        return drawn
    paper = Image.fromarray(drawn.permute(1, 2, 0).numpy())
    for given, diagonals in ((crossed_out, True), (marked, False)):
        if given is not None:
            _draw_in_red(paper, (given * factor).tolist(), max(1, round(size / 400)), diagonals=diagonals)
    return torch.from_numpy(np.array(paper)).permute(2, 0, 1).contiguous()


def _resize_image(image: UInt8[Tensor, "3 h w"], factor: float) -> UInt8[Tensor, "3 _ _"]:
    if factor == 1:
        return image.cpu()
    size = [max(1, round(side * factor)) for side in image.shape[1:]]
    resized = F.interpolate(image[None].cpu().float(), size, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _count_objects(objects: Objects) -> str:
    return count_noun(len(objects["labels"]), "object")
