"""Weights of Detectron2's Mask R-CNN by torchvision's names, and back."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from composer_copypaste.errors import CheckpointError, first_few
from composer_copypaste.models.class_rows import CLASS_SCORES
from composer_copypaste.models.detectron2_style import MARK, PIXEL_MEAN, PIXEL_STD, Detectron2Anchors
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.settings import DETECTRON2_BACKBONES, MaskRCNNSettings

StateDict = dict[str, Tensor]

BODY, BOTTOM_UP = "backbone.body.", "backbone.bottom_up."
COUNTER = "num_batches_tracked"
CLASS_ROWS = {CLASS_SCORES.replace("weight", end): None for end in ("weight", "bias")}
BOX_ROWS = "roi_heads.box_predictor.bbox_pred."
MASK_ROWS = "roi_heads.mask_predictor.mask_fcn_logits."
ANCHORS = "proposal_generator.anchor_generator.cell_anchors."

NAMES = re.compile(
    r"backbone\.(bottom_up|fpn_|stem\.|res\d|net\.|simfp)|proposal_generator\.|roi_heads\.mask_head\.mask_fcn|"
    r"head\.cls_subnet|sem_seg_head\.|stem\.conv1\.norm\.|res2\.0\.conv1\.|res2_0_branch2a|conv_rpn"
)
"""Begin the names of tensors that only Detectron2 has, and Caffe2's Detectron."""

OTHER_MODELS = {
    r"conv_rpn|rpn_cls_logits": "a detector of Caffe2's Detectron",
    r"roi_heads\.box_(head|predictor)\.\d\.": "a Cascade R-CNN",
    r"mask_head\.(point|coarse|parameter)_head|mask_(point|coarse)_head": "a PointRend",
    r"keypoint_head": "a Keypoint R-CNN",
    r"sem_seg_head": "a model of semantic or panoptic segmentation",
    r"^head\.(cls_subnet|bbox_subnet|cls_score)": "a RetinaNet or FCOS",
    r"conv2_offset": "a network with deformable convolutions",
    r"^backbone\.(net|simfp)|bottom_up\.(s\d|blocks|patch_embed|layers)": "a backbone that is no ResNet",
    r"^backbone\.(stem|res\d)|roi_heads\.res5": "a network without feature pyramid (C4 or DC5)",
    r"fpn_(lateral|output)\d\.norm|box_head\.conv\d|mask_fcn\d\.norm|rpn_head\.conv\.conv\d":
        "a network with normalised or deeper heads (GN, SyncBN or LSJ)",
    r"shortcut\.\d|stem\.conv[23]|stem\.conv1_[23]": "a ResNet of another form (D)",
}  # fmt: skip
"""What names show, in regular expressions, that a file is of another model."""

MODEL_NAME = "Detectron2's Mask R-CNN with a {} and FPN"
EXPECTED = "expected its Mask R-CNN with a ResNet and FPN, as of mask_rcnn_R_50_FPN and mask_rcnn_R_101_FPN"


