"""The recipe: every section and key of a training, with its default, unit and limits.

A recipe is validated into these settings classes, and the JSON Schema that editors read is made from them. Importing
this module imports no framework.
"""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator

from composer_copypaste.files import expand_home
from composer_copypaste.settings import (
    POOL_MEGABYTES,
    CopyPasteSettings,
    DetectorSettings,
    Duration,
    Fraction,
    ImageSettings,
    LargeScaleJitterSettings,
    Megapixels,
    ShapesSettings,
    Time,
    ValueRange,
)
from composer_copypaste.validation import Check, TextPattern, settings_class, with_inherited_descriptions

UserPath = Annotated[Path, AfterValidator(expand_home)]
Count = Annotated[int, Ge(1), Le(1_000_000)]
BatchSize = Annotated[int, Ge(1), Le(65_536)]
Name = Annotated[
    str, TextPattern(r"^[^/\\\x00-\x1f]{1,100}$", "a name of 1 to 100 characters, without '/', '\\' and line breaks")
]


@settings_class
class CocoFiles:
    """Images and their COCO instance annotations: the keys ``images`` and ``annotations``, or ``streaming`` for shards.

    Paths are relative to the working directory; ``~`` is your home.
    """

    images: UserPath | None = None
    """Folder with the images."""

    annotations: UserPath | None = None
    """COCO instance annotations, a JSON file."""

    streaming: str | None = None
    """Folder of shards that ``copypaste shard`` wrote, or its URL in an object store, such as s3://bucket/train."""

    cache: UserPath | None = None
    """Folder on this machine's disk for shards of an object store, which are fetched when they are needed. null: shards
    are read where they are."""

    cache_gigabytes: Annotated[float | None, Gt(0)] = None
    """At most about this many gigabytes of shards are kept in ``cache``; those used longest ago are removed first.
    null: all are kept."""

    def __post_init__(self) -> None:
        missing = [name for name in ("images", "annotations") if getattr(self, name) is None]
        if self.streaming is not None and len(missing) < 2:
            raise ValueError("expected either images and annotations, or streaming, got both; null leaves a key out")
        if self.streaming is None and len(missing) == 2:
            raise ValueError("expected images and annotations, or streaming, a folder of shards, got neither")
        if self.streaming is None and missing:
            raise ValueError(f"{missing[0]}: expected a value, got nothing")
        if self.streaming is None and self.cache is not None:
            raise ValueError("cache: expected null where there is no streaming: files are read where they are")
        if self.cache is None and self.cache_gigabytes is not None:
            raise ValueError("cache_gigabytes: expected null where there is no cache")
        if self.cache is None and "://" in (self.streaming or "") and not str(self.streaming).startswith("file://"):
            raise ValueError("cache: expected a folder on this machine's disk, for shards of an object store, got null")


@settings_class
class PoolSettings:
    """Cut-outs for copy-paste besides the objects of the batch: a folder, a COCO data set, or the training images."""

    folder: UserPath | None = None
    """Folder with one folder per category, named after it, of images with transparency: FOLDER/dog/1.png."""

    annotations: UserPath | None = None
    """COCO instance annotations, a JSON file. Its categories are matched with those of the training data by name."""

    images: UserPath | None = None
    """Folder with the images of ``annotations``."""

    training_images: bool = False
    """Whether the cut-outs are all objects of the training images, each a source for any image at any time."""

    megabytes: Annotated[float, Gt(0)] = POOL_MEGABYTES
    """At most this many megabytes of cut-outs are kept in memory once read, for each device."""

    fill: bool = False
    """Whether as many cut-outs as ``megabytes`` hold are read at the start, one of each category in turn, and the
    others left out: objects of rare categories are then at hand for every batch, and no file is read later."""

    def __post_init__(self) -> None:
        given = (
            *(getattr(self, name) is not None for name in ("folder", "annotations", "images")),
            self.training_images,
        )
        if given not in {(True, False, False, False), (False, True, True, False), (False, False, False, True)}:
            raise ValueError("expected either folder, or annotations and images, or training_images=true")


