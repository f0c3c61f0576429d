"""The folder of a run: which files it holds, and who may write into it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from composer_copypaste.errors import DataError, OutputError, RecipeError, shown
from composer_copypaste.files import is_unfinished, read_json, write_first, written_whole
from composer_copypaste.recipes.load import differences, load_recipe, recipe_to_yaml
from composer_copypaste.recipes.schema import Recipe

if TYPE_CHECKING:
    from composer_copypaste.data.annotation_json import Category


MAY_CHANGE = {
    "name",
    "output",
    "data.workers",
    "training.checkpoint_interval",
    *(f"data.{split}.{key}" for split in ("train", "val") for key in ("cache", "cache_gigabytes")),
    "data.accept_changes",
    "training.loggers",
    "training.picture_interval",
    "training.stop_after_nonfinite_losses",
}
"""Keys of a recipe that may change when a run is resumed: its result does not depend on them. It does, in the last
bits, on ``training.device``, ``cpu_threads`` and ``microbatch``, and on how evaluations are batched."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    root: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.yaml"

    @property
    def categories(self) -> Path:
        """The categories that the model's labels 1, 2, ... stand for."""
        return self.root / "categories.json"

    @property
    def data(self) -> Path:
        """Checksums of annotations and cut-outs, by which a resumed run knows its data."""
        return self.root / "data.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def latest_checkpoint(self) -> Path:
        """A link to the newest checkpoint."""
        return self.checkpoints / "latest-rank0.pt"

    @property
    def metrics(self) -> Path:
        """A row of numbers for each batch and each evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """COCO's numbers of the last evaluation."""
        return self.root / "evaluation.json"

    @property
    def curves(self) -> Path:
        """Losses and average precision over the training."""
        return self.root / "curves.png"

    @property
    def training_pictures(self) -> Path:
        """The first batch, as the model got it."""
        return self.root / "training_pictures.png"

    @property
    def more_images(self) -> Path:
        """The folder of the batches shown at an interval, as the model got them."""
        return self.root / "training_pictures"

    @property
    def predictions(self) -> Path:
        """Predictions beside the truth."""
        return self.root / "predictions.png"

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end: the predictions are the last that it writes."""
        return self.recipe.exists() and self.predictions.exists()

    @property
    def contents(self) -> dict[Path, str]:
        """What the run writes, and what that is."""
        return {
            self.recipe: "the resolved recipe",
            self.categories: "what the model's labels stand for",
            self.data: "checksums of annotations and cut-outs",
            self.checkpoints: "weights and state of the training",
            self.metrics: "losses, learning rate, throughput and memory of each batch; scores of each evaluation",
            self.evaluation: "COCO's numbers, also of each category",
            self.curves: "losses and average precision over the training",
            self.training_pictures: "the first training batch, as the model got it",
            self.more_images: "later ones, named by the batches trained before",
            self.predictions: "predictions beside the truth",
        }

    def describe(self) -> str:
        """The files that are there, one a line."""
        return "\n".join(f"  {file!s:<50}  {text}" for file, text in self.contents.items() if file.exists())


def folder_of(checkpoint: Path) -> RunFolder | None:
    """The run that a checkpoint belongs to, by the place where it lies; None where it lies in no run."""
    run = RunFolder(checkpoint.absolute().parent.parent)
    return run if run.recipe.exists() and run.checkpoints == checkpoint.absolute().parent else None


def folder_for(recipe: Recipe, now: datetime) -> RunFolder:
    """Where the run goes: ``recipe.output``, or a new folder named after the recipe and the time."""
    return RunFolder(recipe.output or Path("runs") / f"{recipe.name}-{now:%Y%m%d-%H%M%S}")


def claim(folder: RunFolder, recipe: Recipe) -> None:
    """Make this the folder of a run, by putting its recipe there; or check that it is that run's.

    Of processes that do so at the same time one is the first, and the others find its recipe. It alone is written
    before one of them locks it.

    Raises:
        OutputError: where the folder holds anything else, or cannot be made.
    """
    check_usable(folder, recipe)
    if folder.recipe.exists():
        return
    with writable(folder):
        folder.root.mkdir(parents=True, exist_ok=True)
        is_first = write_first(folder.recipe, recipe_to_yaml(recipe))
    if not is_first:
        check_usable(folder, recipe)


def enter_data(
    folder: RunFolder, recipe: Recipe, categories: "Sequence[Category]", digests: Mapping[str, str]
) -> list[str]:
    """Write what data the run in this folder has, or check that it is that.

    Args:
        folder: where the run is; no other process may write there.
        recipe: what it does.
        categories: of its data.
        digests: a checksum for each of its data sets and its pool, by the recipe's key.

    Returns:
        The keys of data that has changed, where the recipe accepts that; it is the run's data from now on.

    Raises:
        OutputError: where the data is not what the run began with, or the folder cannot be written.
    """
    changed = changed_data(folder, recipe, categories, digests)
    with writable(folder):
        if not folder.categories.exists():
            _write(_meanings(categories), folder.categories)
        if changed or not folder.data.exists():
            _write(json.dumps(digests, indent=1), folder.data)
    return changed


@contextmanager
def writable(folder: RunFolder) -> Iterator[None]:
    """What the disk refuses in a folder is an ``OutputError``."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or folder.root}: cannot be written: {error.strerror}; "
            "make it writable, or give output=ANOTHER_FOLDER"
        ) from error


