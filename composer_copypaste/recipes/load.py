"""Find recipes, merge them with their bases and overrides, validate them, and write them out again.

``${oc.env:NAME}`` in a value stands for an environment variable and ``${optimizer.lr}`` for another key, as OmegaConf
spells them. OmegaConf itself is not used: it would be needed for these two alone, and it pins an old ANTLR runtime.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

import composer_copypaste
from composer_copypaste.errors import RecipeError, as_recipe_value, either, format_problems, similar_names
from composer_copypaste.files import expand_home
from composer_copypaste.recipes import yaml12
from composer_copypaste.recipes.problems import describe_problems
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.recipes.yaml12 import Place
from composer_copypaste.validation import type_adapter

_PACKAGE = Path(composer_copypaste.__file__).parent
_SHIPPED = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")  # of the wheel, of the repository
Section = TypeVar("Section")
Layer = tuple[Mapping[str, Any], Mapping[Place, str]]
"""Values, and the place where each was given, such as "my.yaml:4"."""

_SHARDS = ("streaming", "cache", "cache_gigabytes")
_INSTEAD_OF = {
    "streaming": ("images", "annotations"),
    "images": _SHARDS,
    "annotations": _SHARDS,
    "categories": ("labels",),
    "labels": ("categories",),
    "category_weights": ("label_weights",),
    "label_weights": ("category_weights",),
}
"""Keys, and the keys of bases and earlier overrides that they replace."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, or the shipped recipe of that name, with its bases below it and the overrides on top.

    Args:
        path: a YAML file, or the name of a shipped recipe ("quickstart").
        overrides: ``key=value`` each, such as ``optimizer.lr=1e-3`` or ``copy_paste=null``; values are YAML.

    Raises:
        RecipeError: listing all problems, each with its file and line.
    """
    file = find_recipe(path)
    return recipe_of_layers([*file_layers(file), *map(parse_override, overrides)], file.stem, str(file))


def recipe_of_layers(layers: Sequence[Layer], name: str, place: str) -> Recipe:
    """The recipe of layers of values, later ones on top.

    Args:
        layers: of files and overrides.
        name: the recipe's name, if no layer gives one.
        place: names the recipe in messages.

    Raises:
        RecipeError: listing all problems, each with its place.
    """
    return validate_layers(Recipe, [({"name": name}, {}), *layers], place)


def validate_layers(kind: type[Section], layers: Sequence[Layer], place: str, inside: str = "") -> Section:
    """An object of a settings class from layers of values, later ones on top, with references resolved.

    Args:
        kind: the settings class.
        layers: the values.
        place: names the file in messages.
        inside: the keys that lead to these values, such as "runs.doubled.offline.", for messages.

    Raises:
        RecipeError: listing all problems, each with its place.
    """
    values, sources = merge_layers(layers)
    try:
        resolved = _resolve_references(values, values)
        return cast(Section, type_adapter(cast(type, kind)).validate_json(json.dumps(resolved, default=str)))
    except ValidationError as error:
        found = [f"{inside}{line}" for line in describe_problems(error, {(): place} | dict(sources), kind)]
        raise RecipeError(found[0] if len(found) == 1 else format_problems(place, found)) from error
    except ValueError as error:
        raise RecipeError(f"{place}: {error}") from None


def merge_layers(layers: Sequence[Layer]) -> Layer:
    """The layers in one, later ones on top."""
    values: dict[str, Any] = reduce(_merge, (values for values, _ in layers), {})
    return values, {place: source for _, places in layers for place, source in places.items()}


def recipe_to_yaml(recipe: Recipe) -> str:
    """The complete recipe as YAML, which loads to an equal one."""
    return yaml12.dump_yaml(escape_references(recipe_values(recipe)))


def recipe_values(recipe: Recipe, *, defaults: bool = True) -> dict[str, Any]:
    """The recipe as nested dicts, ready for JSON: complete, or without the values that are the defaults."""
    return cast(dict[str, Any], type_adapter(Recipe).dump_python(recipe, mode="json", exclude_defaults=not defaults))


def recipe_differences(former: Recipe, recipe: Recipe) -> dict[str, tuple[object, object]]:
    """The keys in which two recipes differ, written as in overrides (``optimizer.lr``), with both values."""
    differences = _nested_differences(recipe_values(former), recipe_values(recipe), ())
    return {".".join(place): values for place, values in differences}


def _nested_differences(one: object, other: object, place: Place) -> Iterator[tuple[Place, tuple[object, object]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            yield from _nested_differences(one.get(key), other.get(key), (*place, str(key)))
    elif one != other:
        yield place, (one, other)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors.

    Nothing is required in it: a file states only what differs from its ``base``.
    """
    base = {
        "description": "What this recipe differs from: files, relative to this one, or names of shipped recipes; "
        "of several, the later ones win.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    schema = schema_for_editors(Recipe)
    schema["properties"] = {"base": base} | schema["properties"]
    return schema


def schema_for_editors(kind: type) -> dict[str, Any]:
    """The JSON Schema of a settings class, in which nothing is required and descriptions have no line breaks."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | _for_editors(type_adapter(kind).json_schema())


def shipped_recipes(kind: str = "") -> dict[str, Path]:
    """The recipes that come with the package, by name; ``kind`` "ablations": the ablations.

    Those for Detectron2 are in a folder of their own, which is part of their names.
    """
    folder = next((folder / kind for folder in _SHIPPED if any((folder / kind).glob("*.yaml"))), None)
    if folder is None:
        return {}
    files = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("detectron2/*.yaml"))]
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def describe_recipe(file: Path) -> str:
    """The first comment of a recipe file, which says what the recipe is for; empty if there is none."""
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("yaml-language-server")), "")


def find_recipe(path: str | Path, *, relative_to: Path | None = None, kind: str = "") -> Path:
    """The file of a recipe: the file at this path, or else the shipped recipe of this name.

    Args:
        path: a file or a name.
        relative_to: the folder that a relative path starts from; None: the working directory.
        kind: as for `shipped_recipes`.

    Raises:
        RecipeError: where neither exists.
    """
    file = (relative_to or Path()) / expand_home(path)
    try:
        is_file, is_folder = file.is_file(), file.is_dir()
    except OSError as error:  # a name that is too long
        raise RecipeError(f"{as_recipe_value(str(path))}: no such recipe file: {error.strerror}") from error
    if is_file:
        return file
    shipped = shipped_recipes(kind)
    if str(path) in shipped:
        return shipped[str(path)]
    if is_folder:
        raise RecipeError(
            f"{file}: expected a recipe, a YAML file, found a folder; a run's folder contains a recipe.yaml"
        )
    meant = [f"{file}{ending}" for ending in (".yaml", ".yml") if os.path.isfile(f"{file}{ending}")]
    if meant:
        raise RecipeError(f"{file}: no such {'ablation' if kind else 'recipe'} file; did you mean {meant[0]}?")
    similar = similar_names(Path(path).stem, shipped)
    hint = f"did you mean the shipped {either([*map(repr, similar)])}? Shipped" if similar else "shipped"
    raise RecipeError(
        f"{file}: no such {'ablation' if kind else 'recipe'} file; {hint} {kind or 'recipes'}: {', '.join(shipped)}"
    )


def file_layers(file: Path, inside: tuple[Path, ...] = ()) -> Iterator[Layer]:
    """The values of a recipe file's bases and then its own; later ones win.

    Args:
        file: the recipe.
        inside: the recipes whose base it is.

    Raises:
        RecipeError: where a file cannot be read.
    """
    if file.resolve() in inside:
        chain = " -> ".join(str(outer) for outer in (*inside, file.resolve()))
        raise RecipeError(f"{file}: the recipe is its own base: {chain}")
    values, sources = read_recipe_file(file)
    given = values.pop("base", None)
    for base in given if isinstance(given, list) else [] if given is None else [given]:
        if not isinstance(base, str):
            raise RecipeError(
                f"{sources['base',]}: base: expected a recipe or a list of recipes, got {as_recipe_value(given)}"
            )
        try:
            base_file = find_recipe(base, relative_to=file.parent)
        except RecipeError as error:
            raise RecipeError(f"{sources['base',]}: base: {error}") from error
        yield from file_layers(base_file, (*inside, file.resolve()))
    yield values, sources


def read_recipe_file(file: Path) -> tuple[dict[str, Any], Mapping[Place, str]]:
    """The values of a YAML file, and the place of each key; ``RecipeError`` where it cannot be read."""
    try:
        values, lines = yaml12.parse_yaml(file.read_text(encoding="utf-8"))
    except yaml12.YamlError as error:
        raise RecipeError(f"{file}{f':{error.line}' if error.line else ''}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: expected a YAML file, but it cannot be read: {error}") from error
    if not isinstance(values, dict | None):
        raise RecipeError(f"{file}: expected a recipe, lines of 'key: value', got {as_recipe_value(values)}")
    return values or {}, {place: f"{file}:{line}" for place, line in lines.items()}


def parse_override(text: str) -> Layer:
    """The value of an override ``KEY=VALUE``."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise RecipeError(f"command line: expected KEY=VALUE such as optimizer.lr=0.001, got {text!r}")
    try:
        parsed, _ = yaml12.parse_yaml(value)
    except yaml12.YamlError as error:
        raise RecipeError(f"command line: {key}: {error}; got {value!r}") from error
    place = tuple(key.split("."))
    values = reduce(lambda inner, part: {part: inner}, reversed(place), parsed)
    return values, {place[:length]: "command line" for length in range(1, len(place) + 1)}


def _merge(below: object, above: object) -> Any:
    """Two values, the second on top: mappings are merged key by key, any other value replaces the one below it."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    replaced = {name for key, value in above.items() if value is not None for name in _INSTEAD_OF.get(key, ())}
    below = {key: value for key, value in below.items() if key not in replaced}
    return below | {key: _merge(below.get(key), value) for key, value in above.items()}


_REFERENCE = re.compile(r"(?<!\\)\$\{([^{}]*)\}")


def _resolve_references(recipe: Mapping[str, Any], value: Any, place: Place = (), inside: tuple[str, ...] = ()) -> Any:
    r"""The value, with what its references ``${...}`` stand for; ``\${`` is a plain ``${``.

    Args:
        recipe: the values that references to keys are looked up in.
        value: a value of the recipe, or all of them.
        place: where it is given.
        inside: the references that led to it.

    Raises:
        ValueError: where a reference cannot be resolved.
    """
    if isinstance(value, dict):
        return {key: _resolve_references(recipe, inner, (*place, str(key)), inside) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve_references(recipe, inner, place, inside) for inner in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    if "${" in _REFERENCE.sub("", value).replace("\\${", ""):
        raise ValueError(f"{'.'.join(place)}: expected a '}}' after '${{', got {value!r}; a plain '${{' is '\\${{'")
    found = {name: _look_up_reference(recipe, name, place, inside) for name in _REFERENCE.findall(value)}
    if _REFERENCE.fullmatch(value):
        return found[value[2:-1]]  # of any type, not only text
    return _REFERENCE.sub(lambda reference: str(found[reference[1]]), value).replace("\\${", "${")


def _look_up_reference(recipe: Mapping[str, Any], name: str, place: Place, inside: tuple[str, ...]) -> Any:
    """The value that a reference of this name stands for, found in the environment or in the recipe."""
    where = f"{'.'.join(place)}: ${{{name}}}"
    if environment := re.fullmatch(r"oc\.env:(\w+)(?:,(.*))?", name):
        variable, default = environment.groups()
        if variable not in os.environ and default is None:
            raise ValueError(f"{where}: the environment variable {variable} is not set")
        return os.environ.get(variable, None if default == "null" else default)
    if name in inside:
        raise ValueError(f"{where} refers to itself")
    value: Any = recipe
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{where}: expected a key that the recipe gives, or oc.env:NAME")
        value = value[key]
    return _resolve_references(recipe, value, place, (*inside, name))


def escape_references(value: Any) -> Any:
    """A value whose texts hold no references when they are read again."""
    if isinstance(value, dict):
        return {key: escape_references(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape_references(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _for_editors(schema: Any) -> Any:
    """A JSON Schema that requires no key, with one line for each paragraph of a description, as editors show them."""
    if isinstance(schema, list):
        return [_for_editors(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    editors = {key: _for_editors(inner) for key, inner in schema.items() if key != "required"}
    if isinstance(editors.get("description"), str):
        editors["description"] = re.sub(r"(?<!\n)\n(?!\n)", " ", editors["description"])
    return editors
