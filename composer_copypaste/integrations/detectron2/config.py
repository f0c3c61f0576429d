"""Detectron2's configurations: by name, file or object, changed by keys, and what is read from them.

There are two kinds: trees of fixed keys (``CfgNode``, of .yaml files) and trees of calls (``DictConfig``, of .py files,
"lazy"). ``ModelConfig`` is either.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import detectron2
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import META_ARCH_REGISTRY
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from composer_copypaste.errors import RecipeError, did_you_mean, either
from composer_copypaste.recipes.yaml12 import parse_yaml

Overrides = Mapping[str, object] | Sequence[object]
"""Keys of a configuration and their values: a mapping; a list of each key followed by its value, as on Detectron2's
command line; or a list of "key=value", as on that for lazy configurations."""

CONFIGS = Path(detectron2.__file__).parent / "model_zoo" / "configs"
EXAMPLE = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


@dataclass(frozen=True)
class Resizing:
    """The lengths in pixels of an image's shorter side, and the most that its longer side may have."""

    sides: tuple[int, ...]
    sampling: Literal["choice", "range"]
    """Whether a length is one of ``sides`` or between the first and the last."""
    max_size: int


class YacsConfig:
    """A configuration of fixed keys."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg.clone()
        self.cfg.defrost()
        self.cfg.MODEL.DEVICE = "cpu"  # whoever trains moves the model

    def override(self, key: str, value: object) -> None:
        """Change a value."""
        *path, last = key.split(".")
        node = self.cfg
        for number, name in enumerate([*path, last], start=1):
            if not isinstance(node, CfgNode) or name not in node:
                raise _unknown_key(key, _keys(self.cfg), ".".join(key.split(".")[:number]))
            node = node[name]
        if isinstance(node, float) and isinstance(value, int):
            value = float(value)
        try:
            self.cfg.merge_from_list([key, value])
        except ValueError as error:
            raise RecipeError(f"overrides: {key}: expected a value such as {node!r}, got {value!r}") from error

    @property
    def num_classes(self) -> int:
        """The number of categories, without the background."""
        return int(self.cfg.MODEL.ROI_HEADS.NUM_CLASSES)

    @num_classes.setter
    def num_classes(self, number: int) -> None:
        self.cfg.MODEL.ROI_HEADS.NUM_CLASSES = number

    def limit_detections(self, number: int | None, min_score: float | None) -> None:
        """Set the number of detections in an image, and the score from which on they are kept."""
        if number is not None:
            self.cfg.TEST.DETECTIONS_PER_IMAGE = number
        if min_score is not None:
            self.cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(min_score)

    @property
    def weights(self) -> str:
        """The weights that it names, a file or an address; empty for none."""
        return str(self.cfg.MODEL.WEIGHTS)

    @property
    def input_format(self) -> str:
        """The order of an image's colors, "BGR" or "RGB"."""
        return str(self.cfg.INPUT.FORMAT)

    def resizing(self, *, training: bool) -> Resizing | None:
        """How images are resized; None: not at all."""
        given = self.cfg.INPUT
        if training:
            sides = given.MIN_SIZE_TRAIN if isinstance(given.MIN_SIZE_TRAIN, tuple) else (given.MIN_SIZE_TRAIN,)
            resizing = Resizing(tuple(sides), given.MIN_SIZE_TRAIN_SAMPLING, given.MAX_SIZE_TRAIN)
        else:
            resizing = Resizing((given.MIN_SIZE_TEST,), "choice", given.MAX_SIZE_TEST)
        return resizing if all(resizing.sides) else None

    def build(self) -> nn.Module:
        """The model, with random weights, on the CPU."""
        return META_ARCH_REGISTRY.get(self.cfg.MODEL.META_ARCHITECTURE)(self.cfg)


