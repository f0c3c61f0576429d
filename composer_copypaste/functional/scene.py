"""What a plan needs to know of an image."""

from dataclasses import dataclass

from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class Scene:
    """One image: its size in pixels and its objects' boxes, all on the host."""

    height: int
    width: int
    boxes: Float[ndarray, "n 4"]
    weights: Float[ndarray, " n"]
    """The relative chance of each object to be copied; 0: never."""