def is_of_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have names of Detectron2's, and not torchvision's."""
    return any(NAMES.match(name) for name in state)


# ---- from Detectron2


def from_detectron2(state: Mapping[str, Tensor], source: Path | str, author: object = None) -> StateDict:
    """The tensors of a file of Detectron2 by torchvision's names and in its order, with the mark of the style.

    Args:
        state: a whole Mask R-CNN of Detectron2's, or its backbone alone, also with Caffe2's names.
        source: names the file in messages.
        author: who made the file, as it says itself.

    Raises:
        CheckpointError: where it is of another model, or where tensors are missing or of another size.
    """
    for pattern, what in OTHER_MODELS.items():
        if found := next((name for name in state if re.search(pattern, name)), None):
            raise CheckpointError(f"{source}: of Detectron2, but {what} ({found}); {EXPECTED}")
    if not any(name.startswith(("backbone.", "proposal_generator.", "roi_heads.")) for name in state):
        return _from_backbone(state, source, author)
    state = _without_checked(state, source)
    backbone = _backbone_of(state, BOTTOM_UP, source)
    unknown = [name for name in state if _torchvision_name(name) is None]
    renamed = {own: tensor for name, tensor in state.items() if (own := _torchvision_name(name)) is not None}
    expected = _shapes(backbone)
    missing = [_detectron2_name(name) for name in expected if name not in renamed and not name.endswith(COUNTER)]
    if missing or unknown:
        problems = [
            f"{kind} {first_few(names, 1)}" for kind, names in (("lacks", missing), ("unknown:", unknown)) if names
        ]
        raise CheckpointError(f"{source}: no {MODEL_NAME.format(backbone)}; {'; '.join(problems)}")
    classes = _number_of_classes(renamed, source)
    for name, tensor in renamed.items():
        shape = _shape_in_detectron2(name, expected.get(name, tuple(tensor.shape)), classes)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{source}: no {MODEL_NAME.format(backbone)}: {_detectron2_name(name)} is {tuple(tensor.shape)}, "
                f"expected {shape}"
            )
    return _reordered(renamed, "in") | {MARK: torch.ones((), dtype=torch.uint8)}


def _shape_in_detectron2(name: str, shape: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """The shape of a tensor of ``classes`` categories and the background there."""
    if name in CLASS_ROWS:
        return (classes + 1, *shape[1:])
    rows = background_rows(name)
    return (rows * classes, *shape[1:]) if rows else shape


def _number_of_classes(state: Mapping[str, Tensor], source: Path | str) -> int:
    """The number of categories, which all last layers must have."""
    classes = len(state[CLASS_SCORES]) - 1
    boxes, masks = len(state[f"{BOX_ROWS}weight"]), len(state[f"{MASK_ROWS}weight"])
    if (boxes, masks) != (4 * classes, classes):
        raise CheckpointError(
            f"{source}: its last layers are of different numbers of categories: {classes} have scores, "
            f"{boxes / 4:g} boxes and {masks} masks; expected those of a model whose boxes and masks are of categories"
        )
    return classes


def _without_checked(state: Mapping[str, Tensor], source: Path | str) -> StateDict:
    """The tensors without those that are the same in every file: anchors, and the mean and deviation of pixels."""
    anchors = Detectron2Anchors(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5).cell_anchors
    fixed = {f"{ANCHORS}{level}": boxes for level, boxes in enumerate(anchors)}
    fixed |= {"pixel_mean": torch.tensor(PIXEL_MEAN), "pixel_std": torch.tensor(PIXEL_STD)}
    for name, tensor in state.items():
        expected = fixed.get(name)
        if expected is None:
            continue
        if tensor.numel() != expected.numel() or not torch.allclose(
            tensor.float().flatten(), expected.flatten(), atol=1e-2
        ):
            raise CheckpointError(
                f"{source}: of Detectron2, but with other settings than its zoo's: {name} is "
                f"{[round(value, 2) for value in tensor.flatten().tolist()[:4]]}, expected "
                f"{[round(value, 2) for value in expected.flatten().tolist()[:4]]}"
            )
    return {name: tensor for name, tensor in state.items() if name not in fixed}


def _from_backbone(state: Mapping[str, Tensor], source: Path | str, author: object) -> StateDict:
    """The tensors of a ResNet that was trained on ImageNet, without its classifier."""
    if author == "torchvision":
        raise CheckpointError(
            f"{source}: torchvision's ResNet, converted for Detectron2, which needs other colors; give "
            "weights=imagenet and style=torchvision"
        )
    state = {f"{BOTTOM_UP}{_name_of_caffe2(name)}": tensor for name, tensor in state.items()}
    state = {
        name: tensor for name, tensor in state.items() if not re.search(r"\.(fc\w*|linear|pred)\.|conv1\.bias$", name)
    }
    backbone = _backbone_of(state, BOTTOM_UP, source)
    unknown = [name for name in state if not (_torchvision_name(name) or "").startswith(BODY)]
    renamed = {_torchvision_name(name) or name: tensor for name, tensor in state.items()}
    expected = {name: shape for name, shape in _shapes(backbone).items() if name.startswith(BODY)}
    constants = {"running_mean": 0.0, "running_var": 1.0}  # where statistics are part of weight and bias
    for name, shape in expected.items():
        if name not in renamed and (kind := name.rpartition(".")[2]) in constants:
            renamed[name] = torch.full(shape, constants[kind])
    missing = [name for name in expected if name not in renamed and not name.endswith(COUNTER)]
    if missing or unknown:
        names = [_detectron2_name(name).removeprefix(BOTTOM_UP) for name in missing] or unknown
        kind = "lacks" if missing else "unknown:"
        raise CheckpointError(f"{source}: no {backbone} of Detectron2's; {kind} {first_few(names, 1)}")
    named = {name.removeprefix(BODY): tensor for name, tensor in renamed.items()}
    return named | {MARK: torch.ones((), dtype=torch.uint8)}


def _name_of_caffe2(name: str) -> str:
    """Detectron2's name, without the model's part, of a tensor that Caffe2 names, such as res2_0_branch2a_bn_s."""
    if "_" not in name or "." in name:
        return name
    for old, new in (
        ("res_conv1_bn_", "stem_conv1_norm_"), ("conv1_", "stem_conv1_"), ("_branch1_", "_shortcut_"),
        ("_branch2a_", "_conv1_"), ("_branch2b_", "_conv2_"), ("_branch2c_", "_conv3_"),
    ):  # fmt: skip
        name = re.sub(rf"^{old}" if not old.startswith("_") else old, new, name)
    ends = {"bn_s": "norm.weight", "bn_b": "norm.bias", "bn_rm": "norm.running_mean", "bn_riv": "norm.running_var",
            "norm_s": "norm.weight", "norm_b": "norm.bias", "norm_rm": "norm.running_mean",
            "norm_riv": "norm.running_var", "w": "weight", "b": "bias"}  # fmt: skip
    for old, new in ends.items():
        if name.endswith(f"_{old}"):
            return f"{name.removesuffix(f'_{old}').replace('_', '.')}.{new}"
    return name.replace("_", ".")


def _backbone_of(state: Mapping[str, Tensor], prefix: str, source: Path | str) -> str:
    """The name of the ResNet, by the number of blocks of its third stage."""
    pattern = re.compile(rf"^{re.escape(prefix)}res4\.(\d+)\.")
    blocks = 1 + max((int(found[1]) for name in state if (found := pattern.match(name))), default=-1)
    wide = f"{prefix}res4.0.conv3.weight" in state or f"{prefix}res2.0.conv3.weight" in state
    depth = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}.get((blocks, wide))
    if depth is None:
        raise CheckpointError(f"{source}: of Detectron2, but its backbone is no ResNet that is known here; {EXPECTED}")
    return f"resnet{depth}"


# ---- to Detectron2


def to_detectron2(state: Mapping[str, Tensor]) -> StateDict:
    """The tensors of a model of Detectron2's style, by Detectron2's names and in its order.

    Raises:
        CheckpointError: where they are of a model of torchvision's style.
    """
    if MARK not in state:
        raise CheckpointError(
            "expected a model of Detectron2's style (model.style=detectron2), since Detectron2 computes otherwise than "
            "torchvision; got one of torchvision's"
        )
    tensors = {name: tensor for name, tensor in state.items() if name != MARK}
    return {_detectron2_name(name): tensor for name, tensor in _reordered(tensors, "out").items()}


def known_style(state: Mapping[str, Tensor]) -> tuple[str, MaskRCNNSettings] | None:
    """The name and the settings of a whole model of Detectron2's style; None where the tensors are of another one."""
    if MARK not in state or CLASS_SCORES not in state:
        return None
    norm: Literal["batch", "frozen_batch"] = (
        "batch" if any(name.endswith(COUNTER) for name in state) else "frozen_batch"
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}
    classes = len(state[CLASS_SCORES])
    for backbone in DETECTRON2_BACKBONES:
        own = {name: shape for name, shape in _shapes(backbone, classes).items() if not name.endswith(COUNTER)}
        if shapes == own | {MARK: ()}:
            settings = MaskRCNNSettings(backbone=backbone, style="detectron2", norm=norm)
            return MODEL_NAME.format(backbone), settings
    return None


