"""The settings of the parts that have a public constructor: every name, default, unit and limit, in this one place.

A settings class is the constructor of its part, its section of a recipe, and the documentation of both: the string
below each field describes it, ``Annotated`` holds its limits.
"""

import fractions
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from composer_copypaste.validation import Check, Spelling, settings_class

DURATION = Spelling(r"^[1-9][0-9]{0,8}(ep|ba)$", "epochs or batches such as '12ep' or '800ba', of at most 9 digits")
TIME = Spelling(
    r"^([0-9]{1,9}(ep|ba)|(0?\.[0-9]+|0|1)dur|(100|[0-9]{1,2}(\.[0-9]+)?)%dur)$",
    "a time such as '8ep', '500ba', '0.9dur' or '90%dur' (of the duration), of at most 9 digits",
)
Duration = Annotated[str, DURATION]
Time = Annotated[str, TIME]


def parse_time(time: str) -> tuple[fractions.Fraction, str]:
    """How much of which unit: "ep", "ba" or "dur"; exact, so that nine tenths of ten batches end with the ninth."""
    number = re.split("[a-z%]", time, maxsplit=1)[0]
    if time.endswith("dur"):
        return fractions.Fraction(number) / (100 if "%" in time else 1), "dur"
    return fractions.Fraction(number), time[-2:]


def composer_time(time: str) -> str:
    """The time as Composer spells it, which knows no percent."""
    value, unit = parse_time(time)
    return f"{float(value)}dur" if unit == "dur" else time


Bounds = TypeVar("Bounds", tuple[int, int], tuple[float, float])


def _ascending(bounds: Bounds) -> Bounds:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected (smallest, largest), got {bounds}")
    return bounds


def _strictly_ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"expected two ascending values such as [0, 4095], got {list(bounds)}")
    return bounds


def _each_once(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    numbers = [number for pair in pairs for number in pair]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"expected each keypoint once, got {pairs}")
    return pairs


ASCENDING = Check(_ascending)

Fraction = Annotated[float, Ge(0), Le(1)]
ResizeFactor = Annotated[float, Ge(0.01), Le(10)]
ResizeRange = Annotated[tuple[ResizeFactor, ResizeFactor], ASCENDING]
AspectRatio = Annotated[float, Ge(0.1), Le(10)]
Pixels = Annotated[float, Ge(0), Le(1_000_000_000)]
PoolCount = Annotated[int, Ge(1), Le(1000)]
KeypointPairs = Annotated[tuple[tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]], ...], Check(_each_once)]
CanvasSide = Annotated[int, Ge(16), Le(8192)]
PixelValue = Annotated[float, Ge(-1e30), Le(1e30)]
ValueRange = Annotated[tuple[PixelValue, PixelValue], Check(_strictly_ascending)]
Megapixels = Annotated[float, Gt(0), Le(100_000)]

Settings = TypeVar("Settings")


def settings_from(kind: type[Settings], settings: Settings | None, overrides: Mapping[str, object]) -> Settings:
    """The settings, or the default ones, with those that are given by name; checked where there are any."""
    if settings is None:
        return kind(**overrides)
    if not isinstance(settings, kind):
        raise TypeError(f"settings: expected {kind.__name__}, got {settings!r}; give single settings by name")
    return replace(settings, **overrides) if overrides else settings  # type: ignore[type-var]


