"""Shows, before a training, what copy-paste makes of its batches: a page, and sheets of images."""

import shlex
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import cast

from torch import Tensor

from composer_copypaste.data.loaders import Batch, training_dataloader
from composer_copypaste.errors import RecipeError, UserError, count_noun
from composer_copypaste.functional.category_names import with_labels
from composer_copypaste.functional.generators import JITTER_STREAM, batch_generator
from composer_copypaste.functional.large_scale_jitter import large_scale_jitter_batch
from composer_copypaste.functional.sources import Pool, check_pool
from composer_copypaste.instances import Target
from composer_copypaste.progress import Progress
from composer_copypaste.recipes import yaml12
from composer_copypaste.recipes.comparisons import recipes_to_compare
from composer_copypaste.recipes.load import recipe_to_yaml
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.runs.data import RunData, category_names, copy_paste_settings, open_data
from composer_copypaste.runs.nested_categories import nesting_advice
from composer_copypaste.runs.preview.files import Preview, check_preview_folder, write_preview
from composer_copypaste.runs.preview.measures import (
    BatchMeasures,
    Images,
    PastedBatch,
    Paster,
    Size,
    Variant,
    measures_of,
)
from composer_copypaste.runs.preview.page import DrawnImage, VariantPreview, draw_image
from composer_copypaste.settings import CopyPasteSettings

MEASURED_IMAGES = 200
"""By default at least this many images are measured: a share of them is then known to about 3 %."""
SHOWN_IMAGES = 8
MOST_VARIANTS = 8


