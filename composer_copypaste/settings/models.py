"""The settings of detectors, of what they find, and of the files that they are exported to."""

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from composer_copypaste.errors import either
from composer_copypaste.settings.idle import OF_PREDICT, check_not_idle
from composer_copypaste.settings.kinds import Fraction
from composer_copypaste.validation import TextPattern, settings_class

BACKBONES = (
    "resnet18", "resnet34", "resnet50", "resnet50_v2", "resnet101", "resnet152", "mobilenet_v3_large", "small"
)  # fmt: skip
"""The backbones that are built from torchvision's parts."""
DETECTRON2_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""The backbones of models of Detectron2's style."""
TIMM = "timm/"
"""Begins the names of timm's backbones."""
Backbone = Annotated[
    str,
    TextPattern(
        rf"^{TIMM}[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$",
        f"one of {', '.join(map(repr, BACKBONES))}, or a network of timm such as '{TIMM}convnext_tiny'",
        BACKBONES,
    ),
]
DetectorName = Literal["mask_rcnn", "faster_rcnn", "retinanet", "fcos"]
DETECTOR_TITLES: Mapping[DetectorName, str] = {
    "mask_rcnn": "Mask R-CNN",
    "faster_rcnn": "Faster R-CNN",
    "retinanet": "RetinaNet",
    "fcos": "FCOS",
}
"""The detectors as messages name them."""