@settings_class
class CopyPasteSettings:
    """How copy-paste chooses, jitters, places and blends objects.

    The defaults are those of "Simple Copy-Paste" (Ghiasi et al., CVPR 2021) where the paper gives one.
    """

    p: Fraction = 0.5
    """Probability that an image receives objects."""

    stop: Time | None = None
    """From this time of the training on nothing is pasted: "10ep", "500ba", "90%dur" or "0.9dur" (of its duration);
    None: never. Detectors are now trained with strong augmentation off at the end. A batch alone has no time:
    ``copypaste_batch`` takes no notice of it."""

    warmup: Time | None = None
    """``p`` rises linearly from 0 for so long from the training's start; None: it has its full value at once. As
    ``stop``, for trainings only."""

    max_copied_instances: Annotated[int | None, Ge(1)] = None
    """At most so many objects per image; None: up to all that the source has."""

    p_instance: Annotated[float | None, Ge(0), Le(1)] = None
    """Each object is copied with this probability; None: a number m uniform in 0..K, then m of the K objects, as in the
    code the paper's authors released."""

    jitter: Literal["image", "instance"] = "image"
    """One transform for the whole source image ("image", the paper), or one for each object ("instance")."""

    scale_range: ResizeRange | None = None
    """Resize factor. None: (0.1, 2.0), the paper's, or (1, 1) in a training whose images ``LargeScaleJitter`` has
    resized already. (0.8, 1.25) is the paper's standard jitter; (1, 1) is none, for images that a loader has jittered
    already."""

    scale_distribution: Literal["uniform", "log_uniform"] = "uniform"
    """How the resize factor is drawn: uniformly (the paper), or its logarithm is: then 0.5 is as likely as 2."""

    aspect_range: Annotated[tuple[AspectRatio, AspectRatio], ASCENDING] = (1.0, 1.0)
    """Resize factor of the width over that of the height, its logarithm drawn uniformly; the area is not changed by it.
    (1, 1): both alike."""

    p_flip: Annotated[float | None, Ge(0), Le(1)] = None
    """Probability that what is copied is flipped horizontally. None: 0.5, or 0 in a training whose images
    ``LargeScaleJitter`` has flipped already."""

    p_flip_vertical: Fraction = 0.0
    """Probability that what is copied is flipped vertically."""

    rotation: Annotated[float, Ge(0), Le(180)] = 0.0
    """Rotation of what is copied, up to so many degrees either way."""

    brightness: Fraction = 0.0
    """The colors of what is copied are multiplied by a factor from 1 - ``brightness`` to 1 + ``brightness``, drawn as
    often as the transform. For this and the next two, floating-point images lie in [0, 1]."""

    contrast: Fraction = 0.0
    """The same for differences from the object's mean grey."""

    saturation: Fraction = 0.0
    """The same for differences from each pixel's grey."""

    placement: Literal["source", "random", "anywhere"] = "source"
    """Where the jittered source has the object ("source", the paper), at random inside the image ("random"), or at
    random with its middle in the image and perhaps a part outside ("anywhere")."""

    max_overlap: Fraction = 1.0
    """An object gets a random place only where at most this fraction of its box is covered by boxes of the image's own
    objects; 1: anywhere. Decided from the boxes, so nothing waits for the device."""

    placement_tries: Annotated[int, Ge(1), Le(1000)] = 10
    """So many random places are tried for an object; it is left out where none will do."""

    erosion: Annotated[int, Ge(0), Le(50)] = 0
    """So many pixels are taken off the border of what is copied, after resizing: of its mask and its colors alike.
    ``min_visibility`` counts them as hidden."""

    blend_sigma: Annotated[float, Ge(0), Le(50)] = 0.0
    """Standard deviation, in pixels, of the Gaussian that softens the seam; 0: a hard seam (the paper's Table 10 finds
    no difference). Masks stay as they are: only colors blend."""

    min_visibility: Fraction = 0.0
    """An object stays when at least this fraction of its pixels is visible, counted to a thousandth of a pixel. Of a
    pasted object its pixels are those it has after resizing, before anything covers it; those beyond the image's edge
    count as hidden. At 0, when ``min_area`` is."""

    min_area: Annotated[int, Ge(1)] = 1
    """An object stays when at least so many of its pixels are visible."""

    categories: tuple[int | str, ...] | None = None
    """Names of the categories that may be copied; None: all. Python needs the data's names for it:
    ``category_names=[...]``, that of label 1 first."""

    category_weights: dict[int | str, Annotated[float, Ge(0), Le(1_000_000)]] | None = None
    """How often objects of a category are copied, relative to those not named, whose weight is 1: ``{"car": 5}`` for
    rare cars; 0: never. The m of K objects are drawn one after the other, each with a chance proportional to its weight
    among those left; ``p_instance`` is multiplied by the weight."""

    labels: tuple[int, ...] | None = None
    """As ``categories``, by labels as the model sees them: 1 is the category of the lowest id; of class-id maps they
    are the ids."""

    label_weights: dict[int, Annotated[float, Ge(0), Le(1_000_000)]] | None = None
    """As ``category_weights``, by such labels: ``{3: 5}``."""

    area_range: Annotated[tuple[Pixels, Pixels], ASCENDING] | None = None
    """Only objects whose mask has an area from so many to so many pixels are copied; None: all. It is the ``area`` that
    the targets give, as COCO's files do, and the number of the mask's pixels where they give none."""

    relative_area_range: Annotated[tuple[Fraction, Fraction], ASCENDING] | None = None
    """Only objects whose area, as of ``area_range``, is from this to this fraction of the source image's are copied;
    None: all."""

    bank_size: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """So many objects, the last ones seen, are remembered, cropped, on the device of the batch; their images are
    sources like the other images of the batch, so that small batches, also of one image, get varied ones. 0: none. At
    most bank_size x (channels x bytes per value + 1) bytes for each pixel of the largest object's box, with a margin
    of one pixel, and the object's other fields. ``copypaste_batch`` takes a ``bank`` instead."""

    p_pool: Fraction = 0.5
    """Probability that an image which receives objects receives cut-outs of the pool, where one is given, instead of
    another image's objects."""

    pool_instances: Annotated[tuple[PoolCount, PoolCount], ASCENDING] = (1, 5)
    """It then receives from so many to so many, but at most ``max_copied_instances``: for each a category is drawn by
    ``category_weights``, 1 for each by default, then one of its cut-outs. Each is jittered on its own and put at random
    inside, or by ``placement`` "anywhere". ``relative_area_range`` is relative to the image it is cut from."""

    pool_scale_range: ResizeRange = (0.1, 2.0)
    """Resize factor of cut-outs of the pool, which ``scale_range`` does not change: no loader has jittered them."""

    keypoint_pairs: KeypointPairs | None = None
    """Pairs of keypoints, counted from 0, that are exchanged when an object is mirrored, such as ((1, 2), (3, 4)) for
    eyes and ears: the left eye of the mirrored object is what was its right one. None: COCO's of a person where there
    are 17 keypoints, else none, with a warning; (): none. ``keypoint_pairs(names)`` makes them from names."""

    object_keys: tuple[str, ...] = ()
    """Detection targets only: further keys whose tensors have a row for each object, which is copied and dropped with
    it. The keys of torchvision and COCO, such as ``scores``, ``id`` and ``track_id``, are known; any other key passes
    through, whatever its length."""

    background: int = 0
    """Semantic targets only: the class id that is no object."""

    ignore_index: int | None = 255
    """Semantic targets only: the class id of unlabelled pixels, which are never copied."""

    def __post_init__(self) -> None:
        for by_name, by_label in (("categories", "labels"), ("category_weights", "label_weights")):
            if getattr(self, by_name) is not None and getattr(self, by_label) is not None:
                raise ValueError(f"{by_label}: expected None beside {by_name}, which says the same by names, got both")
        if self.max_overlap < 1 and self.placement == "source":
            raise ValueError(
                'max_overlap: expected 1 with placement "source", which moves no object away, got '
                f'{self.max_overlap}; set placement to "random" or "anywhere"'
            )

    @property
    def scale_range_or_default(self) -> tuple[float, float]:
        """``scale_range``, or the paper's where none is given."""
        return (0.1, 2.0) if self.scale_range is None else self.scale_range

    @property
    def p_flip_or_default(self) -> float:
        """``p_flip``, or the paper's where none is given."""
        return 0.5 if self.p_flip is None else self.p_flip


