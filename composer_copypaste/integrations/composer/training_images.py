"""Images of what a model is given to train on: of the first batch, and at an interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from composer import Callback, Logger, State
from composer.core import Timestamp
from composer.utils import dist
from torch import Tensor

from composer_copypaste.files import written_whole
from composer_copypaste.instances import Target
from composer_copypaste.settings import DURATION, parse_time
from composer_copypaste.visualize.draw import save_png, training_sheet


class TrainingSheet(Callback):
    """Saves a sheet of the first training batch as the model gets it: after all algorithms have changed it."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self.names = names

    def batch_start(self, state: State, logger: Logger) -> None:
        """Draws, on the first process, before the first batch of a run; a resumed run keeps its sheet."""
        if state.timestamp.batch == 0 and dist.get_global_rank() == 0:
            images, targets = state.batch
            save_png(training_sheet(images, targets, self.names), self.path)


class TrainingPictures(Callback):
    """Shows training batches as the model gets them, with masks and boxes; what was pasted is dashed and counted.

    A sheet of up to 16 images goes, as ``training_pictures``, to each of the trainer's loggers that takes images
    (TensorBoard, Weights & Biases, MLflow, Comet ML and Neptune), and into a folder. The first process draws, of its
    own part of the batch. The batch is ``(images, targets)`` as :class:`CopyPaste` takes them, with detection targets.

    Args:
        names: the name of label 1, of label 2 and so on; a label without one is written as a number.
        interval: how often, beginning with the first batch: "500ba" or "1ep".
        folder: where ``ba500.png`` and so on are saved; left out, nowhere.
        input_key: index or key of the images in the batch.
        target_key: index or key of the targets in the batch.

    Raises:
        ValueError: for an interval that is written otherwise.

    Example:
        >>> callbacks = [TrainingPictures(["cat", "dog"], interval="500ba")]
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        interval: str = "1ep",
        folder: str | Path | None = None,
        input_key: int | str = 0,
        target_key: int | str = 1,
    ) -> None:
        DURATION.checked(interval)
        self.names = names
        self.interval = interval
        self.folder = None if folder is None else Path(folder)
        self.input_key = input_key
        self.target_key = target_key

    def batch_start(self, state: State, logger: Logger) -> None:
        """Draws a batch that is due, after all algorithms have changed it."""
        if dist.get_global_rank() != 0 or not _is_due(self.interval, state.timestamp):
            return
        images = cast(Tensor | list[Tensor], state.batch_get_item(self.input_key))
        targets = cast(list[Target], state.batch_get_item(self.target_key))
        sheet = training_sheet(images, targets, self.names)
        if self.folder is not None:
            with written_whole(self.folder / f"ba{int(state.timestamp.batch)}.png") as unfinished:
                save_png(sheet, unfinished)
        # of NumPy's bytes all loggers make the same image; TensorBoard's makes noise of torch's
        pixels = sheet.permute(1, 2, 0).numpy()
        logger.log_images(pixels, name="training_pictures", channels_last=True, use_table=False)


def _is_due(interval: str, now: Timestamp) -> bool:
    count, unit = parse_time(interval)
    if unit == "ba":
        return int(now.batch) % count == 0
    return now.batch_in_epoch == 0 and int(now.epoch) % count == 0
