"""Detectron2's files of weights: pickles of NumPy arrays, read as data and never as code, and written."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from composer_copypaste.errors import CheckpointError, first_line
from composer_copypaste.files import atomic_write

_OF_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Begins files of torch.save of before 2020, after the two bytes of the protocol."""

_ARRAY = cast(Any, np.zeros(1).__reduce__()[0])
_SCALAR = cast(Any, np.float64(0).__reduce__()[0])
_BUFFER = cast(Any, np.zeros(1).__reduce_ex__(5)[0])
_NUMPY = {"_reconstruct": _ARRAY, "scalar": _SCALAR, "_frombuffer": _BUFFER}

DAMAGED = (
    EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError, MemoryError,
    ImportError, RecursionError,
)  # fmt: skip
"""What unpickling raises for damaged files besides ``UnpicklingError``."""


class _ForbiddenError(Exception):
    """A pickle holds something else than arrays and plain containers; the text names it."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, numbers, texts and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the functions that make arrays of the file's bytes."""
        if module.startswith(("numpy.core.", "numpy._core.")) and name in _NUMPY:  # of NumPy 1 and 2
            return _NUMPY[name]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # of bytes, in files for Python 2
            return _encode
        raise _ForbiddenError(f"{module}.{name}")

    def persistent_load(self, pid: object) -> Any:
        """Nothing: arrays have none."""
        raise _ForbiddenError("a reference to another file")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _ForbiddenError("_codecs.encode")
    return text.encode("latin1")


def is_plain_pickle(begin: bytes) -> bool:
    """Whether a file begins as a pickle of another origin than torch.save."""
    return begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05" and not begin[2:].startswith(_OF_TORCH)


def read_pickle(path: Path) -> object:
    """The content of a pickle of arrays, which are tensors then; only arrays and plain values can be in it.

    Raises:
        CheckpointError: where it is damaged, or holds anything else, which is named. No code in it is run.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
            return _with_tensors(content)
    except _ForbiddenError as error:
        raise CheckpointError(
            f"{path}: refused: it holds {error}, and reading it could run code. Expected arrays in plain containers, "
            "as in the files of Detectron2's zoo; or save the weights alone: torch.save(model.state_dict(), ...)"
        ) from error
    except (pickle.UnpicklingError, *DAMAGED) as error:
        raise CheckpointError(f"{path}: damaged, or no pickle: {first_line(error)}") from error


def _with_tensors(content: object) -> object:
    """The same with tensors for arrays, in dicts at any depth."""
    if isinstance(content, Mapping):
        return {name: _with_tensors(value) for name, value in content.items()}
    if isinstance(content, np.ndarray):
        if content.dtype.kind not in "fiub":
            raise _ForbiddenError(f"an array of {content.dtype}")
        return torch.from_numpy(np.array(content, order="C", dtype=content.dtype.newbyteorder("=")))
    return content


def write_pickle(tensors: Mapping[str, Tensor], path: Path, more: Mapping[str, object] | None = None) -> None:
    """Write tensors as a file of Detectron2's zoo, which its ``DetectionCheckpointer`` reads.

    Args:
        tensors: by Detectron2's names.
        path: the file, which is overwritten.
        more: plain values to write beside them.
    """
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "composer-copypaste", **(more or {})}, file, protocol=4)