@settings_class
class ImageSettings:
    """How the files of images are read."""

    value_range: ValueRange | None = None
    """Which values become black and white, 0 and 255, in files of more than 8 bits for each value: [0, 4095] for 12-bit
    data in 16-bit files. What lies between is scaled, what lies beyond is clipped. None: 0 and 65535, those of 16 bits;
    data of less, floating-point pixels and negative ones are refused."""

    max_megapixels: Megapixels = 178.0
    """Larger images are refused; decoded, a megapixel takes 3 MB, and 1 MB more for each object's mask."""


@settings_class
class LargeScaleJitterSettings:
    """Large-scale jitter (Ghiasi et al., 2021): resize by a random factor, then crop or pad to a fixed size."""

    size: tuple[CanvasSide, CanvasSide] = (1024, 1024)
    """Height and width, in pixels, of every image that comes out."""

    scale_range: ResizeRange = (0.1, 2.0)
    """Resize factor, drawn uniformly, relative to the largest size that fits ``size``. (0.8, 1.25) is the paper's
    standard jitter."""

    p_flip: Fraction = 0.5
    """Probability of a horizontal flip."""

    min_area: Annotated[int, Ge(1), Le(1_000_000_000)] = 1
    """An object stays when at least so many of its pixels are left in the image; a crowd while one is."""

    keypoint_pairs: KeypointPairs | None = None
    """Pairs of keypoints, counted from 0, that are exchanged when an image is mirrored. As for copy-paste."""

    object_keys: tuple[str, ...] = ()
    """Detection targets only: further keys whose tensors have a row for each object, which stays or is dropped
    with it. As for copy-paste: known ones need no naming, and any other key passes through."""

    ignore_index: int = 255
    """Semantic targets only: the class id of what lies beyond the image."""


