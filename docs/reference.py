"""Makes docstrings and types readable for the site's reference: settings with their limits, arrays by their class."""

import inspect
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from docutils import nodes
from jaxtyping import AbstractArray
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

import composer_copypaste
from composer_copypaste.recipes import schema

NOT_NEEDED = ("detectron2", "fvcore", "iopath", "lightning", "omegaconf", "streaming")
"""Packages that modules import at their top, and that the site is built without."""


class StandIn(types.ModuleType):
    """A module that has a class by any name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__module__": self.__name__})


class StandIns(MetaPathFinder, Loader):
    """Finds the packages that are not needed."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Say that it is there, and a package."""
        needed = name.partition(".")[0] not in NOT_NEEDED
        return None if needed else ModuleSpec(name, self, origin="a stand-in", is_package=True)

    def create_module(self, spec: ModuleSpec) -> StandIn:
        """Make the module, which has no code."""
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Say that it has no file."""
        module.__file__ = ""


def public_names() -> dict[str, Any]:
    """All that can be imported from the package, by name."""
    sys.meta_path.insert(0, StandIns())
    return {name: getattr(composer_copypaste, name) for name in composer_copypaste._HOMES}


PACKAGE = composer_copypaste.__name__
PUBLIC = public_names()
FOR_TYPES_ALONE = {"Detections": type("Detections", (), {"__module__": "supervision"})}
"""What annotations name in quotes and modules import for type checkers alone."""
KINDS = ("class", "exception", "function")
LIMITS: dict[type, dict[str, str]] = {}
"""The limits of each setting of each settings class, in words."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect with Sphinx."""
    app.connect("builder-inited", lambda app: simplify_types())
    app.connect("autodoc-process-signature", without_fields)
    app.connect("autodoc-process-docstring", put_aside, priority=100)
    app.connect("autodoc-process-docstring", with_limits, priority=900)
    app.connect("missing-reference", public_name)
    return {"parallel_read_safe": True}


# ---- types


def simplify_types() -> None:
    """Put plain types in place of jaxtyping's and annotated ones, in all that the reference shows."""
    known = PUBLIC | FOR_TYPES_ALONE
    for documented in dict.fromkeys(documented_objects()):  # each once: the second time its limits would be gone
        for part in (documented, *parts_of(documented)):
            hints = get_type_hints(part, localns=known, include_extras=True)
            if inspect.isclass(part):
                LIMITS[part] = {name: limits(hint) for name, hint in hints.items()}
            if is_dataclass(part) or (inspect.isclass(part) and not is_ours(part.__init__)):
                part.__init__ = lambda self: None  # fields are shown, each with its description; or there are none
            own = inspect.get_annotations(part)
            part.__annotations__ = {name: plain(hints[name]) for name in own}
        analyzer = ModuleAnalyzer.for_module(documented.__module__)
        analyzer.analyze()
        analyzer.overloads.clear()  # for type checkers; the function itself has the arguments of all


def is_ours(function: Any) -> bool:
    """Whether this package defines it."""
    return getattr(function, "__module__", "").startswith(PACKAGE)


def documented_objects() -> Iterator[Any]:
    """What is public, and the sections of recipes."""
    yield from PUBLIC.values()
    yield from (kind for kind in vars(schema).values() if is_settings_class(kind))


def parts_of(documented: Any) -> Iterator[Any]:
    """The functions of a class."""
    for member in vars(documented).values() if inspect.isclass(documented) else ():
        function = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
        if inspect.isfunction(function):
            yield function


def plain(hint: Any) -> Any:
    """A type without limits, and of an array its class alone: docstrings give the shapes."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return hint.array_type
    if get_origin(hint) is Annotated:
        return plain(get_args(hint)[0])
    if isinstance(hint, TypeVar) and hint.__bound__:
        return plain(hint.__bound__)
    if isinstance(hint, list):  # the arguments of a function
        return [plain(part) for part in hint]
    parts = tuple(map(plain, get_args(hint)))
    if not parts or get_origin(hint) is Literal:
        return hint
    if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union:
        return typing.Union[parts]  # noqa: UP007 - of a tuple
    return hint.copy_with(parts) if hasattr(hint, "copy_with") else get_origin(hint)[parts]


# ---- settings


def is_settings_class(kind: object) -> bool:
    """Whether its constructor checks its fields."""
    return inspect.isclass(kind) and hasattr(kind, "__pydantic_config__")


def without_fields(app: Sphinx, what: str, name: str, kind: object, *_: object) -> tuple[str, None] | None:
    """No signature for a dataclass, whose fields follow, each with its description."""
    return ("", None) if what == "class" and is_dataclass(kind) else None


DESCRIPTIONS: dict[str, list[str]] = {}


def put_aside(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Keep Napoleon from taking the text before the first colon of an attribute's description for its type."""
    if what in ("attribute", "property"):
        DESCRIPTIONS[name] = lines[:]
        lines[:] = ["."]


def with_limits(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Put the description of an attribute back, with the limits of a setting."""
    if what in ("attribute", "property"):
        lines[:] = DESCRIPTIONS.pop(name)
        owner, _, field = name.rpartition(".")
        kind = owner.rpartition(".")[2]
        found = LIMITS.get(getattr(schema, kind, None) or PUBLIC.get(kind), {}).get(field)
        lines += [f"Limits: {found}.", ""] if found else []


def limits(hint: object) -> str:
    """What its annotation says of a setting, of each of its numbers where there are several."""
    parts = [hint, *get_args(hint)]
    for part in parts:
        found = getattr(part, "__metadata__", ())
        low, high = ([getattr(limit, end) for limit in found if hasattr(limit, end)] for end in ("ge", "le"))
        if low:
            return f"{low[0]} to {high[0]}" if high else f"from {low[0]}"
    return next((limits(part) for part in parts[1:] if limits(part)), "")


# ---- references


def public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> nodes.Element | None:
    """A reference to where the reference shows what a type calls by its module, or a text by its name alone."""
    domain, name = env.domains.python_domain, str(node["reftarget"]).rpartition(".")[2]
    shown = [full for full, entry in domain.objects.items() if entry.objtype in KINDS and full.endswith(f".{name}")]
    if len(shown) != 1 or node["reftarget"] == shown[0]:
        return text if str(node["reftarget"]).startswith(f"{PACKAGE}.") else None  # of an annotation, so right
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", shown[0], node, text)
