"""Load weights into a detector: weights that torchvision publishes, or those of a file."""

import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model_weights

from composer_copypaste.errors import CheckpointError, count_noun, either, first_few, first_line
from composer_copypaste.files import check_regular_file
from composer_copypaste.models.class_rows import (
    KeptRows,
    class_count,
    detector_of,
    find_kept_rows,
    is_of_classes,
    keep_rows,
    names_in_weights,
)
from composer_copypaste.models.detectron2_style import MARK
from composer_copypaste.models.detectron2_weights import known_style
from composer_copypaste.models.timm import (
    cached_file,
    describe_timm_download,
    download_timm_weights,
    features_of_network,
    is_timm,
    published_names,
)
from composer_copypaste.models.weight_files import StateDict, read_weights
from composer_copypaste.settings import DETECTOR_TITLES, DetectorName, DetectorSettings

_COUNTER = "num_batches_tracked"
"""Ends the names of tensors that frozen normalisation lacks."""
_BODY = "backbone.body."
"""Begins the names of a backbone's tensors in a detector."""

log = logging.getLogger(__name__)

COCO_MODELS: Mapping[tuple[DetectorName, str], tuple[str, ...]] = {
    ("mask_rcnn", "resnet50"): ("maskrcnn_resnet50_fpn",),
    ("mask_rcnn", "resnet50_v2"): ("maskrcnn_resnet50_fpn_v2",),
    ("faster_rcnn", "resnet50"): ("fasterrcnn_resnet50_fpn",),
    ("faster_rcnn", "resnet50_v2"): ("fasterrcnn_resnet50_fpn_v2",),
    ("faster_rcnn", "mobilenet_v3_large"): (
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ),
    ("retinanet", "resnet50"): ("retinanet_resnet50_fpn",),
    ("retinanet", "resnet50_v2"): ("retinanet_resnet50_fpn_v2",),
    ("fcos", "resnet50"): ("fcos_resnet50_fpn",),
}
"""Torchvision's models with weights trained on COCO, by detector and backbone; "coco" stands for those of the first."""

CLASSIFIER = ("fc.", "classifier.")
"""Prefixes of ImageNet's classifier in a backbone's file, which is not used."""


