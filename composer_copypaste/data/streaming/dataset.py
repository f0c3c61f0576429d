"""The data set of shards that ``copypaste shard`` wrote, in a folder or in an object store."""

import copy
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int, UInt8
from torch import Generator, Tensor

from composer_copypaste.data.coco_json import BadObjects, Crowds
from composer_copypaste.data.dataset import CocoAnnotations, InstanceData
from composer_copypaste.data.images import read_image
from composer_copypaste.data.json_files import read_json
from composer_copypaste.data.records import Category, CocoImage, labels_of, outlined
from composer_copypaste.data.rle import OutlinedObjects
from composer_copypaste.data.streaming.cache import FolderInPlace, open_files
from composer_copypaste.data.streaming.format import (
    ANNOTATIONS,
    BAD_OBJECTS,
    CROWDS,
    INDEX,
    MANIFEST,
    Manifest,
    Sample,
    Shard,
    check_installed,
    decode,
)
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform
from composer_copypaste.errors import DataError, counted

LANES = 64
"""At most so many shards are read side by side, by all processes together."""

_FETCHES = 8
"""A shard that is removed from the cache before it could be read is fetched again so often."""


class StreamingCocoInstances(InstanceData):
    """Images and torchvision detection targets from shards: the samples of `CocoInstances`, to the bit.

    Any index can be read at any time; ``order`` is one that few shards at a time serve.

    Args:
        source: the folder of shards, or its URL in an object store.
        transform: what is done to image and target, or None.
        masks: False leaves the masks out, and saves drawing them; for evaluation, which takes the truth from the file.
        seed: of the transforms.
        cache: a folder on this machine's disk for shards that are fetched; None: they are read where they are.
        cache_gigabytes: at most so many, about, are kept there, those used last; None: all.

    Raises:
        DataError: where the shards cannot be used.
    """

    def __init__(
        self,
        source: Path | str,
        transform: LargeScaleJitterTransform | FlipTransform | None = None,
        *,
        masks: bool = True,
        seed: int = 0,
        cache: Path | None = None,
        cache_gigabytes: float | None = None,
    ) -> None:
        super().__init__(transform, masks=masks, seed=seed)
        check_installed()
        self.source = str(source)
        limit = None if cache_gigabytes is None else int(cache_gigabytes * 1e9)
        self._files = open_files(self.source, cache, limit)
        folder = self._files.folder
        self.manifest = Manifest.from_json(read_json(folder / MANIFEST, "manifest of shards"), f"{source}/{MANIFEST}")
        self.shards = _shards(read_json(folder / INDEX, "index of shards"), f"{source}/{INDEX}")
        self._ends = list(accumulate(shard.samples for shard in self.shards))
        self._readers = [_reader(folder, shard) for shard in self.shards]
        self._categories, self._labels = self.manifest.categories, labels_of(self.manifest.categories)
        if self._ends[-1] != self.manifest.images:
            found = counted(self._ends[-1], "image")
            raise DataError(f"{source}: {INDEX} has {found}, {MANIFEST} {self.manifest.images}")
        if isinstance(self._files, FolderInPlace):
            for shard in self.shards:
                self._files.hold(shard)
        if limit is not None:
            self._check_limit(limit)

    def __len__(self) -> int:
        return self.manifest.images

    @property
    def place(self) -> str:
        """Where the shards lie."""
        return self.source

    @property
    def categories(self) -> tuple[Category, ...]:
        """What the labels 1, 2, ... stand for."""
        return self._categories

    @property
    def num_objects(self) -> int:
        """The number of objects, crowds included, in all images."""
        return self.manifest.objects

    @property
    def num_crowds(self) -> int | None:
        """The number of these that are crowds; None where shards of a former version do not say it."""
        return self.manifest.crowds

    def with_categories(self, categories: tuple[Category, ...]) -> "StreamingCocoInstances":
        """The same data with labels 1, 2, ... for these categories, which must be all of its own."""
        same = copy.copy(self)
        same._categories, same._labels = categories, labels_of(categories)
        same.__dict__["annotations"] = self.annotations.with_categories(categories)
        return same

    @property
    def records(self) -> tuple[Path, ...]:
        """The manifest, and the index, which has the checksums of all shards."""
        return self._files.folder / MANIFEST, self._files.folder / INDEX

    @cached_property
    def annotations(self) -> CocoAnnotations:
        """All annotations, from the file beside the shards: read for evaluations only."""
        self._files.hold_annotations()
        written = self.manifest.source
        crowds = cast(Crowds, written.get(CROWDS))
        bad_objects = cast(BadObjects, written.get(BAD_OBJECTS, "refuse"))
        return CocoAnnotations.load(self._files.folder / ANNOTATIONS, crowds=crowds, bad_objects=bad_objects)

    def read(self, index: int) -> tuple[CocoImage, UInt8[Tensor, "3 h w"], OutlinedObjects]:
        """An image as it is stored, from index 0 on, and its objects."""
        number = bisect_right(self._ends, index)
        shard = self.shards[number]
        image, content, annotations = decode(self._sample(number, index - self._ends[number] + shard.samples))
        name = f"{self.source}/{shard.name}, {image.file_name}"
        pixels = read_image(name, (image.height, image.width), content, self.manifest.image_settings)
        return image, pixels, outlined(image, annotations, self._labels)

    def order(self, generator: Generator) -> Int[Tensor, " n"]:
        """All indices once, shuffled: shards in any order, dealt out to lanes, and the samples of each in any order.

        Position p is the next one of lane p modulo the number of lanes, a power of two. A process of 2, 4, ... that
        takes every 2nd, 4th, ... position so reads its own lanes' shards alone, one of each lane at a time; and the
        order is the same for any number of processes.
        """
        starts = [0, *self._ends]
        shuffled = [begin + torch.randperm(end - begin, generator=generator) for begin, end in pairwise(starts)]
        shards = torch.randperm(len(shuffled), generator=generator).tolist()
        lanes = torch.cat([shuffled[shard] for shard in shards]).tensor_split(self._lanes)
        table = torch.nn.utils.rnn.pad_sequence(list(lanes), padding_value=-1).flatten()
        return table[table >= 0]

    @property
    def _lanes(self) -> int:
        return 1 << (min(LANES, len(self.shards)).bit_length() - 1)

    def _sample(self, number: int, place: int) -> Sample:
        shard = self.shards[number]
        for _ in range(_FETCHES):
            try:
                sample: Sample = self._readers[number][place]
            except FileNotFoundError:
                self._files.hold(shard)
            else:
                self._files.used(shard)
                return sample
        raise DataError(f"{self._files.folder / shard.name}: was removed again and again before it could be read")

    def _check_limit(self, limit: int) -> None:
        """Raise ``DataError`` where shards would be fetched again for each sample."""
        sizes = [shard.nbytes for shard in self.shards]
        needed = min(2 * self._lanes * max(sizes), sum(sizes))
        if limit < needed:
            raise DataError(
                f"{self.source}: expected a cache of at least {needed / 1e9:.3g} GB, for two shards in each of "
                f"{counted(self._lanes, 'lane')}, got {limit / 1e9:.3g}; raise cache_gigabytes, or write smaller shards"
            )


def _shards(index: Any, place: str) -> list[Shard]:
    entries = index.get("shards") if isinstance(index, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{place}: expected a list of shards")
    return [Shard.from_json(entry, place) for entry in entries]


def _reader(folder: Path, shard: Shard) -> Any:
    from streaming.base.format import reader_from_json

    return reader_from_json(str(folder), None, shard.entry)
