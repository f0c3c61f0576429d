"""Draws plans: which objects are copied, how they are transformed, and where they go. All randomness is here.

The generator is advanced in a fixed order, so that a seed gives the same plan in every version and on every device.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.plan import BOX_CORNERS, ImageInfo, PastePlan
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.sources import Pool, weighted_categories
from composer_copypaste.settings import DEFAULT_P_FLIP, DEFAULT_SCALE_RANGE, CopyPasteSettings

JITTER_STREAM = 1
"""Makes the random numbers of large-scale jitter independent of copy-paste's, which has no stream number."""

MOST_CELLS = 1 << 18
"""The largest number of cells between the edges of boxes that are looked at together."""


class PasteParams(NamedTuple):
    """What is drawn for copied objects, a row for each."""

    instance: Int64[ndarray, " m"]
    """Object index within the source image; for cut-outs the index within the pool."""
    to_source: Float[ndarray, "m 2 3"]
    """Affine map from (x, y, 1) in the target to (x, y) in the source."""
    color: Float[ndarray, "m 3"]
    """Factors of brightness, contrast and saturation."""


class Pairing(NamedTuple):
    """An image that receives objects, and the image that they come from."""

    target: int
    source: int
    """Index within the batch, or batch size plus index within the bank's images."""
    target_info: ImageInfo
    source_info: ImageInfo


