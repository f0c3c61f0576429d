#!/usr/bin/env bash
# timm 1.0.31 loads a backbone's file without an error where none of its tensors has the network's names.
#
# A network with its classifier is loaded strictly: a file of which names are missing, or others are there, is an error.
# With features_only=True, as detectors take backbones, names are not compared, since the classifier is missing there.
# So a file whose tensors stand under other names, such as those of an encoder in a larger model, leaves every tensor at
# random. A line in the log says so, as one says of every classifier that is left out. Installing torch takes some
# gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" timm==1.0.31 torch==2.7.0 torchvision==0.22.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import logging
import tempfile
from pathlib import Path

import timm
import torch

logging.disable(logging.CRITICAL)  # timm logs a warning
folder = Path(tempfile.mkdtemp())
torch.manual_seed(0)
trained = timm.create_model("resnet18").state_dict()
torch.save({f"encoder.{name}": tensor for name, tensor in trained.items()}, folder / "renamed.pth")
file = {"file": str(folder / "renamed.pth")}


def load(**options):
    torch.manual_seed(1)
    try:
        model = timm.create_model("resnet18", pretrained=True, pretrained_cfg_overlay=file, **options)
    except RuntimeError as error:
        return f"RuntimeError: {str(error).splitlines()[0]}"
    torch.manual_seed(1)
    random = timm.create_model("resnet18", **options).state_dict()
    loaded = model.state_dict()
    equal = sum(torch.equal(loaded[name], random[name]) for name in loaded)
    return f"no error; {equal} of {len(loaded)} tensors are still the random ones"


print(f"timm {timm.__version__}")
print(f"a resnet18 from a file of its tensors under other names: {load()}")
print(f"the same with features_only=True: {load(features_only=True)}")
PYTHON
diff "$folder/seen" - <<'SEEN'
timm 1.0.31
a resnet18 from a file of its tensors under other names: RuntimeError: Error(s) in loading state_dict for ResNet:
the same with features_only=True: no error; 120 of 120 tensors are still the random ones
SEEN
