"""The folder of a run: which files it holds."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

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
        """Predictions beside the truth."""
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
            self.predictions: "predictions beside the truth",
            self.report_page: "scores, errors and what they cost, curves, confusions, images: a page in one file",
        }

    def describe(self) -> str:
        """The files that are there, one a line."""
        return "\n".join(f"  {file!s:<50}  {text}" for file, text in self.contents.items() if file.exists())


def run_folder_of(checkpoint: Path) -> RunFolder | None:
    """The run in whose folder a checkpoint lies; None where it lies elsewhere."""
    run = RunFolder(checkpoint.absolute().parent.parent)
    return run if run.recipe.exists() and run.checkpoints == checkpoint.absolute().parent else None


def run_folder_for(recipe: Recipe, now: datetime) -> RunFolder:
    """The folder for a run: ``recipe.output``, or a new one named after the recipe and the time."""
    return RunFolder(recipe.output or Path("runs") / f"{recipe.name}-{now:%Y%m%d-%H%M%S}")
