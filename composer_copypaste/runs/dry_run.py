"""What a training would do, in words, for ``copypaste train --dry-run``."""

from collections.abc import Sequence
from pathlib import Path

from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.data.shapes import CATEGORIES
from composer_copypaste.errors import counted
from composer_copypaste.integrations.composer.distributed import number_of_processes
from composer_copypaste.integrations.composer.from_recipe import on_gpu
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.weights import load_pretrained, missing_download
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.advice import batch_memory, nesting
from composer_copypaste.runs.data import category_names, copy_paste_settings, open_data
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.resume import check_data, check_usable, what_would_happen
from composer_copypaste.runs.train import check_requirements
from composer_copypaste.settings import CopyPasteSettings, MaskRCNNSettings


def describe(recipe: Recipe, folder: RunFolder) -> str:
    """What ``train`` would do, after all its checks; nothing is written.

    Raises:
        UserError: as ``train`` does.
    """
    check_requirements(recipe)
    check_usable(folder, recipe)
    shapes, advice = recipe.data.shapes, []
    if shapes is not None and _is_free(Path(shapes.folder)):
        names: list[str] = list(CATEGORIES)
        images = f"{counted(shapes.train, 'image')}, drawn into {shapes.folder} first; evaluated on {shapes.val}"
    else:
        data = open_data(recipe)
        if not folder.is_complete:
            check_data(folder, recipe, data)
        names = category_names(data.train)
        images = f"{_contents(data.train)}; evaluated on {_contents(data.val)}"
        advice += [f"memory      {batch_memory(data.train.annotations, recipe)}"]
        advice += [f"nested      {line}" for line in nesting(data.train.annotations, recipe)]
    settings = copy_paste_settings(recipe, names)
    pasting = "off" if settings is None else _pasting(settings, names)
    device = "GPU" if on_gpu(recipe) else "CPU"
    return "\n".join(
        (
            f"recipe      {recipe.name}",
            f"data        {images}",
            f"model       Mask R-CNN, backbone {recipe.model.backbone}, "
            f"weights {recipe.model.weights}: {_weights(recipe.model, len(names))}",
            f"copy-paste  {pasting}",
            f"training    {recipe.training.duration} on {number_of_processes()} {device}, "
            f"batches of {recipe.data.batch_size} on each",
            *advice,
            f"output      {folder.root}, {what_would_happen(folder)}",
        )
    )


def _weights(settings: MaskRCNNSettings, categories: int) -> str:
    """What the model would start with: what is on this machine is loaded, to see that it fits."""
    return missing_download(settings) or load_pretrained(build_mask_rcnn(categories + 1, settings), settings)


def _pasting(settings: CopyPasteSettings, names: Sequence[str]) -> str:
    warmup = f", rising from 0 over {settings.warmup}" if settings.warmup else ""
    stop = f", off from {settings.stop} on" if settings.stop else ""
    only = "" if settings.labels is None else f"; copied: {', '.join(names[label - 1] for label in settings.labels)}"
    weights = ", ".join(f"{names[label - 1]} {weight:g}" for label, weight in (settings.label_weights or {}).items())
    return f"on, p={settings.p:g}{warmup}{stop}{only}" + (f"; weights: {weights}, others 1" if weights else "")


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _contents(data: InstanceData) -> str:
    crowds = f", {data.num_crowds} of them crowds," if data.num_crowds else ""
    return (
        f"{counted(len(data), 'image')} of {data.place} with {counted(data.num_objects, 'object')}{crowds} "
        f"of {counted(len(data.categories), 'category', 'categories')}"
    )
