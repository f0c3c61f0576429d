"""Time of a bootstrap over evaluation images: AP recomputed from stored matches, beside running the engine again.

    python benchmarks/bootstrap.py [--images 500] [--categories 5] [--detections 100] [--resamples 2000]

Each image has 10 objects, of which most are found, and boxes only. AP, AP50, AP75 and the APs of the three sizes are
computed, also of each category. All times are of one core. The engine is timed on two resamples, in which images are
really repeated.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from composer_copypaste.metrics.bootstrap import draw_images
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.weighted_precision import weighted_average_precisions

OBJECTS = 10
ENGINE_RESAMPLES = 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=500, help="number of images (default: %(default)s)")
    parser.add_argument("--categories", type=int, default=5, help="number of categories (default: %(default)s)")
    parser.add_argument("--detections", type=int, default=100, help="detections in each image (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="number of resamples (default: %(default)s)")
    options = parser.parse_args(arguments)
    images = [drawn_image(number, options.detections, options.categories) for number in range(options.images)]
    metric = CocoMeanAveragePrecision(iou_types=("bbox",), category_ids=range(1, options.categories + 1))
    metric.update(*zip(*images, strict=True))
    scoring = seconds(metric.compute)
    collecting = seconds(metric.matches)
    matches = metric.matches()
    weights = draw_images(matches.image_ids, options.resamples, np.random.default_rng(0))
    weighted_average_precisions(matches, "bbox", weights[:, :1])  # compiles
    recomputing = seconds(lambda: weighted_average_precisions(matches, "bbox", weights))
    again = seconds(lambda: [run_engine(images, draw) for draw in weights.T[:ENGINE_RESAMPLES]])
    print(
        f"{options.images} images, {options.categories} categories, {options.detections} detections in each image: "
        f"scored in {scoring:.2f} s, matches collected in {collecting:.2f} s, {file_size(matches) / 1e6:.2f} MB\n"
        f"{options.resamples} resamples from the matches {recomputing:.1f} s; by running the engine again "
        f"{again * options.resamples / ENGINE_RESAMPLES:.0f} s"
    )


def drawn_image(number: int, detections: int, categories: int) -> tuple[dict[str, object], dict[str, object]]:
    """Random objects, and detections of which the first are near them."""
    generator = torch.Generator().manual_seed(number)
    boxes, labels = _boxes(OBJECTS, generator), torch.randint(1, categories + 1, (OBJECTS,), generator=generator)
    near = boxes + torch.randn(boxes.shape, generator=generator)
    others = torch.randint(1, categories + 1, (detections,), generator=generator)
    prediction = {
        "boxes": torch.cat([near, _boxes(detections, generator)])[:detections],
        "labels": torch.cat([labels, others])[:detections],
        "scores": torch.rand(detections, generator=generator),
    }
    return prediction, {"boxes": boxes, "labels": labels, "image_id": number + 1}


def run_engine(images: Sequence[tuple[dict[str, object], dict[str, object]]], weights: Sequence[int]) -> None:
    """Score the images with their copies, which get ids of their own."""
    metric = CocoMeanAveragePrecision(iou_types=("bbox",))
    for (prediction, target), weight in zip(images, weights, strict=True):
        for copy in range(weight):
            metric.update([prediction], [{**target, "image_id": 1000 * int(str(target["image_id"])) + copy}])
    metric.compute()


def file_size(matches: EvaluationMatches) -> int:
    """Bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matches.npz"
        matches.save(path)
        return path.stat().st_size


def seconds(function: Callable[[], object]) -> float:
    """Seconds of processor time of one call, which count neither other processes nor that the engine has threads."""
    start = time.process_time()
    function()
    return time.process_time() - start


def _boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator) * 500
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 150], dim=1)


if __name__ == "__main__":
    main()
