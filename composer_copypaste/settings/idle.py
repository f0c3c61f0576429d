"""Settings that would change nothing, since another setting, or what they act on, is missing: they are refused.

Tables say when each setting has an effect. A setting at its default counts as not given. What is not known yet, such
as whether there will be a pool, is taken to be there.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Need(NamedTuple):
    """What a setting needs to have an effect."""

    is_met: Callable[[Any], bool]
    """Whether the settings have it."""
    problem: str
    """The end of the message where they do not, after "changes nothing"."""


Needs = Mapping[str, Need]


def _without(what: str, is_met: Callable[[Any], bool]) -> Need:
    return Need(is_met, f"without {what}; give that too, or leave it out")


def _never(problem: str) -> Need:
    return Need(lambda own: False, f"{problem}; leave it out")


def _is_drawn(bounds: tuple[float, float] | None) -> bool:
    return bounds is None or bounds[0] < bounds[1]


SCENE = ("place_region", "place_map", "place_key", "vanishing_line", "scale_map")
"""The settings of copy-paste by which places and sizes of objects depend on what an image shows."""
_SCENE, _OVERLAPS = f"one of {', '.join(SCENE)}", "a max_overlap below 1 or least_overlap_first"
_GEOMETRY = _without("geometry", lambda own: bool(own.geometry))
_POOL = "a pool of cut-outs (in Python pool=, in a recipe data.pool)"
_FACTORS = "of two factors that differ"

OF_COPY_PASTE: Needs = {
    "scale_distribution": _without(
        f"a scale_range or pool_scale_range {_FACTORS}",
        lambda own: _is_drawn(own.scale_range) or _is_drawn(own.pool_scale_range),
    ),
    "max_shift": _without('placement "near"', lambda own: own.placement == "near"),
    "overlap_by": _without(_OVERLAPS, lambda own: own.compares_overlaps),
    "placement_tries": _without(f"{_OVERLAPS}, or {_SCENE}", lambda own: own.compares_overlaps or own.has_scene),
    "place_point": _without(_SCENE, lambda own: own.has_scene),
    "transfer_strength": _without("a color_transfer", lambda own: own.color_transfer is not None),
    "repeat_threshold": _without(
        'category_weights "repeat_factor"', lambda own: own.category_weights == "repeat_factor"
    ),
    "hidden_geometry": _GEOMETRY,
}
OF_LARGE_SCALE_JITTER: Needs = {"hidden_geometry": _GEOMETRY}
OF_AUGMENT: Needs = {"quality": _without('format "jpeg"', lambda own: own.format == "jpeg")}
OF_PREDICT: Needs = {"overlap": _without("tiles", lambda own: own.tiles is not None)}

WITHOUT_POOL: Needs = {
    "p_pool": _without(_POOL, lambda own: False),
    "pool_instances": _without(_POOL, lambda own: False),
    "pool_scale_range": _without(_POOL, lambda own: False),
    "placement_tries": _without(f'another placement than "source", or {_POOL}', lambda own: own.placement != "source"),
    "scale_distribution": _without(f"a scale_range {_FACTORS}", lambda own: _is_drawn(own.scale_range)),
}
"""What settings of copy-paste need where there is no pool."""
OF_TRAININGS: Needs = dict.fromkeys(
    ("stop", "warmup", "histogram_interval"), _never("in a function, which knows no time of a training")
)
"""Settings of trainings, which a function refuses by name."""
IN_CLASS_MAPS: Needs = dict.fromkeys(
    ("min_visibility", "min_area", "object_keys", "geometry", "keypoint_pairs", "keep_masks"),
    _never("in class-id maps, which have no objects"),
)
"""Settings of copy-paste that change nothing in class-id maps."""
_OF_CLASS_MAPS = _never("for targets with objects, it is of class-id maps")
FOR_PAIRS: Needs = {"background": _OF_CLASS_MAPS}
"""Settings of copy-paste that change nothing in panoptic targets."""
FOR_DETECTION: Needs = {"background": _OF_CLASS_MAPS, "ignore_index": _OF_CLASS_MAPS}
"""Settings of copy-paste that change nothing in detection targets."""


def check_not_idle(settings: object, needs: Needs) -> None:
    """Raise ``ValueError`` for a setting that is not at its default and has no effect."""
    for name, need in needs.items():
        value = getattr(settings, name)
        if value != getattr(type(settings), name) and not need.is_met(settings):
            raise ValueError(f"{name}: {value!r} changes nothing {need.problem}")
