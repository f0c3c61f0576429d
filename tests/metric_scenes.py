"""Random images with objects, crowds and detections, and pycocotools' own numbers for them."""

import contextlib
import copy
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

CATEGORY_IDS = (3, 7, 90)
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass
class Scene:
    """``dataset`` has the official annotations; labels 1, 2, 3 are its categories 3, 7, 90."""

    predictions: list[dict[str, Any]]
    targets: list[dict[str, Any]]
    dataset: dict[str, Any]
    category_ids: tuple[int, ...] = CATEGORY_IDS

    @property
    def results(self):
        """The detections as COCO's results, with box and mask."""
        return [
            {
                "image_id": int(target["image_id"]),
                "category_id": self.category_ids[label - 1],
                "score": score,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": rle,
            }
            for prediction, target in zip(self.predictions, self.targets, strict=True)
            for (x1, y1, x2, y2), label, score, rle in zip(
                prediction["boxes"].tolist(),
                prediction["labels"].tolist(),
                prediction["scores"].tolist(),
                prediction["rles"],
                strict=True,
            )
        ]

    def first(self, count):
        """The same with its first images only; the data set stays whole."""
        return Scene(self.predictions[:count], self.targets[:count], self.dataset)


def repeated(scene, weights):
    """The scene with each image standing so many times, copies next to each other, with ids of their own."""
    images, annotations, predictions, targets = [], [], [], []
    parts = zip(scene.dataset["images"], scene.predictions, scene.targets, weights, strict=True)
    for image, prediction, target, weight in parts:
        objects = [a for a in scene.dataset["annotations"] if a["image_id"] == image["id"]]
        for _ in range(weight):
            number = len(images) + 1
            images.append({**image, "id": number})
            annotations += [{**a, "image_id": number, "id": len(annotations) + n} for n, a in enumerate(objects, 1)]
            predictions.append(prediction)
            targets.append({**target, "image_id": torch.tensor(number)})
    dataset = {**scene.dataset, "images": images, "annotations": annotations}
    return Scene(predictions, targets, dataset, scene.category_ids)


def ellipse(height, width, center, radii):
    y, x = np.mgrid[:height, :width] + 0.5
    return ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def planes(rles):
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(rles).transpose(2, 0, 1)))


def corners(rle):
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    return [x, y, x + width, y + height]


def random_scene(seed=0, images=14):
    """Images of several sizes; every 5th without objects, every 7th without detections; scores with ties."""
    generator = np.random.default_rng(seed)
    parts = [random_image(generator, image_id=10 + 3 * index, index=index) for index in range(images)]
    annotations = [annotation for part in parts for annotation in part[2]]
    return Scene(
        predictions=[part[0] for part in parts],
        targets=[part[1] for part in parts],
        dataset={
            "images": [part[3] for part in parts],
            "annotations": [{**annotation, "id": 100 + n} for n, annotation in enumerate(annotations)],
            "categories": [{"id": id_, "name": f"thing {id_}"} for id_ in CATEGORY_IDS],
        },
    )


def random_image(generator, image_id, index):
    height, width = int(generator.integers(140, 220)), int(generator.integers(140, 280))
    count = 0 if index % 5 == 4 else int(generator.integers(2, 8))
    shapes = [random_shape(generator, height, width) for _ in range(count)]
    rles = [encode(ellipse(height, width, *shape)) for shape in shapes]
    labels = generator.integers(1, 4, count)
    crowd = (generator.random(count) < 0.2).astype(np.int64)
    target = {
        "boxes": torch.tensor([corners(rle) for rle in rles], dtype=torch.float64).reshape(-1, 4),
        "labels": torch.from_numpy(labels),
        "masks": planes(rles) if rles else torch.zeros(0, height, width),
        "area": torch.tensor([float(coco_mask.area(rle)) for rle in rles], dtype=torch.float64),
        "iscrowd": torch.from_numpy(crowd),
        "image_id": torch.tensor(image_id),
    }
    annotations = [
        {
            "image_id": image_id,
            "category_id": CATEGORY_IDS[label - 1],
            "bbox": coco_mask.toBbox(rle).tolist(),
            "area": float(coco_mask.area(rle)),
            "iscrowd": int(is_crowd),
            "segmentation": {**rle, "counts": rle["counts"].decode()},
        }
        for rle, label, is_crowd in zip(rles, labels.tolist(), crowd, strict=True)
    ]
    found = [] if index % 7 == 6 else random_detections(generator, shapes, labels, height, width)
    image = {"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.jpg"}
    return as_prediction(found), target, annotations, image


def random_shape(generator, height, width):
    center = generator.uniform(0, height), generator.uniform(0, width)
    return center, np.exp(generator.uniform(1.5, 5, 2))