class LazyModelConfig:
    """A configuration of calls, of which ``model``, ``train.init_checkpoint`` and the loaders' resizing are used."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = copy.deepcopy(cfg)
        if "model" not in self.cfg:
            raise RecipeError(f"config: expected a lazy configuration with a model, got the keys {', '.join(self.cfg)}")

    def override(self, key: str, value: object) -> None:
        """Change a value, or give a call another argument."""
        parent = key.rpartition(".")[0]
        try:
            if parent and not OmegaConf.is_config(OmegaConf.select(self.cfg, parent)):
                raise _unknown_key(key, _keys(self.cfg), parent)
            OmegaConf.update(self.cfg, key, value, merge=True)
        except OmegaConfBaseException as error:
            raise RecipeError(f"overrides: {key}: {str(error).splitlines()[0]}") from error

    @property
    def num_classes(self) -> int:
        """The number of categories, without the background."""
        return int(self.cfg.model.roi_heads.num_classes)

    @num_classes.setter
    def num_classes(self, number: int) -> None:
        self.cfg.model.roi_heads.num_classes = number

    def limit_detections(self, number: int | None, min_score: float | None) -> None:
        """Set the number of detections in an image, and the score from which on they are kept."""
        if number is not None:
            self.override("model.roi_heads.box_predictor.test_topk_per_image", number)
        if min_score is not None:
            self.override("model.roi_heads.box_predictor.test_score_thresh", float(min_score))

    @property
    def weights(self) -> str:
        """The weights that it names, a file or an address; empty for none."""
        return str(OmegaConf.select(self.cfg, "train.init_checkpoint") or "")

    @property
    def input_format(self) -> str:
        """The order of an image's colors, "BGR" or "RGB"."""
        return str(self.cfg.model.get("input_format") or "BGR")

    def resizing(self, *, training: bool) -> Resizing | None:
        """How images are resized; None: not at all, or with other augmentations, as large-scale jitter does."""
        steps = OmegaConf.select(self.cfg, f"dataloader.{'train' if training else 'test'}.mapper.augmentations") or []
        for step in steps:
            if step._target_ in (ResizeShortestEdge, f"{ResizeShortestEdge.__module__}.{ResizeShortestEdge.__name__}"):
                sides = step.short_edge_length
                lengths = (sides,) if isinstance(sides, int) else tuple(sides)
                return Resizing(lengths, step.get("sample_style", "range"), step.get("max_size", 2**31))
        return None

    def build(self) -> nn.Module:
        """The model, with random weights, on the CPU."""
        try:
            return instantiate(self.cfg.model)
        except TypeError as error:  # an argument that a call does not take
            raise RecipeError(f"overrides: the model cannot be built: {str(error).splitlines()[0]}") from error


ModelConfig = YacsConfig | LazyModelConfig


def open_config(config: str | Path | CfgNode | DictConfig, overrides: Overrides = ()) -> ModelConfig:
    """A copy of a configuration, changed by ``overrides``.

    Args:
        config: a name of the zoo, such as "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"; a .yaml or .py file;
            or the configuration itself.
        overrides: keys and their values.

    Raises:
        RecipeError: where there is no such configuration or key, or a value is of another type.
    """
    read = _read_config(find_config(config)) if isinstance(config, str | Path) else config
    opened = YacsConfig(read) if isinstance(read, CfgNode) else LazyModelConfig(read)
    for key, value in _pairs(overrides):
        opened.override(key, value)
    return opened


def find_config(config: str | Path) -> Path:
    """The file at this path, or else the zoo's of this name; ``RecipeError`` where there is neither."""
    for file in (Path(config), CONFIGS / config):
        if file.is_file():
            return file
    names = [path.relative_to(CONFIGS).as_posix() for kind in ("yaml", "py") for path in CONFIGS.rglob(f"*.{kind}")]
    same = [name for name in names if Path(name).stem == Path(config).stem]
    hint = f"; did you mean {either([*map(repr, same)])}?" if same else did_you_mean(str(config), names, "; ")
    raise RecipeError(
        f"detectron2: expected a file, or a name of Detectron2's model zoo, such as {EXAMPLE}, got {str(config)!r}"
        f"{hint}"
    )


def _read_config(file: Path) -> CfgNode | DictConfig:
    if file.suffix == ".py":
        return LazyConfig.load(str(file))
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(file))
    except (KeyError, ValueError) as error:  # keys that Detectron2 does not know, of a project of its own
        raise RecipeError(f"{file}: {error.args[0]}; give the configuration as an object, with its keys") from error
    return cfg


def _pairs(overrides: Overrides) -> Iterator[tuple[str, object]]:
    """The keys and their values."""
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    given = iter(overrides)
    for key in given:
        if not isinstance(key, str):
            raise RecipeError(f"overrides: expected a key such as MODEL.ROI_HEADS.NUM_CLASSES, got {key!r}")
        name, equals, value = key.partition("=")
        if equals:
            yield name, parse_yaml(value)[0]
        else:
            following = [*islice(given, 1)]
            if not following:
                raise RecipeError(f"overrides: {key}: expected a value after it, got nothing")
            yield key, following[0]


def _keys(cfg: Mapping, inside: str = "") -> Iterator[str]:
    """All keys, written with dots."""
    for name in cfg:
        key = f"{inside}{name}"
        yield key
        value = None if OmegaConf.is_config(cfg) and OmegaConf.is_interpolation(cfg, name) else cfg[name]
        if isinstance(value, CfgNode | DictConfig):
            yield from _keys(value, f"{key}.")


def _unknown_key(key: str, keys: Iterator[str], missing: str) -> RecipeError:
    hint = did_you_mean(key, keys, "; ")
    return RecipeError(f"overrides: {key}: Detectron2's configuration has no {missing}{hint}")