def load_pretrained(
    module: nn.Module, settings: DetectorSettings, category_names: Sequence[str] | None = None
) -> list[str]:
    """Load the weights named by ``settings.weights`` into a detector that was built from the same settings.

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
        trained, said = settings.trainable_backbone_layers, ["everything starts at random"]
        if trained not in (None, 5):
            setting = f"trainable_backbone_layers={trained}"
            said.append(f"{setting} has no effect: without weights, the whole backbone is trained")
            log.warning(said[-1])
        return said
    state, source = _named_weights(settings), f"weights {settings.weights!r}, backbone {settings.backbone!r}"
    _check_style(state, settings)
    if any(name.startswith(("backbone.", "roi_heads.", "head.classification_head.")) for name in state):
        return _load_detector(module, state, settings, category_names, source)
    if settings.keep_categories:
        raise CheckpointError(
            f"keep_categories: expected the weights of a detector, found those of a backbone: {source}"
        )
    return [_load_backbone(module, state, settings, source)]


def _check_style(state: StateDict, settings: DetectorSettings) -> None:
    """Raise ``CheckpointError`` where weights are of another style than the model, which computes otherwise."""
    if (MARK in state) == settings.is_detectron2_style:
        known = known_style(state)
        if known is not None and known[1].backbone != settings.backbone:
            raise CheckpointError(
                f"backbone: expected {known[1].backbone!r} for the weights {settings.weights!r}, {known[0]}; got "
                f"{settings.backbone!r}"
            )
        return
    there, here = ("Detectron2's", "detectron2") if MARK in state else ("torchvision's", "torchvision")
    raise CheckpointError(
        f"style: expected {here!r} for the weights {settings.weights!r}, which are of {there} style; got "
        f"{'detectron2' if settings.is_detectron2_style else 'torchvision'!r}"
    )


def _named_weights(settings: DetectorSettings) -> StateDict:
    """The tensors of published weights, or of a file."""
    if is_timm(settings.backbone):
        name = published_names(settings.backbone).get(settings.weights)
        if name is not None:
            file = cached_file(name)
            return download_timm_weights(name) if file is None else read_weights(file)
    elif weights := published_weights(settings.backbone, settings.name).get(settings.weights):
        return _download_weights(weights)
    return read_weights(Path(settings.weights))


def describe_download(settings: DetectorSettings) -> str | None:
    """The download that the weights need, in words; None where they need none."""
    if is_timm(settings.backbone):
        return describe_timm_download(settings)
    weights = published_weights(settings.backbone, settings.name).get(settings.weights)
    file = None if weights is None else Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if weights is None or file is None or file.exists():
        return None
    return f"to be downloaded, {weights.meta['_file_size']:.0f} MB from {weights.url}: not there yet as {file}"


def check_weights_name(settings: DetectorSettings) -> None:
    """Raise ``CheckpointError`` where ``settings.weights`` names neither a file nor weights for the backbone."""
    if is_timm(settings.backbone):
        published = list(published_names(settings.backbone))
    else:
        published = list(published_weights(settings.backbone, settings.name))
    choices = ("none",) if settings.is_detectron2_style else ("none", *published)
    if settings.weights in choices:
        return
    try:
        check_regular_file(settings.weights)
    except OSError as error:
        found = _checkpoints_of_run(Path(settings.weights))
        if found:
            raise CheckpointError(
                f"weights: expected a file, got the folder of a run, {settings.weights!r}; give one of its "
                f"checkpoints: {either([*map(str, found)])}"
            ) from None
        raise CheckpointError(
            f"weights: expected an existing file or, for the {'style' if settings.is_detectron2_style else 'backbone'} "
            f"{'detectron2' if settings.is_detectron2_style else settings.backbone!r}, "
            f"{either(choices)}; got {settings.weights!r} ({error.strerror})"
        ) from None


def _checkpoints_of_run(path: Path) -> list[Path]:
    """The best and the newest checkpoint of the run in a folder; none where there is no run."""
    if not os.path.isdir(path):  # also where the name is too long for a file's
        return []
    return [*sorted(path.glob("checkpoints/best-*.pt")), *path.glob("checkpoints/latest-rank0.pt")]


def load_tensors(module: nn.Module, state: StateDict, path: Path) -> None:
    """Load the tensors that ``read_weights`` or ``tensors_of_content`` found; all of the model's must be there.

    Raises:
        CheckpointError: where it was made for another model or number of classes.
    """
    if (MARK in state) != (MARK in module.state_dict()):
        there, here = ("detectron2", "torchvision") if MARK in state else ("torchvision", "detectron2")
        raise CheckpointError(
            f"{path}: made for a model of the style {there!r}, not {here!r}; give model.style={there}"
        )
    _load_tensors_except(module, state, [], str(path))


def published_weights(backbone: str, detector: DetectorName) -> dict[str, WeightsEnum]:
    """Torchvision's weights for a detector's backbone, by their own names and by "imagenet" and "coco"."""
    if backbone == "small":
        return {}
    families = {"imagenet": (backbone.removesuffix("_v2"),), "coco": COCO_MODELS.get((detector, backbone), ())}
    weights = {}
    for family, models in families.items():
        members = [member for model in models for member in get_model_weights(model)]
        weights.update({family: members[0]} if members else {})
        weights.update({str(member): member for member in members})
    return weights


def _download_weights(weights: WeightsEnum) -> StateDict:
    """The weights, from torchvision's server or from torch's cache."""
    try:
        state: StateDict = dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{weights}: could not be downloaded from {weights.url} ({first_line(error)}). Without network, put "
            f"that file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return state


def _load_detector(
    module: nn.Module,
    state: StateDict,
    settings: DetectorSettings,
    category_names: Sequence[str] | None,
    source: str,
) -> list[str]:
    """Load a detector's tensors into the model; what was loaded and what was not, a line each."""
    _check_same_detector(state, settings, source)
    _check_same_backbone(module, state, settings, source)
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
    classes = class_count(state) or "another number of"
    log.warning("%s: made for %s classes; these start at random: %s", source, classes, ", ".join(fresh))
    return [loaded, f"last layers: made for {classes} classes, start at random; model.keep_categories=true keeps rows"]


