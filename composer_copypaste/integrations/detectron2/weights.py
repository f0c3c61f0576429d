"""Weights of Detectron2's models: those that a configuration names, the zoo's, or those of a file."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.model_zoo import get_checkpoint_url
from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import get_cache_dir
from torch import nn

from composer_copypaste.errors import CheckpointError, count_noun, first_few
from composer_copypaste.files import check_regular_file
from composer_copypaste.models.weight_files import StateDict, find_state_dict, nonfinite_tensors, read_file_of_weights

CLASS_LAYERS = ("roi_heads.box_predictor.", "roi_heads.mask_head.predictor.")
"""Layers that have a row for each category."""

SECONDS_TO_ANSWER = 30

NO_WEIGHTS = re.compile(r"pixel_(mean|std)|.*anchor_generator\.cell_anchors\.\d+|.*_momentum")
"""Names in older files of what models now have from their configuration, and of an optimizer's state."""


def weights_source(weights: str, config: object, of_config: str) -> str:
    """The file or the address of a model's weights; empty for none.

    Args:
        weights: "none", "config", "coco", a file or an address.
        config: the name of the configuration.
        of_config: the weights that it names.

    Raises:
        CheckpointError: where the zoo has no weights for the configuration.
    """
    if weights == "coco":
        return trained_weights(config)
    return {"none": "", "config": of_config}.get(weights, weights)


def check_source(source: str, weights: str) -> None:
    """Raise ``CheckpointError`` where a file of weights is none; ``weights`` is what the user gave."""
    if not source or urlparse(web_address(source)).netloc:
        return
    try:
        check_regular_file(source)
    except OSError as error:
        raise CheckpointError(
            f"weights: expected an existing file, or none, config or coco with detectron2; got {weights!r} "
            f"({error.strerror})"
        ) from None


def load_weights_of(module: nn.Module, source: str) -> list[str]:
    """Load the tensors of a file, or of an address, which is downloaded once; empty: none.

    Last layers made for another number of categories keep their random weights.

    Returns:
        What was loaded, what was not, and why, a line each.

    Raises:
        CheckpointError: where they cannot be obtained, or do not fit for another reason. No code in a file is run.
    """
    if not source:
        return ["everything starts at random"]
    check_source(source, source)
    file = local_file(source)
    content = read_file_of_weights(file)
    tensors = tensors_of_model(content, file)
    said = content if isinstance(content, Mapping) else {}
    of_caffe2 = said.get("__author__") == "Caffe2" or (file.suffix == ".pkl" and "model" not in said)
    if of_caffe2 or said.get("matching_heuristics"):
        own = module.state_dict()
        matched = align_and_update_state_dicts(own, tensors, c2_conversion=of_caffe2)
        return _load_matched(module, {name: value for name, value in matched.items() if name in own}, source)
    return _load_detector(module, tensors, source)


def read_model_file(file: Path) -> StateDict:
    """The tensors in a file, as of ``tensors_of_model``."""
    return tensors_of_model(read_file_of_weights(file), file)


def tensors_of_model(content: object, file: Path) -> StateDict:
    """The tensors in a file of Detectron2's or of a Composer run, by the names in the model.

    Raises:
        CheckpointError: where the content is something else, or a value is NaN or infinite.
    """
    state = {name.removeprefix("module."): value for name, value in find_state_dict(content, file).items()}
    if bad := nonfinite_tensors(state):
        raise CheckpointError(
            f"{file}: holds weights that are not finite ({first_few(bad, 1)}), as a training that diverged leaves them"
        )
    return {name: value for name, value in state.items() if not NO_WEIGHTS.fullmatch(name)}


def _load_matched(module: nn.Module, state: StateDict, source: str) -> list[str]:
    """Load what others' networks share with the model, mostly the backbone."""
    if not state:
        raise CheckpointError(f"{source}: made for another model: none of its tensors is one of the model's")
    module.load_state_dict(state, strict=False)
    parts = sorted({name.partition(".")[0] for name in state})
    return [f"{count_noun(len(state), 'tensor')} of {', '.join(parts)}; the rest starts at random"]


def _load_detector(module: nn.Module, state: StateDict, source: str) -> list[str]:
    """Load a whole model of the same kind; its last layers only if they have as many rows."""
    own = module.state_dict()
    other = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    unfitting = [name for name in other if not name.startswith(CLASS_LAYERS)]
    if unfitting:
        name = unfitting[0]
        raise CheckpointError(
            f"{source}: made for another model: {name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        )
    given = {name: value for name, value in state.items() if name not in other}
    missing, unknown = module.load_state_dict(given, strict=False)
    lacking = [name for name in missing if name not in other]
    if lacking or unknown:
        what = f"lacks {first_few(lacking, 1)}" if lacking else f"has {first_few(unknown, 1)}"
        raise CheckpointError(f"{source}: made for another model: {what}")
    loaded = f"the detector, {count_noun(len(given), 'tensor')}"
    if not other:
        return [loaded]
    return [loaded, f"last layers: made for another number of categories, start at random: {first_few(other)}"]


def local_file(source: str) -> Path:
    """The file itself, or the one that an address is downloaded to, once.

    Raises:
        CheckpointError: where it is not there, and cannot be downloaded.
    """
    if not is_download(source):
        return Path(PathManager.get_local_path(source))
    address = web_address(source)
    try:
        with urlopen(address, timeout=SECONDS_TO_ANSWER):  # asked first: Detectron2's download has several lines
            pass
        return Path(PathManager.get_local_path(source))
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(
            f"weights: {address} could not be downloaded ({reason}). Without network, download it elsewhere, and give "
            "that file"
        ) from error


def is_download(source: str) -> bool:
    """Whether these weights are not on this machine yet."""
    parts = urlparse(web_address(source))
    return bool(parts.netloc) and not Path(get_cache_dir(), parts.path.lstrip("/")).exists()


def web_address(source: str) -> str:
    """The address that a browser takes."""
    return source.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX, 1)


def trained_weights(config: object) -> str:
    """The address of the weights that the zoo trained with its configuration of this name.

    Raises:
        CheckpointError: where there are none.
    """
    try:
        return str(get_checkpoint_url(str(config)))
    except RuntimeError:
        raise CheckpointError(
            f"weights: Detectron2's model zoo has no trained weights for {config!s}; give a file"
        ) from None
