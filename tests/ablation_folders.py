"""Folders of trainings that detect objects with known chances: really scored, without a model."""

import json

import numpy as np
import torch
from metric_scenes import as_prediction, corners, ellipse, encode

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.runs.ablation.results import AblationResults, FinishedRun
from composer_copypaste.runs.folder import RunFolder

SIDE = 96
CATEGORIES = {1: "disc", 2: "star"}


def drawn_truth(images=24, seed=0):
    """Images with one to five ellipses of two categories, as a COCO data set, and their masks by image."""
    generator = np.random.default_rng(seed)
    annotations, masks = [], {}
    for image in range(1, images + 1):
        masks[image] = []
        for _ in range(int(generator.integers(1, 6))):
            center, radii = generator.uniform(10, SIDE - 10, 2), generator.uniform(5, 22, 2)
            mask, label = ellipse(SIDE, SIDE, center, radii), int(generator.integers(1, 3))
            masks[image].append((center, radii, label))
            x1, y1, x2, y2 = corners(encode(mask))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": label, "iscrowd": 0,
                 "area": int(mask.sum()), "bbox": [x1, y1, x2 - x1, y2 - y1],
                 "segmentation": {**encode(mask), "counts": encode(mask)["counts"].decode()}}
            )  # fmt: skip
    return {
        "images": [{"id": image, "height": SIDE, "width": SIDE} for image in masks],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()],
    }, masks


def write_run(root, truth, quality, seed, steps=40, kinds=("bbox", "segm")):
    """A folder of a training that finds each object with this chance; better ones also draw outlines better."""
    dataset, shapes = truth
    generator = np.random.default_rng(seed)
    hard = np.random.default_rng(99)  # how hard each object is, for all runs
    metric = CocoMeanAveragePrecision(dataset, category_ids=tuple(CATEGORIES), iou_types=kinds)
    for image, objects in shapes.items():
        found = []
        for center, radii, label in objects:
            if hard.random() + generator.normal(0, 0.1) < quality:
                shift = generator.normal(0, (1.1 - quality) * 2, 2)
                found.append((ellipse(SIDE, SIDE, center + shift, radii), label, generator.uniform(0.3, 1)))
            if generator.random() < 1 - quality:
                wrong = ellipse(SIDE, SIDE, generator.uniform(0, SIDE, 2), generator.uniform(5, 20, 2))
                found.append((wrong, int(generator.integers(1, 3)), generator.uniform(0, 0.8)))
        metric.update([as_prediction(found)], [{"image_id": torch.tensor(image)}])
    root.mkdir(parents=True)
    folder, scores = RunFolder(root), {name: float(value) for name, value in metric.compute().items()}
    metric.matches().save(folder.matches)
    rows = []
    for batch in range(1, steps + 1):
        rows.append({"batch": batch, "loss/train/total": 2 / batch, "memory/process_peak": 1.5, "time": batch / 10})
        if batch % (steps // 4) == 0:
            share = (batch / steps) ** 0.5
            named = {f"metrics/eval/{kind}/AP": share * scores[f"{kind}/AP"] for kind in kinds}
            rows.append({"batch": batch, **named})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def drawn_ablation(root, qualities, seeds=(1, 2, 3), images=24, **options):
    """An ablation whose first run is the baseline: {name: {fraction: quality}}."""
    truth = drawn_truth(images)
    runs = [
        FinishedRun(
            name=name,
            fraction=fraction,
            seed=seed,
            folder=write_run(root / f"{name}-{fraction:g}-{seed}", truth, quality, seed + 1000 * number),
            images=round(500 * fraction),
            seconds=60.0 + seed,
        )
        for number, (name, by_fraction) in enumerate(qualities.items())
        for fraction, quality in by_fraction.items()
        for seed in seeds
    ]
    return AblationResults(title="drawn", baseline=next(iter(qualities)), runs=runs, **options)
