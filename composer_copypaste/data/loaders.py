"""Loaders for training and evaluation, as Composer's `DataSpec`s."""

import signal
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from multiprocessing import get_context
from typing import Any, Protocol, runtime_checkable

import torch
from composer.core import Callback, DataSpec, State
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    default_collate,
)

from composer_copypaste.data.transforms import generator_for
from composer_copypaste.errors import DataError, UserError
from composer_copypaste.instances import Target

Images = Tensor | list[Tensor]
Batch = tuple[Images, list[Target]]
"""Images, in one tensor (n, 3, height, width) where all sizes agree, and a target for each."""


@runtime_checkable
class HasOrder(Protocol):
    """A data set that says in which order its samples are best read, as `StreamingCocoInstances` does."""

    def order(self, generator: torch.Generator) -> Tensor:
        """All indices once, shuffled."""


Key = tuple[int, int]
"""Epoch and index."""


class EpochSampler(DistributedSampler[Key | None]):
    """This rank's (epoch, index) keys, shuffled by (seed, epoch): what the data set derives its transforms from.

    Every rank gets as many; where they don't divide, the shuffled indices start again. Composer calls ``set_epoch``;
    until something does, each pass is an epoch of its own, from 0 on. Samples before ``start``, an epoch and a number
    of them, are not loaded: their keys are None.
    """

    start = (0, 0)
    _passes: int | None = 0  # None: epochs are counted elsewhere

    def set_epoch(self, epoch: int) -> None:
        """The epoch of all passes from now on, until the next call."""
        super().set_epoch(epoch)
        self._passes = None

    def __iter__(self) -> Iterator[Key | None]:
        if self._passes is not None:
            self.epoch, self._passes = self._passes, self._passes + 1
        count = len(self.dataset)  # type: ignore[arg-type]
        generator = generator_for(self.seed, self.epoch)
        own = self.dataset.order(generator) if isinstance(self.dataset, HasOrder) else None
        order = (torch.randperm(count, generator=generator) if own is None else own).tolist()
        places = range(self.rank, self.total_size, self.num_replicas)
        return iter(
            [
                None if (self.epoch, number) < self.start else (self.epoch, order[place % count])
                for number, place in enumerate(places)
            ]
        )


class SkipsWhatIsDone(Callback):
    """A resumed training begins at once: what it goes through of `training_loader` to get where it was is not loaded.

    Composer takes the batches of the epoch that it is in once more, to leave them aside.
    """

    def fit_start(self, state: State, logger: Logger) -> None:
        """Tells the sampler where the training stands."""
        loader = state.dataloader
        if isinstance(loader, DataLoader) and isinstance(loader.sampler, EpochSampler) and loader.batch_size:
            loader.sampler.start = (
                state.timestamp.epoch.value,
                state.timestamp.batch_in_epoch.value * loader.batch_size,
            )


class _Samples(Dataset[tuple[Tensor, Target]]):
    """The samples of a data set by the samplers' keys, checked; an empty sample for the key None."""

    def __init__(self, dataset: Dataset[tuple[Tensor, Target]]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key | int | None) -> tuple[Tensor, Target]:
        if key is None:
            return torch.empty(3, 0, 0, dtype=torch.uint8), {}
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return _checked(_sample(self.dataset, epoch, index), self.dataset, index)


def _sample(dataset: Any, epoch: int, index: int) -> object:
    """The sample at an index, and of an epoch where the data set knows epochs; also a part or a chain of such sets."""
    if type(dataset) is Subset:
        return _sample(dataset.dataset, epoch, dataset.indices[index])
    if type(dataset) is ConcatDataset:
        part = bisect_right(dataset.cumulative_sizes, index)
        return _sample(dataset.datasets[part], epoch, index - [0, *dataset.cumulative_sizes][part])
    return dataset[(epoch, index) if getattr(dataset, "takes_epochs", False) else index]


def _checked(sample: object, dataset: object, index: int) -> tuple[Tensor, Target]:
    """The sample, where it is an image and a target."""
    if isinstance(sample, tuple | list) and len(sample) == 2:
        image, target = sample
        if isinstance(image, Tensor) and image.ndim == 3 and isinstance(target, dict):
            return image, target
    raise DataError(
        f"sample {index} of {type(dataset).__name__}: expected (image, target), a tensor (channels, height, width) and "
        f"a dict as torchvision's detection models take it, got {_described(sample)}; bring samples into this form in "
        "the data set, or give it to a DataLoader with a collate_fn of your own"
    )


def _described(sample: object) -> str:
    parts = sample if isinstance(sample, tuple | list) else [sample]
    kinds = [
        f"tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__ for part in parts
    ]
    return kinds[0] if parts is not sample else f"{type(sample).__name__} ({', '.join(kinds)})"


