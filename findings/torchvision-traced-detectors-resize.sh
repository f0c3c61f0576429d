#!/usr/bin/env bash
# torchvision 0.22.0: a detector that was traced, for ONNX or TorchScript, resizes some images to another size.
#
# Images are resized by min(800 / shorter side, 1333 / longer side), rounded down. A detector of torchvision computes
# that with Python's numbers, which have 64 bits. Traced or scripted, it computes the factor in float32, so that the
# product may be just below the whole number: for many images a side is a pixel shorter than in the model itself. Then
# other objects are found, and boxes differ by more than rounding. Nothing warns of it. Installing torch takes some
# gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.7.0 torchvision==0.22.0 numpy==2.2.6
cat > "$folder/resize.py" <<'PYTHON'
import warnings

import torch
import torchvision
from torchvision.models.detection.transform import GeneralizedRCNNTransform

warnings.simplefilter("ignore")


class Resize(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.transform = GeneralizedRCNNTransform(800, 1333, [0.5] * 3, [0.5] * 3)

    def forward(self, image):
        return self.transform.resize(image)[0]


resize = Resize().eval()
traced = torch.jit.trace(resize, torch.zeros(3, 480, 640))
scripted = torch.jit.script(resize)
widths = range(200, 2000, 10)
kinds = {"traced": traced, "scripted": scripted}
print(f"torchvision {torchvision.__version__.partition('+')[0]}")
for name, kind in kinds.items():
    pairs = [(resize(image).shape, kind(image).shape) for image in (torch.zeros(3, 150, width) for width in widths)]
    others = [(tuple(one[1:]), tuple(other[1:])) for one, other in pairs if one != other]
    print(f"{name}: another size for {len(others)} of {len(pairs)} images, the first {others[:1]}")
PYTHON
"$folder/venv/bin/python" "$folder/resize.py" | tee "$folder/seen"  # from a file: torch.jit.script reads the source
diff "$folder/seen" - <<'SEEN'
torchvision 0.22.0
traced: another size for 20 of 180 images, the first [((645, 1333), (644, 1332))]
scripted: another size for 77 of 180 images, the first [((740, 1333), (740, 1332))]
SEEN
