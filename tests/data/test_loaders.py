"""Loaders: the form of a batch, and that it depends on seed and epoch alone."""

import errno
import gc
import os
import signal
import sys
from contextlib import contextmanager
from itertools import chain

import numpy as np
import pytest
import torch
from coco_files import annotation
from composer import ComposerModel, Trainer
from composer.core import DataSpec
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from composer_copypaste.data import loaders
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.data.loaders import EpochSampler
from composer_copypaste.data.transforms import LargeScaleJitterTransform
from composer_copypaste.distributed import why_loading_ended
from composer_copypaste.errors import DataError, UserError
from composer_copypaste.integrations.composer.callbacks import SkipTrainedSamples
from composer_copypaste.integrations.composer.data_spec import evaluation_data_spec, split_batch, training_data_spec
from composer_copypaste.settings import LargeScaleJitterSettings

IMAGES = 5


@pytest.fixture
def path(coco_file, tmp_path):
    """A data set of five images, 12 wide and 8 high, number 4 one column wider."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (8, 12 + (number == 4), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 8, "width": pixels.shape[1]})
    return coco_file(*(annotation(n, image_id=n) for n in range(IMAGES)), images=images)


@pytest.fixture
def dataset(path) -> CocoInstances:
    """The data set as it is."""
    return CocoInstances(path.parent, path)


@pytest.fixture
def jittered(path) -> CocoInstances:
    """The data set jittered to 16 x 16."""
    return CocoInstances(path.parent, path, LargeScaleJitterTransform(LargeScaleJitterSettings(size=(16, 16))))


def image_ids(loader: DataSpec) -> list[list[int]]:
    return [[int(target["image_id"]) for target in targets] for _, targets in loader.dataloader]


def checksums(loader: DataSpec) -> list[int]:
    return [int(images.long().sum()) for images, _ in loader.dataloader]


def test_images_of_one_size_are_stacked(jittered):
    images, targets = next(iter(training_data_spec(jittered, batch_size=4).dataloader))
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (4, 3, 16, 16))
    assert len(targets) == 4


def test_images_of_several_sizes_are_a_list(dataset):
    images, _ = next(iter(evaluation_data_spec(dataset, batch_size=5).dataloader))
    assert [tuple(image.shape) for image in images] == [(3, 8, 12)] * 4 + [(3, 8, 13)]


def test_evaluation_keeps_the_order_and_the_short_last_batch(dataset):
    assert image_ids(evaluation_data_spec(dataset, batch_size=2)) == [[0, 1], [2, 3], [4]]


def test_training_drops_the_short_last_batch(jittered):
    assert [len(batch) for batch in image_ids(training_data_spec(jittered, batch_size=2))] == [2, 2]


def test_training_keeps_a_short_batch_that_is_the_only_one(jittered):
    assert [len(batch) for batch in image_ids(training_data_spec(jittered, batch_size=8))] == [5]


def test_samples_are_counted(dataset):
    loader = evaluation_data_spec(dataset, batch_size=4)
    assert [loader.get_num_samples_in_batch(batch) for batch in loader.dataloader] == [4, 1]


@pytest.mark.parametrize("images", [torch.zeros(5, 3, 4, 4), [torch.zeros(3, 4, n) for n in range(5)]])
def test_a_batch_is_split_with_its_targets(images):
    targets = [{"image_id": torch.tensor(number)} for number in range(5)]
    parts = split_batch((images, targets), 2)
    assert [type(part[0]) for part in parts] == [type(images)] * 3
    assert [len(part[0]) for part in parts] == [2, 2, 1]
    assert [[int(target["image_id"]) for target in part[1]] for part in parts] == [[0, 1], [2, 3], [4]]


def test_a_batch_smaller_than_a_microbatch_stays_whole():
    assert len(split_batch((torch.zeros(2, 3, 4, 4), [{}, {}]), 8)) == 1


def keys(dataset: CocoInstances, *, epoch: int = 0, seed: int = 0, ranks: int = 1) -> list[tuple[int, int]]:
    samplers = [EpochSampler(dataset, num_replicas=ranks, rank=rank, seed=seed) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    assert len({len(list(sampler)) for sampler in samplers}) == 1
    return [key for sampler in samplers for key in sampler]


def test_an_epoch_has_every_image_once(dataset):
    assert sorted(keys(dataset, epoch=3)) == [(3, index) for index in range(IMAGES)]


def test_ranks_share_the_images_out_and_repeat_only_padding(dataset):
    indices = [index for _, index in keys(dataset, ranks=2)]
    assert len(indices) == IMAGES + 1
    assert set(indices) == set(range(IMAGES))


def test_orders_differ_between_epochs_and_between_seeds(dataset):
    orders = {tuple(i for _, i in keys(dataset, epoch=e, seed=s)) for e in range(4) for s in range(4)}
    assert len(orders) > 12  # of 16, out of 120 possible ones


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(jittered, workers):
    alone, helped = (training_data_spec(jittered, batch_size=2, workers=count, seed=3) for count in (0, workers))
    for epoch in range(2):
        for loader in (alone, helped):
            loader.dataloader.sampler.set_epoch(epoch)
        assert checksums(alone) == checksums(helped)


def test_torch_s_global_generator_is_left_alone(jittered):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    checksums(training_data_spec(jittered, batch_size=2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_also_from_a_worker(dataset, workers):
    broken = dataset.images / "3.png"
    broken.write_text("no image")
    with pytest.raises(DataError) as caught:
        image_ids(evaluation_data_spec(dataset, batch_size=2, workers=workers))
    assert str(caught.value) == f"{broken}: the image cannot be decoded: not an image in a known format"


# ---- data sets of a user's own, in a loop of a user's own


class Ordinary(Dataset):
    """Eight samples that take an index alone, each of its own form if one is given."""

    def __init__(self, sample=lambda index: (torch.full((3, 4, 4), index), {"image_id": torch.tensor(index)})):
        self.sample = sample

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if not isinstance(index, int):
            raise TypeError(f"list indices must be integers or slices, not {type(index).__name__}")
        return self.sample(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_passes_of_a_plain_loop_over_any_data_set_differ_in_order_and_have_every_sample(workers):
    loader = training_data_spec(Ordinary(), batch_size=4, workers=workers)
    passes = [[*chain(*image_ids(loader))] for _ in range(3)]
    assert [sorted(order) for order in passes] == [[*range(8)]] * 3
    assert len({tuple(order) for order in passes}) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_passes_of_a_plain_loop_are_the_epochs_of_one_that_counts_them(jittered, workers):
    plain, counted = (training_data_spec(jittered, batch_size=2, workers=workers) for _ in range(2))
    for epoch in range(3):
        counted.dataloader.sampler.set_epoch(epoch)
        assert checksums(plain) == checksums(counted)


def test_a_training_sees_the_same_after_a_plain_loop_over_its_loader(jittered):
    used = training_data_spec(jittered, batch_size=2)
    next(iter(used.dataloader))
    assert recorded(jittered, "2ep") == recorded(jittered, "2ep", train_dataloader=used)


@pytest.mark.parametrize(
    "part", [lambda data: Subset(data, [2, 3]), lambda data: ConcatDataset([Subset(data, [2]), data])]
)
def test_parts_and_chains_of_data_sets_know_the_epoch(jittered, part):
    loader = training_data_spec(part(jittered), batch_size=1)
    for epoch in range(2):
        seen = {int(target["image_id"]): images[0] for images, [target] in loader.dataloader}
        assert {2, 3} <= {*seen}
        for index, image in seen.items():
            assert torch.equal(image, jittered[epoch, index][0])


def test_an_evaluation_takes_any_data_set():
    assert image_ids(evaluation_data_spec(Ordinary(), batch_size=5)) == [[0, 1, 2, 3, 4], [5, 6, 7]]


class Stream(IterableDataset):
    """Samples without indices, but with a length."""

    def __len__(self):
        return 8

    def __iter__(self):
        return iter([])


@pytest.mark.parametrize("made", [training_data_spec, evaluation_data_spec])
@pytest.mark.parametrize("dataset", [Stream(), Dataset()], ids=["Stream", "Dataset"])
def test_data_without_indices_is_refused_at_once(made, dataset):
    with pytest.raises(TypeError, match=rf"^dataset: expected one with __len__ and .*, got {type(dataset).__name__};"):
        made(dataset, batch_size=2)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("sample", "described"),
    [
        (lambda index: {"image": torch.zeros(3, 4, 4)}, "dict"),
        (lambda index: (torch.zeros(3, 4, 4), index), "tuple (tensor of shape (3, 4, 4), int)"),
        (lambda index: (torch.zeros(4, 4), {}), "tuple (tensor of shape (4, 4), dict)"),
        (lambda index: (Image.new("RGB", (4, 4)), []), "tuple (Image, list)"),
        (lambda index: (torch.zeros(3, 4, 4), {}, index), "tuple (tensor of shape (3, 4, 4), dict, int)"),
    ],
)
def test_samples_of_another_form_are_refused_in_one_line(sample, described, workers):
    loader = evaluation_data_spec(Ordinary(sample), batch_size=2, workers=workers)
    with pytest.raises(DataError) as caught:
        next(iter(loader.dataloader))
    assert str(caught.value).startswith("sample 0 of Ordinary: expected (image, target), ")
    assert f", got {described}; " in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- processes that load


def without_room(index):
    """What a worker meets that writes into a /dev/shm which is too small."""
    os.kill(os.getpid(), signal.SIGBUS)


def test_a_worker_without_shared_memory_is_reported_by_its_parent_alone(capfd):
    loader = evaluation_data_spec(Ordinary(without_room), batch_size=2, workers=1)
    with pytest.raises(RuntimeError) as caught:
        image_ids(loader)
    assert "/dev/shm has" in why_loading_ended(caught.value)
    assert capfd.readouterr().err == ""


def test_a_batch_for_which_there_is_no_room_is_an_error_and_not_waited_for(monkeypatch):
    def full(storage):
        raise RuntimeError("unable to write to file </torch_7_8_9>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    loader = evaluation_data_spec(Ordinary(), batch_size=2, workers=1)
    with pytest.raises(RuntimeError, match="No space left") as caught:
        image_ids(loader)
    assert "--shm-size" in why_loading_ended(caught.value)


def test_workers_of_a_loader_that_is_garbage_are_not_waited_for(dataset, monkeypatch):
    # for which torch waits, 5 seconds as a rule: longer than pytest gives a test
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 3600.0)
    garbage = [evaluation_data_spec(dataset, batch_size=2, workers=1)]
    garbage.append(garbage)
    image_ids(garbage[0])
    (worker,) = garbage[0].dataloader._iterator._workers
    del garbage
    gc.collect()
    assert worker.exitcode == 0


def test_a_worker_that_cannot_be_started_is_one_line(dataset, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loaders.get_context(), "Lock", full)
    with pytest.raises(
        UserError, match=r"^loading processes \(workers=2\) cannot be started: No space .* --shm-size=8g"
    ):
        image_ids(training_data_spec(dataset, batch_size=2, workers=2))


class Interrupted(torch.utils.data.Dataset):
    """Images at whose loading Ctrl-C is pressed."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGINT)
        return torch.zeros(3, 4, 4, dtype=torch.uint8), {"image_id": torch.tensor(index)}


