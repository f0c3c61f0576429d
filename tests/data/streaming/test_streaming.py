"""Reading shards: samples equal those of the files, in an order that needs few shards at a time, cached or not."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import annotation
from composer.core import DataSpec
from PIL import Image
from shard_cases import SMALL, DataSet, drawn

from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.data.loaders import EpochSampler
from composer_copypaste.data.streaming import cache as shard_files
from composer_copypaste.data.streaming import dataset as streaming
from composer_copypaste.data.streaming.dataset import StreamingCocoInstances
from composer_copypaste.data.streaming.write import write_shards
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform
from composer_copypaste.errors import DataError
from composer_copypaste.integrations.composer.data_spec import evaluation_data_spec, training_data_spec
from composer_copypaste.settings import LargeScaleJitterSettings

pytest.importorskip("streaming")

JITTER = LargeScaleJitterTransform(LargeScaleJitterSettings(size=(40, 48)))
GB = SMALL * 1.05 / 1e9
"""The size of a shard in gigabytes."""


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> DataSet:
    """Twenty images."""
    return drawn(tmp_path_factory.mktemp("pictures"), 20)


@pytest.fixture(scope="module")
def written(data_set, tmp_path_factory) -> Path:
    """Their shards, of two images each."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    data_set.write(folder)
    return folder


@pytest.fixture
def remote(written, tmp_path) -> Path:
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "remote"))


def assert_same_samples(one, other):
    assert len(one) == len(other)
    for key in [(epoch, index) for epoch in (0, 3) for index in range(len(one))]:
        (image, target), (other_image, other_target) = one[key], other[key]
        assert torch.equal(image, other_image)
        assert target.keys() == other_target.keys()
        for name, values in target.items():
            assert values.dtype == other_target[name].dtype
            assert torch.equal(values, other_target[name]), name


# ---- samples


@pytest.mark.parametrize("transform", [None, FlipTransform(0.5), JITTER], ids=["none", "flip", "jitter"])
def test_samples_are_those_of_the_files_to_the_bit(data_set, written, transform):
    files = CocoInstances(data_set.images, data_set.annotations, transform, seed=5)
    assert_same_samples(files, StreamingCocoInstances(written, transform, seed=5))


@pytest.mark.parametrize("transform", [None, JITTER], ids=["none", "jitter"])
def test_every_kind_of_annotation_comes_through(coco_file, tmp_path, transform):
    for number in (7, 8):
        Image.fromarray(np.full((8, 12, 3), number, np.uint8)).save(tmp_path / f"{number}.jpg", quality=90)
    uncompressed = {"size": [8, 12], "counts": [9, 5, 82]}
    path = coco_file(
        annotation(1, segmentation=[[1.1, 1.3, 6.7, 1, 6, 5.123456789], [7, 1, 9, 1, 9, 3]], area=None),
        annotation(2, segmentation=uncompressed, iscrowd=1, area=None),
        annotation(3, bbox=[0.1, 0.7, 3.3, 4.4], category_id=3, area=11.1, iscrowd=None),
        images=[{"id": n, "file_name": f"{n}.jpg", "height": 8, "width": 12} for n in (8, 7)],
    )
    write_shards(tmp_path / "shards", tmp_path, path)
    files, shards = CocoInstances(tmp_path, path, transform), StreamingCocoInstances(tmp_path / "shards", transform)
    assert_same_samples(files, shards)
    assert (shards.categories, shards.num_objects) == (files.categories, files.num_objects)
    assert len(shards[1][1]) == 6


def test_evaluation_draws_no_masks_and_reads_the_annotations_next_to_the_shards(data_set, written):
    data = StreamingCocoInstances(written, masks=False)
    assert "masks" not in data[0][1]
    assert data.annotations.path.read_bytes() == data_set.annotations.read_bytes()
    assert data.annotations.categories == data.categories


# ---- order


def test_an_order_has_every_index_once_and_depends_on_the_generator_alone(written):
    def order(seed):
        return StreamingCocoInstances(written).order(torch.Generator().manual_seed(seed)).tolist()

    assert sorted(order(0)) == list(range(20))
    assert order(0) == order(0) != order(1)


