"""The data set that comes with the package: images of overlapping shapes, drawn from random numbers."""

import colorsys
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from PIL import Image
from pycocotools import mask as coco_mask

from composer_copypaste.errors import DataError
from composer_copypaste.settings import ShapesSettings

CATEGORIES = ("disc", "rectangle", "triangle", "star")
HUES = (0.07, 0.35, 0.58, 0.85)
SURFACES: tuple["Surface", ...] = ("stripes", "checks", "plain", "dots")
"""Shapes of a category look alike, as things in photographs do: similar hues, and one kind of surface."""
HUE_SPREAD = 0.07
MIN_VISIBLE = 0.35
"""A shape is left out of the image if less than this fraction of it would be visible."""
MIN_PIXELS = 24
"""A shape is also left out if fewer pixels of it would be visible."""

Color = tuple[float, float, float]
Surface = Literal["plain", "stripes", "dots", "checks"]
Backdrop = Literal["clouds", "gradient", "stripes"]
BACKDROPS: tuple[Backdrop, ...] = ("clouds", "gradient", "stripes")


@dataclass(frozen=True)
class Shape:
    """One shape; lengths are in pixels, angles in radians, colors in 0..1."""

    category: int
    centre: tuple[float, float]  # (y, x)
    radius: float
    aspect: float  # height over width, of rectangles
    angle: float
    surface: Surface
    colors: tuple[Color, Color]
    period: float  # of the surface's pattern
    light: float  # direction that the light comes from


@dataclass(frozen=True)
class Scene:
    """The random numbers that describe an image, independent of its pixels. Shapes are ordered front to back."""

    size: int
    backdrop: Backdrop
    colors: tuple[Color, Color, Color]
    angle: float
    period: float
    octaves: tuple[Float32[ndarray, "_ _"], ...]
    shapes: tuple[Shape, ...]


def draw_scene(generator: np.random.Generator, size: int) -> Scene:
    """Draw the random numbers for an image of ``size`` by ``size`` pixels."""
    count = int(generator.integers(3, 10))
    hue = generator.uniform()
    colors = [_draw_color(generator, hue + generator.normal(0, 0.07), (0.1, 0.5), (0.25, 0.95)) for _ in range(3)]
    return Scene(
        size=size,
        backdrop=BACKDROPS[generator.integers(len(BACKDROPS))],
        colors=(colors[0], colors[1], colors[2]),
        angle=generator.uniform(0, 2 * math.pi),
        period=size * generator.uniform(0.08, 0.3),
        octaves=tuple(generator.random((cells, cells), dtype=np.float32) for cells in (3, 6, 12, 24, size)),
        shapes=tuple(_draw_shape(generator, size) for _ in range(count)),
    )


def _draw_shape(generator: np.random.Generator, size: int) -> Shape:
    radius = 0.5 * size * math.exp(generator.uniform(math.log(8 / 128), math.log(70 / 128)))
    category = int(generator.integers(len(CATEGORIES)))
    hue, margin = HUES[category] + generator.normal(0, HUE_SPREAD), 0.05 * size
    return Shape(
        category=category,
        centre=(generator.uniform(margin, size - margin), generator.uniform(margin, size - margin)),
        radius=radius,
        aspect=generator.uniform(0.5, 1.0),
        angle=generator.uniform(0, 2 * math.pi),
        surface=SURFACES[category],
        colors=(
            _draw_color(generator, hue, (0.6, 0.95), (0.65, 1.0)),
            _draw_color(generator, hue + generator.normal(0, HUE_SPREAD), (0.3, 0.9), (0.35, 1.0)),
        ),
        period=max(4.0, radius * generator.uniform(0.35, 0.8)),
        light=generator.uniform(-math.pi, 0),
    )


def _draw_color(
    generator: np.random.Generator, hue: float, saturation: tuple[float, float], value: tuple[float, float]
) -> Color:
    return colorsys.hsv_to_rgb(hue % 1, generator.uniform(*saturation), generator.uniform(*value))


def render_scene(
    scene: Scene,
) -> tuple[UInt8[ndarray, "size size 3"], Bool[ndarray, "n size size"], tuple[int, ...]]:
    """The image of a scene, the mask of the visible part of each shape, and the shapes' categories.

    A shape that others hide almost wholly is left out of both image and masks.
    """
    grain = _fractal_noise(scene.octaves, scene.size)
    image = _paint_background(scene, grain)
    kept, masks = _visible_shapes(scene)
    for shape in reversed(kept):
        _paint_shape(image, shape)
    image += 0.04 * (scene.octaves[-1][..., None] - 0.5)
    pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return pixels, masks, tuple(shape.category for shape in kept)


