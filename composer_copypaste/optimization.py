"""What a recipe says of optimizer and schedule, as Composer's trainer takes it."""

from typing import Any

from composer.core import Time
from composer.optim import (
    ComposerScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingWithWarmupScheduler,
    MultiStepWithWarmupScheduler,
)
from torch.optim import SGD, AdamW, Optimizer

from composer_copypaste.config.schema import OptimizerSettings, ScheduleSettings
from composer_copypaste.models.detector import MaskRCNN
from composer_copypaste.times import composer_time


def build_optimizer(model: MaskRCNN, settings: OptimizerSettings, total_batch_size: int) -> Optimizer:
    """The optimizer of the weights that train, for so many pictures a step over all devices."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    lr = settings.lr_for(total_batch_size)
    if settings.name == "sgd":
        return SGD(weights, lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return AdamW(weights, lr=lr, weight_decay=settings.weight_decay)


def build_schedule(settings: ScheduleSettings) -> ComposerScheduler:
    """How the learning rate changes over the training."""
    warmup = composer_time(settings.warmup)
    if settings.name == "multistep":
        milestones: list[str | Time[Any]] = [composer_time(milestone) for milestone in settings.milestones]
        return MultiStepWithWarmupScheduler(warmup, milestones, settings.gamma)
    if settings.name == "cosine":
        return CosineAnnealingWithWarmupScheduler(warmup, alpha_f=settings.final)
    return ConstantWithWarmupScheduler(warmup)
