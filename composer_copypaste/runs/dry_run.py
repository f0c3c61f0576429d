"""What a training would do, in words, for ``copypaste train --dry-run``."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances, InstanceData
from composer_copypaste.data.leaks import find_equal_images
from composer_copypaste.data.shapes import CATEGORIES
from composer_copypaste.distributed import number_of_processes
from composer_copypaste.errors import count_noun, first_few
from composer_copypaste.integrations.composer.from_recipe import errors_name_section, runs_on_gpu
from composer_copypaste.models.detectors import build_detector
from composer_copypaste.models.mask_rcnn import resized_sides
from composer_copypaste.models.weights import describe_download, load_pretrained
from composer_copypaste.recipes.schema import ModelSettings, Recipe, TrainingSettings
from composer_copypaste.runs.data import category_names, copy_paste_settings, open_data
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.nested_categories import nesting_advice
from composer_copypaste.runs.resume import check_run_data, check_run_folder, describe_next_run
from composer_copypaste.runs.train import check_requirements
from composer_copypaste.settings import CopyPasteSettings, parse_time


def describe_run(recipe: Recipe, folder: RunFolder) -> str:
    """What ``train`` would do, after all its checks; nothing is written.

    Raises:
        UserError: as ``train`` does.
    """
    check_requirements(recipe)
    check_run_folder(folder, recipe)
    shapes, advice, train = recipe.data.shapes, [], None
    if shapes is not None and _is_new_or_empty(Path(shapes.folder)):
        names: list[str] = list(CATEGORIES)
        images = f"{count_noun(shapes.train, 'image')}, drawn into {shapes.folder} first; evaluated on {shapes.val}"
    else:
        data = open_data(recipe)
        if not folder.is_complete:
            check_run_data(folder, recipe, data)
        train, names = data.train, category_names(data.train)
        images = f"{_describe_data(data.train)}; evaluated on {_describe_data(data.val)}"
        advice += [f"leak        {line}" for line in leak_advice(data.train, data.val)]
        advice += [f"memory      {batch_memory(data.train.annotations, recipe)}"]
        advice += [f"nested      {line}" for line in nesting_advice(data.train.annotations, recipe.copy_paste)]
    settings = copy_paste_settings(recipe, names, train)
    pasting = "off" if settings is None else _describe_pasting(settings, names)
    device = "GPU" if runs_on_gpu(recipe) else "CPU"
    loaded, *rest = _describe_weights(recipe.model, names)
    return "\n".join(
        (
            f"recipe      {recipe.name}",
            f"data        {images}",
            f"model       {_describe_model(recipe.model)}, weights {recipe.model.weights}: {loaded}",
            *(f"            {line}" for line in rest),
            f"copy-paste  {pasting}",
            f"training    {recipe.training.duration} on {number_of_processes()} {device}, "
            f"batches of {recipe.data.batch_size} on each",
            *(f"            {line}" for line in _describe_checkpoints(recipe.training)),
            *advice,
            f"output      {folder.root}, {describe_next_run(folder)}",
        )
    )


def _describe_model(settings: ModelSettings) -> str:
    if settings.detectron2 is None:
        return f"{settings.title}, backbone {settings.backbone}"
    return f"Detectron2's {settings.detectron2}"


def _describe_weights(settings: ModelSettings, names: Sequence[str]) -> list[str]:
    """What weights the model would start with, a line each; those on this machine are loaded, to see that they fit."""
    with errors_name_section("model"):
        if settings.detectron2 is not None:
            from composer_copypaste.integrations.detectron2 import from_recipe as detectron2

            download = detectron2.describe_download(settings)
            return [download] if download else detectron2.build_detectron2_model(settings, len(names) + 1).loaded
        if download := describe_download(settings):
            return [download]
        return load_pretrained(build_detector(len(names) + 1, settings), settings, names)


def _describe_checkpoints(training: TrainingSettings) -> Iterator[str]:
    """Which weights are evaluated and kept besides the newest, and when the training ends early."""
    if training.best_checkpoint is not None:
        yield f"the checkpoint with the best {training.best_checkpoint} is kept"
    if training.ema is not None:
        (half_life, unit), (whole, unit_of_whole) = map(parse_time, (training.ema.half_life, training.duration))
        is_long = unit == unit_of_whole and 10 * float(half_life) > float(whole)
        long = ", longer than a tenth of the training: they hold much of the first weights" if is_long else ""
        yield f"averaged weights are evaluated, with a half-life of {training.ema.half_life}{long}"
    if (stop := training.early_stop) is not None:
        yield f"ends early where {stop.metric} has not risen for {stop.patience}"


def _describe_pasting(settings: CopyPasteSettings, names: Sequence[str]) -> str:
    warmup = f", rising from 0 over {settings.warmup}" if settings.warmup else ""
    stop = f", off from {settings.stop} on" if settings.stop else ""
    only = "" if settings.labels is None else f"; copied: {', '.join(names[label - 1] for label in settings.labels)}"
    weights = ", ".join(f"{names[label - 1]} {weight:g}" for label, weight in (settings.label_weights or {}).items())
    return f"on, p={settings.p:g}{warmup}{stop}{only}" + (f"; weights: {weights}, others 1" if weights else "")


def leak_advice(train: InstanceData, val: InstanceData) -> Iterator[str]:
    """A line where images of evaluation are among those of training, byte by byte; shards are not compared."""
    if not (isinstance(train, CocoInstances) and isinstance(val, CocoInstances)):
        return
    leaks = find_equal_images([train.annotations, val.annotations], [train.images, val.images])
    if leaks:
        pairs = [" = ".join(dict.fromkeys(first_few(names, 1) for _, names in leak.images)) for leak in leaks]
        number = f"{count_noun(len(leaks), 'image')} to train on {'is' if len(leaks) == 1 else 'are'}"
        yield (
            f"{number} evaluated on too, byte by byte: {first_few(pairs, 3)}. copypaste leaks lists them, copypaste "
            "split makes parts that share none"
        )


def _is_new_or_empty(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _describe_data(data: InstanceData) -> str:
    crowds = f", {data.num_crowds} of them crowds," if data.num_crowds else ""
    return (
        f"{count_noun(len(data), 'image')} of {data.place} with {count_noun(data.num_objects, 'object')}{crowds} "
        f"of {count_noun(len(data.categories), 'category', 'categories')}"
    )


def batch_memory(annotations: CocoAnnotations, recipe: Recipe) -> str:
    """About how much memory the largest training batch takes, in words: as loaded, and during a training step."""
    loaded, trained = _batch_bytes(annotations, recipe)
    device = "on the training device" if recipe.training.device != "cpu" else "in training"
    held = f" (the loading processes hold up to {2 * workers})" if (workers := recipe.data.workers) else ""
    return (
        f"up to {_gigabytes(loaded)} for a loaded batch{held}, {_gigabytes(trained)} {device} besides the model's own"
    )


def _batch_bytes(annotations: CocoAnnotations, recipe: Recipe) -> tuple[int, int]:
    """Bytes of images and masks of the largest batch, as loaded and at the peak of a training step.

    A pixel takes 3 bytes in an image and 1 in a mask. Copy-paste makes a second batch, with masks of pasted objects
    too: each image receives at most as many as the batch's fullest image has. Where the model resizes, it holds the
    images before and after, with 4 bytes for each value, and the resized masks.
    """
    canvas = None if recipe.data.jitter is None else recipe.data.jitter.size
    on_device = recipe.data.jitter_on == "device"
    shapes = []
    for image in annotations.images:
        stored, shown = (image.height, image.width), canvas or (image.height, image.width)
        pixels = math.prod(stored if on_device else shown), math.prod(shown), _resized_pixels(shown, recipe)
        shapes.append((len(annotations.annotations[image.id]), *pixels))
    largest = sorted(shapes, key=lambda shape: (3 + shape[0]) * max(shape[1:]))[-recipe.data.batch_size :]
    loaded = sum((3 + objects) * pixels for objects, pixels, _, _ in largest)
    most = max(objects for objects, *_ in largest)
    pasted = 0 if recipe.copy_paste is None else min(most, recipe.copy_paste.max_copied_instances or most)
    trained = loaded
    if recipe.copy_paste is not None or on_device:
        trained += sum((3 + objects + pasted) * pixels for objects, _, pixels, _ in largest)
    if recipe.model.resize_training:
        trained += sum(3 * 4 * (pixels + resized) for _, _, pixels, resized in largest)
        trained += sum((objects + pasted) * resized for objects, *_, resized in largest)
    return loaded, trained


def _resized_pixels(size: tuple[int, int], recipe: Recipe) -> int:
    """Number of pixels of an image after the model has resized it."""
    if recipe.model.detectron2 is not None:
        from composer_copypaste.integrations.detectron2.from_recipe import resized_sides as sides_of_detectron2

        shorter, longer = sides_of_detectron2(recipe.model) or (min(size), max(size))
    else:
        shorter, longer = resized_sides(recipe.model)
    return round(math.prod(size) * min(shorter / min(size), longer / max(size)) ** 2)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
