"""Load weights into a Mask R-CNN: weights that torchvision publishes, or those of a file."""

import datetime
import logging
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from composer_copypaste.errors import CheckpointError, count_noun, first_few
from composer_copypaste.files import ZIP, check_regular_file, describe_non_json, describe_wrapped_file
from composer_copypaste.models.class_rows import (
    CLASS_SCORES,
    KeptRows,
    find_kept_rows,
    is_of_classes,
    keep_rows,
    names_in_weights,
)
from composer_copypaste.models.timm import (
    cached_file,
    describe_timm_download,
    download_timm_weights,
    features_of_network,
    is_timm,
    published_names,
)
from composer_copypaste.settings import MaskRCNNSettings

log = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

# errors of torch's pickle reader on damaged files, or on files of another kind, which it reads as pickles
_UNREADABLE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError,
    MemoryError, struct.error,
)  # fmt: skip

COCO_MODELS = {"resnet50": "maskrcnn_resnet50_fpn", "resnet50_v2": "maskrcnn_resnet50_fpn_v2"}
CLASSIFIER = ("fc.", "classifier.")
"""Prefixes of ImageNet's classifier in a backbone's file, which is not used."""


DETECTRON2 = ("backbone.bottom_up.", "proposal_generator.", "__author__", "matching_heuristics", "res2_0_branch2a")
"""Names that only Detectron2's files have: of tensors and of other entries."""


def load_pretrained(
    module: nn.Module, settings: MaskRCNNSettings, category_names: Sequence[str] | None = None
) -> list[str]:
    """Load the weights named by ``settings.weights`` into a Mask R-CNN that was built from the same settings.

    Last layers made for another number of classes keep their random weights, but for the rows that
    ``settings.keep_categories`` keeps.

    Args:
        module: the model.
        settings: the model's.
        category_names: the names of its labels 1, 2, ...; needed to keep rows of categories.

    Returns:
        What was loaded, what was not, and why, a line each.

    Raises:
        CheckpointError: where the weights cannot be obtained, or do not fit for another reason.
    """
    check_weights_name(settings)
    if settings.weights == "none":
        return ["everything starts at random"]
    state, source = _named_weights(settings), f"weights {settings.weights!r}, backbone {settings.backbone!r}"
    if any(name.startswith(("backbone.", "roi_heads.")) for name in state):
        return _load_detector(module, state, settings, category_names, source)
    if settings.keep_categories:
        raise CheckpointError(
            f"keep_categories: expected the weights of a detector, found those of a backbone: {source}"
        )
    return [_load_backbone(module, state, settings, source)]


def _named_weights(settings: MaskRCNNSettings) -> StateDict:
    """The tensors of published weights, or of a file."""
    if is_timm(settings.backbone):
        name = published_names(settings.backbone).get(settings.weights)
        if name is not None:
            file = cached_file(name)
            return download_timm_weights(name) if file is None else read_weights(file)
    elif weights := published_weights(settings.backbone).get(settings.weights):
        return _download_weights(weights)
    return read_weights(Path(settings.weights))


def describe_download(settings: MaskRCNNSettings) -> str | None:
    """The download that the weights need, in words; None where they need none."""
    if is_timm(settings.backbone):
        return describe_timm_download(settings)
    weights = published_weights(settings.backbone).get(settings.weights)
    file = None if weights is None else Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if weights is None or file is None or file.exists():
        return None
    return f"to be downloaded, {weights.meta['_file_size']:.0f} MB from {weights.url}: not there yet as {file}"


def check_weights_name(settings: MaskRCNNSettings) -> None:
    """Raise ``CheckpointError`` where ``settings.weights`` names neither a file nor weights for the backbone."""
    published = published_names if is_timm(settings.backbone) else published_weights
    choices = ("none", *published(settings.backbone))
    if settings.weights in choices:
        return
    try:
        check_regular_file(settings.weights)
    except OSError as error:
        raise CheckpointError(
            f"weights: expected an existing file or, for the backbone {settings.backbone!r}, "
            f"{' or '.join(choices)}; got {settings.weights!r} ({error.strerror})"
        ) from None


def load_tensors(module: nn.Module, state: StateDict, path: Path) -> None:
    """Load the tensors that ``read_weights`` or ``tensors_of_content`` found; all of the model's must be there.

    Raises:
        CheckpointError: where it was made for another model or number of classes.
    """
    _load_tensors_except(module, state, [], str(path))