@settings_class
class PredictSettings:
    """How objects are found in images, and what is written of them."""

    min_score: Fraction | None = None
    """Objects with a lower score are left out. None: results have all that the model finds; overlays and annotations
    have those of 0.5 or more."""

    batch_size: Annotated[int, Ge(1)] | None = None
    """Number of images, or of tiles, that are given to the model at once. None: as in the evaluations of its run."""

    tiles: Annotated[int, Ge(64), Le(16384)] | None = None
    """Side in pixels of the tiles that larger images are cut into. None: images are not cut."""

    overlap: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Fraction of a tile's side by which neighboring tiles overlap, at least. Objects up to that size are in one tile
    completely."""

    tta: Literal["flip"] | None = None
    """"flip": objects are found in each image and in its mirror image, which takes twice the time."""

    as_annotations: bool = False
    """Whether the objects are also written as a COCO annotation file, for annotation tools."""

    draw: bool = False
    """Whether the objects are also drawn on the images."""

    def __post_init__(self) -> None:
        check_not_idle(self, OF_PREDICT)


@settings_class
class DetectorSettings:
    """Which of torchvision's detectors is built, where its weights come from, and how it trains and detects."""

    name: DetectorName = "mask_rcnn"
    """The detector. "mask_rcnn" finds boxes and masks. "faster_rcnn", "retinanet" and "fcos" find boxes alone: where
    objects are pasted, their masks say which pixels, and the detector is trained by their boxes."""

    backbone: Backbone = "resnet50"
    """The network that computes the feature pyramid. "resnet50" is that of torchvision's models, such as
    ``maskrcnn_resnet50_fpn``, "resnet50_v2" that of their second version, which "fcos" lacks; "faster_rcnn" with
    "mobilenet_v3_large" is ``fasterrcnn_mobilenet_v3_large_fpn``. "small" is a network for images of about 128 pixels
    that a CPU trains in minutes. "timm/NAME" is a network of the package timm that gives features at strides 4, 8, 16
    and 32 for images of any size, such as "timm/convnext_tiny". A tag in the name, as in "timm/resnet50.a1_in1k", says
    which published weights are meant; images are normalised as they were when these were trained."""

    heads: Literal["standard", "small"] | None = None
    """How large the feature pyramid and the heads are: as in torchvision's models ("standard"), or with a quarter of
    the channels, half of the mask head's layers and fewer proposals ("small"), which is several times as fast on a CPU.
    None: "small" for the backbone "small", else "standard"."""

    weights: str = "none"
    """Where training starts: "none" (random weights), "imagenet" (weights of the backbone) or "coco" (weights of the
    whole detector), which torchvision downloads once; a name of torchvision's, such as
    ``ResNet50_Weights.IMAGENET1K_V2``; or a file: the weights of a detector or of a backbone, a Composer checkpoint, or
    a file of Detectron2's (see ``style``). For a backbone of timm: "imagenet" (the weights that timm uses by default,
    or those of the tag in the backbone's name), a tag of timm's, such as "a1_in1k", which timm downloads once; or a
    file of the network's weights, as timm publishes them, with a classifier or without."""

    style: Literal["torchvision", "detectron2"] | None = None
    """Whose Mask R-CNN it is, where the two differ: how images are resized and normalised, and where the backbone
    reduces them; anchors, pooled features, which detections are kept, and where masks lie between pixels. "detectron2":
    Detectron2's, for the weights of its zoo and of its trainings; the backbone is a ResNet. None: "detectron2" where
    ``weights`` is a file .pkl, else "torchvision"."""

    aligned_masks: bool = False
    """Whether Mask R-CNN draws masks where pixels lie, and is trained so. Torchvision draws them up to a pixel too
    large, and trains half a pixel off on images that it does not resize. That costs small objects most: a disc of 8
    pixels that is found perfectly reaches 6 of COCO's 10 thresholds, and all of them with aligned masks. False: as
    torchvision does it. Detectron2's style is always aligned, and detectors of boxes alone have nothing to align."""

    keep_categories: bool = False
    """Where the weights are those of a detector: whether its last layers' rows are kept for categories that it knows by
    the same name. The other categories' rows start at random. False: the last layers are loaded as they are if they
    have the same number of classes, and start at random otherwise."""

    weights_categories: str | None = None
    """With ``keep_categories``: a COCO file with the categories that the weights were trained on. None: they are those
    of the run in whose folder the weights are, or, for 91 classes as in torchvision's weights, COCO's."""

    trainable_backbone_layers: Annotated[int | None, Ge(0), Le(5)] = None
    """How many of the backbone's five parts are trained, counted from the last: the stem, and the stages that give
    the features at strides 4, 8, 16 and 32. None: 3 where weights are loaded, else all."""

    norm: Literal["batch", "frozen_batch", "group"] | None = None
    """Normalisation. "frozen_batch" keeps the statistics that come with the weights; "group" suits random weights and
    small batches. None: "group" for "small", else as in torchvision: "frozen_batch" where weights are loaded, but
    "batch" without weights and for "resnet50_v2". A network of timm keeps its own layers: "frozen_batch" freezes its
    batch normalisation, if it has any, and "group" is refused."""

    box_dropout: Annotated[float, Ge(0), Le(0.9)] = 0.0
    """Probability that a feature of the box head of Mask R-CNN or Faster R-CNN is dropped, before the box predictor."""

    mask_dropout: Annotated[float, Ge(0), Le(0.9)] = 0.0
    """Probability that a channel of Mask R-CNN's mask head is dropped, before the mask predictor."""

    anchor_sizes: tuple[Annotated[int, Ge(1), Le(8192)], ...] | None = None
    """Side of the anchors, in pixels of the resized image, for each of the pyramid's five levels. None: 32, 64, 128,
    256 and 512, or a quarter of these for "small". RetinaNet has two more sizes for each level, 1.26 and 1.59 times as
    large. For FCOS, which has no anchors: a level finds objects of 4 to 8 times this side; None: its stride, 8, 16, 32,
    64 and 128, or half of these for "small"."""

    min_size: Annotated[int | None, Ge(32), Le(8192)] = None
    """Images are resized so that their shorter side has this many pixels. None: 800, or 128 for "small"."""

    max_size: Annotated[int | None, Ge(32), Le(8192)] = None
    """The longer side has at most this many pixels after resizing. None: five thirds of ``min_size``, as 1333 is of
    800."""

    resize_training: bool = True
    """Whether training images are resized too. False where the loader gives them at the size to train at (large-scale
    jitter)."""

    detections_per_image: Annotated[int, Ge(1), Le(100_000)] = 100
    """At most this many objects are detected in an image."""

    box_score_thresh: Fraction = 0.05
    """Detections with a lower score are left out. COCO's numbers are exact only with 0.05 or less."""

    def __post_init__(self) -> None:
        self._check_name()
        if self.anchor_sizes is not None and len(self.anchor_sizes) != 5:
            raise ValueError(f"anchor_sizes: expected five, one for each level of the pyramid, got {self.anchor_sizes}")
        if self.weights_categories is not None and not self.keep_categories:
            raise ValueError("weights_categories: expected None without keep_categories, which uses it")
        if self.keep_categories and self.weights == "none":
            raise ValueError("keep_categories: expected False without weights; give them with weights=FILE")
        if self.min_size and self.max_size and self.min_size > self.max_size:
            raise ValueError(f"max_size: expected at least min_size, {self.min_size}, got {self.max_size}")
        if self.is_detectron2_style and (self.backbone not in DETECTRON2_BACKBONES or self.heads == "small"):
            what = (
                "heads: expected standard"
                if self.backbone in DETECTRON2_BACKBONES
                else (f"backbone: expected {either(list(DETECTRON2_BACKBONES))}")
            )
            why = "style is detectron2" if self.style else f"weights are {self.weights!r}, of Detectron2's style"
            raise ValueError(f"{what}, as {why}; got {self.heads if self.heads == 'small' else self.backbone!r}")

    def _check_name(self) -> None:
        """Raise ``ValueError`` for settings that are of another detector."""
        if self.name == "fcos" and self.backbone == "resnet50_v2":
            raise ValueError("backbone: expected another than resnet50_v2, of which torchvision has no FCOS")
        of_others = {"box_dropout": self.box_dropout > 0 and self.name in ("retinanet", "fcos")}
        of_others["mask_dropout"] = self.mask_dropout > 0 and not self.has_masks
        for name in (name for name, is_of_another in of_others.items() if is_of_another):
            raise ValueError(f"{name}: expected 0 for {self.title}, which has no such head, got {getattr(self, name)}")
        if self.is_detectron2_style and not self.has_masks:
            why = "style: expected torchvision" if self.style else "weights: expected no file .pkl of Detectron2's"
            raise ValueError(f"{why} for {self.title}; the style of Detectron2 is for mask_rcnn")

    @property
    def title(self) -> str:
        """The detector as messages name it."""
        return DETECTOR_TITLES[self.name]

    @property
    def has_masks(self) -> bool:
        """Whether the detector finds masks, and is trained by them."""
        return self.name == "mask_rcnn"

    @property
    def is_detectron2_style(self) -> bool:
        """Whether it is built as Detectron2's Mask R-CNN."""
        return self.style == "detectron2" or (self.style is None and self.weights.endswith(".pkl"))


