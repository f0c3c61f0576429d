"""Where what is copied is put: the draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from numpy import ndarray

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.plan import ImageInfo, PastePlan
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.sources import Pool, weighted_categories
from composer_copypaste.functional.windows import box_corners
from composer_copypaste.settings import CopyPasteSettings


def given_or_default(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or torch's default one where none is given.

    Raises:
        TypeError: where it is no generator.
        ValueError: where it is on a device.
    """
    if generator is None:
        return torch.default_generator
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator, got {generator!r}; torch.Generator().manual_seed(0) is one"
        )
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator: expected one on the CPU, which draws the same for every device, got one on {generator.device}"
        )
    return generator


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Float[ndarray, "..."]:
    """Numbers from 0 to 1, 1 excluded."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()


def integer(n: int, generator: torch.Generator) -> int:
    """A whole number from 0 to n, n excluded."""
    return int(torch.randint(n, (), generator=generator))


@dataclass(frozen=True)
class PasteParams:
    """What is drawn for objects that are copied, a row for each."""

    number: Int64[ndarray, " m"]
    """Which of its source's objects it is."""
    to_source: Float[ndarray, "m 2 3"]
    """Affine map from (x, y, 1) in the target to (x, y) in the source."""
    color: Float[ndarray, "m 3"]
    """Factors of brightness, contrast and saturation."""

    def __getitem__(self, rows: Bool[ndarray, " m"]) -> "PasteParams":
        return PasteParams(self.number[rows], self.to_source[rows], self.color[rows])


def draw_linear(
    n: int, scale_range: tuple[float, float], settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Float[ndarray, "n 2 2"], Float[ndarray, "n 2 2"]]:
    """Draw ``n`` times flip, resize and rotation, as a map from source to target, and its inverse."""
    scale, flip, angle = uniforms((3, n), generator)
    scale = _scales(scale, scale_range, settings.scale_distribution)
    wide, high = _draw_stretch(n, settings, generator)
    x = scale * wide * np.where(flip < settings.p_flip_or_default, -1.0, 1.0)
    y = scale * high
    radians = (2 * angle - 1) * math.radians(settings.rotation)
    cos, sin = np.cos(radians), np.sin(radians)
    linear = np.stack([x * cos, -y * sin, x * sin, y * cos], axis=1)
    inverse = np.stack([cos / x, sin / x, -sin / y, cos / y], axis=1)
    return linear.reshape(n, 2, 2), inverse.reshape(n, 2, 2)


def draw_colors(n: int, settings: CopyPasteSettings, generator: torch.Generator) -> Float[ndarray, "n 3"]:
    """Draw ``n`` times the factors of brightness, contrast and saturation; 1 is none."""
    reach = np.array([settings.brightness, settings.contrast, settings.saturation])
    if not reach.any():
        return np.ones((n, 3))
    return 1 + reach * (2 * uniforms((n, 3), generator) - 1)


def _scales(u: Float[ndarray, " n"], scale_range: tuple[float, float], distribution: str) -> Float[ndarray, " n"]:
    low, high = scale_range
    if distribution == "log_uniform":
        return np.clip(low * (high / low) ** u, low, high)
    return low + (high - low) * u


