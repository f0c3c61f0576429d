"""The trainings of an ablation: the recipe of each, with its seed, its fraction of the images and its folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import checksum
from composer_copypaste.data.splits import draw_fractions
from composer_copypaste.errors import RecipeError, count_noun
from composer_copypaste.metrics.scores import IouType
from composer_copypaste.recipes.ablation import Ablation
from composer_copypaste.recipes.load import recipe_differences, recipe_values
from composer_copypaste.recipes.schema import CocoFiles, DataSettings, Recipe
from composer_copypaste.runs.ablation.results import format_fraction
from composer_copypaste.runs.augment.run import ANNOTATIONS, IMAGES
from composer_copypaste.runs.data import (
    category_names,
    coco_files,
    copy_paste_settings,
    needs_masks,
    open_data,
    pool_digest,
    read_annotations,
)
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.resume import MAY_CHANGE
from composer_copypaste.runs.train import check_requirements
from composer_copypaste.settings import AugmentSettings, parse_time

Section = TypeVar("Section")


@dataclass(frozen=True)
class ImageSubset:
    """A fraction of the training images of a file."""

    annotations: Path
    """The file with all images."""

    image_ids: tuple[int, ...]

    path: Path
    """The annotation file of the fraction, which is written before the trainings begin."""


@dataclass(frozen=True)
class OfflineSet:
    """The offline data set of a run, which is made of its images before it is trained."""

    files: CocoFiles
    """What it is made of."""

    settings: AugmentSettings
    folder: Path


@dataclass(frozen=True)
class PlannedRun:
    """A training of an ablation."""

    name: str
    fraction: float
    seed: int
    images: int
    """Number of training images, without those that are made of them offline."""

    recipe: Recipe
    """The complete recipe, with the run's folder as ``output``, and all times in batches."""

    subset: ImageSubset | None
    """None where all images are trained on."""

    offline: OfflineSet | None

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return RunFolder(cast(Path, self.recipe.output))

    @property
    def log(self) -> Path:
        """What the training printed."""
        return self.folder.root / "log.txt"

    @property
    def steps(self) -> int:
        """Number of batches."""
        return int(parse_time(self.recipe.training.duration)[0])

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete, with the matches that intervals need."""
        return self.folder.is_complete and self.folder.matches.exists()

    def __str__(self) -> str:
        return f"{self.name} at {format_fraction(self.fraction)}, seed {self.seed}"


def plan_runs(ablation: Ablation) -> list[PlannedRun]:
    """All trainings, seed by seed, after all their checks; nothing is written but the drawn shapes.

    Raises:
        UserError: as a training does, for the first recipe that cannot be trained.
    """
    _check_recipes(ablation)
    settings, planner = ablation.settings, _Planner(ablation)
    return [
        planner.plan(run, fraction, seed)
        for seed in settings.seeds
        for fraction in settings.fractions
        for run in ablation.recipes
    ]


def _check_recipes(ablation: Ablation) -> None:
    """Raise ``UserError`` where a recipe cannot be trained; data that several recipes share is opened once."""
    opened: dict[tuple[DataSettings, bool, bool], Sequence[str]] = {}
    for run, recipe in ablation.recipes.items():
        check_requirements(recipe)
        if coco_files(recipe.data)[0].annotations is None and min(ablation.settings.fractions) < 1:
            raise RecipeError(
                f"runs.{run}: data.train.streaming: fractions need images and annotations, since shards are read as a "
                "whole; give those, or fractions=[1]"
            )
        key = (recipe.data, recipe.model.has_masks, needs_masks(recipe))
        if recipe.data.pool is not None or key not in opened:  # a pool's cut-outs depend on copy-paste's settings
            opened[key] = category_names(open_data(recipe).train)
        copy_paste_settings(recipe, opened[key])


class _Planner:
    """Plans runs of one ablation, and reads each annotation file once."""

    def __init__(self, ablation: Ablation) -> None:
        self.ablation = ablation
        self.read = cache(self._read_annotations)
        self.outlined = {
            coco_files(recipe.data)[0].annotations for recipe in ablation.recipes.values() if needs_masks(recipe)
        }
        self.checksum = cache(lambda path: checksum([path.read_bytes()]))
        self.fractions = cache(self._draw_fractions)

    def plan(self, run: str, fraction: float, seed: int) -> PlannedRun:
        """The training of a run with a seed, on a fraction of the images."""
        recipe = self.ablation.recipes[run]
        train, val = coco_files(recipe.data)
        recipe = replace(recipe, data=replace(recipe.data, shapes=None, train=train, val=val))
        subset, offline, images = None, None, self._count_images(recipe)
        recipe = in_batches(recipe, batches_per_epoch=max(1, images // recipe.data.batch_size))
        if fraction < 1:
            subset = self.fractions(train, recipe.data, seed)[fraction]
            recipe, images = _train_on(recipe, replace(train, annotations=subset.path)), len(subset.image_ids)
        if run in self.ablation.offline:
            offline = self._offline_set(run, fraction, seed, coco_files(recipe.data)[0])
            made = CocoFiles(images=offline.folder / IMAGES, annotations=offline.folder / ANNOTATIONS)
            recipe = _train_on(recipe, made)
        if images < recipe.data.batch_size:
            raise RecipeError(
                f"fractions: {fraction:g} of the training images is {count_noun(images, 'image')}, expected at least "
                f"a batch (data.batch_size={recipe.data.batch_size}); give a larger fraction"
            )
        recipe = replace(recipe, name=run, seed=seed)
        folder = f"{run}-{fraction:g}-seed{seed}-{self._digest(recipe)[:8]}"
        recipe = replace(recipe, output=self.ablation.output / "trainings" / folder)
        return PlannedRun(run, fraction, seed, images, recipe, subset, offline)

    def _count_images(self, recipe: Recipe) -> int:
        files, _ = coco_files(recipe.data)
        if files.annotations is None:
            return len(open_data(recipe).train)
        return len(self.read(files.annotations, recipe.data).images)

    def _read_annotations(self, path: Path, data: DataSettings) -> CocoAnnotations:
        """The annotations in a file of training images, for all runs alike: with outlines where any run needs them."""
        return read_annotations(path, data, outlines=path in self.outlined)

    def _draw_fractions(self, files: CocoFiles, data: DataSettings, seed: int) -> Mapping[float, ImageSubset]:
        """The fractions of a file's images."""
        path, settings = cast(Path, files.annotations), self.ablation.settings
        drawn = draw_fractions(self.read(path, data), settings.fractions, seed=seed, group=settings.group)
        return {fraction: self._subset(path, fraction, seed, ids) for fraction, ids in drawn.items()}

    def _subset(self, path: Path, fraction: float, seed: int, ids: tuple[int, ...]) -> ImageSubset:
        content = checksum([path.read_bytes(), json.dumps(ids).encode()])
        name = f"{path.stem}-{fraction:g}-seed{seed}-{content[:8]}.json"
        return ImageSubset(path, ids, self.ablation.output / "fractions" / name)

    def _offline_set(self, run: str, fraction: float, seed: int, files: CocoFiles) -> OfflineSet:
        """The offline data set that is made of these files for a run."""
        settings = replace(self.ablation.offline[run], seed=seed)
        content = checksum([repr(settings).encode(), self._digest_of(files).encode()])
        name = f"{run}-{fraction:g}-seed{seed}-{content[:8]}"
        return OfflineSet(files, settings, self.ablation.output / "offline" / name)

    def _digest(self, recipe: Recipe) -> str:
        """A checksum of all that the result of a run depends on: recipe, annotations and cut-outs.

        Of the recipe, it covers what is not a default: a new setting does not make finished runs others.
        """
        values = _without(recipe_values(recipe, defaults=False), MAY_CHANGE)
        pool = recipe.data.pool
        pools = [] if pool is None or pool.training_images else [pool_digest(pool)]
        files = [self._digest_of(files) for files in coco_files(recipe.data)]
        return checksum([json.dumps([values, files, pools], sort_keys=True).encode()])

    def _digest_of(self, files: CocoFiles) -> str:
        """A checksum of a data set; the paths of those that the ablation itself writes, perhaps later, contain one."""
        path = files.annotations
        if path is None:
            return str(files.streaming)
        own = path.is_relative_to(self.ablation.output)
        return str(path.relative_to(self.ablation.output)) if own else self.checksum(path)