def test_ctrl_c_does_not_end_a_worker():
    with exits_as_composer_does():
        assert image_ids(evaluation_data_spec(Interrupted(), batch_size=1, workers=1)) == [[0], [1]]


@contextmanager
def exits_as_composer_does():
    """With Composer's handler of SIGINT, which workers inherit."""
    former = signal.signal(signal.SIGINT, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


class Recorder(ComposerModel):
    """Learns nothing and keeps a checksum of every microbatch it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, batch: tuple[Tensor, list[dict[str, Tensor]]]) -> Tensor:
        images, targets = batch
        self.seen.append(int(images.long().sum()) + sum(int(target["masks"].sum()) for target in targets))
        return self.weight * 1.0

    def loss(self, outputs: Tensor, batch: object) -> Tensor:
        return outputs


def recorded(dataset: CocoInstances, duration: str, **settings: object) -> list[int]:
    """What a model sees in a training."""
    model = Recorder()
    trainer = Trainer(
        model=model,
        max_duration=duration,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        device="cpu",
        device_train_microbatch_size=1,
        progress_bar=False,
        loggers=[],
        **({"train_dataloader": training_data_spec(dataset, batch_size=2)} | settings),
    )
    trainer.fit()
    trainer.close()
    return model.seen


def test_a_training_resumed_within_an_epoch_sees_what_an_uninterrupted_one_sees(jittered, tmp_path):
    folder = str(tmp_path / "checkpoints")
    uninterrupted = recorded(jittered, "3ep")
    start = recorded(jittered, "3ba", save_folder=folder, save_interval="3ba", save_latest_filename="latest.pt")
    rest = recorded(jittered, "3ep", load_path=f"{folder}/latest.pt")
    resumed = rest[-(len(uninterrupted) - len(start)) :]
    assert start + resumed == uninterrupted
    assert len(set(uninterrupted)) == len(uninterrupted) == 12


@pytest.mark.parametrize(("done", "loaded"), [("3ba", 6), ("4ba", 4)], ids=["within an epoch", "at an epoch's end"])
def test_a_resumed_training_loads_nothing_that_it_has_seen(jittered, tmp_path, monkeypatch, done, loaded):
    folder, read = str(tmp_path / "checkpoints"), []
    uninterrupted = recorded(jittered, "3ep")
    recorded(jittered, done, save_folder=folder, save_interval=done, save_latest_filename="latest.pt")
    load = CocoInstances.__getitem__
    monkeypatch.setattr(CocoInstances, "__getitem__", lambda self, key: [read.append(key), load(self, key)][1])
    resumed = recorded(jittered, "3ep", load_path=f"{folder}/latest.pt", callbacks=[SkipTrainedSamples()])
    assert resumed == uninterrupted[-loaded:]
    assert len(read) == loaded
