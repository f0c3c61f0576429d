"""Backbones of timm: their networks, what timm publishes for them, and files of weights in timm's form.

timm is an optional package, and imported here only.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

from composer_copypaste.errors import CheckpointError, RecipeError, did_you_mean, first_few
from composer_copypaste.extras import check_installed
from composer_copypaste.models.pyramid import Pyramid
from composer_copypaste.settings import TIMM, DetectorSettings

log = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

STRIDES = (4, 8, 16, 32)
"""The strides of the features that the pyramid is built from."""

PROBE_SIZE = (64, 96)
"""Height and width of an image that every network must take, since Mask R-CNN's images have many sizes."""

_FORWARD_ERRORS = (AssertionError, RuntimeError, ValueError, IndexError)
"""What networks of a fixed input size raise for other sizes."""


def is_timm(backbone: str) -> bool:
    """Whether a backbone is one of timm's."""
    return backbone.startswith(TIMM)


class TimmBackbone(nn.Module):
    """A network of timm and the feature pyramid on it; parts and outputs are named as in torchvision's.

    Args:
        body: gives the features at strides 4, 8, 16 and 32 as a list.
        channels: the number of channels of each.
        pyramid: what is built on them.
        channels_last: whether the features are (n, h, w, c), as some transformers give them.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: Sequence[int],
        pyramid: Pyramid,
        *,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.body = body
        used = [channels[level] for level in pyramid.levels]
        above = pyramid.levels_above(used[-1])
        self.fpn = FeaturePyramidNetwork(used, pyramid.channels, extra_blocks=above, norm_layer=pyramid.norm)
        self.out_channels = pyramid.channels
        self.first_level = pyramid.levels[0]
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The levels of the pyramid, "0", "1" and so on, and those above them."""
        levels: dict[str, Tensor] = {}
        for number, level in enumerate(self.body(images)[self.first_level :]):
            levels[str(number)] = level.permute(0, 3, 1, 2) if self.channels_last else level
        return self.fpn(levels)


def build_timm_backbone(settings: DetectorSettings, pyramid: Pyramid) -> TimmBackbone:
    """The backbone that the settings name, with random weights; layers that do not train are frozen.

    Args:
        settings: the model's.
        pyramid: what is built on it.

    Raises:
        MissingPackageError: where timm is missing.
        RecipeError: where timm has no such network, or where the network cannot be a detector's backbone.
    """
    if settings.norm == "group":
        raise RecipeError(
            "norm: expected 'batch' or 'frozen_batch' for a backbone of timm, which has its own layers, got 'group'"
        )
    body = _build_features(settings.backbone)
    channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
    _check_features(body, settings.backbone, channels_last=channels_last)
    if settings.norm == "frozen_batch" or (settings.norm is None and settings.weights != "none"):
        body = _timm("timm.layers").freeze_batch_norm_2d(body)  # keeps the epsilon of each layer
    if settings.weights != "none":
        _freeze_stages(body, settings)
    channels = body.feature_info.channels()
    return TimmBackbone(body, channels, pyramid, channels_last=channels_last)


