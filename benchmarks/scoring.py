"""Time of scoring random detections, with Python's garbage collector paused, as in the metric, and running.

    python benchmarks/scoring.py [--images 2500] [--detections 100] [--rounds 3]

Each image has 10 objects and the given number of detections, with boxes only. The time of ``compute`` is measured.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch

from composer_copypaste.metrics import coco_map
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

OBJECTS = 10


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2500, help="number of images (default: %(default)s)")
    parser.add_argument("--detections", type=int, default=100, help="detections in each image (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="take the best of this many rounds (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    metric = filled(options.images, options.detections)
    paused = min(seconds(metric) for _ in range(options.rounds))
    with patch.object(coco_map, "garbage_collection_paused", _nothing):
        running = min(seconds(metric) for _ in range(options.rounds))
    print(f"garbage collector paused {paused:.2f} s, running {running:.2f} s")


def filled(images: int, detections: int) -> CocoMeanAveragePrecision:
    """A metric with the detections and objects of all images."""
    generator = torch.Generator().manual_seed(0)
    metric = CocoMeanAveragePrecision(iou_types=("bbox",))
    for image in range(images):
        truth = {"boxes": _boxes(OBJECTS, generator), "labels": torch.ones(OBJECTS, dtype=torch.int64)}
        found = {
            "boxes": _boxes(detections, generator),
            "labels": torch.ones(detections, dtype=torch.int64),
            "scores": torch.rand(detections, generator=generator),
        }
        metric.update([found], [{**truth, "image_id": image}])
    return metric


def seconds(metric: CocoMeanAveragePrecision) -> float:
    """The time of one ``compute``, in seconds."""
    metric._evaluation = None
    start = time.perf_counter()
    metric.compute()
    return time.perf_counter() - start


def _boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator) * 500
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 100], dim=1)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    main()
