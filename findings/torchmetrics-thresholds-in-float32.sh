#!/usr/bin/env bash
# torchmetrics 1.9.0: MeanAveragePrecision gives other scores than pycocotools, which computes them for it.
#
# It hands thresholds of its own to pycocotools, made in float32: 0.8 becomes 0.800000012. A detection with an IoU of exactly
# 0.8 (8 of 10 pixels) is wrong there at a threshold that it reaches, and a recall of 6 of 10 objects misses the threshold
# of 0.6; others lie below pycocotools' and are reached where those are not. One object found with an IoU of 0.8 has an AP
# of 0.6 instead of 0.7. The other engine is given the same numbers. iou_thresholds and rec_thresholds as pycocotools has
# them, given as lists, are right. Installing torch takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torchmetrics==1.9.0 torch==2.7.0 \
  torchvision==0.22.0 numpy==2.2.6 pycocotools==2.0.11 faster-coco-eval==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON' | tee "$folder/seen"
import contextlib
import io

import torch
import torchmetrics
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params
from torchmetrics.detection import MeanAveragePrecision


def boxes(count, width):
    """Objects are 10 x 10, detections of them 10 high and of this width: their IoU is a tenth of it."""
    return [[20.0 * number, 0.0, float(width), 10.0] for number in range(count)]


def by_pycocotools(truth, found):
    common = {"image_id": 1, "category_id": 1}
    data = COCO()
    data.dataset = {
        "images": [{"id": 1, "width": 2000, "height": 10}],
        "categories": [{"id": 1, "name": "nut"}],
        "annotations": [
            {**common, "id": number, "bbox": box, "area": 100, "iscrowd": 0} for number, box in enumerate(truth, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        results = data.loadRes([{**common, "bbox": box, "score": 0.9} for box in found])
        evaluation = COCOeval(data, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def by_torchmetrics(truth, found, **options):
    metric = MeanAveragePrecision(box_format="xywh", **options)
    labels = {name: torch.ones(len(rows), dtype=torch.int64) for name, rows in {"truth": truth, "found": found}.items()}
    predictions = {"boxes": torch.tensor(found), "labels": labels["found"], "scores": torch.full((len(found),), 0.9)}
    metric.update([predictions], [{"boxes": torch.tensor(truth), "labels": labels["truth"]}])
    return metric.compute()["map"].item()


print(f"torchmetrics {torchmetrics.__version__}")
exact = {"iou_thresholds": Params("bbox").iouThrs.tolist(), "rec_thresholds": Params("bbox").recThrs.tolist()}
for objects, hits, width in ((1, 1, 8), (1, 1, 6), (10, 6, 10), (100, 57, 10)):
    pair = boxes(objects, 10), boxes(hits, width)
    scores = [by_torchmetrics(*pair, backend=backend) for backend in ("pycocotools", "faster_coco_eval")]
    print(
        f"{hits} of {objects} found, IoU {width / 10}: AP by pycocotools {by_pycocotools(*pair):.4f}, by torchmetrics "
        f"{scores[0]:.4f} with it, {scores[1]:.4f} with faster-coco-eval; with pycocotools' thresholds "
        f"{by_torchmetrics(*pair, **exact):.4f}"
    )
PYTHON
diff "$folder/seen" - <<'SEEN'
torchmetrics 1.9.0
1 of 1 found, IoU 0.8: AP by pycocotools 0.7000, by torchmetrics 0.6000 with it, 0.6000 with faster-coco-eval; with pycocotools' thresholds 0.7000
1 of 1 found, IoU 0.6: AP by pycocotools 0.3000, by torchmetrics 0.2000 with it, 0.2000 with faster-coco-eval; with pycocotools' thresholds 0.3000
6 of 10 found, IoU 1.0: AP by pycocotools 0.6040, by torchmetrics 0.5941 with it, 0.5941 with faster-coco-eval; with pycocotools' thresholds 0.6040
57 of 100 found, IoU 1.0: AP by pycocotools 0.5644, by torchmetrics 0.5743 with it, 0.5743 with faster-coco-eval; with pycocotools' thresholds 0.5644
SEEN