@settings_class
class MaskRCNNSettings(DetectorSettings):
    """Which Mask R-CNN is built, where its weights come from, and how it trains and detects."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != "mask_rcnn":
            raise ValueError(f"name: expected 'mask_rcnn', got {self.name!r}; DetectorSettings are for others")


@settings_class
class ExportSettings:
    """What an exported model gives, and how far it may differ from the model on the images it is checked on."""

    masks: Literal["crops", "pasted"] | None = None
    """Masks of Mask R-CNN. "crops": 28 x 28 probabilities for each object, to be resized to its box and thresholded at
    0.5. "pasted": masks of 0 and 1 at the image's size, which take a byte for each object and pixel. None: "crops";
    None alone is allowed for a detector that finds boxes alone."""

    max_box_difference: Annotated[float, Ge(0)] = 0.1
    """Largest difference of a box's coordinate, in pixels."""

    max_score_difference: Annotated[float, Ge(0)] = 0.001
    """Largest difference of a score."""

    max_mask_difference: Annotated[float, Ge(0)] = 0.01
    """Largest difference of a mask's probabilities; for pasted masks, at the pixels that differ."""

    max_unmatched: Fraction = 0.01
    """Largest fraction of the objects that only the model or only the exported file finds. Rounding decides about
    objects whose score is that of the limit, or which overlap by just as much as is removed as a repetition."""
