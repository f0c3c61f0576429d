"""The settings of copy-paste, of offline data sets made by it, and of large-scale jitter."""

from collections.abc import Mapping
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from composer_copypaste.files import expand_home
from composer_copypaste.object_transform import AsObjectTransform
from composer_copypaste.scene_maps import AsMap, AsPolygons
from composer_copypaste.settings.idle import (
    OF_AUGMENT,
    OF_COPY_PASTE,
    OF_LARGE_SCALE_JITTER,
    SCENE,
    check_not_idle,
)
from composer_copypaste.settings.kinds import (
    ASCENDING,
    AspectRatio,
    CanvasSide,
    Duration,
    Fraction,
    FractionRange,
    GeometryKind,
    KeypointPairs,
    Pixels,
    PoolCount,
    ResizeRange,
    Sigma,
    SigmaRange,
    Time,
)
from composer_copypaste.validation import Check, settings_class

DEFAULT_SCALE_RANGE = (0.1, 2.0)
"""The paper's large-scale jitter, used where ``scale_range`` is None."""
DEFAULT_P_FLIP = 0.5
"""The paper's probability, used where ``p_flip`` is None."""


@settings_class
class CopyPasteSettings:
    """How copy-paste chooses, jitters, places and blends objects.

    The defaults are those of "Simple Copy-Paste" (Ghiasi et al., CVPR 2021) where the paper gives one.
    """

    p: Fraction = 0.5
    """Probability that objects are drawn for an image. ``p_instance`` says how many are: by default any number from
    none to all of the source's objects, so with one object per image only half of the draws paste one."""

    stop: Time | None = None
    """Nothing is pasted from this time of the training on: "10ep", "500ba", "90%dur" or "0.9dur" (of the training's
    duration). None: copy-paste never stops. Detectors are often trained with strong augmentation switched off at the
    end. Only trainings use it: ``copypaste_batch`` ignores it in ``settings``, and refuses it by name."""

    warmup: Time | None = None
    """``p`` rises linearly from 0 during this time at the training's start. None: ``p`` has its full value at once.
    Only trainings use it, as ``stop``."""

    max_copied_instances: Annotated[int | None, Ge(1)] = None
    """At most this many objects are copied to an image. None: up to all objects of the source."""

    p_instance: Annotated[float | None, Ge(0), Le(1)] = None
    """Each object is copied with this probability. None: a number m is drawn uniformly from 0 to K, then m of the
    source's K objects, as in the code that the paper's authors released."""

    jitter: Literal["image", "instance"] = "image"
    """One transform for the whole source image ("image", the paper), or one for each object ("instance")."""

    scale_range: ResizeRange | None = None
    """Resize factor. None: (0.1, 2.0), as in the paper, or (1, 1) in a training whose images ``LargeScaleJitter`` has
    resized already. (0.8, 1.25) is the paper's standard jitter. (1, 1) does not resize: for images that a loader has
    jittered already."""

    scale_distribution: Literal["uniform", "log_uniform"] = "uniform"
    """Whether the resize factor is drawn uniformly (the paper), or its logarithm is, which makes 0.5 as likely as 2."""

    aspect_range: Annotated[tuple[AspectRatio, AspectRatio], ASCENDING] = (1.0, 1.0)
    """The width's resize factor divided by the height's; its logarithm is drawn uniformly. The area does not depend on
    it. (1, 1): both are resized alike."""

    p_flip: Annotated[float | None, Ge(0), Le(1)] = None
    """Probability that what is copied is flipped horizontally. None: 0.5, or 0 in a training whose images
    ``LargeScaleJitter`` has flipped already, unless images are their own ``source``."""

    p_flip_vertical: Fraction = 0.0
    """Probability that what is copied is flipped vertically."""

    rotation: Annotated[float, Ge(0), Le(180)] = 0.0
    """What is copied is rotated by up to this many degrees in either direction."""

    brightness: Fraction = 0.0
    """The colors of a pasted object are multiplied by a factor from 1 - ``brightness`` to 1 + ``brightness``, drawn
    with its transform: once for the source image or for each object, see ``jitter``. With ``brightness``, ``contrast``
    or ``saturation``, floating-point images must lie in [0, 1]."""

    contrast: Fraction = 0.0
    """Differences from the object's mean grey are multiplied by a factor, drawn in the same way."""

    saturation: Fraction = 0.0
    """Differences of each color from its pixel's grey are multiplied by a factor, drawn in the same way."""

    source: Literal["batch", "self", "both"] = "batch"
    """Where the objects come from that an image receives: from another image of the batch ("batch"), from the image
    itself, mirrored, resized or moved ("self"), or from any image of the batch, itself included ("both"). So a batch of
    one image receives objects too. A copy that would lie exactly on its original is left out."""

    placement: Literal["source", "near", "random", "anywhere"] = "source"
    """Where an object is pasted: where it lies in the jittered source ("source", the paper), near the place that it has
    in the source ("near", as InstaBoost moves objects), at a random place inside the image ("random"), or at a random
    place with its centre inside the image, where a part of it may be cut off ("anywhere")."""

    max_shift: Annotated[float, Ge(0), Le(10)] = 0.5
    """With ``placement`` "near": how far an object's centre is moved at most, to either side in widths of the pasted
    object's box, up or down in its heights."""

    max_overlap: Fraction = 1.0
    """The largest fraction of a pasted object, as far as it is inside the image, that may lie on the image's own
    objects. 1: no limit. With ``placement`` "source" an object that exceeds it is left out; else other places are
    tried."""

    overlap_by: Literal["box", "mask"] = "box"
    """How that fraction is measured: by boxes ("box"), which the host knows, or by the pixels of masks ("mask"), which
    waits for the device once per image, and once more whenever places are tried anew."""

    least_overlap_first: bool = False
    """Whether the objects with the least overlap are copied, in place of objects drawn by weight; how many is drawn all
    the same, up to ``max_copied_instances``. Each is put at the place with the least overlap of those that are
    tried."""

    placement_tries: Annotated[int, Ge(1), Le(1000)] = 10
    """The number of random places that are tried for an object where overlaps matter. It is left out where none of them
    meets ``max_overlap``."""

    place_region: AsPolygons | None = None
    """Objects are put only where a point of theirs, see ``place_point``, lies in this polygon, or in one of several:
    [[0, 0.5], [1, 0.5], [1, 1], [0, 1]] is the lower half. Points are (x, y), in fractions of the image that receives
    the object, as ``LargeScaleJitter`` leaves it. For this setting and the next four ``placement`` is "random" or
    "anywhere", and an object is left out after ``placement_tries`` places that do not fit."""

    place_map: AsMap | None = None
    """How likely an object's point is to be at each place: a map of numbers of 0 or more, of any size, stretched over
    the image. In Python an array (h, w); in YAML the path of a .npy or grey .png file, or rows of numbers."""

    place_key: str | None = None
    """Detection targets only: the key under which each target has a map or a mask (h, w) of its own, or a list of
    polygons, each of points (x, y) in pixels. It holds for its image, together with ``place_region`` and
    ``place_map``."""

    place_point: Literal["centre", "bottom"] = "centre"
    """The point of an object that region, map, key and scale refer to: the middle of its box ("centre"), or the middle
    of the box's lowest row, where an object stands on the ground ("bottom")."""

    vanishing_line: Annotated[float | None, Ge(-100), Le(0.99)] = None
    """For images of one camera: the height of the horizon, from 0, the image's top, to 1, its bottom. An object's size
    follows the distance of its point from this line, in the image that it is copied from and in the one that receives
    it. What lies above the line is not copied, and nothing is put there. Cut-outs of a pool, and their
    ``pool_scale_range``, have their size at the bottom. Sizes change by a factor of 0.01 to 10."""

    scale_map: AsMap | None = None
    """How large objects are at each place, in any unit, as a map like ``place_map``: in place of ``vanishing_line``
    where sizes do not follow a line. 0: objects there are not copied, and none is put there. Cut-outs have their size
    where the map is largest."""

    erosion: Annotated[int, Ge(0), Le(50)] = 0
    """This many pixels are removed from the border of what is copied, after resizing, from its mask as from its colors.
    ``min_visibility`` counts them as hidden."""

    object_transform: AsObjectTransform | None = None
    """A transform of your own for each pasted object, on its device, before it is resized: any of torchvision's v2
    transforms, or a function, called with a cut-out's colors, a ``tv_tensors.Image``, and its alpha, a
    ``tv_tensors.Mask`` (1, h, w) of 0 and 255. It returns both, of any common size. Pixels with an alpha of 127 or less
    afterwards do not belong to the object. In YAML it is given by where it is found, "package.module:name", also in the
    current folder. What it draws from torch's random numbers is repeated when a plan is. Overlaps are computed before
    it is applied, and keypoints do not follow it. It takes its own time and about as long as ``blend_sigma``."""

    color_transfer: Literal["reinhard", "histogram"] | None = None
    """Colors of each pasted object become like those around it. "reinhard": their mean and deviation in CIELAB, after
    Reinhard et al. (2001); deviations change by a factor of 0.5 to 2 at most; for RGB. "histogram": the distribution of
    each channel. The colors around an object are those of the image that receives it, before anything was pasted, in a
    box twice as wide and high as the object's (or 8 pixels larger on each side, if that is more), outside of the
    object; where there are none, those it covers. Floating-point images must lie in [0, 1]. Brightness, contrast and
    saturation are changed afterwards. Masks do not change. On a CPU, copy-paste takes about 26 times ("reinhard") or 14
    times ("histogram") as long as with neither."""

    transfer_strength: FractionRange | Fraction = 0.5
    """How far colors move towards those that ``color_transfer`` gives, from 0, unchanged, to 1, where a red fruit on a
    white cloth becomes white; or a range, such as (0, 0.7), from which it is drawn for each object."""

    blend_sigma: SigmaRange | Sigma = 0.0
    """Standard deviation, in pixels, of the Gaussian that softens the seam; or a range, such as (0, 3), from which it
    is drawn for each object. 0: a hard seam (the paper's Table 10 finds no difference). Only colors are blended; masks
    do not change. On a CPU, copy-paste takes about 4 times as long with a soft seam."""

    blend_mode: Literal["alpha", "poisson"] = "alpha"
    """How an object is blended with the image. "alpha": it is painted over it, with a seam as ``blend_sigma`` says.
    "poisson": in the gradient domain (Pérez et al. 2003) it keeps its contrasts, also those to what is up to 2 pixels
    around it, and takes its level from the image that receives it, as that was before anything was pasted. A solver
    takes 12 steps, which differ from the exact solution by less than 1/1000 of the largest change. Cut-outs of images
    with transparency, which show nothing around them, are painted over. Floating-point images must lie in [0, 1]. Masks
    do not change. On a CPU, "poisson" takes about 180 times as long as "alpha": 20 ms for an object."""

    min_visibility: Fraction = 0.0
    """An object is kept if at least this fraction of its pixels is visible, counted to a thousandth of a pixel. The
    pixels of a pasted object are those it has after resizing, before anything covers it; pixels beyond the image's edge
    count as hidden. 0: ``min_area`` decides alone."""

    min_area: Annotated[int, Ge(1)] = 1
    """An object is kept if at least this many of its pixels are visible."""

    categories: tuple[int | str, ...] | None = None
    """Names of the categories that may be copied. None: all. In Python, ``category_names=[...]`` gives the names of the
    data's categories, first that of label 1."""

    category_weights: (
        dict[int | str, Annotated[float, Ge(0), Le(1_000_000)]] | Literal["inverse_frequency", "repeat_factor"] | None
    ) = None
    """How often objects of a category are copied: ``{"car": 5}`` for rare cars; 0: never. Categories that are not named
    have weight 1. The m of K objects are drawn one after the other, each with a chance proportional to its weight among
    those left. ``p_instance`` is multiplied by the weight. Or weights that are counted in the training data, so that
    rare categories are copied more often: "inverse_frequency", the number of objects of the most frequent category
    divided by the category's own; "repeat_factor", that of LVIS, max(1, sqrt(``repeat_threshold`` / f)) where f is the
    fraction of images that have the category. In Python, ``rare_category_weights(annotations)`` counts them."""

    repeat_threshold: Annotated[float, Gt(0), Le(1)] = 0.001
    """With ``category_weights`` "repeat_factor": categories in fewer than this fraction of the images are rare. 0.001
    is LVIS's; of data sets with few categories larger ones make sense."""

    labels: tuple[int, ...] | None = None
    """The same as ``categories``, by label. Labels are the model's: 1 is the category of the lowest id. In class-id
    maps the ids are the labels."""

    label_weights: dict[int, Annotated[float, Ge(0), Le(1_000_000)]] | None = None
    """The same as ``category_weights``, by label: ``{3: 5}``."""

    area_range: Annotated[tuple[Pixels, Pixels], ASCENDING] | None = None
    """Only objects whose mask has an area in this range, in pixels, are copied. None: all. The area is the targets'
    ``area``, as in COCO's files, or the number of the mask's pixels where targets have none."""

    relative_area_range: Annotated[tuple[Fraction, Fraction], ASCENDING] | None = None
    """Only objects whose area is in this range, as a fraction of the source image's area, are copied. None: all. The
    area is that of ``area_range``."""

    bank_size: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """This many of the last objects seen are kept as crops, on the device of the batch. Their images are sources like
    the other images of the batch, so that small batches, even of one image, have varied sources. 0: none. Memory: at
    most ``bank_size`` x (channels x bytes per value + 1) bytes for each pixel of the largest object's box, with a
    margin of one pixel, and the objects' other fields. ``copypaste_batch`` takes a ``bank`` instead."""

    p_pool: Fraction = 0.5
    """Where a pool of cut-outs is given: the probability that an image that receives objects receives the pool's cut-
    outs instead of another image's objects."""

    pool_instances: Annotated[tuple[PoolCount, PoolCount], ASCENDING] = (1, 5)
    """The smallest and largest number of cut-outs that an image receives, but at most ``max_copied_instances``. For
    each, a category is drawn by ``category_weights`` (1 by default), then one of its cut-outs. Each is jittered on its
    own and put at a random place inside the image, or by ``placement`` "anywhere". ``relative_area_range`` is relative
    to the image that a cut-out was cut from."""

    pool_scale_range: ResizeRange = (0.1, 2.0)
    """Resize factor of the pool's cut-outs. ``scale_range`` does not apply to them, since no loader has jittered
    them."""

    keypoint_pairs: KeypointPairs | None = None
    """Pairs of keypoints, counted from 0, that are exchanged when an object is mirrored, such as ((1, 2), (3, 4)) for
    eyes and ears: the mirrored object's left eye is what was its right eye. None: the pairs of COCO's person where
    there are 17 keypoints, else none, with a warning. (): none. ``keypoint_pairs(names)`` makes them from names."""

    histogram_interval: Duration | None = None
    """Time between training batches, beginning with the first, of which the sizes and visible shares of all objects are
    logged: a table and an image of histograms, medians and means. None: never, and nothing is counted for it. Used in
    trainings; ``copypaste_batch(..., return_info=True)`` gives the numbers."""

    object_keys: tuple[str, ...] = ()
    """Detection targets only: other keys whose tensors have one row per object, which is copied and dropped with the
    object. The keys of torchvision and COCO, such as ``scores``, ``id`` and ``track_id``, need not be named. Any other
    key passes through, whatever its length, unless it looks like positions: see ``geometry``."""

    geometry: dict[str, GeometryKind] | None = None
    """Detection targets only: keys of floating-point tensors with a row per object that hold positions, and what they
    are; they move with their objects. "obb_radians": rotated boxes (n, 5) of centre x, y, width, height and angle,
    clockwise on the screen in radians, as Ultralytics has them; "obb_degrees": counter-clockwise in degrees, as
    Detectron2 and torchvision (CXCYWHR) have them; the angle of a mirrored one lies within a quarter turn of 0;
    "corners": their four corners (n, 8) or (n, 4, 2); "polygons": outlines (n, k, 2); "points": (n, k, 2) or (n, 2),
    which have no left and right. Tensors with a row per object of shape (n, 4), (n, 5) or (n, k, 2) that are neither
    declared nor named in ``object_keys`` are refused."""

    hidden_geometry: Literal["visible", "whole"] = "visible"
    """What becomes of the geometry of objects that are partly hidden or cut off. "visible": a rotated box becomes the
    smallest one around the visible pixels; a polygon becomes NaN, since it is no outline any more, and so do hidden
    points. "whole": they move unchanged, as they do in any case where targets have no masks."""

    keep_masks: bool = True
    """Detection targets only: whether targets come back with their masks. False: masks decide what is pasted, and are
    left out afterwards, for a detector that is trained by boxes, which stay exact. Trainings of such a detector always
    leave them out."""

    background: int = 0
    """Class-id maps only: the id that is no object."""

    ignore_index: int | None = 255
    """Class-id maps only: the id of unlabelled pixels, which are never copied."""

    def __post_init__(self) -> None:
        if self.geometry and self.bank_size:
            raise ValueError("geometry: expected None with a bank, whose crops keep only keypoints; set bank_size to 0")
        for by_name, by_label in (("categories", "labels"), ("category_weights", "label_weights")):
            if getattr(self, by_name) is not None and getattr(self, by_label) is not None:
                raise ValueError(f"{by_label}: expected None where {by_name} is given, which says the same by name")
        for name in SCENE:
            if getattr(self, name) is not None and self.placement not in ("random", "anywhere"):
                raise ValueError(f'{name}: needs placement "random" or "anywhere", got {self.placement!r}')
        check_not_idle(self, OF_COPY_PASTE)
        self._check_colors()
        if self.source == "self":
            self._check_own_source()

    def _check_colors(self) -> None:
        if self.object_transform is not None:
            if self.geometry:
                raise ValueError("geometry: expected None with an object_transform, which positions would not follow")
            if self.blend_mode == "poisson":
                raise ValueError(
                    'object_transform: expected None with blend_mode "poisson", which needs what is around an object'
                )
        if self.blend_mode == "poisson" and self.blend_sigma != 0:
            raise ValueError(
                f'blend_sigma: expected 0 with blend_mode "poisson", which leaves no seam, got {self.blend_sigma}'
            )

    def _check_own_source(self) -> None:
        if self.bank_size:
            raise ValueError(
                f'bank_size: expected 0 with source "self", which copies no object of earlier batches, '
                f'got {self.bank_size}; source "both" does'
            )
        stays = self.placement == "source" or (self.placement == "near" and self.max_shift == 0)
        still = {"scale_range": (1, 1), "p_flip": 0, "p_flip_vertical": 0, "rotation": 0, "aspect_range": (1, 1)}
        if stays and all(getattr(self, name) == value for name, value in still.items()):
            raise ValueError(
                'source: with "self" every copy would lie exactly on its original; set p_flip, scale_range, '
                "rotation or placement"
            )

    @cached_property
    def has_scene(self) -> bool:
        """Whether places depend on what an image shows where."""
        return any(getattr(self, name) is not None for name in SCENE)

    @property
    def compares_overlaps(self) -> bool:
        """Whether anything depends on how much of an object lies on the image's own objects."""
        return self.max_overlap < 1 or self.least_overlap_first

    @property
    def fits_colors(self) -> bool:
        """Whether the colors of pasted objects depend on those around them."""
        return self.color_transfer is not None or self.blend_mode == "poisson"

    def after_jitter(self) -> "CopyPasteSettings":
        """These settings for images that large-scale jitter has resized and flipped: neither again, unless given."""
        return replace(
            self,
            scale_range=(1.0, 1.0) if self.scale_range is None else self.scale_range,
            p_flip=0.0 if self.p_flip is None and self.source == "batch" else self.p_flip,
        )


