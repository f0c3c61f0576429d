"""Parts of the method card: two images of drawn shapes, cells that show them augmented, and sheets of cells."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from composer_copypaste import InstanceBank, copypaste_batch, large_scale_jitter_batch
from composer_copypaste.data.shapes import CATEGORIES, Scene, Shape, Surface, render_scene
from composer_copypaste.functional.geometry import pixel_corners, points_of, smallest_box
from composer_copypaste.visualize.draw import PALETTE, draw_instances

SIDE, GAP, COLUMNS = 128, 8, 6
PAPER, INK, GREY = (250, 250, 250), (40, 40, 40), (190, 190, 190)
Cell = tuple[str, Image.Image]
"""A caption, of one or two lines, and an image."""


# ---- the two images


def shape(category: str, centre: tuple[float, float], radius: float, surface: Surface, hue: int) -> Shape:
    light, dark = (tuple(part / 255 * factor for part in PALETTE[hue]) for factor in (1.0, 0.75))
    return Shape(
        category=CATEGORIES.index(category),
        centre=(float(centre[0]), float(centre[1])),
        radius=float(radius),
        aspect=0.7,
        angle=-0.5 * np.pi if category in ("triangle", "star") else 0.3,
        surface=surface,
        colors=(light, dark),
        period=radius * 0.6,
        light=-1.0,
    )


def scene(shapes: Sequence[Shape], colors: Sequence[tuple[float, float, float]]) -> tuple[torch.Tensor, dict]:
    """An image and its target; the background has no grain, so that the file compresses well."""
    ramp = np.tile(np.linspace(0.4, 0.6, SIDE, dtype=np.float32), (SIDE, 1))
    drawn = Scene(SIDE, "gradient", tuple(colors), 0.8, 10.0, (ramp,), tuple(shapes))
    pixels, masks, categories = render_scene(drawn)
    masks = torch.from_numpy(masks)
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in (mask.numpy().nonzero() for mask in masks)]
    target = {
        "boxes": torch.tensor(np.array(boxes), dtype=torch.float32),
        "labels": torch.tensor(categories) + 1,
        "masks": masks,
        "pasted": torch.zeros(len(masks), dtype=torch.bool),
    }
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), target


@cache
def images() -> list[torch.Tensor]:
    return [image for image, _ in pair()]


@cache
def pair() -> tuple[tuple[torch.Tensor, dict], tuple[torch.Tensor, dict]]:
    """The image that receives objects, and the source image; the source's target marks its objects as pasted."""
    receives = scene(
        [shape("triangle", (74, 62), 40, "plain", 4), shape("disc", (104, 112), 11, "stripes", 2)],
        [(0.62, 0.72, 0.80), (0.72, 0.80, 0.86), (0.82, 0.88, 0.92)],
    )
    image, target = scene(
        [
            shape("star", (38, 36), 27, "dots", 6),
            shape("disc", (88, 84), 27, "stripes", 0),
            shape("rectangle", (28, 102), 15, "checks", 2),
        ],
        [(0.93, 0.88, 0.76), (0.88, 0.82, 0.68), (0.80, 0.74, 0.60)],
    )
    return receives, (image, target | {"pasted": torch.ones_like(target["pasted"])})


AS_THEY_ARE = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0, "category_names": CATEGORIES}
"""Settings with which everything is copied without jitter; each cell changes some of them."""


def paste(seed: int = 0, **settings: object) -> tuple[torch.Tensor, dict]:
    """The first image of the pair, after copy-paste."""
    batch, targets = zip(*pair(), strict=True)
    generator = torch.Generator().manual_seed(seed)
    batch, targets = copypaste_batch(list(batch), list(targets), generator=generator, **(AS_THEY_ARE | settings))
    return batch[0], targets[0]


# ---- cells


