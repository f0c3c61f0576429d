"""On the same predictions our numbers are those of Detectron2's ``COCOEvaluator``, and our tables are its tables."""

import json
import logging
import math
from itertools import product

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, print_csv_format
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_masks

from composer_copypaste import CocoMeanAveragePrecision, evaluate_predictions
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.metrics.detectron2_tables import detectron2_tables
from composer_copypaste.metrics.report import evaluation_report

CATEGORIES = {7: "star", 90: "disc", 3: "ring", 41: "bar"}  # ids with gaps, in no order; there is no ring
SIZE = (120, 160)
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def ellipse(center, radii):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2 <= 1


def scene(rng, objects, detections):
    """Masks and categories of an image's objects, and of detections: some of them objects that moved a little."""
    ids = [id_ for id_ in CATEGORIES if id_ != 3]
    masks, categories = [], []
    for _ in range(objects):
        masks.append(ellipse(rng.uniform((10, 10), (110, 150)), np.exp(rng.uniform(np.log(4), np.log(60), 2))))
        categories.append(int(rng.choice(ids)))
    found = []
    for number in range(detections):
        if number % 2 and objects:
            source = int(rng.integers(objects))
            mask = np.roll(masks[source], tuple(rng.integers(-4, 5, 2)), (0, 1))
            category = categories[source] if rng.random() < 0.8 else int(rng.choice(list(CATEGORIES)))
        else:
            mask = ellipse(rng.uniform((10, 10), (110, 150)), rng.uniform(3, 30, 2))
            category = int(rng.choice(list(CATEGORIES)))
        found.append((mask, category, float(rng.choice([rng.random(), 0.5]))))  # equal scores too
    return masks, categories, found


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def encoded(mask):
    rle = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture(scope="module", params=[(100, 0), (300, 1)], ids=["100 detections", "300 detections"])
def evaluated(request, tmp_path_factory):
    """What Detectron2's evaluator gives and prints, and the same predictions in our metric and as a file."""
    limit, seed = request.param
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(seed)
    counts = {1000: (6, 20), 1007: (0, 9), 1014: (9, 0), 1021: (12, 260), 1028: (5, 40)}
    scenes = {image: scene(rng, *numbers) for image, numbers in counts.items()}
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in scenes],
        "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()],
        "annotations": [],
    }
    for image, (masks, categories, _) in scenes.items():
        for number, (mask, category) in enumerate(zip(masks, categories, strict=True)):
            x1, y1, x2, y2 = box_of(mask)
            crowd = int(number == 3)
            rle = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
            counts = {"size": list(SIZE), "counts": uncompressed(mask)} if crowd else encoded(mask)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(coco_masks.area(rle)) * (0.7 if number % 3 == 0 else 1),  # not always the mask's
                    "iscrowd": crowd,
                    "segmentation": counts,
                }
            )
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(truth))
    return run_both(f"scenes-{limit}", annotations, scenes, limit)


def uncompressed(mask):
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel().astype(int), [2]])) != 0)
    return np.diff(runs, prepend=0).tolist()


def run_both(name, annotations, scenes, limit):
    register_coco_instances(name, {}, str(annotations), str(annotations.parent))
    DatasetCatalog.get(name)  # fills the metadata
    ids = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    limits = [1, 10, limit]
    theirs = COCOEvaluator(
        name, tasks=("bbox", "segm"), distributed=False, output_dir=str(annotations.parent), max_dets_per_image=limit
    )
    theirs.reset()
    metric = CocoMeanAveragePrecision(
        CocoAnnotations.load(annotations, crowds="ignore"), category_ids=sorted(CATEGORIES), max_dets=limits
    )
    for image, (_, _, found) in scenes.items():
        boxes = torch.tensor([box_of(mask) for mask, _, _ in found], dtype=torch.float32).reshape(-1, 4)
        scores = torch.tensor([score for *_, score in found], dtype=torch.float32)
        classes = torch.tensor([ids[category] for _, category, _ in found], dtype=torch.int64)
        masks = torch.from_numpy(np.array([mask for mask, *_ in found], dtype=bool).reshape(-1, *SIZE))
        instances = Instances(SIZE, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes, pred_masks=masks)
        theirs.process([{"image_id": image}], [{"instances": instances}])
        detections = {"boxes": boxes, "scores": scores, "labels": classes + 1, "masks": masks}
        metric.update([detections], [{"image_id": torch.tensor(image)}])
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [logging.getLogger(f"detectron2.evaluation.{part}") for part in ("coco_evaluation", "testing")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        results = theirs.evaluate()
        print_csv_format(results)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    return results, lines, metric, annotations, limits


def same(one, other):
    return one == pytest.approx(other, abs=1e-6) or (math.isnan(one) and math.isnan(other))


def test_each_number_is_that_of_coco_evaluator(evaluated):
    results, _, metric, *_ = evaluated
    ours = {name: 100 * value.item() for name, value in metric.compute().items()}
    assert all(same(ours[f"{kind}/{name}"], results[kind][name]) for kind, name in product(("bbox", "segm"), NUMBERS))
    assert 1 < ours["segm/AP"] < 99, "scenes whose numbers say something"
    assert 1 < ours["segm/APs"] < 99


def test_each_category_has_the_same_precision(evaluated):
    results, _, metric, *_ = evaluated
    for kind, by_category in metric.evaluation().per_category().items():
        assert list(by_category) == sorted(CATEGORIES)
        for id_, numbers in by_category.items():
            assert same(100 * numbers["AP"], results[kind][f"AP-{CATEGORIES[id_]}"])


def test_the_results_that_it_writes_have_the_same_numbers(evaluated):
    results, _, _, annotations, limits = evaluated
    report = evaluate_predictions(
        annotations.parent / "coco_instances_results.json", annotations, max_dets=limits, crowds="ignore"
    )
    for kind, name in product(("bbox", "segm"), NUMBERS):
        value = report[kind][name]
        assert same(float("nan") if value is None else 100 * value, results[kind][name])


def test_the_tables_are_those_that_it_prints(evaluated):
    _, printed, metric, *_ = evaluated
    ours = detectron2_tables(evaluation_report(metric)).splitlines()
    theirs = [line for message in printed for line in message.splitlines()]
    wanted = [line for line in theirs if line.startswith(("|", "Evaluation results", "Per-category", "copypaste:"))]
    assert [line.rstrip() for line in ours if line] == [line.rstrip() for line in wanted]
    assert len(wanted) >= 16
