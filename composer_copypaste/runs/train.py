"""From a recipe to a trained and evaluated model: the only module that knows all parts."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from composer import Algorithm, Callback, Event, State, Trainer
from composer.algorithms import GradientClipping
from composer.core import DataSpec
from composer.utils import create_interval_scheduler, dist

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.data.loaders import SkipsWhatIsDone, evaluation_loader, training_loader
from composer_copypaste.data.rle import OutlinedObjects, rle_of
from composer_copypaste.errors import CheckpointError, RecipeError
from composer_copypaste.integrations.composer.algorithms import CopyPaste, LargeScaleJitter
from composer_copypaste.integrations.composer.callbacks import (
    EvaluationFile,
    JsonLinesLogger,
    ProgressBar,
    run_callbacks,
)
from composer_copypaste.integrations.composer.checkpoints import (
    CheckpointWriter,
    check_resumable,
    is_over,
    loading_data_only,
    with_own_algorithms,
)
from composer_copypaste.integrations.composer.distributed import agreed, decided, one_voice, say
from composer_copypaste.integrations.composer.divergence import StopsAtNonFiniteLoss
from composer_copypaste.integrations.composer.from_recipe import (
    build_loggers,
    build_optimizer,
    build_schedule,
    check_loggers,
)
from composer_copypaste.integrations.composer.model import MaskRCNN
from composer_copypaste.integrations.composer.training_images import TrainingPictures, TrainingSheet
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.models.postprocess import DetectionDict
from composer_copypaste.models.weights import check_named
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.data import Data, copy_paste_settings, open_data
from composer_copypaste.runs.folder import RunFolder, check_usable
from composer_copypaste.runs.resume import enter, explained, started
from composer_copypaste.visualize.curves import plot_curves
from composer_copypaste.visualize.draw import prediction_sheet, save_png

SHEET_IMAGES = 8
"""So many images are on the sheet of predictions."""


def train(recipe: Recipe, folder: RunFolder) -> None:
    """Train a recipe, evaluate it and leave everything in the folder; a run that was interrupted there is resumed.

    In a distributed run, the first process's folder counts, and only that process writes.

    Raises:
        UserError: where the recipe, its data or the folder cannot be used; nothing is written then. Only an image
            that turns out to be damaged while it is read, or a full disk, leaves what was done until then.
    """
    with ExitStack() as stay:
        _train(recipe, folder, stay)


def _train(recipe: Recipe, folder: RunFolder, stay: ExitStack) -> None:
    with one_voice():
        check_requirements(recipe)
        dist.initialize_dist("gpu" if on_gpu(recipe) else "cpu")
        limit_threads(recipe)
        folder = decided(lambda: _usable(folder, recipe))
        if decided(lambda: folder.is_complete):
            say(f"{folder.root}: this run is complete; give output=ANOTHER_FOLDER to train again")
            return
        data, model = agreed(lambda: _prepared(recipe))
        checkpoint = decided(lambda: enter(folder, recipe, data, stay))
        if checkpoint is not None:
            agreed(lambda: check_resumable(checkpoint, model, _algorithms(recipe, data)))
    trainer = build_trainer(recipe, model, data, folder, checkpoint)
    say(started(folder, trainer.state))
    with explained(folder, recipe):
        _fit(trainer)
        if dist.get_global_rank() == 0:
            plot_curves(folder.metrics, folder.curves)
            save_predictions(model, data.val, folder.predictions)
    trainer.close()


def _usable(folder: RunFolder, recipe: Recipe) -> RunFolder:
    check_usable(folder, recipe)
    return folder


def _prepared(recipe: Recipe) -> tuple[Data, MaskRCNN]:
    data = open_data(recipe)
    return data, build_model(recipe, data.val.annotations)


def _fit(trainer: Trainer) -> None:
    """Train to the end, evaluate, and save both; a trainer that is there already would refuse to fit."""
    writer = next(callback for callback in trainer.state.callbacks if isinstance(callback, CheckpointWriter))
    try:
        if writer.evaluation_due:  # the run was ended in it
            trainer.eval()
        if not is_over(trainer.state):
            with warnings.catch_warnings():  # a checkpoint at the end of an epoch leaves no batches of it
                warnings.filterwarnings("ignore", "No batches were trained")
                trainer.fit()
            writer.save_before_evaluation(trainer.state)
            trainer.eval()
        writer.save(trainer.state)
    except Exception:
        trainer.engine.close()  # not the trainer, which would wait for the other processes
        raise


def check_requirements(recipe: Recipe) -> None:
    """Raise ``UserError`` where this machine lacks what the recipe needs besides its data: GPU, packages or weights."""
    check_device(recipe)
    check_loggers(recipe)
    try:
        check_named(recipe.model)
    except CheckpointError as error:
        raise CheckpointError(f"model.{error}") from None


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


def build_trainer(
    recipe: Recipe, model: MaskRCNN, data: Data, folder: RunFolder, checkpoint: Path | None = None
) -> Trainer:
    """Composer's trainer for a recipe, ready to ``fit``, from a checkpoint or from the beginning."""
    training = recipe.training
    gpu = on_gpu(recipe)
    algorithms = _algorithms(recipe, data)
    divergence = StopsAtNonFiniteLoss(recipe)
    with loading_data_only():
        return Trainer(
            model=model,
            train_dataloader=_training_batches(recipe, data.train),
            eval_dataloader=evaluation_batches(recipe, data.val),
            optimizers=build_optimizer(model, recipe.optimizer, recipe.data.batch_size * dist.get_world_size()),
            schedulers=build_schedule(recipe.schedule),
            algorithms=algorithms,
            max_duration=training.duration,
            eval_interval=_evaluations_on_the_way(training.eval_interval),
            device="gpu" if gpu else "cpu",
            precision=training.precision,
            device_train_microbatch_size=training.microbatch,
            seed=recipe.seed,
            run_name=recipe.name,
            load_path=None if checkpoint is None else str(checkpoint),
            load_ignore_keys=with_own_algorithms(algorithms),
            load_progress_bar=False,
            loggers=[
                JsonLinesLogger(folder.metrics),
                ProgressBar(),
                *build_loggers(recipe, folder),
                divergence,
            ],
            callbacks=[*_callbacks(recipe, data, folder), CheckpointWriter(folder, recipe, divergence)],
            progress_bar=False,
        )