def image_of(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def outlined(image: torch.Tensor, target: dict) -> Image.Image:
    """The image with a white outline around each pasted object, and a dark one around that."""
    canvas = image.permute(1, 2, 0).numpy().copy()
    for mask in target["masks"][target["pasted"]].numpy():
        canvas[grown(mask) & ~mask] = INK
        canvas[mask & grown(~mask)] = 255
    return Image.fromarray(canvas)


def grown(mask: np.ndarray) -> np.ndarray:
    """The mask, grown by one pixel up, down, left and right."""
    wide = np.pad(mask, 1)
    return wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


def cell(caption: str, seed: int = 0, **settings: object) -> Cell:
    return caption, outlined(*paste(seed, **settings))


Points = Sequence[tuple[float, float]]
"""Points (x, y), in fractions of the image."""


def in_scene(caption: str, seed: int, lines: Sequence[Points] = (), **settings: object) -> Cell:
    """The first image after copy-paste, with lines that show the scene; each target has a road at the bottom right."""
    batch, targets = zip(*pair(), strict=True)
    road = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    road[SIDE * 5 // 8 :, SIDE // 2 :] = True
    targets = [target | {"road": road} for target in targets]
    generator = torch.Generator().manual_seed(seed)
    images, after = copypaste_batch(list(batch), targets, generator=generator, **(AS_THEY_ARE | settings))
    drawn = outlined(images[0], after[0])
    pen = ImageDraw.Draw(drawn)
    for points in lines:
        pen.line([(x * SIDE, y * SIDE) for x, y in points], fill=INK, width=1)
    return caption, drawn


def with_rotated_boxes(target: dict) -> dict:
    """The target with the smallest rotated box around each of its objects."""
    planes = target["masks"].numpy().astype(np.uint8)
    boxes = [smallest_box(pixel_corners(plane, 0, 0), 0.0) for plane in planes]
    return target | {"obb": torch.tensor(np.array(boxes), dtype=torch.float32)}


def rotated_boxes(caption: str, seed: int = 0, *, jitter: bool = False, **settings: object) -> Cell:
    """The first image after copy-paste, or after large-scale jitter, with rotated boxes around its objects."""
    batch, targets = zip(*pair(), strict=True)
    generator, settings = torch.Generator().manual_seed(seed), {"geometry": {"obb": "obb_radians"}} | settings
    given = list(batch), [with_rotated_boxes(target) for target in targets]
    if jitter:
        shown, after = large_scale_jitter_batch(*given, generator=generator, size=(SIDE, SIDE), **settings)
    else:
        shown, after = copypaste_batch(*given, generator=generator, **(AS_THEY_ARE | settings))
    drawn = outlined(shown[0], after[0])
    pen = ImageDraw.Draw(drawn)
    for corners in points_of("obb_radians", after[0]["obb"].double().numpy()):
        pen.polygon([tuple(corner) for corner in corners], outline=PALETTE[0], width=2)
    return caption, drawn


def close(caption: str, seed: int = 0, **settings: object) -> Cell:
    """The seam of a pasted object, magnified four times."""
    top, left = 60, 88
    return caption, image_of(paste(seed, **settings)[0][:, top : top + 32, left : left + 32]).resize((SIDE, SIDE), 0)


def labelled(caption: str, seed: int = 0, **settings: object) -> Cell:
    """The image with masks and boxes, those of pasted objects with a thick dashed line."""
    return caption, image_of(draw_instances(*paste(seed, **settings), names=[""] * len(CATEGORIES)))


def jittered(caption: str, seed: int = 0, **settings: object) -> Cell:
    """The source after large-scale jitter, with masks and boxes."""
    image, target = pair()[1]
    target = {key: values for key, values in target.items() if key != "pasted"}
    settings = {"size": (SIDE, SIDE), "p_flip": 0.0} | settings
    drawn, found = large_scale_jitter_batch(
        [image], [target], generator=torch.Generator().manual_seed(seed), **settings
    )
    return caption, image_of(draw_instances(drawn[0], found[0], names=[""] * len(CATEGORIES)))


def jittered_class_ids(caption: str, seed: int = 0, **settings: object) -> Cell:
    """The source's class ids after large-scale jitter."""
    image, target = pair()[1]
    settings = {"size": (SIDE, SIDE), "p_flip": 0.0} | settings
    generator = torch.Generator().manual_seed(seed)
    return class_ids(
        caption, large_scale_jitter_batch([image], [ids_of(target)], generator=generator, **settings)[1][0]
    )


def four(caption: str, **settings: object) -> Cell:
    """The results of four draws."""
    sheet = Image.new("RGB", (SIDE, SIDE), PAPER)
    for number in range(4):
        small = outlined(*paste(seed=number, **settings)).resize((SIDE // 2 - 1, SIDE // 2 - 1))
        sheet.paste(small, (number % 2 * (SIDE // 2 + 1), number // 2 * (SIDE // 2 + 1)))
    return caption, sheet


def from_bank(caption: str, bank_size: int, seed: int = 0) -> Cell:
    """A batch of the first image alone, after one of the other image alone."""
    (image, target), other = pair()
    generator, bank = torch.Generator().manual_seed(seed), InstanceBank(bank_size)
    copypaste_batch([other[0]], [other[1]], bank=bank, generator=generator, p=0.0)  # only seen
    batch, targets = copypaste_batch([image], [target], bank=bank, generator=generator, **AS_THEY_ARE)
    return caption, outlined(batch[0], targets[0])


def own(caption: str, seed: int = 0, **settings: object) -> Cell:
    """A batch of the second image alone, which receives copies of its own objects; all of those stay visible."""
    image, target = pair()[1]
    settings = AS_THEY_ARE | {"source": "self"} | settings
    batch, (after,) = copypaste_batch([image], [target], generator=torch.Generator().manual_seed(seed), **settings)
    copies = torch.arange(len(after["labels"])) >= len(target["labels"])
    return caption, outlined(batch[0], after | {"pasted": copies})


class Pool:
    """A pool of two cut-outs: the star and the rectangle of the source image."""

    def __init__(self) -> None:
        image, target = pair()[1]
        kept = [number for number, label in enumerate(target["labels"].tolist()) if label in (2, 4)]
        self.labels, self.image_pixels = target["labels"][kept].numpy(), np.full(len(kept), SIDE * SIDE)
        self.boxes = target["boxes"][kept].double().numpy()
        self.pixels = [(image, target["masks"][number].to(torch.uint8)) for number in kept]

    def read(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The image and the mask of a cut-out."""
        return self.pixels[number]


def from_pool(caption: str, seed: int = 0, **settings: object) -> Cell:
    """A batch of the first image alone, which has no star or rectangle of its own."""
    image, target = pair()[0]
    target = {key: values for key, values in target.items() if key != "pasted"}
    settings = AS_THEY_ARE | {"p_pool": 1.0, "pool_scale_range": (0.7, 0.7)} | settings
    generator = torch.Generator().manual_seed(seed)
    (image,), (target,) = copypaste_batch([image], [target], generator=generator, pool=Pool(), **settings)
    return caption, outlined(image, target | {"pasted": (target["labels"] == 2) | (target["labels"] == 4)})


def bars(caption: str, values: Sequence[float], names: Sequence[str], *, to_the_edges: bool = False) -> Cell:
    """A bar for each value. Names are below the bars or, with ``to_the_edges``, at start, middle and end."""
    chart, pen = blank()
    width, floor = SIDE / len(values), SIDE - 16
    for number, value in enumerate(values):
        top = floor - value / max(values) * (floor - 8)
        pen.rectangle([number * width + 2, top, (number + 1) * width - 2, floor], fill=PALETTE[4])
    for number, name in enumerate(names):
        x, anchor = (
            ((number + 0.5) * width, "ma") if not to_the_edges else (number * (SIDE - 6) / 2 + 3, "lmr"[number] + "a")
        )
        pen.text((x, floor + 2), name, fill=INK, font=font(9), anchor=anchor)
    return caption, chart


def curve(caption: str, points: Sequence[tuple[float, float]], names: Sequence[str]) -> Cell:
    """``p`` over the training's time; points are fractions of both."""
    chart, pen = blank()
    floor, height = SIDE - 16, SIDE - 40
    pen.line([(8, floor), (SIDE - 4, floor)], fill=GREY)
    pen.line([(8 + x * (SIDE - 12), floor - y * height) for x, y in points], fill=PALETTE[5], width=3)
    pen.text((10, floor - height - 14), "p", fill=INK, font=font(11))
    for number, name in enumerate(names):
        pen.text((8 + number * (SIDE - 12) / (len(names) - 1), floor + 2), name, fill=INK, font=font(9), anchor="ma")
    return caption, chart


def blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    chart = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    return chart, ImageDraw.Draw(chart)


def ids_of(target: dict) -> torch.Tensor:
    """The target as a map of class ids; 0 where there is no object."""
    return (target["masks"] * target["labels"][:, None, None]).amax(0)


def class_ids(caption: str, ids: torch.Tensor, background: int = 0) -> Cell:
    """Class ids as colors; the background is grey, unlabelled pixels are hatched."""
    colors = np.array([(225, 225, 225), *PALETTE])
    canvas = colors[np.where((ids == 255) | (ids == background), 0, ids)].astype(np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    canvas[(ids == 255).numpy() & ((x + y) // 4 % 2 == 0)] = INK
    return caption, Image.fromarray(canvas)


# ---- the sheet


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def sheet(cells: Sequence[Cell]) -> Image.Image:
    """The cells in rows, each above its caption."""
    rows = -(-len(cells) // COLUMNS)
    columns, height = -(-len(cells) // rows), SIDE + 30 + GAP
    paper = Image.new("RGB", (columns * (SIDE + GAP) + GAP, rows * height + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, (caption, drawn) in enumerate(cells):
        left, top = GAP + number % columns * (SIDE + GAP), GAP + number // columns * height
        paper.paste(drawn, (left, top))
        pen.multiline_text((left, top + SIDE + 2), caption, fill=INK, font=font(10), spacing=2)
    return paper
