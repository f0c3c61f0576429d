"""Ablations: runs that differ in a few keys of one recipe, for several seeds and fractions of the training images.

Importing this module imports no framework.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from composer_copypaste.errors import RecipeError, as_recipe_value
from composer_copypaste.recipes.load import (
    Layer,
    escape_references,
    file_layers,
    find_recipe,
    merge_layers,
    parse_override,
    read_recipe_file,
    recipe_of_layers,
    recipe_values,
    schema_for_editors,
    validate_layers,
)
from composer_copypaste.recipes.schema import Recipe, UserPath
from composer_copypaste.recipes.yaml12 import dump_yaml
from composer_copypaste.settings import AugmentSettings, ShapesSettings
from composer_copypaste.validation import Check, TextPattern, settings_class, type_adapter

KIND = "ablations"
"""The folder of the shipped ablations, inside that of the recipes."""
OFFLINE = "offline"
"""The section of a run that is not one of its recipe's: its offline data set."""
SET_BY_ABLATION = ("name", "seed", "output")
"""Keys of a recipe that an ablation sets for each of its runs."""


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"expected at least one value, and each once, got {list(values)}")
    return values


EACH_ONCE = Check(_each_once)
RunName = Annotated[
    str, TextPattern(r"^[A-Za-z0-9][\w.+-]{0,49}$", "a name of up to 50 letters, digits, '_', '-', '.' and '+'")
]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
ImageFraction = Annotated[float, Gt(0), Le(1)]


@settings_class
class AblationSettings:
    """An ablation: a base recipe, the runs that differ from it, and what is compared with what."""

    base: str = "finetune"
    """The recipe that all runs start from: a file, relative to this one, or the name of a shipped recipe."""

    common: dict[str, Any] = field(default_factory=dict)
    """Keys of the recipe, by section, for all runs."""

    runs: dict[RunName, dict[str, Any]] = field(default_factory=dict)
    """The keys of the recipe in which each run differs, by the run's name; {}: none; null leaves a run out. The section
    ``offline`` gives a run an offline data set, as ``copypaste augment`` writes it, of each fraction of the
    images."""

    baseline: str | None = None
    """The run that all others are compared with. null: the first."""

    seeds: Annotated[tuple[Seed, ...], EACH_ONCE] = (1, 2, 3, 4, 5)
    """Each run is trained once with each seed, which draws weights, order of the images, augmentation and fractions.
    Runs are compared seed by seed. Fewer than five seeds seldom show a difference."""

    fractions: Annotated[tuple[ImageFraction, ...], EACH_ONCE] = (1.0,)
    """Fractions of the training images. Smaller ones lie inside larger ones, and are the same for all runs of a seed.
    Categories are drawn in proportion, as far as possible."""

    group: str | None = None
    """A key of the images in the annotation files, such as "patient": images with the same value are drawn together,
    and count as one in the intervals. null: images are drawn one by one."""

    output: UserPath | None = None
    """Folder of the ablation. null: runs/<name>. The same command continues there."""

    def __post_init__(self) -> None:
        if self.baseline is not None and self.baseline not in self.runs:
            raise ValueError(f"baseline: expected one of the runs {', '.join(self.runs)}, got {self.baseline!r}")


@dataclass(frozen=True)
class Ablation:
    """An ablation whose recipes are all validated."""

    name: str
    """The name of its file."""

    settings: AblationSettings

    recipes: Mapping[str, Recipe]
    """The recipe of each run, by the run's name; the ablation sets ``name``, ``seed`` and ``output``."""

    offline: Mapping[str, AugmentSettings]
    """The offline data sets of the runs that have one, by the run's name; the ablation sets ``seed``."""

    @property
    def baseline(self) -> str:
        """The run that the others are compared with."""
        return self.settings.baseline or next(iter(self.settings.runs))

    @property
    def output(self) -> Path:
        """The folder of the ablation."""
        return self.settings.output or Path("runs") / self.name


def load_ablation(path: str | Path, overrides: Sequence[str] = (), *, smoke: bool = False) -> Ablation:
    """The ablation of a file, or the shipped one of that name, with all its recipes.

    Args:
        path: a YAML file, or the name of a shipped ablation ("low_data").
        overrides: ``key=value`` each, such as ``base=my.yaml``, ``seeds=[1,2]`` or ``common.training.duration=500ba``;
            ``runs.NAME=null`` leaves a run out.
        smoke: whether to shorten it to a few minutes, to see that everything runs: every run trains the small network
            for 30 batches of 4 drawn images, at 128 pixels and from random weights, with the first two seeds and the
            smallest and the largest fraction. What its run says otherwise, as of the backbone, does not count.

    Raises:
        RecipeError: listing all problems of the first recipe that has some, each with its file and line.
    """
    file = find_recipe(path, kind=KIND)
    layers = [read_recipe_file(file), *map(parse_override, overrides)]
    values, sources = _leave_out_runs(merge_layers(layers), layers[0][0].get("runs"), str(file))
    settings = validate_layers(AblationSettings, [(values, sources)], str(file))
    if not settings.runs:
        raise RecipeError(
            f"{file}: runs: expected at least one run, such as 'baseline: {{copy_paste: null}}', got none"
        )
    if smoke:
        settings = replace(settings, base="quickstart", seeds=settings.seeds[:2], fractions=_ends(settings.fractions))
    in_file = not smoke and sources.get(("base",), "command line") != "command line"
    base = find_recipe(settings.base, relative_to=file.parent if in_file else None)
    below = [*file_layers(base), _inner_layer((values, sources), ("common",))]
    above = [SMOKE] if smoke else []
    recipes, offline = {}, {}
    for run in settings.runs:
        place = f"{file}: runs.{run}"
        layer, augmentation = _divide_run(_inner_layer((values, sources), ("runs", run)), run)
        recipe = recipe_of_layers([*below, layer, *above], run, place)
        recipes[run] = _small_canvas(recipe) if smoke else recipe
        if augmentation is not None:
            offline[run] = validate_layers(AugmentSettings, [augmentation], str(file), f"runs.{run}.{OFFLINE}.")
    return Ablation(f"{file.stem}-smoke" if smoke else file.stem, settings, recipes, offline)


