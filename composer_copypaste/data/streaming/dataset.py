"""The data set that reads the shards written by ``copypaste shard``, from a folder or an object store."""

import copy
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from composer_copypaste.data.annotation_json import (
    BadObjects,
    Category,
    CocoImage,
    Crowds,
    annotated_objects,
    labels_by_category_id,
)
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import InstanceData, MaskForm
from composer_copypaste.data.images import StoredImage
from composer_copypaste.data.rle import AnnotatedObjects
from composer_copypaste.data.streaming.cache import FolderInPlace, open_shard_files
from composer_copypaste.data.streaming.format import (
    ANNOTATIONS,
    BAD_OBJECTS,
    CROWDS,
    INDEX,
    MANIFEST,
    Manifest,
    Sample,
    Shard,
    check_streaming_installed,
    decode_sample,
)
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform
from composer_copypaste.errors import DataError, count_noun
from composer_copypaste.files import read_json

MAX_SHARD_GROUPS = 64
"""Limit to the number of shards that all processes together read at the same time."""

_MAX_FETCHES = 8
"""Number of times that a shard is fetched if it is removed from the cache before it could be read."""


class StreamingCocoInstances(InstanceData):
    """Images and torchvision detection targets from shards; every sample equals that of `CocoInstances` to the bit.

    Any index can be read at any time; ``order`` is a shuffled order that needs only a few shards at a time.

    Args:
        source: the folder of shards, or its URL in an object store.
        transform: applied to image and target; None: no transform.
        masks: "compact", True or False, as of ``CocoInstances``.
        seed: of the transforms.
        cache: a folder on this machine's disk for fetched shards; None: shards are read where they are.
        cache_gigabytes: approximate limit to the size of the cache, which keeps the shards used last; None: no limit.

    Raises:
        DataError: where the shards cannot be used.
    """

    def __init__(
        self,
        source: Path | str,
        transform: LargeScaleJitterTransform | FlipTransform | None = None,
        *,
        masks: MaskForm = True,
        seed: int = 0,
        cache: Path | None = None,
        cache_gigabytes: float | None = None,
    ) -> None:
        super().__init__(transform, masks=masks, seed=seed)
        check_streaming_installed()
        from streaming.base.format import reader_from_json

        self.source = str(source)
        limit = None if cache_gigabytes is None else int(cache_gigabytes * 1e9)
        self._files = open_shard_files(self.source, cache, limit)
        folder = self._files.folder
        self.manifest = Manifest.from_json(read_json(folder / MANIFEST, "manifest of shards"), f"{source}/{MANIFEST}")
        self.shards = _shards_of_index(read_json(folder / INDEX, "index of shards"), f"{source}/{INDEX}")
        self._ends = list(accumulate(shard.samples for shard in self.shards))
        self._readers = [reader_from_json(str(folder), None, shard.entry) for shard in self.shards]
        self._categories, self._labels = self.manifest.categories, labels_by_category_id(self.manifest.categories)
        if self._ends[-1] != self.manifest.images:
            found = count_noun(self._ends[-1], "image")
            raise DataError(f"{source}: {INDEX} has {found}, {MANIFEST} {self.manifest.images}")
        if isinstance(self._files, FolderInPlace):
            for shard in self.shards:
                self._files.ensure_shard(shard)
        if limit is not None:
            self._check_limit(limit)

    def __len__(self) -> int:
        return self.manifest.images

    def __repr__(self) -> str:
        return f"StreamingCocoInstances({count_noun(len(self), 'image')} of {self.place})"

    @property
    def place(self) -> str:
        """The folder or the URL of the shards."""
        return self.source

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories of the labels 1, 2, ..."""
        return self._categories

    @property
    def num_objects(self) -> int:
        """The number of objects, crowds included, in all images."""
        return self.manifest.objects

    @property
    def num_crowds(self) -> int:
        """The number of crowds in all images."""
        return self.manifest.crowds

    def with_categories(self, categories: tuple[Category, ...]) -> "StreamingCocoInstances":
        """The same data with labels 1, 2, ... for these categories, which must include all of its own."""
        same = copy.copy(self)
        same._categories, same._labels = categories, labels_by_category_id(categories)
        same.__dict__["annotations"] = self.annotations.with_categories(categories)
        return same

    @property
    def records(self) -> tuple[Path, ...]:
        """The manifest and the index; the index has the checksums of all shards."""
        return self._files.folder / MANIFEST, self._files.folder / INDEX

    @cached_property
    def annotations(self) -> CocoAnnotations:
        """All annotations, from the file next to the shards, which only evaluations need."""
        self._files.ensure_annotations()
        written = self.manifest.source
        crowds = cast(Crowds, written.get(CROWDS))
        bad_objects = cast(BadObjects, written.get(BAD_OBJECTS, "refuse"))
        return CocoAnnotations.load(self._files.folder / ANNOTATIONS, crowds=crowds, bad_objects=bad_objects)

    def stored(self, index: int) -> tuple[CocoImage, StoredImage, AnnotatedObjects]:
        """The record, the file and the objects of an image; indices start from 0."""
        number = bisect_right(self._ends, index)
        shard = self.shards[number]
        image, content, annotations = decode_sample(self._sample(number, index - self._ends[number] + shard.samples))
        name = f"{self.source}/{shard.name}, {image.file_name}"
        stored = StoredImage(name, (image.height, image.width), content, self.manifest.image_settings)
        return image, stored, annotated_objects(image, annotations, self._labels)

    def order(self, generator: Generator) -> Int[Tensor, " n"]:
        """All indices once, shuffled: the shards, and the samples inside each shard.

        The shuffled shards are divided into groups; the order takes a sample from each group in turn. The number of
        groups is a power of two, so each of 2, 4, ... processes, which take every 2nd, 4th, ... sample, reads only the
        shards of its own groups, one shard of each at a time. The order is the same for any number of processes.
        """
        starts = [0, *self._ends]
        shuffled = [begin + torch.randperm(end - begin, generator=generator) for begin, end in pairwise(starts)]
        shards = torch.randperm(len(shuffled), generator=generator).tolist()
        groups = torch.cat([shuffled[shard] for shard in shards]).tensor_split(self._num_groups)
        table = torch.nn.utils.rnn.pad_sequence(list(groups), padding_value=-1).flatten()
        return table[table >= 0]

    @property
    def _num_groups(self) -> int:
        """The largest power of two up to the limit and to the number of shards."""
        return 1 << (min(MAX_SHARD_GROUPS, len(self.shards)).bit_length() - 1)

    def _sample(self, number: int, place: int) -> Sample:
        shard = self.shards[number]
        for _ in range(_MAX_FETCHES):
            try:
                sample: Sample = self._readers[number][place]
            except FileNotFoundError:
                self._files.ensure_shard(shard)
            else:
                self._files.mark_used(shard)
                return sample
        raise DataError(f"{self._files.folder / shard.name}: was removed again and again before it could be read")

    def _check_limit(self, limit: int) -> None:
        """Raise ``DataError`` where the cache is so small that shards would be fetched again for each sample."""
        sizes = [shard.nbytes for shard in self.shards]
        needed = min(2 * self._num_groups * max(sizes), sum(sizes))
        if limit < needed:
            raise DataError(
                f"{self.source}: expected a cache of at least {needed / 1e9:.3g} GB, for two shards in each of "
                f"{count_noun(self._num_groups, 'group')}, got {limit / 1e9:.3g}; raise cache_gigabytes, or write "
                "smaller shards"
            )


def _shards_of_index(index: Any, place: str) -> list[Shard]:
    entries = index.get("shards") if isinstance(index, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{place}: expected a list of shards")
    return [Shard.from_json(entry, place) for entry in entries]
