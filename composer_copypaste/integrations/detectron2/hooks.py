"""What stands between the data loader and the model of Detectron2's trainers, and changes each training batch.

Loaders of evaluations and those of other hooks are not touched.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn

from composer_copypaste.errors import DataError, UserError
from composer_copypaste.functional.generators import JITTER_STREAM, batch_generator
from composer_copypaste.instances import Target
from composer_copypaste.integrations.detectron2.batches import Entry, ImageFormat, images_and_targets
from composer_copypaste.settings import parse_time

Batch = Sequence[Entry]

POLYGONS_EXPECTED = "Failed to use mask_format=='polygon'"
"""What Detectron2 says where a mask is no polygon."""


class ChangedBatches(Iterator[Batch]):
    """A trainer's batches, after all that its hooks do to them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        self.hooks: list[BatchHook] = []
        self._last = (-1, 0)  # the iteration of the last batch, and which of its batches that was

    def __next__(self) -> Batch:
        batch = self._next_of_loader()
        iteration = self.hooks[0].trainer.iter
        last, number = self._last
        self._last = (iteration, number + 1 if iteration == last else 0)
        for hook in self.hooks:
            batch = hook.changed(batch, *self._last)
        return batch

    def _next_of_loader(self) -> Batch:
        try:
            return next(self.batches)
        except ValueError as error:  # a loader's process adds its own words to the message
            if POLYGONS_EXPECTED not in str(error):
                raise
            raise DataError(
                "the loader's data: some masks are run lengths, and Detectron2's default is to expect polygons; set "
                'INPUT.MASK_FORMAT to "bitmask" (in a lazy configuration, instance_mask_format of the mapper)'
            ) from error

    def add(self, hook: "BatchHook") -> None:
        """Let one more hook change the batches, in the order of their priorities.

        Raises:
            ValueError: where another hook of its class does.
        """
        if any(type(other) is type(hook) for other in self.hooks):
            raise ValueError(
                f"hooks: expected {type(hook).__name__} once, got a second one, which would {hook.duplicate_error}"
            )
        self.hooks = sorted([*self.hooks, hook], key=lambda each: each.priority, reverse=True)


class BatchHook(HookBase):
    """Replaces each training batch by another, on the model's device."""

    priority: ClassVar[int]
    """Hooks with a higher number change a batch earlier."""
    duplicate_error: ClassVar[str]
    """What a second one of a trainer would do wrong."""

    def __init__(self, seed: int | None, image_format: str | None) -> None:
        if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
            raise ValueError(
                f"seed: expected a whole number, 0 or more, or None for that of the configuration, got {seed!r}"
            )
        if image_format not in (None, *get_args(ImageFormat)):
            raise ValueError(f"image_format: expected 'BGR', 'RGB' or None for that of the model, got {image_format!r}")
        self.seed = seed
        self.image_format = image_format
        self._found_seed: int | None = None
        """The seed where none was given."""

    def before_train(self) -> None:
        """Agree with the other processes on a seed, where neither the hook nor a checkpoint has one.

        It is the configuration's, or the one that torch was given; no random number is drawn, so that a loader draws
        what it draws without this hook.
        """
        if self.seed is None and self._found_seed is None:
            of_cfg = getattr(getattr(self.trainer, "cfg", None), "SEED", -1)
            self._found_seed = comm.all_gather(of_cfg if of_cfg >= 0 else torch.initial_seed())[0]

    def before_step(self) -> None:
        """Stand between the loader and the model, also where another loader has taken the place of the former one."""
        loop = training_loop(self.trainer)
        if not isinstance(loop._data_loader_iter, ChangedBatches):
            name = "_data_loader_iter_obj"  # a plain attribute behind a property; up to release 0.6 there was only one
            name = name if hasattr(loop, name) else "_data_loader_iter"
            setattr(loop, name, ChangedBatches(loop._data_loader_iter))
        batches = loop._data_loader_iter
        if self not in batches.hooks:
            batches.add(self)

    @abstractmethod
    def changed(self, batch: Batch, iteration: int, number: int) -> Batch:
        """The batch in place of this one, which is the ``number``-th (from 0) that the iteration asks for."""

    def generator(self, iteration: int, number: int, stream: int) -> torch.Generator:
        """The random numbers of this process's batch: in an iteration's first batch those of Composer's algorithms."""
        seed = self._found_seed if self.seed is None else self.seed
        if seed is None:
            raise RuntimeError("expected a seed, which before_train finds")
        stream += (JITTER_STREAM + 1) * number
        return batch_generator(seed, comm.get_rank(), iteration, *([stream] if stream else []))

    def convert(self, batch: Batch) -> tuple[list[Tensor], list[Target]]:
        """Torchvision's images and targets of a batch, on the model's device."""
        device = next(self.model.parameters()).device
        return images_and_targets(batch, device, image_format=self.format)

    @property
    def model(self) -> nn.Module:
        """The trainer's model, without what distributes it."""
        model = training_loop(self.trainer).model
        return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    @property
    def format(self) -> ImageFormat:
        """The order of colors of the loader's images: as given, else as the model says, else Detectron2's BGR."""
        found: Any = self.image_format or getattr(self.model, "input_format", None) or "BGR"
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores: the seed, with which a resumed training goes on."""
        return {"seed": self._found_seed if self.seed is None else self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the seed of a checkpoint, unless this hook was given one."""
        self._found_seed = state["seed"]


def training_loop(trainer: TrainerBase) -> Any:
    """The ``SimpleTrainer`` that takes the batches: the trainer itself, or that of a ``DefaultTrainer``.

    Raises:
        UserError: where it has none.
    """
    loop = getattr(trainer, "_trainer", trainer)
    if not hasattr(loop, "_data_loader_iter"):
        raise UserError(
            "hooks: expected a DefaultTrainer, SimpleTrainer or AMPTrainer of Detectron2, got "
            f"{loop.__class__.__name__}, whose batches cannot be reached; in a loop of your own, call "
            "images_and_targets, copypaste_batch and detectron2_batch"
        )
    return loop


def fraction_passed(time: str, iteration: int, max_iter: int) -> Fraction:
    """How much of a time, counted from the training's start, has passed: from 0 to 1, and 1 for no time."""
    value, unit = parse_time(time)
    passed = Fraction(iteration) if unit == "ba" else Fraction(iteration, max_iter)
    return min(passed / value, Fraction(1)) if value else Fraction(1)
