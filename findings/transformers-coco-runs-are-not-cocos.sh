#!/usr/bin/env bash
# transformers 5.24.0: the COCO run lengths that MaskFormer's masks are given as are not COCO's, and the first is no object's.
#
# With return_coco_annotation=True, post_process_instance_segmentation promises COCO's run lengths. COCO counts down the
# columns, and says how long each run of zeros and of ones is. These lists go along the rows, and hold the place and the
# length of each run of ones; pycocotools reads some of them without an error, as other masks. Where a pixel belongs to no
# object, the first list is that of the background, so that each object has the mask of the one before it. And what two
# objects share belongs to one of them only, though this argument is said to be the one for objects that overlap.
# Mask2Former, OneFormer and DETR have copies of the function that writes them. Installing torch takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" transformers==5.24.0 torch==2.7.0 \
  torchvision==0.22.0 numpy==2.2.6 pycocotools==2.0.11
"$folder/venv/bin/python" -W ignore - <<'PYTHON' | tee "$folder/seen"
from types import SimpleNamespace

import torch
import transformers
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 4, 8
processor = transformers.MaskFormerImageProcessor()


def post_process(objects, **form):
    """What the processor makes of a model that is sure of these objects, each of a class of its own."""
    classes = torch.full((1, len(objects), len(objects) + 1), -9.0)
    masks = torch.full((1, len(objects), HEIGHT, WIDTH), -9.0)
    for number, (rows, columns) in enumerate(objects):
        classes[0, number, number] = 9 - number
        masks[0, number, rows, columns] = 9
    outputs = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    (result,) = processor.post_process_instance_segmentation(outputs, target_sizes=[(HEIGHT, WIDTH)], **form)
    return result["segmentation"], [segment["label_id"] for segment in result["segments_info"]]


def draw(mask):
    return ["".join(".#"[int(pixel)] for pixel in row) for row in mask]


print(f"transformers {transformers.__version__}")
square = (slice(1, 3), slice(1, 3))
runs, labels = post_process([square], return_coco_annotation=True)
(mask,), _ = post_process([square], return_binary_maps=True)
read = coco_mask.decode(coco_mask.frPyObjects({"size": [HEIGHT, WIDTH], "counts": runs[-1]}, HEIGHT, WIDTH))
print(f"one object: {len(labels)} label, {len(runs)} lists of runs, that of the object {runs[-1]}")
print("its mask, and what pycocotools reads:", *map("   ".join, zip(draw(mask), draw(read), strict=True)), sep="\n")

wide, high = (slice(1, 3), slice(1, 7)), (slice(0, 4), slice(5, 8))
runs, labels = post_process([wide, high], return_coco_annotation=True)
masks, _ = post_process([wide, high], return_binary_maps=True)
print(f"two objects that overlap: {len(labels)} labels, pixels of their masks {[int(mask.sum()) for mask in masks]}")
print(f"pixels in the lists of runs: {[sum(run[1::2]) for run in runs]}")
PYTHON
diff "$folder/seen" - <<'SEEN'
transformers 5.24.0
one object: 1 label, 2 lists of runs, that of the object [10, 2, 18, 2]
its mask, and what pycocotools reads:
........   ........
.##.....   ........
.##.....   ..#....#
........   ..#....#
two objects that overlap: 2 labels, pixels of their masks [12, 12]
pixels in the lists of runs: [12, 8, 12]
SEEN
