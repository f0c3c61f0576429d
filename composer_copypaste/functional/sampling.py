"""Draws plans: which objects are copied, and how they are transformed; where they go, ``placement.py`` draws.

The generator is advanced in a fixed order, so that a seed gives the same plan in every version and on every device.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.generators import uniforms
from composer_copypaste.functional.overlap import IN_POOL, MaskReader, Overlaps, ToPlace, maps_to_source
from composer_copypaste.functional.placement import Pairing, draw_free_places, draw_places
from composer_copypaste.functional.plan import AS_SET, LARGEST_SEED, ImageInfo, PastePlan
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.scene import own_scales, scales_of
from composer_copypaste.functional.sources import Pool, weighted_categories
from composer_copypaste.settings import DEFAULT_P_FLIP, DEFAULT_SCALE_RANGE, CopyPasteSettings


class PasteParams(NamedTuple):
    """What is drawn for copied objects, a row for each."""

    instance: Int64[ndarray, " m"]
    """Object index within the source image; for cut-outs the index within the pool."""
    to_source: Float[ndarray, "m 2 3"]
    """Affine map from (x, y, 1) in the target to (x, y) in the source."""
    color: Float[ndarray, "m 3"]
    """Factors of brightness, contrast and saturation."""
    blend_sigma: Float[ndarray, " m"]
    """Of the seam; NaN: as the settings say."""
    transfer_strength: Float[ndarray, " m"]
    """Of the color transfer; NaN: as the settings say."""
    seed: Int64[ndarray, " m"]
    """Of the object's own transform."""


# The plan of a batch


def draw_plan(
    images: Sequence[ImageInfo],
    settings: CopyPasteSettings,
    generator: torch.Generator,
    bank: InstanceBank | None = None,
    pool: Pool | None = None,
    masks: MaskReader | None = None,
) -> PastePlan:
    """Draw what each image of a batch receives.

    Args:
        images: of the batch.
        settings: what to draw.
        generator: a CPU generator; one state of it gives one plan, wherever the plan is carried out.
        bank: its images are further sources.
        pool: its cut-outs are further sources.
        masks: reads the masks of images, bank and pool; needed where overlaps are compared by mask.
    """
    overlaps = Overlaps(settings, masks)
    remembered = () if bank is None else bank.images
    sources, first_cut_out = len(images) + len(remembered), len(images) + (0 if bank is None else len(bank))
    without_own = 1 if settings.source == "batch" else 0
    pairings: list[Pairing] = []
    plans: list[PastePlan] = []
    for target, (u_receives, u_pool, u_source) in enumerate(uniforms((len(images), 3), generator).tolist()):
        if u_receives >= settings.p:
            continue
        if pool is not None and u_pool < settings.p_pool:
            plans.append(_draw_from_pool(pool, target, images[target], first_cut_out, overlaps, generator))
        elif sources > without_own:
            source = (target + int(u_source * (sources - without_own)) + without_own) % sources
            source = target if settings.source == "self" else source
            info = images[source] if source < len(images) else remembered[source - len(images)].info(settings)
            pairings.append(Pairing(target, source, images[target], info))
    if pairings:
        plans.append(_draw_from_images(pairings, len(images), bank, overlaps, generator))
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
    overlaps: Overlaps,
    generator: torch.Generator,
) -> PastePlan:
    """Draw what a batch of ``n`` images receives from images of the batch and of the bank."""
    settings = overlaps.settings
    infos = [pairing.source_info for pairing in pairings]
    pair, objects, most = _choose_objects([info.weights for info in infos], settings, generator)
    first = np.cumsum([0, *(len(info.boxes) for info in infos)])
    target, source = np.array([pairing[:2] for pairing in pairings]).T[:, pair]
    boxes, instance = np.concatenate([info.boxes for info in infos])[objects], objects - first[pair]
    transform = pair if settings.jitter == "image" else np.arange(len(pair))
    transforms = len(pairings) if settings.jitter == "image" else len(pair)
    linear, inverse = _draw_scale_flip_rotation(
        transforms, settings.scale_range or DEFAULT_SCALE_RANGE, settings, generator
    )
    own_scale = np.ones(len(objects))
    if settings.has_scene:
        own_scale = np.concatenate([own_scales(info.boxes, info, settings) for info in infos])[objects]
    to_place = ToPlace(linear[transform], inverse[transform], boxes, source, instance, own_scale)
    places = draw_places(to_place, pair, pairings, generator, overlaps)
    colors = np.ones((len(pair), 3))
    if settings.brightness or settings.contrast or settings.saturation:
        colors = _draw_colors(transforms, settings, generator)[transform]
    to_source = maps_to_source(places.objects.inverse, places.shifts)
    kept = places.has_place
    if settings.source != "batch":
        kept = kept & ~((target == source) & lies_on_original(to_source))
    if settings.least_overlap_first:
        kept = _least_overlapping(kept, places.overlap, pair, most)
    params = PasteParams(instance, to_source, colors, *_draw_looks(len(pair), settings, generator))
    if not kept.all():
        params, target, source = PasteParams(*(column[kept] for column in params)), target[kept], source[kept]
    if bank is not None:
        source, params = _from_crops(source, params, n, bank)
    return PastePlan(*(torch.from_numpy(np.ascontiguousarray(column)) for column in (target, source, *params)))


