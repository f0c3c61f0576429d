#!/usr/bin/env bash
# supervision 0.31.2 marks single objects as crowds: its COCO export writes iscrowd 1 for a mask with a hole or of two parts.
#
# In COCO, iscrowd 1 means a region of many objects, which trainings skip and scores ignore. supervision chooses by the
# form of the mask: what a polygon cannot hold becomes run lengths, and those are marked as a crowd.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet supervision==0.31.2 opencv-python==4.12.0.88
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import json
from importlib.metadata import version

import numpy as np
import supervision as sv
from PIL import Image

solid = np.zeros((48, 64), bool)
solid[10:30, 10:30] = True
ring = solid.copy()
ring[15:25, 15:25] = False
halves = solid.copy()
halves[:, 18:22] = False

Image.new("RGB", (64, 48)).save("picture.png")
for name, mask in {"solid": solid, "with a hole": ring, "of two parts": halves}.items():
    objects = sv.Detections(xyxy=np.array([[10, 10, 30, 30]], float), mask=mask[None], class_id=np.array([0]))
    data = sv.DetectionDataset(classes=["part"], images=["picture.png"], annotations={"picture.png": objects})
    data.as_coco(annotations_path="written.json")
    (annotation,) = json.load(open("written.json"))["annotations"]
    form = "polygons" if isinstance(annotation["segmentation"], list) else "run lengths"
    print(f"supervision {version('supervision')}, one object {name}: {form}, iscrowd {annotation['iscrowd']}")
PYTHON
diff "$folder/seen" - <<'SEEN'
supervision 0.31.2, one object solid: polygons, iscrowd 0
supervision 0.31.2, one object with a hole: run lengths, iscrowd 1
supervision 0.31.2, one object of two parts: run lengths, iscrowd 1
SEEN
