"""From a recipe to a trained and evaluated model: the only module that knows all parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from composer import Algorithm, Trainer
from composer.algorithms import GradientClipping
from composer.core import DataSpec, Time
from composer.optim import (
    ComposerScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingWithWarmupScheduler,
    MultiStepWithWarmupScheduler,
)
from composer.utils import dist
from torch.optim import SGD, AdamW, Optimizer

from composer_copypaste.algorithms.copypaste import CopyPaste
from composer_copypaste.algorithms.large_scale_jitter import LargeScaleJitter
from composer_copypaste.callbacks import JsonLinesLogger, ProgressBar, TrainingSheet, run_callbacks
from composer_copypaste.config.schema import CocoFiles, DataSettings, OptimizerSettings, Recipe, ScheduleSettings
from composer_copypaste.curves import plot_curves
from composer_copypaste.data.coco import Category, CocoAnnotations, CocoInstances, check_pictures
from composer_copypaste.data.loaders import evaluation_loader, training_loader
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform
from composer_copypaste.errors import DataError, RecipeError, UserError
from composer_copypaste.metrics.coco import CocoMeanAveragePrecision, CocoScalar
from composer_copypaste.models.detector import Detections, MaskRCNN
from composer_copypaste.report import Report, evaluation_report, write_json
from composer_copypaste.run_folder import RunFolder, check_free, claim
from composer_copypaste.settings import ShapesSettings
from composer_copypaste.times import composer_time
from composer_copypaste.visualize import prediction_sheet, save_png

SHEET_PICTURES = 8
"""So many pictures are on the sheet of predictions."""

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Data:
    """The pictures that a recipe trains on and those that it is evaluated on."""

    train: CocoInstances
    val: CocoInstances


def train(recipe: Recipe, folder: RunFolder) -> Report:
    """Train a recipe, evaluate it and leave everything in the folder; what ``evaluation.json`` holds is given back.

    Raises:
        UserError: where the recipe, its data or the folder cannot be used; nothing is written then. Only a picture
            that turns out to be damaged while it is read leaves what was done until then.
    """
    check_device(recipe)
    limit_threads(recipe)
    data = open_data(recipe)
    check_free(folder)
    model = build_model(recipe, data.val.annotations)
    claim(folder, recipe, data.val.annotations.categories)
    trainer = build_trainer(recipe, model, data, folder)
    _fit(trainer, folder)
    report = last_report(trainer)
    if dist.get_global_rank() == 0:
        write_json(report, folder.evaluation)
        plot_curves(folder.metrics, folder.curves)
        save_predictions(cast(MaskRCNN, trainer.state.model), data.val, folder.predictions)
    trainer.close()
    return report


def _fit(trainer: Trainer, folder: RunFolder) -> None:
    try:
        trainer.fit()
    except UserError as error:  # a picture whose header is in order, and the rest is not
        trainer.close()
        raise type(error)(
            f"{error}. {folder.root} holds what was done so far: remove it, or give output=ANOTHER_FOLDER, "
            "before you start again"
        ) from error


def describe(recipe: Recipe, folder: RunFolder) -> str:
    """What ``train`` would do, after all its checks; nothing is written.

    Raises:
        UserError: as ``train`` does.
    """
    check_device(recipe)
    shapes = recipe.data.shapes
    if shapes is not None and _is_free(Path(shapes.folder)):
        pictures = f"{shapes.train} pictures, drawn into {shapes.folder} first; evaluated on {shapes.val}"
    else:
        data = open_data(recipe)
        pictures = f"{_contents(data.train)}; evaluated on {_contents(data.val)}"
    pasting = "off" if recipe.copy_paste is None else f"on, p={recipe.copy_paste.p:g}"
    device = "GPU" if on_gpu(recipe) else "CPU"
    return "\n".join(
        (
            f"recipe      {recipe.name}",
            f"data        {pictures}",
            f"model       Mask R-CNN, backbone {recipe.model.backbone}, weights {recipe.model.weights}",
            f"copy-paste  {pasting}",
            f"training    {recipe.training.duration} on {dist.get_world_size()} {device}, "
            f"batches of {recipe.data.batch_size} on each",
            f"output      {folder.root}",
        )
    )


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _contents(data: CocoInstances) -> str:
    objects = sum(len(annotations) for annotations in data.annotations.annotations.values())
    categories = len(data.annotations.categories)
    return f"{len(data)} pictures of {data.images} with {objects} objects of {categories} categories"


def check_device(recipe: Recipe) -> None:
    """Raise ``RecipeError`` where this machine cannot do what the recipe asks for."""
    training = recipe.training
    if on_gpu(recipe):
        return
    if training.device == "gpu":
        raise RecipeError("training.device: expected a GPU, found none; give training.device=cpu, or auto")
    if training.precision != "fp32":
        raise RecipeError(f"training.precision: {training.precision} needs a GPU, found none; give fp32")
    if training.microbatch == "auto":
        raise RecipeError("training.microbatch: 'auto' needs a GPU, found none; give a number, or null")


def limit_threads(recipe: Recipe) -> None:
    """Let torch compute with as many threads as the recipe says."""
    if recipe.training.cpu_threads is not None:
        torch.set_num_threads(recipe.training.cpu_threads)


def on_gpu(recipe: Recipe) -> bool:
    """Whether the recipe runs on a GPU here."""
    return torch.cuda.is_available() and recipe.training.device != "cpu"


def open_data(recipe: Recipe) -> Data:
    """The recipe's data sets, completely checked; a drawn one is drawn now, if it is not there yet.

    Raises:
        DataError: listing what is wrong with annotations or pictures.
    """
    train_files, val_files = coco_files(recipe.data)
    train, val = checked_annotations(train_files), checked_annotations(val_files)
    check_categories(val, train.categories, str(train.path))
    return Data(
        train=CocoInstances(train_files.images, train, _transform(recipe.data), seed=recipe.seed),
        val=CocoInstances(val_files.images, val, masks=False),
    )


def coco_files(settings: DataSettings) -> tuple[CocoFiles, CocoFiles]:
    """Where the pictures to train on and those to evaluate on are; drawn ones are drawn now, if they are not there."""
    if settings.train is not None and settings.val is not None:
        return settings.train, settings.val
    root = draw_shapes(settings.shapes or ShapesSettings())
    train, val = (
        CocoFiles(images=root / split, annotations=root / "annotations" / f"instances_{split}.json")
        for split in ("train", "val")
    )
    return train, val


def checked_annotations(files: CocoFiles) -> CocoAnnotations:
    """The annotations, when they and the pictures they name are in order."""
    annotations = CocoAnnotations.load(files.annotations)
    check_pictures(annotations, files.images)
    return annotations


def check_categories(annotations: CocoAnnotations, expected: Sequence[Category], source: str) -> None:
    """Raise ``DataError`` where the annotations' categories are not those of the source."""
    if list(annotations.categories) != list(expected):
        raise DataError(
            f"{annotations.path}: expected the categories of {source}, {_listed(expected)}; "
            f"got {_listed(annotations.categories)}"
        )


