"""What a recipe says of optimizer and schedule, as Composer's trainer takes it."""

from typing import Any

from composer.core import Time
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

from composer_copypaste.config.schema import OptimizerSettings, ScheduleSettings
from composer_copypaste.models.detector import MaskRCNN
from composer_copypaste.times import composer_time, parse_time


def build_optimizer(model: MaskRCNN, settings: OptimizerSettings, total_batch_size: int) -> Optimizer:
    """The optimizer of the weights that train, for so many pictures a step over all devices."""
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
