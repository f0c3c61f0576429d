"""Composer's objects as a recipe describes them: model, algorithms, optimizer, schedule, loggers and trainers."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from composer import Algorithm, Callback, Event, State, Trainer
from composer.algorithms import EMA, GradientClipping
from composer.core import Time
from composer.loggers import LoggerDestination, MLFlowLogger, TensorboardLogger, WandBLogger
from composer.optim import (
    ComposerScheduler,
    ConstantScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingScheduler,
    CosineAnnealingWithWarmupScheduler,
    MultiStepScheduler,
    MultiStepWithWarmupScheduler,
)
from composer.utils import create_interval_scheduler, dist
from torch.optim import SGD, AdamW, Optimizer

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.errors import CheckpointError, RecipeError
from composer_copypaste.functional.sources import Pool
from composer_copypaste.integrations.composer.algorithms import CopyPaste, LargeScaleJitter
from composer_copypaste.integrations.composer.checkpoints import training_is_over
from composer_copypaste.integrations.composer.data_spec import evaluation_data_spec, training_data_spec
from composer_copypaste.integrations.composer.loggers import ProgressBar
from composer_copypaste.integrations.composer.model import Detector, InstanceSegmentationModel
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.models.weights import check_weights_name
from composer_copypaste.recipes.schema import OptimizerSettings, Recipe, ScheduleSettings
from composer_copypaste.settings import CopyPasteSettings, parse_time

Algorithms = list[Algorithm]


def runs_on_gpu(recipe: Recipe) -> bool:
    """Whether the recipe runs on a GPU here."""
    return torch.cuda.is_available() and recipe.training.device != "cpu"


def check_device(recipe: Recipe) -> None:
    """Raise ``RecipeError`` where this machine cannot do what the recipe asks for."""
    training = recipe.training
    if runs_on_gpu(recipe):
        return
    if training.device == "gpu":
        raise RecipeError("training.device: expected a GPU, found none; give training.device=cpu, or auto")
    if training.precision != "fp32":
        raise RecipeError(f"training.precision: {training.precision} needs a GPU, found none; give fp32")
    if training.microbatch == "auto":
        raise RecipeError("training.microbatch: 'auto' needs a GPU, found none; give a number, or null")


def check_model(recipe: Recipe) -> None:
    """Raise ``UserError`` where this machine lacks the model's package, or where its weights name nothing."""
    with errors_name_section("model"):
        if recipe.model.detectron2 is None:
            check_weights_name(recipe.model)
            return
        from composer_copypaste.integrations.detectron2.from_recipe import check_detectron2_settings

        check_detectron2_settings(recipe.model)


def connect_processes(*, on_gpu: bool) -> None:
    """Let the processes of a run exchange data, over GPUs or CPUs."""
    dist.initialize_dist("gpu" if on_gpu else "cpu")


def limit_threads(recipe: Recipe) -> None:
    """Let torch compute with the recipe's number of threads."""
    if recipe.training.cpu_threads is not None:
        torch.set_num_threads(recipe.training.cpu_threads)


@contextmanager
def errors_name_section(section: str) -> Iterator[None]:
    """Put the recipe's section before a ``RecipeError`` or ``CheckpointError`` that begins with one of its keys."""
    try:
        yield
    except (RecipeError, CheckpointError) as error:
        named = f"{section}.{error}" if re.match(r"\w+: ", str(error)) else str(error)
        raise type(error)(named) from error


def build_model(
    recipe: Recipe,
    annotations: CocoAnnotations,
    *,
    load_weights: bool = True,
    labels: Mapping[int, int | None] | None = None,
) -> InstanceSegmentationModel:
    """The recipe's model, with a metric that scores it by these annotations; new weights depend on its seed alone.

    Args:
        recipe: how the model is built and scored.
        annotations: whose categories are the model's labels.
        load_weights: False leaves out the recipe's weights.
        labels: the label of each of the model's classes, where it has other classes than the annotations; None for
            those whose detections are left out.
    """
    metric = CocoMeanAveragePrecision(
        annotations,
        category_ids=annotations.category_ids,
        max_dets=recipe.evaluation.max_dets,
        iou_types=("bbox", "segm") if recipe.model.has_masks else ("bbox",),
    )
    with torch.random.fork_rng(devices=[]), errors_name_section("model"):
        torch.manual_seed(recipe.seed)  # layers take their first weights from torch's global generator
        classes = annotations.num_classes if labels is None else len(labels) + 1
        if recipe.model.detectron2 is not None:
            from composer_copypaste.integrations.detectron2.from_recipe import build_detectron2_model

            return build_detectron2_model(
                recipe.model, classes, metric=metric, load_weights=load_weights, labels=labels
            )
        names = None if labels is not None else [category.name for category in annotations.categories]
        return Detector(
            classes, recipe.model, metric=metric, load_weights=load_weights, labels=labels, category_names=names
        )


