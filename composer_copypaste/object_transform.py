"""A transform of one's own for pasted objects, as settings hold it: in Python a callable, in YAML where it is found."""

import re
import sys
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from composer_copypaste.errors import DataError
from composer_copypaste.scene_maps import Converted

PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
EXPECTED = "a function of an image and an alpha, or where it is found: 'package.module:name'"

Transform = Callable[..., Any]


class ObjectTransform:
    """A transform of cut-outs; equal to another of the same place, or to that of the same function.

    Args:
        source: the function, or its place, "package.module:name", which is imported when it is needed.

    Raises:
        ValueError: where it is neither.
    """

    def __init__(self, source: object) -> None:
        self.place: str | None = None
        self._given: Transform | None = None
        if isinstance(source, str) and re.match(PATTERN, source):
            self.place = source
        elif callable(source) and not isinstance(source, type):
            self._given = source
        else:
            raise ValueError(f"expected {EXPECTED}, got {source!r}")

    @cached_property
    def function(self) -> Transform:
        """The function; that of a place is imported once, also from the current folder.

        Raises:
            DataError: where it cannot be imported, or is no function.
        """
        if self._given is not None:
            return self._given
        module, _, name = str(self.place).partition(":")
        found = getattr(_imported(module), name, None)
        if not callable(found) or isinstance(found, type):
            got = "none of that name" if found is None else repr(found)
            raise DataError(f"object_transform: {self.place}: expected {EXPECTED}, got {got}")
        return found

    def __call__(self, image: object, alpha: object) -> object:
        """What the function returns for colors (c, h, w) and alpha (1, h, w), as torchvision's transforms know them."""
        from torchvision import tv_tensors  # here, so that importing settings is fast

        return self.function(tv_tensors.Image(image), tv_tensors.Mask(alpha))

    def plain(self) -> str:
        """The place, as a recipe has it.

        Raises:
            ValueError: where the function was given without one.
        """
        if self.place is None:
            raise ValueError(
                f"object_transform: a recipe holds no function, but where it is found, 'package.module:name', got "
                f"{self._given!r}"
            )
        return self.place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectTransform) and (self.place, self._given) == (other.place, other._given)

    def __hash__(self) -> int:
        return hash((self.place, self._given))

    def __repr__(self) -> str:
        return repr(self.place if self._given is None else self._given)

    def __getstate__(self) -> dict[str, object]:
        return {"place": self.place, "_given": self._given}  # what is imported is imported anew elsewhere


def _imported(module: str) -> object:
    """The module, which may lie in the current folder."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(f"object_transform: {module} cannot be imported: {error}") from None
    finally:
        sys.path.remove(here)


def _as_transform(value: object) -> ObjectTransform:
    return value if isinstance(value, ObjectTransform) else ObjectTransform(value)


AsObjectTransform = Annotated[
    ObjectTransform, Converted(_as_transform, ObjectTransform.plain, {"type": "string", "pattern": PATTERN})
]
