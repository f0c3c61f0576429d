#!/usr/bin/env bash
# label-studio-sdk 2.1.2: COCO that is imported into Label Studio and exported again has more objects than before.
#
# The import makes a rectangle of each object's box beside the polygon of its outline, and one polygon of each of its
# parts, with nothing that ties them together. The export writes each of these as an object. So one of one part comes back
# as two, and one of two parts as three: its box without an outline, and each part with a box of its own. What trains on it
# learns each object twice, and boxes of parts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet label-studio-sdk==2.1.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import contextlib
import io
import json
import logging
from importlib.metadata import version
from pathlib import Path

from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.imports.coco import convert_coco_to_ls
from PIL import Image

logging.disable(logging.CRITICAL)
Image.new("RGB", (64, 32)).save("bolts.png")
square = {"segmentation": [[8, 8, 24, 8, 24, 24, 8, 24]], "bbox": [8, 8, 16, 16], "area": 256}
halves = {"segmentation": [[32, 8, 40, 8, 40, 24, 32, 24], [48, 8, 56, 8, 56, 24, 48, 24]]}
halves |= {"bbox": [32, 8, 24, 16], "area": 256}
objects = [
    {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, **outline}
    for number, outline in enumerate([square, halves], start=1)
]
image = {"id": 1, "file_name": "bolts.png", "width": 64, "height": 32}
coco = {"images": [image], "categories": [{"id": 1, "name": "bolt"}], "annotations": objects}
Path("coco.json").write_text(json.dumps(coco))

with contextlib.redirect_stdout(io.StringIO()):
    convert_coco_to_ls("coco.json", "tasks.json", image_root_url=f"{Path.cwd()}/")
tasks = json.loads(Path("tasks.json").read_text())
stored = [{"id": number, **task} for number, task in enumerate(tasks, start=1)]  # as Label Studio numbers them
Path("tasks.json").write_text(json.dumps(stored))
Converter("tasks.label_config.xml", str(Path.cwd())).convert_to_coco("tasks.json", "exported", is_dir=False)
exported = json.loads(Path("exported/result.json").read_text())["annotations"]

print(f"label-studio-sdk {version('label-studio-sdk')}")
for name, annotations in {"imported": objects, "exported": exported}.items():
    print(f"{name}: {len(annotations)} objects")
    for entry in annotations:
        box = [round(number) for number in entry["bbox"]]
        print(f"  parts: {len(entry['segmentation'])}, box {box}, iscrowd {entry['iscrowd']}")
PYTHON
diff "$folder/seen" - <<'SEEN'
label-studio-sdk 2.1.2
imported: 2 objects
  parts: 1, box [8, 8, 16, 16], iscrowd 0
  parts: 2, box [32, 8, 24, 16], iscrowd 0
exported: 5 objects
  parts: 0, box [8, 8, 16, 16], iscrowd 0
  parts: 0, box [32, 8, 24, 16], iscrowd 0
  parts: 1, box [8, 8, 16, 16], iscrowd 0
  parts: 1, box [32, 8, 8, 16], iscrowd 0
  parts: 1, box [48, 8, 8, 16], iscrowd 0
SEEN
