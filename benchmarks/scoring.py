"""Time of scoring random detections, boxes and masks, on one thread; with a second checkout, both in turns.

    python benchmarks/scoring.py [--images 2500] [--detections 100] [--rounds 3] [--against CHECKOUT]

Each image has 10 objects, ellipses in 480 x 640 pixels, each of which one detection finds, and the given number of
detections. The time of ``compute`` is measured, in seconds of processor time, the best of the rounds. A checkout is a
folder with another state of this repository (``git worktree add --detach CHECKOUT COMMIT``). Each checkout has a
process of its own; they take turns, and the largest difference of their numbers is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OBJECTS = 10
HEIGHT, WIDTH = 480, 640
THIS = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2500, help="number of images (default: %(default)s)")
    parser.add_argument("--detections", type=int, default=100, help="detections in each image (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="best of this many rounds (default: %(default)s)")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.images, options.detections)
        return
    checkouts = [path for path in (THIS, options.against) if path]
    processes = [start(checkout, options.images, options.detections) for checkout in checkouts]
    rounds = [[ask(process) for process in processes] for _ in range(options.rounds + 1)][1:]  # the first one compiles
    best = [min(answer["seconds"] for answer in answers) for answers in zip(*rounds, strict=True)]
    for checkout, seconds in zip(checkouts, best, strict=True):
        print(f"{checkout}: {seconds:.2f} s")
    if options.against:
        first, second = (answer["numbers"] for answer in rounds[0])
        difference = max(abs(first[name] - second[name]) for name in first if first[name] == first[name])
        print(f"ratio {best[0] / best[1]:.2f}, largest difference of a number {difference:.1e}")


def start(checkout: Path, images: int, detections: int) -> "subprocess.Popen[str]":
    """A process that scores with the package in a checkout."""
    command = [sys.executable, __file__, "--serve", f"--images={images}", f"--detections={detections}"]
    threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    return subprocess.Popen(
        command, env={**os.environ, **threads}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Let a process score once."""
    print(flush=True, file=process.stdin)
    answer: dict[str, Any] = json.loads((process.stdout or sys.stdin).readline())
    return answer


def serve(images: int, detections: int) -> None:
    """Score for each line that comes in."""
    metric = filled(images, detections)
    for _ in sys.stdin:
        metric._evaluation = None
        start = time.process_time()
        numbers = {name: float(value) for name, value in metric.compute().items()}
        print(json.dumps({"seconds": time.process_time() - start, "numbers": numbers}), flush=True)


def filled(images: int, detections: int) -> Any:
    """A metric with the detections and objects of all images."""
    import numpy as np

    from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

    rng, metric = np.random.default_rng(0), CocoMeanAveragePrecision()
    for image in range(images):
        truth, found = ellipses(rng, OBJECTS), ellipses(rng, detections)
        for key, values in truth.items():
            found[key][:OBJECTS] = values
        found["scores"] = rng.random(detections)
        metric.update([found], [{**truth, "image_id": image}])
    return metric


def ellipses(rng: Any, count: int) -> dict[str, Any]:
    """Boxes, labels and run lengths of ellipses."""
    import numpy as np
    from pycocotools import mask as coco_mask

    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radii = rng.uniform(4, 100, (count, 1, 2))
    centres = rng.uniform(0, (WIDTH, HEIGHT), (count, 1, 2))
    rles = [coco_mask.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)[0] for points in centres + radii * circle]
    boxes = coco_mask.toBbox(rles)
    boxes[:, 2:] += boxes[:, :2]
    return {"boxes": boxes, "labels": np.ones(count, np.int64), "rles": rles}


if __name__ == "__main__":
    main()