@settings_class
class DataSettings:
    """The data to train and to evaluate on: either ``train`` and ``val``, or ``shapes``."""

    train: CocoFiles | None = None
    """The data to train on."""

    val: CocoFiles | None = None
    """The data to evaluate on."""

    shapes: ShapesSettings | None = None
    """The drawn data set, instead of ``train`` and ``val``: nothing is downloaded."""

    crowds: Literal["objects", "ignore"] | None = None
    """How annotations marked as crowds are taken, in all data and in the truth of evaluations: as single objects
    ("objects"; datumaro, CVAT and others mark these so), or as crowds ("ignore"), which are neither learned nor scored.
    null: as crowds, but a file that marks all objects is refused, and one that may mark single objects is warned of."""

    bad_objects: Literal["refuse", "leave_out"] = "refuse"
    """What happens where an object's outline, box or area cannot be used: the data set is refused ("refuse"), or the
    object is left out with a warning ("leave_out")."""

    pool: PoolSettings | None = None
    """Cut-outs for copy-paste, as additional sources. null: none."""

    batch_size: BatchSize = 2
    """Number of images in a training batch, on each device."""

    eval_batch_size: BatchSize = 1
    """Number of images in an evaluation batch, on each device."""

    workers: Annotated[int, Ge(0), Le(256)] = 2
    """Number of processes that load images, for each device. 0: the training process loads them itself. The result is
    the same."""

    jitter: LargeScaleJitterSettings | None = None
    """Large-scale jitter of each training image. null: none."""

    jitter_on: Literal["loader", "device"] = "loader"
    """Where images are jittered: in the loader's processes, or on the training device, which takes that work from them.
    With "device", ``copy_paste`` neither resizes nor flips a second time, unless its ``scale_range`` and ``p_flip`` are
    given."""

    accept_changes: bool = False
    """Whether a run goes on although its annotations or cut-outs have changed since it began, for example because they
    were repaired."""

    p_flip: Fraction = 0.5
    """Probability that a training image is flipped horizontally. Not used with large-scale jitter, which has a
    ``p_flip`` of its own."""

    value_range: ValueRange | None = ImageSettings.value_range
    """The values that become black (0) and white (255) in images of more than 8 bits, such as [0, 4095] for 12-bit data
    in 16-bit files. null: 0 and 65535, and data that uses much less of it is refused."""

    max_megapixels: Megapixels = ImageSettings.max_megapixels
    """Larger images are refused."""

    @property
    def image_settings(self) -> ImageSettings:
        """How all image files are read."""
        return ImageSettings(value_range=self.value_range, max_megapixels=self.max_megapixels)

    def __post_init__(self) -> None:
        if self.shapes is not None and (self.train is not None or self.val is not None):
            raise ValueError(
                "expected either shapes (the drawn data set) or train and val, got both; "
                "data.shapes=null leaves the drawn one out"
            )
        if self.jitter_on == "device" and self.jitter is None:
            raise ValueError(
                "jitter_on: expected 'loader' where there is no jitter, got 'device'; data.jitter={} switches it on"
            )
        for name in ("train", "val"):
            if self.shapes is None and getattr(self, name) is None:
                raise ValueError(
                    f"{name}: not given; name your own data with data.{name}.images=FOLDER "
                    f"data.{name}.annotations=FILE, or have one drawn with data.shapes={{}}"
                )