@settings_class
class ShapesSettings:
    """The drawn data set: where it lies and what is drawn."""

    folder: str = "data/shapes"
    """Where it is drawn the first time and read from later."""

    train: Annotated[int, Ge(1), Le(100_000)] = 512
    """Images to train on."""

    val: Annotated[int, Ge(1), Le(100_000)] = 128
    """Images to evaluate on."""

    size: Annotated[int, Ge(32), Le(2048)] = 128
    """Height and width of an image, in pixels."""

    seed: Annotated[int, Ge(0)] = 0
    """The same seed draws the same bytes."""


@settings_class
class MaskRCNNSettings:
    """Which Mask R-CNN is built, where its weights come from, and how it trains and detects."""

    backbone: Literal[
        "resnet18", "resnet34", "resnet50", "resnet50_v2", "resnet101", "resnet152", "mobilenet_v3_large", "small"
    ] = "resnet50"
    """What computes the feature pyramid. "resnet50" is torchvision's ``maskrcnn_resnet50_fpn``, "resnet50_v2" its
    ``maskrcnn_resnet50_fpn_v2``. "small" is a network for images of about 128 pixels that a CPU trains in minutes."""

    weights: str = "none"
    """Where training starts: "none" (random), "imagenet" (the backbone) or "coco" (everything), which torchvision
    downloads once; a name of torchvision's, such as ``ResNet50_Weights.IMAGENET1K_V2``; or a file: the weights of a
    detector or of a backbone, or a Composer checkpoint."""

    trainable_backbone_layers: Annotated[int | None, Ge(0), Le(5)] = None
    """So many of the backbone's five parts train, counted from its last; None: 3 where weights are loaded, else all."""

    norm: Literal["batch", "frozen_batch", "group"] | None = None
    """Normalisation. "frozen_batch" keeps the statistics of the weights, "group" suits random weights and small
    batches. None: "group" for "small", else as torchvision: "frozen_batch" where weights are loaded, but "batch"
    without them and for "resnet50_v2"."""

    box_dropout: Annotated[float, Ge(0), Le(0.9)] = 0.0
    """Probability that a feature of the box head is dropped, before the box predictor."""

    mask_dropout: Annotated[float, Ge(0), Le(0.9)] = 0.0
    """Probability that a channel of the mask head is dropped, before the mask predictor."""

    anchor_sizes: tuple[Annotated[int, Ge(1), Le(8192)], ...] | None = None
    """Side of the anchors, in pixels of the resized image, for each of the pyramid's five levels. None: 32, 64, 128,
    256 and 512; a quarter of these for "small"."""

    min_size: Annotated[int | None, Ge(32), Le(8192)] = None
    """Images are resized so that the shorter side has so many pixels. None: 800; 128 for "small"."""

    max_size: Annotated[int | None, Ge(32), Le(8192)] = None
    """But the longer side has at most so many. None: five thirds of ``min_size``, as 1333 to 800."""

    resize_training: bool = True
    """Resize training images too; False where the loader gives them the size to train at (large-scale jitter)."""

    detections_per_image: Annotated[int, Ge(1), Le(100_000)] = 100
    """At most so many objects are detected in an image."""

    box_score_thresh: Fraction = 0.05
    """Detections of a lower score are left out. Exact COCO numbers need at most 0.05."""

    def __post_init__(self) -> None:
        if self.anchor_sizes is not None and len(self.anchor_sizes) != 5:
            raise ValueError(f"anchor_sizes: expected five, one for each level of the pyramid, got {self.anchor_sizes}")
        if self.min_size and self.max_size and self.min_size > self.max_size:
            raise ValueError(f"max_size: expected at least min_size, {self.min_size}, got {self.max_size}")
