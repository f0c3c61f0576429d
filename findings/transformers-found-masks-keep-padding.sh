#!/usr/bin/env bash
# transformers 5.24.0: masks that MaskFormer and Mask2Former find in a batch are squeezed by the padding of their picture.
#
# The image processor pads all pictures of a batch to the largest height and width, and gives pixel_mask, which says what
# is padding. post_process_instance_segmentation takes target_sizes, the sizes of the pictures, and resizes the whole of a
# found mask to that, padding included. So where a picture was padded, a mask that is right in what the model saw lies
# elsewhere in the picture, and what is found in it depends on the other pictures of the batch. The function cannot know
# better: it is not given how large the picture was within its padding. Nothing warns of it. Installing torch takes some
# gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" transformers==5.24.0 torch==2.7.0 \
  torchvision==0.22.0 numpy==2.2.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON' | tee "$folder/seen"
from types import SimpleNamespace

import numpy as np
import torch
import transformers


def perfect_model(pixel_values, pixel_mask):
    """Finds exactly the white pixels of each picture, as one object."""
    white = pixel_values.amin(dim=1, keepdim=True) > 1
    classes = torch.tensor([9.0, -9.0]).expand(len(white), 1, 2)
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=torch.where(white, 9.0, -9.0))


def box_of(mask):
    """Left, top, right, bottom."""
    rows, columns = torch.nonzero(mask, as_tuple=True)
    return [int(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


wide, high = np.zeros((320, 640, 3), np.uint8), np.zeros((640, 320, 3), np.uint8)
wide[160:240, 160:480] = 255
print(f"transformers {transformers.__version__}, a picture of 640 x 320 with an object at {[160, 160, 480, 240]}")
for kind in (transformers.MaskFormerImageProcessor, transformers.Mask2FormerImageProcessor):
    processor = kind(size={"shortest_edge": 320, "longest_edge": 640})
    for name, pictures in {"alone": [wide], "beside one of 320 x 640": [wide, high]}.items():
        outputs = perfect_model(**processor(pictures, return_tensors="pt"))
        sizes = [picture.shape[:2] for picture in pictures]
        found = processor.post_process_instance_segmentation(outputs, target_sizes=sizes, return_binary_maps=True)
        print(f"{kind.__name__}, {name}: found at {box_of(found[0]['segmentation'][0])}")
PYTHON
diff "$folder/seen" - <<'SEEN'
transformers 5.24.0, a picture of 640 x 320 with an object at [160, 160, 480, 240]
MaskFormerImageProcessor, alone: found at [160, 160, 480, 240]
MaskFormerImageProcessor, beside one of 320 x 640: found at [160, 80, 480, 120]
Mask2FormerImageProcessor, alone: found at [160, 160, 480, 240]
Mask2FormerImageProcessor, beside one of 320 x 640: found at [160, 80, 480, 120]
SEEN