def test_one_shard_is_shuffled_as_files_are(data_set, tmp_path):
    data_set.write(tmp_path / "shards", shard_size=10**6)
    orders = [
        list(EpochSampler(data, num_replicas=1, rank=0, seed=4))
        for data in (CocoInstances(data_set.images, data_set.annotations), StreamingCocoInstances(tmp_path / "shards"))
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_all_ranks_together_see_every_image_once_in_the_same_order(written, ranks):
    data = StreamingCocoInstances(written)
    samplers = [EpochSampler(data, num_replicas=ranks, rank=rank, seed=4) for rank in range(ranks)]
    dealt = [key for keys in zip(*samplers, strict=True) for key in keys]
    assert dealt[:20] == list(EpochSampler(data, num_replicas=1, rank=0, seed=4))
    assert sorted(set(dealt)) == [(0, index) for index in range(20)]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_each_rank_reads_shards_of_its_own(tmp_path, ranks):
    drawn(tmp_path, 16).write(tmp_path / "shards")
    data = StreamingCocoInstances(tmp_path / "shards")
    assert [shard.samples for shard in data.shards] == [2] * 8  # so that each of the eight groups is one shard

    samplers = [EpochSampler(data, num_replicas=ranks, rank=rank, seed=4) for rank in range(ranks)]
    read = [{index // 2 for _, index in sampler} for sampler in samplers]
    assert [len(shards) for shards in read] == [8 // ranks] * ranks
    assert set.union(*read) == set(range(8))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(written, tmp_path, workers):
    def batches(data, **settings) -> list:
        loaded: DataSpec = training_data_spec(data, batch_size=3, seed=1, **settings)
        return [(images, [int(target["image_id"]) for target in targets]) for images, targets in loaded.dataloader]

    alone = batches(StreamingCocoInstances(written, JITTER))
    cached = batches(StreamingCocoInstances(written, JITTER, cache=tmp_path / "cache"), workers=workers)
    assert len(alone) == len(cached) == 6
    for (images, ids), (other_images, other_ids) in zip(alone, cached, strict=True):
        assert ids == other_ids
        assert torch.equal(images, other_images)


def test_evaluation_goes_through_the_images_in_the_files_order(written):
    batches = evaluation_data_spec(StreamingCocoInstances(written, masks=False), batch_size=7).dataloader
    assert [int(target["image_id"]) for _, targets in batches for target in targets] == list(range(1, 21))


# ---- cache


def cached_shards(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*/shard.*.mds"))


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_only_what_is_read_is_fetched(data_set, written, tmp_path, form):
    data = StreamingCocoInstances(form.format(written), cache=tmp_path / "cache")
    assert cached_shards(tmp_path / "cache") == []
    assert len(data[2][1]["boxes"])
    assert cached_shards(tmp_path / "cache") == ["shard.00001.mds"]
    assert_same_samples(CocoInstances(data_set.images, data_set.annotations), data)


def test_a_cache_keeps_the_shards_that_were_used_last(data_set, written, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "MAX_SHARD_GROUPS", 1)
    data = StreamingCocoInstances(written, cache=tmp_path, cache_gigabytes=3 * GB)
    for index in (0, 2, 4, 0, 6):
        data[index]
    assert cached_shards(tmp_path) == ["shard.00000.mds", "shard.00002.mds", "shard.00003.mds"]
    assert_same_samples(CocoInstances(data_set.images, data_set.annotations), data)
    assert len(cached_shards(tmp_path)) == 3


def test_a_cache_too_small_for_the_order_is_refused(written, tmp_path):
    with pytest.raises(
        DataError, match=r"expected a cache of at least 0.000\d+ GB, for two shards in each of 8 groups"
    ):
        StreamingCocoInstances(written, cache=tmp_path, cache_gigabytes=3 * GB)


def test_a_shard_that_goes_while_it_is_read_is_fetched_again(written, tmp_path):
    data = StreamingCocoInstances(written, cache=tmp_path)
    before = data[0][0]
    next(tmp_path.glob("*/shard.*.mds")).unlink()
    assert torch.equal(data[0][0], before)


def test_what_a_killed_process_left_half_fetched_is_not_used(written, tmp_path):
    data = StreamingCocoInstances(written, cache=tmp_path)
    folder = next(tmp_path.glob("*/index.json")).parent
    (folder / ".coming.shard.00000.mds").write_bytes(b"half")
    assert torch.equal(data[0][0], StreamingCocoInstances(written)[0][0])


def test_data_sets_share_a_cache_without_mixing(data_set, written, tmp_path):
    data_set.write(tmp_path / "other", shard_size=40_000)
    one, other = (StreamingCocoInstances(source, cache=tmp_path / "cache") for source in (written, tmp_path / "other"))
    assert_same_samples(one, other)


# ---- what is refused


def test_a_damaged_shard_is_not_used(remote, tmp_path):
    content = bytearray((remote / "shard.00001.mds").read_bytes())
    content[-1] ^= 1
    (remote / "shard.00001.mds").write_bytes(content)
    data = StreamingCocoInstances(remote, cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"shard.00001.mds: is damaged"):
        data[2]
    assert cached_shards(tmp_path / "cache") == []


def test_a_shard_that_is_missing_or_cut_is_found_when_the_folder_is_opened(remote):
    os.truncate(remote / "shard.00001.mds", 99)
    with pytest.raises(DataError, match=r"shard.00001.mds: has 99 bytes, index.json says \d+"):
        StreamingCocoInstances(remote)
    (remote / "shard.00001.mds").unlink()
    with pytest.raises(DataError, match=r"shard.00001.mds: the shard is missing"):
        StreamingCocoInstances(remote)


def test_a_shard_that_cannot_be_fetched_is_named(remote, tmp_path):
    (remote / "shard.00001.mds").unlink()
    with pytest.raises(DataError, match=r"remote/shard.00001.mds: cannot be fetched: .*No such file"):
        StreamingCocoInstances(remote, cache=tmp_path / "cache")[2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "nothing: there is no such folder of shards"),
        (".", r"expected shards, found no index.json; copypaste shard writes it when it is done"),
        ("s3://bucket/train", "shards of an object store need a cache"),
    ],
)
def test_anything_but_shards_is_refused_with_the_reason(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        StreamingCocoInstances(source)


def test_a_store_that_streaming_does_not_know_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"zz://b/x/index.json: cannot be fetched: Unsupported remote path"):
        StreamingCocoInstances("zz://b/x", cache=tmp_path)


def change_index(folder: Path, change) -> None:
    index = json.loads((folder / "index.json").read_text())
    change(index["shards"][0])
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "change",
    [
        lambda shard: shard["raw_data"].update(basename="../../outside/shard.00000.mds"),
        lambda shard: shard.update(column_encodings=["pkl", *shard["column_encodings"][1:]]),
        lambda shard: shard.pop("raw_data"),
    ],
    ids=["leaves the folder", "carries code", "lacks a key"],
)
def test_an_index_from_someone_else_is_data_and_nothing_more(remote, change):
    change_index(remote, change)
    with pytest.raises(DataError, match="was not written by copypaste shard"):
        StreamingCocoInstances(remote)


def test_a_manifest_of_another_edition_is_refused(remote):
    manifest = json.loads((remote / "copypaste.json").read_text())
    (remote / "copypaste.json").write_text(json.dumps(manifest | {"edition": 99}))
    with pytest.raises(DataError, match="expected a manifest of edition 1, got 99"):
        StreamingCocoInstances(remote)


def test_fetching_is_tried_again(written, tmp_path, monkeypatch):
    from streaming.base.storage import CloudDownloader

    failures = iter([ConnectionError("reset"), ConnectionError("reset")])
    real = CloudDownloader.direct_download

    def shaky(remote, local, timeout):
        for failure in failures:
            raise failure
        return real(remote, local, timeout)

    monkeypatch.setattr(CloudDownloader, "direct_download", shaky)
    monkeypatch.setattr(shard_files, "_RETRY_SECONDS", 0.0)
    assert len(StreamingCocoInstances(written, cache=tmp_path)) == 20
    failures = iter([ConnectionError("reset")] * 3)
    with pytest.raises(DataError, match=r"index.json: cannot be fetched: reset"):
        StreamingCocoInstances(written, cache=tmp_path)
