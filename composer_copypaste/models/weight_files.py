"""Read files of weights: of torch.save, safetensors, or Detectron2's pickles; as data, never as code."""

import datetime
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from composer_copypaste.errors import CheckpointError, first_few, first_line
from composer_copypaste.files import ZIP, check_regular_file, describe_non_json, describe_wrapped_file
from composer_copypaste.models.detectron2_pickle import is_plain_pickle, read_pickle
from composer_copypaste.models.detectron2_weights import from_detectron2, is_of_detectron2

StateDict = dict[str, Tensor]

# errors of torch's pickle reader on damaged files, or on files of another kind, which it reads as pickles
_UNREADABLE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError,
    MemoryError, struct.error,
)  # fmt: skip


def read_weights(path: Path) -> StateDict:
    """The tensors of a file: a state dict, a Composer checkpoint, safetensors, or a file of Detectron2's.

    Names are torchvision's, without the prefix ``module.``; see ``from_detectron2``.

    Raises:
        CheckpointError: where the file cannot be read, or holds something else. No code in the file is run.
    """
    return tensors_of_content(read_file_of_weights(path), path)


def read_file_of_weights(path: Path) -> object:
    """The content of a file of torch.save, safetensors or arrays; ``CheckpointError`` as of ``read_weights``."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    check_readable(path)
    with path.open("rb") as file:
        is_of_arrays = is_plain_pickle(file.read(16))
    return read_pickle(path) if is_of_arrays else read_torch_file(path)


def tensors_of_content(content: object, path: Path) -> StateDict:
    """The tensors of a file's content; ``path`` is used in messages.

    Raises:
        CheckpointError: where the content is something else, or a tensor has a value that is NaN or infinite.
    """
    state = find_state_dict(content, path)
    if bad := nonfinite_tensors(state):
        raise CheckpointError(
            f"{path}: holds weights that are not finite ({first_few(bad, 1)}), as a training that diverged leaves them"
        )
    state = {name.removeprefix("module.").removeprefix("module."): tensor for name, tensor in state.items()}
    if not is_of_detectron2(state):
        return state
    return from_detectron2(state, path, content.get("__author__") if isinstance(content, Mapping) else None)


def find_state_dict(content: object, path: Path) -> StateDict:
    """The names and tensors in a file's content, unchecked; ``CheckpointError`` where it is something else."""
    # as Composer nests them; torchvision's reference training and Detectron2 have "model" alone, Caffe2 "blobs"
    for level in ("state", "model", "blobs"):
        if isinstance(content, Mapping) and isinstance(content.get(level), Mapping):
            content = content[level]
    if not (
        isinstance(content, Mapping)
        and content
        and all(isinstance(tensor, Tensor) and isinstance(name, str) for name, tensor in content.items())
    ):
        found = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            found = f"a dict with the keys {', '.join(map(repr, list(content)[:5]))}" if content else "an empty dict"
        raise CheckpointError(
            f"{path}: expected a state dict (names and tensors) or a Composer checkpoint, found {found}"
        )
    if odd := [name for name, tensor in content.items() if not _is_plain(tensor)]:
        raise CheckpointError(
            f"{path}: expected dense tensors of real numbers, found others ({first_few(odd, 1)}), such as sparse, "
            "quantised or complex ones"
        )
    return dict(content)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has real numbers, one after the other, in memory."""
    is_dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    return is_dense and not tensor.is_complex()


def nonfinite_tensors(state: StateDict) -> list[str]:
    """The names of tensors with a value that is NaN or infinite."""
    return [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]


def read_torch_file(path: Path) -> object:
    """The content of a file that ``torch.save`` wrote: tensors and plain values.

    Raises:
        CheckpointError: where the file cannot be read, or holds anything else. No code in the file is run.
    """
    check_readable(path)
    if (kind := _describe_other_kind(path)) is not None:
        raise CheckpointError(f"{path}: expected weights, got {kind}")
    try:
        with allow_plain_values(), warnings.catch_warnings():
            # a protocol that cannot be read is an error below
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it holds {code[1]}" if code else "it is no file of weights"
        raise CheckpointError(
            f"{path}: refused: {found}, and reading it could run code. "
            "Save the weights alone: torch.save(model.state_dict(), ...)"
        ) from error
    except _UNREADABLE as error:
        # the text of a KeyError is only a number of torch's own tables
        reason = "" if isinstance(error, KeyError) else f": {first_line(error)}"
        raise CheckpointError(f"{path}: damaged, or no file of torch.save{reason}") from error


def check_readable(path: Path, expected: str = "weights") -> None:
    """Raise ``CheckpointError`` where a path leads to no file, or to a page or an archive in its place."""
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            kind = describe_wrapped_file(file.read(512))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if kind is not None:
        raise CheckpointError(f"{path}: expected {expected}, got {kind}")


def _describe_other_kind(path: Path) -> str | None:
    """What a readable file is, and what to do about it, where that is known and it holds no weights; else None."""
    with path.open("rb") as file:
        begin = file.read(512)
    if path.suffix.lower() == ".onnx":
        return "an ONNX file, which copypaste predict reads; copypaste eval --predictions scores what it finds"
    if not begin.startswith(ZIP):
        return "JSON" if begin.lstrip()[:1] in (b"{", b"[") else describe_non_json(begin)
    try:
        names = names_in_archive(path)
    except zipfile.BadZipFile:
        return "a file that is cut off or damaged"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript model, which torch.jit.load reads; give the checkpoint that it was exported from"
    return "NumPy's arrays" if any(name.endswith(".npy") for name in names) else None


def names_in_archive(path: Path) -> list[str]:
    """The names of the files in a ZIP archive; ``zipfile.BadZipFile`` where a file is no archive, or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (EOFError, NotImplementedError, OverflowError, ValueError, struct.error) as error:
        raise zipfile.BadZipFile(first_line(error)) from error  # what zipfile says of some of its damaged tables


@contextmanager
def allow_plain_values() -> Iterator[None]:
    """Let ``torch.load(..., weights_only=True)`` read the plain values of Composer's checkpoints, and still no code."""
    with torch.serialization.safe_globals(_plain_value_types()):
        yield


def _plain_value_types() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """The types in Composer's checkpoints besides tensors: versions, durations, and random states as NumPy arrays."""
    rebuild: Callable[..., object] = np.zeros(1).__reduce__()[0]  # type: ignore[assignment]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
    names = [(rebuild, f"{module}._reconstruct") for module in modules]
    return [
        torch.torch_version.TorchVersion,
        datetime.timedelta,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.uint32)),
        *names,
    ]


def _read_safetensors(path: Path) -> StateDict:
    check_readable(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it needs safetensors: pip install safetensors") from error
    try:
        state: StateDict = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged, or no safetensors file: {first_line(error)}") from error
    return state