def image_statistics(settings: DetectorSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each color, in [0, 1], that images of the named weights were normalised with."""
    names = published_names(settings.backbone)
    config = _timm("timm.models").get_pretrained_cfg(names.get(settings.weights, settings.backbone.removeprefix(TIMM)))
    return tuple(config.mean), tuple(config.std)


def published_names(backbone: str) -> dict[str, str]:
    """What timm publishes for a backbone: for "imagenet" and each tag, timm's full name of these weights.

    "imagenet" is the tag in the backbone's name, or else the one that timm uses by default.

    Raises:
        MissingPackageError: where timm is missing.
        RecipeError: where timm has no such network.
    """
    models = _timm("timm.models")
    name = backbone.removeprefix(TIMM)
    architecture, _, tag = name.partition(".")
    if not models.is_model(architecture):
        hint = did_you_mean(architecture, models.list_models())
        raise RecipeError(
            f"backbone: timm {_timm('timm').__version__} has no network {architecture!r}; {hint and f'{hint} '}"
            "timm.list_models() lists them"
        )
    published = {full.partition(".")[2]: full for full in models.list_pretrained([architecture, f"{architecture}.*"])}
    if tag:
        published = {other: full for other, full in published.items() if other == tag}
        if not published:
            raise RecipeError(f"backbone: timm publishes no weights {tag!r} of {architecture!r}; leave .{tag} out")
    default = models.get_pretrained_cfg(name)
    return {"imagenet": published[default.tag], **published} if default.tag in published else published


def describe_timm_download(settings: DetectorSettings) -> str | None:
    """The download that timm would start for the weights, in words; None where there is none."""
    name = published_names(settings.backbone).get(settings.weights)
    if name is None or cached_file(name) is not None:
        return None
    config = _timm("timm.models").get_pretrained_cfg(name)
    place = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    return f"to be downloaded by timm from {place}"


def download_timm_weights(name: str) -> StateDict:
    """The tensors of timm's complete network, classifier included, as timm downloads them.

    Raises:
        CheckpointError: where they cannot be downloaded.
    """
    try:
        network = _timm("timm").create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"weights: timm could not download {name} ({str(error).strip().splitlines()[0]}). Without network, give "
            "the file that timm publishes: model.weights=FILE"
        ) from error
    return cast(StateDict, network.state_dict())


def cached_file(name: str) -> Path | None:
    """The file in the hub's cache that holds published weights; None where they have to be downloaded."""
    config = _timm("timm.models").get_pretrained_cfg(name)
    if not config.hf_hub_id or config.custom_load:
        return None
    from huggingface_hub import try_to_load_from_cache  # timm needs it too

    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (try_to_load_from_cache(config.hf_hub_id, file) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def features_of_network(state: StateDict, settings: DetectorSettings, source: str) -> StateDict:
    """The tensors of a backbone's body, from those of timm's complete network, with a classifier or without.

    Names are timm's own, or those of EfficientNet-PyTorch. timm fits them into its complete network, where none may be
    missing or left over.

    Raises:
        CheckpointError: where they are those of another network.
    """
    architecture = settings.backbone.removeprefix(TIMM)
    create = partial(_timm("timm").create_model, architecture, pretrained=True)
    config = _timm("timm.models").get_pretrained_cfg(architecture)
    if "_conv_stem.weight" in state:
        state = _from_efficientnet_pytorch(state, architecture)
    classes = next((len(state[f"{layer}.weight"]) for layer in _classifiers(config) if f"{layer}.weight" in state), 0)
    overlay = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0}
    try:
        complete = create(num_classes=classes, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{source}: made for another network: {_short_reason(error)}") from error
    fitted = complete.state_dict()
    overlay = {"state_dict": dict(fitted), "label_offset": 0}
    with _without_warnings_of_timm():  # of the classifier, which is left out here
        features = _build_features(settings.backbone, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    _check_all_arrived(features, fitted, source)
    return cast(StateDict, features)


@contextmanager
def _without_warnings_of_timm() -> Iterator[None]:
    logger = logging.getLogger("timm.models")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _classifiers(config: Any) -> tuple[str, ...]:
    return (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())


def _check_all_arrived(features: StateDict, fitted: StateDict, source: str) -> None:
    """Raise ``CheckpointError`` where a tensor of the features is none of the network's: timm leaves such at random."""
    values = {tensor.numpy().tobytes() for tensor in fitted.values()}
    random = [
        name
        for name, tensor in features.items()
        if tensor.is_floating_point() and tensor.numpy().tobytes() not in values
    ]
    if random:
        raise CheckpointError(f"{source}: holds no weights for {first_few(random, 1)}")


def _short_reason(error: Exception) -> str:
    """The first line of torch's report about tensors that do not fit, with the first of its names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else lines[0]
    names = re.findall(r'"([^"]+)"', line)
    return f"{line.partition(':')[0]}: {first_few(names, 1)}" if len(names) > 1 else line.rstrip(". ")


# ---- the network


def _timm(module: str) -> ModuleType:
    """timm, or a module of it; ``MissingPackageError`` where it is not installed."""
    check_installed("timm", "backbones of timm need timm", "timm")
    return import_module(module)


def _build_features(backbone: str, **options: object) -> Any:
    """The network of timm that gives the features at ``STRIDES``, at any size of the images where timm allows that."""
    published_names(backbone)  # checks the name
    architecture = backbone.removeprefix(TIMM)
    reductions = [level["reduction"] for level in _create_features(architecture).feature_info.info]
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing:
        found = ", ".join(str(stride) for stride in dict.fromkeys(reductions))
        raise RecipeError(
            f"backbone: expected a network that gives features at strides 4, 8, 16 and 32; {backbone} gives {found}"
        )
    last = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
    return _create_features(architecture, out_indices=tuple(last), **options)


def _create_features(architecture: str, **options: object) -> Any:
    create = partial(_timm("timm").create_model, architecture, features_only=True, **options)
    try:
        if _timm("timm.models").get_pretrained_cfg(architecture).fixed_input_size:
            try:
                return create(strict_img_size=False)
            except TypeError:  # a network that has no such option; it may take any size, which `_check_features` sees
                pass
        return create()
    except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        raise RecipeError(
            f"backbone: timm gives no features of {architecture} ({str(error).strip().splitlines()[0]})"
        ) from error


def _check_features(body: Any, backbone: str, *, channels_last: bool) -> None:
    """Raise ``RecipeError`` where the network does not give its features at the right places, for images of any size.

    Networks that pad nothing give fewer features than an image has cells; their boxes would be off by pixels.
    """
    body.eval()
    fixed = body.pretrained_cfg.get("input_size", (3, *PROBE_SIZE)) if body.pretrained_cfg["fixed_input_size"] else None
    for height, width in (PROBE_SIZE, *([] if fixed is None else [(fixed[1] + 32, fixed[2] + 64)])):
        try:
            with torch.no_grad():
                features = body(torch.zeros(1, 3, height, width))
        except _FORWARD_ERRORS as error:
            size = "" if fixed is None else f", only {fixed[1]} x {fixed[2]}"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RecipeError(
                f"backbone: expected a network that takes images of any size; {backbone} does not take {height} x "
                f"{width}{size} ({reason})"
            ) from error
        found = [tuple(level.shape[1:3] if channels_last else level.shape[2:]) for level in features]
        expected = [(height // stride, width // stride) for stride in STRIDES]
        if found != expected:
            raise RecipeError(
                f"backbone: expected features of {expected} of an image of {height} x {width}; {backbone} gives {found}"
            )
    body.train()


# ---- frozen stages


def _freeze_stages(body: Any, settings: DetectorSettings) -> None:
    """Freeze all but the last ``trainable_backbone_layers`` of five parts: stem, and stages at strides 4 to 32."""
    trained = settings.trainable_backbone_layers
    parts = _parameter_parts(body)
    if parts is None and trained not in (0, 5):
        if trained is not None:
            raise RecipeError(
                f"trainable_backbone_layers: expected 0 or 5 for {settings.backbone}, whose layers timm does not list "
                f"by stage, got {trained}"
            )
        log.warning("%s: timm does not list its layers by stage: all are trained", settings.backbone)
        return
    frozen = [list(body.parameters())] if parts is None else parts
    for part in frozen[: 5 - (3 if trained is None else trained)]:
        for parameter in part:
            parameter.requires_grad_(False)


def _parameter_parts(body: Any) -> list[list[nn.Parameter]] | None:
    """The parameters of the five parts; None where timm names no modules that end the stages.

    Modules are listed in the order in which they compute. The stem ends where the feature at stride 2 does, or else
    where the first stage begins.
    """
    names = [name for name, _ in body.named_modules()]
    spans = {level["reduction"]: _module_span(names, level["module"]) for level in body.feature_info.info}
    ends = [spans[stride] for stride in STRIDES]
    if any(span is None for span in ends):
        return None
    known = [cast(tuple[int, int], span) for span in ends]
    half = spans.get(2)
    stem = known[0][0] if half is None else half[1]
    limits = [stem, *(end for _, end in known[:3]), len(names)]
    if limits != sorted(limits):
        return None
    parts: list[list[nn.Parameter]] = [[] for _ in limits]
    for position, module in enumerate(body.modules()):
        part = next(number for number, limit in enumerate(limits) if position < limit)
        parts[part] += module.parameters(recurse=False)
    return parts


def _module_span(names: Sequence[str], module: str) -> tuple[int, int] | None:
    """Positions of a module's first part and after its last, whatever timm puts before its name."""
    for name in (module, module.replace(".", "_", 1), f"model.{module}", f"body.{module}"):
        inside = [place for place, other in enumerate(names) if other == name or other.startswith(f"{name}.")]
        if name and inside:
            return inside[0], inside[-1] + 1
    return None


# ---- names of EfficientNet-PyTorch

_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_IN_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_IN_BLOCK_WITHOUT_EXPANSION = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
"""timm's names of what a block holds, by those of EfficientNet-PyTorch; the first block has no expansion."""


def _from_efficientnet_pytorch(state: StateDict, architecture: str) -> StateDict:
    """The tensors under timm's names; those of no known name keep theirs, and are refused later."""
    own = _timm("timm").create_model(architecture).state_dict()
    blocks = list(dict.fromkeys(match[1] for name in own if (match := re.match(r"(blocks\.\d+\.\d+)\.", name))))
    return {_name_in_timm(name, state, blocks): tensor for name, tensor in state.items()}


def _name_in_timm(name: str, state: Mapping[str, Tensor], blocks: Sequence[str]) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if match is None:
        module, _, leaf = name.partition(".")
        return f"{_OUTSIDE_BLOCKS.get(module, module)}.{leaf}"
    number, module, leaf = int(match[1]), match[2], match[3]
    expands = f"_blocks.{number}._expand_conv.weight" in state
    names = _IN_BLOCK if expands else _IN_BLOCK_WITHOUT_EXPANSION
    return f"{blocks[number]}.{names[module]}.{leaf}" if number < len(blocks) and module in names else name
