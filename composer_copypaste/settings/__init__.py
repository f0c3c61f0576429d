"""The settings of every part, by which a recipe, a constructor and a function are the same.

Every name, default, unit and limit is written here only. A settings class is the constructor of its part, its section
of a recipe, and the documentation of both: the string below a field describes it, ``Annotated`` holds its limits.
"""

from composer_copypaste.settings.copy_paste import (
    DEFAULT_P_FLIP,
    DEFAULT_SCALE_RANGE,
    AugmentSettings,
    CopyPasteSettings,
    LargeScaleJitterSettings,
    OfflineCopyPasteSettings,
)
from composer_copypaste.settings.data import (
    POOL_MEGABYTES,
    ImageSettings,
    ShapesSettings,
)
from composer_copypaste.settings.kinds import (
    DURATION,
    ROTATED_BOXES,
    TIME,
    Duration,
    Fraction,
    GeometryKind,
    KeypointPairs,
    Megapixels,
    Time,
    ValueRange,
    parse_time,
    settings_from,
)
from composer_copypaste.settings.models import (
    BACKBONES,
    DETECTOR_TITLES,
    DETECTRON2_BACKBONES,
    TIMM,
    DetectorName,
    DetectorSettings,
    ExportSettings,
    MaskRCNNSettings,
    PredictSettings,
)

__all__ = [
    "BACKBONES",
    "DEFAULT_P_FLIP",
    "DEFAULT_SCALE_RANGE",
    "DETECTOR_TITLES",
    "DETECTRON2_BACKBONES",
    "DURATION",
    "POOL_MEGABYTES",
    "ROTATED_BOXES",
    "TIME",
    "TIMM",
    "AugmentSettings",
    "CopyPasteSettings",
    "DetectorName",
    "DetectorSettings",
    "Duration",
    "ExportSettings",
    "Fraction",
    "GeometryKind",
    "ImageSettings",
    "KeypointPairs",
    "LargeScaleJitterSettings",
    "MaskRCNNSettings",
    "Megapixels",
    "OfflineCopyPasteSettings",
    "PredictSettings",
    "ShapesSettings",
    "Time",
    "ValueRange",
    "parse_time",
    "settings_from",
]
