"""Data loaders for training and evaluation, in plain torch."""

import os
import signal
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from multiprocessing import get_context
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, distributed
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    default_collate,
)

from composer_copypaste.data.transforms import seeded_generator
from composer_copypaste.errors import DataError, UserError
from composer_copypaste.instances import Target

Images = Tensor | list[Tensor]
Batch = tuple[Images, list[Target]]
"""Images, as one tensor (n, 3, height, width) where all have one size, and a target for each."""

Key = tuple[int, int]
"""Epoch, and index of a sample in the data set."""


def training_dataloader(
    dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0, seed: int = 0
) -> DataLoader[tuple[Tensor, Target]]:
    """Batches of shuffled samples, in another order in each epoch.

    The last, shorter batch of an epoch is dropped, unless it is the only one. Each pass is an epoch, counted from 0,
    unless ``loader.sampler.set_epoch`` says which one it is. In a distributed run each process loads its own part.

    Args:
        dataset: any with a length whose samples, at an index, are (image, target): a tensor (channels, height, width)
            and a dict. If its attribute ``takes_epochs`` is True, as that of `CocoInstances`, it is given (epoch,
            index), also inside a ``Subset`` or ``ConcatDataset``: what it draws can then depend on these alone.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the training process itself. The samples are the same for any number.
        seed: of the order, and of torch's random numbers in the processes that load.

    Raises:
        TypeError: for a data set without length or indices.
        DataError: while loading, for a sample of another form.

    Example:
        >>> for images, targets in training_dataloader(CocoInstances("train", "train.json"), batch_size=4):
        ...     images, targets = copypaste_batch(images, targets)
    """
    _check_can_be_indexed(dataset)
    rank, processes = _rank_and_processes()
    sampler = EpochSampler(dataset, num_replicas=processes, rank=rank, seed=seed)
    return _build_dataloader(dataset, sampler, batch_size, workers, drop_last=len(sampler) >= batch_size, seed=seed)


def evaluation_dataloader(
    dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0
) -> DataLoader[tuple[Tensor, Target]]:
    """Batches of all samples, in the data set's order.

    In a distributed run each process loads its own part. Where the processes don't divide the samples, some are
    repeated: a metric must not count them twice.

    Args:
        dataset: any with a length whose samples, at an index, are (image, target), as for `training_dataloader`.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the evaluating process itself.

    Raises:
        TypeError: for a data set without length or indices.
        DataError: while loading, for a sample of another form.
    """
    _check_can_be_indexed(dataset)
    rank, processes = _rank_and_processes()
    sampler: DistributedSampler[int] = DistributedSampler(dataset, num_replicas=processes, rank=rank, shuffle=False)
    return _build_dataloader(dataset, sampler, batch_size, workers, drop_last=False)


def _rank_and_processes() -> tuple[int, int]:
    """This process's rank and the number of processes.

    torch.distributed knows them once it is initialised; before, a launcher's environment variables do.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _check_can_be_indexed(dataset: object) -> None:
    """Raise ``TypeError`` for a data set that cannot be shuffled by its indices."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"dataset: expected one with __len__ and __getitem__, whose samples can be shuffled and resumed by their "
            f"indices, got {type(dataset).__name__}; give it to a DataLoader of your own, with "
            f"{collate.__module__}.{collate.__name__} as its collate_fn"
        )


@runtime_checkable
class HasSampleOrder(Protocol):
    """A data set that shuffles itself, into an order that is fast to read, as `StreamingCocoInstances` does."""

    def order(self, generator: torch.Generator) -> Tensor:
        """All indices once, shuffled."""


