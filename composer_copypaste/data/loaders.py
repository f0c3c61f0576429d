"""Loaders for training and evaluation, as Composer's `DataSpec`s."""

import signal
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from composer.core import Callback, DataSpec, State
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from composer_copypaste.data.transforms import generator_for
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

    Every rank gets as many; where they don't divide, the shuffled indices start again. Composer calls ``set_epoch``.
    Samples before ``start``, an epoch and a number of them, are not loaded: their keys are None.
    """

    start = (0, 0)

    def __iter__(self) -> Iterator[Key | None]:
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


class _Unloaded(Dataset[tuple[Tensor, Target]]):
    """A data set that gives an empty sample for the key None."""

    def __init__(self, dataset: Dataset[tuple[Tensor, Target]]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key | None) -> tuple[Tensor, Target]:
        return (torch.empty(3, 0, 0, dtype=torch.uint8), {}) if key is None else self.dataset[key]


def training_loader(
    dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0, seed: int = 0
) -> DataSpec:
    """Batches of shuffled samples.

    The last, shorter batch of an epoch is dropped, unless it is the only one.

    Args:
        dataset: takes the keys (epoch, index), as `CocoInstances` does.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the training process itself. The samples are the same for any number.
        seed: of the order.
    """
    sampler = EpochSampler(dataset, num_replicas=dist.get_world_size(), rank=dist.get_global_rank(), seed=seed)
    return _data_spec(_Unloaded(dataset), sampler, batch_size, workers, drop_last=len(sampler) >= batch_size)


def evaluation_loader(dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0) -> DataSpec:
    """Batches of all samples, in the data set's order.

    Where the ranks don't divide them, samples are repeated as padding, which Composer drops before the metrics see it.

    Args:
        dataset: takes an index, as `CocoInstances` does.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the evaluating process itself.
    """
    sampler: DistributedSampler[int] = dist.get_sampler(dataset, shuffle=False)
    return _data_spec(dataset, sampler, batch_size, workers, drop_last=False)


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
) -> DataSpec:
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_leave_ctrl_c_to_the_parent,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        drop_last=drop_last,
        generator=torch.Generator(),  # else the loader takes a number from torch's global generator in every epoch
    )
    return DataSpec(loader, split_batch=split_batch, get_num_samples_in_batch=num_samples)


def _leave_ctrl_c_to_the_parent(worker: int) -> None:
    """It reaches every process of a terminal; a worker that it ended would be an error beside the parent's word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