def _draw_stretch(
    n: int, settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Draw factors of width and height that leave the area; a negative height is a vertical flip."""
    low, high = settings.aspect_range
    if low == high == 1 and settings.p_flip_vertical == 0:
        return np.ones(n), np.ones(n)
    ratio, flip = uniforms((2, n), generator)
    wide = np.sqrt(low * (high / low) ** ratio)
    return wide, np.where(flip < settings.p_flip_vertical, -1.0, 1.0) / wide


def choose(
    sources: Sequence[Float[ndarray, " _n"]], settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"]]:
    """Draw which of the sources' objects, whose weights are given, are copied.

    Returns:
        For each, which source it is of, and its number in the row of all sources' objects; ascending.
    """
    weights = np.concatenate(sources)
    source = np.repeat(np.arange(len(sources)), [len(each) for each in sources])
    chosen = np.flatnonzero(weights)
    if settings.p_instance is not None:
        chosen = chosen[uniforms((len(chosen),), generator) < settings.p_instance * weights[chosen]]
        weights = np.ones_like(weights)
    counts = np.bincount(source[chosen], minlength=len(sources))
    most = counts
    if settings.p_instance is None:
        most = (uniforms((len(sources),), generator) * (counts + 1)).astype(np.int64)  # none to all
    if settings.max_copied_instances is not None:
        most = np.minimum(most, settings.max_copied_instances)
    # the first of several exponential clocks is the i-th with a chance proportional to its rate (Efraimidis, Spirakis)
    clocks = -np.log1p(-uniforms((len(chosen),), generator)) / weights[chosen]
    order = chosen[np.lexsort((clocks, source[chosen]))]
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[place < most[source[order]]])
    return source[kept], kept


MOST_CELLS = 1 << 18
"""Cells between the edges of boxes that are looked at together."""


def draw_shifts(
    linear: Float[ndarray, "k 2 2"],
    boxes: Float[ndarray, "m 4"],
    which: Int64[ndarray, " m"],
    scenes: Sequence[tuple[ImageInfo, ImageInfo]],
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw the shifts, in whole pixels, that follow the linear maps.

    Args:
        linear: from source to target, one for each pair of scenes or one for each object, by ``settings.jitter``.
        boxes: of the objects, in their sources.
        which: the pair of scenes of each object, ascending.
        scenes: sources and targets.
        settings: what to draw.
        generator: a CPU generator.

    Returns:
        The shift of each object, and whether it has a place.
    """
    everywhere = np.full(len(boxes), True)
    if settings.placement == "source" and settings.jitter == "image":
        sides = np.array([(source.width, source.height) for source, _ in scenes], dtype=np.float64)
        whole = np.concatenate([np.zeros_like(sides), sides], axis=1)
        return _inside(_extents(linear, whole), sides, uniforms((len(scenes), 2), generator))[which], everywhere
    linear = linear[which] if settings.jitter == "image" else linear
    if settings.placement == "source":
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.rint(centre - np.einsum("mij,mj->mi", linear, centre)), everywhere
    parts = [which == k for k in range(len(scenes))]
    drawn = [
        draw_free_shifts(linear[part], boxes[part], target, settings, generator)
        for part, (_, target) in zip(parts, scenes, strict=True)
    ]
    return np.concatenate([shifts for shifts, _ in drawn]), np.concatenate([placed for _, placed in drawn])


def draw_free_shifts(
    linear: Float[ndarray, "m 2 2"],
    boxes: Float[ndarray, "m 4"],
    target: ImageInfo,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw a place in the target for each object, again where it would hide too much, a bounded number of times.

    What has no place of its own is put inside where ``placement`` is "source".
    """
    extents, canvas = _extents(linear, boxes), np.array([target.width, target.height])
    place = _anywhere if settings.placement == "anywhere" else _inside
    any_will_do = settings.max_overlap == 1
    shifts, placed = np.zeros((len(boxes), 2)), np.full(len(boxes), False)
    for u in uniforms((1 if any_will_do else settings.placement_tries, len(boxes), 2), generator):
        tried = place(extents, canvas, u)
        waiting = np.flatnonzero(~placed)
        landed = (extents + np.tile(tried, 2)).clip(0, np.tile(canvas, 2))[waiting]
        fits = [any_will_do or covered_fraction(box, target.boxes) <= settings.max_overlap for box in landed]
        new = waiting[np.array(fits, dtype=bool)]
        shifts[new], placed[new] = tried[new], True
    return shifts, placed


def backwards(inverse: Float[ndarray, "m 2 2"], shifts: Float[ndarray, "m 2"]) -> Float[ndarray, "m 2 3"]:
    """The maps from target to source."""
    back = -np.einsum("mij,mj->mi", inverse, shifts)
    return np.concatenate([inverse, back[:, :, None]], axis=2)


def covered_fraction(box: Float[ndarray, "4"], others: Float[ndarray, "n 4"]) -> float:
    """The fraction of a box that others cover together; 0 of a box without area."""
    parts = np.concatenate([np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])], axis=1)
    parts = parts[(parts[:, :2] < parts[:, 2:]).all(axis=1)]
    if not len(parts):
        return 0.0
    x, y = np.unique(parts[:, ::2]), np.unique(parts[:, 1::2])  # the edges cut the box into cells
    columns, rows = np.searchsorted(x, parts[:, ::2]).T, np.searchsorted(y, parts[:, 1::2]).T
    step = max(1, MOST_CELLS // len(x))
    strips = (
        _covered_area(columns, rows, x, y[start : start + step + 1], start) for start in range(0, len(y) - 1, step)
    )
    return float(sum(strips) / np.prod(box[2:] - box[:2]))


def _covered_area(
    columns: Int64[ndarray, "2 n"],
    rows: Int64[ndarray, "2 n"],
    x: Float[ndarray, " w"],
    y: Float[ndarray, " h"],
    start: int,
) -> float:
    """The area that boxes cover of a strip of cells between edges, of which the first row is number ``start``.

    ``columns`` and ``rows`` number the edges that begin and end each box.
    """
    begins, ends = (rows - start).clip(0, len(y) - 1)
    change = np.zeros((len(y), len(x)), dtype=np.int32)  # by how many boxes more than above and to the left a cell has
    for row, column, boxes in ((begins, 0, 1), (ends, 0, -1), (begins, 1, -1), (ends, 1, 1)):
        np.add.at(change, (row, columns[column]), boxes)
    covered = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return float((covered * np.diff(y)[:, None] * np.diff(x)).sum())


def _inside(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts each extent at fraction ``u`` of the room that the canvas (width, height) leaves.

    What is larger than the canvas covers it: the room is then negative.
    """
    low, high = extents[:, :2], extents[:, 2:]
    return np.rint(u * (canvas - (high - low)) - low)


def _anywhere(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts the middle of each extent at fraction ``u`` of the canvas (width, height)."""
    return np.rint(u * canvas - (extents[:, :2] + extents[:, 2:]) / 2)


def _extents(linear: Float[ndarray, "m 2 2"], boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4"]:
    """The boxes around the boxes' images under the maps."""
    corners = np.einsum("mij,mcj->mci", linear, box_corners(boxes))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


class Pairing(NamedTuple):
    """An image that receives something from an image: one of the batch, or one that the bank remembers."""

    target: int
    image: int
    """Counted on from the batch's images to the bank's images."""
    scenes: tuple[ImageInfo, ImageInfo]
    """The image and the image."""


def draw_plan(
    scenes: Sequence[ImageInfo],
    settings: CopyPasteSettings,
    generator: torch.Generator,
    bank: InstanceBank | None = None,
    pool: Pool | None = None,
) -> PastePlan:
    """Draw what each image of a batch receives.

    Args:
        scenes: the images of the batch.
        settings: what to draw.
        generator: a CPU generator; one state of it gives one plan, wherever the plan is carried out.
        bank: its objects' images, as further sources.
        pool: cut-outs, as further sources.
    """
    exchanges: list[Pairing] = []
    plans: list[PastePlan] = []
    remembered = () if bank is None else bank.images
    images, first_cut_out = len(scenes) + len(remembered), len(scenes) + (0 if bank is None else len(bank))
    for target, (u_receives, u_pool, u_image) in enumerate(uniforms((len(scenes), 3), generator).tolist()):
        if u_receives >= settings.p:
            continue
        if pool is not None and u_pool < settings.p_pool:
            copies = draw_cut_outs(pool, scenes[target], settings, generator)
            number = first_cut_out + copies.number
            plans.append(_plan(np.full_like(number, target), number, np.zeros_like(number), copies))
        elif images > 1:
            image = (target + int(u_image * (images - 1)) + 1) % images
            seen = scenes[image] if image < len(scenes) else remembered[image - len(scenes)].scene(settings)
            exchanges.append(Pairing(target, image, (seen, scenes[target])))
    if exchanges:
        plans.append(_draw_copies(exchanges, len(scenes), bank, settings, generator))
    return _joined(plans)


def _draw_copies(
    exchanges: Sequence[Pairing],
    n: int,
    bank: InstanceBank | None,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> PastePlan:
    """Draw what is copied to a batch of ``n`` images, its jitter and its place."""
    scenes = [exchange.scenes for exchange in exchanges]
    which, objects = choose([image.weights for image, _ in scenes], settings, generator)
    boxes = np.concatenate([image.boxes for image, _ in scenes])[objects]
    draw = which if settings.jitter == "image" else np.arange(len(which))
    draws = len(exchanges) if settings.jitter == "image" else len(which)
    linear, inverse = draw_linear(draws, settings.scale_range_or_default, settings, generator)
    shifts, placed = draw_shifts(linear, boxes, which, scenes, settings, generator)
    color = draw_colors(draws, settings, generator)[draw]
    first = np.cumsum([0, *(len(image.boxes) for image, _ in scenes)])
    copies = PasteParams(objects - first[which], backwards(inverse[draw], shifts), color)[placed]
    target, image = np.array([(exchange.target, exchange.image) for exchange in exchanges]).T[:, which[placed]]
    return _from_sources(target, image, copies, n, bank)


def _from_sources(
    target: Int64[ndarray, " m"],
    image: Int64[ndarray, " m"],
    copies: PasteParams,
    n: int,
    bank: InstanceBank | None,
) -> PastePlan:
    """The plan in which copies from remembered images, those from number ``n`` on, come from their objects' crops.

    The bank's first object has number ``n``. Maps to an image become ones to a window of it: in fixed point, in which
    whole pixels change nothing else. Images of the batch are sources as they are.
    """
    source, instance, to_source = image.copy(), copies.number.copy(), copies.to_source.copy()
    if bank is None:
        return _plan(target, source, instance, copies)
    remembered = bank.images
    for row in np.flatnonzero(image >= n):
        place, number = int(image[row]) - n, int(copies.number[row])
        source[row], instance[row] = n + bank.first(place) + number, 0
        window = remembered[place].windows[number]
        to_source[row, :, 2] = np.rint(to_source[row, :, 2] * PIXEL) / PIXEL - (window.x1, window.y1)
    return _plan(target, source, instance, PasteParams(copies.number, to_source, copies.color))


def _plan(
    target: Int64[ndarray, " m"], source: Int64[ndarray, " m"], instance: Int64[ndarray, " m"], copies: PasteParams
) -> PastePlan:
    columns = (target, source, instance, copies.to_source, copies.color)
    return PastePlan(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


def _joined(plans: Sequence[PastePlan]) -> PastePlan:
    """All rows of the plans, ordered by target."""
    if not plans:
        return PastePlan.from_rows([])
    if len(plans) == 1:
        return plans[0]
    columns = (torch.cat([getattr(plan, field.name) for plan in plans]) for field in fields(PastePlan))
    plan = PastePlan(*columns)
    order = plan.target.argsort(stable=True)
    return PastePlan(*(getattr(plan, field.name)[order] for field in fields(PastePlan)))


def draw_cut_outs(
    pool: Pool, target: ImageInfo, settings: CopyPasteSettings, generator: torch.Generator
) -> PasteParams:
    """Draw which cut-outs an image receives, and where; the maps lead to the images that ``read`` gives."""
    low, high = settings.pool_instances
    m = min(low + integer(high - low + 1, generator), settings.max_copied_instances or high)
    chosen = _choose(pool, m, settings, generator)
    linear, inverse = draw_linear(m, settings.pool_scale_range, settings, generator)
    shifts, placed = draw_free_shifts(linear, pool.boxes[chosen], target, settings, generator)
    return PasteParams(chosen, backwards(inverse, shifts), draw_colors(m, settings, generator))[placed]


def _choose(pool: Pool, m: int, settings: CopyPasteSettings, generator: torch.Generator) -> Integer[ndarray, " m"]:
    """Draw ``m`` times a category by its weight, then one of its cut-outs."""
    categories = weighted_categories(pool, settings)
    reached = np.cumsum([weight for _, weight, _ in categories])
    which, place = uniforms((2, m), generator)
    groups = [categories[k][2] for k in np.searchsorted(reached, which * reached[-1], side="right")]
    return np.array([group[int(u * len(group))] for group, u in zip(groups, place, strict=True)], dtype=np.int64)
