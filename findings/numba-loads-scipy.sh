#!/usr/bin/env bash
# Numba 0.68.1 loads SciPy, where it is installed, before it runs a function that needs nothing of it, also from its cache.
#
# The first call of any function in a process registers all of Numba's own, and those for linear algebra import
# scipy.linalg to learn whether there is a BLAS. That takes a fifth of a second of a processor, a quarter of what the first
# call of copy-paste takes in a process that has not loaded SciPy for something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uv==0.9.13
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" numba==0.68.1 numpy==2.2.6 scipy==1.16.3
cat > "$folder/added.py" <<'PYTHON'
import sys

import numba


@numba.njit(cache=True)
def added(a, b):
    return a + b


before = "scipy.linalg" in sys.modules
found = added(2, 3)
cached = sum(added.stats.cache_hits.values())
print(f"Numba {numba.__version__}: 2 + 3 = {found}, loaded from the cache: {cached}")
print(f"scipy.linalg is loaded before the first call: {before}, after it: {'scipy.linalg' in sys.modules}")
PYTHON
for _ in compiled cached; do "$folder/venv/bin/python" "$folder/added.py"; done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
Numba 0.68.1: 2 + 3 = 5, loaded from the cache: 0
scipy.linalg is loaded before the first call: False, after it: True
Numba 0.68.1: 2 + 3 = 5, loaded from the cache: 1
scipy.linalg is loaded before the first call: False, after it: True
SEEN
