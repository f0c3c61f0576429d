"""Settings classes: dataclasses whose values pydantic checks, in a constructor as in a recipe.

pydantic is imported when the first object is made, so that importing a settings class is fast.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache, wraps
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from composer_copypaste.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
    from pydantic_core import CoreSchema, ErrorDetails

Kind = TypeVar("Kind")
_PLAIN = {bool, int, float, str, type(None)}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def settings_class(kind: type[Kind]) -> type[Kind]:
    """A frozen dataclass with keyword-only fields, whose constructor checks every value against its annotation.

    The check is strict: "0.5" and True are no numbers, 2.0 is no whole number. NumPy's numbers pass as Python's, and
    lists as tuples. In the JSON Schema the string below a field describes it.

    The constructor raises ``ValueError`` for a value outside its limits and ``TypeError`` for one of another type, with
    a message that begins with the setting's name. ``repr`` shows the values that are not the defaults.
    """
    made: Any = dataclass(frozen=True, kw_only=True)(kind)
    made.__pydantic_config__ = {
        "strict": True,
        "extra": "forbid",
        "allow_inf_nan": False,
        "use_attribute_docstrings": True,
    }

    @wraps(made.__init__)
    def __init__(self: Kind, **values: object) -> None:
        from pydantic import ValidationError

        plain = {name: value if type(value) in _PLAIN else _plain_value(value) for name, value in values.items()}
        try:
            type_adapter(made).validator.validate_python(plain, self_instance=self)
        except ValidationError as error:
            raise _first_problem(error, made) from None

    made.__init__ = __init__
    made.__repr__ = _repr_of_changed
    return made


def _repr_of_changed(settings: Any) -> str:
    """The constructor's call that makes these settings: the values that are not the defaults."""
    values = ((each.name, getattr(settings, each.name), _default_of(each)) for each in fields(settings))
    changed = [f"{name}={value!r}" for name, value, default in values if value != default]
    return f"{type(settings).__name__}({', '.join(changed)})"


def _default_of(declared: Field[Any]) -> object:
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def with_inherited_descriptions(kind: type[Kind]) -> type[Kind]:
    """A settings class that inherits from another, whose JSON Schema describes the inherited settings too.

    pydantic finds the strings below the fields in the class itself only.
    """
    declared: dict[str, Field[Any]] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    for base in filter(is_dataclass, kind.__mro__[1:]):
        for name, described in type_adapter(base).json_schema()["properties"].items():
            declared[name] = copy(declared[name])
            declared[name].metadata = MappingProxyType({"description": described["description"]})
    return kind


@cache
def type_adapter(kind: type) -> "TypeAdapter[Any]":
    """What checks, writes and describes values of a settings class."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _first_problem(error: "ValidationError", kind: type) -> Exception:
    """What a constructor of this class raises: the first problem in one line."""
    first, *others = error.errors(include_url=False)
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "unexpected_keyword_argument":
        hint = did_you_mean(name, [each.name for each in fields(kind)], "; ")
        return TypeError(f"{name}: {kind.__name__} has no such setting{hint}")
    if first["type"] == "value_error":
        return ValueError(f"{name}: {first['ctx']['error']}".removeprefix(": "))
    details = [first, *(other for other in others if other["input"] is first["input"])]  # members of a union
    of_type = all(detail["type"].endswith(("_type", "int_from_float", "missing", "too_long")) for detail in details)
    return (TypeError if of_type else ValueError)(f"{name}: {describe_expectation(details)}")


def _plain_value(value: object) -> object:
    """A value as strict validation takes it: lists as tuples, NumPy's numbers as Python's."""
    match value:
        case list() | tuple():
            return tuple(map(_plain_value, value))
        case dict():
            return {_plain_value(key): _plain_value(inner) for key, inner in value.items()}
        case bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value)
    if getattr(value, "ndim", 0) and tuple(getattr(value, "shape", ())) != (1,):
        return value  # an array, for a setting that is a map
    return _Shown(repr(value)) if hasattr(value, "__float__") else value


@dataclass(frozen=True)
class _Shown:
    """Stands for a value that pydantic would take for a number, such as a tensor or one of NumPy's booleans."""

    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Check:
    """In an annotation: a function that returns the value, or raises ``ValueError`` where it cannot be used."""

    check: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: object, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self.check, handler(source))


@dataclass(frozen=True)
class TextPattern:
    """In an annotation: the pattern that a text has to match, its description for messages, and texts that pass too."""

    pattern: str
    expected: str
    names: tuple[str, ...] = ()

    def check(self, text: object) -> object:
        """The text itself; ``ValueError`` where it does not match."""
        if not (isinstance(text, str) and (text in self.names or re.fullmatch(self.pattern, text))):
            raise ValueError(f"expected {self.expected}, got {text!r}")
        return text

    def __get_pydantic_core_schema__(self, source: object, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> dict[str, Any]:
        matches = {**handler(schema), "pattern": self.pattern}
        return {"anyOf": [{"enum": list(self.names)}, matches]} if self.names else matches


# ---- messages

EXPECTED = {  # by pydantic's type of error
    "missing": "a value",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "True or False",
    "string_type": "text",
    "path_type": "a path",
    "is_instance_of": "a {class}",
    "dataclass_exact_type": "a value of {class_name}",
    "tuple_type": "a list or tuple",
    "dict_type": "a dict",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
"""What was expected of a value."""
LIMITS = ("greater_than", "greater_than_equal", "less_than_equal", "finite_number")
"""The types of error of a value that has the right type but is out of its limits."""


def describe_expectation(
    details: Sequence["ErrorDetails"],
    expected: Mapping[str, str] = EXPECTED,
    written: Callable[[object], str] = repr,
) -> str:
    """What was expected and what came, such as "expected a number, got 'a'".

    Args:
        details: what pydantic says about one value: one problem, or one for each member of a union.
        expected: what was expected, by the type of error.
        written: how a value is written.
    """
    if any(detail["type"] in LIMITS for detail in details):  # a number out of its limits need not become a list
        details = [detail for detail in details if detail["type"] != "tuple_type"]
    choices = dict.fromkeys(_expected_text(detail, expected) for detail in details)
    first = details[0]
    nothing = first["type"] == "missing" and not _is_too_short(first)
    return f"expected {' or '.join(choices)}, got {'nothing' if nothing else written(first['input'])}"


def _expected_text(detail: "ErrorDetails", expected: Mapping[str, str]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if _is_too_short(detail):
        return f"a list of at least {int(detail['loc'][-1]) + 1}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace(" or ", ", ")
        return f"one of {choices}" if "," in choices else choices
    if kind not in expected:
        return f"something else ({detail['msg']})"
    whole = {name: int(limit) for name, limit in context.items() if isinstance(limit, float) and limit.is_integer()}
    return expected[kind].format(**context | whole)


def _is_too_short(detail: "ErrorDetails") -> bool:
    """Whether the problem is a list with too few values; pydantic places it at the first index that is missing."""
    return detail["type"] == "missing" and isinstance(detail["loc"][-1], int)