@settings_class
class OptimizerSettings:
    """How the weights are updated."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Stochastic gradient descent with momentum, or AdamW."""

    lr: Annotated[float, Gt(0), Le(1000)] = 0.02
    """Learning rate after the warm-up."""

    lr_batch_size: Count | None = None
    """The total batch size, over all devices, that ``lr`` is meant for. For another batch size, ``lr`` is scaled in
    proportion (Goyal et al., 2017). null: ``lr`` is used as it is."""

    momentum: Annotated[float, Ge(0), Le(1)] = 0.9
    """Momentum; for sgd only."""

    weight_decay: Annotated[float, Ge(0), Le(1000)] = 1e-4
    """Weight decay: an L2 penalty in sgd, decoupled in adamw."""

    def lr_for(self, total_batch_size: int) -> float:
        """The learning rate for a step of this many images, over all devices."""
        return self.lr * total_batch_size / (self.lr_batch_size or total_batch_size)


@settings_class
class ScheduleSettings:
    """How the learning rate changes during the training. Times are written '8ep', '500ba', '0.9dur' or '90%dur'."""

    name: Literal["multistep", "cosine", "constant"] = "constant"
    """The learning rate is multiplied by a factor at each milestone, follows half a cosine, or stays constant."""

    warmup: Time = "0ba"
    """The learning rate rises linearly from 0 during this time."""

    milestones: tuple[Time, ...] = ()
    """The times at which the learning rate is multiplied by ``gamma``; for multistep only."""

    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    """The factor at each milestone; for multistep only."""

    final: Fraction = 0.0
    """The learning rate at the end, as a fraction of ``lr``; for cosine only."""

    def __post_init__(self) -> None:
        if self.name == "multistep" and not self.milestones:
            raise ValueError("milestones: multistep needs at least one, such as ['8ep', '11ep']")


MetricName = Annotated[
    str,
    TextPattern(
        r"^(bbox|segm)/A(P(50|75|s|m|l)?|R([0-9]{1,7}|s|m|l))$",
        "a number of the evaluation such as 'segm/AP', 'bbox/AP50' or 'segm/AR100'",
    ),
]


@settings_class
class EmaSettings:
    """An exponential moving average of the weights (Composer's EMA), which evaluations, predictions and exports use."""

    half_life: Duration = "100ba"
    """The time after which a step's weights count half, such as '100ba' or '1ep'. The average begins with the first
    weights: it should be a tenth of the training or less."""


@settings_class
class EarlyStopSettings:
    """When a training ends before its duration."""

    metric: MetricName = "segm/AP"
    """The number of the evaluation that has to rise."""

    patience: Duration = "5ep"
    """The training ends after an evaluation by which the metric has not risen for this time. Evaluations are those of
    ``eval_interval``."""

    min_gain: Fraction = 0.0
    """A rise by this much or less does not count; 0.001 is a tenth of a point of AP."""


