"""Recipes: found, merged with their base files and overrides, validated as a whole, and written out again."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

import composer_copypaste
from composer_copypaste.errors import RecipeError, listed, shown
from composer_copypaste.recipes import yaml12
from composer_copypaste.recipes.problems import problems
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.recipes.yaml12 import Place

_PACKAGE = Path(composer_copypaste.__file__).parent
_SHIPPED = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")  # of the wheel, of the repository
_ADAPTER = TypeAdapter(Recipe)

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
"""Keys, and those that a recipe's base or a former override may have given in their place."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, or the shipped one of that name, on top of its base files and below the overrides.

    Args:
        path: a YAML file, or the name of a shipped recipe ("quickstart").
        overrides: ``key=value`` each, such as ``optimizer.lr=1e-3`` or ``copy_paste=null``; values are YAML.

    Raises:
        RecipeError: listing everything that is wrong, with the file and line of each.
    """
    file = find_recipe(path)
    layers = [*_layers(file, ()), *(_override(text) for text in overrides)]
    sources = {(): str(file)} | {place: source for _, places in layers for place, source in places.items()}
    given: list[object] = [layer_values for layer_values, _ in layers]
    values = _resolved(reduce(_over, given), str(file))
    try:
        return _ADAPTER.validate_json(json.dumps({"name": file.stem} | values, default=str), strict=True)
    except ValidationError as error:
        found = problems(error, sources)
        raise RecipeError(found[0] if len(found) == 1 else listed(str(file), found)) from error


def recipe_to_yaml(recipe: Recipe) -> str:
    """The complete recipe as YAML, which loads to an equal one."""
    return yaml12.dump(_escaped(_ADAPTER.dump_python(recipe, mode="json")))


def differences(former: Recipe, recipe: Recipe) -> dict[str, tuple[object, object]]:
    """What two recipes differ in: the keys as overrides name them, such as ``optimizer.lr``, with both values."""
    one, other = (_ADAPTER.dump_python(each, mode="json") for each in (former, recipe))
    return {".".join(place): values for place, values in _differences(one, other, ())}


def _differences(one: object, other: object, place: Place) -> Iterator[tuple[Place, tuple[object, object]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            yield from _differences(one.get(key), other.get(key), (*place, str(key)))
    elif one != other:
        yield place, (one, other)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors.

    Nothing is required in it: a file states only what differs from its ``base``.
    """
    schema = _for_editors(_ADAPTER.json_schema())
    base = {
        "description": "What this recipe differs from: files, relative to this one, or names of shipped recipes; "
        "of several, the later ones win.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    schema["properties"] = {"base": base} | schema["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = next((folder for folder in _SHIPPED if any(folder.glob("*.yaml"))), None)
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))} if folder else {}


def describe_recipe(file: Path) -> str:
    """The first comment of a recipe file: what the recipe is for; empty where there is none."""
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("yaml-language-server")), "")


def find_recipe(path: str | Path, *, beside: Path | None = None) -> Path:
    """The file of a recipe: the one at this path, else the shipped one of this name.

    Args:
        path: a file or a name.
        beside: the folder that a relative path starts from; None: the working directory.

    Raises:
        RecipeError: where there is neither.
    """
    file = (beside or Path()) / Path(path).expanduser()
    if file.is_file():
        return file
    shipped = shipped_recipes()
    if str(path) in shipped:
        return shipped[str(path)]
    if file.is_dir():
        raise RecipeError(f"{file}: expected a recipe, a YAML file, found a folder; that of a run holds a recipe.yaml")
    similar = get_close_matches(Path(path).stem, shipped, n=1)
    hint = f"did you mean the shipped {similar[0]!r}? " if similar else ""
    raise RecipeError(f"{file}: no such recipe file; {hint}Shipped recipes: {', '.join(shipped)}")


Layer = tuple[Mapping[str, Any], Mapping[Place, str]]
"""Values, and where each was given."""


def _layers(file: Path, inside: tuple[Path, ...]) -> Iterator[Layer]:
    """A recipe file's bases and then itself, lowest first."""
    if file.resolve() in inside:
        chain = " -> ".join(str(outer) for outer in (*inside, file.resolve()))
        raise RecipeError(f"{file}: the recipe is its own base: {chain}")
    values, lines = _parsed(file)
    sources = {place: f"{file}:{line}" for place, line in lines.items()}
    for base in _bases(values.pop("base", None), sources.get(("base",), str(file))):
        try:
            base_file = find_recipe(base, beside=file.parent)
        except RecipeError as error:
            raise RecipeError(f"{sources['base',]}: base: {error}") from error
        yield from _layers(base_file, (*inside, file.resolve()))
    yield values, sources


def _parsed(file: Path) -> tuple[dict[str, Any], Mapping[Place, int]]:
    try:
        values, lines = yaml12.parse(file.read_text(encoding="utf-8"))
    except yaml12.YamlError as error:
        raise RecipeError(f"{file}{f':{error.line}' if error.line else ''}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: expected a YAML file, but it cannot be read: {error}") from error
    if not isinstance(values, dict | None):
        raise RecipeError(f"{file}: expected a recipe, lines of 'key: value', got {shown(values)}")
    return values or {}, lines


def _bases(base: object, source: str) -> list[str]:
    given = base if isinstance(base, list) else [] if base is None else [base]
    names = [name for name in given if isinstance(name, str)]
    if len(names) < len(given):
        raise RecipeError(f"{source}: base: expected a recipe or a list of recipes, got {shown(base)}")
    return names


def _override(text: str) -> Layer:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise RecipeError(f"command line: expected KEY=VALUE such as optimizer.lr=0.001, got {text!r}")
    try:
        parsed, _ = yaml12.parse(value)
    except yaml12.YamlError as error:
        raise RecipeError(f"command line: {key}: {error}; got {value!r}") from error
    place = tuple(key.split("."))
    values = reduce(lambda inner, part: {part: inner}, reversed(place), parsed)
    return values, {place[:length]: "command line" for length in range(1, len(place) + 1)}


def _over(below: object, above: object) -> object:
    """Mappings merged, key by key; anything else replaces what was there, as files do shards and shards files.

    OmegaConf's own merge stops where a list meets a mapping, before it is known which key is wrong.
    """
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    replaced = {name for key, value in above.items() if value is not None for name in _INSTEAD_OF.get(key, ())}
    below = {key: value for key, value in below.items() if key not in replaced}
    return below | {key: _over(below.get(key), value) for key, value in above.items()}


def _resolved(values: object, recipe: str) -> dict[str, Any]:
    """The values with every ``${...}`` replaced by what it stands for."""
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True, throw_on_missing=True)  # type: ignore[call-overload]
    except OmegaConfBaseException as error:
        place = f"{error.full_key}: " if error.full_key else ""
        raise RecipeError(f"{recipe}: {place}{str(error).splitlines()[0]}") from error
    return cast(dict[str, Any], resolved)


def _escaped(value: Any) -> Any:
    """A value whose texts are no interpolations when they are read again."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _for_editors(schema: Any) -> Any:
    """A JSON Schema that requires nothing, with descriptions of one line a paragraph, as editors show them."""
    if isinstance(schema, list):
        return [_for_editors(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    editors = {key: _for_editors(inner) for key, inner in schema.items() if key != "required"}
    if isinstance(editors.get("description"), str):
        text = editors["description"].partition("\n\nRaises:")[0]
        editors["description"] = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    return editors