class EpochSampler(DistributedSampler[Key | None]):
    """This process's (epoch, index) keys, shuffled by (seed, epoch); data sets derive their transforms from them.

    Every process gets the same number of keys; where the samples don't divide, the shuffled indices start again.
    Composer calls ``set_epoch``; until something does, each pass is an epoch of its own, counted from 0. Samples that
    ``skip`` names are not loaded: their keys are None.
    """

    def __init__(self, dataset: Dataset[Any], *, num_replicas: int, rank: int, seed: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        self._passes: int | None = 0  # None: something else counts epochs
        self._first = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of all passes from now on, until the next call."""
        super().set_epoch(epoch)
        self._passes = None

    def skip(self, epoch: int, samples: int) -> None:
        """Load nothing before this epoch, nor the first ``samples`` of this process in it."""
        self._first = (epoch, samples)

    def __iter__(self) -> Iterator[Key | None]:
        if self._passes is not None:
            self.epoch, self._passes = self._passes, self._passes + 1
        count = len(self.dataset)  # type: ignore[arg-type]
        generator = seeded_generator(self.seed, self.epoch)
        own = self.dataset.order(generator) if isinstance(self.dataset, HasSampleOrder) else None
        order = (torch.randperm(count, generator=generator) if own is None else own).tolist()
        positions = range(self.rank, self.total_size, self.num_replicas)
        return iter(
            [
                None if (self.epoch, number) < self._first else (self.epoch, order[position % count])
                for number, position in enumerate(positions)
            ]
        )


class _SamplesByKey(Dataset[tuple[Tensor, Target]]):
    """The samples of a data set by the samplers' keys, checked; an empty sample for the key None."""

    def __init__(self, dataset: Dataset[tuple[Tensor, Target]]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key | int | None) -> tuple[Tensor, Target]:
        if key is None:
            return torch.empty(3, 0, 0, dtype=torch.uint8), {}
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = _sample_at(self.dataset, epoch, index)
        if isinstance(sample, tuple | list) and len(sample) == 2:
            image, target = sample
            if isinstance(image, Tensor) and image.ndim == 3 and isinstance(target, dict):
                return image, target
        raise DataError(
            f"sample {index} of {type(self.dataset).__name__}: expected (image, target), a tensor (channels, height, "
            f"width) and a dict as torchvision's detection models take it, got {_describe_sample(sample)}; bring "
            "samples into this form in the data set, or give it to a DataLoader with a collate_fn of your own"
        )


def _sample_at(dataset: Any, epoch: int, index: int) -> object:
    """The sample at an index, with the epoch where the data set takes it; looks into subsets and concatenations."""
    if type(dataset) is Subset:
        return _sample_at(dataset.dataset, epoch, dataset.indices[index])
    if type(dataset) is ConcatDataset:
        part = bisect_right(dataset.cumulative_sizes, index)
        return _sample_at(dataset.datasets[part], epoch, index - [0, *dataset.cumulative_sizes][part])
    return dataset[(epoch, index) if getattr(dataset, "takes_epochs", False) else index]


def _describe_sample(sample: object) -> str:
    parts = sample if isinstance(sample, tuple | list) else [sample]
    kinds = [
        f"tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__ for part in parts
    ]
    return kinds[0] if parts is not sample else f"{type(sample).__name__} ({', '.join(kinds)})"


def collate(samples: Sequence[tuple[Tensor, Target]]) -> Batch:
    """The samples as one batch."""
    images = [image for image, _ in samples]
    targets = [target for _, target in samples]
    if len({image.shape for image in images}) == 1:
        return default_collate(images), targets
    return images, targets


def _collate_in_shared_memory(samples: Sequence[tuple[Tensor, Target]]) -> Batch:
    """The samples as one batch, in memory that the parent process can read.

    A worker moves them there itself, so that a lack of room is an error that reaches the parent: later, in the thread
    that sends the batch, torch loses the error, and the parent waits for ever.
    """
    images, targets = collate(samples)
    for value in chain(images, *(target.values() for target in targets)):
        if isinstance(value, Tensor):
            value.share_memory_()
    return images, targets


def _build_dataloader(
    dataset: Dataset[tuple[Tensor, Target]],
    sampler: EpochSampler | DistributedSampler[int],
    batch_size: int,
    workers: int,
    *,
    drop_last: bool,
    seed: int = 0,
) -> DataLoader[tuple[Tensor, Target]]:
    return _CheckedDataLoader(
        _SamplesByKey(dataset),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_parent,
        collate_fn=_collate_in_shared_memory if workers else collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        drop_last=drop_last,
        # without it, torch draws the workers' seeds from its global generator
        generator=seeded_generator(seed, sampler.rank),
    )


class _CheckedDataLoader(DataLoader[tuple[Tensor, Target]]):
    """A DataLoader that says in one line why its processes cannot be started, or what a sample lacks."""

    def __iter__(self) -> Any:
        try:
            if self.num_workers:
                get_context().Lock()  # the first thing to fail; later, torch would add a traceback of its own
            batches = super().__iter__()
        except OSError as error:
            raise UserError(
                f"loading processes (workers={self.num_workers}) cannot be started: {error.strerror}; they need "
                "memory, and room in /dev/shm (start a container with --shm-size=8g). To load without them: workers=0, "
                "in a recipe data.workers=0"
            ) from error
        if not self.num_workers:
            return batches
        _keep_queues_until_workers_end(batches)
        return _batches_without_tracebacks(batches)


def _keep_queues_until_workers_end(iterator: Any) -> None:
    """Let no queue of the iterator be closed before the iterator has told its workers to end.

    Where Python's garbage collector finds both at once, as behind a Composer ``DataSpec``, which refers to itself, it
    closes the queues first, and torch then waits for each worker for five seconds.
    """
    weakref.finalize(iterator, lambda queues: None, vars(iterator)).atexit = False


def _batches_without_tracebacks(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches of worker processes, whose errors of ours keep their own message.

    torch raises a worker's error again with the worker's whole traceback as its message, which ends with ours.
    """
    try:
        yield from batches
    except UserError as error:
        kind = type(error)
        message = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")[2].rstrip("\n")
        raise kind(message) from error


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ignore Ctrl-C in a worker, and let a bus error end it without a word: the parent reports both.

    Ctrl-C reaches every process of a terminal, and torch's own handler would report a bus error a second time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
