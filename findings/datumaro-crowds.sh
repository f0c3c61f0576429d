#!/usr/bin/env bash
# datumaro 1.13.12 marks every mask as a crowd in its COCO export, though each is one object.
#
# In COCO, iscrowd 1 means a region of many objects, which trainings skip and scores ignore: a data set that is exported so
# trains on nothing, and reads back as crowds. Its polygons are written as objects.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datumaro==1.13.12
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datumaro.components.annotation import Mask, Polygon
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

pixels = np.zeros((48, 64), np.uint8)
pixels[10:30, 10:30] = 1
objects = {"mask": Mask(pixels, label=0), "polygon": Polygon([10, 10, 30, 10, 30, 30, 10, 30], label=0)}

for name, annotation in objects.items():
    picture = Image.from_numpy(np.zeros((48, 64, 3), np.uint8))
    item = DatasetItem(id="1", media=picture, annotations=[annotation])
    Dataset.from_iterable([item], categories=["part"]).export(name, "coco_instances", save_media=True)
    (file,) = Path(name, "annotations").glob("*.json")
    (written,) = json.loads(file.read_text())["annotations"]
    print(f"datumaro {version('datumaro')}, one {name}: iscrowd {written['iscrowd']}")
PYTHON
diff "$folder/seen" - <<'SEEN'
datumaro 1.13.12, one mask: iscrowd 1
datumaro 1.13.12, one polygon: iscrowd 0
SEEN