def generator_or_default(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or torch's default one for None.

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


def batch_generator(seed: int, rank: int, batch: int, *stream: int) -> torch.Generator:
    """The random numbers of a process's batch in a training; different ``stream`` numbers share none.

    Args:
        seed: of the training.
        rank: of the process.
        batch: number of batches trained before.
        stream: what the numbers are for: none for copy-paste, `JITTER_STREAM` for large-scale jitter.
    """
    words = np.random.SeedSequence((seed, rank, batch, *stream)).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Float[ndarray, "..."]:
    """Random numbers in [0, 1)."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()


# The plan of a batch


def draw_plan(
    images: Sequence[ImageInfo],
    settings: CopyPasteSettings,
    generator: torch.Generator,
    bank: InstanceBank | None = None,
    pool: Pool | None = None,
) -> PastePlan:
    """Draw what each image of a batch receives.

    Args:
        images: of the batch.
        settings: what to draw.
        generator: a CPU generator; one state of it gives one plan, wherever the plan is carried out.
        bank: its images are further sources.
        pool: its cut-outs are further sources.
    """
    remembered = () if bank is None else bank.images
    sources, first_cut_out = len(images) + len(remembered), len(images) + (0 if bank is None else len(bank))
    pairings: list[Pairing] = []
    plans: list[PastePlan] = []
    for target, (u_receives, u_pool, u_source) in enumerate(uniforms((len(images), 3), generator).tolist()):
        if u_receives >= settings.p:
            continue
        if pool is not None and u_pool < settings.p_pool:
            plans.append(_draw_from_pool(pool, target, images[target], first_cut_out, settings, generator))
        elif sources > 1:
            source = (target + int(u_source * (sources - 1)) + 1) % sources
            info = images[source] if source < len(images) else remembered[source - len(images)].info(settings)
            pairings.append(Pairing(target, source, images[target], info))
    if pairings:
        plans.append(_draw_from_images(pairings, len(images), bank, settings, generator))
    if len(plans) == 1:
        return plans[0]
    if not plans:
        return PastePlan.from_rows([])
    columns = [torch.cat([getattr(plan, field.name) for plan in plans]) for field in fields(PastePlan)]
    order = columns[0].argsort(stable=True)  # by target
    return PastePlan(*(column[order] for column in columns))


def _draw_from_images(
    pairings: Sequence[Pairing],
    n: int,
    bank: InstanceBank | None,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> PastePlan:
    """Draw what a batch of ``n`` images receives from images of the batch and of the bank."""
    infos = [pairing.source_info for pairing in pairings]
    pair, objects = _choose_objects([info.weights for info in infos], settings, generator)
    boxes = np.concatenate([info.boxes for info in infos])[objects]
    transform = pair if settings.jitter == "image" else np.arange(len(pair))
    transforms = len(pairings) if settings.jitter == "image" else len(pair)
    linear, inverse = _draw_scale_flip_rotation(
        transforms, settings.scale_range or DEFAULT_SCALE_RANGE, settings, generator
    )
    shifts, has_place = _draw_shifts(linear, boxes, pair, pairings, settings, generator)
    inverse = inverse[transform]
    colors = np.ones((len(pair), 3))
    if settings.brightness or settings.contrast or settings.saturation:
        colors = _draw_colors(transforms, settings, generator)[transform]
    first = np.cumsum([0, *(len(info.boxes) for info in infos)])
    back = -np.einsum("mij,mj->mi", inverse, shifts)
    to_source = np.concatenate([inverse, back[:, :, None]], axis=2)
    params = PasteParams(objects - first[pair], to_source, colors)
    if not has_place.all():
        params, pair = PasteParams(*(column[has_place] for column in params)), pair[has_place]
    target, source = np.array([pairing[:2] for pairing in pairings]).T[:, pair]
    if bank is not None:
        source, params = _from_crops(source, params, n, bank)
    return PastePlan(*(torch.from_numpy(np.ascontiguousarray(column)) for column in (target, source, *params)))


def _from_crops(
    source: Int64[ndarray, " m"], params: PasteParams, n: int, bank: InstanceBank
) -> tuple[Int64[ndarray, " m"], PasteParams]:
    """Sources and parameters in which objects of the bank's images, numbered from ``n`` on, come from their crops.

    The bank's first object becomes source ``n``. Maps to an image become maps to a window of it, in fixed point, where
    a shift by whole pixels changes nothing else.
    """
    source, instance, to_source = source.copy(), params.instance.copy(), params.to_source.copy()
    remembered = bank.images
    for row in np.flatnonzero(source >= n):
        place, number = int(source[row]) - n, int(instance[row])
        source[row], instance[row] = n + bank.first(place) + number, 0
        window = remembered[place].windows[number]
        to_source[row, :, 2] = np.rint(to_source[row, :, 2] * PIXEL) / PIXEL - (window.x1, window.y1)
    return source, PasteParams(instance, to_source, params.color)


def _draw_from_pool(
    pool: Pool,
    target: int,
    info: ImageInfo,
    first_cut_out: int,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> PastePlan:
    """Draw what one image receives from the pool, whose first cut-out is source ``first_cut_out``."""
    low, high = settings.pool_instances
    drawn = low + int(torch.randint(high - low + 1, (), generator=generator))
    m = min(drawn, settings.max_copied_instances or high)
    categories = weighted_categories(pool, settings)
    cumulative = np.cumsum([weight for _, weight, _ in categories])
    u_category, u_cut_out = uniforms((2, m), generator)
    groups = [categories[k][2] for k in np.searchsorted(cumulative, u_category * cumulative[-1], side="right")]
    chosen = np.array([group[int(u * len(group))] for group, u in zip(groups, u_cut_out, strict=True)], dtype=np.int64)
    linear, inverse = _draw_scale_flip_rotation(m, settings.pool_scale_range, settings, generator)
    shifts, has_place = _draw_free_shifts(linear, pool.boxes[chosen], info, settings, generator)
    colors = np.ones((m, 3))
    if settings.brightness or settings.contrast or settings.saturation:
        colors = _draw_colors(m, settings, generator)
    back = -np.einsum("mij,mj->mi", inverse, shifts)
    to_source = np.concatenate([inverse, back[:, :, None]], axis=2)
    cut_outs = chosen[has_place]
    params = PasteParams(np.zeros_like(cut_outs), to_source[has_place], colors[has_place])
    columns = (np.full_like(cut_outs, target), first_cut_out + cut_outs, *params)
    return PastePlan(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


# Which objects


def _choose_objects(
    sources: Sequence[Float[ndarray, " _n"]], settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"]]:
    """Draw which objects of the sources, given by their weights, are copied.

    Returns:
        For each copied object the index of its source, and its index among all sources' objects; ascending.
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
        most = (uniforms((len(sources),), generator) * (counts + 1)).astype(np.int64)  # uniform in 0..count
    if settings.max_copied_instances is not None:
        most = np.minimum(most, settings.max_copied_instances)
    # the first of several exponential clocks is the i-th with a chance proportional to its rate (Efraimidis, Spirakis)
    clocks = -np.log1p(-uniforms((len(chosen),), generator)) / weights[chosen]
    order = chosen[np.lexsort((clocks, source[chosen]))]
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[place < most[source[order]]])
    return source[kept], kept


# Flip, resize, rotation, colors


def _draw_scale_flip_rotation(
    n: int, scale_range: tuple[float, float], settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Float[ndarray, "n 2 2"], Float[ndarray, "n 2 2"]]:
    """Draw ``n`` linear maps from source to target (flip, resize, rotation), and their inverses."""
    u_scale, u_flip, u_angle = uniforms((3, n), generator)
    low, high = scale_range
    if settings.scale_distribution == "log_uniform":
        scale = np.clip(low * (high / low) ** u_scale, low, high)
    else:
        scale = low + (high - low) * u_scale
    wide = high_ = np.ones(n)
    low, high = settings.aspect_range
    if not (low == high == 1 and settings.p_flip_vertical == 0):
        u_ratio, u_flip_vertical = uniforms((2, n), generator)
        wide = np.sqrt(low * (high / low) ** u_ratio)  # width and height change, and the area stays
        high_ = np.where(u_flip_vertical < settings.p_flip_vertical, -1.0, 1.0) / wide
    p_flip = DEFAULT_P_FLIP if settings.p_flip is None else settings.p_flip
    x = scale * wide * np.where(u_flip < p_flip, -1.0, 1.0)
    y = scale * high_
    radians = (2 * u_angle - 1) * math.radians(settings.rotation)
    cos, sin = np.cos(radians), np.sin(radians)
    linear = np.stack([x * cos, -y * sin, x * sin, y * cos], axis=1)
    inverse = np.stack([cos / x, sin / x, -sin / y, cos / y], axis=1)
    return linear.reshape(n, 2, 2), inverse.reshape(n, 2, 2)