def _check_same_detector(state: StateDict, settings: DetectorSettings, source: str) -> None:
    """Raise ``CheckpointError`` where the weights are those of another detector."""
    there = detector_of(state)
    if there is not None and there != settings.name:
        raise CheckpointError(
            f"{source}: the weights of {DETECTOR_TITLES[there]}, the model is {settings.title}; give "
            f"model.name={there}, or weights of a backbone"
        )


def _check_same_backbone(module: nn.Module, state: StateDict, settings: DetectorSettings, source: str) -> None:
    """Raise ``CheckpointError`` where the weights are those of a detector with another backbone."""
    own = {name: tensor.shape for name, tensor in module.state_dict().items() if name.startswith(_BODY)}
    there = {name: tensor.shape for name, tensor in state.items() if name.startswith(_BODY)}
    different = [name for name in {**own, **there} if own.get(name) != there.get(name) and not name.endswith(_COUNTER)]
    if 2 * len(different) > len(own):
        recipe = Path(settings.weights).absolute().parent.parent / "recipe.yaml"
        says = f": {recipe} names it" if recipe.exists() else ""
        raise CheckpointError(
            f"{source}: made with another backbone ({len(different)} of its tensors differ, such as "
            f"{different[0]}); give model.backbone=, and model.heads= where they differ, as it was made with{says}"
        )


def _find_kept_rows(state: StateDict, settings: DetectorSettings, category_names: Sequence[str] | None) -> KeptRows:
    if category_names is None:
        raise CheckpointError("keep_categories: expected the names of the model's categories: category_names=[...]")
    classes = class_count(state)
    if classes is None:
        raise CheckpointError("keep_categories: expected the weights of a detector, found no scores of classes")
    names = names_in_weights(settings, classes)
    if names is None:
        raise CheckpointError(
            f"keep_categories: nothing says what the {classes - 1} labels of {settings.weights} stand "
            "for; give a COCO file with their categories: model.weights_categories=FILE"
        )
    return find_kept_rows(category_names, names)


def _lines_of_other_names(
    state: StateDict, settings: DetectorSettings, category_names: Sequence[str] | None
) -> list[str]:
    """A line where last layers that fit were trained on other categories than the model's, as far as is known."""
    classes = class_count(state)
    if category_names is None or classes is None:
        return []
    there = names_in_weights(settings, classes) or {}
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


def _load_backbone(module: nn.Module, state: StateDict, settings: DetectorSettings, source: str) -> str:
    """Load the tensors of a backbone into the model's; what was loaded, in words."""
    body = module.get_submodule("backbone.body")
    if is_timm(settings.backbone):
        features = features_of_network(state, settings, source)
        _load_tensors_except(body, features, [], source)
        return (
            f"the backbone, {len(features)} of the network's {count_noun(len(state), 'tensor')}; the rest starts at "
            "random"
        )
    others = (*CLASSIFIER, MARK)
    names = {name: name.removeprefix("features.") for name in state if not name.startswith(others)}
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
    except RuntimeError as error:
        # torchvision renames parameters of old files while it loads them, so sizes may differ only now
        details = [line.strip().removesuffix(".") for line in str(error).split("\n")[1:]]
        raise CheckpointError(f"{source}: {first_few(details, 1)}") from error
    # num_batches_tracked: frozen normalisation layers do not have it
    missing = [name for name in missing if name not in fresh and not name.endswith("num_batches_tracked")]
    if missing or unknown:
        problems = [
            f"{kind}: {first_few(names, 1)}" for kind, names in (("lacks", missing), ("unknown", unknown)) if names
        ]
        raise CheckpointError(f"{source}: made for another model; {'; '.join(problems)}")