def _visible_shapes(scene: Scene) -> tuple[list[Shape], Bool[ndarray, "n size size"]]:
    """The shapes that are visible enough, front to back, and the visible part of each."""
    kept, masks = [], []
    free = np.ones((scene.size, scene.size), dtype=bool)
    for shape in scene.shapes:
        whole = np.zeros_like(free)
        window = _shape_window(shape, scene.size)
        # a pixel belongs to the shape if its centre does: then at least half of it is covered
        whole[window] = _distance_from_outline(shape, *_shape_coordinates(shape, window)) <= 0
        seen = whole & free
        if seen.sum() >= max(MIN_PIXELS, MIN_VISIBLE * whole.sum()):
            kept.append(shape)
            masks.append(seen)
            free &= ~whole
    return kept, np.array(masks, dtype=bool).reshape(-1, scene.size, scene.size)


# ---- background


def _fractal_noise(octaves: tuple[Float32[ndarray, "_ _"], ...], size: int) -> Float32[ndarray, "size size"]:
    """The sum of octaves of noise, each half as strong as the one before, scaled to 0..1."""
    field = np.zeros((size, size), dtype=np.float32)
    for number, cells in enumerate(octaves):
        smooth = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
        field += 0.5**number * np.asarray(smooth)
    field -= field.min()
    return field / field.max()


def _paint_background(scene: Scene, grain: Float32[ndarray, "size size"]) -> Float32[ndarray, "size size 3"]:
    y, x = np.mgrid[: scene.size, : scene.size].astype(np.float32)
    along = math.cos(scene.angle) * x + math.sin(scene.angle) * y
    if scene.backdrop == "clouds":
        blend = grain
    elif scene.backdrop == "gradient":
        blend = 0.75 * (along - along.min()) / (along.max() - along.min()) + 0.25 * grain
    else:
        waves = np.sin(2 * math.pi * (along / scene.period + 1.2 * grain))
        blend = 0.5 + 0.38 * np.clip(2.5 * waves, -1, 1) + 0.24 * (grain - 0.5)
    return _color_ramp(scene.colors, blend.astype(np.float32))


