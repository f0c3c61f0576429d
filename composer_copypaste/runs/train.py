"""Trains a recipe in a folder, evaluates it, and draws what it learned."""

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.data.rle import rle_of_segmentation
from composer_copypaste.distributed import (
    all_processes_succeed,
    errors_raised_once,
    first_process_decides,
    is_first_process,
    print_once,
)
from composer_copypaste.errors import DivergedError, OutputError, UserError
from composer_copypaste.integrations.composer.best import BestCheckpoint, StopsEarly
from composer_copypaste.integrations.composer.callbacks import (
    EvaluationFiles,
    SkipTrainedSamples,
    StopsAtNonFiniteLoss,
    TrainingPictures,
    TrainingSheet,
    build_monitors,
)
from composer_copypaste.integrations.composer.checkpoints import (
    CheckpointLoader,
    CheckpointWriter,
    averaged_weights,
    last_good_checkpoint,
    load_checkpoint,
    train_and_evaluate,
)
from composer_copypaste.integrations.composer.from_recipe import (
    Algorithms,
    build_algorithms,
    build_loggers,
    build_model,
    build_trainer,
    check_device,
    check_loggers,
    check_model,
    connect_processes,
    limit_threads,
    runs_on_gpu,
)
from composer_copypaste.integrations.composer.loggers import JsonLinesLogger, ProgressBar, total_batches
from composer_copypaste.integrations.composer.model import InstanceSegmentationModel
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.data import RunData, category_names, copy_paste_settings, open_data
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.resume import begin_or_resume, check_run_folder
from composer_copypaste.visualize.curves import plot_curves
from composer_copypaste.visualize.draw import prediction_sheet, save_png

PREDICTION_COUNT = 8
"""Number of images on the sheet of predictions."""

DISK_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk that is full, or of a quota."""


def train(recipe: Recipe, folder: RunFolder) -> None:
    """Train a recipe, evaluate it and leave everything in the folder; a run that was interrupted there is resumed.

    In a distributed run, the first process's folder counts, and only that process writes.

    Raises:
        UserError: where the recipe, its data or the folder cannot be used; nothing is written then. Only an image
            that turns out to be damaged while it is read, a full disk, or a training that diverges leaves what was
            done until then.
    """
    with ExitStack() as lock:
        with errors_raised_once():
            run = _begin_run(recipe, folder, lock)
        if run is None:
            print_once(f"{folder.root}: this run is complete; give output=ANOTHER_FOLDER to train again")
        else:
            _train(run)


@dataclass(frozen=True)
class _Run:
    """What is trained, after all checks: the folder is this run's, and locked."""

    recipe: Recipe
    folder: RunFolder
    data: RunData
    category_names: list[str]
    model: InstanceSegmentationModel
    algorithms: Algorithms
    loader: CheckpointLoader | None
    """Continues from a checkpoint; None: the training begins."""


def _begin_run(recipe: Recipe, folder: RunFolder, lock: ExitStack) -> _Run | None:
    """Check everything, and make the folder that of the run; None where the run is complete."""
    check_requirements(recipe)
    connect_processes(on_gpu=runs_on_gpu(recipe))
    limit_threads(recipe)
    folder = first_process_decides(lambda: folder)
    first_process_decides(lambda: check_run_folder(folder, recipe))
    if first_process_decides(lambda: folder.is_complete):
        return None
    data, model = all_processes_succeed(lambda: _training_data_and_model(recipe))
    names = category_names(data.train)
    algorithms = build_algorithms(recipe, copy_paste_settings(recipe, names, data.train), data.pool)
    saved = first_process_decides(lambda: begin_or_resume(folder, recipe, data, lock))
    loader = None
    if saved is not None:
        loader = CheckpointLoader(all_processes_succeed(lambda: load_checkpoint(saved, model, algorithms)))
    return _Run(recipe, folder, data, names, model, algorithms, loader)


def _train(run: _Run) -> None:
    """Train, evaluate, and draw what was learned."""
    recipe, folder, training = run.recipe, run.folder, run.recipe.training
    divergence = StopsAtNonFiniteLoss(training.stop_after_nonfinite_losses)
    writer = CheckpointWriter(folder.checkpoints, training.checkpoint_interval, divergence)
    best = None if training.best_checkpoint is None else BestCheckpoint(folder.checkpoints, training.best_checkpoint)
    stopper = None if training.early_stop is None else StopsEarly(training.early_stop)
    trainer = build_trainer(
        recipe,
        run.model,
        run.data.train,
        run.data.val,
        algorithms=run.algorithms,
        callbacks=[
            JsonLinesLogger(folder.metrics),
            ProgressBar(),
            *build_loggers(recipe, folder.root),
            divergence,
            *([] if run.loader is None else [run.loader]),
            SkipTrainedSamples(),
            *build_monitors(on_gpu=runs_on_gpu(recipe)),
            *_training_images(run),
            *([] if best is None else [best]),
            *([] if stopper is None else [stopper]),  # before the files: it may make an evaluation the last
            EvaluationFiles(folder.evaluation, folder.matches),
            writer,
        ],
    )
    _say_what_begins(run, trainer.state.timestamp.batch.value, total_batches(trainer.state))
    with _errors_say_how_to_go_on(folder, recipe, lambda: trainer.state.timestamp.batch.value):
        train_and_evaluate(trainer, writer, stopper)
        if best is not None and (described := best.describe()):
            print_once(described)
        if is_first_process():
            plot_curves(folder.metrics, folder.curves)
            with averaged_weights(trainer.state):
                save_predictions(run.model, run.data.val, folder.predictions)
    trainer.close()