def random_detections(generator, shapes, labels, height, width):
    """(mask, label, score): each object twice, moved a little, and shapes without an object."""
    found = []
    for (center, radii), label in [*zip(shapes, labels.tolist(), strict=True)] * 2:
        moved = np.add(center, generator.normal(0, 0.1, 2) * radii), radii * generator.uniform(0.85, 1.15, 2)
        found.append((ellipse(height, width, *moved), label, generator.random()))
    for _ in range(3):
        shape = random_shape(generator, height, width)
        found.append((ellipse(height, width, *shape), int(generator.integers(1, 4)), generator.random()))
    return found


def as_prediction(found):
    rles = [encode(mask) for mask, _, _ in found]
    return {
        "boxes": torch.tensor([corners(rle) for rle in rles], dtype=torch.float64).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in found], dtype=torch.int64),
        "scores": torch.tensor([round(score, 1) for _, _, score in found], dtype=torch.float64),
        "rles": rles,
    }


def pycocotools_evaluation(scene, iou_type, images=None, categories=None, max_dets=(1, 10, 100)):
    """A finished COCOeval of pycocotools, fed in its own way."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(scene.dataset)
        truth.createIndex()
        results = copy.deepcopy(scene.results)
        if iou_type == "segm":
            for result in results:
                del result["bbox"]
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.params.imgIds = images or evaluation.params.imgIds
        evaluation.params.catIds = categories or evaluation.params.catIds
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def pycocotools_numbers(scene, iou_type, **options):
    """Its twelve numbers by name; NaN for -1."""
    stats = pycocotools_evaluation(scene, iou_type, **options).stats
    return {name: float("nan") if value == -1 else value for name, value in zip(NAMES, stats, strict=True)}


def scored(scene, annotations=None, batch=4, **options):
    """The metric after all images of a scene, in batches."""
    metric = CocoMeanAveragePrecision(annotations, **{"category_ids": CATEGORY_IDS, **options})
    for start in range(0, len(scene.targets), batch):
        metric.update(scene.predictions[start : start + batch], scene.targets[start : start + batch])
    return metric


def numbers(metric, kind="segm"):
    return {name.split("/")[1]: float(value) for name, value in metric.compute().items() if name.startswith(kind)}


def without(fields, name):
    return {key: value for key, value in fields.items() if key != name}


def one_object(image_id=1, size=(40, 50), label=1, **changes):
    """A prediction and its target: one object, found exactly."""
    mask = ellipse(*size, (20, 20), (9, 12))
    prediction = as_prediction([(mask, label, 0.9)])
    target = {
        "boxes": prediction["boxes"],
        "labels": torch.tensor([label]),
        "masks": torch.from_numpy(mask.astype(np.uint8))[None],
        "image_id": torch.tensor(image_id),
    }
    return {**prediction, **changes}, target


def one_object_dataset(image_id=1, size=(40, 50), annotation_id=1, **changes):
    rle = encode(ellipse(*size, (20, 20), (9, 12)))
    annotation = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": int(coco_mask.area(rle)),
        "iscrowd": 0,
        "segmentation": {**rle, "counts": rle["counts"].decode()},
    }
    return {
        "images": [{"id": image_id, "height": size[0], "width": size[1]}],
        "annotations": [{**annotation, **changes}],
        "categories": [{"id": 1, "name": "thing"}],
    }


def crowded_scene():
    """One image with 300 detections of one category, and the objects are not among the best."""
    height, width = 120, 160
    shapes = [((6 + 12 * row, 6 + 12 * column), (5.0, 5.0)) for row in range(9) for column in range(13)]
    objects = [ellipse(height, width, *shape) for shape in shapes]
    wrong = [(ellipse(height, width, (60, 80), (40 + n / 10, 30)), 1, 0.95 - n / 1000) for n in range(183)]
    found = [(mask, 1, 0.9 - n / 200) for n, mask in enumerate(objects)]
    prediction, rles = as_prediction([*found, *wrong]), [encode(mask) for mask in objects]
    prediction["scores"] = torch.linspace(0.1, 0.9, 300, dtype=torch.float64)
    target = {
        "image_id": 1,
        "boxes": torch.tensor([corners(rle) for rle in rles]),
        "labels": torch.ones(len(rles), dtype=torch.int64),
        "masks": torch.from_numpy(np.stack(objects)),
    }
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": 3, "bbox": coco_mask.toBbox(rle).tolist(), "iscrowd": 0,
         "area": int(coco_mask.area(rle)), "segmentation": {**rle, "counts": rle["counts"].decode()}}
        for n, rle in enumerate(rles)
    ]  # fmt: skip
    image = {"id": 1, "height": height, "width": width}
    categories = [{"id": id_, "name": str(id_)} for id_ in CATEGORY_IDS]
    return Scene([prediction], [target], {"images": [image], "annotations": annotations, "categories": categories})