def _color_ramp(colors: tuple[Color, ...], blend: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w 3"]:
    stops = np.linspace(0, 1, len(colors))
    channels = [np.interp(blend, stops, [color[channel] for color in colors]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


# ---- shapes


def _shape_window(shape: Shape, size: int) -> tuple[slice, slice]:
    """The rows and columns that a shape may cover, with its soft edge."""
    top, left = (max(0, math.floor(centre - shape.radius) - 2) for centre in shape.centre)
    bottom, right = (min(size, math.ceil(centre + shape.radius) + 3) for centre in shape.centre)
    return slice(top, bottom), slice(left, right)


def _shape_coordinates(
    shape: Shape, window: tuple[slice, slice]
) -> tuple[Float[ndarray, "h w"], Float[ndarray, "h w"]]:
    """The coordinates of the window's pixel centres along the shape's axes, in pixels from its centre."""
    y, x = np.mgrid[window].astype(np.float64) + 0.5
    y, x = y - shape.centre[0], x - shape.centre[1]
    cosine, sine = math.cos(shape.angle), math.sin(shape.angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _distance_from_outline(shape: Shape, u: Float[ndarray, "h w"], v: Float[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    """The distance of each point from the shape's outline, in pixels; negative inside."""
    name = CATEGORIES[shape.category]
    if name == "disc":
        return np.hypot(u, v) - shape.radius
    corners, rounding = _polygon_corners(name, shape.aspect)
    rounding *= shape.radius
    return _polygon_distance(corners * (shape.radius - rounding), u, v) - rounding


def _polygon_corners(name: str, aspect: float) -> tuple[Float[ndarray, "k 2"], float]:
    """The corners (u, v) of a polygon in the unit circle, and the radius of their rounding."""
    if name == "rectangle":
        half = np.array([1.0, aspect]) / math.hypot(1.0, aspect)
        return half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), 0.06
    points, rounding = {"triangle": (3, 0.08), "star": (5, 0.05)}[name]
    turns = np.arange(2 * points) * math.pi / points
    # at an inner radius of 1/2 the triangle's sides are straight
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, 0.5)
    return np.stack([radii * np.cos(turns), radii * np.sin(turns)], axis=1), rounding


def _polygon_distance(
    corners: Float[ndarray, "k 2"], u: Float[ndarray, "h w"], v: Float[ndarray, "h w"]
) -> Float[ndarray, "h w"]:
    """Signed distance to a polygon: to the nearest edge, negative where an even-odd ray test says inside."""
    nearest = np.full(u.shape, np.inf)
    inside = np.zeros(u.shape, dtype=bool)
    for (u1, v1), (u2, v2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        du, dv = u2 - u1, v2 - v1
        along = np.clip(((u - u1) * du + (v - v1) * dv) / (du * du + dv * dv), 0, 1)
        nearest = np.minimum(nearest, (u - u1 - along * du) ** 2 + (v - v1 - along * dv) ** 2)
        if dv != 0:
            inside ^= ((v1 > v) != (v2 > v)) & (u < u1 + du * (v - v1) / dv)
    return np.where(inside, -1, 1) * np.sqrt(nearest)


def _paint_shape(image: Float32[ndarray, "size size 3"], shape: Shape) -> None:
    """Draw a shape with smooth edges into the image, which is modified."""
    window = _shape_window(shape, len(image))
    u, v = _shape_coordinates(shape, window)
    outside = _distance_from_outline(shape, u, v)
    color = _color_ramp(shape.colors, _color_pattern(shape, u, v))
    # lit from one side, and darker towards the rim: it looks round, and its edge shows on any background
    direction = shape.light - shape.angle
    lit = (math.cos(direction) * u + math.sin(direction) * v) / shape.radius
    rim = np.clip(1 + outside / (1.0 + 0.08 * shape.radius), 0, 1)
    color *= (1.0 + 0.22 * lit - 0.5 * rim**2)[..., None]
    coverage = np.clip(0.5 - outside, 0, 1)[..., None]
    image[window] += (coverage * (color - image[window])).astype(np.float32)


def _color_pattern(shape: Shape, u: Float[ndarray, "h w"], v: Float[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Each pixel's place between the shape's two colors, in 0..1."""
    a, b = 2 * math.pi * u / shape.period, 2 * math.pi * v / shape.period
    waves = {
        "plain": lambda: -np.ones_like(u),
        "stripes": lambda: 3 * np.sin(a),
        "dots": lambda: 3 * (np.cos(a) + np.cos(b) - 0.9),
        "checks": lambda: 4 * np.sin(a) * np.sin(b),
    }[shape.surface]()
    return (0.5 + 0.5 * np.clip(waves, -1, 1)).astype(np.float32)


STAMP = "shapes.json"
"""The file in the folder with the settings that it was drawn with."""
EDITION = 2
"""Raise it when the same settings draw other images, so that folders of former editions are not taken for new ones."""


def draw_shapes(settings: ShapesSettings) -> Path:
    """Draw the data set, unless it is there already, and return its folder.

    The folder holds ``train/*.png``, ``val/*.png``, ``annotations/instances_{train,val}.json`` and a file with the
    settings. It appears all at once: an interrupted call leaves nothing behind. The same seed gives the same bytes.

    Raises:
        DataError: if the folder holds anything else, or other shapes; it is left unchanged then.
    """
    folder = Path(settings.folder)
    if _is_drawn(folder, settings):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
            _write_data_set(Path(unfinished) / folder.name, settings)
            (Path(unfinished) / folder.name).rename(folder)
    except OSError as error:
        if not _is_drawn(folder, settings):  # another process may have been faster
            raise DataError(f"{folder}: the shapes cannot be drawn there: {error.strerror}") from error
    return folder


def _is_drawn(folder: Path, settings: ShapesSettings) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    wanted = _settings_stamp(settings)
    found = _read_stamp(folder / STAMP)
    if found is None:
        raise DataError(f"{folder}: expected drawn shapes or nothing, found something else. Name another folder.")
    if found != wanted:
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        raise DataError(
            f"{folder}: holds shapes drawn with {_setting_values(found, differing)}, "
            f"expected {_setting_values(wanted, differing)}. "
            "Name another folder, or delete this one to have it drawn again."
        )
    return True


def _settings_stamp(settings: ShapesSettings) -> dict[str, int]:
    return {"edition": EDITION} | {name: value for name, value in asdict(settings).items() if name != "folder"}


def _read_stamp(path: Path) -> dict[str, object] | None:
    try:
        stamp = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def _setting_values(stamp: Mapping[str, object], names: list[str]) -> str:
    return ", ".join(f"{name}={stamp.get(name)}" for name in names)


def _write_data_set(folder: Path, settings: ShapesSettings) -> None:
    (folder / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate((("train", settings.train), ("val", settings.val))):
        (folder / split).mkdir()
        dataset = _write_split(folder / split, count, settings, number)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(dataset))
    (folder / STAMP).write_text(json.dumps(_settings_stamp(settings), indent=2) + "\n")


def _write_split(folder: Path, count: int, settings: ShapesSettings, number: int) -> dict[str, object]:
    """Write the images of a split, and return its COCO annotations."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        # each image has its own seed, so a larger set begins with the images of a smaller one
        seed = np.random.SeedSequence(settings.seed, spawn_key=(number, index))
        pixels, masks, categories = render_scene(draw_scene(np.random.default_rng(seed), settings.size))
        file_name = f"{index + 1:06}.png"
        Image.fromarray(pixels).save(folder / file_name)
        images.append({"id": index + 1, "file_name": file_name, "height": settings.size, "width": settings.size})
        for mask, category in zip(masks, categories, strict=True):
            identity = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category + 1}
            annotations.append(identity | _mask_annotation(mask))
    names = [{"id": label, "name": name} for label, name in enumerate(CATEGORIES, start=1)]
    info = {"description": "Drawn shapes of composer-copypaste, dedicated to the public domain (CC0)"}
    return {"info": info, "images": images, "categories": names, "annotations": annotations}


def _mask_annotation(mask: Bool[ndarray, "h w"]) -> dict[str, object]:
    """The fields of a mask's annotation: outline, area and box."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": 0,
    }