def preview(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    compare: Sequence[str] = (),
    output: str | Path | None = None,
    images: int = SHOWN_IMAGES,
    batches: int | None = None,
) -> Preview:
    """Show what the first batches of a recipe's training look like, with and without copy-paste, and measure them.

    The batches are those that a training of one process gets at its start: from the same images, jitter, random
    numbers, bank and pool. A warm-up of ``p`` is left out.

    Args:
        recipe: a YAML file, or the name of a shipped recipe.
        overrides: ``key=value`` each, such as ``data.batch_size=4``.
        compare: settings to compare with the recipe's, each ``key=value`` or several with spaces between them:
            settings of copy-paste ("p=0.5 rotation=30") or keys of the recipe ("data.jitter={}").
        output: folder for ``preview.html`` and a sheet of images for each setting, which replace those of an earlier
            preview. None: ``previews`` and the recipe's name.
        images: number of images that are shown.
        batches: number of batches that are measured. None: as many as have 200 images.

    Raises:
        RecipeError: for a recipe, or a setting to compare, that cannot be used.
        DataError: for data that cannot be used.
        OutputError: for a folder that holds anything else.

    Example:
        >>> print(preview("quickstart", compare=["p=1", "placement=random max_overlap=0.3"]))
    """
    recipes = recipes_to_compare(recipe, overrides, compare)
    folder = Path("previews") / recipes[0][1].name if output is None else Path(output)
    _check_request(folder, [name for name, _ in recipes], images, batches)
    sources = _open_sources(recipes)
    if batches is None:
        batches = -(-MEASURED_IMAGES // recipes[0][1].data.batch_size)
    batches = max(batches, -(-images // min(each.data.batch_size for _, each in recipes)))
    folder.mkdir(parents=True, exist_ok=True)  # before the time is spent
    variants = _preview_sources(sources, batches, images)
    first = recipes[0][1]
    lead = _describe_batches(first, variants[0], len(sources[0].data.train))
    command = shlex.join(["copypaste", "train", str(recipe), *overrides])
    return write_preview(folder, first.name, lead, variants, f"# {command}\n{_settings_in_full(first)}")


def preview_batches(  # noqa: PLR0913 - by name, and each of its own kind
    batches: Iterable[Batch],
    settings: CopyPasteSettings | Mapping[str, CopyPasteSettings] | None = None,
    *,
    output: str | Path,
    category_names: Sequence[str],
    pool: Pool | None = None,
    seed: int = 0,
    images: int = SHOWN_IMAGES,
) -> Preview:
    """Show what copy-paste makes of batches of your own, such as those of a `training_dataloader`, and measure them.

    Args:
        batches: (images, targets) each, as :func:`copypaste_batch` takes them with detection targets; all are measured.
        settings: of copy-paste; several by name to compare them. None: the defaults.
        output: folder for ``preview.html`` and a sheet of images for each setting, which replace those of an earlier
            preview.
        category_names: the name of label 1, of label 2 and so on.
        pool: cut-outs as additional sources.
        seed: of what is drawn; that of a ``Trainer`` draws what `CopyPaste` draws there.
        images: number of images that are shown.

    Raises:
        ValueError: for settings or batches that cannot be used.
        OutputError: for a folder that holds anything else.

    Example:
        >>> loader = training_dataloader(data, batch_size=4)
        >>> print(preview_batches(islice(loader, 50), CopyPasteSettings(p=1.0), output="seen", category_names=["cat"]))
    """
    given = settings if isinstance(settings, Mapping) else {"copy-paste": settings or CopyPasteSettings()}
    _check_request(Path(output), list(given), images, None)
    variants = [Variant(name, with_labels(each, category_names), pool=pool, seed=seed) for name, each in given.items()]
    for variant in variants:
        if pool is not None and variant.copy_paste is not None:
            check_pool(pool, variant.copy_paste)
    first = next(iter(batches := iter(batches)), None)
    if first is None:
        raise ValueError("batches: expected at least one, got none")
    Path(output).mkdir(parents=True, exist_ok=True)  # before the time is spent
    with Progress("previewing", "batches", None) as bar:
        made = _preview_group(chain([first], batches), variants, list(category_names), _image_id, images, bar)
    measured = made[0].measures
    lead = f"{count_noun(measured.batches, 'batch', 'batches')} of {count_noun(len(measured.images.before), 'image')}."
    described = "\n".join(f"{name}: {each!r}" for name, each in given.items())
    return write_preview(Path(output), "Copy-paste", lead, made, described)


# ---- what is asked for


def _check_request(folder: Path, names: Sequence[str], images: int, batches: int | None) -> None:
    """Raise ``UserError`` for a folder that holds anything but a preview, and for what cannot be shown."""
    if images < 1 or (batches is not None and batches < 1):
        raise UserError(f"images and batches: expected 1 or more, got {images if images < 1 else batches}")
    if len(names) > MOST_VARIANTS:
        raise RecipeError(
            f"compare: expected at most {MOST_VARIANTS - 1} settings to compare with the recipe, got {len(names) - 1}"
        )
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"compare: {twice!r} is given twice; each setting once is enough")
    check_preview_folder(folder)


# ---- data


@dataclass(frozen=True)
class _Source:
    """A variant and the data that it augments."""

    variant: Variant
    data: RunData
    recipe: Recipe


def _open_sources(recipes: Sequence[tuple[str, Recipe]]) -> list[_Source]:
    """The variant of each recipe, with its data; those of equal recipes are opened once."""
    opened: list[_Source] = []
    for name, recipe in recipes:
        pooled = recipe.data.pool is not None
        same = [
            source.data
            for source in opened
            if (source.recipe.data, source.recipe.seed) == (recipe.data, recipe.seed)
            and (not pooled or source.recipe.copy_paste == recipe.copy_paste)
        ]
        data = same[0] if same else open_data(recipe)
        opened.append(_Source(_variant_of(name, recipe, data), data, recipe))
    return opened


def _variant_of(name: str, recipe: Recipe, data: RunData) -> Variant:
    settings = copy_paste_settings(recipe, category_names(data.train), data.train)
    jitter = recipe.data.jitter if recipe.data.jitter_on == "device" else None
    if settings is not None and jitter is not None:
        settings = settings.after_jitter()
    loader_jitters = recipe.data.jitter is not None and jitter is None
    advice = tuple(nesting_advice(data.train.annotations, settings))
    return Variant(name, settings, jitter, loader_jitters, data.pool, recipe.seed, _model_scale(recipe), advice)


def _model_scale(recipe: Recipe) -> Callable[[Size], float]:
    """The factor by which the model resizes training images, by their size."""
    if not recipe.model.resize_training:
        return lambda size: 1.0
    from composer_copypaste.models.mask_rcnn import resized_sides  # importing torchvision's models takes seconds

    shorter, longer = resized_sides(recipe.model)
    return lambda size: min(shorter / min(size), longer / max(size))


def _preview_sources(sources: Sequence[_Source], batches: int, images: int) -> list[VariantPreview]:
    """The preview of each variant; those that follow each other with the same data share its batches."""
    made: list[VariantPreview] = []
    with Progress("previewing", "batches", batches * len(sources)) as bar:
        for _, group in groupby(sources, lambda source: (source.recipe.data, source.recipe.seed)):
            members = list(group)
            recipe, data = members[0].recipe, members[0].data.train
            file_names = {image.id: image.file_name for image in data.annotations.images}
            loader = training_dataloader(
                data, batch_size=recipe.data.batch_size, workers=recipe.data.workers, seed=recipe.seed
            )
            with closing(_endless(loader)) as endless:
                made += _preview_group(
                    islice(endless, batches),
                    [member.variant for member in members],
                    category_names(data),
                    partial(_file_name, file_names),
                    images,
                    bar,
                )
    return made


def _endless(loader: Iterable[Batch]) -> Generator[Batch, None, None]:
    """The batches of one epoch after the other."""
    while True:
        yield from loader


def _preview_group(
    batches: Iterable[Batch],
    variants: Sequence[Variant],
    names: Sequence[str],
    image_name: Callable[[Target], str],
    images: int,
    bar: Progress,
) -> list[VariantPreview]:
    """What each variant makes of the same batches."""
    pasters = [Paster(variant, image_name) for variant in variants]
    measured: list[list[BatchMeasures]] = [[] for _ in variants]
    drawn: list[list[DrawnImage]] = [[] for _ in variants]
    for number, (loaded, targets) in enumerate(batches):
        pasted = [paster.paste(number, *_jittered(loaded, targets, paster.variant, number)) for paster in pasters]
        worth_showing = _images_to_show(pasted)[: images - len(drawn[0])]
        for batch, own, shown in zip(pasted, measured, drawn, strict=True):
            own.append(batch.measures())
            shown += [draw_image(batch, image, names) for image in worth_showing]
        bar.advance(len(variants))
    return [
        VariantPreview(measures_of(variant, own), shown, names)
        for variant, own, shown in zip(variants, measured, drawn, strict=True)
    ]


def _images_to_show(variants: Sequence[PastedBatch]) -> list[int]:
    """The images of a batch that receive objects in a variant; all of the first batch, or where nothing is pasted."""
    everything = range(len(variants[0].targets))
    if variants[0].number == 0 or all(batch.pastes_nothing for batch in variants):
        return list(everything)
    return [image for image in everything if any(batch.result.added[image] for batch in variants)]


def _jittered(
    images: Images, targets: Sequence[Target], variant: Variant, number: int
) -> tuple[Images, Sequence[Target]]:
    """A batch after the variant's large-scale jitter."""
    if variant.jitter is None:
        return images, targets
    generator = batch_generator(variant.seed, 0, number, JITTER_STREAM)
    images, jittered = large_scale_jitter_batch(images, targets, generator=generator, settings=variant.jitter)
    return images, cast(Sequence[Target], jittered)


def _file_name(names: Mapping[int, str], target: Target) -> str:
    return names[int(cast(Tensor, target["image_id"]))]


def _image_id(target: Target) -> str:
    return f"image {int(cast(Tensor, target['image_id']))}" if "image_id" in target else "another image"


# ---- what is written


def _describe_batches(recipe: Recipe, first: VariantPreview, images: int) -> str:
    """What batches these are, in a paragraph."""
    measured, settings = first.measures, first.measures.variant.copy_paste
    text = (
        f"{count_noun(measured.batches, 'batch', 'batches')} of {recipe.data.batch_size}, as a training of this recipe "
        f"on one device gets them from its start (seed {recipe.seed}; {images} images). The first images below are its "
        "first batch, which a run shows in training_pictures.png."
    )
    if settings is None:
        text += " The recipe has no copy-paste (copy_paste: null): images are shown as they are loaded and jittered."
    elif settings.warmup is not None:
        text += (
            f" Its warm-up is left out: p is {settings.p:g} from the start, in the training after {settings.warmup}."
        )
    return text


def _settings_in_full(recipe: Recipe) -> str:
    """The sections of a recipe that decide what a batch looks like, as YAML."""
    values, _ = yaml12.parse_yaml(recipe_to_yaml(recipe))
    return yaml12.dump_yaml({name: _without_null(values[name]) for name in ("seed", "data", "copy_paste")})


def _without_null(value: object) -> object:
    """A value without the keys that are null."""
    if not isinstance(value, dict):
        return value
    return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
