"""What a folder that this package has written holds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from matplotlib.figure import Figure

from composer_copypaste.data.streaming.format import INDEX
from composer_copypaste.errors import DataError, RecipeError, UserError, as_recipe_value, count_noun
from composer_copypaste.files import read_json, read_json_lines
from composer_copypaste.metrics.report import KINDS
from composer_copypaste.output_folder import WORKING_FOLDER
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.recipes.yaml12 import YamlError, parse_yaml
from composer_copypaste.runs.data import read_trained_categories
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.info.data_sets import describe_annotations
from composer_copypaste.runs.info.description import Description, InfoTable, Value, source_facts
from composer_copypaste.runs.info.evaluations import describe_matches, is_evaluation
from composer_copypaste.runs.info.predictions import describe_predictions, describe_unfinished, is_predictions
from composer_copypaste.settings import parse_time
from composer_copypaste.visualize.curves import draw_training
from composer_copypaste.visualize.evaluation_plots import plot_bars

ABLATION, RESULTS, TRAININGS = "ablation.yaml", "results.json", "trainings"
ANNOTATIONS, MANIFEST = "annotations.json", "copypaste.json"
SCORES = {"masks AP": "segm/AP", "masks AP50": "segm/AP50", "boxes AP": "bbox/AP", "boxes AP50": "bbox/AP50"}
LOSS = "loss/train/total"


def describe_folder(path: Path, images: Path | None = None) -> Description:
    """What a folder of this package holds.

    Raises:
        UserError: where it is of another kind, or cannot be read.
    """
    if (path / RunFolder(path).recipe.name).is_file():
        return _describe_run(RunFolder(path))
    if (path / ABLATION).is_file():
        return _describe_ablation(path)
    if is_predictions(path):
        return describe_predictions(path)
    if (path / MANIFEST).is_file() and (path / ANNOTATIONS).is_file():
        return _describe_made_data_set(path, images)
    if (path / WORKING_FOLDER).is_dir():
        return describe_unfinished(path)
    if is_evaluation(path):
        return describe_matches(RunFolder(path).matches)
    names = sorted(each.name for each in path.iterdir())[:5]
    raise UserError(
        f"{path}: expected the folder of a run, an ablation, an evaluation, predictions, an offline data set or "
        f"shards, found "
        f"{', '.join(names) or 'an empty one'}; of a data set, name the annotation file"
    )


# ---- a run


def _describe_run(run: RunFolder) -> Description:
    recipe = load_recipe(run.recipe)
    rows = read_json_lines(run.metrics)
    losses = [(row["batch"], row[LOSS]) for row in rows if LOSS in row]
    count, unit = parse_time(recipe.training.duration)
    batches = int(losses[-1][0] or 0) if losses else 0
    data = recipe.data.train
    facts: dict[str, Value] = {
        "name": recipe.name,
        "complete": run.is_complete,
        "trained batches": batches,
        "duration": f"{count} {'batches' if unit == 'ba' else 'epochs'}",
        **(
            {"model": recipe.model.title, "backbone": str(recipe.model.backbone)}
            if recipe.model.detectron2 is None
            else {"model of Detectron2": recipe.model.detectron2}
        ),
        "weights at the start": recipe.model.weights,
        "copy-paste": recipe.copy_paste is not None,
        "seed": recipe.seed,
        "training data": "drawn shapes" if data is None else str(data.annotations or data.streaming),
        "checkpoints": len([each for each in run.checkpoints.glob("*.pt") if not each.is_symlink()]),
    }
    problems = []
    if nonfinite := [batch for batch, loss in losses if loss is None]:
        problems.append(
            f"the loss was not finite in {count_noun(len(nonfinite), 'batch', 'batches')}, first in {nonfinite[0]}"
        )
    if not run.latest_checkpoint.exists():
        problems.append(f"there is no checkpoint: {run.latest_checkpoint}")
    evaluations, categories = _evaluation_table(rows), _run_categories(run)
    kind = "a training run"
    drawing = partial(draw_training, run.metrics) if rows else None
    return Description(run.root, kind, facts, [evaluations, *categories], problems, draw=drawing)


def _evaluation_table(rows: Sequence[Mapping[str, Any]]) -> InfoTable:
    """The scores of each evaluation, in percent."""
    logged = {title: f"metrics/eval/{name}" for title, name in SCORES.items()}
    logged = {title: key for title, key in logged.items() if any(key in row for row in rows)}
    shown: list[list[Value]] = [
        [str(int(row["batch"])), *(_percent(row.get(key)) for key in logged.values())]
        for row in rows
        if any(key in row for key in logged.values())
    ]
    return InfoTable("evaluations, in %", ["after batch", *logged], shown)


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _run_categories(run: RunFolder) -> list[InfoTable]:
    """The categories, with their scores in the last evaluation."""
    if not run.categories.exists():
        return []
    categories = read_trained_categories(run.categories)
    report = read_json(run.evaluation, "file of scores") if run.evaluation.exists() else {}
    kinds = [kind for kind in reversed(KINDS) if isinstance(report, dict) and kind in report]
    rows: list[list[Value]] = []
    for label, category in enumerate(categories, start=1):
        found = [report[kind]["per_category"].get(category.name, {}) for kind in kinds]
        instances = [numbers.get("instances") for numbers in found[:1]]
        rows.append([category.name, label, category.id, *instances, *(_percent(each.get("AP")) for each in found)])
    headers = ["category", "label", "id", *["evaluated objects" for _ in kinds[:1]]]
    return [InfoTable("categories", [*headers, *(f"{KINDS[kind]} AP, %" for kind in kinds)], rows)]


# ---- an ablation


def _describe_ablation(path: Path) -> Description:
    settings = _read_yaml(path / ABLATION)
    runs, seeds, fractions = (list(settings.get(key) or []) for key in ("runs", "seeds", "fractions"))
    trainings = [RunFolder(each) for each in sorted((path / TRAININGS).glob("*")) if each.is_dir()]
    facts: dict[str, Value] = {
        "runs": ", ".join(map(str, runs)),
        "seeds": ", ".join(map(str, seeds)),
        "fractions": ", ".join(map(str, fractions)),
        "trainings": len(runs) * len(seeds) * len(fractions),
        "complete trainings in the folder": sum(training.is_complete for training in trainings),
    }
    results = path / RESULTS
    if not results.exists():
        return Description(path, "an ablation", facts, warnings=["there are no results yet: copypaste ablate --report"])
    report = read_json(results, "results of the ablation")
    try:
        kinds = [kind for kind in reversed(KINDS) if any(kind in run["scores"] for run in report["runs"])]
        rows = [_ablation_row(run, kinds) for run in report["runs"]]
        missing, failed = [str(each) for each in report["missing"]], [str(each) for each in report["failed"]]
    except (LookupError, TypeError):
        raise DataError(f"{results}: expected the results of an ablation, found {as_recipe_value(report)}") from None
    facts["baseline"] = report.get("baseline")
    headers = ["run", "fraction", "seeds", "images", *(f"{KINDS[kind]} AP, %" for kind in kinds)]
    problems = [f"failed: {each}" for each in failed]
    warnings = [f"not finished: {each}" for each in missing]
    table = InfoTable("results, mean of the seeds", headers, rows)
    return Description(path, "an ablation", facts, [table], problems, warnings, partial(_draw_ablation, rows, kinds))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values, _ = parse_yaml(path.read_text(encoding="utf-8"))
    except (YamlError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected an ablation, got {as_recipe_value(values)}")
    return values


def _ablation_row(run: Mapping[str, Any], kinds: Sequence[str]) -> list[Value]:
    scores = [_percent(run["scores"].get(kind, {}).get("AP", {}).get("mean")) for kind in kinds]
    return [run["name"], run["fraction"], len(run["seeds"]), run["images"], *scores]


def _draw_ablation(rows: Sequence[Sequence[Value]], kinds: Sequence[str]) -> Figure:
    labels = [f"{row[0]}, {100 * cast(float, row[1]):g} %" for row in rows]
    groups = {
        KINDS[kind]: {label: _as_length(row[column]) for label, row in zip(labels, rows, strict=True)}
        for column, kind in enumerate(kinds, start=4)
    }
    return plot_bars(groups, "AP, %")


def _as_length(value: Value) -> float:
    return float("nan") if value is None else cast(float, value)


# ---- data sets that this package made


def _describe_made_data_set(path: Path, images: Path | None) -> Description:
    """An offline data set, or shards: their annotations, and what they were made from."""
    manifest = read_json(path / MANIFEST, "record of the data set")
    is_shards = (path / INDEX).is_file()
    folder = images if is_shards or images is not None else path / "images"
    annotations = path / ANNOTATIONS
    described = describe_annotations(read_json(annotations, "annotation file"), annotations, folder)
    source = manifest.get("source") if isinstance(manifest, dict) else None
    facts = source_facts(source or {})
    kind = "shards of a data set" if is_shards else "an offline data set"
    return replace(described, path=path, kind=kind, facts=described.facts | facts)