def _train_on(recipe: Recipe, train: CocoFiles) -> Recipe:
    """The recipe with other training images."""
    return replace(recipe, data=replace(recipe.data, train=train))


def in_batches(recipe: Recipe, batches_per_epoch: int) -> Recipe:
    """The recipe with all times that are given in epochs in batches, so that it does the same work on fewer images."""

    def convert(time: str) -> str:
        number, unit = parse_time(time)
        return f"{number * batches_per_epoch}ba" if unit == "ep" else time

    def convert_keys(section: Section, *keys: str) -> Section:
        if section is None:
            return section
        times = {key: getattr(section, key) for key in keys}
        changes: dict[str, Any] = {key: convert(time) for key, time in times.items() if time is not None}
        return replace(section, **changes)  # type: ignore[type-var]

    schedule, training = convert_keys(recipe.schedule, "warmup"), recipe.training
    return replace(
        recipe,
        copy_paste=convert_keys(recipe.copy_paste, "stop", "warmup", "histogram_interval"),
        schedule=replace(schedule, milestones=tuple(map(convert, schedule.milestones))),
        training=replace(
            convert_keys(training, "duration", "eval_interval", "checkpoint_interval", "picture_interval"),
            ema=convert_keys(training.ema, "half_life"),
            early_stop=convert_keys(training.early_stop, "patience"),
        ),
    )


