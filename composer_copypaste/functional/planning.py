"""The draw of a plan: what each image of a batch receives, from sizes and boxes alone."""

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.draw import uniforms
from composer_copypaste.functional.jitter import Copies, draw_colours, draw_linear
from composer_copypaste.functional.placement import backwards, draw_shifts
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.pool import Pool, draw_cut_outs
from composer_copypaste.functional.scene import Scene
from composer_copypaste.functional.selection import choose
from composer_copypaste.functional.warp import PIXEL
from composer_copypaste.settings import CopyPasteSettings


class Exchange(NamedTuple):
    """An image that receives something from a picture: one of the batch, or one that the bank remembers."""

    target: int
    picture: int
    """Counted on from the batch's images to the bank's pictures."""
    scenes: tuple[Scene, Scene]
    """The picture and the image."""


def draw_plan(
    scenes: Sequence[Scene],
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
        bank: its objects' pictures, as further sources.
        pool: cut-outs, as further sources.
    """
    exchanges: list[Exchange] = []
    plans: list[PastePlan] = []
    remembered = () if bank is None else bank.pictures
    pictures, first_cut_out = len(scenes) + len(remembered), len(scenes) + (0 if bank is None else len(bank))
    for target, (u_receives, u_pool, u_picture) in enumerate(uniforms((len(scenes), 3), generator).tolist()):
        if u_receives >= settings.p:
            continue
        if pool is not None and u_pool < settings.p_pool:
            copies = draw_cut_outs(pool, scenes[target], settings, generator)
            number = first_cut_out + copies.number
            plans.append(_plan(np.full_like(number, target), number, np.zeros_like(number), copies))
        elif pictures > 1:
            picture = (target + int(u_picture * (pictures - 1)) + 1) % pictures
            seen = scenes[picture] if picture < len(scenes) else remembered[picture - len(scenes)].scene(settings)
            exchanges.append(Exchange(target, picture, (seen, scenes[target])))
    if exchanges:
        plans.append(_draw_copies(exchanges, len(scenes), bank, settings, generator))
    return _joined(plans)


def _draw_copies(
    exchanges: Sequence[Exchange],
    n: int,
    bank: InstanceBank | None,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> PastePlan:
    """Draw what is copied to a batch of ``n`` images, its jitter and its place."""
    scenes = [exchange.scenes for exchange in exchanges]
    which, objects = choose([picture.weights for picture, _ in scenes], settings, generator)
    boxes = np.concatenate([picture.boxes for picture, _ in scenes])[objects]
    draw = which if settings.jitter == "image" else np.arange(len(which))
    draws = len(exchanges) if settings.jitter == "image" else len(which)
    linear, inverse = draw_linear(draws, settings.scale_range_or_default, settings, generator)
    shifts, placed = draw_shifts(linear, boxes, which, scenes, settings, generator)
    colour = draw_colours(draws, settings, generator)[draw]
    first = np.cumsum([0, *(len(picture.boxes) for picture, _ in scenes)])
    copies = Copies(objects - first[which], backwards(inverse[draw], shifts), colour)[placed]
    target, picture = np.array([(exchange.target, exchange.picture) for exchange in exchanges]).T[:, which[placed]]
    return _from_sources(target, picture, copies, n, bank)


def _from_sources(
    target: Int64[ndarray, " m"],
    picture: Int64[ndarray, " m"],
    copies: Copies,
    n: int,
    bank: InstanceBank | None,
) -> PastePlan:
    """The plan in which copies from remembered pictures, those from number ``n`` on, come from their objects' crops.

    The bank's first object has number ``n``. Maps to a picture become ones to a window of it: in fixed point, in which
    whole pixels change nothing else. Pictures of the batch are sources as they are.
    """
    source, instance, to_source = picture.copy(), copies.number.copy(), copies.to_source.copy()
    if bank is None:
        return _plan(target, source, instance, copies)
    remembered = bank.pictures
    for row in np.flatnonzero(picture >= n):
        place, number = int(picture[row]) - n, int(copies.number[row])
        source[row], instance[row] = n + bank.first(place) + number, 0
        window = remembered[place].windows[number]
        to_source[row, :, 2] = np.rint(to_source[row, :, 2] * PIXEL) / PIXEL - (window.x1, window.y1)
    return _plan(target, source, instance, Copies(copies.number, to_source, copies.colour))


def _plan(
    target: Int64[ndarray, " m"], source: Int64[ndarray, " m"], instance: Int64[ndarray, " m"], copies: Copies
) -> PastePlan:
    columns = (target, source, instance, copies.to_source, copies.colour)
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