def published_weights(backbone: str) -> dict[str, WeightsEnum]:
    """Torchvision's weights for a backbone, by their own names and by "imagenet" and "coco"."""
    if backbone == "small":
        return {}
    families = {"imagenet": backbone.removesuffix("_v2")}
    if backbone in COCO_MODELS:
        families["coco"] = COCO_MODELS[backbone]
    weights = {}
    for family, model in families.items():
        members = list(get_model_weights(model))
        weights[family] = members[0]
        weights.update({str(member): member for member in members})
    return weights


def read_weights(path: Path) -> StateDict:
    """The tensors of a file: a state dict, a Composer checkpoint, or safetensors; without the prefix ``module.``.

    Raises:
        CheckpointError: where the file cannot be read, or holds something else. No code in the file is run.
    """
    return tensors_of_content(read_file_of_weights(path), path)


def read_file_of_weights(path: Path) -> object:
    """The content of a file of torch.save or of safetensors; ``CheckpointError`` as of ``read_weights``."""
    return _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def tensors_of_content(content: object, path: Path) -> StateDict:
    """The tensors of a file's content; ``path`` is used in messages.

    Raises:
        CheckpointError: where the content is something else, or a tensor has a value that is NaN or infinite.
    """
    state = find_state_dict(content, path)
    if is_of_detectron2(state):
        raise _detectron2_error(path)
    if bad := nonfinite_tensors(state):
        raise CheckpointError(
            f"{path}: holds weights that are not finite ({first_few(bad, 1)}), as a training that diverged leaves them"
        )
    return {name.removeprefix("module.").removeprefix("module."): tensor for name, tensor in state.items()}


def find_state_dict(content: object, path: Path) -> StateDict:
    """The names and tensors in a file's content, unchecked; ``CheckpointError`` where it is something else."""
    for level in ("state", "model"):  # as Composer nests them; torchvision's reference training has "model" alone
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
    return dict(content)


def is_of_detectron2(state: StateDict) -> bool:
    """Whether the tensors have names of Detectron2's."""
    return any(name.startswith(DETECTRON2) for name in state)


def nonfinite_tensors(state: StateDict) -> list[str]:
    """The names of tensors with a value that is NaN or infinite."""
    return [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]


def _detectron2_error(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: a file of Detectron2, whose layers and colors are not in torchvision's order: it cannot be loaded "
        "here. Give weights of torchvision's models, or a checkpoint of a run"
    )


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
            warnings.filterwarnings(
                "ignore", "Detected pickle protocol"
            )  # a protocol that cannot be read is an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_pickle_of_detectron2(path):
            raise _detectron2_error(path) from error
        code = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it holds {code[1]}" if code else "it is no file of weights"
        raise CheckpointError(
            f"{path}: refused: {found}, and reading it could run code. "
            "Save the weights alone: torch.save(model.state_dict(), ...)"
        ) from error
    except _UNREADABLE as error:
        reason = (
            "" if isinstance(error, KeyError) else f": {_first_line(error)}"
        )  # whose text is only a number of torch's own tables
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
    if not begin.startswith(ZIP):
        return "JSON" if begin.lstrip()[:1] in (b"{", b"[") else describe_non_json(begin)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "a file that is cut off or damaged"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript model, which torch.jit.load reads; give the checkpoint that it was exported from"
    return "NumPy's arrays" if any(name.endswith(".npy") for name in names) else None


def _is_pickle_of_detectron2(path: Path) -> bool:
    """Whether the bytes of a file contain Detectron2's names; its published weights are pickles of NumPy arrays."""
    content = path.read_bytes()
    return any(name.encode() in content for name in DETECTRON2)


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
        raise CheckpointError(f"{path}: reading it needs another package: pip install safetensors") from error
    try:
        state: StateDict = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged, or no safetensors file: {_first_line(error)}") from error
    return state


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _download_weights(weights: WeightsEnum) -> StateDict:
    """The weights, from torchvision's server or from torch's cache."""
    try:
        state: StateDict = dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{weights}: could not be downloaded from {weights.url} ({_first_line(error)}). Without network, put "
            f"that file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return state