def _without(values: dict[str, object], keys: set[str]) -> dict[str, object]:
    """Nested values without some keys, which are written as in overrides."""
    kept: dict[str, object] = {}
    for name, value in values.items():
        inner = {key.removeprefix(f"{name}.") for key in keys if key.startswith(f"{name}.")}
        if name not in keys:
            kept[name] = _without(value, inner) if isinstance(value, dict) else value
    return kept


STARTS_ELSEWHERE = "starts from other weights"
WORK = {  # by the beginning of a recipe's key
    "training.duration": "trains another number of batches",
    "data.batch_size": "trains batches of another size",
    "data.val": "is evaluated on other images",
    "evaluation": "is scored by other rules",
    "data.train": "trains on other images",
    "model.name": "trains another detector",
    "model.backbone": STARTS_ELSEWHERE,
    "model.weights": STARTS_ELSEWHERE,
    "model.norm": STARTS_ELSEWHERE,
    "model.anchor_sizes": STARTS_ELSEWHERE,
    "optimizer": "has other settings of the optimizer",
    "schedule": "has another schedule",
}
"""What a run does differently that should be equal in a fair comparison."""


def describe_equal_work(ablation: Ablation, runs: Sequence[PlannedRun]) -> list[str]:
    """What is equal in all runs of a seed and fraction, and a line for each run in which something of it is not."""
    by_name = {run.name: run for run in runs if (run.seed, run.fraction) == (runs[0].seed, runs[0].fraction)}
    baseline = by_name[ablation.baseline]
    lines = [
        f"Equal work: each run trains {baseline.steps} batches of {baseline.recipe.data.batch_size} images, and is "
        "evaluated on the same images. For the same seed and fraction, runs start from the same weights and see the "
        "same images in the same order."
    ]
    for name, run in by_name.items():
        differences = recipe_differences(baseline.recipe, run.recipe)
        found: dict[str, list[str]] = {}
        for key in differences:
            for beginning, what in WORK.items():
                if key == beginning or key.startswith(f"{beginning}."):
                    found.setdefault(what, []).append(key)
        lines += [f"Not equal: {name} {what} ({', '.join(keys)})." for what, keys in found.items()]
    return [*lines, *_describe_scored(ablation)]


def iou_types_of(ablation: Ablation) -> tuple[IouType, ...]:
    """The IoU types that all runs are scored by: boxes alone where any detector finds no masks."""
    return ("bbox", "segm") if all(recipe.model.has_masks for recipe in ablation.recipes.values()) else ("bbox",)


def _describe_scored(ablation: Ablation) -> Iterator[str]:
    """A line saying that masks are not scored, where only some of the detectors find masks."""
    without = [name for name, recipe in ablation.recipes.items() if not recipe.model.has_masks]
    if 0 < len(without) < len(ablation.recipes):
        found = "finds no masks" if len(without) == 1 else "find no masks"
        yield f"Runs are compared by box AP alone, as {', '.join(without)} {found}."
