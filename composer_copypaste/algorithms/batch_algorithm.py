"""What copy-paste and large-scale jitter are to Composer: algorithms that replace a batch that was just loaded."""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor

from composer_copypaste.algorithms.batches import check_seed, to_device
from composer_copypaste.algorithms.companions import check_companions
from composer_copypaste.instances import Target
from composer_copypaste.models.detector import MaskRCNN

Images = Tensor | Sequence[Tensor]
Targets = Sequence[Target] | Sequence[Tensor] | Tensor


class BatchAlgorithm(Algorithm):
    """Replaces each training batch of ``(images, targets)`` by another, on the training device.

    Runs on ``Event.AFTER_DATALOADER``, before the batch is split into microbatches, and before all algorithms that are
    not of this kind, wherever they stand in the trainer's list.
    """

    settings: object

    name: ClassVar[str]
    """What the log calls it."""

    turn: ClassVar[int]
    """Of those of this kind, the one with the highest number runs first."""

    harm: ClassVar[str]
    """What a second one in the trainer would do."""

    def __init__(self, seed: int | None, input_key: int | str, target_key: int | str) -> None:
        check_seed(seed)
        self.seed = seed
        self.input_key = input_key
        self.target_key = target_key

    def __repr__(self) -> str:
        keys = f"input_key={self.input_key!r}, target_key={self.target_key!r}"
        return f"{type(self).__name__}({self.settings!r}, seed={self.seed}, {keys})"

    def match(self, event: Event, state: State) -> bool:
        """Whether a batch has just come from the data loader, or the trainer has just been made."""
        return event in (Event.INIT, Event.AFTER_DATALOADER)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Replace the batch, and log what was done.

        Raises:
            ValueError: where the trainer has a second algorithm of this class or one that cannot run on detection
                targets, or the batch is no batch of images and targets.
        """
        if event == Event.INIT:
            self._join(state)
            return
        start = time.perf_counter()
        images = state.device.batch_to_device(state.batch_get_item(self.input_key))
        targets = to_device(state.batch_get_item(self.target_key), state.device)
        if not isinstance(targets, Tensor):
            check_companions(state.algorithms)
        images, targets, account = self._changed(images, targets, state)
        state.batch_set_item(self.input_key, images)
        state.batch_set_item(self.target_key, targets)
        logger.log_metrics({**account, f"{self.name}/seconds": time.perf_counter() - start})

    @abstractmethod
    def _changed(self, images: Images, targets: Targets, state: State) -> tuple[Images, Targets, Mapping[str, float]]:
        """The images and targets in place of these, and what the log says of it."""

    def _join(self, state: State) -> None:
        _check_alone(self, state)
        if isinstance(state.model, MaskRCNN):  # of other models the first batch tells
            check_companions(state.algorithms)
        # Composer runs algorithms in the reverse of their order on events that are called "after" something
        state.algorithms = sorted(
            state.algorithms, key=lambda other: other.turn if isinstance(other, BatchAlgorithm) else 0
        )


def _check_alone(algorithm: BatchAlgorithm, state: State) -> None:
    """Raise ``ValueError`` where the trainer has a second algorithm of this kind, and say what it would do."""
    kind = type(algorithm)
    count = sum(isinstance(other, kind) for other in state.algorithms)
    if count > 1:
        raise ValueError(
            f"algorithms: expected {kind.__name__} once, got it {count} times: each would {algorithm.harm}; "
            "give its settings to one"
        )