def _listed(categories: Sequence[Category]) -> str:
    return ", ".join(f"{category.id} {category.name}" for category in categories)


def _transform(settings: DataSettings) -> LargeScaleJitterTransform | FlipTransform | None:
    if settings.jitter is None:
        return FlipTransform(settings.p_flip)
    return LargeScaleJitterTransform(settings.jitter) if settings.jitter_on == "loader" else None


def build_trainer(recipe: Recipe, model: MaskRCNN, data: Data, folder: RunFolder) -> Trainer:
    """Composer's trainer for a recipe, ready to ``fit``."""
    training = recipe.training
    gpu = on_gpu(recipe)
    return Trainer(
        model=model,
        train_dataloader=_training_batches(recipe, data.train),
        eval_dataloader=evaluation_batches(recipe, data.val),
        optimizers=_optimizer(model, recipe.optimizer, recipe.data.batch_size * dist.get_world_size()),
        schedulers=_schedule(recipe.schedule),
        algorithms=_algorithms(recipe),
        max_duration=training.duration,
        eval_interval=training.eval_interval,
        device="gpu" if gpu else "cpu",
        precision=training.precision,
        device_train_microbatch_size=training.microbatch,
        seed=recipe.seed,
        run_name=recipe.name,
        save_folder=str(folder.checkpoints),
        save_interval=training.checkpoint_interval,
        save_num_checkpoints_to_keep=KEPT_CHECKPOINTS,
        loggers=[JsonLinesLogger(folder.metrics), ProgressBar()],
        callbacks=[*run_callbacks(on_gpu=gpu), TrainingSheet(folder.training_pictures, category_names(data.train))],
        progress_bar=False,
    )