@settings_class
class TrainingSettings:
    """How long and on which device the model trains, and how often it is evaluated and saved."""

    duration: Duration = "12ep"
    """Epochs ('12ep') or batches ('800ba')."""

    precision: Literal["fp32", "amp_bf16", "amp_fp16"] = "fp32"
    """Floating point: full precision, or mixed with bfloat16 or float16, on a GPU only."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train. auto: on the GPU if there is one."""

    cpu_threads: Annotated[int | None, Ge(1), Le(1024)] = None
    """Number of threads that compute on a CPU. null: one for each core. A small model is faster with one thread, above
    all where other programs use the cores as well: more threads would wait for each other longer than they compute."""

    microbatch: BatchSize | Literal["auto"] | None = None
    """Number of images whose gradients are computed at a time, to save memory. auto: as many as fit on the GPU. null:
    the whole batch."""

    clip_norm: Annotated[float | None, Gt(0)] = None
    """Gradients are scaled down to this norm. null: never."""

    eval_interval: Duration = "1ep"
    """Time between evaluations. There is one at the end in any case."""

    checkpoint_interval: Duration = "1ep"
    """Time between checkpoints. There is one at the end in any case."""

    best_checkpoint: MetricName | None = None
    """The number of the evaluation, such as 'segm/AP', by which the best checkpoint is kept besides the newest ones, in
    the file that begins with ``best-``. null: none is kept."""

    ema: EmaSettings | None = None
    """An average of the weights, which evaluations use, and which checkpoints hold as the model's weights (besides
    those that are trained). {}: with the defaults. null: none."""

    early_stop: EarlyStopSettings | None = None
    """Whether the training ends when its evaluations no longer get better. {}: with the defaults. null: never."""

    stop_after_nonfinite_losses: Count | None = 3
    """Training stops when the loss was NaN or infinite in this many batches in a row. null: it goes on. A checkpoint
    whose weights are not finite is never saved."""

    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Where everything logged goes besides metrics.jsonl: TensorBoard (in the run's folder), Weights & Biases and
    MLflow, which read their own environment variables. They need ``pip install 'composer-copypaste[loggers]'``."""

    picture_interval: Duration | None = None
    """Time between training batches that are drawn as the model gets them, into the run's folder and to ``loggers``.
    null: only the first batch is drawn, into the folder."""

    def __post_init__(self) -> None:
        if self.device == "cpu" and self.precision != "fp32":
            raise ValueError(f"precision: expected 'fp32', all that Composer allows on a CPU, got {self.precision!r}")
        if self.device == "cpu" and self.microbatch == "auto":
            raise ValueError("microbatch: 'auto' needs a GPU; expected a number or null with device 'cpu'")


@settings_class
class EvaluationSettings:
    """How detections are scored, by COCO's rules."""

    max_dets: Annotated[tuple[Count, ...], MinLen(1)] = (1, 10, 100)
    """Numbers of detections per image for which the recalls (AR1, AR10, AR100) are computed, in ascending order. The
    precisions use the last."""

    def __post_init__(self) -> None:
        if list(self.max_dets) != sorted(set(self.max_dets)):
            raise ValueError(f"max_dets: expected ascending numbers such as [1, 10, 100], got {list(self.max_dets)}")


CONFIGURED_ELSEWHERE = {
    "MODEL.WEIGHTS": "model.weights",
    "train.init_checkpoint": "model.weights",
    "MODEL.DEVICE": "training.device",
    "train.device": "training.device",
    "MODEL.ROI_HEADS.NUM_CLASSES": "the data, whose categories are counted",
    "model.roi_heads.num_classes": "the data, whose categories are counted",
    "TEST.DETECTIONS_PER_IMAGE": "model.detections_per_image",
    "model.roi_heads.box_predictor.test_topk_per_image": "model.detections_per_image",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "model.box_score_thresh",
    "model.roi_heads.box_predictor.test_score_thresh": "model.box_score_thresh",
    "SOLVER.": "optimizer, schedule and training",
    "optimizer.": "optimizer",
    "lr_multiplier.": "schedule",
    "train.": "training",
    "DATASETS.": "data",
    "DATALOADER.": "data",
    "dataloader.train.total_batch_size": "data.batch_size",
    "TEST.": "evaluation and training",
    "INPUT.CROP.": "data.jitter",
    "INPUT.RANDOM_FLIP": "data.p_flip",
    "SEED": "seed",
    "OUTPUT_DIR": "output",
}
"""Keys of Detectron2's configurations, or what they begin with, and what says the same in a recipe."""

OF_TORCHVISION = (
    "name", "backbone", "heads", "keep_categories", "weights_categories", "trainable_backbone_layers", "norm",
    "box_dropout", "mask_dropout", "anchor_sizes", "min_size", "max_size", "style",
)  # fmt: skip
"""Settings of a model that Detectron2's configurations have in their own form."""


def _flat_keys(values: dict[str, Any]) -> dict[str, Any]:
    """The values by keys with dots, whether sections are nested or written so."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = (
            {f".{name}": each for name, each in _flat_keys(value).items()} if isinstance(value, dict) else {"": value}
        )
        flat |= {f"{key}{rest}": each for rest, each in inner.items()}
    return flat


@with_inherited_descriptions
@settings_class
class ModelSettings(DetectorSettings):
    """Which detector is built, where its weights come from, and how it trains and detects.

    With ``detectron2``, ``weights`` is "none" (random weights), "config" (those that its configuration names, in
    Detectron2's zoo mostly of a backbone trained on ImageNet), "coco" (those that the zoo has trained with the named
    configuration), which Detectron2 downloads once, or a file of Detectron2's.
    """

    detectron2: Annotated[str, MinLen(1)] | None = None
    """A Mask R-CNN of Detectron2, which you build from source, in place of torchvision's: a name of its model zoo, such
    as "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml" or "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", or a
    .yaml or .py file. Of the configuration, the model and the sizes of images are used. null: torchvision's."""

    overrides: Annotated[dict[str, Any], Check(_flat_keys)] = field(default_factory=dict)
    """With ``detectron2``: keys of its configuration and their values, such as
    {MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE: 128}, or model.roi_heads.batch_size_per_image in .py files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detectron2 is None:
            if self.overrides:
                raise ValueError("overrides: expected none without detectron2, whose configuration they change")
            return
        defaults = DetectorSettings()
        for name in OF_TORCHVISION:
            if getattr(self, name) != getattr(defaults, name):
                raise ValueError(
                    f"{name}: expected none with detectron2, whose configuration says it; change that with overrides"
                )
        for key in self.overrides:
            elsewhere = next((CONFIGURED_ELSEWHERE[name] for name in CONFIGURED_ELSEWHERE if _begins(key, name)), None)
            if elsewhere is not None:
                raise ValueError(f"overrides: {key}: has no effect here; it is said by {elsewhere}")


def _begins(key: str, name: str) -> bool:
    return key.startswith(name) if name.endswith(".") else key == name


@settings_class
class Recipe:
    """A training: data, model, augmentation, optimizer, schedule and evaluation."""

    name: Name
    """The run's name; by default the name of the recipe file."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 17
    """The seed of everything random: weights, order of the images, augmentation."""

    output: UserPath | None = None
    """Folder of the run. null: runs/<name>-<time>."""

    data: DataSettings
    model: ModelSettings = field(default_factory=ModelSettings)

    copy_paste: CopyPasteSettings | None = None
    """Copy-paste augmentation on the training device. {}: with the paper's settings. null: none."""

    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        early_stop = self.training.early_stop
        for key, name in (
            ("best_checkpoint", self.training.best_checkpoint),
            ("early_stop.metric", None if early_stop is None else early_stop.metric),
        ):
            if name is not None and name.startswith("segm/") and not self.model.has_masks:
                raise ValueError(
                    f"training.{key}: expected a number of boxes such as 'bbox/AP', as {self.model.title} finds no "
                    f"masks, got {name!r}"
                )
            limit = (name or "").partition("/AR")[2]
            if limit.isdecimal() and int(limit) not in self.evaluation.max_dets:
                raise ValueError(
                    f"training.{key}: expected AR at one of evaluation.max_dets, {list(self.evaluation.max_dets)}, got "
                    f"{name!r}"
                )
        if self.copy_paste is None and self.data.pool is not None:
            raise ValueError("data.pool: expected null where there is no copy-paste; copy_paste={} switches it on")
        if self.copy_paste is not None and self.copy_paste.place_key is not None:
            raise ValueError(
                "copy_paste.place_key: expected null in a recipe, whose targets have no such key, got "
                f"{self.copy_paste.place_key!r}; place_region and place_map hold for all images"
            )
        alone, copy_paste = self.data.batch_size < 2 and self.data.pool is None, self.copy_paste
        if alone and copy_paste is not None and copy_paste.source == "batch" and not copy_paste.bank_size:
            raise ValueError(
                f"data.batch_size: copy-paste needs at least 2 images per batch to have a source to copy from, "
                f"got {self.data.batch_size}; raise it, keep objects of earlier batches with copy_paste.bank_size=256, "
                "copy objects within their image with copy_paste.source=self, give a pool of cut-outs with "
                "data.pool.folder=FOLDER, or switch copy-paste off with copy_paste=null"
            )