def _training_images(run: _Run) -> Iterator[TrainingSheet | TrainingPictures]:
    """Callbacks that draw training batches: the first one, and those at ``training.picture_interval``."""
    yield TrainingSheet(run.folder.training_pictures, run.category_names)
    interval, folder = run.recipe.training.picture_interval, run.folder.more_training_pictures
    if interval is not None:
        yield TrainingPictures(run.category_names, interval=interval, folder=folder)


def _say_what_begins(run: _Run, done: int, total: int | None) -> None:
    """Print at which batch the training goes on, or else that it begins, and with which weights."""
    if done:
        print_once(f"resuming {run.folder.root} at batch {done}{f' of {total}' if total else ''}")
        return
    print_once(f"training into {run.folder.root}")
    if run.recipe.model.weights != "none":
        print_once("\n".join(f"weights: {line}" for line in run.model.loaded))


def _training_data_and_model(recipe: Recipe) -> tuple[RunData, InstanceSegmentationModel]:
    data = open_data(recipe)
    return data, build_model(recipe, data.val.annotations)


def check_requirements(recipe: Recipe) -> None:
    """Raise ``UserError`` where this machine lacks what the recipe needs besides its data: GPU, packages or weights."""
    check_device(recipe)
    check_loggers(recipe)
    check_model(recipe)


@contextmanager
def _errors_say_how_to_go_on(folder: RunFolder, recipe: Recipe, trained: Callable[[], int]) -> Iterator[None]:
    """Turn what a user can put right while a run trains into one line that says how to go on.

    Other errors keep their traceback, and say it in a note.

    Args:
        folder: of the run.
        recipe: its recipe.
        trained: gives the number of batches that were trained.

    Raises:
        UserError: for a damaged image, for a folder that can no longer be written, and for a training that diverges.
    """
    how = f"{folder.root} holds what was done so far; then the same command with output={folder.root} goes on"
    try:
        yield
    except (DivergedError, FloatingPointError) as error:  # the latter is Detectron2's, of boxes that are not finite
        batch = error.batch if isinstance(error, DivergedError) else trained() + 1
        advice = divergence_advice(recipe, last_good_checkpoint(folder.checkpoints, batch))
        with errors_raised_once():
            raise DivergedError(f"{folder.root}: {str(error).removesuffix('.')}. {advice}", batch) from error
    except UserError as error:  # an image whose header is in order, and the rest is not
        raise type(error)(f"{error}. Put it right: {how}") from error
    except Exception as error:
        if isinstance(error, OSError):
            file = error.filename
            in_folder = isinstance(file, str) and Path(file).is_relative_to(folder.root)
            if error.errno in DISK_FULL_ERRORS or in_folder:
                remedy = "Make room" if error.errno in DISK_FULL_ERRORS else "Put it right"
                raise OutputError(
                    f"{file or folder.root}: cannot be written: {error.strerror}. {remedy}: {how}"
                ) from error
        error.add_note(f"Put it right: {how}")
        raise


def divergence_advice(recipe: Recipe, last_good: Path | None) -> str:
    """What is left of a training that has diverged, and what may keep the next one from it."""
    training = recipe.training
    kept = "There is no checkpoint from before" if last_good is None else f"The last good checkpoint is {last_good}"
    clip = "" if training.clip_norm is None else f" below {training.clip_norm:g}"
    tries = [
        f"optimizer.lr below {recipe.optimizer.lr:g}",
        f"training.clip_norm{clip}",
        f"schedule.warmup above {recipe.schedule.warmup}",
        *([] if training.precision == "fp32" else [f"training.precision=fp32 in place of {training.precision}"]),
    ]
    on = "" if training.stop_after_nonfinite_losses is None else "; training.stop_after_nonfinite_losses=null goes on"
    return f"{kept}. Try, with output=ANOTHER_FOLDER, {', '.join(tries[:-1])} or {tries[-1]}{on}"


def save_predictions(model: InstanceSegmentationModel, data: InstanceData, path: Path) -> None:
    """Draw a sheet of predictions next to the true objects, for a few images spread over the data set."""
    count = min(PREDICTION_COUNT, len(data))
    images, truths, predictions = [], [], []
    device = next(model.parameters()).device
    model.eval()
    for number in range(count):
        _, image, objects = data.read(number * len(data) // count)
        # dense masks of large images would take gigabytes
        rles = [rle_of_segmentation(outline, objects.size) for outline in objects.segmentations if outline]
        images.append(image)
        truth = {"boxes": objects.boxes, "labels": objects.labels, "iscrowd": objects.iscrowd}
        truths.append(truth | ({"rles": rles} if len(rles) == len(objects.boxes) else {}))
        predictions += model.eval_forward(([image.to(device)], [{}]))
    save_png(prediction_sheet(images, truths, predictions, category_names(data)), path)