def training_loader(
    dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0, seed: int = 0
) -> DataSpec:
    """Batches of shuffled samples, in another order in each epoch.

    The last, shorter batch of an epoch is dropped, unless it is the only one. Composer says which epoch it is; in a
    loop over ``training_loader(...).dataloader``, each pass is one.

    Args:
        dataset: any with a length whose samples, at an index, are (image, target): a tensor (channels, height, width)
            and a dict. One whose attribute ``takes_epochs`` is True, as that of `CocoInstances`, is given (epoch,
            index), also as a ``Subset`` or in a ``ConcatDataset``: what it draws can then depend on these alone.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the training process itself. The samples are the same for any number.
        seed: of the order, and of torch's random numbers in the processes that load.

    Raises:
        TypeError: for a data set without length or indices.
        DataError: while loading, for a sample of another form.
    """
    _check_indexed(dataset)
    sampler = EpochSampler(dataset, num_replicas=dist.get_world_size(), rank=dist.get_global_rank(), seed=seed)
    return _data_spec(dataset, sampler, batch_size, workers, drop_last=len(sampler) >= batch_size, seed=seed)


def evaluation_loader(dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0) -> DataSpec:
    """Batches of all samples, in the data set's order.

    Where the ranks don't divide them, samples are repeated as padding, which Composer drops before the metrics see it.

    Args:
        dataset: any with a length whose samples, at an index, are (image, target), as for `training_loader`.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the evaluating process itself.

    Raises:
        TypeError: for a data set without length or indices.
        DataError: while loading, for a sample of another form.
    """
    _check_indexed(dataset)
    sampler: DistributedSampler[int] = dist.get_sampler(dataset, shuffle=False)
    return _data_spec(dataset, sampler, batch_size, workers, drop_last=False)


def _check_indexed(dataset: object) -> None:
    """Raise ``TypeError`` for a data set that cannot be shuffled by its indices."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"dataset: expected one with __len__ and __getitem__, whose samples can be shuffled and resumed by their "
            f"indices, got {type(dataset).__name__}; give it to a DataLoader of your own, with "
            f"{collate.__module__}.{collate.__name__} as its collate_fn"
        )


def collate(samples: Sequence[tuple[Tensor, Target]]) -> Batch:
    """The samples as one batch."""
    images = [image for image, _ in samples]
    targets = [target for _, target in samples]
    if len({image.shape for image in images}) == 1:
        return default_collate(images), targets
    return images, targets


def split_batch(batch: Batch, microbatch_size: int | float) -> list[Batch]:
    """The batch in parts of at most ``microbatch_size`` samples, a whole number; Composer's type has floats too."""
    images, targets = batch
    size = int(microbatch_size)
    return [(images[start : start + size], targets[start : start + size]) for start in range(0, len(targets), size)]


def num_samples(batch: Batch) -> int:
    """The number of samples in a batch."""
    return len(batch[1])


def _data_spec(
    dataset: Dataset[tuple[Tensor, Target]],
    sampler: EpochSampler | DistributedSampler[int],
    batch_size: int,
    workers: int,
    *,
    drop_last: bool,
    seed: int = 0,
) -> DataSpec:
    loader = _Loader(
        _Samples(dataset),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_parent,
        collate_fn=_collate_in_shared_memory if workers else collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        drop_last=drop_last,
        generator=generator_for(seed, sampler.rank),  # of workers; else from torch's global generator in every epoch
    )
    return DataSpec(loader, split_batch=split_batch, get_num_samples_in_batch=num_samples)


def _collate_in_shared_memory(samples: Sequence[tuple[Tensor, Target]]) -> Batch:
    """The samples as one batch, where the parent can read it.

    A worker does that here, where a lack of room is an error that reaches the parent: later, in the thread that sends
    the batch, torch loses it, and the parent waits for ever.
    """
    images, targets = collate(samples)
    for value in chain(images, *(target.values() for target in targets)):
        if isinstance(value, Tensor):
            value.share_memory_()
    return images, targets


class _Loader(DataLoader[tuple[Tensor, Target]]):
    """Says in a line why its processes cannot be started."""

    def __iter__(self) -> Any:
        try:
            if self.num_workers:
                get_context().Lock()  # the first thing to fail; later, torch would add a traceback of its own
            iterator = super().__iter__()
        except OSError as error:
            raise UserError(
                f"loading processes (workers={self.num_workers}) cannot be started: {error.strerror}; they need "
                "memory, and room in /dev/shm (start a container with --shm-size=8g). To load without them: workers=0, "
                "in a recipe data.workers=0"
            ) from error
        if self.num_workers:
            _keep_queues_until_workers_end(iterator)
        return iterator


def _keep_queues_until_workers_end(iterator: Any) -> None:
    """Let no queue of the iterator be closed before the iterator has told its workers to end.

    Where Python's garbage collector finds both at once, as behind a Composer ``DataSpec``, which refers to itself, it
    closes the queues first: torch then waits for each worker for five seconds, and kills it.
    """
    weakref.finalize(iterator, lambda queues: None, vars(iterator)).atexit = False


def _leave_signals_to_the_parent(worker: int) -> None:
    """It reports what ended a worker; torch's handler of bus errors, here, would say it once more.

    Ctrl-C reaches every process of a terminal; a worker that it ended would be an error beside the parent's word.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
