"""The folder of a run: which files it holds.

Importing this module imports no framework.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from composer_copypaste.errors import CheckpointError, RecipeError
from composer_copypaste.recipes.schema import Recipe


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, and the paths of its files."""

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
        """The link to the newest checkpoint."""
        return self.checkpoints / "latest-rank0.pt"  # as `integrations.composer.checkpoints` names it

    @property
    def best_checkpoint(self) -> Path | None:
        """The best checkpoint, which ``training.best_checkpoint`` keeps; None where there is none."""
        found = self.checkpoints.glob("best-ep*-ba*.pt")  # as `integrations.composer.best` names it
        return max(found, key=lambda path: int(path.stem.rpartition("-ba")[2]), default=None)

    @property
    def metrics(self) -> Path:
        """A row of numbers for each batch and each evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """COCO's numbers of the last evaluation."""
        return self.root / "evaluation.json"

    @property
    def matches(self) -> Path:
        """Which detections match objects, in the last evaluation."""
        return self.root / "matches.npz"

    @property
    def curves(self) -> Path:
        """Losses and average precision over the training."""
        return self.root / "curves.png"

    @property
    def training_pictures(self) -> Path:
        """The first batch, as the model got it."""
        return self.root / "training_pictures.png"

    @property
    def more_training_pictures(self) -> Path:
        """The folder of the batches shown at an interval, as the model got them."""
        return self.root / "training_pictures"

    @property
    def predictions(self) -> Path:
        """Predictions next to the true objects."""
        return self.root / "predictions.png"

    @property
    def report_page(self) -> Path:
        """The page of an evaluation, which ``copypaste eval`` writes."""
        return self.root / "report.html"

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end; it writes the predictions last."""
        return self.recipe.exists() and self.predictions.exists()

    @property
    def contents(self) -> dict[Path, str]:
        """The files that the run writes, and what each holds."""
        return {
            self.recipe: "the resolved recipe",
            self.categories: "what the model's labels stand for",
            self.data: "checksums of annotations and cut-outs",
            self.checkpoints: "weights and state of the training",
            self.metrics: "losses, learning rate, throughput and memory of each batch; scores of each evaluation",
            self.evaluation: "COCO's numbers, also of each category",
            self.matches: "which detections match objects, from which other runs are compared with this one",
            self.curves: "losses and average precision over the training",
            self.training_pictures: "the first training batch, as the model got it",
            self.more_training_pictures: "later ones, named by the batches trained before",
            self.predictions: "predictions next to the true objects",
            self.report_page: "scores, errors and what they cost, curves, confusions, images: a page in one file",
        }

    def describe(self) -> str:
        """The files that are there, one a line."""
        there = {str(file): text for file, text in self.contents.items() if file.exists()}
        width = max(map(len, there), default=0)
        return "\n".join(f"  {name:<{width}}  {text}" for name, text in there.items())


def run_folder_of(checkpoint: Path) -> RunFolder | None:
    """The run in whose folder a checkpoint lies; None where it lies elsewhere."""
    run = RunFolder(checkpoint.absolute().parent.parent)
    return run if run.recipe.exists() and run.checkpoints == checkpoint.absolute().parent else None


def run_folder_for(recipe: Recipe, now: datetime) -> RunFolder:
    """The folder for a run: ``recipe.output``, or a new one named after the recipe and the time."""
    return RunFolder(recipe.output or Path("runs") / f"{recipe.name}-{now:%Y%m%d-%H%M%S}")


def find_best_checkpoint(path: Path) -> Path:
    """The best checkpoint of the run in a folder.

    Raises:
        CheckpointError: where the run kept none.
    """
    if path.exists() and not path.is_dir():
        raise CheckpointError(
            f"{path}: a file; --best takes a checkpoint of a run from the run's folder. Leave --best out, or give the "
            "folder"
        )
    best = RunFolder(path).best_checkpoint
    if best is None:
        raise CheckpointError(
            f"{path}: expected the folder of a run that kept its best checkpoint (training.best_checkpoint=segm/AP), "
            "found none; leave --best out for the newest"
        )
    return best


def find_checkpoint(path: Path) -> tuple[Path, RunFolder | None]:
    """The newest checkpoint of the run in a folder, or the checkpoint itself; and the run in whose folder it is.

    Raises:
        CheckpointError: where there is none.
    """
    checkpoint = RunFolder(path).latest_checkpoint if path.is_dir() else path
    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint}: expected a checkpoint, or the folder of a run; there is none")
    return checkpoint, run_folder_of(checkpoint)


def recipe_source(checkpoint: Path, run: RunFolder | None, recipe: Path | str | None) -> Path | str:
    """The recipe that was given, or that of the run.

    Raises:
        RecipeError: where there is neither.
    """
    if recipe is not None:
        return recipe
    if run is None:
        raise RecipeError(
            f"{checkpoint}: is not in the folder of a run; give --recipe RECIPE, which says how its model is built"
        )
    return run.recipe