def changed_data(
    folder: RunFolder, recipe: Recipe, categories: "Sequence[Category]", digests: Mapping[str, str]
) -> list[str]:
    """The keys of data that is not what the run in this folder, if there is one, began with.

    Raises:
        OutputError: where there are such and the recipe does not accept that, or the categories are others.
    """
    if folder.categories.exists() and _kept(folder.categories) != json.loads(_meanings(categories)):
        raise OutputError(
            f"{folder.categories}: the data has other categories than when this run began; give output=ANOTHER_FOLDER"
        )
    changed = _changed(folder, digests) if folder.data.exists() else []
    if changed and not recipe.data.accept_changes:
        raise OutputError(
            f"{folder.root}: the files of {' and '.join(changed)} have changed since this run began; give "
            "output=ANOTHER_FOLDER, put them back, or go on with them as they are by data.accept_changes=true"
        )
    return changed


def _kept(path: Path) -> object:
    """What a JSON file of the run holds."""
    try:
        return read_json(path, "file")
    except DataError as error:
        raise OutputError(f"{error}; put it back as it was, or give output=ANOTHER_FOLDER") from None


def _meanings(categories: "Sequence[Category]") -> str:
    return json.dumps([asdict(category) for category in categories], indent=1)


def _changed(folder: RunFolder, digests: Mapping[str, str]) -> list[str]:
    begun = _kept(folder.data)
    if not isinstance(begun, dict):
        raise OutputError(
            f"{folder.data}: expected a checksum for each data set, found {shown(begun)}; put it back as it was, "
            "or give output=ANOTHER_FOLDER"
        )
    return [key for key, digest in digests.items() if begun.get(key) != digest]


def _write(text: str, path: Path) -> None:
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def check_usable(folder: RunFolder, recipe: Recipe) -> None:
    """Raise ``OutputError`` where the folder is none, cannot be read, or holds anything but a run of this recipe."""
    try:
        _check_content(folder, recipe)
    except OSError as error:
        raise OutputError(
            f"{folder.root}: cannot be read: {error.strerror}; make it readable, or give output=ANOTHER_FOLDER"
        ) from error


def _check_content(folder: RunFolder, recipe: Recipe) -> None:
    if _is_no_folder(folder.root):
        raise OutputError(
            f"{folder.root}: expected a folder for the run, found a file, or a link to nothing; "
            "give output=ANOTHER_FOLDER"
        )
    if folder.recipe.exists():
        _check_kinds(folder)
        _check_same(folder, recipe)
    elif folder.root.exists() and not all(is_unfinished(path) for path in folder.root.iterdir()):
        raise OutputError(f"{folder.root}: expected a new or an empty folder for the run; give output=ANOTHER_FOLDER")


def _is_no_folder(path: Path) -> bool:
    return (path.exists() or path.is_symlink()) and not path.is_dir()


def _check_kinds(folder: RunFolder) -> None:
    """Raise ``OutputError`` where a folder stands where the run writes a file, or the reverse."""
    for path in folder.contents:
        expects_folder = path in (folder.checkpoints, folder.more_images)
        if _is_no_folder(path) if expects_folder else path.exists() and not path.is_file():
            found = "a folder, found a file, or a link to nothing" if expects_folder else "a file, found something else"
            raise OutputError(f"{path}: expected {found}; move it away, or give output=ANOTHER_FOLDER")


def _check_same(folder: RunFolder, recipe: Recipe) -> None:
    """Raise ``OutputError`` where the folder holds a run that another recipe began."""
    try:
        changes = differences(load_recipe(folder.recipe), recipe)
    except RecipeError as error:
        raise OutputError(
            f"{folder.root}: holds a run whose recipe cannot be read: {error}; give output=ANOTHER_FOLDER"
        ) from error
    listed = [
        f"{key} was {shown(old)}, is {shown(new)}" for key, (old, new) in changes.items() if key not in MAY_CHANGE
    ]
    if listed:
        raise OutputError(
            f"{folder.root}: holds a run of another recipe: {'; '.join(listed)}. Give output=ANOTHER_FOLDER, or the "
            "recipe as it was, to resume that run"
        )