def lies_on_original(to_source: Float[ndarray, "m 2 3"]) -> Bool[ndarray, " m"]:
    """Whether each map moves nothing, to a step of the fixed-point numbers in which positions are computed."""
    return np.asarray(np.abs(to_source - np.eye(2, 3)).max(axis=(1, 2)) * PIXEL < 1)


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
    return source, params._replace(instance=instance, to_source=to_source)


def _draw_from_pool(
    pool: Pool,
    target: int,
    info: ImageInfo,
    first_cut_out: int,
    overlaps: Overlaps,
    generator: torch.Generator,
) -> PastePlan:
    """Draw what one image receives from the pool, whose first cut-out is source ``first_cut_out``."""
    settings = overlaps.settings
    low, high = settings.pool_instances
    drawn = low + int(torch.randint(high - low + 1, (), generator=generator))
    m = min(drawn, settings.max_copied_instances or high)
    categories = weighted_categories(pool, settings)
    cumulative = np.cumsum([weight for _, weight, _ in categories])
    u_category, u_cut_out = uniforms((2, m), generator)
    groups = [categories[k][2] for k in np.searchsorted(cumulative, u_category * cumulative[-1], side="right")]
    chosen = np.array([group[int(u * len(group))] for group, u in zip(groups, u_cut_out, strict=True)], dtype=np.int64)
    linear, inverse = _draw_scale_flip_rotation(m, settings.pool_scale_range, settings, generator)
    scales = scales_of(settings, info.height, info.width)
    own_scale = np.full(m, 1.0 if scales is None else scales.max())
    to_place = ToPlace(linear, inverse, pool.boxes[chosen], np.full(m, IN_POOL), chosen, own_scale)
    places = draw_free_places(to_place, target, info, generator, overlaps)
    colors = np.ones((m, 3))
    if settings.brightness or settings.contrast or settings.saturation:
        colors = _draw_colors(m, settings, generator)
    to_source = maps_to_source(places.objects.inverse, places.shifts)
    looks = _draw_looks(m, settings, generator)
    columns = (np.full(m, target), first_cut_out + chosen, np.zeros(m, np.int64), to_source, colors, *looks)
    columns = tuple(column[places.has_place] for column in columns)
    return PastePlan(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


# Which objects


def _choose_objects(
    sources: Sequence[Float[ndarray, " _n"]], settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"], Int64[ndarray, " s"]]:
    """Draw which objects of the sources, given by their weights, are copied.

    Returns:
        For each copied object the index of its source, and its index among all sources' objects; ascending. With
        ``least_overlap_first`` these are all that may be copied. And how many of each source are copied at most.
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
        most = np.minimum(most, min(settings.max_copied_instances, len(chosen)))  # any whole number may be set
    if settings.least_overlap_first:
        return source[chosen], chosen, most
    # the first of several exponential clocks is the i-th with a chance proportional to its rate (Efraimidis, Spirakis)
    clocks = -np.log1p(-uniforms((len(chosen),), generator)) / weights[chosen]
    order = chosen[np.lexsort((clocks, source[chosen]))]
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[place < most[source[order]]])
    return source[kept], kept, most


def _least_overlapping(
    allowed: Bool[ndarray, " m"],
    overlap: Float[ndarray, " m"],
    pair: Int64[ndarray, " m"],
    most: Int64[ndarray, " k"],
) -> Bool[ndarray, " m"]:
    """Which of the allowed objects are copied: of each pairing at most this many, those of least overlap."""
    rows = np.flatnonzero(allowed)
    order = rows[np.lexsort((overlap[rows], pair[rows]))]
    counts = np.bincount(pair[rows], minlength=len(most))
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.full_like(allowed, False)
    kept[order[place < most[pair[order]]]] = True
    return kept


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


# Seams, color transfer, seeds


def _draw_looks(
    n: int, settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"], Int64[ndarray, " n"]]:
    """Draw ``n`` times the seam's sigma and the strength of the color transfer, where they have ranges, and a seed.

    What the settings do not ask for is not drawn, so that the numbers after it stay the same.
    """
    drawn = []
    for setting in (settings.blend_sigma, settings.transfer_strength):
        if isinstance(setting, tuple):
            low, high = setting
            drawn.append(low + (high - low) * uniforms((n,), generator))
        else:
            drawn.append(np.full(n, AS_SET))
    seeds = np.zeros(n, np.int64)
    if settings.object_transform is not None:
        seeds = torch.randint(LARGEST_SEED + 1, (n,), generator=generator).numpy()
    return drawn[0], drawn[1], seeds
