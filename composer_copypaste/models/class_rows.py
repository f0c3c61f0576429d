"""The rows of a detector's last layers, one for each class: which ones of other weights a model can keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from composer_copypaste.data.coco_json import read_categories
from composer_copypaste.errors import CheckpointError, count_noun, first_few
from composer_copypaste.files import expand_home
from composer_copypaste.models.predictor import coco_labels, match_categories
from composer_copypaste.settings import DetectorName, DetectorSettings

ROWS_OF_A_CLASS = {
    "roi_heads.box_predictor.cls_score.": 1,
    "roi_heads.box_predictor.bbox_pred.": 4,
    "roi_heads.mask_predictor.mask_fcn_logits.": 1,
}
"""The layers whose sizes depend on the number of classes, and how many rows each class has in them."""

CLASS_SCORES = "roi_heads.box_predictor.cls_score.weight"
"""The tensor with a row for each class."""

CLASSES_OF_ANCHORS = "head.classification_head.cls_logits."
"""The layer of RetinaNet and FCOS with a row for each class of each anchor, anchor by anchor."""

ANCHOR_BOXES = "head.regression_head.bbox_reg.weight"
"""The tensor of RetinaNet and FCOS with four rows for each anchor."""


def is_of_classes(name: str) -> bool:
    """Whether a tensor has rows for each class."""
    return name.startswith((*ROWS_OF_A_CLASS, CLASSES_OF_ANCHORS))


def class_count(state: Mapping[str, Tensor]) -> int | None:
    """The number of a detector's classes, the background included; None where the tensors are those of no detector."""
    if CLASS_SCORES in state:
        return len(state[CLASS_SCORES])
    rows = state.get(f"{CLASSES_OF_ANCHORS}weight")
    return None if rows is None or ANCHOR_BOXES not in state else len(rows) // _anchor_count(state)


def _anchor_count(state: Mapping[str, Tensor]) -> int:
    return len(state[ANCHOR_BOXES]) // 4


def detector_of(state: Mapping[str, Tensor]) -> DetectorName | None:
    """The detector whose tensors these are; None: none."""
    if CLASS_SCORES in state:
        return "mask_rcnn" if any(name.startswith("roi_heads.mask_") for name in state) else "faster_rcnn"
    if class_count(state) is None:
        return None
    return "fcos" if any("bbox_ctrness" in name for name in state) else "retinanet"


@dataclass(frozen=True)
class KeptRows:
    """Which rows of the weights a model takes over, by the names of the categories."""

    classes: Mapping[int, int]
    """The class in the weights of each class of the model that is kept; that of the background, 0, too."""

    names: Sequence[str]
    """The names of the model's classes, the background included."""

    other_names: Mapping[int, str]
    """The names of the classes of the weights."""

    def describe(self) -> list[str]:
        """What is kept, what is not, and why, a line each."""
        kept = [self.names[own] for own in self.classes if own]
        fresh = [name for own, name in enumerate(self.names) if own not in self.classes]
        unused = [name for other, name in self.other_names.items() if other not in self.classes.values()]
        lines = [
            f"last layers: kept the rows of the background and of {len(kept)} of {len(self.names) - 1} categories, "
            f"which the weights have by the same name{_listed(kept)}"
        ]
        if fresh:
            lines.append(
                f"last layers: {count_noun(len(fresh), 'category starts', 'categories start')} at random, as the "
                f"weights have none of that name{_listed(fresh)}"
            )
        if unused:
            others = count_noun(len(unused), "other category", "other categories")
            lines.append(f"last layers: the weights' rows of {others} are not used{_listed(unused)}")
        return lines


def _listed(names: Sequence[str]) -> str:
    return f": {first_few(list(names), 5)}" if names else ""


def find_kept_rows(names: Sequence[str], other_names: Mapping[int, str]) -> KeptRows:
    """The rows of categories that both have, by name; upper and lower case are the same.

    Args:
        names: of the model's labels 1, 2, ...
        other_names: of the labels of the weights.
    """
    there = {name.casefold(): label for label, name in other_names.items()}
    found = {label: there[name.casefold()] for label, name in enumerate(names, start=1) if name.casefold() in there}
    return KeptRows({0: 0, **found}, ["background", *names], other_names)


def keep_rows(own: Mapping[str, Tensor], state: Mapping[str, Tensor], kept: KeptRows) -> dict[str, Tensor]:
    """The tensors of the last layers, with the rows of ``state`` for what is kept and those of ``own`` for the rest.

    Raises:
        CheckpointError: where the layers have other sizes for another reason than the number of classes.
    """
    tensors = {}
    for name, tensor in own.items():
        if not is_of_classes(name):
            continue
        other = state.get(name)
        if other is None or other.shape[1:] != tensor.shape[1:]:
            found = "is missing" if other is None else f"has rows of {tuple(other.shape[1:])}"
            raise CheckpointError(f"{name} {found}, expected rows of {tuple(tensor.shape[1:])}")
        if name.startswith(CLASSES_OF_ANCHORS):
            shape, axis = (_anchor_count(own), -1), 1
        else:
            shape, axis = (-1, next(rows for prefix, rows in ROWS_OF_A_CLASS.items() if name.startswith(prefix))), 0
        mixed, there = (rows.unflatten(0, shape).movedim(axis, 0) for rows in (tensor.clone(), other.to(tensor)))
        mixed[list(kept.classes)] = there[list(kept.classes.values())]
        tensors[name] = mixed.movedim(0, axis).flatten(0, 1)
    return tensors


def names_in_weights(settings: DetectorSettings, num_classes: int) -> dict[int, str] | None:
    """The names of the labels of the weights, by label; None where nothing says them.

    They are those of ``settings.weights_categories``, of the run in whose folder the weights are, or COCO's, for the
    91 classes of torchvision's weights and the 81 of Detectron2's.

    Raises:
        DataError: where the file cannot be read.
        CheckpointError: where it has another number of categories.
    """
    file = _file_of_names(settings)
    if file is None:
        return coco_labels(num_classes, is_detectron2_style=settings.is_detectron2_style)
    categories = read_categories(file)
    matched = match_categories(categories, num_classes)
    if matched is None:
        raise CheckpointError(
            f"{file}: the weights have {count_noun(num_classes - 1, 'label')}, it has {len(categories)} categories; "
            "give the categories that the weights were trained on"
        )
    return {label: category.name for label, category in matched.items()}


def _file_of_names(settings: DetectorSettings) -> Path | None:
    if settings.weights_categories is not None:
        return expand_home(settings.weights_categories)
    run = Path(settings.weights).absolute().parent.parent
    file = run / "categories.json"  # as in a run's folder, next to that of its checkpoints
    return file if (run / "recipe.yaml").exists() and file.exists() else None
