#!/usr/bin/env bash
# Numba 0.68.1 compiles functions for text where a slice of an array is set to another array.
#
# `row[:] = other` may fail for arrays of different shapes, and the message of that error names the shapes: so code that
# joins strings and writes numbers as text is compiled into each function that has such a line. A loop over the elements
# does the same, and is compiled without any of it: in a fraction of the time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" numba==0.68.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import numba
import numpy as np
from numba.core import event

compiled = []


class Listener(event.Listener):
    """Notes the module of each function that Numba compiles."""

    def on_start(self, found) -> None:
        compiled.append(found.data["dispatcher"].py_func.__module__)

    def on_end(self, found) -> None:
        pass


event.register("numba:compile", Listener())


@numba.njit
def by_slice(row, other):
    row[:] = other


@numba.njit
def by_element(row, other):
    for k in range(len(row)):
        row[k] = other[k]


print(f"Numba {numba.__version__}")
for function in (by_element, by_slice):
    compiled.clear()
    row = np.zeros(3)
    function(row, np.arange(3.0))
    text = sum("unicode" in module for module in compiled)
    print(f"{function.__name__}: {row.tolist()}, {len(compiled) - 1} functions compiled for it, {text} of them for text")
PYTHON
diff "$folder/seen" - <<'SEEN'
Numba 0.68.1
by_element: [0.0, 1.0, 2.0], 0 functions compiled for it, 0 of them for text
by_slice: [0.0, 1.0, 2.0], 37 functions compiled for it, 15 of them for text
SEEN