# ---- names and order


def _reordered(state: Mapping[str, Tensor], direction: Literal["in", "out"]) -> StateDict:
    """The background's row first, as in torchvision, or last; boxes and masks have it in torchvision alone."""
    tensors = dict(state)
    for name, tensor in state.items():
        if name in CLASS_ROWS:
            tensors[name] = tensor.roll(1 if direction == "in" else -1, 0)
        elif rows := background_rows(name):
            background = tensor.new_zeros((rows, *tensor.shape[1:]))
            tensors[name] = torch.cat([background, tensor]) if direction == "in" else tensor[rows:]
    return tensors


def background_rows(name: str) -> int:
    """How many rows of a tensor, named as in torchvision, are of the background in torchvision alone."""
    return 4 if name.startswith(BOX_ROWS) else 1 if name.startswith(MASK_ROWS) else 0


@cache
def _shapes(backbone: str, classes: int = 2) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of a model, by torchvision's names, without the mark."""
    with torch.device("meta"):
        model = build_mask_rcnn(classes, MaskRCNNSettings(backbone=backbone, style="detectron2"))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != MARK}


def _torchvision_name(name: str) -> str | None:
    """Torchvision's name of a tensor that Detectron2 names; None where torchvision's model has none like it."""
    module, _, kind = name.rpartition(".")
    own = _modules().get(module)
    return None if own is None else f"{own}.{kind}"


