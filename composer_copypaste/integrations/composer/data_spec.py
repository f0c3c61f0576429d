"""The data loaders as Composer's ``DataSpec``s, which say how a batch is counted and split into microbatches."""

from composer.core import DataSpec
from torch import Tensor
from torch.utils.data import Dataset

from composer_copypaste.data.loaders import Batch, evaluation_dataloader, training_dataloader
from composer_copypaste.instances import Target


def training_data_spec(
    dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0, seed: int = 0
) -> DataSpec:
    """A ``DataSpec`` for Composer's ``Trainer``: batches of shuffled samples, in another order in each epoch.

    It holds a `training_dataloader`, and says how a batch is counted and split into microbatches. The last, shorter
    batch of an epoch is dropped, unless it is the only one. Composer says which epoch it is; in a loop over
    ``training_data_spec(...).dataloader``, each pass is one.

    Args:
        dataset: any with a length whose samples, at an index, are (image, target), as for `training_dataloader`.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the training process itself. The samples are the same for any number.
        seed: of the order, and of torch's random numbers in the processes that load.

    Raises:
        TypeError: for a data set without length or indices.
        DataError: while loading, for a sample of another form.
    """
    loader = training_dataloader(dataset, batch_size=batch_size, workers=workers, seed=seed)
    return DataSpec(loader, split_batch=split_batch, get_num_samples_in_batch=num_samples)


def evaluation_data_spec(dataset: Dataset[tuple[Tensor, Target]], *, batch_size: int, workers: int = 0) -> DataSpec:
    """A ``DataSpec`` for Composer's ``Trainer``: batches of all samples, in the data set's order.

    It holds an `evaluation_dataloader`. Where the processes of a distributed run don't divide the samples, some are
    repeated; Composer drops the repeated ones before the metrics see them.

    Args:
        dataset: any with a length whose samples, at an index, are (image, target), as for `training_dataloader`.
        batch_size: samples in a batch of one device.
        workers: processes that load; 0: the evaluating process itself.

    Raises:
        TypeError: for a data set without length or indices.
        DataError: while loading, for a sample of another form.
    """
    loader = evaluation_dataloader(dataset, batch_size=batch_size, workers=workers)
    return DataSpec(loader, split_batch=split_batch, get_num_samples_in_batch=num_samples)


def split_batch(batch: Batch, microbatch_size: int | float) -> list[Batch]:
    """The batch in parts of at most ``microbatch_size`` samples, a whole number; Composer's type has floats too."""
    images, targets = batch
    size = int(microbatch_size)
    return [(images[start : start + size], targets[start : start + size]) for start in range(0, len(targets), size)]


def num_samples(batch: Batch) -> int:
    """The number of samples in a batch."""
    return len(batch[1])
