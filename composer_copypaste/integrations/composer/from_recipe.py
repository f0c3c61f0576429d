"""What a recipe says of optimizer and schedule, as Composer's trainer takes it."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
from torch.optim import SGD, AdamW, Optimizer

from composer_copypaste.errors import RecipeError
from composer_copypaste.integrations.composer.model import MaskRCNN
from composer_copypaste.recipes.schema import OptimizerSettings, Recipe, ScheduleSettings
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.settings import composer_time, parse_time


def build_optimizer(model: MaskRCNN, settings: OptimizerSettings, total_batch_size: int) -> Optimizer:
    """The optimizer of the weights that train, for so many images a step over all devices."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    lr = settings.lr_for(total_batch_size)
    if settings.name == "sgd":
        return SGD(weights, lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return AdamW(weights, lr=lr, weight_decay=settings.weight_decay)


def build_schedule(settings: ScheduleSettings) -> ComposerScheduler:
    """How the learning rate changes over the training.

    Composer warns of a warm-up that takes no time: one that the recipe does not want is left out.
    """
    value, _ = parse_time(settings.warmup)
    return _with_warmup(settings, composer_time(settings.warmup)) if value else _without_warmup(settings)


def _with_warmup(settings: ScheduleSettings, warmup: str) -> ComposerScheduler:
    if settings.name == "multistep":
        return MultiStepWithWarmupScheduler(warmup, _milestones(settings), settings.gamma)
    if settings.name == "cosine":
        return CosineAnnealingWithWarmupScheduler(warmup, alpha_f=settings.final)
    return ConstantWithWarmupScheduler(warmup)


def _without_warmup(settings: ScheduleSettings) -> ComposerScheduler:
    if settings.name == "multistep":
        return MultiStepScheduler(_milestones(settings), settings.gamma)
    if settings.name == "cosine":
        return CosineAnnealingScheduler(alpha_f=settings.final)
    return ConstantScheduler()


def _milestones(settings: ScheduleSettings) -> list[str | Time[Any]]:
    return [composer_time(milestone) for milestone in settings.milestones]


def check_loggers(recipe: Recipe) -> None:
    """Raise ``RecipeError`` where a logger's package is not installed; they are called as the loggers are."""
    for name in recipe.training.loggers:
        if find_spec(name) is None:
            raise RecipeError(
                f"training.loggers: {name!r} needs the package {name}, which is not installed: "
                f"pip install 'composer-copypaste[loggers]', or leave it out"
            )


def build_loggers(recipe: Recipe, folder: RunFolder) -> list[LoggerDestination]:
    """The recipe's loggers, their runs called as the folder is. Where they write is up to their own variables."""
    return [MADE[name](folder.root.absolute()) for name in recipe.training.loggers]


def _tensorboard(root: Path) -> LoggerDestination:
    return TensorboardLogger(log_dir=str(root / "tensorboard"))


def _wandb(root: Path) -> LoggerDestination:
    return WandBLogger(name=root.name, group=root.name, init_kwargs={"dir": str(root)})


def _mlflow(root: Path) -> LoggerDestination:
    return MLFlowLogger(run_name=root.name, log_system_metrics=False)


MADE: Mapping[str, Callable[[Path], LoggerDestination]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