def build_algorithms(recipe: Recipe, copy_paste: CopyPasteSettings | None, pool: Pool | None) -> Algorithms:
    """The recipe's algorithms, in the order in which checkpoints list them: the last runs first on a new batch.

    Args:
        recipe: for gradient clipping and large-scale jitter.
        copy_paste: the recipe's section, with labels in place of category names; None: no copy-paste.
        pool: cut-outs as additional sources.
    """
    algorithms: Algorithms = []
    if recipe.training.clip_norm is not None:
        algorithms.append(GradientClipping("norm", recipe.training.clip_norm))
    if recipe.training.ema is not None:
        algorithms.append(EMA(half_life=recipe.training.ema.half_life))
    if copy_paste is not None:
        keeps = copy_paste.keep_masks and recipe.model.has_masks
        algorithms.append(CopyPaste(replace(copy_paste, keep_masks=keeps), pool=pool))
    if recipe.data.jitter is not None and recipe.data.jitter_on == "device":
        algorithms.append(LargeScaleJitter(recipe.data.jitter))
    return algorithms


def build_trainer(
    recipe: Recipe,
    model: InstanceSegmentationModel,
    train: InstanceData,
    val: InstanceData,
    *,
    algorithms: Sequence[Algorithm] = (),
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """Composer's trainer for a recipe, ready to ``fit``; loggers may be among the callbacks."""
    training, data = recipe.training, recipe.data
    evaluation_is_due = create_interval_scheduler(
        training.eval_interval, include_end_of_training=False, checkpoint_events=False
    )

    def evaluates_now(state: State, event: Event) -> bool:
        # the evaluation at the end is a separate one, after the weights are saved
        return evaluation_is_due(state, event) and not training_is_over(state)

    return Trainer(
        model=model,
        train_dataloader=training_data_spec(train, batch_size=data.batch_size, workers=data.workers, seed=recipe.seed),
        eval_dataloader=evaluation_data_spec(val, batch_size=data.eval_batch_size, workers=data.workers),
        optimizers=build_optimizer(model, recipe.optimizer, data.batch_size * dist.get_world_size()),
        schedulers=build_schedule(recipe.schedule),
        algorithms=algorithms,
        max_duration=training.duration,
        eval_interval=evaluates_now,
        device="gpu" if runs_on_gpu(recipe) else "cpu",
        precision=training.precision,
        device_train_microbatch_size=training.microbatch,
        seed=recipe.seed,
        run_name=recipe.name,
        loggers=[callback for callback in callbacks if isinstance(callback, LoggerDestination)],
        callbacks=[callback for callback in callbacks if not isinstance(callback, LoggerDestination)],
        progress_bar=False,
    )


def build_evaluator(recipe: Recipe, model: InstanceSegmentationModel, data: InstanceData) -> Trainer:
    """Composer's trainer for an evaluation alone, with a progress bar."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No optimizer was specified")  # an evaluation needs none
        return Trainer(
            model=model,
            eval_dataloader=evaluation_data_spec(
                data, batch_size=recipe.data.eval_batch_size, workers=recipe.data.workers
            ),
            device="gpu" if runs_on_gpu(recipe) else "cpu",
            precision=recipe.training.precision,
            seed=recipe.seed,
            loggers=[ProgressBar()],
            progress_bar=False,
        )


def build_optimizer(model: InstanceSegmentationModel, settings: OptimizerSettings, total_batch_size: int) -> Optimizer:
    """The optimizer of the weights that train; ``total_batch_size`` counts the images of a step on all devices."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    lr = settings.lr_for(total_batch_size)
    if settings.name == "sgd":
        return SGD(weights, lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return AdamW(weights, lr=lr, weight_decay=settings.weight_decay)


def build_schedule(settings: ScheduleSettings) -> ComposerScheduler:
    """How the learning rate changes over the training.

    Composer warns of a warm-up that takes no time: without one, another class is taken.
    """
    milestones: list[str | Time[Any]] = [composer_time(milestone) for milestone in settings.milestones]
    if parse_time(settings.warmup)[0]:
        warmup = composer_time(settings.warmup)
        if settings.name == "multistep":
            return MultiStepWithWarmupScheduler(warmup, milestones, settings.gamma)
        if settings.name == "cosine":
            return CosineAnnealingWithWarmupScheduler(warmup, alpha_f=settings.final)
        return ConstantWithWarmupScheduler(warmup)
    if settings.name == "multistep":
        return MultiStepScheduler(milestones, settings.gamma)
    if settings.name == "cosine":
        return CosineAnnealingScheduler(alpha_f=settings.final)
    return ConstantScheduler()


LOGGERS: Mapping[str, Callable[[Path], LoggerDestination]] = {
    "tensorboard": lambda root: TensorboardLogger(log_dir=str(root / "tensorboard")),
    "wandb": lambda root: WandBLogger(name=root.name, group=root.name, init_kwargs={"dir": str(root)}),
    "mlflow": lambda root: MLFlowLogger(run_name=root.name, log_system_metrics=False),
}
"""The loggers that recipes can name; each is made for a run's folder, whose name its run gets."""


def check_loggers(recipe: Recipe) -> None:
    """Raise ``RecipeError`` where a logger's package, which has the logger's name, is not installed."""
    for name in recipe.training.loggers:
        if find_spec(name) is None:
            raise RecipeError(
                f"training.loggers: {name!r} needs the package {name}, which is not installed: "
                f"pip install 'composer-copypaste[loggers]', or leave it out"
            )


def build_loggers(recipe: Recipe, root: Path) -> list[LoggerDestination]:
    """The recipe's loggers for a run in a folder. Their own environment variables say where they write."""
    return [LOGGERS[name](root.absolute()) for name in recipe.training.loggers]


def composer_time(time: str) -> str:
    """The time as Composer writes it, without percent."""
    value, unit = parse_time(time)
    return f"{float(value)}dur" if unit == "dur" else time