def _load_detector(
    module: nn.Module,
    state: StateDict,
    settings: MaskRCNNSettings,
    category_names: Sequence[str] | None,
    source: str,
) -> list[str]:
    """Load a detector's tensors into the model; what was loaded and what was not, a line each."""
    if settings.keep_categories:
        kept = _find_kept_rows(state, settings, category_names)
        try:
            rows = keep_rows(module.state_dict(), state, kept)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: made for another model: {error}") from error
        _load_tensors_except(module, state | rows, [], source)
        return [f"the detector, {count_noun(len(state), 'tensor')}", *kept.describe()]
    unfitting = _names_that_do_not_fit(module, state)
    fresh = [name for name in unfitting if is_of_classes(name)]
    _load_tensors_except(module, state, fresh, source)
    loaded = f"the detector, {count_noun(len(state) - len(fresh), 'tensor')}"
    if not fresh:
        return [loaded, *_lines_of_other_names(state, settings, category_names)]
    classes = len(state[CLASS_SCORES]) if CLASS_SCORES in state else "another number of"
    log.warning("%s: made for %s classes; these start at random: %s", source, classes, ", ".join(fresh))
    return [loaded, f"last layers: made for {classes} classes, start at random; model.keep_categories=true keeps rows"]


def _find_kept_rows(state: StateDict, settings: MaskRCNNSettings, category_names: Sequence[str] | None) -> KeptRows:
    if category_names is None:
        raise CheckpointError("keep_categories: expected the names of the model's categories: category_names=[...]")
    if CLASS_SCORES not in state:
        raise CheckpointError(f"keep_categories: expected the weights of a Mask R-CNN, found no {CLASS_SCORES}")
    names = names_in_weights(settings, len(state[CLASS_SCORES]))
    if names is None:
        raise CheckpointError(
            f"keep_categories: nothing says what the {len(state[CLASS_SCORES]) - 1} labels of {settings.weights} stand "
            "for; give a COCO file with their categories: model.weights_categories=FILE"
        )
    return find_kept_rows(category_names, names)


def _lines_of_other_names(
    state: StateDict, settings: MaskRCNNSettings, category_names: Sequence[str] | None
) -> list[str]:
    """A line where last layers that fit were trained on other categories than the model's, as far as is known."""
    if category_names is None or CLASS_SCORES not in state:
        return []
    there = names_in_weights(settings, len(state[CLASS_SCORES])) or {}
    others = [
        f"{name} has those of {there[label]}"
        for label, name in enumerate(category_names, start=1)
        if label in there and there[label].casefold() != name.casefold()
    ]
    if not others:
        return []
    return [
        f"last layers: rows are those of other categories: {first_few(others)}; model.keep_categories=true goes by name"
    ]


def _load_backbone(module: nn.Module, state: StateDict, settings: MaskRCNNSettings, source: str) -> str:
    """Load the tensors of a backbone into the model's; what was loaded, in words."""
    body = module.get_submodule("backbone.body")
    if is_timm(settings.backbone):
        features = features_of_network(state, settings, source)
        _load_tensors_except(body, features, [], source)
        return (
            f"the backbone, {len(features)} of the network's {count_noun(len(state), 'tensor')}; the rest starts at "
            "random"
        )
    names = {name: name.removeprefix("features.") for name in state if not name.startswith(CLASSIFIER)}
    _load_tensors_except(body, {own: state[name] for name, own in names.items()}, [], source)
    return f"the backbone, {count_noun(len(names), 'tensor')}; the rest starts at random"


def _names_that_do_not_fit(module: nn.Module, state: StateDict) -> list[str]:
    own = module.state_dict()
    return [name for name, tensor in state.items() if name in own and own[name].shape != tensor.shape]


def _load_tensors_except(module: nn.Module, state: StateDict, fresh: list[str], source: str) -> None:
    """Load all tensors but those named in ``fresh``; the module must have the same ones, of the same shapes."""
    given = {name: tensor for name, tensor in state.items() if name not in fresh}
    if unfitting := _names_that_do_not_fit(module, given):
        own = module.state_dict()
        shapes = [f"{name} is {tuple(given[name].shape)}, expected {tuple(own[name].shape)}" for name in unfitting]
        raise CheckpointError(f"{source}: made for another model, or another number of classes: {first_few(shapes, 1)}")
    try:
        missing, unknown = module.load_state_dict(given, strict=False)
    except (
        RuntimeError
    ) as error:  # torchvision renames parameters of old files while it loads them, so sizes may differ only now
        details = [line.strip().removesuffix(".") for line in str(error).split("\n")[1:]]
        raise CheckpointError(f"{source}: {first_few(details, 1)}") from error
    # num_batches_tracked: frozen normalisation layers do not have it
    missing = [name for name in missing if name not in fresh and not name.endswith("num_batches_tracked")]
    if missing or unknown:
        problems = [
            f"{kind}: {first_few(names, 1)}" for kind, names in (("lacks", missing), ("unknown", unknown)) if names
        ]
        raise CheckpointError(f"{source}: made for another model; {'; '.join(problems)}")