@settings_class
class OfflineCopyPasteSettings(CopyPasteSettings):
    """Copy-paste for an offline data set: as for copy-paste in a training, but every new image receives objects."""

    p: Fraction = 1.0
    """Probability that a new image receives objects. Below 1, some new images are copies of their base image."""

    OF_TRAININGS: ClassVar[Mapping[str, object]] = {
        "stop": None,
        "warmup": None,
        "bank_size": 0,
        "keep_masks": True,
        "histogram_interval": None,
        "place_key": None,
    }
    """Keys of trainings only, and the one value that each has here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, of_no_training in self.OF_TRAININGS.items():
            if getattr(self, name) != of_no_training:
                raise ValueError(
                    f"{name}: expected {of_no_training}, as it is for trainings only, got {getattr(self, name)!r}"
                )


@settings_class
class AugmentSettings:
    """An offline data set: which new images are made of a data set, by copy-paste, and how they are written."""

    per_image: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of new images made of each base image, each with other objects."""

    fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    """The fraction of the base images of which new images are made, drawn by ``seed``."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """The same seed makes the same files, to the byte."""

    backgrounds: Annotated[Path, Check(expand_home)] | None = None
    """Folder of images without annotations, of any size, which are the base images. None: the data set's own are."""

    originals: Literal["keep", "link", "omit"] = "keep"
    """Whether the new data set has the original images too: copies of their files ("keep"), hard links to them, or
    symbolic ones where the disk is another ("link"), or not ("omit")."""

    format: Literal["jpeg", "png"] = "jpeg"
    """The format of the new images' files."""

    quality: Annotated[int, Ge(1), Le(100)] = 95
    """The quality of JPEG files."""

    masks: Literal["polygons", "rle"] = "polygons"
    """How new masks are written: as polygons that cover the same pixels, or as run lengths where a mask has holes,
    which COCO's polygons cannot say ("polygons"), or all as run lengths ("rle")."""

    copy_paste: OfflineCopyPasteSettings = field(default_factory=OfflineCopyPasteSettings)
    """How objects are chosen, jittered, placed and blended."""

    def __post_init__(self) -> None:
        check_not_idle(self, OF_AUGMENT)
        if self.backgrounds is not None and self.copy_paste.source == "self":
            raise ValueError('copy_paste.source: expected "batch" or "both" with backgrounds, which have no objects')


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
    """An object is kept if at least this many of its pixels are inside the image; a crowd if any are."""

    keypoint_pairs: KeypointPairs | None = None
    """Pairs of keypoints, counted from 0, that are exchanged when an image is mirrored, as for copy-paste."""

    object_keys: tuple[str, ...] = ()
    """Detection targets only: other keys whose tensors have one row per object, which is dropped with the object, as
    for copy-paste."""

    geometry: dict[str, GeometryKind] | None = None
    """Detection targets only: keys that hold positions, and what they are, as for copy-paste."""

    hidden_geometry: Literal["visible", "whole"] = "visible"
    """What becomes of the geometry of objects that are cut at the edge, as for copy-paste."""

    ignore_index: int = 255
    """Class-id maps only: the id of the padding beyond the image."""

    def __post_init__(self) -> None:
        check_not_idle(self, OF_LARGE_SCALE_JITTER)
