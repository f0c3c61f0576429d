"""How functions are compiled: by Numba, or where it is missing or cannot compile, not at all.

A function that is not compiled computes the same, a hundred times as slowly. For tables with a row for each object that
is hardly felt. Passes over pixels have another way, in torch, which ``can_compile`` chooses.
"""

import logging
import re
import warnings
from functools import cache, partial, wraps
from typing import Any, no_type_check

import numpy as np

from composer_copypaste.errors import MissingPackageError, SlowWarning

try:
    from llvmlite import ir as ir
    from numba import carray as carray  # type: ignore[attr-defined]
    from numba import njit
    from numba import types as types
    from numba.core import event
    from numba.core.errors import NumbaError
    from numba.extending import intrinsic as intrinsic
except (ImportError, OSError) as error:  # it is not installed, needs an older NumPy, or one of its libraries is missing
    IMPORT_PROBLEM = " ".join(str(error).split())
    ir = carray = njit = types = intrinsic = None  # type: ignore[assignment]
else:
    IMPORT_PROBLEM = ""

STYLES = re.compile("\x1b\\[[0-9;]*m")
"""What makes text bold or colored on a screen, as Numba does with its messages where colorama is installed."""
WHAT_IS_COMPILED = {"functional": "copy-paste", "metrics": "COCO's scores", "data": "the drawing of outlines"}
"""What the functions of each package do that are compiled."""
WORKS_WITHOUT_NUMBA = "copy-paste on the CPU is done by torch, and takes several times as long"

log = logging.getLogger(__name__)


@no_type_check
def compiled(function):
    """The function as machine code, made when it is first called, which takes seconds, and kept on the disk."""
    if njit is None:
        return _uncompiled(function)
    compile = partial(njit, nogil=True, error_model="numpy")
    try:
        return compile(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return compile()(function)


@no_type_check
def compiled_intrinsic(function):
    """What Numba makes of a function that writes code for it; without Numba nothing calls it."""
    return function if intrinsic is None else intrinsic(function)


@no_type_check
def _uncompiled(function):
    """The function as it is, called as if it were compiled: rows of tables have attributes, and numbers overflow."""

    @wraps(function)
    def call(*arguments):
        with np.errstate(all="ignore"):
            return function(*map(_with_attributes, arguments))

    return call


@no_type_check
def _with_attributes(value):
    if isinstance(value, np.ndarray) and value.dtype.names is not None:
        return value.view(np.recarray)
    return value


@cache
def _log_once(package: str, is_kept: bool) -> None:
    """Log that functions of a package of ours are compiled now, and not read from the disk."""
    how_often = "once: it is kept on the disk" if is_kept else "in each process: no folder can be written to"
    log.info("compiling %s for this processor, some seconds, %s", WHAT_IS_COMPILED[package], how_often)


if njit is not None:

    class _LogsCompiling(event.Listener):
        def on_start(self, event: Any) -> None:
            dispatcher = event.data["dispatcher"]
            ours, _, name = dispatcher.py_func.__module__.partition(".")
            if ours == __package__.partition(".")[0]:
                _log_once(name.partition(".")[0], dispatcher.stats.cache_path is not None)

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", _LogsCompiling())


@cache
def numba_problem() -> str | None:
    """Why Numba cannot compile here; None where it can."""
    if IMPORT_PROBLEM:
        return IMPORT_PROBLEM
    from composer_copypaste.functional.engines.numba_memory import MASK, values_at

    try:
        values_at(np.zeros(1, np.uint8).ctypes.data, 0, 1, MASK)
    except (NumbaError, OSError, RuntimeError) as error:
        return " ".join(STYLES.sub("", str(error)).split())
    return None


@cache
def can_compile() -> bool:
    """Whether Numba compiles here; where it does not, a warning says so, once."""
    problem = numba_problem()
    if problem is not None:
        warnings.warn(f"Numba does not work here ({problem}): {WORKS_WITHOUT_NUMBA}", SlowWarning, stacklevel=2)
    return problem is None


def check_can_compile(need: str) -> None:
    """Raise ``MissingPackageError`` where Numba does not work; ``need`` says what needs it, as "offline data sets"."""
    problem = numba_problem()
    if problem is not None:
        raise MissingPackageError(f"{need} need Numba, which does not work here ({problem}): pip install -U numba")