def _draw_colors(n: int, settings: CopyPasteSettings, generator: torch.Generator) -> Float[ndarray, "n 3"]:
    """Draw ``n`` times the factors of brightness, contrast and saturation."""
    reach = np.array([settings.brightness, settings.contrast, settings.saturation])
    return 1 + reach * (2 * uniforms((n, 3), generator) - 1)


# Placement


def _draw_shifts(
    linear: Float[ndarray, "k 2 2"],
    boxes: Float[ndarray, "m 4"],
    pair: Int64[ndarray, " m"],
    pairings: Sequence[Pairing],
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw the shifts, in whole pixels, that follow the linear maps.

    Args:
        linear: from source to target; one for each pairing or one for each object, by ``settings.jitter``.
        boxes: of the objects, in their sources.
        pair: index of each object's pairing, ascending.
        pairings: of sources and targets.
        settings: what to draw.
        generator: a CPU generator.

    Returns:
        The shift of each object, and whether it has a place.
    """
    everywhere = np.full(len(boxes), True)
    if settings.placement == "source" and settings.jitter == "image":
        sides = np.array([(source.width, source.height) for *_, source in pairings], dtype=np.float64)
        whole = np.concatenate([np.zeros_like(sides), sides], axis=1)
        return _shift_inside(_extents(linear, whole), sides, uniforms((len(pairings), 2), generator))[pair], everywhere
    linear = linear[pair] if settings.jitter == "image" else linear
    if settings.placement == "source":
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.rint(centre - np.einsum("mij,mj->mi", linear, centre)), everywhere
    drawn = [
        _draw_free_shifts(linear[pair == k], boxes[pair == k], pairing.target_info, settings, generator)
        for k, pairing in enumerate(pairings)
    ]
    return np.concatenate([shifts for shifts, _ in drawn]), np.concatenate([has_place for _, has_place in drawn])


def _draw_free_shifts(
    linear: Float[ndarray, "m 2 2"],
    boxes: Float[ndarray, "m 4"],
    target: ImageInfo,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw a place in the target for each object, anew where it would hide too much, at most ``placement_tries`` times.

    Objects whose ``placement`` is "source" but that have no place of their own are put inside.
    """
    extents, canvas = _extents(linear, boxes), np.array([target.width, target.height])
    shift = _shift_anywhere if settings.placement == "anywhere" else _shift_inside
    any_will_do = settings.max_overlap == 1
    shifts, has_place = np.zeros((len(boxes), 2)), np.full(len(boxes), False)
    for u in uniforms((1 if any_will_do else settings.placement_tries, len(boxes), 2), generator):
        tried = shift(extents, canvas, u)
        waiting = np.flatnonzero(~has_place)
        visible = (extents + np.tile(tried, 2)).clip(0, np.tile(canvas, 2))[waiting]
        fits = [any_will_do or covered_fraction(box, target.boxes) <= settings.max_overlap for box in visible]
        new = waiting[np.array(fits, dtype=bool)]
        shifts[new], has_place[new] = tried[new], True
    return shifts, has_place


def _shift_inside(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts each extent at fraction ``u`` of the room that the canvas (width, height) leaves.

    The room is negative for an extent larger than the canvas, which it then covers.
    """
    low, high = extents[:, :2], extents[:, 2:]
    return np.rint(u * (canvas - (high - low)) - low)


def _shift_anywhere(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts the middle of each extent at fraction ``u`` of the canvas (width, height)."""
    return np.rint(u * canvas - (extents[:, :2] + extents[:, 2:]) / 2)


def _extents(linear: Float[ndarray, "m 2 2"], boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4"]:
    """The boxes (x1, y1, x2, y2) around the mapped boxes."""
    corners = np.einsum("mij,mcj->mci", linear, boxes[:, BOX_CORNERS])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def covered_fraction(box: Float[ndarray, "4"], others: Float[ndarray, "n 4"]) -> float:
    """The fraction of a box that other boxes cover together; 0 for a box without area."""
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
    """The area that boxes cover in a strip of cells whose first row is number ``start``.

    ``columns`` and ``rows`` number the edges that begin and end each box; ``x`` and ``y`` are the strip's edges.
    """
    begins, ends = (rows - start).clip(0, len(y) - 1)
    change = np.zeros((len(y), len(x)), dtype=np.int32)  # how many more boxes a cell has than its neighbours before it
    for row, column, boxes in ((begins, 0, 1), (ends, 0, -1), (begins, 1, -1), (ends, 1, 1)):
        np.add.at(change, (row, columns[column]), boxes)
    covered = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return float((covered * np.diff(y)[:, None] * np.diff(x)).sum())