def build_model(recipe: Recipe, annotations: CocoAnnotations, *, load_weights: bool = True) -> MaskRCNN:
    """The recipe's model, with a metric that scores it by these annotations; new weights depend on its seed alone."""
    metric = CocoMeanAveragePrecision(
        annotations.path, category_ids=annotations.category_ids, max_dets=recipe.evaluation.max_dets
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # layers take their first weights from torch's global generator
        return MaskRCNN(annotations.num_classes, recipe.model, metric=metric, load_weights=load_weights)


def _training_batches(recipe: Recipe, data: CocoInstances) -> DataSpec:
    return training_loader(data, batch_size=recipe.data.batch_size, workers=recipe.data.workers, seed=recipe.seed)


def evaluation_batches(recipe: Recipe, data: CocoInstances) -> DataSpec:
    """The loader of an evaluation."""
    return evaluation_loader(data, batch_size=recipe.data.eval_batch_size, workers=recipe.data.workers)


def _algorithms(recipe: Recipe) -> list[Algorithm]:
    algorithms: list[Algorithm] = []
    if recipe.data.jitter is not None and recipe.data.jitter_on == "device":
        algorithms.append(LargeScaleJitter(recipe.data.jitter))
    if recipe.copy_paste is not None:
        algorithms.append(CopyPaste(recipe.copy_paste))
    if recipe.training.clip_norm is not None:
        algorithms.append(GradientClipping("norm", recipe.training.clip_norm))
    return algorithms


def _optimizer(model: MaskRCNN, settings: OptimizerSettings, total_batch_size: int) -> Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    lr = settings.lr_for(total_batch_size)
    if settings.name == "sgd":
        return SGD(weights, lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return AdamW(weights, lr=lr, weight_decay=settings.weight_decay)


def _schedule(settings: ScheduleSettings) -> ComposerScheduler:
    warmup = composer_time(settings.warmup)
    if settings.name == "multistep":
        milestones: list[str | Time[Any]] = [composer_time(milestone) for milestone in settings.milestones]
        return MultiStepWithWarmupScheduler(warmup, milestones, settings.gamma)
    if settings.name == "cosine":
        return CosineAnnealingWithWarmupScheduler(warmup, alpha_f=settings.final)
    return ConstantWithWarmupScheduler(warmup)


def category_names(data: CocoInstances) -> list[str]:
    """The names of label 1, of label 2 and so on."""
    return [category.name for category in data.annotations.categories]


def last_report(trainer: Trainer) -> Report:
    """What the last evaluation found; in a distributed run, every process must ask for it."""
    scalar = cast(CocoScalar, next(iter(trainer.state.eval_metrics["eval"].values())))
    return evaluation_report(scalar.whole)


def save_predictions(model: MaskRCNN, data: CocoInstances, path: Path) -> None:
    """Draw a sheet of predictions beside the truth, for a few pictures spread over the data set."""
    shown = CocoInstances(data.images, data.annotations)
    count = min(SHEET_PICTURES, len(shown))
    pictures, targets = zip(*(shown[i * len(shown) // count] for i in range(count)), strict=True)
    save_png(prediction_sheet(pictures, targets, _detect(model, pictures), category_names(data)), path)


def _detect(model: MaskRCNN, pictures: Sequence[torch.Tensor]) -> list[Detections]:
    device = next(model.parameters()).device
    model.eval()
    return [found for picture in pictures for found in model.eval_forward(([picture.to(device)], [{}]))]