def _evaluations_on_the_way(interval: str) -> Callable[[State, Event], bool]:
    """When is evaluated besides at the end, where the weights are saved first."""
    is_due = create_interval_scheduler(interval, include_end_of_training=False, checkpoint_events=False)
    return lambda state, event: is_due(state, event) and not is_over(state)


def _callbacks(recipe: Recipe, data: Data, folder: RunFolder) -> list[Callback]:
    names, interval = category_names(data.train), recipe.training.picture_interval
    images = [] if interval is None else [TrainingPictures(names, interval=interval, folder=folder.more_images)]
    return [
        SkipsWhatIsDone(),
        *run_callbacks(on_gpu=on_gpu(recipe)),
        TrainingSheet(folder.training_pictures, names),
        *images,
        EvaluationFile(folder.evaluation),
    ]


def build_model(recipe: Recipe, annotations: CocoAnnotations, *, load_weights: bool = True) -> MaskRCNN:
    """The recipe's model, with a metric that scores it by these annotations; new weights depend on its seed alone."""
    metric = CocoMeanAveragePrecision(
        annotations, category_ids=annotations.category_ids, max_dets=recipe.evaluation.max_dets
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # layers take their first weights from torch's global generator
        return MaskRCNN(annotations.num_classes, recipe.model, metric=metric, load_weights=load_weights)


def _training_batches(recipe: Recipe, data: InstanceData) -> DataSpec:
    return training_loader(data, batch_size=recipe.data.batch_size, workers=recipe.data.workers, seed=recipe.seed)


def evaluation_batches(recipe: Recipe, data: InstanceData) -> DataSpec:
    """The loader of an evaluation."""
    return evaluation_loader(data, batch_size=recipe.data.eval_batch_size, workers=recipe.data.workers)


def _algorithms(recipe: Recipe, data: Data) -> list[Algorithm]:
    """In the order that they give themselves, which checkpoints have: what is last runs first on a new batch."""
    algorithms: list[Algorithm] = []
    if recipe.training.clip_norm is not None:
        algorithms.append(GradientClipping("norm", recipe.training.clip_norm))
    settings = copy_paste_settings(recipe, category_names(data.train))
    if settings is not None:
        algorithms.append(CopyPaste(settings, pool=data.pool))
    if recipe.data.jitter is not None and recipe.data.jitter_on == "device":
        algorithms.append(LargeScaleJitter(recipe.data.jitter))
    return algorithms


def category_names(data: InstanceData) -> list[str]:
    """The names of label 1, of label 2 and so on."""
    return [category.name for category in data.categories]


def save_predictions(model: MaskRCNN, data: InstanceData, path: Path) -> None:
    """Draw a sheet of predictions beside the truth, for a few images spread over the data set."""
    count = min(SHEET_IMAGES, len(data))
    shown = [data.read(i * len(data) // count) for i in range(count)]
    images, truths = [image for _, image, _ in shown], [_with_rles(objects) for *_, objects in shown]
    save_png(prediction_sheet(images, truths, _detect(model, images), category_names(data)), path)


def _with_rles(objects: OutlinedObjects) -> dict[str, object]:
    """The objects to draw, their masks as run lengths: as planes, those of large images take gigabytes."""
    rles = [rle_of(segmentation, objects.size) for segmentation in objects.segmentations]
    return {"boxes": objects.boxes, "labels": objects.labels, "iscrowd": objects.iscrowd, "rles": rles}


def _detect(model: MaskRCNN, images: Sequence[torch.Tensor]) -> list[DetectionDict]:
    device = next(model.parameters()).device
    model.eval()
    return [found for image in images for found in model.eval_forward(([image.to(device)], [{}]))]
