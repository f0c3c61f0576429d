"""Write a Mask R-CNN of Detectron2's style as a file of weights that Detectron2 reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.errors import CheckpointError, ExportError, RecipeError
from composer_copypaste.files import atomic_write
from composer_copypaste.models.detectron2_pickle import write_pickle
from composer_copypaste.models.detectron2_weights import background_rows, known_style, to_detectron2
from composer_copypaste.models.weight_files import StateDict, read_weights
from composer_copypaste.runs.export import categories_by_label, check_new_file, torchvision_module
from composer_copypaste.runs.predictor import load_model

CONFIGS = {depth: f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_FPN_3x.yaml" for depth in (50, 101)}
"""The configurations of the zoo, by the depth of the ResNet; others are 50's with another depth."""


def export_detectron2(
    model: nn.Module,
    path: Path | str,
    *,
    categories: Sequence[Category | str] | Mapping[int, Category] | None = None,
) -> dict[str, object]:
    """Write the weights of a Mask R-CNN of Detectron2's style as a file .pkl, which ``DetectionCheckpointer`` reads.

    Args:
        model: ``MaskRCNN`` with ``style="detectron2"``, or torchvision's model in it; it is not modified.
        path: the file, which must not be there yet.
        categories: the names or categories of labels 1, 2, ..., which the file then lists too; Detectron2 reads none.

    Returns:
        How Detectron2 builds the model. "config" is a name in its zoo, and the rest are keys in which it differs.

    Raises:
        ExportError: where the model is of torchvision's style, or of a form that Detectron2 has not.
        OutputError: where the file is there already.
        ValueError: where there is not a category for each label.

    Example:
        >>> keys = export_detectron2(model, "model.pkl", categories=["disc", "star"])
    """
    path, module = Path(path), torchvision_module(model)
    listed = {} if categories is None else categories_by_label(categories, module)
    check_new_file(path)
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    known = known_style(state)
    try:
        tensors = to_detectron2(state)
    except CheckpointError as error:
        raise ExportError(f"{path}: not written: {error}") from error
    if known is None:
        raise ExportError(f"{path}: not written: expected normalisation 'frozen_batch' or 'batch', got another")
    with atomic_write(path) as unfinished:
        write_pickle(tensors, unfinished, {"categories": [asdict(category) for category in listed.values()]})
        _check_written(unfinished, state, path)
    return dict(_keys_of_detectron2(module, state, int(known[1].backbone.removeprefix("resnet"))))


def export_run_to_detectron2(
    source: Path, output: Path, *, recipe: str | None, overrides: Sequence[str], categories: Path | None
) -> dict[str, object]:
    """The same for the model of a run or a checkpoint; arguments are those of ``export_run``."""
    check_new_file(output)
    model = load_model(source, recipe=recipe, overrides=overrides, categories=categories)
    if model.recipe.model.detectron2 is not None:
        raise RecipeError(
            f"{source}: a model of Detectron2 itself, whose DetectionCheckpointer writes its weights; expected one of "
            "torchvision's with model.style=detectron2"
        )
    return export_detectron2(model.module, output, categories=model.categories)


def describe_keys(keys: Mapping[str, object]) -> str:
    """The configuration and its keys as Detectron2's command lines take them."""
    options = " ".join(
        f"{key} '{value}'" if isinstance(value, list) else f"{key} {value}"
        for key, value in keys.items()
        if key != "config"
    )
    return f"{keys['config']} {options}".strip()


def _check_written(file: Path, state: StateDict, path: Path) -> None:
    """Raise ``ExportError`` where the file, read again, has other tensors than the model."""
    found = read_weights(file)
    other = [
        name
        for name, tensor in state.items()
        if not torch.equal(_of_categories(found, name), _of_categories(state, name))
    ]
    if found.keys() != state.keys() or other:
        raise ExportError(f"{path}: not kept, as it has other tensors than the model: {', '.join(other[:3])}")


def _of_categories(state: StateDict, name: str) -> Tensor:
    """A tensor without the rows of the background that Detectron2 has not."""
    return state[name][background_rows(name) :] if background_rows(name) else state[name]


def _keys_of_detectron2(module: TorchvisionMaskRCNN, state: StateDict, depth: int) -> Iterator[tuple[str, object]]:
    """The configuration in the zoo, and the keys in which the model differs from it."""
    yield "config", CONFIGS.get(depth, CONFIGS[50])
    heads, transform = module.roi_heads, module.transform
    own: dict[str, object] = {
        "MODEL.RESNETS.DEPTH": depth if depth not in CONFIGS else None,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if depth in (18, 34) else None,
        "MODEL.RESNETS.NORM": "BN" if any(name.endswith("num_batches_tracked") for name in state) else None,
        "MODEL.ROI_HEADS.NUM_CLASSES": heads.box_predictor.cls_score.out_features - 1,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": heads.score_thresh,
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in module.rpn.anchor_generator.sizes],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": module.rpn._pre_nms_top_n["testing"],
        "MODEL.RPN.POST_NMS_TOPK_TEST": module.rpn._post_nms_top_n["testing"],
        "TEST.DETECTIONS_PER_IMAGE": heads.detections_per_img,
        "INPUT.MIN_SIZE_TEST": transform.min_size[-1],
        "INPUT.MAX_SIZE_TEST": transform.max_size,
    }
    yield from ((key, value) for key, value in own.items() if value is not None and value != DEFAULTS.get(key))


DEFAULTS: Mapping[str, object] = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
}
"""The values of the zoo's configurations."""
