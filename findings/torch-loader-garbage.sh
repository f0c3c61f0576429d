#!/usr/bin/env bash
# torch 2.7.0 waits five seconds for each loading process of a DataLoader that Python's garbage collector frees.
#
# Loading processes that persist are told to end when the loader's iterator is freed, and end at once. As part of a
# reference cycle (an object that refers to the loader and to itself), the iterator and its queues are freed by the
# collector, which closes the queues first: the processes are not told, and torch waits for one after the other.
# Composer's DataSpec is such an object. Installing torch takes some gigabytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.7.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import gc
import time

import torch
from torch.utils.data import DataLoader, TensorDataset


class Owner:
    """An object that owns a loader."""


def free(in_cycle: bool) -> str:
    owner = Owner()
    owner.loader = DataLoader(TensorDataset(torch.zeros(4)), num_workers=2, persistent_workers=True)
    if in_cycle:
        owner.itself = owner
    list(owner.loader)
    start = time.monotonic()
    del owner
    gc.collect()
    seconds = time.monotonic() - start
    return f"waits five seconds for each of two processes: {seconds > 9}"


gc.disable()
print(f"torch {torch.__version__.split('+')[0]}")
print(f"alone: {free(in_cycle=False)}")
print(f"in a reference cycle: {free(in_cycle=True)}")
PYTHON
diff "$folder/seen" - <<'SEEN'
torch 2.7.0
alone: waits five seconds for each of two processes: False
in a reference cycle: waits five seconds for each of two processes: True
SEEN
