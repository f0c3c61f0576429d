"""Batches of images, read from their files in threads while the model works on those before."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import UInt8
from torch import Tensor

from composer_copypaste.data.image_inputs import InputImage
from composer_copypaste.data.images import read_image
from composer_copypaste.errors import DataError
from composer_copypaste.settings import ImageSettings

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_THREADS = 8
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class ReadImage:
    """An image file that was read, or why it could not be."""

    image: InputImage
    pixels: UInt8[Tensor, "3 h w"] | None
    problem: str | None
    """Why the file cannot be read; None where it was."""


def read_input(image: InputImage, settings: ImageSettings) -> ReadImage:
    """The pixels of an image's file, or what is wrong with it."""
    if image.problem is not None or image.size is None:
        return ReadImage(image, None, image.problem)
    try:
        return ReadImage(image, read_image(image.path, image.size, settings=settings), None)
    except DataError as error:
        return ReadImage(image, None, str(error).removeprefix(f"{image.path}: "))


def batches_read_ahead(
    batches: Iterable[tuple[InputImage, ...]], settings: ImageSettings
) -> Iterator[tuple[ReadImage, ...]]:
    """The batches in their order, each with its images read; the next ones are being read meanwhile."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as executor:
        try:
            for futures in _started_ahead(batches, lambda image: executor.submit(read_input, image, settings)):
                yield tuple(future.result() for future in futures)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _started_ahead(
    batches: Iterable[tuple[Item, ...]], start: Callable[[Item], Future[Result]]
) -> Iterator[tuple[Future[Result], ...]]:
    waiting: deque[tuple[Future[Result], ...]] = deque()
    for batch in batches:
        waiting.append(tuple(map(start, batch)))
        if len(waiting) > _BATCHES_AHEAD:
            yield waiting.popleft()
    yield from waiting
