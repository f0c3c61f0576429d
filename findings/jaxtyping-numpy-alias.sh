#!/usr/bin/env bash
# jaxtyping 0.3.11 refuses numpy.typing.NDArray with NumPy 2.5.2, which it takes with 2.3.5.
#
# NumPy 2.5 turned NDArray into a lazy alias (PEP 695). Subscripted it has no class as its origin, which jaxtyping asks
# issubclass about: modules that annotate with it fail when they are imported. numpy.ndarray itself does for both.
# NumPy 2.5 needs Python 3.12.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for numpy in 2.3.5 2.5.2; do
  python3.12 -m venv "$folder/venv-$numpy"
  "$folder/venv-$numpy/bin/pip" install --quiet jaxtyping==0.3.11 numpy==$numpy
  "$folder/venv-$numpy/bin/python" - <<'PYTHON' | tee -a "$folder/seen"
import typing
from importlib.metadata import version

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

print(f"NumPy {np.__version__}: NDArray comes from {typing.get_origin(NDArray[np.float64])}")
for name, array in {"NDArray[np.float64]": NDArray[np.float64], "np.ndarray": np.ndarray}.items():
    try:
        result = Float[array, "n"]
    except TypeError as error:
        result = f"TypeError: {error}"
    print(f"jaxtyping {version('jaxtyping')}, NumPy {np.__version__}, {name}: {result}")
PYTHON
done
diff "$folder/seen" - <<'SEEN'
NumPy 2.3.5: NDArray comes from <class 'numpy.ndarray'>
jaxtyping 0.3.11, NumPy 2.3.5, NDArray[np.float64]: <class 'jaxtyping.Float[ndarray, 'n']'>
jaxtyping 0.3.11, NumPy 2.3.5, np.ndarray: <class 'jaxtyping.Float[ndarray, 'n']'>
NumPy 2.5.2: NDArray comes from NDArray
jaxtyping 0.3.11, NumPy 2.5.2, NDArray[np.float64]: TypeError: issubclass() arg 1 must be a class
jaxtyping 0.3.11, NumPy 2.5.2, np.ndarray: <class 'jaxtyping.Float[ndarray, 'n']'>
SEEN
