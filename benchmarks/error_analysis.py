"""Time and memory of ``copypaste eval --predictions``, with its page, on a drawn data set of COCO's size.

    python benchmarks/error_analysis.py [--images 5000] [--detections 100] [--categories 80] [--tidecv]

Each image has 7 objects on average, polygons of 16 points, and detections with masks: near the objects, of the right
and of wrong categories, twice, and anywhere. With --tidecv, the costs of errors are compared with the package tidecv
(pip install tidecv), whose time is printed too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.error_analysis import ERROR_KINDS, cost_errors, find_errors
from composer_copypaste.metrics.results import CocoResults

HEIGHT, WIDTH, OBJECTS, POINTS = 480, 640, 7, 16
TIDE_NAMES = dict(zip(ERROR_KINDS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="number of images (default: %(default)s)")
    parser.add_argument("--detections", type=int, default=100, help="detections in each image (default: %(default)s)")
    parser.add_argument("--categories", type=int, default=80, help="number of categories (default: %(default)s)")
    parser.add_argument("--tidecv", action="store_true", help="compare with the package tidecv")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        draw_files(place, options.images, options.detections, options.categories)
        seconds, busy, gigabytes = evaluate(place)
        page = (place / "scores" / "report.html").stat().st_size / 1e6
        print(
            f"{options.images} images, {options.detections} detections in each, {options.categories} categories: "
            f"{seconds:.0f} s ({busy:.0f} s of a core), peak {gigabytes:.2f} GB, page {page:.1f} MB"
        )
        if options.tidecv:
            compare_with_tidecv(place)


def draw_files(place: Path, images: int, detections: int, categories: int) -> None:
    """Write ``val.json`` and ``results.json``."""
    generator = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(1, images + 1):
        shapes = draw_shapes(generator, generator.poisson(OBJECTS))
        labels = generator.integers(1, categories + 1, len(shapes))
        for outline, label in zip(outlines(shapes), labels.tolist(), strict=True):
            rle = coco_mask.frPyObjects([outline], HEIGHT, WIDTH)[0]
            box, area = coco_mask.toBbox(rle).tolist(), int(coco_mask.area(rle))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box, "area": area,
                 "iscrowd": 0, "segmentation": [outline]}
            )  # fmt: skip
        results += draw_results(generator, image, shapes, labels, detections, categories)
    data = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": f"thing {n}"} for n in range(1, categories + 1)],
    }
    (place / "val.json").write_text(json.dumps(data))
    (place / "results.json").write_text(json.dumps(results))


def draw_shapes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Rows of center x and y, radius x and y."""
    centers = generator.uniform((20, 20), (WIDTH - 20, HEIGHT - 20), (count, 2))
    return np.concatenate([centers, np.exp(generator.uniform(2, 4.8, (count, 2)))], axis=1)


def outlines(shapes: np.ndarray) -> Iterator[list[float]]:
    """The polygon of each ellipse, cut at the image's edge."""
    turns = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    for x, y, width, height in shapes.tolist():
        points = np.stack([x + width * np.cos(turns), y + height * np.sin(turns)], axis=1)
        yield points.clip(0, (WIDTH - 1, HEIGHT - 1)).round(2).reshape(-1).tolist()


def draw_results(
    generator: np.random.Generator, image: int, shapes: np.ndarray, labels: np.ndarray, count: int, categories: int
) -> Iterator[dict[str, object]]:
    """Detections near objects, most of them of the right category, then detections anywhere."""
    near = np.repeat(np.arange(len(shapes)), 3)[:count]
    moved = shapes[near] * np.exp(generator.normal(0, 0.15, (len(near), 4)))
    found = np.concatenate([moved, draw_shapes(generator, count - len(near))])
    given = generator.integers(1, categories + 1, count)
    right = generator.random(len(near)) < 0.8
    given[: len(near)][right] = labels[near][right]
    scores = np.concatenate([generator.beta(4, 2, len(near)), generator.beta(1, 6, count - len(near))])
    for outline, label, score in zip(outlines(found), given.tolist(), scores.tolist(), strict=True):
        rle = coco_mask.frPyObjects([outline], HEIGHT, WIDTH)[0]
        code = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}
        box = coco_mask.toBbox(rle).tolist()
        yield {"image_id": image, "category_id": label, "score": score, "bbox": box, "segmentation": code}


def evaluate(place: Path) -> tuple[float, float, float]:
    """Seconds, seconds of a core and peak gigabytes of the command, in a process of its own."""
    files = ["--predictions", str(place / "results.json"), "--annotations", str(place / "val.json")]
    command = [sys.executable, "-m", "composer_copypaste.cli", "eval", *files, "--output", str(place / "scores")]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def compare_with_tidecv(place: Path) -> None:
    """Print both costs of each kind of error, and the largest difference, in points of AP50."""
    annotations = CocoAnnotations.load(place / "val.json")
    metric = CocoMeanAveragePrecision(annotations)
    metric.update_results(CocoResults.load(place / "results.json", annotations).images)
    for kind in metric.iou_types:
        begin = time.perf_counter()
        overlaps = metric.overlaps(kind)
        costs = cost_errors(overlaps, find_errors(overlaps))
        own = {TIDE_NAMES[name]: 100 * cost for name, cost in costs.by_kind.items()}
        own |= {"FalsePos": 100 * costs.false_positives, "FalseNeg": 100 * costs.false_negatives}
        middle = time.perf_counter()
        theirs = tidecv_costs(place, kind)
        end = time.perf_counter()
        off = max(abs(own[name] - theirs[name]) for name in own)
        print(f"{kind}: {' '.join(f'{name} {cost:.2f}' for name, cost in own.items())}")
        print(f"{kind}: ours {middle - begin:.1f} s, tidecv {end - middle:.1f} s, largest difference {off:.1e} points")


def tidecv_costs(place: Path, kind: str) -> Mapping[str, float]:
    from tidecv import TIDE, datasets  # type: ignore[import-not-found, unused-ignore]

    truth, found = datasets.COCO(str(place / "val.json")), datasets.COCOResult(str(place / "results.json"))
    run = TIDE(mode=TIDE.BOX if kind == "bbox" else TIDE.MASK).evaluate(truth, found)
    return {error.short_name: cost for error, cost in (run.fix_main_errors() | run.fix_special_errors()).items()}


if __name__ == "__main__":
    main()
