#!/usr/bin/env bash
# supervision 0.31.2 exports masks to COCO one pixel short: pycocotools draws 19 x 19 pixels of a square of 20 x 20, and a
# mask of one pixel's width gets no outline at all.
#
# Outlines go through the centres of the outermost pixels, as OpenCV finds them, while COCO's polygons go along the pixels'
# edges. The area that is written beside them is that of the whole mask.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet supervision==0.31.2 opencv-python==4.12.0.88 pycocotools==2.0.11
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON' | tee "$folder/seen"
import json
from importlib.metadata import version

import numpy as np
import supervision as sv
from PIL import Image
from pycocotools import mask as coco_mask

print(f"supervision {version('supervision')}, pycocotools {version('pycocotools')}")
Image.new("RGB", (64, 48)).save("picture.png")
for name, (height, width) in {"square": (20, 20), "line": (20, 1)}.items():
    mask = np.zeros((48, 64), bool)
    mask[10 : 10 + height, 10 : 10 + width] = True
    box = np.array([[10, 10, 10 + width, 10 + height]], float)
    objects = sv.Detections(xyxy=box, mask=mask[None], class_id=np.array([0]))
    data = sv.DetectionDataset(classes=["part"], images=["picture.png"], annotations={"picture.png": objects})
    data.as_coco(annotations_path=f"{name}.json")
    [entry] = json.load(open(f"{name}.json"))["annotations"]
    outline = entry["segmentation"]
    drawn = int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(outline, 48, 64)))) if outline else "no outline"
    print(f"{name}: {int(mask.sum())} pixels, area {entry['area']:.0f}, drawn by pycocotools: {drawn}")
PYTHON
diff "$folder/seen" - <<'SEEN'
supervision 0.31.2, pycocotools 2.0.11
square: 400 pixels, area 400, drawn by pycocotools: 361
line: 20 pixels, area 20, drawn by pycocotools: no outline
SEEN
