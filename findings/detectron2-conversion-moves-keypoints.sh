#!/usr/bin/env bash
# Detectron2 0.7.2: writing a registered data set as COCO JSON moves its keypoints, by half a pixel more each time.
#
# Detectron2 counts keypoints from the corner of a pixel, COCO from its middle, so `convert_to_coco_dict` takes 0.5 off.
# It does so in the registered records themselves: where the registered function returns records that it keeps, as it
# does for data that is not read anew from a file, what is trained on afterwards has moved as well, and the next
# conversion takes off another 0.5. COCOEvaluator converts data that has no JSON file of its own. Nothing warns of it.
# The Python files are those of a third party's wheel, built for Python 3.10: on 3.11 its compiled part is not loaded,
# which this does not need. Installing torch takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
uv="$folder/venv/bin/uv"
"$uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.7.0 torchvision==0.22.0 \
  numpy==2.2.6 setuptools==80.9.0 fvcore==0.1.5.post20221221 iopath==0.1.9 omegaconf==2.3.0 hydra-core==1.3.2 \
  pycocotools==2.0.10 matplotlib==3.10.7 cloudpickle==3.1.2
"$uv" pip install --quiet --no-deps --python-version 3.10 --target "$folder/packages" sal-detectron2==0.7.2
cat > "$folder/convert.py" <<'PYTHON'
import logging
import sys
import warnings

sys.path.append(sys.argv[1])  # last: the wheel brings a package named `tools`
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

import detectron2
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.structures import BoxMode

bird = {"bbox": [2.0, 3.0, 8.0, 6.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
bird["keypoints"] = [4.5, 5.5, 2.0, 8.5, 7.5, 1.0]
records = [{"file_name": "a.png", "image_id": 1, "height": 20, "width": 30, "annotations": [bird]}]
DatasetCatalog.register("birds", lambda: records)
MetadataCatalog.get("birds").set(thing_classes=["bird"])
print("detectron2", detectron2.__version__)
print("registered:", bird["keypoints"])
for _ in range(2):
    (written,) = convert_to_coco_dict("birds")["annotations"]
    print("written:", written["keypoints"], "registered now:", bird["keypoints"])
PYTHON
"$folder/venv/bin/python" "$folder/convert.py" "$folder/packages" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
detectron2 0.7.2
registered: [4.5, 5.5, 2.0, 8.5, 7.5, 1.0]
written: [4.0, 5.0, 2.0, 8.0, 7.0, 1.0] registered now: [4.0, 5.0, 2.0, 8.0, 7.0, 1.0]
written: [3.5, 4.5, 2.0, 7.5, 6.5, 1.0] registered now: [3.5, 4.5, 2.0, 7.5, 6.5, 1.0]
SEEN