def ablation_to_yaml(ablation: Ablation) -> str:
    """The ablation's complete recipes as YAML, by run, with what they are compared by."""
    settings = type_adapter(AblationSettings).dump_python(ablation.settings, mode="json")
    recipes = {name: recipe_values(recipe) for name, recipe in ablation.recipes.items()}
    for name, offline in ablation.offline.items():
        recipes[name][OFFLINE] = type_adapter(AugmentSettings).dump_python(offline, mode="json")
    return dump_yaml(escape_references({**settings, "common": {}, "runs": recipes}))


def ablation_schema() -> dict[str, Any]:
    """The JSON Schema of an ablation file, for editors."""
    recipe, offline, schema = map(schema_for_editors, (Recipe, AugmentSettings, AblationSettings))
    keys = {name: value for name, value in recipe["properties"].items() if name not in SET_BY_ABLATION}
    section = {"type": "object", "properties": keys, "additionalProperties": False}
    definitions = recipe["$defs"] | offline.pop("$defs") | {"AugmentSettings": offline}
    run = section | {"properties": keys | {OFFLINE: {"$ref": "#/$defs/AugmentSettings"}}}
    schema["properties"]["common"] |= section
    schema["properties"]["runs"] |= {"additionalProperties": {"anyOf": [run, {"type": "null"}]}}
    return schema | {"$defs": definitions}


SMOKE: Layer = (
    {
        "data": {
            "shapes": {"folder": "data/shapes-smoke", "train": 128, "val": 16},
            "train": None,
            "val": None,
            "batch_size": 4,
        },
        "model": {
            "backbone": "small",
            "heads": None,
            "style": None,
            "norm": None,
            "weights": "none",
            "keep_categories": False,
            "weights_categories": None,
            "min_size": 128,
            "max_size": 128,
        },
        "schedule": {"name": "constant", "warmup": "5ba"},
        "training": {"duration": "30ba", "eval_interval": "15ba", "checkpoint_interval": "30ba"},
    },
    {},
)
"""What a smoke test changes in every recipe, over what its run says: 30 batches of a ResNet-50 take ten minutes on a
core, and seconds with the small network."""


def _small_canvas(recipe: Recipe) -> Recipe:
    """The recipe with large-scale jitter at the size of the drawn images."""
    jitter, side = recipe.data.jitter, ShapesSettings.size
    if jitter is None:
        return recipe
    return replace(recipe, data=replace(recipe.data, jitter=replace(jitter, size=(side, side))))


def _ends(fractions: tuple[float, ...]) -> tuple[float, ...]:
    """The smallest and the largest fraction, in their order."""
    return tuple(fraction for fraction in fractions if fraction in (min(fractions), max(fractions)))


def _inner_layer(layer: Layer, place: tuple[str, ...]) -> Layer:
    """The values inside a place of a layer, and where they were given."""
    values, sources = layer
    for key in place:
        values = values.get(key) or {}
    depth = len(place)
    return values, {key[depth:]: source for key, source in sources.items() if key[:depth] == place and len(key) > depth}


def _leave_out_runs(layer: Layer, in_file: object, file: str) -> Layer:
    """The values of an ablation without the runs that are null.

    Args:
        layer: the values, and where they were given.
        in_file: the runs of its file.
        file: its path.

    Raises:
        RecipeError: where the baseline or all runs are left out, or a run that there is not.
    """
    values, sources = layer
    runs = values.get("runs")
    left_out = [name for name, changes in runs.items() if changes is None] if isinstance(runs, dict) else []
    if not isinstance(runs, dict) or not left_out:
        return layer
    baseline = values.get("baseline") or next(iter(runs))
    kept = {name: changes for name, changes in runs.items() if changes is not None}
    known = [*kept, *(in_file if isinstance(in_file, dict) else ())]
    for name in left_out:
        place = f"runs.{name}"
        source = sources.get(("runs", name), sources.get(("runs",), file))
        if name not in known:
            raise RecipeError(f"{place}: no such run to leave out; runs: {', '.join(dict.fromkeys(known))} ({source})")
        if not kept:
            raise RecipeError(f"{place}: expected at least one run that is not null, got none ({source})")
        if name == baseline:
            raise RecipeError(
                f"{place}: expected the baseline, which the others are compared with, got null; give it as "
                f"{{}} or name another one, as baseline={next(iter(kept))} ({source})"
            )
    return {**values, "runs": kept}, sources


def _divide_run(layer: Layer, run: str) -> tuple[Layer, Layer | None]:
    """What a run changes in the recipe, and the settings of its offline data set; None without one.

    Raises:
        RecipeError: where it gives a key that the ablation sets.
    """
    values, sources = layer
    for key in SET_BY_ABLATION:
        if key in values:
            raise RecipeError(
                f"runs.{run}.{key}: expected no such key, got {as_recipe_value(values[key])}; the ablation's "
                f"seeds and output set it ({sources[key,]})"
            )
    others = {key: value for key, value in values.items() if key != OFFLINE}
    offline = None if values.get(OFFLINE) is None else _inner_layer(layer, (OFFLINE,))
    return (others, {place: source for place, source in sources.items() if place[0] != OFFLINE}), offline