def _detectron2_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    return f"{_modules_of_detectron2()[module]}.{kind}"


@cache
def _modules_of_detectron2() -> dict[str, str]:
    return {own: theirs for theirs, own in _modules().items()}


@cache
def _modules() -> dict[str, str]:
    """Torchvision's name of each part that has tensors, by Detectron2's."""
    heads = {
        "proposal_generator.rpn_head.conv": "rpn.head.conv.0.0",
        "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
        "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
        "roi_heads.box_head.fc1": "roi_heads.box_head.fc6",
        "roi_heads.box_head.fc2": "roi_heads.box_head.fc7",
        "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.deconv": "roi_heads.mask_predictor.conv5_mask",
        "roi_heads.mask_head.predictor": "roi_heads.mask_predictor.mask_fcn_logits",
    }
    heads |= {f"roi_heads.mask_head.mask_fcn{number + 1}": f"roi_heads.mask_head.{number}.0" for number in range(4)}
    for level in range(4):
        heads[f"backbone.fpn_lateral{level + 2}"] = f"backbone.fpn.inner_blocks.{level}.0"
        heads[f"backbone.fpn_output{level + 2}"] = f"backbone.fpn.layer_blocks.{level}.0"
    body = {"stem.conv1": "conv1", "stem.conv1.norm": "bn1"}
    for stage in range(1, 5):
        for block in range(36):
            theirs, own = f"res{stage + 1}.{block}", f"layer{stage}.{block}"
            body |= {f"{theirs}.conv{number}": f"{own}.conv{number}" for number in (1, 2, 3)}
            body |= {f"{theirs}.conv{number}.norm": f"{own}.bn{number}" for number in (1, 2, 3)}
            body |= {f"{theirs}.shortcut": f"{own}.downsample.0", f"{theirs}.shortcut.norm": f"{own}.downsample.1"}
    return heads | {f"{BOTTOM_UP}{theirs}": f"{BODY}{own}" for theirs, own in body.items()}
