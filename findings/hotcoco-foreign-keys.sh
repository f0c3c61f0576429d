#!/usr/bin/env bash
# hotcoco 1.3.0 refuses ground truth over keys that box and mask scores do not use, which pycocotools 2.0.11 leaves alone.
#
# COCO's format leaves further keys of an annotation to whoever writes the file, and annotation tools write some: a
# score as text, a rotated box as a dictionary. hotcoco names three such keys and wants numbers there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hotcoco==1.3.0 pycocotools==2.0.11 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import contextlib
import io
from importlib.metadata import version

import hotcoco
from pycocotools import coco, cocoeval

FOREIGN = {"none": {}, "score": {"score": "0.97"}, "obb": {"obb": {"angle": 30}}, "num_keypoints": {"num_keypoints": "3"}}
ENGINES = {"pycocotools": (coco.COCO, cocoeval.COCOeval), "hotcoco": (hotcoco.COCO, hotcoco.COCOeval)}


def average_precision(engine, further):
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
    truth = engine[0]()
    truth.dataset = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [box | further],
    }
    truth.createIndex()
    found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9}])
    evaluation = engine[1](truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return f"AP {evaluation.stats[0]:.2f}"


for name, engine in ENGINES.items():
    for key, further in FOREIGN.items():
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                result = average_precision(engine, further)
            except Exception as error:
                result = f"{type(error).__name__}: {error}"
        print(f"{name} {version(name)}, further key {key}: {result}")
PYTHON
diff "$folder/seen" - <<'SEEN'
pycocotools 2.0.11, further key none: AP 1.00
pycocotools 2.0.11, further key score: AP 1.00
pycocotools 2.0.11, further key obb: AP 1.00
pycocotools 2.0.11, further key num_keypoints: AP 1.00
hotcoco 1.3.0, further key none: AP 1.00
hotcoco 1.3.0, further key score: ValueError: annotations[0]: field 'score': must be real number, not str
hotcoco 1.3.0, further key obb: ValueError: annotations[0]: field 'obb': 'dict' object is not an instance of 'Sequence'
hotcoco 1.3.0, further key num_keypoints: ValueError: annotations[0]: field 'num_keypoints': expected a non-negative integer, got '3'
SEEN
