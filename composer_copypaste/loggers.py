"""The loggers that a recipe names: optional packages, imported where one is made."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from composer.loggers import LoggerDestination, MLFlowLogger, TensorboardLogger, WandBLogger

from composer_copypaste.config.schema import Recipe
from composer_copypaste.errors import RecipeError
from composer_copypaste.run_folder import RunFolder


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
