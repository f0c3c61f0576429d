#!/usr/bin/env bash
# Pillow 11.3.0 opens 16-bit colours as 8-bit ones without a word: 256 values become one. 16-bit grey keeps its values.
#
# So 12-bit colours in a 16-bit PNG (0 to 4095) come out as 16 values, from 0 to 15: nearly black.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==11.3.0 opencv-python-headless==4.12.0.88
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import cv2
import numpy as np
from PIL import Image, __version__

values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
for name, pixels in {"grey": values, "colours": np.stack([values] * 3, axis=2)}.items():
    cv2.imwrite("12-bit.png", pixels)
    picture = Image.open("12-bit.png")
    read = np.asarray(picture)
    stored = f"{len(np.unique(pixels))} values up to {pixels.max()}"
    print(f"Pillow {__version__}, {name}, {stored}: mode {picture.mode}, {len(np.unique(read))} values up to {read.max()}")
PYTHON
diff "$folder/seen" - <<'SEEN'
Pillow 11.3.0, grey, 4096 values up to 4095: mode I;16, 4096 values up to 4095
Pillow 11.3.0, colours, 4096 values up to 4095: mode RGB, 16 values up to 15
SEEN
