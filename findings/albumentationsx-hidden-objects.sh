#!/usr/bin/env bash
# AlbumentationsX 2.5.1: after CopyAndPaste, boxes and masks describe hidden parts of objects as if they could be seen.
#
# Its description says that it updates all annotations. It takes what is hidden from the masks of the objects that were in
# the picture before, but leaves their boxes as large as they were. And of the objects that one call pastes, those beneath
# keep mask and box whole, even where nothing of them can be seen: two masks claim the same pixels. A detector learns from
# it that objects are where others are. It needs torch to be imported, which takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" albumentationsx==2.5.1 torch==2.15.0 \
  opencv-python-headless==4.12.0.88 numpy==2.2.6
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import albumentations
import numpy as np


def cut_out(value, height, label):
    """An object that is as wide as the picture."""
    image, mask = np.full((height, 16, 3), value, np.uint8), np.ones((height, 16), np.uint8)
    return {"image": image, "mask": mask, "bbox_labels": {"labels": label}}


def paste(cut_outs):
    """Paste over a picture of 16 x 16 whose object, of value 50 and label 1, covers its upper 8 rows."""
    image, mask = np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 16), np.uint8)
    image[:8], mask[0, :8] = 50, 1
    boxes = albumentations.BboxParams(coord_format="pascal_voc", label_fields=["labels"])
    transform = albumentations.Compose([albumentations.CopyAndPaste(p=1)], bbox_params=boxes, seed=0)
    box = np.array([[0, 0, 16, 8]], np.float32)
    return transform(image=image, masks=mask, bboxes=box, labels=[1], copy_paste_metadata=cut_outs)


def show(pasted, values):
    for mask, box, label in zip(pasted["masks"], pasted["bboxes"], pasted["labels"], strict=True):
        seen = int(np.sum(pasted["image"][..., 0] == values[int(label)]))
        rows, columns = np.nonzero(mask)
        around = [int(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
        masked, box = int(mask.sum()), box.astype(int).tolist()
        print(f"  object {int(label)}: {seen} pixels show it, mask {masked} within {around}, box {box}")


print(f"AlbumentationsX {albumentations.__version__}")
print("object 2 pasted over most of object 1:")
show(paste([cut_out(100, 12, 2)]), {1: 50, 2: 100})
print("objects 2 and 3 pasted, each as large as the picture:")
show(paste([cut_out(100, 16, 2), cut_out(200, 16, 3)]), {1: 50, 2: 100, 3: 200})
PYTHON
diff "$folder/seen" - <<'SEEN'
AlbumentationsX 2.5.1
object 2 pasted over most of object 1:
  object 1: 48 pixels show it, mask 48 within [0, 0, 16, 3], box [0, 0, 16, 8]
  object 2: 192 pixels show it, mask 192 within [0, 3, 16, 15], box [0, 3, 16, 15]
objects 2 and 3 pasted, each as large as the picture:
  object 2: 0 pixels show it, mask 256 within [0, 0, 16, 16], box [0, 0, 16, 16]
  object 3: 256 pixels show it, mask 256 within [0, 0, 16, 16], box [0, 0, 16, 16]
SEEN
